"""From a data set's name to its splits."""

from __future__ import annotations

from pathlib import Path

from timm_asap.data.digits import load_digits
from timm_asap.data.huggingface import load_huggingface
from timm_asap.data.idx import load_fashion_mnist, load_idx
from timm_asap.data.splits import ImageDataset
from timm_asap.errors import UserError, unknown_name

DATASET_NAMES = ("digits", "fashion_mnist", "idx", "imagefolder")
"""The names that stand for themselves; every other one is a Hugging Face id or a folder."""


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Loads a data set of labelled images.

    Args:
        name: "digits" (bundled), "fashion_mnist" or "idx" (IDX files in `data_dir`), "imagefolder" (class
            folders in `data_dir`), a Hugging Face id such as "uoft-cs/cifar10" or "owner/name:configuration",
            or a local folder that `datasets` can read.
        data_dir: Where the files are.
        image_key: Column of images, where it cannot be told by its type.
        label_key: Column of labels, likewise.
        train_split: Split to train on, where it is not called train.
        test_split: Split to measure on, where it is not called test or validation.
        seed: Which fifth to hold out of a data set without a test split; 0 to 2**32 - 1.

    Raises:
        UserError: The name is unknown, or the data are missing, damaged or unlabelled.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed is a number from 0 to 2**32 - 1, got {seed}")
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    options = {
        "image_key": image_key,
        "label_key": label_key,
        "train_split": train_split,
        "test_split": test_split,
    }
    if name in ("digits", "fashion_mnist", "idx"):
        meant_for_tables = [f"--{key.replace('_', '-')}" for key, value in options.items() if value is not None]
        if name == "digits" and data_dir is not None:
            meant_for_tables.append("--data-dir")
        if meant_for_tables:
            raise UserError(f"data set {name!r} takes no {', '.join(meant_for_tables)}: leave it out")
    if name == "digits":
        return load_digits(seed)
    if name == "fashion_mnist":
        return load_fashion_mnist(data_dir)
    if name == "idx":
        return load_idx(data_dir)
    if name == "imagefolder" or "/" in name or Path(name).is_dir():
        return load_huggingface(name, data_dir, seed=seed, **options)
    raise UserError(f"{unknown_name('data set', name, DATASET_NAMES)}, a Hugging Face id (owner/name) or a folder")
