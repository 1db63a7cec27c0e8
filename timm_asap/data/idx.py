"""IDX files, the format of MNIST and of the data sets made in its likeness.

Reference: Y. LeCun, C. Cortes and C. Burges, "The MNIST database", http://yann.lecun.com/exdb/mnist/: two
zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit
integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch

from timm_asap.data.splits import ImageDataset, TensorSplit, small_dataset
from timm_asap.errors import UserError

_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_FASHION_SOURCE = (
    "Fashion-MNIST (H. Xiao, K. Rasul and R. Vollgraf, 2017, arXiv:1708.07747, MIT license), "
    "28 x 28 pixels on a frame of zeros to 32 x 32"
)


def load_fashion_mnist(data_dir: Path | None) -> ImageDataset:
    """Fashion-MNIST from its original files, at 32 x 32 pixels, one channel.

    Args:
        data_dir: The folder that holds them.

    Raises:
        UserError: A file is missing or is not what its name says.
    """
    if data_dir is None:
        raise UserError(
            f"fashion_mnist needs --data-dir, the folder that holds {', '.join(_FILES)} "
            "(Debian's package dataset-fashion-mnist installs them, dpkg -L names the folder)"
        )
    return _load("fashion_mnist", data_dir, _FASHION_NAMES, _FASHION_SOURCE)


def load_idx(data_dir: Path | None) -> ImageDataset:
    """Any data set in four IDX files named like MNIST's; the classes are numbered up to the largest label.

    Args:
        data_dir: The folder that holds them.

    Raises:
        UserError: A file is missing or is not what its name says.
    """
    if data_dir is None:
        raise UserError(f"idx needs --data-dir, the folder that holds {', '.join(_FILES)}")
    return _load("idx", data_dir, None, f"IDX files of the folder {data_dir.resolve().name}")


def read_idx(path: Path, num_dims: int) -> torch.Tensor:
    """Reads one IDX file of unsigned bytes.

    Args:
        path: The file; a name in .gz is unpacked.
        num_dims: How many dimensions it must have: 3 for gray images, 1 for labels.

    Returns:
        uint8, of the shape that the file's header gives.

    Raises:
        UserError: The file is damaged, or no IDX file of this kind.
    """
    content = _read_bytes(path)
    header_size = 4 + 4 * num_dims
    magic = bytes([0, 0, 8, num_dims])
    if content[:4] != magic:
        kind = {1: "labels", 3: "images"}.get(num_dims, f"{num_dims} dimensions")
        found = content[:4].hex() or "an empty file"
        raise UserError(f"{path} is no IDX file of {kind}: expected it to start with {magic.hex()}, got {found}")
    if len(content) < header_size:
        raise UserError(f"{path} is cut short: its header takes {header_size} bytes, the file has {len(content)}")
    shape = struct.unpack(f">{num_dims}I", content[4:header_size])
    expected, got = math.prod(shape), len(content) - header_size
    if got != expected or expected == 0:
        size = " x ".join(str(n) for n in shape)
        raise UserError(f"{path} is damaged: its header says {size} = {expected} values, the file holds {got}")
    # bytearray: PyTorch warns of tensors over memory that must not be written
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header_size).view(shape)


def _load(name: str, data_dir: Path, label_names: tuple[str, ...] | None, source: str) -> ImageDataset:
    if not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir} is no folder: expected the one that holds {', '.join(_FILES)}")
    paths = [_find(data_dir, file) for file in _FILES]
    train, test = _read_split(*paths[:2]), _read_split(*paths[2:])
    if label_names is None:
        label_names = tuple(str(label) for label in range(int(train.labels.max()) + 1))
    for split, path in ((train, paths[1]), (test, paths[3])):
        highest = int(split.labels.max())
        if highest >= len(label_names):
            raise UserError(f"{path} holds the label {highest}: expected 0 to {len(label_names) - 1}")
    if train.images.shape[2:] != test.images.shape[2:]:
        sizes = [" x ".join(str(n) for n in split.images.shape[2:]) for split in (train, test)]
        raise UserError(f"{paths[2]} holds images of {sizes[1]} pixels: expected {sizes[0]} as in {paths[0].name}")
    return small_dataset(name, label_names, train, test, test_name="test", source=source)


def _find(data_dir: Path, file: str) -> Path:
    candidates = (data_dir / file, data_dir / file.removesuffix(".gz"))
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(f"--data-dir {data_dir} holds no {file}, packed or not: expected {', '.join(_FILES)}")


def _read_split(images_path: Path, labels_path: Path) -> TensorSplit:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images and {labels_path.name} {len(labels)} labels: "
            "expected one label per image"
        )
    return TensorSplit(images.unsqueeze(1), labels.long())


def _read_bytes(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; fetch the file again") from error
