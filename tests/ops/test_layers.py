"""The functions and layers in two dimensions."""

import copy
import math
import pickle

import pytest
import timm
import torch

from timm_asap import AsapPool2d, LowPass2d, asap_pool2d, lowpass2d
from timm_asap.ops.spectral import lowpass_matrix, pool_matrix

RECTANGLES = [
    (4, 4),
    (4, 7),
    (5, 8),
    (7, 7),
    (8, 6),
    (9, 14),
    (13, 5),
    (14, 14),
    (16, 31),
    (28, 10),
    (33, 32),
    (1, 9),
]
OPTIONS = [(w, b) for w in ("asap", "hamming", "flc") for b in ("circular", "reflect", "zero")]


@pytest.mark.parametrize(("window", "boundary"), OPTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_height_and_width_stay_apart(window, boundary, channels_last):
    generator = torch.Generator().manual_seed(0)
    for height, width in RECTANGLES:
        for stride in ((2, 2), (2, 1), (3, 2), (1, 4)):
            x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            rows = pool_matrix(height, stride[0], window, boundary)
            columns = pool_matrix(width, stride[1], window, boundary)
            expected = torch.einsum("ph,bchw,qw->bcpq", rows, x, columns)
            result = asap_pool2d(x, stride, window, boundary)
            assert result.shape == (2, 3, math.ceil(height / stride[0]), math.ceil(width / stride[1]))
            torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
            rows = lowpass_matrix(height, stride[0], window, boundary)
            columns = lowpass_matrix(width, stride[1], window, boundary)
            expected = torch.einsum("ph,bchw,qw->bcpq", rows, x, columns)
            torch.testing.assert_close(lowpass2d(x, stride, window, boundary), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_memory_format_is_kept(channels):
    x = torch.randn(2, channels, 8, 6)
    for operator in (asap_pool2d, lowpass2d):
        assert operator(x).is_contiguous()
        assert operator(x.contiguous(memory_format=torch.channels_last)).is_contiguous(
            memory_format=torch.channels_last
        )


@pytest.mark.parametrize(("window", "boundary"), OPTIONS)
def test_gradcheck(window, boundary):
    for height, width in ((4, 6), (5, 8), (7, 3)):
        x = torch.randn(1, 2, height, width, dtype=torch.float64, requires_grad=True)
        for operator in (asap_pool2d, lowpass2d):
            assert torch.autograd.gradcheck(lambda x, f=operator: f(x, 2, window, boundary), (x,))


def test_without_a_batch_and_of_size_one():
    x = torch.randn(3, 8, 6)
    torch.testing.assert_close(asap_pool2d(x), asap_pool2d(x[None])[0])
    point = torch.randn(2, 3, 1, 1)
    for boundary in ("circular", "reflect", "zero"):
        torch.testing.assert_close(asap_pool2d(point, 2, "asap", boundary), point)
        torch.testing.assert_close(lowpass2d(point, 2, "asap", boundary), point)
    assert asap_pool2d(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("layer", [AsapPool2d, LowPass2d])
def test_layers_equal_their_functions_and_hold_no_state(layer):
    function = asap_pool2d if layer is AsapPool2d else lowpass2d
    x = torch.randn(2, 3, 9, 8)
    module = layer(3, stride=(2, 1), window="hamming", boundary="reflect")
    assert torch.equal(module(x), function(x, (2, 1), "hamming", "reflect"))
    assert not list(module.state_dict())
    assert not list(module.buffers())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert "window='hamming', boundary='reflect'" in repr(module)
    module(torch.randn(1, 3, 12, 12))  # a second size works


def test_fits_timms_aa_layer():
    plain = timm.create_model("resnet18")
    model = timm.create_model("resnet18", aa_layer=AsapPool2d)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert sum(isinstance(m, AsapPool2d) for m in model.modules()) == 4
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("operator", [asap_pool2d, lowpass2d, AsapPool2d(), LowPass2d()])
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (
            torch.zeros(8, 8),
            ValueError,
            r"expected shape \(B, C, H, W\) or \(C, H, W\), got 2 axes: \(8, 8\)",
        ),
        (torch.zeros(1, 1, 1, 8, 8), ValueError, "got 5 axes"),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.long),
            TypeError,
            "expected a floating-point tensor, got torch.int64",
        ),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), TypeError, "got torch.complex64"),
        (torch.zeros(1, 1, 0, 8), ValueError, "expected at least one channel, row and column"),
        (torch.zeros(1, 0, 4, 8), ValueError, "expected at least one channel, row and column"),
        ([[1.0]], TypeError, "expected a tensor, got list"),
    ],
)
def test_bad_tensors(operator, x, error, text):
    with pytest.raises(error, match=text):
        operator(x)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"stride": 2.0}, TypeError, "stride: expected a whole number, got 2.0"),
        ({"stride": (2, 2, 2)}, ValueError, "stride: expected a whole number or a pair"),
        ({"window": "hann"}, ValueError, "unknown window 'hann'"),
        ({"boundary": "wrap"}, ValueError, "unknown boundary 'wrap'"),
    ],
)
def test_bad_arguments(arguments, error, text):
    for operator in (asap_pool2d, lowpass2d):
        with pytest.raises(error, match=text):
            operator(torch.zeros(1, 1, 8, 8), **arguments)
    for layer in (AsapPool2d, LowPass2d):
        with pytest.raises(error, match=text):
            layer(**arguments)
