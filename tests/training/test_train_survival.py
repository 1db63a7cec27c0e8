"""Signals, kills and damage: `--resume` goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.tiny_run import equal, main, tiny_flags, write_images
from timm_asap import _startup
from timm_asap._startup import StopRequest
from timm_asap.training import epoch
from timm_asap.training.run_folder import RunFolder

SCRIPT = Path(__file__).parents[2] / "train.py"
EPOCHS = 3


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert main(tiny_flags(data_dir, folder, epochs=EPOCHS)) == 0
    return folder


def curve(folder):
    """What does not depend on the clock."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in records]


def newest_state(folder):
    state = RunFolder(folder).checkpoints.newest()[1]
    del state["sums"]["seconds"]
    return state


def assert_same_end(folder, straight):
    assert curve(folder) == curve(straight)
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert equal(newest_state(folder), newest_state(straight))


def signal_at_batch(monkeypatch, number, *signals):
    """Send signals to this process in the given batch of the run, counted from 1."""
    batches, train_on_batch = [], epoch._train_on_batch

    def wrapper(*args):
        batches.append(number)
        for name in signals if len(batches) == number else ():
            signal.raise_signal(name)
        return train_on_batch(*args)

    monkeypatch.setattr(epoch, "_train_on_batch", wrapper)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("batch", [1, 6, 8])  # the first of all, one within an epoch, the last of one; 4 an epoch
def test_one_signal_finishes_the_step_saves_and_says_how_to_go_on(
    batch, name, straight, data_dir, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at_batch(patch, batch, getattr(signal, name))
        assert main(tiny_flags(data_dir, folder, epochs=EPOCHS)) == 0
    out = capsys.readouterr().out
    assert f"to continue: timm-asap train --output {folder} --resume" in out
    assert newest_state(folder)["position"]["step"] == batch
    assert signal.getsignal(getattr(signal, name)) != StopRequest._notice
    assert main(["--output", str(folder), "--resume"]) == 0
    assert_same_end(folder, straight)


def test_two_signals_stop_at_once_and_say_how_to_go_on(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_startup, "_SAME_REQUEST_S", -1.0)
    signal_at_batch(monkeypatch, 6, signal.SIGINT, signal.SIGINT)
    assert main(tiny_flags(data_dir, tmp_path / "run", epochs=EPOCHS)) == 130
    error = capsys.readouterr().err
    assert error.startswith("train.py: interrupted; ")
    assert f"To continue: timm-asap train --output {tmp_path / 'run'} --resume" in error
    assert newest_state(tmp_path / "run")["position"]["step"] == 4


def test_the_launcher_repeating_a_signal_is_no_second_one(data_dir, tmp_path, monkeypatch):
    signal_at_batch(monkeypatch, 6, signal.SIGINT, signal.SIGTERM)
    assert main(tiny_flags(data_dir, tmp_path / "run", epochs=EPOCHS)) == 0
    assert newest_state(tmp_path / "run")["position"]["step"] == 6


def test_checkpoints_within_an_epoch(straight, data_dir, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(epoch, "_train_on_batch", _raise_after(epoch._train_on_batch, 7))
        with pytest.raises(ZeroDivisionError):
            main(tiny_flags(data_dir, folder, epochs=EPOCHS, checkpoint_steps=3))
    position = newest_state(folder)["position"]
    assert (position["epoch"], position["batch"], position["step"]) == (1, 3, 7)
    assert main(["--output", str(folder), "--resume"]) == 0
    assert_same_end(folder, straight)


def _raise_after(function, calls):
    left = [calls]

    def wrapper(*args):
        if not left[0]:
            raise ZeroDivisionError
        left[0] -= 1
        return function(*args)

    return wrapper


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_nothing_else(straight, data_dir, tmp_path):
    folder = tmp_path / "run"
    assert main(tiny_flags(data_dir, folder, epochs=EPOCHS)) == 0
    newest = RunFolder(folder).checkpoints.files()[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        assert main(["--output", str(folder), "--resume"]) == 0
    assert_same_end(folder, straight)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_process_that_is_killed_from_outside(name, processes, data_dir, tmp_path):
    steady = {"model": "test_vit", "model_kwargs": "{}", "opt": "adamw", "lr": 1e-3, "epochs": 8, "checkpoint_steps": 3}
    check_killed_run(lambda folder: tiny_flags(data_dir, folder, **steady), name, processes, tmp_path)


def check_killed_run(flags, name, processes, tmp_path):
    """A run of eight epochs that gets a signal after its first one, resumed, against one that was left alone."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    assert _launch(flags(straight), processes).wait(timeout=300) == 0

    process = _launch(flags(folder), processes)
    _wait_for_epochs(folder, 1)
    # the launcher passes polite signals on, and takes nothing with it when it is killed
    killed = psutil.Process(process.pid).children(recursive=True) if name == "SIGKILL" else []
    for each in [*killed, process]:
        each.send_signal(getattr(signal, name))
    process.wait(timeout=60)
    assert len(curve(folder)) < len(curve(straight))
    for path in folder.rglob(".*"):
        assert path.name.endswith(".aside") or path.name == ".export"
    assert _launch(["--output", str(folder), "--resume"], processes).wait(timeout=300) == 0
    assert_same_end(folder, straight)


def _launch(flags, processes):
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    paths = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, *launcher, str(SCRIPT), *flags]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _wait_for_epochs(folder, epochs):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (folder / "metrics.jsonl").is_file() and len(curve(folder)) >= epochs:
            return
        time.sleep(0.01)
    raise AssertionError("the run did not begin")
