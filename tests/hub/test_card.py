"""The model card: typed front matter that parses back, numbers that are those of the records, code that runs."""

import json
import re
from email.message import Message

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.support.card_runs import change_config, change_json, copy_run, section, train_run
from timm_asap.data.images import decode_image
from timm_asap.errors import UserError
from timm_asap.hub import check_card, write_card


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    base = tmp_path_factory.mktemp("card")
    return train_run(base, "run", "resnet20_lowres_asap", "--asap-window", "hamming", "--label-smoothing", "0.1")


@pytest.fixture
def run(twin, tmp_path):
    return copy_run(twin, tmp_path)


def card_of(run, **kwargs):
    return write_card(run, **kwargs).read_text()


def test_front_matter_parses_back(twin):
    text = (twin / "README.md").read_text()
    check_card(text)
    data = ModelCard(text).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert data.license == "mit"
    assert {"timm", "timm_asap", "anti-aliasing"} <= set(data.tags)
    assert data.metrics == ["accuracy"]
    assert data.model_name == "resnet20_lowres_asap.idx"
    assert data.base_model is None
    assert data.datasets is None
    (result,) = data.eval_results
    measured = json.loads((twin / "result.json").read_text())
    assert (result.task_type, result.dataset_type, result.dataset_name) == ("image-classification", "idx", "idx")
    assert result.dataset_split == "test"
    assert (result.metric_type, result.metric_name) == ("accuracy", "accuracy (percent), clean, 20 images")
    assert result.metric_value == round(measured["test_accuracy"], 2)
    assert isinstance(result.metric_value, float)


def test_numbers_are_those_of_the_records(run):
    change_json(run / "result.json", test_accuracy=45.0, test_loss=1.23456, epoch=7, chosen_by="a coin")
    line = json.loads((run / "metrics.jsonl").read_text()) | {"images_per_s": 7654.3, "seconds": 90.0}
    (run / "metrics.jsonl").write_text((json.dumps(line) + "\n") * 2)
    text = card_of(run)
    # Wilson's interval of 9 of 20, by the formula of Wilson (1927): center 0.4580538, half width 0.2001889
    assert "| idx | test | end of training | 20 | 45.00 | [25.82, 65.79] | 1.2346 |" in section(text, "Results")
    assert ModelCard(text).data.eval_results[0].metric_value == 45.0
    training = section(text, "Training")
    assert "3.0 minutes on" in training
    assert "7,654 images/s" in training
    assert "2 epochs, stopped early out of 1," in training
    assert "Weights of epoch 7, chosen by: a coin." in training


def test_says_what_it_is_and_how_it_was_made(twin):
    text = (twin / "README.md").read_text()
    facts = json.loads((twin / "run.json").read_text())
    assert "the alias-free twin of `resnet20_lowres`, trained on IDX files of the folder idx by" in text
    assert '`asap_window` = `"hamming"`' in section(text, "Model details")
    assert "- **Parameters:** 271,796" in text
    training = section(text, "Training")
    assert f"```\n{facts['command']}\n```" in training
    assert "64 training images of idx; 20 test images (test)" in training
    assert "`label_smoothing` 0.1" in training
    assert "Started from random weights." in training
    for package, version in facts["versions"].items():
        assert f"{package} {version}" in training
    assert "![Loss, accuracy and learning rate over the epochs](plots/learning_curves.png)" in training
    assert (twin / "plots" / "learning_curves.png").is_file()
    for cited in ("arXiv:2307.09804", "rw2019timm"):
        assert cited in section(text, "Citation")


def test_says_what_was_not_measured(twin):
    limits = section((twin / "README.md").read_text(), "Limits")
    assert "Robustness was not measured." in limits
    assert re.search(r"`timm-asap evaluate \S*run --dataset idx --data-dir idx`", limits)
    assert "The weights of one run, with seed 0: runs of other seeds end higher or lower" in limits


def test_the_python_in_it_runs(twin, monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers", reason="the dev extra installs it")
    monkeypatch.chdir(tmp_path)
    copy_run(twin, tmp_path)
    text = write_card("run").read_text()
    Image.new("L", (12, 12), 90).save("image.png")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    assert len(blocks) == 4
    capsys.readouterr()
    assert "ImageOps.expand(image, (10, 10, 10, 10))" in blocks[1]
    for block in blocks:
        names = {}
        exec(block, names)
        if "image" in names:
            assert names["image"].size == (32, 32)  # 12 x 12 in the frame that training put around it
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[0-3] 0\.\d+", printed[0])
    assert [f"torch.Size([1, {c}, {s}, {s}])" for c, s in ((16, 32), (32, 16), (64, 8))] == printed[2:5]
    assert "'label'" in printed[5]


def test_the_commands_in_it_parse(twin):
    from timm_asap.command_line import parse as parse_words
    from timm_asap.commands.export import ExportOptions
    from timm_asap.training import parse

    train, export = section((twin / "README.md").read_text(), "Fine-tune, export").split("```")[1].split("\n")[1:3]
    config = parse(train.split()[2:])
    assert config.pretrained
    assert config.model.startswith("local-dir:")
    assert parse_words(ExportOptions, export.split()[2:], prog="timm-asap export").onnx == "model.onnx"


def test_the_first_screen_says_how_good_it_is_and_how_to_load_it(twin):
    text = (twin / "README.md").read_text()
    body = text.split("-->\n", 1)[1].splitlines()
    first = "\n".join(body[: next(i for i, line in enumerate(body) if line.startswith("## "))])
    assert 'model = timm.create_model("local-dir:' in first
    accuracy = json.loads((twin / "result.json").read_text())["test_accuracy"]
    assert f"| accuracy on idx, test | 20 | **{accuracy:.2f}** | [" in first
    assert "](plots/learning_curves.png)" in first
    assert first.index("create_model") < first.index("accuracy on") < first.index("learning_curves")


def test_a_photograph_on_its_side_is_turned_as_in_training(twin, tmp_path, monkeypatch):
    """The card's lines, and an image whose EXIF says that it lies on its side."""
    monkeypatch.chdir(tmp_path)
    copy_run(twin, tmp_path)
    block = write_card("run").read_text().split("```python\n")[2].split("```")[0]
    assert "Image.open" in block
    picture = Image.new("L", (12, 12), 0)
    picture.paste(255, (0, 0, 12, 3))
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees to be upright
    picture.save("image.png", exif=exif)
    names = {}
    exec(block, names)
    shown = np.asarray(names["image"])
    assert shown[16, 20] == 255  # the bright edge is on the right
    assert shown[11, 16] == 0
    upright = decode_image({"bytes": None, "path": "image.png"}, "image.png")
    assert (shown[10:22, 10:22] == np.asarray(upright)).all()


def test_the_installation_is_from_a_source_that_is_named(run, monkeypatch):
    assert "```bash\npip install .   # in a checkout of timm_asap\n```" in card_of(run)
    assert "pip install timm_asap" not in card_of(run)
    about = Message()
    about["Project-URL"] = "Repository, https://git.example/timm_asap"
    monkeypatch.setattr("timm_asap.hub.card.metadata_of", lambda name: about)
    assert "```bash\npip install 'timm_asap @ git+https://git.example/timm_asap'\n```" in card_of(run)


def test_settings_of_the_other_kind_of_images_are_left_out(run):
    change_config(run, crop_padding=4, color_jitter=0.1)
    training = section(card_of(run), "Training")
    assert "`crop_padding` 4" in training
    assert "color_jitter" not in training
    change_json(run / "run.json", data__small=False)
    training = section(card_of(run), "Training")
    assert "crop_padding" not in training
    assert "`color_jitter` 0.1" in training


@pytest.mark.parametrize(("asked", "hint"), [("foo", "82 names"), ("apache2", "closest matches: apache-2.0")])
def test_a_license_is_one_that_the_hub_knows(run, asked, hint):
    with pytest.raises(UserError, match=f"unknown license '{asked}': {hint}"):
        write_card(run, asked)
    assert write_card(run, "apache-2.0").is_file()


def test_a_repository_is_loaded_from_the_hub(run):
    text = card_of(run, repo="you/net")
    assert text.count('"hf-hub:you/net"') == 3
    assert 'model="you/net"' in text
    assert "timm-asap export hf-hub:you/net --onnx" in text
    assert "timm-asap evaluate hf-hub:you/net --dataset idx" in text
    assert "local-dir:" not in text
    assert card_of(run.parent.resolve() / run.name, repo="you/net") == text
    with pytest.raises(UserError, match="expected user/name"):
        write_card(run, repo="you/net/too")


def test_a_data_set_of_the_hub_is_linked_and_cited(run):
    change_json(
        run / "run.json", data__name="uoft-cs/cifar10", data__hub_id="uoft-cs/cifar10", data__source="it, license mit"
    )
    text = card_of(run)
    data = ModelCard(text).data
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"
    assert data.model_name == "resnet20_lowres_asap.cifar10"
    assert "krizhevsky2009learning" in text
    assert "keep their own terms." in section(text, "License")


def test_a_folder_of_files_is_called_by_its_name(run):
    change_json(run / "run.json", data__name="parquet", data__source="parquet files of the folder cells")
    change_json(run / "run.json", data__train_images=None)
    change_config(run, streaming=True, steps_per_epoch=1234)
    text = card_of(run)
    assert ModelCard(text).data.model_name == "resnet20_lowres_asap.cells"
    assert "training images of cells read as a stream, 1,234 steps counted as an epoch" in text
    assert "keep their own terms, which are not recorded." in section(text, "License")
    assert "Data: parquet files of the folder cells." in section(text, "Citation")


def test_a_plain_model_is_not_called_alias_free(tmp_path):
    text = (train_run(tmp_path, "run", "test_resnet") / "README.md").read_text()
    assert "a plain network without alias-free layers" in text
    assert "2307.09804" not in text
    assert "import timm_asap" not in text
    assert ModelCard(text).data.tags == ["timm", "image-classification"]


def test_no_folder_of_this_machine_shows(run):
    home = "/home/some.one/data sets"
    change_json(
        run / "run.json",
        command=f'python train.py --teacher local-dir:{home}/net --model-kwargs \'{{"a": "{home}/x"}}\'',
    )
    change_json(run / "run.json", data__source="files of C:\\Users\\some.one\\data")
    text = card_of(run.resolve())
    assert str(run.parent) not in text
    assert "some.one" not in text
    assert "https://github.com/huggingface/pytorch-image-models" in text


@pytest.mark.parametrize("place", ["record", "signed in"])
def test_no_token_is_written(run, monkeypatch, place):
    token = "hf_" + "a1" * 17 if place == "record" else "another-secret"
    if place == "signed in":
        monkeypatch.setenv("HF_TOKEN", token)
    before = (run / "README.md").read_text()
    change_json(run / "run.json", command=f"python train.py --dataset {token}")
    with pytest.raises(UserError, match="would hold an access token") as raised:
        write_card(run)
    assert token not in str(raised.value)
    assert (run / "README.md").read_text() == before


@pytest.mark.parametrize(
    "missing", ["config.yaml", "config.json", "run.json", "metrics.jsonl", "result.json", "model.safetensors"]
)
def test_a_missing_record_is_named(run, missing):
    for name in ("README.md", missing):
        (run / name).unlink()
    with pytest.raises(UserError, match=rf"holds no finished run: {missing} is missing"):
        write_card(run)
    assert not (run / "README.md").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: change_json(run / "result.json", test_loss=float("nan")), "result.json holds NaN"),
        (lambda run: (run / "run.json").write_text("{}"), "records lack what the card shows: 'data'"),
        (lambda run: (run / "result.json").write_text("{}"), "records lack what the card shows: 'test_images'"),
        (lambda run: (run / "run.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "config.yaml").write_text("a: ["), "cannot be read as YAML"),
        (lambda run: (run / "metrics.jsonl").write_text("{}{}\n"), "is damaged"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(run, damage, message):
    before = (run / "README.md").read_text()
    damage(run)
    with pytest.raises(UserError, match=message) as raised:
        write_card(run)
    assert "\n" not in str(raised.value)
    assert (run / "README.md").read_text() == before
