"""Training throughput: train.py's epoch against the loop of timm's training script, on the same images and network.

    python -m benchmarks.training [--rounds 5] [--threads 2]

`timm` is what timm's own train.py does for one process: `create_dataset` on an image folder, `create_loader` with its
default transforms and worker processes, autocast off, `optimizer.step()` per batch. `train.py` is `train_epoch` as a
user gets it. Both have the same network, batch size, optimizer and memory order, and each its own loading.
Scaling is that of `torchrun --nproc-per-node 2 train.py` against one process, both with one thread per process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import nn

from benchmarks import common
from timm_asap.training import TrainConfig
from timm_asap.training.epoch import start_sums, train_epoch
from timm_asap.training.start import start_run

ROOT = Path(__file__).parents[1]

#: Title: network, side in pixels, images, batch size, channels-last.
CASES: dict[str, tuple[str, int, int, int, bool]] = {
    "resnet20_lowres, 32 x 32": ("resnet20_lowres", 32, 1024, 128, False),
    "resnet20_lowres_asap, 32 x 32, channels_last": ("resnet20_lowres_asap", 32, 1024, 128, True),
    "test_resnet, 32 x 32 (bound by its data)": ("test_resnet", 32, 2048, 128, False),
    "resnet18, 224 x 224": ("resnet18", 224, 64, 16, False),
}


def write_images(folder: Path, side: int, count: int) -> Path:
    """An image folder of two classes: smooth noise, so that PNG and JPEG cost what photographs cost."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for index in range(count if split == "train" else 16):
            small = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((side * 5 // 4 if side > 64 else side,) * 2, Image.Resampling.BICUBIC)
            path = folder / split / "ab"[index % 2] / f"{index}.{'png' if side <= 64 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


def plain_timm(case: tuple[str, int, int, int, bool], folder: Path, workers: int) -> Callable[[], None]:
    """An epoch of timm's loop."""
    name, side, _, batch_size, channels_last = case
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(name, num_classes=2).to(memory_format=memory_format).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    loader = create_loader(
        create_dataset("", root=str(folder), split="train"),
        input_size=(3, side, side),
        batch_size=batch_size,
        is_training=True,
        num_workers=workers,
        use_prefetcher=False,
        device=torch.device("cpu"),
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for images, labels in loader:
            loss = criterion(model(images.contiguous(memory_format=memory_format)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def own(case: tuple[str, int, int, int, bool], folder: Path, work: Path, workers: int) -> Callable[[], None]:
    """An epoch of train.py."""
    name, side, _, batch_size, channels_last = case
    config = TrainConfig(
        model=name, dataset="imagefolder", data_dir=str(folder), batch_size=batch_size, lr=0.01, epochs=1000,
        channels_last=channels_last, num_workers=workers if side > 64 else 0, output=str(work), overwrite=True,
    )  # fmt: skip
    run = start_run(config)
    state = {"epoch": 0}

    def epoch() -> None:
        run.position.batch, run.sums = 0, start_sums(run)
        train_epoch(run, state["epoch"])
        state["epoch"] += 1

    return epoch


def scaling(rounds: int) -> dict[str, Any]:
    """Images/s of the digits recipe on one process and on two, one thread each."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, rates in found.items():
            with tempfile.TemporaryDirectory() as folder:
                launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
                command = [sys.executable, *launcher, "train.py", "--epochs", "2", "--output", f"{folder}/run"]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
                subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
                lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
                rates.append(json.loads(lines[-1])["images_per_s"])
    medians = {str(processes): float(np.median(rates)) for processes, rates in found.items()}
    return {"images_per_s": medians, "ratio": medians["2"] / medians["1"], "rounds": rounds}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--workers", default=2, type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record: dict[str, Any] = {"rounds": args.rounds, "workers": args.workers, "tables": []}
    for title, case in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_images(Path(scratch) / "images", case[1], case[2])
            calls = {
                "timm": plain_timm(case, folder, args.workers),
                "train.py": own(case, folder, Path(scratch) / "run", args.workers),
            }
            cpu = torch.device("cpu")
            rows = common.as_json(common.interleave(calls, "timm", cpu, args.rounds, warm_up=1))
        for row in rows.values():
            row["images_per_s"] = round(case[2] / row["median_ms"] * 1e3, 1)
        common.print_table(f"an epoch: {title}, {case[2]} images, batch {case[3]}", "timm", rows)
        record["tables"].append({"case": title, "yardstick": "timm", "rows": rows})
    record["scaling"] = scaling(max(1, args.rounds // 2))
    print(record["scaling"])
    print(common.store("training", torch.device("cpu"), record))


if __name__ == "__main__":
    main()
