"""Two processes on a CPU: the same curve as one, one set of records, and one voice for errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.tiny_run import main, tiny_flags, write_images

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "train.py"

# no batch normalization, whose statistics are each process's own, and no dropout
CHANGES = {"model": "test_vit", "model_kwargs": "{}", "opt": "adamw", "lr": 1e-3, "epochs": 2}


def command(flags, processes=2):
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", str(SCRIPT), *flags]


def environment():
    paths = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def launch(flags, processes=2):
    words = command(flags, processes)
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=300, check=False)


def curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[r[name] for name in ("epoch", "step", "train_loss", "test_loss", "test_accuracy")] for r in records]


def test_two_processes_train_as_one(tmp_path):
    data_dir = write_images(tmp_path / "idx")
    assert main(tiny_flags(data_dir, tmp_path / "one", **CHANGES)) == 0
    done = launch(tiny_flags(data_dir, tmp_path / "two", **CHANGES))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/2") == 1
    facts = json.loads((tmp_path / "two" / "run.json").read_text())
    assert facts["processes"] == 2
    assert facts["command"].startswith("torchrun --nproc-per-node 2 train.py")
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)


def test_two_processes_resume_and_refuse_with_one_voice(tmp_path):
    data_dir = write_images(tmp_path / "idx")
    flags = tiny_flags(data_dir, tmp_path / "run", **CHANGES)
    assert launch(flags).returncode == 0
    refused = launch(flags)
    assert refused.returncode != 0
    assert refused.stderr.count("train.py: error:") == 1
    longer = launch(["--output", str(tmp_path / "run"), "--resume", "--epochs", "3"])
    assert longer.returncode == 0, longer.stderr
    assert [epoch for epoch, *_ in curve(tmp_path / "run")] == [1, 2, 3]


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    data_dir = write_images(tmp_path / "idx")
    refused = launch(tiny_flags(data_dir, tmp_path / "run", **CHANGES | {"batch_size": 15}))
    assert "expected a multiple of 2, got 15" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_the_processes_of_one_launch_are_one_writer_and_another_run_is_refused(tmp_path, capsys):
    data_dir = write_images(tmp_path / "idx")
    flags = tiny_flags(data_dir, tmp_path / "run", **CHANGES | {"epochs": 500})
    first = subprocess.Popen(command(flags), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 200
        while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < until:
            time.sleep(0.1)
        assert main(["--output", str(tmp_path / "run"), "--resume"]) == 2
        assert "run is being written to by train.py (process" in capsys.readouterr().err
        refused = launch(["--output", str(tmp_path / "run"), "--resume"])
        assert refused.returncode != 0
        assert refused.stderr.count("is being written to by train.py (process") == 1
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=100) in (0, 1)
    one_more = ["--epochs", str(len(curve(tmp_path / "run")) + 1)]
    assert launch(["--output", str(tmp_path / "run"), "--resume", *one_more]).returncode == 0
