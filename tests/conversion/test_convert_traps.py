"""Networks that hide their strides, layers that are not what their class says, and objects that wrap them: converted
right, or refused by name; and wrapping first or converting first gives the same."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import timm_asap
from timm_asap import convert, lowpass2d
from timm_asap.conversion.strided import AsapLayer
from timm_asap.evaluation.aliasing import measure_aliasing


def image(*size, channels=3, seed=0):
    return torch.randn(2, channels, *(size or (32, 32)), generator=torch.Generator().manual_seed(seed))


def reasons(report):
    return {site.name: site.reason for site in report.sites if site.reason}


# Stems: several, or one that does not come first.


class Patches(nn.Module):
    """A small transformer's stem, of no library."""

    def __init__(self, channels=3):
        super().__init__()
        self.proj = nn.Conv2d(channels, 4, 16, stride=16)
        self.down = nn.Conv2d(4, 4, 2, stride=2)

    def forward(self, x):
        return self.down(self.proj(x))


class RgbD(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.depth = Patches(3), Patches(1)

    def forward(self, x):
        return self.rgb(x[:, :3]) + self.depth(x[:, 3:])


class Distillation(nn.Module):
    def __init__(self):
        super().__init__()
        self.models = nn.ModuleDict({"student": Patches(), "teacher": Patches()})

    def forward(self, x):
        return self.models["student"](x) + self.models["teacher"](x)


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 10, 1)
        self.backbone = Patches()

    def forward(self, x):
        return self.head(self.backbone(x))


def vit(channels=3):
    return timm.create_model("test_vit", img_size=64, in_chans=channels)


STEMS = {
    "rgb-d": (RgbD, 4, {"rgb.proj", "depth.proj"}),
    "student and teacher": (Distillation, 3, {"models.student.proj", "models.teacher.proj"}),
    "head first": (HeadFirst, 3, {"backbone.proj"}),
    "adapter of channels": (lambda: nn.Sequential(nn.Conv2d(4, 3, 1), Patches()), 4, {"1.proj"}),
    "a ViT of many channels": (lambda: nn.Sequential(nn.Conv2d(3, 12, 1), vit(12)), 3, {"1.patch_embed.proj"}),
    "adapter before a ViT": (lambda: nn.Sequential(nn.Conv2d(4, 3, 1), vit()), 4, {"1.patch_embed.proj"}),
}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("name", STEMS)
def test_every_patchify_stem_is_left_and_says_so(name, watched):
    build, channels, stems = STEMS[name]
    model = build()
    report = convert(model, example=image(64, 64, channels=channels) if watched else None)
    assert {site.name for site in report.left} == stems
    assert all("patchify stem (stride 16)" in site.reason for site in report.left)
    assert {site.name for site in convert(build(), stem=True).converted} >= stems
    assert report.complete is watched


def test_a_stem_that_only_a_pass_can_see():
    class Hyperspectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(8, 5, 1)
            self.proj = nn.Conv2d(12, 8, 8, stride=8)

        def forward(self, x):
            return self.head(self.proj(x * 2 - 1))

    report = convert(Hyperspectral(), example=image(channels=12))
    assert reasons(report) == {"proj": "a patchify stem (stride 8); stem=True converts it"}


# Other modules that downsample.

DeformConv2d = pytest.importorskip("torchvision.ops", reason="timm needs torchvision").DeformConv2d


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, stride=2, padding=1)
        self.conv = DeformConv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


MODULES = {
    "unshuffle": lambda: nn.PixelUnshuffle(2),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d(7),
    "adaptive average of one axis": lambda: nn.AdaptiveAvgPool2d((None, 8)),
    "adaptive max": lambda: nn.AdaptiveMaxPool2d((8, 5)),
    "power": lambda: nn.LPPool2d(2, 3, stride=2),
    "fractional": lambda: nn.FractionalMaxPool2d(2, output_size=(13, 11), _random_samples=torch.rand(2, 3, 2)),
    "unfold": lambda: nn.Unfold(3, stride=2, padding=1),
    "upsample": lambda: nn.Upsample(scale_factor=0.5),
    "bilinear": lambda: nn.Upsample(scale_factor=0.4, mode="bilinear"),
    "deformable": Deformable,
    "average 1-D": lambda: nn.AvgPool1d(4),
    "max 3-D": lambda: nn.MaxPool3d(2),
}


def input_of(name):
    if "1-D" in name:
        return image(32)
    return image(8, 16, 16) if "3-D" in name else image()


@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_that_downsample_without_a_stride_of_convolutions(name, boundary):
    torch.manual_seed(0)
    model = nn.Sequential(MODULES[name]())
    x = input_of(name)
    plain = model(x)
    before = measure_aliasing(model.eval(), [x])
    report = convert(model, boundary=boundary, example=x, stem=True)
    assert report.complete, report
    assert report.converted
    assert not report.left
    y = model(x)
    assert y.shape == plain.shape
    assert torch.isfinite(y).all()
    assert not torch.allclose(y, plain)
    assert max(site.above_nyquist for site in before) > 1e-3
    if boundary == "circular":
        assert max(site.above_nyquist for site in measure_aliasing(model, [x])) < 1e-6
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    assert not convert(model).converted


def test_a_low_pass_goes_where_it_belongs():
    x = image(channels=4)
    for layer, expected in (
        (nn.PixelUnshuffle(2), F.pixel_unshuffle(lowpass2d(x), 2)),
        (nn.Unfold(2, stride=2), F.unfold(lowpass2d(x), 2, stride=2)),
        (nn.AdaptiveAvgPool2d(8), F.adaptive_avg_pool2d(lowpass2d(x, 4), 8)),
        (nn.AdaptiveMaxPool2d(8), lowpass2d(F.max_pool2d(x, 4, 1), 4)[..., ::4, ::4]),
        (nn.Upsample(scale_factor=0.5), lowpass2d(x)[..., ::2, ::2]),
        (nn.LPPool2d(1, 2), 4 * F.avg_pool2d(lowpass2d(x).clamp_min(0), 2)),
    ):
        plain = copy.deepcopy(layer)
        x_in = x.abs() if isinstance(layer, nn.LPPool2d) else x
        if isinstance(layer, nn.LPPool2d):
            expected = 4 * F.avg_pool2d(lowpass2d(x_in), 2)
        convert(layer, stem=True)
        torch.testing.assert_close(layer(x_in), expected)
        assert layer(x_in).shape == plain(x_in).shape
    # where nothing shrinks, nothing changes
    for layer in (nn.AdaptiveAvgPool2d(7), nn.AdaptiveMaxPool2d(7)):
        convert(layer)
        small = image(7, 7)
        assert torch.equal(layer(small), small)
    assert convert(nn.AdaptiveAvgPool2d(1)).sites == ()
    assert convert(nn.Upsample(scale_factor=2)).sites == ()


def test_fractional_windows_are_the_plain_layers():
    x = image(12, 14)
    layer = nn.FractionalMaxPool2d(3, output_size=(5, 6), return_indices=True, _random_samples=torch.rand(2, 3, 2))
    _, plain = layer(x)
    convert(layer)
    _, indices = layer(x)
    assert torch.equal(indices, plain)
    # a map whose dense maximum is smooth enough to pass unchanged: a constant
    torch.testing.assert_close(layer(torch.ones(2, 3, 12, 14))[0], torch.ones(2, 3, 5, 6))


# Layers that are not what their class says.


class Standardized(nn.Conv2d):
    """Weight standardization as many write it: in `_conv_forward`."""

    def _conv_forward(self, input, weight, bias):
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-3)
        return super()._conv_forward(input, weight, bias)


class StaticSame(nn.Conv2d):
    """Padding computed in `forward`, as TensorFlow's ports do."""

    def forward(self, x):
        axes = zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
        size = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in axes]
        x = F.pad(x, [size[1] // 2, size[1] - size[1] // 2, size[0] // 2, size[0] - size[0] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0)


class FrozenPadding(nn.Conv2d):
    """Padding that was computed for one size and stride, as segmentation_models_pytorch's EfficientNet has it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x):
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride, self.padding)


class Rectifying(nn.Conv2d):
    """Makes new high frequencies before it samples."""

    def forward(self, x):
        return super().forward(x.relu())


@pytest.mark.parametrize("cls", [Standardized, StaticSame, FrozenPadding])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_class_of_ones_own_keeps_what_it_computes(cls, kernel):
    plain = cls(3, 4, kernel, stride=2)
    x = image(15, 16)
    for example in (None, x):
        layer = nn.Sequential(copy.deepcopy(plain))
        report = convert(layer, example=example)
        assert len(report.converted) == 1
        torch.testing.assert_close(layer(x), plain(lowpass2d(x)))


@pytest.mark.parametrize("cls", [Standardized, StaticSame, FrozenPadding])
def test_in_the_papers_layout_a_class_of_ones_own_keeps_its_size_or_is_left(cls):
    for size in ((32, 32), (15, 18)):
        layer = cls(3, 4, 3, stride=2)
        x = image(*size)
        shape = layer(x).shape
        report = convert(layer, layout="paper", example=x)
        assert layer(x).shape == shape
        assert len(report.converted) == (cls is not FrozenPadding) or "its own `forward`" in report.left[0].reason


def test_what_undoes_the_low_pass_is_not_called_converted():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1), Rectifying(3, 4, 3, stride=2))
    x = image()
    expected = Rectifying.forward
    report = convert(model, example=x)
    assert [site.name for site in report.converted] == ["0"]
    assert [site.name for site in report.unhandled] == ["1"]
    assert "lies above the cut" in report.unhandled[0].reason
    assert not report.complete
    assert type(model[1]) is Rectifying
    assert type(model[1]).forward is expected


def test_a_forward_that_was_replaced_on_the_layer():
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    plain = copy.deepcopy(layer)
    original = layer.forward
    layer.forward = lambda x: 2 * original(x)
    model = nn.Sequential(layer)
    x = image()
    report = convert(model, example=x)
    assert len(report.converted) == 1
    torch.testing.assert_close(model(x), 2 * plain(lowpass2d(x)))
    # converted first
    other = nn.Sequential(copy.deepcopy(plain))
    convert(other)
    converted = other[0].forward
    other[0].forward = lambda x: 2 * converted(x)
    torch.testing.assert_close(other(x), model(x))


def test_a_max_pool_with_a_forward_of_its_own_is_left():
    class Padded(nn.MaxPool2d):
        def forward(self, x):
            return super().forward(F.pad(x, (0, 1, 0, 1)))

    x = image()
    model = nn.Sequential(Padded(2, 2))
    plain = model(x)
    report = convert(model, example=x)
    assert "`forward` of its own" in reasons(report)["0"]
    assert torch.equal(model(x), plain)


def test_a_pool_with_indices_for_unpooling():
    class SegNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

        def forward(self, x):
            y, indices = self.pool(x)
            return self.unpool(y, indices), y, indices

    x = image(16, 18)
    plain = SegNet()(x)
    for layout in ("preserve", "paper"):
        model = SegNet()
        report = convert(model, example=x, layout=layout)
        assert report.complete
        up, y, indices = model(x)
        assert indices.dtype == torch.int64
        assert torch.equal(indices, plain[2])
        assert up.shape == plain[0].shape
        assert torch.equal(up.flatten(2).gather(2, indices.flatten(2)), y.flatten(2))
        assert not torch.allclose(y, plain[1])


@pytest.mark.parametrize("layout", ["preserve", "paper"])
def test_calls_by_keyword(layout):
    x = image()
    for layer in (
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, 1, stride=2),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(5),
    ):
        convert(layer, layout=layout)
        assert torch.equal(layer(input=x), layer(x))
    layer = StaticSame(3, 4, 3, stride=2)
    convert(layer)
    assert torch.equal(layer(x=x), layer(x))


@pytest.mark.parametrize("first", ["convert", "batch"])
def test_lazy_layers(first):
    x = image()
    model = nn.Sequential(nn.LazyConv2d(4, 3, stride=2, padding=1), nn.LazyConv2d(4, 1, stride=2), nn.LazyConv2d(4, 3))
    if first == "batch":
        model(x)
    report = convert(model)
    assert [site.name for site in report.converted] == ["0", "1"]
    y = model(x)
    assert [isinstance(layer, AsapLayer) for layer in model] == [True, True, False]
    assert all(
        (type(layer).__mro__.count(nn.Conv2d) and not hasattr(layer, "cls_to_become")) or True for layer in model
    )
    plain = copy.deepcopy(model)
    for layer in plain[:2]:
        timm_asap.conversion.strided.detach(layer)
    assert [type(layer) for layer in plain] == [nn.Conv2d] * 3
    convert(plain)
    assert torch.equal(plain(x), y)
    assert model[0].weight.shape == (4, 3, 3, 3)
    pickle.loads(pickle.dumps(model))(x)


def test_lazy_layers_with_an_example():
    model = nn.Sequential(nn.LazyConv2d(4, 3, stride=2, padding=1), nn.MaxPool2d(2))
    report = convert(model, example=image())
    assert report.complete
    assert len(report.converted) == 2


# Parametrizations, before and after.

PARAMETRIZATIONS = {
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer),
    "weight_norm": lambda layer: parametrizations.weight_norm(layer),
    "spectral_norm by hooks": lambda layer: nn.utils.spectral_norm(layer),
}


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrizing_first_or_converting_first_gives_the_same(name, kernel):
    plain = nn.Conv2d(3, 4, kernel, stride=2, padding=kernel // 2)
    x = image()
    outputs = []
    for order in ("parametrize", "convert"):
        torch.manual_seed(0)
        layer = copy.deepcopy(plain).eval()
        model = nn.Sequential(layer).eval()
        if order == "parametrize":
            PARAMETRIZATIONS[name](layer)
            assert convert(model).converted
        else:
            assert convert(model).converted
            PARAMETRIZATIONS[name](layer)
        outputs.append(model(x))
        assert not convert(model).converted
        assert measure_aliasing(model, [x])[0].above_nyquist < 1e-6
        torch.testing.assert_close(copy.deepcopy(model)(x), outputs[-1])
        if "hooks" not in name:
            parametrize.remove_parametrizations(layer, "weight")
            torch.testing.assert_close(model(x), outputs[-1], rtol=1e-4, atol=1e-5)
            assert isinstance(layer, AsapLayer)
            timm_asap.conversion.strided.detach(layer)
            assert type(layer) is nn.Conv2d
    torch.testing.assert_close(*outputs)


def test_detaching_from_under_a_parametrization():
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).eval()
    parametrizations.weight_norm(layer)
    x = image()
    plain = layer(x)
    for _ in range(2):
        convert(layer)
        assert not torch.allclose(layer(x), plain)
        timm_asap.conversion.strided.detach(layer)
        torch.testing.assert_close(layer(x), plain)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d


# Strides that change afterwards.


def test_a_stride_that_is_changed_afterwards():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.downsample = nn.Conv2d(3, 4, 1, stride=2)
            self.pool = nn.MaxPool2d(3, 2, 1)

        def forward(self, x):
            return self.pool(self.conv(x) + self.downsample(x))

    x = image(12, 12)
    for layout in ("preserve", "paper"):
        torch.manual_seed(0)
        plain = Block()
        model = copy.deepcopy(plain)
        convert(model, layout=layout)
        for net in (plain, model):
            net.conv.stride = net.downsample.stride = (1, 1)
            net.pool.stride = 1
        torch.testing.assert_close(model(x), plain(x))
        model.conv.stride = model.downsample.stride = (3, 3)
        fresh = Block()
        fresh.load_state_dict(plain.state_dict())
        fresh.conv.stride = fresh.downsample.stride = (3, 3)
        fresh.pool.stride = 1
        convert(fresh, layout=layout)
        torch.testing.assert_close(model(x), fresh(x))


# Attention.


class SpatialAttention(nn.Module):
    """A gate: computed small, enlarged again."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(4, 1, 4, stride=4)

    def forward(self, x):
        return x * F.interpolate(self.down(x), scale_factor=4.0).sigmoid()


class DownsamplingAttention(nn.Module):
    """Halves the map on its main path."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.sr = nn.Conv2d(4, 4, 2, stride=2)

    def forward(self, x):
        return self.proj(x) * self.sr(x).mean((2, 3), keepdim=True)


def test_third_partys_attention():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), SpatialAttention(), DownsamplingAttention())
    static = convert(copy.deepcopy(model))
    assert {site.name for site in static.converted} == {"1.down", "2.proj"}
    assert reasons(static) == {"2.sr": "a reduction inside DownsamplingAttention"}
    watched = convert(model, example=image(34, 34))
    assert reasons(watched) == {
        "1.down": "a reduction inside SpatialAttention",
        "2.sr": "a reduction inside DownsamplingAttention",
    }
    assert {site.name for site in watched.converted} == {"2.proj"}
    assert watched.complete
