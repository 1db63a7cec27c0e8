"""Upstream weights in a twin are warned of once, where their classifier would be used."""

import json
import warnings

import pytest
import timm
from safetensors.torch import save
from timm.models import get_pretrained_cfg

import timm_asap  # noqa: F401
from timm_asap.zoo import asap_twins
from timm_asap.zoo.asap_twins import UpstreamWeightsWarning

NAME = "test_resnet.r160_in1k"
TWIN = "test_resnet_asap.r160_in1k"


@pytest.fixture
def upstream(hub, monkeypatch):
    """Upstream's repository on the local Hub, and nothing warned of so far."""
    monkeypatch.setattr(asap_twins, "_warned", set())
    cfg = get_pretrained_cfg(NAME)
    config = {"architecture": cfg.architecture, "num_classes": cfg.num_classes, "pretrained_cfg": {"tag": cfg.tag}}
    files = {
        "model.safetensors": save(timm.create_model("test_resnet").state_dict()),
        "config.json": json.dumps(config),
    }
    hub.add_repo(cfg.hf_hub_id, files)


def warned(name, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        timm.create_model(name, **options)
    return [str(w.message) for w in found if issubclass(w.category, UpstreamWeightsWarning)]


def test_once_in_one_line(upstream):
    (text,) = warned(TWIN, pretrained=True)
    assert "\n" not in text
    assert f"{TWIN}: upstream weights, trained without ASAP" in text
    assert f"`timm-asap adapt {NAME} --images DIR`, or fine-tune" in text
    assert warned(TWIN, pretrained=True) == []


def test_the_classes_of_upstream_named_again_are_still_its_own(upstream):
    assert len(warned(TWIN, pretrained=True, num_classes=1000)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained": True, "num_classes": 10},
        {"pretrained": True, "num_classes": 0},
        {"pretrained": True, "features_only": True},
        {"pretrained": False},
    ],
)
def test_not_where_its_classifier_is_not_used(upstream, options):
    assert warned(TWIN, **options) == []


def test_not_for_plain_or_shipped_networks_or_other_weights(upstream, tmp_path):
    assert warned(NAME, pretrained=True) == []
    for name in ("resnet20_lowres_asap.fashion_mnist", "resnet20_lowres.fashion_mnist"):
        assert warned(name, pretrained=True) == []
    model = timm.create_model("test_resnet_asap")
    timm.models.save_for_hf(model, str(tmp_path / "own"), safe_serialization=True)
    assert warned(f"local-dir:{tmp_path / 'own'}", pretrained=True) == []
    overlay = {"file": str(tmp_path / "own" / "model.safetensors")}
    assert warned(TWIN, pretrained=True, pretrained_cfg_overlay=overlay) == []
