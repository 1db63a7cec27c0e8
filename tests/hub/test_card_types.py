"""Records of a run that somebody changed: a card is made, or one line says what is wrong; never a traceback."""

import json

import pytest

from tests.hub.test_hub_answers import spoilings
from tests.support.card_runs import train_run
from timm_asap.errors import UserError
from timm_asap.evaluation.record_schema import record_problem
from timm_asap.hub.card import write_card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("types"), "run", "test_resnet_asap")


def outcome(run, name, content):
    """The line, or None; the file is put back."""
    original = (run / name).read_bytes()
    (run / name).write_bytes(content)
    try:
        write_card(run)
    except UserError as error:
        return str(error)
    finally:
        (run / name).write_bytes(original)
    return None


@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_every_key_of_every_type(run, name, monkeypatch):
    # the network stays as it is, and takes most of the time
    from timm_asap.hub.cards import records

    model = records.open_model(f"local-dir:{run}")
    monkeypatch.setattr(records, "open_model", lambda name: model)
    # half of them, which is four or five of each key
    cases = list(spoilings((run / name).read_bytes()))[::2]
    lines = {how: outcome(run, name, spoiled) for how, spoiled in cases}
    assert all(line is None or line.isprintable() for line in lines.values())
    assert None in lines.values()
    assert sum(line is not None for line in lines.values()) > len(lines) // 2


@pytest.mark.parametrize(
    ("name", "place", "value", "line"),
    [
        ("result.json", ("test_loss",), "low", r"result\.json is damaged: test_loss: expected a number, got low"),
        ("result.json", ("test_accuracy",), 101, "test_accuracy: expected a number from 0 to 100, got 101"),
        ("result.json", ("test_images",), True, "test_images: expected a whole number from 0, got True"),
        ("run.json", ("versions",), "2.14", r"run\.json is damaged: versions: expected an object of texts, got 2\.14"),
        ("run.json", ("processes",), "two", "processes: expected a whole number from 0, got two"),
        ("run.json", ("data",), 7, "data: expected an object, got 7"),
        ("run.json", ("data", "name"), True, r"data\.name: expected a text, got True"),
        ("run.json", ("data", "frame"), 7, r"data\.frame: expected a list, each a whole number from 0, or null, got 7"),
    ],
)
def test_the_line_names_the_key(run, name, place, value, line):
    record = json.loads((run / name).read_text())
    node = record
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    with pytest.raises(UserError, match=line):
        raise UserError(outcome(run, name, json.dumps(record).encode()))


def test_the_recipe_of_another_type(run):
    text = (run / "config.yaml").read_text().replace("batch_size: ", "batch_size: many # ")
    assert "its records hold something else than the card shows" in outcome(run, "config.yaml", text.encode())


def test_the_loss_of_an_evaluation_is_a_number():
    content = {
        "model": {"name": "n", "weights_sha256": "0"},
        "data": {"name": "d", "classes": 2, "split": "test", "images": 9},
        "summary": {},
        "results": [{"measure": "clean", "id": "clean", "images": 9, "interval": [0, 1], "accuracy": 1, "loss": 0.5}],
    }
    assert record_problem(content) is None
    content["results"][0]["loss"] = "low"
    assert record_problem(content) == "results[0].loss is 'low'"
