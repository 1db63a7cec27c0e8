"""Checkpoints: what is saved comes back equal, and nothing else is believed."""

import pickle
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from torch import nn

from timm_asap.errors import UserError
from timm_asap.training import checkpoints
from timm_asap.training.checkpoints import Position, load_checkpoint, read_checkpoint, save_checkpoint


def build(opt="sgd", width=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    return Accelerator().prepare(model, create_optimizer_v2(model, opt=opt, lr=0.1, momentum=0.9))


def take_steps(model, optimizer, count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        model(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("opt", ["sgd", "adamw", "lion", "lamb", "muon"])
def test_saved_state_comes_back_equal_and_goes_on_equally(opt, tmp_path):
    path = tmp_path / "checkpoints" / "last.safetensors"
    model, optimizer = build(opt)
    take_steps(model, optimizer, 3, seed=1)
    save_checkpoint(path, Accelerator(), model, optimizer, Position(epoch=2, step=3, best_accuracy=0.1))

    other, its_optimizer = build(opt, seed=5)
    position = load_checkpoint(path, Accelerator(), other, its_optimizer)

    assert position == Position(epoch=2, step=3, best_accuracy=0.1)
    assert equal(other.state_dict(), model.state_dict())
    assert equal(its_optimizer.state_dict(), optimizer.state_dict())
    for m, o in ((model, optimizer), (other, its_optimizer)):
        take_steps(m, o, 2, seed=2)
    assert equal(other.state_dict(), model.state_dict())


def test_random_generators_go_on_where_they_were(tmp_path):
    def draw():
        return random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()

    model, optimizer = build()
    draw()  # an odd number of Gaussians: their generators keep a spare one
    save_checkpoint(tmp_path / "last.safetensors", Accelerator(), model, optimizer, Position())
    expected = draw(), draw()
    draw()
    load_checkpoint(tmp_path / "last.safetensors", Accelerator(), model, optimizer)
    assert (draw(), draw()) == expected


def test_no_pickle_is_loaded(tmp_path, monkeypatch):
    model, optimizer = build("adamw")
    take_steps(model, optimizer, 1, seed=1)
    save_checkpoint(tmp_path / "last.safetensors", Accelerator(), model, optimizer, Position())

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_checkpoint(tmp_path / "last.safetensors", Accelerator(), model, optimizer)
    with safe_open(tmp_path / "last.safetensors", framework="pt") as file:
        assert file.metadata()["state"].startswith('{"dict":')


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\x80\x04K\x01." + content,
        lambda content: content.replace(b"dict", b"tcid", 1),
        lambda content: content.replace(b"state.model", b"state.mobel", 1),
    ],
)
def test_a_damaged_file_is_named(damage, tmp_path):
    path = tmp_path / "last.safetensors"
    model, optimizer = build()
    save_checkpoint(path, Accelerator(), model, optimizer, Position())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint .*last.safetensors is damaged"):
        load_checkpoint(path, Accelerator(), model, optimizer)


def test_a_file_of_other_tensors_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors: expected version 1, got None"):
        read_checkpoint(tmp_path / "other.safetensors")


def test_the_state_of_another_model_is_refused(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", Accelerator(), *build(), Position())
    with pytest.raises(UserError, match=r"holds the state of another model") as caught:
        load_checkpoint(tmp_path / "last.safetensors", Accelerator(), *build(width=5))
    assert "\n" not in str(caught.value)


def test_an_interrupted_save_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    model, optimizer = build()
    save_checkpoint(path, Accelerator(), model, optimizer, Position(epoch=1))

    def stop_half_way(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", stop_half_way)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, Accelerator(), model, optimizer, Position(epoch=2))
    assert read_checkpoint(path)["position"]["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_what_is_no_plain_value_is_refused(tmp_path):
    model, optimizer = build()
    optimizer.param_groups[0]["odd"] = object()
    with pytest.raises(TypeError, match=r"got a object at state.optimizer.param_groups.0.odd"):
        save_checkpoint(tmp_path / "last.safetensors", Accelerator(), model, optimizer, Position())
