"""Mixup and cutmix: what is mixed with what, soft targets, and the numbers that alone decide."""

import random

import numpy as np
import pytest
import torch

from timm_asap.data import MixupConfig, build_mixup
from timm_asap.errors import UserError

SIZE = 16


@pytest.fixture
def batch():
    labels = torch.arange(8) % 5
    return torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, SIZE, SIZE).clone(), labels


def mixed(batch, config, *numbers, classes=5, **options):
    images, labels = batch
    return build_mixup(config, classes, **options)(images.clone(), labels, *numbers)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixup_blends_images_and_labels_by_the_same_share(batch, mode):
    images, targets = mixed(batch, MixupConfig(mixup_alpha=1.0, mode=mode), 0)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    for own, other, image, target in zip(range(8), range(7, -1, -1), images, targets, strict=True):
        assert image.std() < 1e-5
        share = (image.mean() - other) / (own - other)
        expected = torch.zeros(5)
        expected[own % 5] += share
        expected[other % 5] += 1 - share
        torch.testing.assert_close(target, expected, atol=1e-5, rtol=0)
    assert not torch.equal(images, batch[0])


def test_cutmix_pastes_a_rectangle_and_labels_it_by_its_area(batch):
    images, targets = mixed(batch, MixupConfig(cutmix_alpha=1.0), 3)
    for own, other, image, target in zip(range(8), range(7, -1, -1), images, targets, strict=True):
        assert set(image.unique().tolist()) <= {float(own), float(other)}
        kept = (image == own).float().mean()
        expected = torch.zeros(5)
        expected[own % 5] += kept
        expected[other % 5] += 1 - kept
        torch.testing.assert_close(target, expected)
    assert 0 < (images[0] == 7).float().mean() < 1


def test_the_numbers_alone_decide_and_the_global_generators_stay(batch):
    config = MixupConfig(mixup_alpha=0.8, cutmix_alpha=1.0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    mix = build_mixup(config, 5)
    seen = [mix(batch[0].clone(), batch[1], 7, 1, step)[0] for step in range(20)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    torch.manual_seed(9)
    resumed = build_mixup(config, 5)(batch[0].clone(), batch[1], 7, 1, 13)[0]
    assert torch.equal(resumed, seen[13])
    assert len(torch.stack(seen).unique(dim=0)) == 20
    blended = sum(image[0].std().item() < 1e-5 for image in seen)
    assert 3 < blended < 17  # both kinds come


def test_probability_and_smoothing(batch):
    config = MixupConfig(mixup_alpha=1.0, prob=0.5)
    mix = build_mixup(config, 5)
    untouched = sum(torch.equal(mix(batch[0].clone(), batch[1], step)[0], batch[0]) for step in range(60))
    assert 15 < untouched < 45
    _, targets = mixed(batch, MixupConfig(), 0, label_smoothing=0.1)
    assert targets[0].tolist() == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02])


@pytest.mark.parametrize("config", [MixupConfig(), MixupConfig(mixup_alpha=1.0, prob=0.0)])
def test_nothing_to_mix(batch, config):
    images, targets = mixed(batch, config, 0)
    assert not config.mixes
    assert torch.equal(images, batch[0])
    assert torch.equal(targets, torch.nn.functional.one_hot(batch[1], 5).float())


def test_an_odd_batch():
    mix = build_mixup(MixupConfig(mixup_alpha=1.0), 5)
    with pytest.raises(UserError, match="expected an even number of images per process, got 7; change --batch-size"):
        mix(torch.zeros(7, 3, 4, 4), torch.zeros(7, dtype=torch.int64), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -1}, "mixup alpha is a number from 0 up, got -1"),
        ({"cutmix_alpha": float("nan")}, "cutmix alpha is a number from 0 up, got nan"),
        ({"prob": 2}, "mixup's prob is a probability"),
        ({"mode": "half"}, "unknown mode of mixup 'half': expected one of batch, elem, pair"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UserError, match=message):
        MixupConfig(**options)
