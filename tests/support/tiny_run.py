"""A training run that takes a second: sixty-four images of noise, in four classes, and one of timm's test networks."""

import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np
import torch

_SPEC = importlib.util.spec_from_file_location("train_script", Path(__file__).parents[2] / "train.py")
_SCRIPT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SCRIPT)
main = _SCRIPT.main

TRAIN_IMAGES, TEST_IMAGES, CLASSES = 64, 20, 4


def write_images(folder, offset=0):
    """Write an IDX data set: each class is noise around its own gray level, `offset` brighter than usual."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_IMAGES), ("t10k", TEST_IMAGES)):
        labels = np.arange(count, dtype=np.uint8) % CLASSES
        images = rng.integers(30, 100, (count, 12, 12)) + 50 * labels[:, None, None] + offset
        for kind, array in (("images-idx3", images.astype(np.uint8)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


def tiny_flags(data_dir, output, **changes):
    """Flags of a run with dropout, so that a lost random state shows; `changes` are further fields."""
    fields = {
        "model": "test_resnet",
        "model_kwargs": '{"drop_rate": 0.5}',
        "dataset": "idx",
        "data_dir": data_dir,
        "output": output,
        "epochs": 4,
        "batch_size": 16,
        "lr": 0.05,
        **changes,
    }
    return [word for name, value in fields.items() for word in ("--" + name.replace("_", "-"), str(value))]


def equal(a, b):
    """Whether two nestings of tensors and plain values are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b
