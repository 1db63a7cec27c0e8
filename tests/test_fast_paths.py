"""What large maps do otherwise than small ones, for speed alone: the same numbers, gradients and memory formats."""

import pytest
import torch
from torch import nn

import timm_asap
from timm_asap import lowpass2d
from timm_asap.conversion import filtering
from timm_asap.ops import resample
from timm_asap.ops.spectral import lowpass_matrix

SIZES = [(8, 8), (8, 9), (15, 14), (12, 10)]


@pytest.fixture
def fourier(monkeypatch):
    """The Fourier transform from 8 samples on; the sizes that it was taken for."""
    taken = []
    apply = resample._apply_fourier
    monkeypatch.setattr(resample, "_LARGE_AXIS", 8)
    monkeypatch.setattr(resample, "_apply_fourier", lambda x, o: (taken.append(o.size), apply(x, o))[1])
    return taken


def by_matrices(x, stride, window):
    rows, columns = (lowpass_matrix(n, s, window) for n, s in zip(x.shape[-2:], stride, strict=True))
    return torch.einsum("ph,bchw,qw->bcpq", rows, x.double(), columns)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", ["asap", "hamming", "flc"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_low_passes_run_by_a_fourier_transform(fourier, size, window, memory_format):
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for stride in ((2, 2), (3, 2), (4, 4)):
            x = torch.randn(2, 3, *size, dtype=dtype).contiguous(memory_format=memory_format)
            y = lowpass2d(x, stride, window)
            assert fourier.pop() == size
            assert y.dtype == dtype
            assert y.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(y.double(), by_matrices(x, stride, window), atol=bound, rtol=0)


def test_the_fourier_transform_has_every_derivative_and_vmaps(fourier):
    x = torch.randn(1, 2, 8, 9, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(lambda z: lowpass2d(z).square(), (x,))
    seed = torch.randn(1, 2, 8, 9, dtype=torch.float64)
    (grad,) = torch.autograd.grad(lowpass2d(x), x, seed)
    torch.testing.assert_close(grad, by_matrices(seed, (2, 2), "asap"))  # the matrices are symmetric
    many = torch.randn(3, 2, 4, 8, 8)
    torch.testing.assert_close(torch.func.vmap(lowpass2d)(many), lowpass2d(many.flatten(0, 1)).view_as(many))
    with torch.inference_mode():
        lowpass2d(x)
    lowpass2d(x).sum().backward()
    assert fourier


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (torch.randn(1, 2, 8, 11), {}),  # a large prime factor
        (torch.randn(1, 2, 8, 6), {}),
        (torch.randn(1, 2, 8, 8).bfloat16(), {}),
        (torch.randn(1, 2, 8, 8), {"boundary": "reflect"}),
        (torch.randn(1, 2, 8, 8), {"stride": (1, 2)}),
    ],
)
def test_what_keeps_its_matrices(fourier, x, options):
    lowpass2d(x, **options)
    assert not fourier


def test_autocast_and_exports_keep_the_matrices(fourier):
    x = torch.randn(1, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert lowpass2d(x).dtype == torch.bfloat16
    program = torch.export.export(timm_asap.LowPass2d(), (x,))
    assert not fourier
    torch.testing.assert_close(program.module()(x), lowpass2d(x))


LAYERS = {
    "convolution": lambda: nn.Conv2d(3, 6, 3, 2, 1),
    "depthwise convolution": lambda: nn.Conv2d(3, 3, 3, 2, 1, groups=3),
    "1x1 convolution": lambda: nn.Conv2d(3, 6, 1, 2),
    "average pool": lambda: nn.AvgPool2d(2),
    "max-pool": lambda: nn.MaxPool2d(3, 2, 1),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", LAYERS)
def test_large_batches_are_divided(name, memory_format, monkeypatch):
    layer = LAYERS[name]()
    timm_asap.convert(layer)
    layer.to(memory_format=memory_format)
    x = torch.randn(5, 3, 12, 9).contiguous(memory_format=memory_format).requires_grad_()
    y = layer(x)
    seed = torch.randn_like(y)
    wanted = torch.autograd.grad(y, [x, *layer.parameters()], seed)
    sizes = []
    resample = filtering._resample
    monkeypatch.setattr(filtering, "_resample", lambda z, *args: (sizes.append(len(z)), resample(z, *args))[1])
    monkeypatch.setattr(filtering, "_LARGE", 1)
    monkeypatch.setattr(filtering, "_PART", 2 * x[0].nbytes)
    divided = layer(x)
    assert sizes == ([5] if name == "1x1 convolution" else [2, 2, 1])
    torch.testing.assert_close(divided, y)
    assert divided.stride() == y.stride()
    for found, expected in zip(torch.autograd.grad(divided, [x, *layer.parameters()], seed), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y)


class Standardized(nn.Conv2d):
    """A convolution whose class computes its weight at each call."""

    def forward(self, input):
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


def parametrized():
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3, 2, 1))


def own_forward():
    layer = nn.Conv2d(3, 3, 3, 2, 1)
    layer.forward = lambda x: nn.Conv2d.forward(layer, x) - x.mean()
    return layer


@pytest.mark.parametrize("make", [parametrized, own_forward, lambda: Standardized(3, 3, 3, 2, 1)])
def test_layers_that_do_more_see_the_whole_batch(make, monkeypatch):
    layer = make()
    timm_asap.convert(layer)
    sizes = []
    resample = filtering._resample
    monkeypatch.setattr(filtering, "_resample", lambda z, *args: (sizes.append(len(z)), resample(z, *args))[1])
    monkeypatch.setattr(filtering, "_LARGE", 1)
    monkeypatch.setattr(filtering, "_PART", 1)
    layer(torch.randn(5, 3, 12, 9))
    assert sizes == [5]


def test_a_map_without_batch_is_not_divided(monkeypatch):
    layer = nn.Conv3d(4, 2, 3, 2, 1)
    timm_asap.convert(layer)
    x = torch.randn(4, 8, 8, 8)
    y = layer(x)
    monkeypatch.setattr(filtering, "_LARGE", 1)
    monkeypatch.setattr(filtering, "_PART", 1)
    torch.testing.assert_close(layer(x), y)


def test_matrices_of_captured_graphs_stay(monkeypatch):
    cache = resample.MatrixCache(max_bytes=1000)
    key = resample._Key("pool", (8,), (2,), "asap", "circular", torch.float32, torch.device("cpu"))
    other = key._replace(sizes=(16,))
    matrix = cache.get(key)
    monkeypatch.setattr(resample, "_is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="run the model once at that size before"):
        cache.get(other)
    assert cache.get(key) is matrix
    monkeypatch.undo()
    for n in range(10, 40):
        cache.get(key._replace(sizes=(n,)))
    assert key not in cache._matrices
    assert cache.get(key) is matrix  # a graph reads it from where it is
    cache.clear()
    assert cache.get(key) is not matrix


def test_autocast_takes_matrices_of_its_own_dtype():
    resample.matrix_cache.clear()
    x = torch.randn(1, 2, 40, 44)
    with torch.autocast("cpu", torch.bfloat16):
        timm_asap.asap_pool2d(x)
        timm_asap.asap_pool2d(x.double())
    dtypes = {key.dtype for key in resample.matrix_cache._matrices}
    assert dtypes == {torch.bfloat16, torch.float64}
