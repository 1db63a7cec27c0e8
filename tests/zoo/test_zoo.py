"""The twins: they are timm models, with the plain model's state, sizes and options."""

import json

import pytest
import timm
import torch
from timm.models import _hub, get_arch_pretrained_cfgs

import timm_asap
from timm_asap._timm import NOTES_ARGUMENTS
from timm_asap.conversion.strided import AsapLayer
from timm_asap.zoo import plain_name, twin_names
from timm_asap.zoo.families import FAMILIES

# One small architecture for every way in which these families downsample.
SAMPLE = [
    "resnet10t",
    "resnet18",
    "resnet26d",
    "resnetblur18",
    "resnetaa34d",
    "seresnext26d_32x4d",
    "test_resnet",
    "convnext_atto",
    "convnextv2_atto",
    "convnext_atto_ols",
    "test_convnext",
    "resnet20_lowres",
    "preact_resnet18_lowres",
]
SIZES = [(64, 64), (63, 65), (70, 97)]
# timm's own network cannot add its branches where a map is odd: its residual branch rounds down, its shortcut up.
EVEN_ONLY = {"resnetaa34d": [(64, 64), (128, 96)]}


def features(model, size):
    model.eval()
    with torch.no_grad():
        return [tuple(f.shape) for f in model(torch.zeros(1, 3, *size))]


def test_every_architecture_of_the_families_has_a_twin():
    plain = [name for family in FAMILIES for name in timm.list_models(module=family)]
    assert sorted(plain_name(name) for name in twin_names()) == sorted(plain)
    assert "resnet50_asap" in timm.list_models("*_asap")
    assert {"resnet", "convnext", "lowres"} <= set(FAMILIES)
    assert len(plain) > 100


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", SAMPLE)
def test_state_and_feature_sizes_equal_the_plain_models(name, layout):
    plain = timm.create_model(name)
    twin = timm.create_model(f"{name}_asap", asap_layout=layout)
    state = plain.state_dict()
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in state.items()}
    twin.load_state_dict(state, strict=True)
    plain = timm.create_model(name, features_only=True)
    twin = timm.create_model(f"{name}_asap", features_only=True, asap_layout=layout)
    assert any(isinstance(m, AsapLayer) for m in twin.modules())
    assert twin.feature_info.reduction() == plain.feature_info.reduction()
    for size in EVEN_ONLY.get(name, SIZES):
        assert features(twin, size) == features(plain, size), size


@pytest.mark.zoo
@pytest.mark.parametrize("name", [plain_name(twin) for twin in twin_names()])
def test_state_of_every_twin(name):
    with torch.device("meta"):
        plain, twin = timm.create_model(name), timm.create_model(f"{name}_asap")
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert type(twin).__name__ == type(plain).__name__
    assert any(isinstance(m, AsapLayer) for m in twin.modules())


@pytest.mark.parametrize("window", ["asap", "hamming", "flc"])
@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
def test_options_reach_the_layers_and_the_saved_configuration(window, boundary, tmp_path):
    options = {"asap_window": window, "asap_boundary": boundary, "asap_layout": "paper", "asap_stem": False}
    model = timm.create_model("test_resnet_asap", num_classes=7, in_chans=1, **options).eval()
    specs = {(m.asap.window, m.asap.boundary, m.asap.layout) for m in model.modules() if isinstance(m, AsapLayer)}
    assert specs == {(window, boundary, "paper")}
    # to 1.0.30 timm saves no keywords of a network, but those of a twin are in its notes
    given = {} if NOTES_ARGUMENTS else {"model_args": {"in_chans": 1}}
    _hub.save_for_hf(model, tmp_path, safe_serialization=True, **given)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_resnet_asap"
    if NOTES_ARGUMENTS:
        assert {k: config["model_args"][k] for k in options} == options
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert repr(loaded) == repr(model)


def test_all_four_options_are_saved_even_when_not_given():
    model = timm.create_model("resnet20_lowres_asap")
    assert model._model_args == {
        "asap_window": "asap",
        "asap_boundary": "circular",
        "asap_layout": "preserve",
        "asap_stem": "auto",
    }


def test_a_twin_computes_something_else_than_its_plain_model():
    plain = timm.create_model("resnet20_lowres").eval()
    twin = timm.create_model("resnet20_lowres_asap").eval()
    twin.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(twin(x), plain(x), atol=1e-3)
    timm_asap.convert(plain)
    assert torch.equal(twin(x), plain(x))


def test_tags_are_the_plain_models_with_complete_hub_ids():
    tags = [name.partition(".")[2] for name in get_arch_pretrained_cfgs("resnet50")]
    twin = get_arch_pretrained_cfgs("resnet50_asap")
    assert [name.partition(".")[2] for name in twin] == tags
    cfg = timm.create_model("resnet50_asap.a1_in1k", pretrained_cfg_overlay={"crop_pct": 0.5}).pretrained_cfg
    assert cfg["architecture"] == "resnet50_asap"
    assert cfg["tag"] == "a1_in1k"
    assert cfg["hf_hub_id"] == "timm/resnet50.a1_in1k"
    assert cfg["crop_pct"] == 0.5
    assert "trained without ASAP" in cfg["notes"][-1]
    assert cfg.get("license") == timm.models.get_pretrained_cfg("resnet50.a1_in1k").license
    for name in timm.list_pretrained("*_asap"):
        hub_id = timm.models.get_pretrained_cfg(name).hf_hub_id
        assert not hub_id or not hub_id.endswith("/"), name
        assert not hub_id or "_asap" not in hub_id, name


def test_default_tag_is_the_plain_models():
    for name in ("resnet50", "resnet18", "convnext_tiny"):
        plain, twin = (timm.models.get_pretrained_cfg(n) for n in (name, f"{name}_asap"))
        assert twin.tag == plain.tag


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("preact_resnet18", 11.17), ("wide_resnet28_10", 36.5)]
)
def test_low_resolution_networks_have_the_published_sizes(name, millions):
    with torch.device("meta"):
        model = timm.create_model(f"{name}_lowres")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(parameters, 1 if millions == 36.5 else 2) == millions
    assert model.num_classes == 10


@pytest.mark.parametrize("name", ["resnet20_lowres_asap", "preact_resnet18_lowres_asap"])
def test_low_resolution_networks_keep_timms_interface(name):
    model = timm.create_model(name, num_classes=5, in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    x = torch.randn(2, 1, 32, 32)
    model.train()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    final, intermediates = model.forward_intermediates(x)
    listed = timm.create_model(name, in_chans=1, features_only=True)
    assert [f.shape[1] for f in intermediates] == listed.feature_info.channels()
    assert [32 // f.shape[-1] for f in intermediates] == listed.feature_info.reduction()
    torch.testing.assert_close(final, model.forward_features(x))
    assert model.forward_head(final, pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


def test_fx_features_equal_the_list_wrappers():
    torch.manual_seed(0)
    listed = timm.create_model("resnet18_asap", features_only=True).eval()
    traced = timm.create_model("resnet18_asap", features_only=True, feature_cls="fx").eval()
    traced.load_state_dict({f"graph_module.{k}": v for k, v in listed.state_dict().items()}, strict=False)
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(traced(x), listed(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"asap_window": "hann"}, "unknown window 'hann'"),
        ({"asap_layout": "papre"}, "unknown layout 'papre'"),
        ({"asap_stem": "yes"}, "stem: expected"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        timm.create_model("resnet18_asap", **options)
