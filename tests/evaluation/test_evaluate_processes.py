"""Two processes on a CPU: the record of one, one voice, and Ctrl-C from a terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_evaluation import QUICK, evaluate, record_of, write_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def environment():
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def launch(*words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "timm_asap.cli"]
    command += ["evaluate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)


def test_two_processes_write_the_record_of_one(tmp_path):
    model = write_model(tmp_path / "model")
    assert evaluate(model, *QUICK, "--output", tmp_path / "one") == 0
    done = launch(model, *QUICK, "--output", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = record_of(tmp_path / "one"), record_of(tmp_path / "two")
    assert two["results"] == one["results"]
    assert two["summary"] == one["summary"]
    assert (one["produced_by"]["processes"], two["produced_by"]["processes"]) == (1, 2)
    assert two["produced_by"]["command"].startswith("torchrun --nproc-per-node 2 -m timm_asap.cli evaluate model ")
    ours, theirs = (load_file(tmp_path / name / "evaluation.safetensors") for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert done.stdout.count("clean accuracy") == 1


def test_two_processes_refuse_with_one_voice(tmp_path):
    model = write_model(tmp_path / "model")
    refused = launch(model, *QUICK, "--measures", "fog", "--output", tmp_path / "e")
    assert refused.returncode != 0
    assert refused.stderr.count("timm-asap: error:") == 1
    assert not (tmp_path / "e").exists()


def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(tmp_path):
    model = write_model(tmp_path / "model")
    flags = ["--dataset", "digits", "--measures", "attacks", "--attacks", "pgd", "--batch-size", "16", "--no-plots"]
    flags += ["--eps", "0.25/255", "0.5/255", "1/255", "--limit-attacks", "64"]
    assert evaluate(model, *flags, "--output", tmp_path / "whole") == 0
    command = [sys.executable, "-m", "timm_asap.cli", "evaluate", str(model), *flags, "--output", str(tmp_path / "e")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    partial = tmp_path / "e" / "evaluation.partial.safetensors"
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].endswith("--resume")
    assert partial.exists()
    assert launch(model, *flags, "--output", tmp_path / "e", "--resume").returncode == 0
    assert record_of(tmp_path / "e")["results"] == record_of(tmp_path / "whole")["results"]
