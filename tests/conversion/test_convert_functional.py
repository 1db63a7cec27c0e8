"""Downsampling that a walk over layers misses, reductions inside attention, and stems."""

import copy
import importlib
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, SpaceToDepth
from timm.layers.gather_excite import GatherExcite
from timm.models.ghostnet import GhostModuleV2
from timm.models.inception_v3 import InceptionAux, InceptionB, InceptionD
from timm.models.levit import Downsample
from timm.models.mobilenetv5 import MobileNetV5MultiScaleFusionAdapter
from timm.models.resnest import ResNestBottleneck
from torch import nn

from timm_asap import asap_pool2d, convert, lowpass2d
from timm_asap.conversion.sites import _SITES
from timm_asap.conversion.strided import AsapLayer


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@pytest.mark.parametrize("name", _SITES)
def test_every_block_of_the_table_is_one_of_timms(name):
    module, _, cls = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), cls), nn.Module)


CONV = partial(ConvNormAct, padding=0)  # as Inception v3 builds its blocks


@pytest.mark.parametrize("block", [InceptionB, InceptionD])
@pytest.mark.parametrize("size", [(17, 17), (14, 23)])
def test_inceptions_branch_is_the_dense_maximum_then_the_pool(block, size):
    x = torch.randn(2, 8, *size)
    plain = block(8, conv_block=CONV).eval()
    shape = plain(x).shape
    for layout in ("preserve", "paper"):
        torch.manual_seed(0)
        layer = block(8, conv_block=CONV).eval()
        report = convert(layer, layout=layout, stem=True)
        assert "F.max_pool2d in Inception" in report.converted[0].layer
        out = layer(x)
        assert out.shape == shape
        dense = F.max_pool2d(x, 3, 1) if layout == "preserve" else x
        torch.testing.assert_close(out[:, -8:], asap_pool2d(dense)[..., : shape[2], : shape[3]])
        assert convert(layer).converted == ()


def test_inceptions_auxiliary_head_averages_what_was_low_passed():
    plain = InceptionAux(8, 5, conv_block=CONV).eval()
    x = torch.randn(2, 8, 17, 17)
    expected = plain(lowpass2d(x, 3))
    report = convert(plain, layout="paper")
    assert "no stride that the paper's layout could take away" in report.left[0].reason
    convert(plain)
    torch.testing.assert_close(plain(x), expected)


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("resolution", [(6, 6), (7, 10)])
def test_levits_strided_queries_are_pooled(layout, resolution):
    layer = Downsample(2, resolution)
    tokens = torch.randn(2, resolution[0] * resolution[1], 4)
    size = layer(tokens).shape
    assert convert(layer, layout=layout).converted[0].layer == "a strided slice in Downsample 1x1 / 2"
    image = tokens.transpose(1, 2).reshape(2, 4, *resolution)
    assert layer(tokens).shape == size
    torch.testing.assert_close(layer(tokens), asap_pool2d(image).flatten(2).transpose(1, 2))


def test_levits_pooled_queries_have_a_layer_of_their_own():
    layer = Downsample(2, 6, use_pool=True)
    assert [site.name for site in convert(layer).sites] == ["pool"]


@pytest.mark.parametrize(("size", "stride"), [(12, 3), (9, 3), (4, 1), (3, 1)])
def test_mobilenetv5s_fusion_low_passes_before_it_shrinks(size, stride):
    fusion = MobileNetV5MultiScaleFusionAdapter([2, 3], 5, output_resolution=4)
    fusion.ffn, fusion.norm = nn.Identity(), nn.Identity()
    maps = [torch.randn(1, 2, size, size), torch.randn(1, 3, -(-size // 2), -(-size // 2))]
    both = torch.cat([maps[0], F.interpolate(maps[1], size=(size, size))], 1)
    plain = fusion(maps)
    assert len(convert(fusion).converted) == 1
    out = fusion(maps)
    assert out.shape == plain.shape == (1, 5, 4, 4)
    if stride == 1:
        assert torch.equal(out, plain)
    elif size % 4 == 0:
        torch.testing.assert_close(out, F.avg_pool2d(lowpass2d(both, stride), stride))
    else:
        torch.testing.assert_close(out, F.interpolate(lowpass2d(both, stride), size=4, mode="bilinear"))


def test_stems_that_reshape_the_image():
    model = on_meta("tresnet_m")
    assert "patchify stem (stride 4)" in convert(model, dry_run=True).left[0].reason
    assert "stem=False" in convert(model, stem=False, dry_run=True).left[0].reason
    assert "paper's layout" in convert(model, stem=True, layout="paper", dry_run=True).left[0].reason
    assert convert(model, stem=True, dry_run=True).left == ()
    assert "patchify stem (stride 8)" in convert(on_meta("csatv2"), dry_run=True).left[0].reason
    layer, x = SpaceToDepth(), torch.randn(1, 3, 16, 20)
    expected = layer(lowpass2d(x, 4))
    convert(layer, stem=True)
    torch.testing.assert_close(layer(x), expected)


def test_gates_that_are_enlarged_again_are_left():
    x = torch.randn(2, 8, 16, 16)
    for block in (GhostModuleV2(8, 8), GatherExcite(8, extent=4, use_mlp=False)):
        block.eval()
        expected = block(x)
        report = convert(block)
        assert "F.avg_pool2d" in report.left[0].layer
        assert "a gate inside attention" in report.left[0].reason
        assert torch.equal(block(x), expected)
    assert convert(GatherExcite(8, extent=0, use_mlp=False)).sites == ()


# Strided layers inside attention: those of the main path are converted, reductions are left.
ATTENTION = {
    "haloregnetz_b": ({"self_attn.pool"}, set()),
    "eca_halonext26ts": ({"self_attn.q"}, set()),
    "lambda_resnet26rpt_256": ({"self_attn.pool"}, set()),
    "botnet26t_256": ({"self_attn.pool"}, set()),
    "efficientformerv2_s0": ({"q.pool", "q.local", "v_local.conv"}, {"stride_conv.conv"}),
    "levit_conv_128s": ({"q.down"}, set()),
    "cpubone_nano": (set(), {"conv_proj.conv"}),
    "pvt_v2_b0": (set(), {"attn.sr"}),
    "pvt_v2_b2_li": (set(), {".attn"}),
    "nextvit_small": (set(), {"e_mhsa"}),
    "mobilenetv4_hybrid_medium": (set(), {"key.down_conv", "value.down_conv"}),
    "twins_svt_small": (set(), {"attn.sr"}),
    "mvitv2_tiny": ({"attn.pool_q"}, {"attn.pool_k", "attn.pool_v"}),
    "hieradet_small": ({"attn.q_pool"}, set()),
    "volo_d1_224": (set(), {"attn.pool", "attn.unfold"}),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    converted, left = ATTENTION[name]
    report = convert(on_meta(name), dry_run=True)
    for suffix in converted:
        assert any(site.name.endswith(suffix) for site in report.converted), suffix
        assert not any(site.name.endswith(suffix) for site in report.left)
    for suffix in left:
        sites = [site for site in report.left if site.name.endswith(suffix)]
        assert sites, suffix
        assert all("inside" in site.reason for site in sites)
        assert not any(site.name.endswith(suffix) for site in report.converted)
    inside = {site.name for site in report.left if "inside" in site.reason}
    assert all(any(site.endswith(suffix) for suffix in left) for site in inside)


def test_the_convolution_that_is_split_is_on_the_main_path():
    block = ResNestBottleneck(16, 8, stride=2, avd=False, is_first=False)
    names = [site.name for site in convert(nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "block": block})).converted]
    assert "block.conv2.conv" in names


@pytest.mark.parametrize("name", ["resnet18", "mobileone_s0", "repvgg_a0", "fastvit_t8", "nasnetalarge", "tresnet_m"])
@pytest.mark.parametrize("stem", ["auto", False])
def test_stems_of_one_and_of_several_branches(name, stem):
    model = on_meta(name)
    seen = set()

    def watch(layer, args):
        if isinstance(args[0], torch.Tensor) and args[0].ndim == 4 and args[0].shape[1] == 3:
            seen.add(layer)

    modules = dict(model.named_modules())
    for layer in modules.values():
        layer.register_forward_pre_hook(watch)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 128, 128, device="meta"))
    on_image = {name for name, layer in modules.items() if layer in seen}
    report = convert(model, stem=stem, dry_run=True)
    strided = {site.name for site in report.sites} & on_image
    assert strided
    reasons = {site.name: site.reason for site in report.left if "stem" in site.reason}
    assert set(reasons) == (strided if stem is False or name == "tresnet_m" else set())


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "getter", "fx"])
@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "mobileone_s0"])
def test_stems_of_feature_extractors(name, feature_cls):
    for stem in (True, False):
        twin = timm.create_model(f"{name}_asap", features_only=True, feature_cls=feature_cls, asap_stem=stem)
        on_image = [m for m in twin.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3 and m.out_channels > 3]
        assert on_image
        assert all(isinstance(m, AsapLayer) is stem for m in on_image)


# Merging of tokens: a strided 2 x 2 convolution on their grid.


def _merging_blocks():
    names = ["timm.models.swin_transformer", "timm.models.swin_transformer_v2", "timm.models.swin_transformer_v2_cr"]
    blocks = [importlib.import_module(name).PatchMerging for name in names]
    torchvision = importlib.import_module("torchvision.models.swin_transformer")
    return [*blocks, torchvision.PatchMerging, torchvision.PatchMergingV2]


@pytest.mark.parametrize("block", _merging_blocks(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
@torch.no_grad()
def test_merging_of_tokens(block, size):
    torch.manual_seed(0)
    plain = block(5).eval()
    layer = copy.deepcopy(plain)
    tokens = torch.randn(2, *size, 5)
    (site,) = convert(layer, input_size=None).converted
    assert site.becomes == "low-pass on the grid of tokens, then the merging"
    low = lowpass2d(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(tokens), plain(low))

    # In the paper's layout: the pool, then a 2 x 2 convolution at stride 1 with one zero right and below.
    layer = copy.deepcopy(plain)
    convert(layer, layout="paper")
    pooled = asap_pool2d(tokens.permute(0, 3, 1, 2))
    around = F.pad(pooled, (0, 1, 0, 1))
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            one = plain(around[:, :, row : row + 2, column : column + 2].permute(0, 2, 3, 1))
            torch.testing.assert_close(layer(tokens)[:, row, column], one[:, 0, 0])


def test_hieras_tokens_are_left_in_their_order():
    report = convert(on_meta("hiera_tiny_224"), dry_run=True)
    assert sum("order of its mask units" in site.reason for site in report.left) == 3


def test_hiera_of_transformers_is_left_too():
    transformers = pytest.importorskip("transformers", reason="optional")
    config = transformers.HieraConfig(image_size=[64, 64], embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    report = convert(transformers.HieraModel(config), example={"pixel_values": torch.zeros(1, 3, 64, 64)})
    assert sum("order of its mask units" in site.reason for site in report.left) == 3
