"""Checkpoints: what is saved comes back equal, a damaged one is noticed, and nothing else is believed."""

import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from torch import nn

from tests.support.tiny_run import equal
from timm_asap.errors import UserError
from timm_asap.training import checkpoint
from timm_asap.training.checkpoint import CheckpointFolder, get_random_state, read_checkpoint, set_random_state


def trained_state(opt="sgd"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = create_optimizer_v2(model, opt=opt, lr=0.1, momentum=0.9)
    for _ in range(2):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": {"epoch": 1, "best": 0.1}}


def save(folder, step=1, **more):
    return CheckpointFolder(folder).save(trained_state() | more, step)


@pytest.mark.parametrize("opt", ["sgd", "adamw", "lion", "lamb", "muon"])
def test_saved_state_comes_back_equal(opt, tmp_path):
    state = trained_state(opt)
    path = CheckpointFolder(tmp_path / "checkpoints").save(state, step=3)
    found, back = CheckpointFolder(tmp_path / "checkpoints").newest()
    assert found == path
    assert back.pop("version") == checkpoint.VERSION
    assert equal(back, state)


def test_random_generators_go_on_where_they_were(tmp_path):
    def draw():
        return random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()

    state = trained_state()
    draw()  # an odd number of Gaussians: their generators keep a spare one
    path = CheckpointFolder(tmp_path).save(state | {"random": get_random_state()}, 1)
    expected = draw(), draw()
    draw()
    set_random_state(read_checkpoint(path)["random"])
    assert (draw(), draw()) == expected


def test_no_pickle_is_loaded(tmp_path, monkeypatch):
    path = save(tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    read_checkpoint(path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["state"].startswith('{"dict":')


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\x80\x04K\x01." + content,
        lambda content: content.replace(b"dict", b"tcid", 1),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),  # one bit of the last weight
    ],
)
def test_a_damaged_newest_one_gives_way_to_the_one_before(damage, tmp_path):
    older, newer = save(tmp_path, step=1), save(tmp_path, step=2)
    newer.write_bytes(damage(newer.read_bytes()))
    with pytest.warns(UserWarning, match=rf"checkpoint .*{newer.name} is damaged .*; the one before it is used"):
        found, _ = CheckpointFolder(tmp_path).newest()
    assert found == older
    older.write_bytes(damage(older.read_bytes()))
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(UserError, match=r"every checkpoint in .* is damaged: start again with --overwrite"),
    ):
        CheckpointFolder(tmp_path).newest()


def test_no_checkpoint_at_all(tmp_path):
    assert CheckpointFolder(tmp_path / "none").newest() is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(trained_state(), step, best_step=2)
    assert [path.name.split(".")[0] for path in folder.files()] == ["step-00000005", "step-00000004", "step-00000002"]


def test_the_same_step_again_replaces_the_checkpoint(tmp_path):
    first = save(tmp_path, step=4)
    second = save(tmp_path, step=4, seconds=1.5)
    assert first != second
    assert CheckpointFolder(tmp_path).files() == [second]


def test_a_file_of_other_tensors_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors: expected version 2, got None"):
        read_checkpoint(tmp_path / "other.safetensors")


def test_a_full_disk_is_one_line_and_keeps_the_older_file(tmp_path, monkeypatch):
    older = save(tmp_path, step=1)

    def stop_half_way(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", stop_half_way)
    with pytest.raises(UserError, match=r"step 2 cannot be written .*\(No space left on device\): make room") as caught:
        save(tmp_path, step=2)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [older]
    assert CheckpointFolder(tmp_path).newest()[0] == older


def test_what_is_no_plain_value_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"got a object at state.odd"):
        save(tmp_path, odd=object())
