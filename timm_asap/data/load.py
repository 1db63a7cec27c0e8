"""From a data set's name to its splits; scikit-learn's digits are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from timm_asap._renamed import takes_older_keywords
from timm_asap.data.columns import CLASS_ORDERS
from timm_asap.data.huggingface import load_huggingface, load_measured
from timm_asap.data.idx import load_fashion_mnist, load_idx
from timm_asap.data.split_choice import hold_out_fifth, hold_out_validation
from timm_asap.data.splits import ImageDataset, TensorSplit, small_dataset
from timm_asap.data.streams import load_stream
from timm_asap.data.tables import BUILDERS, is_local_file
from timm_asap.errors import UserError, unknown_name

_SOURCE = (
    "Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, "
    "1998, doi:10.24432/C50P49, CC BY 4.0), the 1,797 scans that scikit-learn bundles, 8 x 8 pixels brought "
    "to 32 x 32"
)


def load_digits(seed: int) -> ImageDataset:
    """The digits at 32 x 32 pixels, one channel; a seeded, stratified fifth is held out.

    Args:
        seed: Which fifth.
    """
    # scikit-learn takes two seconds to import: only this data set needs it
    from sklearn import datasets

    bunch: Any = datasets.load_digits()  # a `Bunch`, as `return_X_y` is left out
    scans = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    # Bilinear, which never leaves the range of the scans. resnet20_lowres_asap reached 99.3 % with it after 4 epochs
    # and 98.7 % with bicubic (means of 5 seeds, standard deviations 0.6 and 0.9), 99.8 % with both after 12 (3 seeds).
    images = F.interpolate(scans, size=(32, 32), mode="bilinear", align_corners=False)
    whole = TensorSplit(images.round().to(torch.uint8), torch.from_numpy(bunch.target).long())
    train, test, test_name = hold_out_fifth(whole, seed)
    names = tuple(str(digit) for digit in bunch.target_names)
    return small_dataset("digits", names, train, test, test_name=test_name, source=_SOURCE)


_OWN_NAMES = ("digits", "fashion_mnist", "idx")
DATASET_NAMES = (*_OWN_NAMES, *BUILDERS)
"""The names that stand for themselves; every other one is a Hugging Face id, a folder or a file."""


@takes_older_keywords
def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    val_share: float = 0.0,
    streaming: bool = False,
    shuffle_buffer: int = 10_000,
    num_classes: int | None = None,
    label_names: Sequence[str] | None = None,
    class_order: str | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
    measure_only: bool = False,
    trained_names: Sequence[str] | None = None,
) -> ImageDataset:
    """Loads a data set of labeled images.

    Args:
        name: "digits" (bundled), "fashion_mnist" or "idx" (IDX files in `data_dir`), "imagefolder" (class
            folders in `data_dir`), "parquet", "arrow", "csv" or "webdataset" (such files in `data_dir`), a Hugging
            Face id such as "uoft-cs/cifar10" or "owner/name:configuration", a local folder that `datasets` can
            read, or a file or pattern of files that ends in .parquet, .arrow, .csv or .tar.
        data_dir: Where the files are: a folder; for the four kinds of files also one file or a pattern.
        image_key: Column of images, where it cannot be told by its type.
        label_key: Column of labels, likewise.
        train_split: Split to train on, where it is not called train.
        test_split: Split to measure on, where it is not called test or validation.
        val_share: Fraction of the training samples to hold out as `val`, with each class in its proportion. With 0,
            `val` is the validation split of the data set, if it has one beside the test split.
        streaming: Read the images from their beginning on, instead of bringing them to the disk first.
        shuffle_buffer: Most images that a training process draws from when a stream is shuffled.
        num_classes: Number of classes, where labels are numbers without names; a stream needs it there.
        label_names: The names of the classes in the order of their numbers, likewise.
        class_order: Number the classes in the "natural" order of their names (class2 before class10, as timm does) or
            the "alphabetical" one (as torchvision does). By default classes keep the order that the data set gives
            them; those of folders are in alphabetical order.
        skip_unreadable: Leave out images that cannot be read, with one warning, instead of stopping. Large ones are
            found when they are fetched: in training the image that follows takes their place, in evaluation they are
            labeled `PADDING_LABEL`.
        seed: Which samples to hold out, as `val` and as the test fifth of a data set without a test split; 0 to
            2**32 - 1.
        measure_only: Only `test` is wanted: no other image is decoded, or fetched from the Hub, and `train` is empty
            where `test` does not come out of it.
        trained_names: With `measure_only`, the names of classes that a model was trained on: they say which labels
            there are where the data do not.

    Raises:
        UserError: The name is unknown, or the data are missing, damaged or unlabeled.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed is a number from 0 to 2**32 - 1, got {seed}")
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share is a share of the training samples, expected 0 <= share < 1, got {val_share:g}")
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    if shuffle_buffer < 1:
        raise UserError(f"--shuffle-buffer is a number of images from 1 up, got {shuffle_buffer}")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"--num-classes is a number from 1 up, got {num_classes}")
    if streaming and val_share:
        raise UserError("--val-share: nothing can be held out of a stream; leave --streaming or --val-share out")
    if class_order is not None and class_order not in CLASS_ORDERS:
        raise UserError(f"--class-order: {unknown_name('order', class_order, CLASS_ORDERS)}")
    options: dict[str, Any] = {
        "image_key": image_key,
        "label_key": label_key,
        "train_split": train_split,
        "test_split": test_split,
        "num_classes": num_classes,
        "label_names": None if label_names is None else tuple(label_names),
        "class_order": class_order,
    }
    if name in _OWN_NAMES:
        given = {**options, "streaming": streaming or None, "data_dir": data_dir if name == "digits" else None}
        if meant_for_tables := [f"--{key.replace('_', '-')}" for key, value in given.items() if value is not None]:
            raise UserError(f"data set {name!r} takes no {', '.join(meant_for_tables)}: leave it out")
    elif not (name in BUILDERS or "/" in name or Path(name).is_dir() or is_local_file(name)):
        hint = unknown_name("data set", name, DATASET_NAMES)
        raise UserError(f"{hint}, a Hugging Face id (owner/name), a folder or a file")
    elif streaming:
        return load_stream(name, data_dir, skip_unreadable=skip_unreadable, shuffle_buffer=shuffle_buffer, **options)
    if name == "digits":
        dataset = load_digits(seed)
    elif name == "fashion_mnist":
        dataset = load_fashion_mnist(data_dir)
    elif name == "idx":
        dataset = load_idx(data_dir)
    elif measure_only:
        options |= {"trained_names": None if trained_names is None else tuple(trained_names)}
        return load_measured(name, data_dir, skip_unreadable=skip_unreadable, seed=seed, **options)
    else:
        dataset = load_huggingface(name, data_dir, skip_unreadable=skip_unreadable, seed=seed, **options)
    return hold_out_validation(dataset, val_share, seed) if val_share else dataset
