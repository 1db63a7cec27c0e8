"""Data sets by name, and the bundled digits."""

import pytest
import torch

from timm_asap.data import default_augment, load_dataset
from timm_asap.data.split_choice import hold_out_fifth
from timm_asap.data.splits import TensorSplit
from timm_asap.errors import UserError


def test_digits_are_the_bundled_scans_at_32_pixels():
    data = load_dataset("digits")

    assert len(data.train) + len(data.test) == 1797
    assert data.image_size == tuple(data.train.images.shape[1:]) == (1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert data.label_names == tuple("0123456789")
    assert data.test_name == "held-out fifth, seed 0"
    # the scans use all of 0 to 16, so the images use all of 0 to 255
    assert data.train.images.max() > 250
    assert data.train.images.min() == 0
    # zeros (a ring) are dark in their middle, ones (a bar) bright
    middles = [data.train.images[data.train.labels == d, 0, 14:18, 14:18].float().mean() for d in (0, 1)]
    assert middles[0] < 60 < 150 < middles[1]


def test_held_out_digits_are_a_stratified_fifth():
    data = load_dataset("digits")
    assert len(data.test) == 360
    per_class = torch.bincount(data.test.labels) / torch.bincount(data.train.labels)
    assert ((per_class > 0.22) & (per_class < 0.28)).all()


def test_the_seed_and_nothing_else_chooses_the_fifth():
    first, again, other = (load_dataset("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.test.images, again.test.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.test.images, other.test.images)
    assert first.test_name == "held-out fifth, seed 1"


def test_no_sample_is_on_both_sides():
    numbered = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    train, test, _ = hold_out_fifth(TensorSplit(numbered, torch.arange(100) % 4), seed=3)
    both_sides = torch.cat([train.images, test.images]).flatten()
    assert sorted(both_sides.tolist()) == list(range(100))
    assert torch.equal(test.labels, test.images.flatten() % 4)
    assert torch.equal(train.labels, train.images.flatten() % 4)


def test_too_few_samples_to_hold_any_out():
    split = TensorSplit(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 1]))
    with pytest.raises(UserError, match=r"no test split, and 66\.7 % of the 3 training samples cannot be held out"):
        hold_out_fifth(split, seed=0)


@pytest.mark.parametrize("name", ["digit", "fashion-mnist", "cifar10"])
def test_an_unknown_name_lists_the_valid_ones(name):
    with pytest.raises(UserError, match=rf"unknown data set '{name}'.*digits, fashion_mnist.*Hugging Face id"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("name", "options", "flags"),
    [
        ("digits", {"data_dir": "."}, "--data-dir"),
        ("digits", {"image_key": "img", "test_split": "test"}, "--image-key, --test-split"),
        ("fashion_mnist", {"data_dir": ".", "label_key": "label"}, "--label-key"),
    ],
)
def test_flags_that_would_do_nothing(name, options, flags):
    with pytest.raises(UserError, match=f"data set '{name}' takes no {flags}"):
        load_dataset(name, **options)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(UserError, match="--seed is a number from 0"):
        load_dataset("digits", seed=seed)


@pytest.mark.parametrize(
    ("name", "padding", "flip"),
    [
        ("digits", 2, False),
        ("ylecun/mnist", 2, False),
        ("ufldl-stanford/svhn", 4, False),
        ("fashion_mnist", 2, True),
        ("zalando-datasets/fashion_mnist", 2, True),
        ("uoft-cs/cifar10", 4, True),
        ("imagefolder", 4, True),
    ],
)
def test_digits_are_never_mirrored_by_default(name, padding, flip):
    augment = default_augment(name)
    assert (augment.crop_padding, augment.horizontal_flip) == (padding, flip)
