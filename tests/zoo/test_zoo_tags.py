"""Every pretrained tag of a twin takes the plain model's state, strictly; the Hub's part is `test_pretrained.py`'s."""

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from timm_asap.zoo import plain_name
from timm_asap.zoo.families import FAMILIES
from timm_asap.zoo.summary import build_on_meta

TAGS = timm.list_pretrained("*_asap")
# Tags that timm treats in ways of their own: without a head, with an auxiliary one, pruned, in another format.
SPECIAL = [
    "convnextv2_atto_asap.fcmae",
    "inception_v3_asap.tv_in1k",
    "inception_v3_asap.tf_in1k",
    "ecaresnet50d_pruned_asap.miil_in1k",
    "efficientnet_b1_pruned_asap.in1k",
    "resnetv2_50x1_bit_asap.goog_in21k",
    "fastvit_t8_asap.apple_dist_in1k",
    "tresnet_m_asap.miil_in21k",
    "mobilenetv5_300m_asap.gemma3n",
]


def load(name, without=()):
    cfg = get_pretrained_cfg(name)
    plain = build_on_meta(plain_name(name).partition(".")[0], num_classes=cfg.num_classes, in_chans=cfg.input_size[0])
    state = {key: value for key, value in plain.state_dict().items() if key not in without}
    with torch.device("meta"):
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}), state


def check(name):
    model, state = load(name)
    assert model.pretrained_cfg["architecture"] == name.partition(".")[0]
    assert model.pretrained_cfg["tag"] == name.partition(".")[2]
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }


def one_of(family):
    return next((tag for name in timm.list_models(module=family) for tag in timm.list_pretrained(f"{name}_asap")), None)


@pytest.mark.parametrize("name", [tag for tag in map(one_of, FAMILIES) if tag])
def test_a_tag_of_every_family(name):
    check(name)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_tags(name):
    check(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", TAGS)
def test_every_tag(name):
    check(name)


def test_loading_is_strict():
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1\.0\.conv1\.weight"):
        load("resnet18_asap.a1_in1k", without=("layer1.0.conv1.weight",))
    load("convnextv2_atto_asap.fcmae", without=("head.fc.weight", "head.fc.bias"))  # timm's own exception
