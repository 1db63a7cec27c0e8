"""The license follows the weights: that of the tag, the repository or the run that they started from."""

import json

import pytest
import timm
from huggingface_hub import ModelCard
from safetensors.torch import save
from timm.models import get_pretrained_cfg

from tests.support.card_runs import change_config, copy_run, train_run
from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.hub import check_card, write_card
from timm_asap.hub.cards.base_model import find_origin
from timm_asap.hub.cards.metadata import choose_license, states_license

TAG = "test_resnet.r160_in1k"


def front_matter(run, license=None):
    text = write_card(run, license).read_text()
    check_card(text)
    return ModelCard(text).data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("licenses"), "run", "test_resnet_asap")


@pytest.fixture
def run(trained, tmp_path):
    return copy_run(trained, tmp_path)


def test_a_fine_tuned_tag_and_what_follows_it(hub, tmp_path):
    cfg = get_pretrained_cfg(TAG)
    config = {"architecture": cfg.architecture, "num_classes": 1000, "pretrained_cfg": {"tag": cfg.tag}}
    weights = save(timm.create_model("test_resnet").state_dict())
    hub.add_repo(cfg.hf_hub_id, {"model.safetensors": weights, "config.json": json.dumps(config)})
    tuned = train_run(tmp_path, "tuned", f"test_resnet_asap.{TAG.partition('.')[2]}", "--pretrained")
    data = front_matter(tuned)
    assert (data.license, data.base_model, data.base_model_relation) == ("apache-2.0", cfg.hf_hub_id, "finetune")
    link = f"[{cfg.hf_hub_id}](https://huggingface.co/{cfg.hf_hub_id})"
    assert f"They started from {link}, and keep its license" in (tuned / "README.md").read_text()

    words = [
        "--dataset",
        "idx",
        "--data-dir",
        str(tmp_path / "idx"),
        "--output",
        str(tmp_path / "healed"),
        "--limit",
        "64",
    ]
    assert main(["heal", str(tuned), *words]) == 0
    data = front_matter(tmp_path / "healed")
    assert (data.license, data.base_model) == ("apache-2.0", cfg.hf_hub_id)
    text = (tmp_path / "healed" / "README.md").read_text()
    healing = json.loads((tmp_path / "healed" / "heal.json").read_text())
    assert f"| idx | test | before healing | 20 | {healing['accuracy']['before']:.2f} |" in text
    assert f"| idx | test | these weights | 20 | {healing['accuracy']['healed']:.2f} |" in text
    assert data.eval_results[0].metric_value == round(healing["accuracy"]["healed"], 2)
    assert f"`tuned` (which started from {link})" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("model", "kwargs", "expected"),
    [
        ("resnet50_asap", {}, ("apache-2.0", None, "timm/resnet50.a1_in1k", "resnet50.a1_in1k")),
        ("resnet50.fb_swsl_ig1b_ft_in1k", {}, ("cc-by-nc-4.0", None, "timm/resnet50.fb_swsl_ig1b_ft_in1k", None)),
        ("fastvit_t8_asap.apple_in1k", {}, ("other", "fastvit-license", "timm/fastvit_t8.apple_in1k", None)),
        ("hf-hub:you/net@main", {}, ("other", "that-of-you-net", "you/net", "you/net")),
        ("local-dir:/gone/Net", {}, ("other", "that-of-net", None, "Net")),
        (
            "test_resnet",
            {"checkpoint_path": "/gone/x.pth"},
            ("other", "that-of-the-weights-that-checkpoint-path-names", None, None),
        ),
    ],
)
def test_what_is_known_of_an_origin(run, model, kwargs, expected):
    change_config(run, model=model, pretrained=not kwargs, model_kwargs=kwargs)
    data = front_matter(run)
    license, name, base, shown = expected
    assert (data.license, data.license_name, data.base_model) == (license, name, base)
    text = (run / "README.md").read_text()
    assert "Started from the weights of" in text
    assert "/gone" not in text
    if shown is not None:
        assert shown in text
    if license == "other" and base is not None:
        assert data.license_link == f"https://huggingface.co/{base}"


def test_an_unknown_license_is_never_a_default(run):
    change_config(run, model="hf-hub:you/net", pretrained=True)
    write_card(run)
    assert front_matter(run).license == "other"
    assert front_matter(run, "bsd-3-clause").license == "bsd-3-clause"
    assert front_matter(run).license == "bsd-3-clause"


def test_the_license_of_a_tag_cannot_be_changed(run):
    change_config(run, model="resnet50.fb_swsl_ig1b_ft_in1k", pretrained=True)
    before = (run / "README.md").read_text()
    with pytest.raises(UserError, match=r"--license mit: these weights .* is under cc-by-nc-4.0 \(timm\)"):
        write_card(run, "mit")
    assert (run / "README.md").read_text() == before
    assert front_matter(run).license == "cc-by-nc-4.0"


def test_a_tag_that_only_names_the_architecture_is_no_origin():
    assert find_origin("resnet50.a1_in1k", pretrained=False) is None
    assert choose_license(None, None, None).id == "mit"


def test_a_run_hands_its_license_on(trained, run, tmp_path):
    write_card(run, "cc-by-4.0")
    heir = copy_run(trained, tmp_path / "heir")
    change_config(heir, model=f"local-dir:{run}", pretrained=True)
    data = front_matter(heir)
    assert (data.license, data.base_model) == ("cc-by-4.0", None)


@pytest.mark.parametrize(
    ("source", "stated"),
    [
        ("Digits (CC BY 4.0), 8 x 8", True),
        ("Fashion-MNIST (arXiv:1708.07747, MIT license), 28 x 28", True),
        ("Fashion-MNIST (arXiv:1708.07747, MIT licence), 28 x 28", True),  # as older runs recorded it
        ("https://huggingface.co/datasets/a/b, license mit", True),
        ("https://huggingface.co/datasets/a/b, license not stated", False),
        ("images of the folder cats", False),
    ],
)
def test_whether_the_license_of_data_is_stated(source, stated):
    assert states_license(source) is stated
