"""The model card: typed front matter that parses back, and numbers that are those of the records."""

import json

import pytest
from huggingface_hub import ModelCard
from tiny_run import main, tiny_flags, write_images

from timm_asap.errors import UserError
from timm_asap.hub import write_card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("card")
    flags = tiny_flags(
        write_images(base / "idx"), base / "run", model="resnet20_lowres_asap", model_kwargs="{}", epochs=1
    )
    assert main([*flags, "--asap-window", "hamming"]) == 0
    return base / "run"


@pytest.fixture
def records(run, tmp_path):
    """A copy of the records alone, to change."""
    for name in ("config.yaml", "config.json", "run.json", "metrics.jsonl", "result.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    return tmp_path


def final(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_front_matter_parses_back(run):
    data = ModelCard.load(run / "README.md").data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert data.license == "mit"
    assert {"timm", "timm_asap", "anti-aliasing"} <= set(data.tags)
    assert data.metrics == ["accuracy"]
    assert data.model_name == "resnet20_lowres_asap.idx"
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("image-classification", "idx", "test")
    assert result.metric_type == "accuracy"
    assert result.metric_value == round(final(run)["test_accuracy"], 2)
    assert isinstance(result.metric_value, float)


def test_numbers_are_those_of_the_records(records):
    record = final(records) | {"test_accuracy": 43.21987, "test_loss": 1.23456, "images_per_s": 7654.3, "seconds": 90.0}
    (records / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (records / "result.json").write_text(
        json.dumps({name: record[name] for name in ("test_accuracy", "test_loss", "test_images")})
    )
    text = write_card(records).read_text()
    assert "| idx, test | 20 | 43.22 % | 1.2346 |" in text
    assert "1.5 minutes on" in text
    assert "7,654 images/s" in text
    assert ModelCard(text).data.eval_results[0].metric_value == 43.22


def test_says_what_it_is_and_how_it_was_made(run):
    text = (run / "README.md").read_text()
    assert "python train.py --dataset idx --asap-window hamming --data-dir idx --epochs 1 " in text
    assert '| `asap_window` | `"hamming"` |' in text
    assert "271,796" in text
    assert "arXiv:2307.09804" in text
    for package, version in json.loads((run / "run.json").read_text())["versions"].items():
        assert f"{package} {version}" in text


def test_no_path_of_this_machine_shows(run):
    assert str(run.parent) not in (run / "README.md").read_text()


def test_the_code_in_it_runs(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    code = (run / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert names["model"].num_classes == 4
    assert not names["model"].training
    assert names["transform"] is not None


def test_a_data_set_of_the_hub_is_linked(records):
    _change_data(records, name="uoft-cs/cifar10", hub_id="uoft-cs/cifar10")
    data = ModelCard.load(write_card(records)).data
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"
    assert data.model_name == "resnet20_lowres_asap.cifar10"


def test_a_folder_of_the_user_is_not_linked(run):
    data = ModelCard.load(run / "README.md").data
    assert data.datasets is None
    assert data.eval_results[0].dataset_type == "idx"


def _change_data(records, **changes):
    facts = json.loads((records / "run.json").read_text())
    facts["data"] |= changes
    (records / "run.json").write_text(json.dumps(facts))


def test_a_plain_model_is_not_called_alias_free(records):
    config = json.loads((records / "config.json").read_text()) | {"architecture": "resnet20_lowres", "model_args": {}}
    (records / "config.json").write_text(json.dumps(config))
    text = write_card(records, license="apache-2.0").read_text()
    assert "alias-free" not in text
    assert "2307.09804" not in text
    assert ModelCard(text).data.license == "apache-2.0"


@pytest.mark.parametrize("missing", ["config.yaml", "config.json", "run.json", "metrics.jsonl"])
def test_a_missing_record_is_named(records, missing):
    (records / missing).unlink()
    with pytest.raises(UserError, match=rf"holds no finished run: {missing}"):
        write_card(records)
    assert not (records / "README.md").exists()
