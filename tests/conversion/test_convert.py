"""Conversion of single layers and of whole modules."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.layers import AvgPool2dSame, BlurPool2d, Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from timm_asap import asap_pool2d, convert, lowpass2d
from timm_asap.conversion.geometry import geometry_of
from timm_asap.conversion.strided import AsapLayer

OPTIONS = [(w, b) for w in ("asap", "hamming", "flc") for b in ("circular", "reflect", "zero")]

# Every shape of strided layer that timm's networks hold, and some that they do not.
LAYERS = {
    "conv3": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "conv7": lambda: nn.Conv2d(4, 6, 7, stride=2, padding=3),
    "conv2": lambda: nn.Conv2d(4, 6, 2, stride=2),
    "conv4": lambda: nn.Conv2d(4, 6, 4, stride=4),
    "conv7/4": lambda: nn.Conv2d(4, 6, 7, stride=4, padding=2),
    "conv3 unpadded": lambda: nn.Conv2d(4, 6, 3, stride=2),
    "conv3 valid": lambda: nn.Conv2d(4, 6, 3, stride=2, padding="valid"),
    "conv1": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "conv1 grouped": lambda: nn.Conv2d(4, 6, 1, stride=2, groups=2, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4),
    "dilated": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2),
    "stride 3": lambda: nn.Conv2d(4, 6, 3, stride=3, padding=1),
    "stride (2, 1)": lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
    "padding mode": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"),
    "same": lambda: Conv2dSame(4, 6, 3, stride=2),
    "same even": lambda: Conv2dSame(4, 6, 4, stride=2),
    "same pointwise": lambda: Conv2dSame(4, 6, 1, stride=2),
    "scaled std": lambda: ScaledStdConv2d(4, 6, 3, stride=2, padding=1),
    "scaled std pointwise": lambda: ScaledStdConv2d(4, 6, 1, stride=2),
    "scaled std same": lambda: ScaledStdConv2dSame(4, 6, 3, stride=2, padding="same"),
    "std": lambda: StdConv2d(4, 6, 3, stride=2),
    "max": lambda: nn.MaxPool2d(3, 2, 1),
    "max2": lambda: nn.MaxPool2d(2),
    "max ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max ceil padded": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max stride 3": lambda: nn.MaxPool2d(2, 3),
    "max same": lambda: MaxPool2dSame(3, 2),
    "average": lambda: nn.AvgPool2d(2),
    "average 3": lambda: nn.AvgPool2d(3, 2, 1),
    "average ceil": lambda: nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "average 1": lambda: nn.AvgPool2d(1, 2, count_include_pad=False),
    "average same": lambda: AvgPool2dSame(3, 2),
    "blur": lambda: BlurPool2d(4, filt_size=3, stride=2),
    "blur 4": lambda: BlurPool2d(4, filt_size=4, stride=2),
}
SIZES = [(8, 8), (9, 12), (15, 7), (14, 21), (11, 10)]


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_keeps_its_size_class_and_state(name, layout):
    plain = LAYERS[name]()
    layer = copy.deepcopy(plain)
    report = convert(layer, layout=layout, stem=True)
    assert [site.name for site in report.sites] == [""]
    # These give one sample more than the pool has, on some sizes.
    wide = name in ("blur 4", "max ceil padded")
    assert len(report.converted) == (0 if wide and layout == "paper" else 1)
    assert isinstance(layer, type(plain))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    layer.load_state_dict(plain.state_dict(), strict=True)
    for size in SIZES:
        x = torch.randn(2, 4, *size)
        y = layer(x)
        assert y.shape == plain(x).shape, size
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", LAYERS)
def test_geometry_gives_the_layers_own_size(name):
    layer = LAYERS[name]()
    geometry = geometry_of(layer)
    for height in range(7, 24):
        size = layer(torch.zeros(1, 4, height, 16)).shape
        assert (geometry.output_size(height, 0), geometry.output_size(16, 1)) == size[-2:]


@pytest.mark.parametrize(("window", "boundary"), OPTIONS)
def test_preserve_low_passes_before_convolutions_and_average_pools(window, boundary):
    for name in (
        "conv3",
        "conv7/4",
        "same",
        "average",
        "average ceil",
        "blur",
        "scaled std",
        "stride (2, 1)",
    ):
        plain = LAYERS[name]().double()
        layer = copy.deepcopy(plain)
        convert(layer, window=window, boundary=boundary, stem=True)
        x = torch.randn(2, 4, 10, 13, dtype=torch.float64)
        expected = plain(lowpass2d(x, geometry_of(plain).stride, window, boundary))
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
def test_a_pointwise_convolution_on_the_pool_is_the_same_thing(boundary):
    for name in ("conv1", "conv1 grouped", "same pointwise", "scaled std pointwise"):
        plain = LAYERS[name]().double()
        layer = copy.deepcopy(plain)
        convert(layer, boundary=boundary)
        x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
        torch.testing.assert_close(layer(x), plain(lowpass2d(x, boundary=boundary)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", ["asap", "hamming", "flc"])
def test_preserve_equals_dense_convolution_then_pool(window):
    # Low-pass and convolution commute where both wrap around.
    for size in ((8, 8), (10, 12), (16, 6)):
        strided = nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode="circular", dtype=torch.float64)
        dense = nn.Conv2d(3, 5, 3, stride=1, padding=1, padding_mode="circular", dtype=torch.float64)
        dense.load_state_dict(strided.state_dict())
        convert(strided, window=window)
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(strided(x), asap_pool2d(dense(x), window=window), atol=1e-12, rtol=0)


def test_max_pool_is_the_dense_maximum_then_the_pool():
    x = torch.randn(2, 4, 11, 10)
    layer = LAYERS["max"]()
    convert(layer, boundary="reflect")
    torch.testing.assert_close(layer(x), asap_pool2d(F.max_pool2d(x, 3, 1, 1), boundary="reflect"))
    layer = LAYERS["max ceil"]()
    convert(layer)
    # 11 samples give 9 windows and need 9; 10 give 8 windows, and the fifth output needs a ninth.
    dense = F.max_pool2d(F.pad(x, (0, 1, 0, 0), value=-torch.inf), 3, 1)
    assert dense.shape[-2:] == (9, 9)
    torch.testing.assert_close(layer(x), asap_pool2d(dense))


@pytest.mark.parametrize("name", ["conv3", "conv7", "dilated", "same", "depthwise", "scaled std", "padding mode"])
def test_paper_pools_then_convolves_at_stride_one(name):
    plain = LAYERS[name]().double()
    layer = copy.deepcopy(plain)
    convert(layer, layout="paper")
    assert layer.stride == (1, 1)
    x = torch.randn(2, 4, 16, 13, dtype=torch.float64)
    dense = copy.deepcopy(plain)
    dense.stride = (1, 1)
    torch.testing.assert_close(layer(x), dense(asap_pool2d(x)), atol=1e-12, rtol=0)


def test_paper_pads_even_kernels_left_short():
    layer = nn.Conv2d(1, 1, 2, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    convert(layer, layout="paper")
    # (k - 1) // 2 = 0 before, k // 2 = 1 after: the last sample meets one zero.
    x = torch.ones(1, 1, 6, 6)
    expected = torch.tensor([[4.0, 4, 2], [4, 4, 2], [2, 2, 1]])
    torch.testing.assert_close(layer(x)[0, 0], expected)


def test_paper_pools_are_the_pool_alone():
    x = torch.randn(1, 4, 10, 10)
    for name in ("max", "average", "blur", "average ceil"):
        layer = LAYERS[name]()
        convert(layer, layout="paper")
        torch.testing.assert_close(layer(x), asap_pool2d(x))
    layer = LAYERS["max2"]()  # 11 rows give a plain pool 5, the operator 6
    convert(layer, layout="paper")
    x = torch.randn(1, 4, 11, 10)
    torch.testing.assert_close(layer(x), asap_pool2d(x)[..., :5, :])


def test_an_overpadded_layer_is_left_by_paper_and_says_why():
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=2)
    report = convert(layer, layout="paper")
    assert "padded wider than 'same'" in report.left[0].reason
    assert not isinstance(layer, AsapLayer)
    assert convert(layer, layout="preserve").converted


def test_extra_arguments_reach_the_layer():
    layer = CondConv2d(4, 6, 3, stride=2, padding=1, num_experts=2)
    plain = copy.deepcopy(layer)
    convert(layer)
    x, routing = torch.randn(2, 4, 8, 8), torch.rand(2, 2)
    torch.testing.assert_close(layer(x, routing), plain(lowpass2d(x), routing))


def test_twice_is_a_no_op_that_says_so():
    model = nn.Sequential(LAYERS["conv3"](), nn.MaxPool2d(2))
    assert len(convert(model).converted) == 2
    x = torch.randn(1, 4, 12, 12)
    before = model(x)
    classes = [type(m) for m in model]
    report = convert(model, layout="paper", window="flc")
    assert not report.converted
    assert {site.reason for site in report.sites} == {"already converted (preserve, asap, circular)"}
    assert [type(m) for m in model] == classes
    assert torch.equal(model(x), before)


def test_stride_one_transposed_and_global_layers_are_no_sites():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.MaxPool2d(3, 1, 1),
    )
    assert convert(model).sites == ()


def test_shared_modules_hooks_copies_and_pickles():
    shared = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.MaxPool2d(2))
    seen = []
    shared.register_forward_pre_hook(lambda layer, args: seen.append(args[0].shape[-1]))
    report = convert(model)
    assert [site.name for site in report.converted] == ["0", "3"]
    assert model[0] is model[2]
    x = torch.randn(1, 4, 32, 32)
    y = model(x)
    assert seen == [32, 16]
    shared._forward_pre_hooks.clear()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin[0]) is type(model[0])
        assert twin[0] is twin[2]
        assert torch.equal(twin(x), y)
        assert not convert(twin).converted


def test_root_module_is_converted_in_place():
    layer = LAYERS["conv3"]()
    hooks = []
    layer.register_forward_hook(lambda *_: hooks.append(1))
    identity = id(layer)
    convert(layer)
    layer(torch.randn(1, 4, 8, 8))
    assert id(layer) == identity
    assert hooks == [1]
    assert "asap=preserve/asap/circular" in repr(layer)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.sr = nn.Conv2d(4, 4, 2, stride=2)


def test_reductions_inside_attention_are_left():
    report = convert(nn.ModuleDict({"stem": LAYERS["conv3"](), "attn": Attention()}))
    assert [site.name for site in report.converted] == ["stem"]
    assert report.left[0].reason == "a reduction inside Attention"


@pytest.mark.parametrize(
    ("stem", "stride", "converted"),
    [("auto", 2, 2), ("auto", 3, 2), ("auto", 4, 1), (True, 4, 2), (False, 2, 1), (False, 4, 1)],
)
def test_stem(stem, stride, converted):
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=stride), nn.Conv2d(4, 4, 4, stride=4))
    assert len(convert(model, stem=stem).converted) == converted


def test_report_of_sizes_and_costs():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 2))
    with pytest.warns(UserWarning, match="mean alone"):
        convert(copy.deepcopy(model[:2]), input_size=(3, 6, 6))
    report = convert(model, input_size=(3, 16, 16))
    conv, pool = report.sites
    assert conv.input_size == (3, 16, 16)
    assert conv.macs == 8 * 8 * 8 * 27
    assert conv.added_macs == 3 * 2 * 16**3
    assert pool.input_size == (8, 8, 8)
    assert pool.added_macs == 8 * (8 * 8 * 4 + 4 * 8 * 4)
    assert report.macs == conv.macs + 2 * 128
    assert report.added_macs == conv.added_macs + pool.added_macs
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_dry_run_changes_nothing():
    model = nn.Sequential(LAYERS["conv3"](), nn.MaxPool2d(2))
    report = convert(model, dry_run=True)
    assert len(report.converted) == 2
    assert not any(isinstance(m, AsapLayer) for m in model)
    assert report == convert(model)


def test_gradients_reach_the_parameters_and_the_input():
    model = nn.Sequential(LAYERS["conv3"](), LAYERS["same even"](), nn.MaxPool2d(2))
    model[1] = nn.Conv2d(6, 6, 1, stride=2)
    convert(model)
    x = torch.randn(2, 4, 16, 16, requires_grad=True)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert math.isfinite(x.grad.abs().sum())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"layout": "papre"}, ValueError, "unknown layout 'papre': expected one of paper, preserve"),
        ({"window": "hann"}, ValueError, "unknown window"),
        ({"boundary": "wrap"}, ValueError, "unknown boundary"),
        ({"stem": "yes"}, ValueError, 'stem: expected "auto", True or False'),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, text):
    model = nn.Sequential(LAYERS["conv3"]())
    with pytest.raises(error, match=text):
        convert(model, **arguments)
    assert type(model[0]) is nn.Conv2d
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        convert("resnet50")
