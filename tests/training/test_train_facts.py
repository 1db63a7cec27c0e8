"""What run.json says of the data and the hardware."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from timm_asap.data.config import PixelConfig
from timm_asap.provenance import hardware, run_facts


@pytest.mark.parametrize(
    ("name", "shown", "hub_id"),
    [
        ("digits", "digits", None),
        ("fashion_mnist", "fashion_mnist", "zalando-datasets/fashion_mnist"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("owner/letters:small", "owner/letters:small", "owner/letters"),
        ("/home/me/letters", "letters", None),
        ("mine/letters", "letters", None),  # a folder that is there
    ],
)
def test_data_sets_of_the_hub_are_told_from_folders(name, shown, hub_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "letters").mkdir(parents=True)
    data = SimpleNamespace(name=name, source="", num_classes=2, train=[1, 2], test=[3], test_name="test")
    data.val = data.val_name = None
    data.frame, data.label_names = (0, 0, 0, 0), ("cat", "dog")
    config = SimpleNamespace(model="resnet18")
    monkeypatch.setattr("timm_asap.provenance.command", lambda config, launcher: "")
    plan = SimpleNamespace(dataset=data, config=config, parameters=1, pixels=PixelConfig(input_size=(1, 2, 2)))
    facts = run_facts(plan, Accelerator())["data"]
    assert (facts["name"], facts["hub_id"]) == (shown, hub_id)
    assert facts["label_names"] == ("cat", "dog")


def test_hardware_is_a_kind_and_not_a_machine():
    assert hardware(torch.device("cpu")).endswith("cores")
    assert hardware(torch.device("mps")) == "mps"
