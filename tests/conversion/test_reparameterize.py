"""Fusing for inference: timm's fusion, with the filters kept."""

import pytest
import timm
import torch
from torch import nn

import timm_asap
from timm_asap.conversion.strided import AsapLayer

# One of each way to fuse: branches, lists of branches, normalizations, blocks that build themselves anew.
FUSED = [
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "repvit_m0_9",
    "shvit_s1",
    "efficientvit_m0",
    "levit_128s",
    "lcnetv2_small",
    "repghostnet_050",
    "ghostnetv3_050",
    "iformer_t",
    "efficientvim_m1",
    "tiny_vit_5m_224",
]


def with_statistics(model):
    """Normalization that is not the identity, so that fusing it wrongly shows."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator) / 10)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
            layer.weight.data.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
            layer.bias.data.copy_(torch.randn(layer.num_features, generator=generator) / 10)
    return model.eval()


def image(model):
    size = model.pretrained_cfg["input_size"][-2:] if model.pretrained_cfg.get("fixed_input_size") else (64, 96)
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def sites(model):
    return sum(isinstance(layer, AsapLayer) for layer in model.modules())


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", FUSED)
@torch.no_grad()
def test_outputs_are_equal_before_and_after(name, layout):
    torch.manual_seed(0)
    model = with_statistics(timm.create_model(f"{name}_asap", asap_layout=layout, num_classes=10))
    x = image(model)
    before = model(x)
    keys, filters = list(model.state_dict()), sites(model)
    fused = timm_asap.reparameterize(model)
    scale = before.abs().max()
    assert (fused(x) - before).abs().max() < 1e-4 * scale
    assert 0 < sites(fused) <= filters
    # Nothing that strides was left without its filter.
    assert not timm_asap.convert(fused).converted
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.parameters())
    # The model itself is as it was.
    assert list(model.state_dict()) == keys
    assert sites(model) == filters
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_timms_own_drops_the_filters():
    model = with_statistics(timm.create_model("repvgg_a0_asap", num_classes=10))
    fused = timm.utils.reparameterize_model(model)
    assert sites(fused) == 0
    assert not torch.allclose(fused(image(model)), model(image(model)), rtol=1e-2)


@torch.no_grad()
def test_what_was_left_stays_left():
    model = with_statistics(timm.create_model("mobileone_s0_asap", asap_stem=False, num_classes=10))
    fused = timm_asap.reparameterize(model)
    assert not isinstance(fused.stem.reparam_conv, AsapLayer)
    assert isinstance(fused.stages[0][0].reparam_conv, AsapLayer)
    torch.testing.assert_close(fused(image(model)), model(image(model)), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_in_place_and_plain_models():
    model = with_statistics(timm.create_model("repvgg_a0", num_classes=10))
    before = model(image(model))
    assert timm_asap.reparameterize(model, inplace=True) is model
    assert sites(model) == 0
    torch.testing.assert_close(model(image(model)), before, rtol=1e-3, atol=1e-4)


def test_branches_that_differ_are_refused():
    model = timm.create_model("repvgg_a0", num_classes=10)
    timm_asap.convert(model.stem.conv_kxk, window="flc", stem=True)
    timm_asap.convert(model)
    with pytest.raises(ValueError, match=r"stem\.reparam_conv: cannot fuse branches that downsample differently"):
        timm_asap.reparameterize(model)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        timm_asap.reparameterize("repvgg_a0")
