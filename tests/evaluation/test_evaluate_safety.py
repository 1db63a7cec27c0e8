"""Evaluations that are killed, damaged, out of room, or beside another writer: nothing is lost, nothing is made up."""

import json
import os
import random
import shutil
import signal

import pytest

from tests.support.tiny_evaluation import evaluate, record_of, write_model
from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.evaluation import finish, read_record
from timm_asap.evaluation.measurements import AttackMeasurement, resolve_device

WORDS = (
    *("--dataset", "digits", "--limit", "24", "--measures", "clean,attacks,aliasing", "--limit-aliasing", "4"),
    *("--attacks", "fgsm", "--eps", "1/255", "2/255", "--batch-size", "12", "--no-plots"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "net")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "e"
    assert evaluate(model, *WORDS, "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(model, tmp_path_factory):
    """The folder of an evaluation that a signal stopped in its first attack."""
    folder = tmp_path_factory.mktemp("stopped") / "e"
    with pytest.MonkeyPatch.context() as patch:
        _signal_in_attack(patch, 2, signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            evaluate(model, *WORDS, "--output", folder)
    assert stop.value.code == 130
    return folder


def _signal_in_attack(patch, call, *signals):
    """Send signals to this process in the given call of the attack, counted from 1."""
    calls, run = [], AttackMeasurement.run

    def wrapper(self, model, batch):
        calls.append(1)
        for name in signals if len(calls) == call else ():
            signal.raise_signal(name)
        return run(self, model, batch)

    patch.setattr(AttackMeasurement, "run", wrapper)


def refusal(capsys, *words):
    assert main([str(word) for word in words]) == 2
    *said, err = capsys.readouterr().err.splitlines()
    assert all(line.startswith("timm-asap evaluate: ") for line in said), said  # where no bar is drawn
    return err


def test_sigterm_keeps_what_was_measured(stopped, whole, model, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "e")
    assert sorted(os.listdir(folder)) == ["evaluation.partial.safetensors"]
    assert evaluate(model, *WORDS, "--output", folder, "--resume") == 0
    assert record_of(folder)["results"] == record_of(whole)["results"]
    assert sorted(os.listdir(folder)) == ["evaluation.json", "evaluation.safetensors"]


def test_the_launcher_repeating_a_signal_does_not_spoil_what_is_saved(model, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    _signal_in_attack(monkeypatch, 2, signal.SIGTERM)
    from timm_asap.evaluation.per_image import Measured

    save = Measured.save

    def disturbed(self, *args):
        if self.unfinished is not None and self.unfinished.done.sum():
            signal.raise_signal(signal.SIGINT)
        save(self, *args)

    monkeypatch.setattr(Measured, "save", disturbed)
    with pytest.raises(SystemExit):
        evaluate(model, *WORDS, "--output", tmp_path / "e")
    assert os.listdir(tmp_path / "e") == ["evaluation.partial.safetensors"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_flipped_bit_in_a_partial_record_is_one_line(stopped, model, tmp_path, capsys):
    folder = shutil.copytree(stopped, tmp_path / "e")
    partial = folder / "evaluation.partial.safetensors"
    content, drawn = partial.read_bytes(), random.Random(0)
    for _ in range(6):
        bit = drawn.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        partial.write_bytes(flipped)
        said = refusal(capsys, "evaluate", model, *WORDS, "--output", folder, "--resume")
        assert "evaluation.partial.safetensors" in said
        assert "evaluate again with --overwrite" in said


def _changes(record):
    yield "results", "x", "results is a str"
    yield "results", [{**record["results"][0], "accuracy": "high"}], "results[0].accuracy is 'high'"
    yield "results", [{**record["results"][0], "interval": [1]}], "results[0].interval is [1]"
    yield "results", [record["results"][0]] * 2, "results[1].id is there twice"
    yield "results", [{"measure": "taste", "id": "x"}], "results[0].measure is 'taste'"
    yield "results", [None], "results[0] is a NoneType"
    yield "model", {**record["model"], "weights_sha256": 7}, "model.weights_sha256 is 7"
    yield "data", {"name": "digits"}, "data.classes is missing"
    yield "summary", {"gradient_masking": "no"}, "summary.gradient_masking is 'no'"
    yield "produced_by", [], "produced_by is not what it should be"


@pytest.mark.parametrize("number", range(10))
def test_a_damaged_record_is_one_line(number, whole, tmp_path, capsys):
    record = record_of(whole)
    key, value, told = list(_changes(record))[number]
    (tmp_path / "evaluation.json").write_text(json.dumps({**record, key: value}))
    with pytest.raises(UserError) as caught:
        read_record(tmp_path)
    assert f"evaluation.json is damaged: {told}; evaluate again with --overwrite" in str(caught.value)
    assert told in refusal(capsys, "compare", whole, tmp_path)


def test_what_only_the_tables_need_is_missed_before_a_finished_record_is_shown(whole, model, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "e")
    record = record_of(folder)
    del record["summary"]["mce"]
    (folder / "evaluation.json").write_text(json.dumps(record))
    assert read_record(folder).content == record
    assert "summary.mce is missing" in refusal(capsys, "evaluate", model, *WORDS, "--output", folder, "--resume")


def test_answers_of_another_record_are_not_compared(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "e")
    record = record_of(folder)
    record["results"][0]["images"] = 23
    (folder / "evaluation.json").write_text(json.dumps(record))
    assert "does not belong to the record beside it: clean" in refusal(capsys, "compare", whole, folder)


def test_a_full_disk_at_the_end_leaves_the_older_record_and_the_parts(whole, model, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(whole, tmp_path / "e")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def no_room(path, *args):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(finish, "save_per_image", no_room)
        said = refusal(capsys, "evaluate", model, *WORDS, "--seed", "1", "--output", folder, "--overwrite")
    assert "evaluation.safetensors cannot be written (No space left on device): make room on the disk" in said
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert sorted(os.listdir(folder)) == sorted([*before, "evaluation.partial.safetensors"])
    ran = []
    monkeypatch.setattr(AttackMeasurement, "run", lambda *args: ran.append(1))
    assert evaluate(model, *WORDS, "--seed", "1", "--output", folder, "--resume") == 0
    assert ran == []
    assert sorted(os.listdir(folder)) == sorted(before)


@pytest.mark.parametrize("name", ["hpu", "meta", "cuda:99", "no such", "cpu:x"])
def test_a_device_that_cannot_compute_is_one_line(name):
    with pytest.raises(UserError, match=f"--device {name} cannot be used: .*; expected cpu or cuda") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 220


def test_a_terminal_without_letters_gets_one_clean_line(monkeypatch, capsys):
    """`LC_ALL=C PYTHONIOENCODING=ascii`: the frame of an error is drawn in dashes there."""
    monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    assert main(["evaluate", "x", "--dataset", "digits", "--limit", "foo"]) == 2
    assert capsys.readouterr().err == ("timm-asap: error: --limit: got 'foo'; expected --limit INT\n")
