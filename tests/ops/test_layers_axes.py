"""The operators over one and three axes, and the pool's transpose."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import timm_asap
from timm_asap import convert
from timm_asap.evaluation.aliasing import measure_aliasing
from timm_asap.ops.spectral import lowpass_matrix, pool_matrix, upsample_matrix

OPTIONS = [("asap", "circular"), ("hamming", "reflect"), ("flc", "zero")]
MATRICES = {"asap_pool": pool_matrix, "lowpass": lowpass_matrix, "asap_upsample": upsample_matrix}
LAYERS = {"asap_pool": "AsapPool", "lowpass": "LowPass", "asap_upsample": "AsapUpsample"}


def expected(x, matrices):
    """One product per axis, by the definition."""
    for axis, matrix in enumerate(matrices):
        dim = axis - len(matrices)
        x = torch.tensordot(x, matrix, dims=([dim], [1])).movedim(-1, dim)
    return x


@pytest.mark.parametrize("operator", MATRICES)
@pytest.mark.parametrize(("window", "boundary"), OPTIONS)
@pytest.mark.parametrize(
    ("size", "stride"), [((9,), (2,)), ((12,), (3,)), ((5, 8, 6), (1, 2, 3)), ((4, 7, 5), (2, 2, 2))]
)
def test_one_matrix_per_axis(operator, window, boundary, size, stride):
    axes = len(size)
    function = getattr(timm_asap, f"{operator}{axes}d")
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    matrices = [MATRICES[operator](n, s, window, boundary) for n, s in zip(size, stride, strict=True)]
    result = function(x, stride, window, boundary)
    torch.testing.assert_close(result, expected(x, matrices), atol=1e-12, rtol=0)
    torch.testing.assert_close(function(x[0], stride, window, boundary), result[0])
    layer = getattr(timm_asap, f"{LAYERS[operator]}{axes}d")(3, stride=stride, window=window, boundary=boundary)
    assert torch.equal(layer(x), result)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), result)
    assert not layer.state_dict()
    if axes == 1:
        assert torch.autograd.gradcheck(lambda x: function(x, stride, window, boundary), (x[:1, :1].requires_grad_(),))


@pytest.mark.parametrize("operator", ["asap_pool3d", "lowpass3d", "asap_upsample3d"])
def test_the_memory_format_of_volumes_is_kept(operator):
    x = torch.randn(2, 4, 4, 6, 6)
    function = getattr(timm_asap, operator)
    channels_last = function(x.contiguous(memory_format=torch.channels_last_3d))
    assert channels_last.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(channels_last, function(x))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_upsampling_is_exact_on_what_is_band_limited(axes):
    for n, stride in ((6, 2), (5, 2), (4, 3)):
        size = (n * stride,) * axes
        x = torch.randn(1, 2, *size, dtype=torch.float64)
        low = expected(x, [lowpass_matrix(m, stride, "flc") for m in size])
        if n % 2 == 0:  # the frequency on the cut is carried by half
            for dim in range(2, 2 + axes):
                low = low - _at_cut(low, dim, n)
        samples = low[(..., *[slice(None, None, stride)] * axes)]
        function = getattr(timm_asap, f"asap_upsample{axes}d")
        torch.testing.assert_close(function(samples, stride), low, atol=1e-12, rtol=0)
        ones = torch.ones(1, 1, *[n] * axes)
        torch.testing.assert_close(function(ones, stride, "asap"), torch.ones(1, 1, *size))


def _at_cut(x, dim, n):
    spectrum = torch.fft.fft(x, dim=dim)
    keep = torch.zeros(x.shape[dim], dtype=torch.float64)
    keep[n // 2] = keep[-(n // 2)] = 1
    shape = [-1 if d == dim else 1 for d in range(x.ndim)]
    return torch.fft.ifft(spectrum * keep.view(shape), dim=dim).real


def test_upsampling_is_the_transpose_of_the_pool():
    for window, boundary in OPTIONS:
        x, y = torch.randn(1, 1, 8, 12, dtype=torch.float64), torch.randn(1, 1, 4, 4, dtype=torch.float64)
        pooled = timm_asap.asap_pool2d(x, (2, 3), window, boundary)
        enlarged = timm_asap.asap_upsample2d(y, (2, 3), window, boundary)
        torch.testing.assert_close((pooled * y).sum() * 6, (enlarged * x).sum())


def test_upsampling_in_graphs():
    torch._dynamo.reset()
    layer, x = timm_asap.AsapUpsample2d(stride=(2, 3)), torch.randn(1, 2, 5, 6)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    free = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(layer, (x,), dynamic_shapes=free)
    x = torch.randn(1, 2, 9, 7)
    torch.testing.assert_close(program.module()(x), layer(x))
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("axes", [1, 3])
def test_errors_name_the_shape(axes):
    grid = {1: "L", 3: "D, H, W"}[axes]
    for name in ("asap_pool", "lowpass", "asap_upsample"):
        function = getattr(timm_asap, f"{name}{axes}d")
        with pytest.raises(ValueError, match=rf"expected shape \(B, C, {grid}\) or \(C, {grid}\), got 6 axes"):
            function(torch.zeros(1, 1, 1, 1, 1, 1))
        with pytest.raises(ValueError, match="stride: expected a whole number or"):
            function(torch.zeros([2] * (axes + 1)), (2, 2))
        with pytest.raises(TypeError, match="expected a floating-point tensor"):
            function(torch.zeros([2] * (axes + 1), dtype=torch.int64))


# Conversion of what has one axis or three.


class Audio(nn.Module):
    """A waveform's feature extractor, as wav2vec 2.0 has it: convolutions of strides 5, 2, 2 on (B, L)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv1d(1, 4, 10, stride=5), nn.Conv1d(4, 4, 3, stride=2), nn.Conv1d(4, 4, 2, stride=2)]
        )
        self.pool = nn.MaxPool1d(2)

    def forward(self, x):
        x = x[:, None]
        for layer in self.layers:
            x = F.gelu(layer(x))
        return F.avg_pool1d(self.pool(x), 3)


class Medical(nn.Module):
    """A strided 3-D U-Net of one level."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1)
        self.further = nn.Conv3d(4, 4, 1, stride=2)
        self.pool = nn.AvgPool3d(2, ceil_mode=True)
        self.up = nn.ConvTranspose3d(4, 4, 2, stride=2)

    def forward(self, x):
        x = self.down(x)
        return self.up(self.further(x)) + x, self.pool(x)


def video():
    models = pytest.importorskip("torchvision.models.video", reason="timm needs torchvision")
    return models.r3d_18(weights=None)


NETWORKS = {
    "audio": (Audio, (2, 640), 5),
    "medical": (Medical, (1, 1, 4, 16, 16), 3),
    "video": (video, (1, 3, 8, 32, 32), 7),
}


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.*keeps its mean alone")
@pytest.mark.filterwarnings("ignore:.*mean alone is left")
def test_audio_volumes_and_video(name, layout):
    build, size, count = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(size)
    plain = copy.deepcopy(model)
    shapes = [y.shape for y in _outputs(plain, x)]
    before = measure_aliasing(plain, [x])
    assert len(before) == count
    report = convert(model, layout=layout, example=x, stem=True)
    assert report.complete, report
    assert len(report.converted) == count
    assert [y.shape for y in _outputs(model, x)] == shapes
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert sum(math.prod(y.shape) for y in _outputs(model, x)) > 0
    after = measure_aliasing(model, [x])
    assert {site.status for site in after} == {"converted"}
    assert max(site.above_nyquist for site in after) < 1e-6
    assert max(site.above_nyquist for site in before) > 0.01
    assert not convert(model).converted


def _outputs(model, x):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


def test_a_pointwise_convolution_of_one_axis_is_the_pool_first():
    plain = nn.Conv1d(3, 4, 1, stride=2)
    layer, x = copy.deepcopy(plain), torch.randn(2, 3, 11)
    assert convert(layer).converted[0].becomes == "pool, then the 1x1 convolution"
    torch.testing.assert_close(layer(x), plain(timm_asap.lowpass1d(x)))
