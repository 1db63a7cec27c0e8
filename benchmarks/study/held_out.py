"""The held-out fifth as a data set of its own: what windows, boundaries and layouts are chosen by."""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.study.plan import RECIPE
from timm_asap.data import load_dataset


def held_out_folder(work: Path, data_dir: str) -> Path:
    """IDX files whose test images are those that no network of the study trained on.

    Args:
        work: Folder of the runs; the files go to a folder in it.
        data_dir: Folder of the four Fashion-MNIST files.

    Returns:
        The folder.
    """
    folder = work / "held_out"
    if not folder.is_dir():
        # whatever the seed of a run is, the same fifth is held out
        held_out = load_dataset("fashion_mnist", data_dir, val_share=RECIPE["val_share"]).val
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as aside:
            for part in ("train", "t10k"):  # a data set has both; nothing here reads the first
                _write_idx(Path(aside) / f"{part}-images-idx3-ubyte.gz", held_out.images.squeeze(1))
                _write_idx(Path(aside) / f"{part}-labels-idx1-ubyte.gz", held_out.labels.to(torch.uint8))
            with suppress(FileExistsError):  # another process was faster
                shutil.copytree(aside, folder)
    return folder


def _write_idx(path: Path, values: torch.Tensor) -> None:
    header = struct.pack(f">4B{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    path.write_bytes(gzip.compress(header + values.numpy().tobytes(), compresslevel=1))
