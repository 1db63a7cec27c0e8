"""Augmentation settings, random erasing of small images, timm's transforms of large ones, and repeats."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_data_loader import Rows, by_sample, one_pass
from timm_asap.data import AugmentConfig, LazySplit, TensorSplit, build_loader, set_epoch
from timm_asap.data.config import PixelConfig
from timm_asap.data.small_images import draw_boxes, draw_noise, erase
from timm_asap.data.splits import large_dataset, small_dataset
from timm_asap.errors import UserError

COUNT = 24


@pytest.fixture
def small():
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 40), dtype=torch.uint8, generator=torch.manual_seed(0))
    split = TensorSplit(pixels, torch.arange(COUNT))
    return small_dataset("noise", tuple(map(str, range(COUNT))), split, split, test_name="test", source="noise")


@pytest.fixture
def large(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
        records.append({"bytes": None, "path": str(path)})
    split = LazySplit(Rows(records), "image", "label", torch.arange(6))
    return large_dataset("photos", tuple("abcdef"), split, split, test_name="test", source="noise")


def images_of(data, **augment):
    options = {"pixels": PixelConfig(input_size=(3, 48, 48))} if isinstance(data.train, LazySplit) else {}
    config = AugmentConfig(**augment)
    loader = build_loader(data.train, data, 2, training=True, augment=config, drop_last=False, **options)
    return by_sample(loader)


# settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_ratio": (0.0, 1.0)}, r"crop ratio is two ratios .*0 < low <= high, got 0\.0 1\.0"),
        ({"train_crop_mode": "random"}, "unknown crop mode 'random': expected one of rkrc, rkrr, rrc"),
        ({"re_prob": 1.5}, r"random erasing has a probability from 0 to 1, got 1\.5"),
        ({"re_mode": "noise"}, "unknown mode of random erasing 'noise': expected one of const, pixel, rand"),
        ({"re_count": 0}, "the rectangles of random erasing are a number from 1 up, got 0"),
        ({"repeats": 0}, "repeats are a number from 1 up, got 0"),
        (
            {"auto_augment": "rand-m9-x3"},
            "'rand-m9-x3' is no policy of timm: expected one such as rand-m9",
        ),
        ({"auto_augment": "best"}, "'best' is no policy of timm"),
        ({"auto_augment": ""}, "'' is no policy of timm"),
        ({"auto_augment": "rand-m9", "three_augment": True}, "3-Augment is a policy of its own"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**options)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original-mstd0.5", "v0", "augmix-m5-w4-d2", "3a"])
def test_timms_policies_are_known(policy):
    assert AugmentConfig(auto_augment=policy).policy == policy


# random erasing of small images


@pytest.fixture
def boxes():
    augment = AugmentConfig(re_prob=0.25, re_count=1)
    return draw_boxes(40_000, (32, 40), augment, torch.manual_seed(0))


def test_boxes_come_as_often_and_as_large_as_timms(boxes):
    top, left, height, width, _ = boxes[:, 0].unbind(1)
    hit = height > 0
    assert hit.float().mean() == pytest.approx(0.25, abs=0.01)
    assert ((height < 32) & (width < 40)).all()
    assert (top + height <= 32).all()
    assert (left + width <= 40).all()
    area = (height * width)[hit] / (32 * 40)
    assert 0.01 < area.min() < 0.03 < 0.3 < area.max() < 0.36
    # uniform, but for the very long ones that do not fit and are drawn again
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    log_ratio = (height[hit] / width[hit]).log()
    assert log_ratio.abs().max() < np.log(1 / 0.3) + 0.3
    assert log_ratio.mean().abs() < 0.1


def test_several_boxes_share_the_area():
    boxes = draw_boxes(5000, (32, 32), AugmentConfig(re_prob=1.0, re_count=3), torch.manual_seed(0))
    count = (boxes[:, :, 2] > 0).sum(1)
    torch.testing.assert_close(torch.bincount(count)[1:] / 5000, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    area = (boxes[:, :, 2] * boxes[:, :, 3]).sum(1)
    assert area.max() <= 0.36 * 32 * 32


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_only_what_is_inside_the_box_is_replaced(mode):
    images = torch.full((3, 2, 8, 10), 7.0)
    boxes = torch.tensor([[[2, 3, 4, 5, 11]], [[0, 0, 0, 0, 0]], [[0, 0, 2, 2, 50]]])
    noise = draw_noise(2, (8, 10), torch.manual_seed(0))
    erased = erase(images, boxes, mode, noise)
    assert erased is images
    patch = images[0, :, 2:6, 3:8]
    assert (images[0] == 7).sum() == 2 * (80 - 20)
    assert (images[1] == 7).all()
    assert (images[2] == 7).sum() == 2 * (80 - 4)
    assert not (patch == 7).any()
    distinct = {"const": 1, "rand": 2, "pixel": 40}[mode]
    assert len(patch.unique()) == distinct
    if mode == "const":
        assert (patch == 0).all()


def test_erased_noise_is_normal(small):
    split = TensorSplit(torch.full((2000, 1, 32, 32), 128, dtype=torch.uint8), torch.zeros(2000, dtype=torch.int64))
    data = small_dataset("flat", ("a",), split, split, test_name="test", source="")
    augment = AugmentConfig(re_prob=1.0, re_mode="pixel")
    images, _ = one_pass(
        build_loader(
            split, data, 100, training=True, augment=augment, pixels=PixelConfig(mean=(128 / 255,), std=(0.5,))
        )
    )
    noise = images[images.abs() > 1e-6]
    assert noise.mean().abs() < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1


def test_erasing_depends_on_seed_epoch_and_sample_alone(small):
    augment = AugmentConfig(crop_padding=2, re_prob=0.5)
    few, many = (build_loader(small.train, small, size, training=True, augment=augment) for size in (4, 12))
    looks = []
    for epoch in (0, 1):
        for loader in (few, many):
            set_epoch(loader, epoch)
        looks.append(by_sample(few))
        other = by_sample(many)
        assert all(torch.equal(looks[-1][number], other[number]) for number in range(COUNT))
    assert sum(torch.equal(looks[0][number], looks[1][number]) for number in range(COUNT)) < COUNT // 4
    plain = build_loader(small.train, small, 4, training=False)
    assert all(torch.equal(a, b) for a, b in zip(*(by_sample(plain).values() for _ in range(2)), strict=True))


def test_policies_are_for_large_images(small):
    with pytest.raises(UserError, match="auto-augment 'rand-m9' is for images above 64 pixels"):
        build_loader(small.train, small, 4, training=True, augment=AugmentConfig(auto_augment="rand-m9"))
    build_loader(small.test, small, 4, training=False, augment=AugmentConfig(three_augment=True))


# large images


@pytest.mark.parametrize(
    "change",
    [
        {"auto_augment": "rand-m9-mstd0.5-inc1"},
        {"three_augment": True},
        {"re_prob": 1.0},
        {"crop_scale": (0.9, 1.0)},
        {"crop_ratio": (2.0, 2.1)},
        {"train_crop_mode": "rkrr"},
        {"color_jitter": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_reaches_timms_transform_and_repeats_itself(large, change):
    plain, changed, again = images_of(large), images_of(large, **change), images_of(large, **change)
    assert not all(torch.equal(plain[number], changed[number]) for number in plain)
    assert all(torch.equal(changed[number], again[number]) for number in plain)


def test_three_augment_greys_solarizes_or_blurs(large):
    looks = images_of(large, three_augment=True, color_jitter=0.0)
    loader = build_loader(
        large.train,
        large,
        6,
        training=True,
        augment=AugmentConfig(three_augment=True, color_jitter=0.0),
        pixels=PixelConfig(input_size=(3, 48, 48), mean=(0.0,) * 3, std=(1.0,) * 3),
    )
    gray = 0
    for epoch in range(6):
        set_epoch(loader, epoch)
        images, _ = one_pass(loader)
        gray += sum((image - image[:1]).abs().max().item() < 1e-6 for image in images)
    assert 0.15 < gray / 36 < 0.55
    assert len(looks) == 6


# repeats


@pytest.mark.parametrize("kind", ["small", "large"])
def test_repeats_show_fewer_images_as_different_copies(kind, request):
    data = request.getfixturevalue(kind)
    augment = AugmentConfig(crop_padding=3, horizontal_flip=True, repeats=3)
    options = {"pixels": PixelConfig(input_size=(3, 48, 48))} if kind == "large" else {}
    loader = build_loader(data.train, data, 3, training=True, augment=augment, **options)
    count = len(data.train)
    images, labels = one_pass(loader)
    assert len(labels) == count
    assert len(labels.unique()) == count // 3
    together = labels.view(-1, 3)
    assert (together == together[:, :1]).all()
    assert len(images.unique(dim=0)) > 0.9 * count
    set_epoch(loader, 1)
    assert not torch.equal(one_pass(loader)[0], images)
