"""The one-dimensional matrices against their definition, mode by mode."""

import math

import pytest
import torch
from scipy.fft import dct

from timm_asap.ops.spectral import lowpass_matrix, pool_matrix, window_weights

SIZES = range(4, 65)
STRIDES = (1, 2, 3, 4)
WINDOWS = ("asap", "hamming", "flc")
BOUNDARIES = ("circular", "reflect", "zero")


def expected_weight(k, n, stride, window):
    """Weight of frequency k of n, by hand: |k| <= n / 2 is assumed."""
    if stride == 1:
        return 1.0
    if 2 * k * stride > n:
        return 0.0
    weight = {
        "asap": math.sqrt(0.54 + 0.46 * math.cos(2 * math.pi * k / n)),
        "hamming": 0.54 + 0.46 * math.cos(2 * math.pi * k * stride / n),
        "flc": 1.0,
    }[window]
    return weight / 2 if 2 * k * stride == n else weight


def test_by_hand():
    # n = 4, stride 2: the mean (weight 1) and frequency 1, exactly on the cut (weight 1 / 2).
    row = torch.tensor([0.5, 0.25, 0.0, 0.25], dtype=torch.float64)
    expected = torch.stack([row.roll(i) for i in range(4)])
    torch.testing.assert_close(lowpass_matrix(4, 2, "flc"), expected, atol=1e-15, rtol=0)
    torch.testing.assert_close(pool_matrix(4, 2, "flc"), expected[::2], atol=1e-15, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stride", STRIDES)
def test_circular_is_diagonal_in_the_dft_basis(stride, window):
    for n in SIZES:
        low_pass = lowpass_matrix(n, stride, window)
        assert low_pass.dtype == torch.float64
        assert low_pass.shape == (n, n)
        k = torch.arange(n // 2 + 1, dtype=torch.float64)
        position = 2 * math.pi * k * torch.arange(n, dtype=torch.float64)[:, None] / n
        weights = torch.tensor([expected_weight(j, n, stride, window) for j in k.tolist()], dtype=torch.float64)
        for modes in (position.cos(), position.sin()):
            error = (low_pass @ modes - weights * modes).square().sum(0)
            assert (error <= 1e-12 * modes.square().sum(0).clamp(min=1)).all(), n


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stride", STRIDES)
def test_reflect_is_diagonal_in_the_dct_basis(stride, window):
    for n in SIZES:
        low_pass = lowpass_matrix(n, stride, window, "reflect")
        basis = torch.from_numpy(dct(torch.eye(n, dtype=torch.float64).numpy(), type=2, norm="ortho", axis=0))
        weights = torch.tensor([expected_weight(m, 2 * n, stride, window) for m in range(n)], dtype=torch.float64)
        torch.testing.assert_close(basis @ low_pass @ basis.T, weights.diag(), atol=1e-12, rtol=0, msg=f"n={n}")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stride", STRIDES)
def test_zero_is_the_padded_fft(stride, window):
    generator = torch.Generator().manual_seed(0)
    for n in SIZES:
        x = torch.randn(n, dtype=torch.float64, generator=generator)
        weights = torch.tensor(
            [expected_weight(min(k, 2 * n - k), 2 * n, stride, window) for k in range(2 * n)],
            dtype=torch.float64,
        )
        expected = torch.fft.ifft(weights * torch.fft.fft(x, n=2 * n)).real[:n]
        torch.testing.assert_close(lowpass_matrix(n, stride, window, "zero") @ x, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_constant_stays_itself(window, boundary):
    for stride in STRIDES:
        for n in SIZES:
            ones = torch.ones(n, dtype=torch.float64)
            torch.testing.assert_close(lowpass_matrix(n, stride, window, boundary) @ ones, ones, atol=1e-12, rtol=0)
            pooled = pool_matrix(n, stride, window, boundary) @ ones
            torch.testing.assert_close(pooled, ones[: math.ceil(n / stride)], atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_zero_boundary_sags_at_the_borders_alone(window):
    response = lowpass_matrix(64, 2, window, "zero").sum(1)
    assert response[0] < 0.8
    assert abs(response[32] - 1) < 0.03


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("window", WINDOWS)
def test_symmetric_and_of_the_strides_rows(window, boundary):
    for stride in STRIDES:
        for n in SIZES:
            low_pass = lowpass_matrix(n, stride, window, boundary)
            torch.testing.assert_close(low_pass, low_pass.T, atol=1e-14, rtol=0)
            pool = pool_matrix(n, stride, window, boundary)
            assert pool.shape == (math.ceil(n / stride), n)
            assert torch.equal(pool, low_pass[::stride])


@pytest.mark.parametrize("window", WINDOWS)
def test_a_shift_by_the_stride_is_a_shift_by_one(window):
    for stride in STRIDES:
        for n in (n for n in SIZES if n % stride == 0):
            pool = pool_matrix(n, stride, window)
            # P S_s = S_1 P for every input is the same as for the matrix itself.
            torch.testing.assert_close(pool.roll(-stride, dims=1), pool.roll(1, dims=0), atol=1e-13, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_pool_has_full_rank(window):
    for n in (4, 8, 12, 16, 32):
        assert torch.linalg.matrix_rank(pool_matrix(n, 2, window)) == n // 2


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_tiny_axes(boundary):
    one = torch.ones(1, 1, dtype=torch.float64)
    for stride in STRIDES:
        assert torch.equal(lowpass_matrix(1, stride, "asap", boundary), one)
        assert torch.equal(pool_matrix(1, stride, "asap", boundary), one)
    # Below twice the stride the mean alone survives.
    torch.testing.assert_close(lowpass_matrix(3, 2), torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_stride_one_is_the_identity():
    for boundary in BOUNDARIES:
        assert torch.equal(lowpass_matrix(7, 1, "asap", boundary), torch.eye(7, dtype=torch.float64))


def test_window_weights_order_and_symmetry():
    weights = window_weights(10, 2, "hamming")
    torch.testing.assert_close(weights[1:], weights[1:].flip(0))
    assert weights[0] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((8, 2, "hann"), ValueError, "unknown window 'hann': expected one of asap, flc, hamming"),
        (
            (8, 2, "asap", "same"),
            ValueError,
            "unknown boundary 'same': expected one of circular, reflect, zero",
        ),
        ((8, 0), ValueError, "stride: expected at least 1, got 0"),
        ((0, 2), ValueError, "n: expected at least 1, got 0"),
        ((8, 1.5), TypeError, "stride: expected a whole number, got 1.5"),
        ((8, True), TypeError, "stride: expected a whole number, got True"),
        ((8, 1, "hann"), ValueError, "unknown window"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        lowpass_matrix(*arguments)
