"""A stream in two gloo processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.image_files import parquet_shards

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("stream_process.py")


@pytest.mark.parametrize("shards", [(9, 15), (8, 7, 9)], ids=["shards", "rows"])
def test_two_processes_share_a_stream(tmp_path, shards):
    """Two uneven shards, of which each process reads one; three, of which both read every other row."""
    folder = parquet_shards(parquet_shards(tmp_path / "data", shards), (7,), split="test")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(SCRIPT), str(folder)]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["same"]
    assert [len(batch) for batch in result["train"]] == [4] * 6
    seen = [label for batch in result["train"] for label in batch]
    # after these, the process with less begins another pass, over whatever that gives it
    first_pass = seen[: 4 * (5 if len(shards) == 3 else 4)]
    assert len(set(first_pass)) == len(first_pass)
    tested = [label for batch in result["test"] for label in batch]
    assert sorted(label for label in tested if label >= 0) == list(range(7))
    assert [len(batch) for batch in result["test"]] == [4, 4]
