"""Validation: a seeded, stratified share of the training samples, or the split that a data set brings along."""

from dataclasses import replace

import datasets
import pytest
import torch

from tests.data.test_data_huggingface import parquet_folder, table
from timm_asap.data import LazySplit, load_dataset
from timm_asap.data.split_choice import hold_out, hold_out_validation
from timm_asap.data.splits import TensorSplit, channel_statistics, large_dataset, small_dataset
from timm_asap.errors import UserError


@pytest.fixture
def numbered():
    """Sixty images that show their number, in three classes of thirty, twenty and ten."""
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 32, 32).contiguous()
    train = TensorSplit(images, torch.tensor([0] * 30 + [1] * 20 + [2] * 10))
    return small_dataset("numbers", ("a", "b", "c"), train, train.select(torch.arange(5)), test_name="test", source="")


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


def test_validation_is_a_stratified_share_of_train_and_test_stays(numbered):
    data = hold_out_validation(numbered, 0.2, seed=0)
    assert torch.bincount(data.val.labels).tolist() == [6, 4, 2]
    assert sorted(numbers(data.train) + numbers(data.val)) == list(range(60))
    assert torch.equal(data.val.labels, numbered.train.labels[numbers(data.val)])
    assert data.test is numbered.test
    assert (data.test_name, data.val_name) == ("test", "held-out 20 % of train, seed 0")


def test_the_statistics_are_those_of_what_is_left_to_train_on(numbered):
    data = hold_out_validation(numbered, 0.5, seed=0)
    assert (data.mean, data.std) == channel_statistics(data.train.images)
    assert data.mean != numbered.mean


def test_the_seed_alone_chooses(numbered):
    first, again, other = (numbers(hold_out(numbered.train, 0.2, seed)[1]) for seed in (1, 1, 2))
    assert first == again != other


def test_large_images_keep_imagenets_statistics(numbered):
    class Rows:
        def select(self, rows):
            return tuple(rows)

    train = LazySplit(Rows(), "image", "label", torch.arange(40) % 4)
    data = large_dataset("photos", tuple("abcd"), train, train, test_name="test", source="")
    divided = hold_out_validation(data, 0.25, seed=0)
    assert (len(divided.train), len(divided.val)) == (30, 10)
    assert set(divided.train.dataset) | set(divided.val.dataset) == set(range(40))
    assert divided.mean == data.mean


def test_a_data_set_by_name_and_its_share():
    whole, data = load_dataset("digits"), load_dataset("digits", val_share=0.1)
    assert torch.equal(data.test.images, whole.test.images)
    assert len(data.val) == 144
    assert len(data.train) + 144 == len(whole.train)
    assert whole.val is whole.val_name is None


def test_the_validation_split_of_a_data_set(tmp_path):
    rows = table()
    path = parquet_folder(tmp_path, train=rows, validation=rows.select(range(4)), test=rows.select(range(2)))
    data = load_dataset(path)
    assert (len(data.test), data.test_name, len(data.val), data.val_name) == (2, "test", 4, "validation")
    data = load_dataset(path, val_share=0.5)
    assert (len(data.val), data.val_name) == (6, "held-out 50 % of train, seed 0")


def test_a_validation_split_that_is_trained_or_measured_on_is_not_chosen_by(tmp_path):
    datasets.DatasetDict(train=table(), validation=table(4)).save_to_disk(tmp_path / "two")
    assert load_dataset(str(tmp_path / "two")).val is None
    datasets.DatasetDict(train=table(), validation=table(4), test=table(2)).save_to_disk(tmp_path / "three")
    data = load_dataset(str(tmp_path / "three"), train_split="train", test_split="validation")
    assert data.val is None


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_impossible_shares(share):
    with pytest.raises(UserError, match="--val-share is a share of the training samples, expected 0 <= share < 1"):
        load_dataset("digits", val_share=share)


def test_too_few_samples(numbered):
    few = replace(numbered, train=numbered.train.select(torch.tensor([0, 1, 59])))
    with pytest.raises(UserError, match=r"--val-share 0\.2: 20 % of the 3 training samples cannot be held out"):
        hold_out_validation(few, 0.2, seed=0)
