"""Training from a stream: it learns, stops in the middle, and goes on bit-equally."""

import json
import signal

import datasets
import pytest
from PIL import Image

from tests.support.tiny_run import main, tiny_flags
from tests.training.test_train_survival import assert_same_end, check_killed_run, newest_state, signal_at_batch


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Parquet files of 48 training and 10 test images, each class a gray level."""
    folder = tmp_path_factory.mktemp("stream")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "bright"])})
    for split, files, rows in (("train", 3, 16), ("test", 1, 10)):
        for number in range(files):
            labels = [index % 2 for index in range(rows)]
            images = [Image.new("L", (32, 32), 60 + 100 * label + number) for label in labels]
            table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
            table.to_parquet(folder / f"{split}-{number:05d}-of-{files:05d}.parquet")
    return folder


def stream_flags(shards, output, **changes):
    fields = {"dataset": "parquet", "streaming": True, "steps_per_epoch": 4, "shuffle_buffer": 10, "batch_size": 8}
    flags = tiny_flags(shards, output, **{**fields, "epochs": 3, **changes})
    where = flags.index("--streaming")
    return flags[: where + 1] + flags[where + 2 :]  # a switch has no value


def test_a_stream_trains_and_its_classes_have_names(shards, tmp_path):
    assert main(stream_flags(shards, tmp_path / "run")) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [4, 8, 12]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label_names"] == ["dark", "bright"]


def test_it_goes_on_bit_equally_in_the_middle(shards, tmp_path, monkeypatch):
    assert main(stream_flags(shards, tmp_path / "straight")) == 0
    with monkeypatch.context() as patch:
        signal_at_batch(patch, 6, signal.SIGTERM)
        assert main(stream_flags(shards, tmp_path / "run")) == 0
    assert newest_state(tmp_path / "run")["position"]["batch"] == 2
    assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
    assert_same_end(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_stream_goes_on_bit_equally(name, processes, shards, tmp_path):
    steady = {"model": "test_vit", "model_kwargs": "{}", "opt": "adamw", "lr": 1e-3, "epochs": 8, "checkpoint_steps": 3}
    check_killed_run(lambda folder: stream_flags(shards, folder, **steady), name, processes, tmp_path)
