"""IDX files: what is written is read, and every way a file can be wrong is one line that names it."""

import gzip
import struct

import numpy as np
import pytest
import torch

from timm_asap.data import TensorSplit, load_dataset
from timm_asap.data.idx import read_idx
from timm_asap.errors import UserError

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"


def idx_bytes(array):
    """The IDX file of an array of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path, array):
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))


@pytest.fixture
def arrays():
    """Sixty training and ten test images of 28 x 28 pixels in ten classes."""
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: rng.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        TRAIN_LABELS: np.arange(60, dtype=np.uint8) % 10,
        TEST_IMAGES: rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        TEST_LABELS: np.arange(10, dtype=np.uint8),
    }


@pytest.fixture
def idx_dir(tmp_path, arrays):
    for name, array in arrays.items():
        write(tmp_path / name, array)
    return tmp_path


def test_pixels_and_labels_survive_in_the_middle_of_a_frame_of_zeros(idx_dir, arrays):
    data = load_dataset("fashion_mnist", idx_dir)

    for split, images, labels in (
        (data.train, TRAIN_IMAGES, TRAIN_LABELS),
        (data.test, TEST_IMAGES, TEST_LABELS),
    ):
        assert isinstance(split, TensorSplit)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape[1:] == (1, 32, 32)
        expected = np.pad(arrays[images], ((0, 0), (2, 2), (2, 2)))
        assert torch.equal(split.images[:, 0], torch.from_numpy(expected))
        assert split.labels.tolist() == arrays[labels].tolist()
    assert data.image_size == (1, 32, 32)
    assert data.num_classes == 10
    assert data.label_names[0] == "T-shirt/top"
    assert data.test_name == "test"
    assert "MIT" in data.source


def test_statistics_are_those_of_the_training_pixels(idx_dir, arrays):
    data = load_dataset("fashion_mnist", idx_dir)
    pixels = np.pad(arrays[TRAIN_IMAGES], ((0, 0), (2, 2), (2, 2))) / 255

    assert data.mean == (round(pixels.mean(), 4),)
    assert data.std == (round(pixels.std(), 4),)


def test_files_may_be_unpacked(idx_dir, arrays):
    expected = load_dataset("fashion_mnist", idx_dir)
    for name, array in arrays.items():
        (idx_dir / name).unlink()
        write(idx_dir / name.removesuffix(".gz"), array)
    assert torch.equal(load_dataset("fashion_mnist", idx_dir).train.images, expected.train.images)


def test_idx_takes_any_number_of_classes_and_leaves_larger_images_unframed(tmp_path, arrays):
    arrays[TRAIN_IMAGES] = np.zeros((60, 40, 48), dtype=np.uint8)
    arrays[TEST_IMAGES] = np.zeros((10, 40, 48), dtype=np.uint8)
    arrays[TRAIN_LABELS][0] = 11
    for name, array in arrays.items():
        write(tmp_path / name, array)

    data = load_dataset("idx", tmp_path)

    assert data.image_size == (1, 40, 48)
    assert data.label_names == tuple(str(label) for label in range(12))
    assert data.std == (1.0,)  # constant images: dividing by their deviation must not give NaN


@pytest.mark.parametrize("name", ["fashion_mnist", "idx"])
def test_without_a_folder_the_files_are_named(name):
    with pytest.raises(UserError, match=r"needs --data-dir.*train-images-idx3-ubyte\.gz"):
        load_dataset(name)


def test_fashion_mnist_without_a_folder_names_the_debian_package():
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        load_dataset("fashion_mnist")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no folder: expected the one that holds train-images"):
        load_dataset("fashion_mnist", tmp_path / "nowhere")


@pytest.mark.parametrize("missing", [TRAIN_IMAGES, TEST_LABELS])
def test_a_missing_file(idx_dir, missing):
    (idx_dir / missing).unlink()
    with pytest.raises(UserError, match=f"holds no {missing}"):
        load_dataset("fashion_mnist", idx_dir)


def corrupt(data):
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x55 for byte in data[middle : middle + 64]) + data[middle + 64 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], r"cannot read \S*train-images\S*gz: .*end-of-stream"),
        (corrupt, r"cannot read \S*train-images\S*gz: "),
        (lambda data: b"<html>404</html>", r"cannot read \S*train-images\S*gz: Not a gzipped file"),
        (lambda data: b"", r"train-images\S*gz is no IDX file of images: .* got an empty file"),
    ],
    ids=["truncated", "corrupt", "a web page", "empty"],
)
def test_a_damaged_gzip(idx_dir, damage, message):
    path = idx_dir / TRAIN_IMAGES
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        load_dataset("fashion_mnist", idx_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x0d\x03" + bytes(12), r"expected it to start with 00000803, got 00000d03"),
        (idx_bytes(np.zeros(5, np.uint8)), r"no IDX file of images: .* got 00000801"),
        (b"\x00\x00\x08\x03\x00", r"cut short: its header takes 16 bytes, the file has 5"),
        (
            idx_bytes(np.zeros((2, 4, 4), np.uint8))[:-1],
            r"header says 2 x 4 x 4 = 32 values, the file holds 31",
        ),
        (idx_bytes(np.zeros((2, 4, 4), np.uint8)) + b"x", r"= 32 values, the file holds 33"),
        (idx_bytes(np.zeros((0, 4, 4), np.uint8)), r"header says 0 x 4 x 4 = 0 values"),
    ],
    ids=["type", "labels for images", "header", "short", "long", "no images"],
)
def test_a_wrong_header(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_more_images_than_labels(idx_dir, arrays):
    write(idx_dir / TRAIN_LABELS, arrays[TRAIN_LABELS][:-1])
    with pytest.raises(UserError, match=rf"{TRAIN_IMAGES} holds 60 images and {TRAIN_LABELS} 59 labels"):
        load_dataset("fashion_mnist", idx_dir)


@pytest.mark.parametrize(("name", "label"), [("fashion_mnist", 10), ("idx", 10)])
def test_a_label_out_of_range(idx_dir, arrays, name, label):
    arrays[TEST_LABELS][3] = label
    write(idx_dir / TEST_LABELS, arrays[TEST_LABELS])
    with pytest.raises(UserError, match=rf"{TEST_LABELS} holds the label 10: expected 0 to 9"):
        load_dataset(name, idx_dir)


def test_test_images_of_another_size(idx_dir):
    write(idx_dir / TEST_IMAGES, np.zeros((10, 28, 27), np.uint8))
    with pytest.raises(UserError, match=rf"{TEST_IMAGES} holds images of 28 x 27 pixels: expected 28 x 28"):
        load_dataset("fashion_mnist", idx_dir)
