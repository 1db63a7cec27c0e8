"""Loaders: what a sample looks like depends on seed, epoch and sample, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from torchvision.transforms import functional as tv

from timm_asap.data import AugmentConfig, LazySplit, TensorSplit, build_loader, set_epoch
from timm_asap.data.config import PixelConfig
from timm_asap.data.small_images import draw_shifts_and_flips, shift_and_flip
from timm_asap.data.splits import large_dataset, small_dataset
from timm_asap.errors import UserError

AUGMENT = AugmentConfig(crop_padding=3, horizontal_flip=True)
COUNT = 53
# what Python 3.12 and later say of every loader with worker processes
FORK_WARNING = "ignore:This process .* is multi-threaded:DeprecationWarning"


@pytest.fixture
def data():
    """Numbered noise: the label is the sample's number."""
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 40), dtype=torch.uint8, generator=torch.manual_seed(0))
    split = TensorSplit(pixels, torch.arange(COUNT))
    names = tuple(str(number) for number in range(COUNT))
    return small_dataset("noise", names, split, split, test_name="test", source="noise")


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    for state in (AcceleratorState, PartialState):
        state._reset_state()
    GradientState._reset_state()


class Rows:
    """A table of images as `datasets` gives it, undecoded."""

    def __init__(self, records):
        self.records = records

    def __getitem__(self, index):
        return {"image": self.records[index]}


@pytest.fixture
def large(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
        records.append({"bytes": None, "path": str(path)})
    split = LazySplit(Rows(records), "image", "label", torch.arange(6))
    names = tuple("abcdef")
    return large_dataset("photos", names, split, split, test_name="test", source="noise")


def training_loader(data, batch_size=8, **options):
    return build_loader(data.train, data, batch_size, training=True, augment=AUGMENT, **options)


def one_pass(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def by_sample(loader):
    images, labels = one_pass(loader)
    return {int(label): image for image, label in zip(images, labels, strict=True)}


def assert_same_batches(loader, expected):
    loader, expected = list(loader), list(expected)
    assert len(loader) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(loader, expected, strict=True):
        assert torch.equal(labels, expected_labels)
        assert torch.equal(images, expected_images)


# augmentation


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (3, False), (4, True)])
def test_each_image_is_shifted_and_flipped_by_its_own_row(padding, flip):
    images = torch.randint(0, 256, (64, 2, 12, 9), dtype=torch.uint8, generator=torch.manual_seed(1))
    augment = AugmentConfig(crop_padding=padding, horizontal_flip=flip)
    drawn = draw_shifts_and_flips(64, augment, torch.manual_seed(2))

    out = shift_and_flip(images, drawn, padding)

    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for image, (top, left, mirrored), changed in zip(padded, drawn.tolist(), out, strict=True):
        expected = image[:, top : top + 12, left : left + 9]
        assert torch.equal(changed, expected.flip(2) if mirrored else expected)


def test_all_shifts_and_both_sides_come_equally_often():
    drawn = draw_shifts_and_flips(50_000, AugmentConfig(crop_padding=2, horizontal_flip=True), torch.manual_seed(0))
    for column, values in ((0, 5), (1, 5), (2, 2)):
        share = torch.bincount(drawn[:, column]) / len(drawn)
        torch.testing.assert_close(share, torch.full((values,), 1 / values), atol=0.01, rtol=0)
    assert len(drawn.unique(dim=0)) == 5 * 5 * 2


def test_without_flip_nothing_is_mirrored():
    assert draw_shifts_and_flips(1000, AugmentConfig(crop_padding=2), torch.manual_seed(0))[:, 2].sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop padding is a number of pixels from 0 up, got -1"),
        ({"crop_scale": (0.0, 1.0)}, "0 < low <= high <= 1, got 0.0 1.0"),
        ({"crop_scale": (0.9, 0.5)}, "crop scale"),
        ({"color_jitter": -0.1}, "color jitter"),
    ],
)
def test_impossible_ranges(options, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**options)


# batches of small images


def test_evaluation_gives_every_image_once_in_order_and_normalized(data):
    images, labels = one_pass(build_loader(data.test, data, 8, training=False))
    assert labels.tolist() == list(range(COUNT))
    assert images.dtype == torch.float32
    for image, pixels in zip(images, data.test.images, strict=True):
        expected = tv.normalize(tv.to_tensor(pixels.permute(1, 2, 0).numpy()), data.mean, data.std)
        assert torch.equal(image, expected)


def test_training_shuffles_and_leaves_out_the_incomplete_batch(data):
    _, labels = one_pass(training_loader(data))
    assert len(labels) == COUNT // 8 * 8
    assert labels.tolist() != sorted(labels.tolist())
    assert len(set(labels.tolist())) == len(labels)
    _, labels = one_pass(training_loader(data, drop_last=False))
    assert sorted(labels.tolist()) == list(range(COUNT))


def test_a_split_smaller_than_a_batch_still_trains(data):
    assert len(list(training_loader(data, batch_size=64))) == 1


def test_training_images_keep_the_statistics(data):
    images, _ = one_pass(build_loader(data.train, data, 8, training=True, augment=AugmentConfig()))
    assert images.mean().abs() < 0.05
    assert abs(images.std() - 1) < 0.05


def test_a_sample_looks_the_same_at_every_batch_size(data):
    small, large = (training_loader(data, batch_size, drop_last=False) for batch_size in (3, 20))
    for epoch in (0, 5):
        for loader in (small, large):
            set_epoch(loader, epoch)
        images, labels = one_pass(small)
        expected_images, expected_labels = one_pass(large)
        assert torch.equal(labels, expected_labels)
        assert torch.equal(images, expected_images)


def test_samples_are_augmented_independently(data):
    split = TensorSplit(data.train.images[:1].expand(COUNT, -1, -1, -1), data.train.labels)
    images, _ = one_pass(build_loader(split, data, COUNT, training=True, augment=AUGMENT))
    assert len(images.unique(dim=0)) > COUNT // 2


def test_epoch_and_seed_change_order_and_augmentation(data):
    loader = training_loader(data, drop_last=False)
    set_epoch(loader, 1)
    images, labels = one_pass(loader)
    first = by_sample(loader)
    set_epoch(loader, 2)
    next_epoch = loader
    other_seed = training_loader(data, drop_last=False, seed=1)
    set_epoch(other_seed, 1)
    for other in (next_epoch, other_seed):
        assert one_pass(other)[1].tolist() != labels.tolist()
        looks = by_sample(other)
        assert sum(torch.equal(looks[number], first[number]) for number in first) < COUNT // 4
    set_epoch(loader, 1)
    assert_same_batches([one_pass(loader)], [(images, labels)])


def test_iterating_leaves_the_global_generators_alone(data, large):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(training_loader(data))
    list(training_loader(large, batch_size=2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_other_input_sizes(data):
    size = (3, 64, 48)
    images, _ = one_pass(
        build_loader(data.test, data, 8, training=False, pixels=PixelConfig(input_size=size, mean=(0,), std=(1,)))
    )
    assert images.shape[1:] == size
    expected = data.test.images.float().mean(dim=(2, 3)) / 255
    torch.testing.assert_close(images.mean(dim=(2, 3)), expected, atol=5e-3, rtol=0)


def test_grey_images_for_a_color_network():
    split = TensorSplit(torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8), torch.arange(4))
    data = small_dataset("gray", tuple("abcd"), split, split, test_name="test", source="noise")
    loader = build_loader(
        split, data, 4, training=False, pixels=PixelConfig(input_size=(3, 32, 32), mean=(0.0, 0.5, 0.0), std=(1, 1, 2))
    )
    images, _ = one_pass(loader)
    gray = split.images[:, 0] / 255
    assert torch.equal(images, torch.stack([gray, gray - 0.5, gray / 2], dim=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": PixelConfig(input_size=(1, 32, 32))}, "'noise' has 3 channels per image, the network takes 1"),
        ({"pixels": PixelConfig(mean=(0.5, 0.5))}, "mean has 2 values for images of 3 channels"),
        ({"batch_size": 0}, "--batch-size is a number from 1 up, got 0"),
    ],
)
def test_sizes_that_do_not_fit(data, options, message):
    with pytest.raises(UserError, match=message):
        build_loader(data.train, data, **{"batch_size": 8, "training": True, **options})


# under accelerate


def expected_at(data, epoch, **options):
    loader = training_loader(data, **options)
    set_epoch(loader, epoch)
    return list(loader)


def test_a_prepared_loader_takes_an_epoch_and_goes_on_by_itself(data, accelerator):
    loader = accelerator.prepare(training_loader(data))
    assert_same_batches(loader, expected_at(data, 0))
    assert_same_batches(loader, expected_at(data, 1))
    set_epoch(loader, 7)
    assert_same_batches(loader, expected_at(data, 7))
    assert_same_batches(loader, expected_at(data, 8))


def shard(data, process, epoch):
    loader = prepare_data_loader(training_loader(data), num_processes=2, process_index=process)
    set_epoch(loader, epoch)
    return loader


@pytest.mark.parametrize("epoch", [0, 4])
def test_two_processes_share_the_batches_of_one(data, accelerator, epoch):
    whole = expected_at(data, epoch)
    assert len(whole) == 6
    for process in (0, 1):
        assert_same_batches(shard(data, process, epoch), whole[process::2])


@pytest.mark.parametrize("kind", ["plain", "prepared", "shard"])
def test_skipped_batches_leave_the_same_rest(data, accelerator, kind):
    loader = shard(data, 1, 0) if kind == "shard" else training_loader(data)
    if kind == "prepared":
        loader = accelerator.prepare(loader)
    set_epoch(loader, 3)
    whole = expected_at(data, 3)[1::2] if kind == "shard" else expected_at(data, 3)
    assert_same_batches(skip_first_batches(loader, 2), whole[2:])


# large images


def test_large_images_come_at_the_input_size(large):
    images, labels = one_pass(
        build_loader(large.test, large, 4, training=False, pixels=PixelConfig(input_size=(3, 96, 96)))
    )
    assert images.shape == (6, 3, 96, 96)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == list(range(6))
    assert -3 < images.min() < -1 < 1 < images.max() < 3  # ImageNet's normalization


@pytest.mark.filterwarnings(FORK_WARNING)
def test_workers_change_nothing_in_any_epoch(large):
    here, workers = (
        training_loader(large, 2, pixels=PixelConfig(input_size=(3, 64, 64)), num_workers=number) for number in (0, 2)
    )
    looks = []
    for epoch in (0, 1):
        for loader in (here, workers):
            set_epoch(loader, epoch)
        assert_same_batches(workers, here)
        looks.append(by_sample(here))
    assert not any(torch.equal(looks[0][number], looks[1][number]) for number in range(6))


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_breaks_later_is_named_in_one_line(large, num_workers):
    path = large.train.dataset.records[3]["path"]
    with open(path, "wb") as file:
        file.write(b"no image")
    loader = build_loader(large.train, large, 2, training=False, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    formats = "JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"
    reason = f"not an image that is decoded here ({formats}); replace the file or remove it"
    assert str(caught.value) == f"cannot read {path}: {reason}"


def test_large_images_have_three_channels(large):
    with pytest.raises(UserError, match="'photos' has 3 channels per image, the network takes 1"):
        build_loader(large.train, large, 2, training=True, pixels=PixelConfig(input_size=(1, 224, 224)))
