"""Intervals, the choice of images, the match of classes, and batches, each against answers worked by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tiny_evaluation import write_model
from timm_asap.data import TensorSplit, load_dataset
from timm_asap.data.config import PixelConfig
from timm_asap.data.labels import ChosenClasses, choose_classes, match_labels
from timm_asap.data.splits import small_dataset
from timm_asap.errors import UserError
from timm_asap.evaluation.models import PixelBatches, choose_images, open_model, weights_sha256
from timm_asap.evaluation.statistics import bootstrap_means, percentile_interval, wilson_interval


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # z^2 / (n + z^2) and its mirror image: what the formula gives at the ends
        (0, 10, 0.0, 100 * 3.841459 / 13.841459),
        (10, 10, 100 - 100 * 3.841459 / 13.841459, 100.0),
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263 and 15/148
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
    ],
)
def test_wilson_interval(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-3)


def test_bootstrap_draws_images_with_replacement():
    """The counts are those of resampled images: same mean and variance, and the same interval as the slow way."""
    rng = np.random.default_rng(1)
    values = rng.choice([-1, 0, 0, 0, 1, 1], size=200)
    fast = bootstrap_means(values, seed=0, resamples=20_000)
    slow = np.array([rng.choice(values, size=200).mean() for _ in range(20_000)])
    assert fast.mean() == pytest.approx(values.mean(), abs=0.005)
    assert fast.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.03)
    assert percentile_interval(fast) == pytest.approx(percentile_interval(slow), abs=0.011)
    assert np.array_equal(fast, bootstrap_means(values, seed=0, resamples=20_000))
    assert not np.array_equal(fast, bootstrap_means(values, seed=1, resamples=20_000))


def test_bootstrap_of_images_that_agree_has_no_width():
    assert percentile_interval(bootstrap_means(np.ones(7), seed=0)) == (1.0, 1.0)


def test_images_are_drawn_by_class_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen = choose_images(labels, 20, seed=0)
    assert labels[chosen].bincount().tolist() == [12, 6, 2]
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, choose_images(labels, 20, seed=0))
    assert not torch.equal(chosen, choose_images(labels, 20, seed=1))
    assert set(choose_images(labels, 7, seed=0).tolist()) < set(chosen.tolist())
    assert torch.equal(choose_images(labels, None, 0), torch.arange(100))
    assert torch.equal(choose_images(labels, 100, 0), torch.arange(100))
    assert len(choose_images(labels, 1, 0)) == 1


def test_fewer_images_than_classes_are_not_always_of_the_first_class():
    labels = torch.arange(10).repeat(5)
    firsts = {int(labels[choose_images(labels, 1, seed)]) for seed in range(20)}
    assert len(firsts) > 5


def test_classes_match_by_name_and_may_be_some():
    assert match_labels(["cat", "dog"], ["dog", "bird", "Cat"], 3) == [2, 0]
    assert match_labels(["hot_dog"], ["hot dog", "bun"], 2) == [0]
    assert match_labels(["a", "b"], None, 2) == [0, 1]


def test_folders_of_synsets_are_classes_of_imagenet():
    # tench, goldfish and great white shark are the first three
    assert match_labels(["n01443537", "n01484850", "n01440764"], None, 1000) == [1, 2, 0]


def test_folders_of_numbers_are_those_classes():
    """ImageNetV2's folders are 0 to 999, which sort as 0, 1, 10, 100, ..."""
    names = sorted(map(str, range(1000)))
    assert match_labels(names, None, 1000)[:4] == [0, 1, 10, 100]


def test_ten_digits_are_no_classes_of_imagenet():
    with pytest.raises(UserError, match=r"the data have 10 classes .* and the model has 1000"):
        match_labels([str(n) for n in range(10)], None, 1000)


def test_a_model_chooses_among_the_classes_of_the_data():
    scores = torch.tensor([[9.0, 1.0, 2.0]])
    model = ChosenClasses(torch.nn.Identity(), [2, 1])
    assert model(scores).tolist() == [[2.0, 1.0]]
    plain = torch.nn.Identity()
    assert choose_classes(plain, [0, 1, 2], 3) is plain
    assert isinstance(choose_classes(plain, [0, 1], 3), ChosenClasses)
    assert isinstance(choose_classes(plain, [1, 0, 2], 3), ChosenClasses)


def test_the_sha_is_of_names_shapes_and_values():
    layer = torch.nn.BatchNorm1d(2)  # with a number without dimensions
    before = weights_sha256(layer)
    assert before == weights_sha256(torch.nn.BatchNorm1d(2))
    layer.num_batches_tracked += 1
    assert weights_sha256(layer) != before
    assert weights_sha256(torch.nn.Linear(2, 2)) != weights_sha256(torch.nn.Linear(2, 2))


def test_opening_a_model_changes_no_weight(tmp_path):
    folder = write_model(tmp_path / "m", "test_resnet_asap")
    opened = open_model(f"local-dir:{folder}")
    assert (opened.architecture, opened.folder) == ("test_resnet_asap", folder)
    assert opened.asap == {"window": "asap", "boundary": "circular", "layout": "preserve", "stem": "auto"}
    assert opened.label_names == tuple(str(n) for n in range(10))
    assert not opened.network.training
    assert opened.weights_sha256 == open_model(str(folder)).weights_sha256


def batches_of(dataset, split, positions, batch_size, size, **changes):
    settings = {"pixels": PixelConfig(input_size=size, crop_pct=1.0), "device": torch.device("cpu")}
    return PixelBatches(dataset, split, positions, batch_size, **settings | changes)


def test_batches_are_whole_and_the_same_for_every_process():
    digits = load_dataset("digits")
    positions = torch.arange(0, 46, 2)
    batches = batches_of(digits, digits.test, positions, 10, (1, 32, 32))
    assert len(batches) == 3
    alone = list(batches.load([0, 1, 2]))
    assert [len(batch.positions) for batch in alone] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.positions for batch in alone]), positions)
    for batch in alone:
        assert torch.equal(batch.pixels, digits.test.images[batch.positions].float() / 255)
        assert torch.equal(batch.labels, digits.test.labels[batch.positions])
    first, last = batches.load([0, 2])
    assert torch.equal(first.pixels, alone[0].pixels)
    assert torch.equal(last.pixels, alone[2].pixels)


def test_grey_images_come_in_the_channels_and_size_of_the_network():
    digits = load_dataset("digits")
    (batch,) = batches_of(digits, digits.test, torch.arange(3), 8, (3, 48, 48)).load([0])
    assert batch.pixels.shape == (3, 3, 48, 48)
    assert torch.equal(batch.pixels[:, 0], batch.pixels[:, 2])


def test_large_images_are_kept_exactly(tmp_path):
    from timm_asap.evaluation.sources import class_folders

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    split, names, _ = class_folders(tmp_path)
    assert names == ("cat", "dog")
    dataset = load_dataset("digits")
    batches = batches_of(dataset, split, torch.arange(6), 4, (3, 64, 64))
    decoded = [batch.pixels for batch in batches.load([0, 1])]
    kept = [batch.pixels for batch in batches.load([0, 1])]
    assert batches._kept.keys() == {0, 1}
    assert all(torch.equal(a, b) for a, b in zip(decoded, kept, strict=True))
    assert decoded[0].shape == (4, 3, 64, 64)


def test_pixels_outside_the_range_are_refused():
    split = TensorSplit(torch.full((2, 1, 32, 32), 300.0), torch.tensor([0, 1]))
    bytes_ = TensorSplit(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    dataset = small_dataset("bright", ("a", "b"), bytes_, bytes_, test_name="test", source="made here")
    with pytest.raises(UserError, match=r"data set 'bright' has pixels from 1.17647 to 1.17647: expected them in"):
        list(batches_of(dataset, split, torch.arange(2), 2, (1, 32, 32)).load([0]))
