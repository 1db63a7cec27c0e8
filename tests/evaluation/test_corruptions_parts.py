"""The parts of the corruptions against answers worked by hand or computed the slow way."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from timm_asap.evaluation.corruptions import blur, corrupt, digital, filters, weather
from timm_asap.evaluation.corruptions.weather import fractal_side, plasma_fractal


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.5, 6])
def test_gaussian_is_scipys(sigma):
    x = torch.rand((2, 1, 30, 41), generator=torch.Generator().manual_seed(0))
    expected = scipy.ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    torch.testing.assert_close(filters.gaussian(x, sigma).double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.6, 5.0, 40.0])
def test_smoothing_of_displacements_is_scipys(sigma):
    x = torch.rand((1, 2, 30, 41), generator=torch.Generator().manual_seed(0)).double()
    expected = scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=3.0)
    torch.testing.assert_close(digital._smooth(x, sigma), torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_clipped_zoom_by_hand():
    x = torch.tensor([0.0, 1, 2, 3, 4, 5, 6]).view(1, 1, 1, 7).expand(1, 1, 7, 7)
    # ceil(7 / 2) = 4 samples from (7 - 4) // 2 = 1 on; 8 outputs 3/7 apart, of which the first 7.
    expected = 1 + 3 / 7 * torch.arange(7.0)
    zoomed = filters.clipped_zoom(x, 2)
    torch.testing.assert_close(zoomed, expected.expand(1, 1, 7, 7))
    torch.testing.assert_close(filters.clipped_zoom(x.mT, 2), zoomed.mT)
    assert torch.equal(filters.clipped_zoom(x, 1), x)


def test_motion_blur_by_hand():
    x = torch.zeros((2, 1, 5, 5))
    x[:, 0, 2, 2] = 1
    weights = [math.exp(-0.5 * i * i) for i in range(3)]
    first, second, third = (math.floor(255 * w / sum(weights)) for w in weights)
    # A pixel is the mean of those ahead of it, so a point is drawn out to the other side: to the left at 0 degrees,
    # upwards at 90.
    left, up = (filters.motion_blur(x, 1, 1.0, torch.tensor([0.0, 90.0])) * 255).round()[:, 0]
    assert left[2].tolist() == [third, second, first, 0, 0]
    assert torch.equal(up, left.mT)
    assert left.sum() == first + second + third
    diagonal = (filters.motion_blur(x, 1, 1.0, torch.tensor([45.0, 45.0])) * 255).round()[0, 0]
    # 2 steps at 45 degrees are 1.41 pixels each way, which rounds to 1.
    assert diagonal[1, 1] == pytest.approx(second + third, abs=1)


def test_disk():
    assert torch.equal(blur.disk(0.3, 0.1), torch.ones((1, 1), dtype=torch.float64))
    kernel = blur.disk(3, 0.1)  # hardly softened: the 29 pixels within 3 of the middle
    assert kernel.shape == (7, 7)
    assert (kernel > 0.03).sum() == 29
    # The published code softens a disk that touches its array's border, so its two largest brighten: OpenCV's sums.
    for c, total in (((0.5, 0.6), 1), ((1.5, 0.1), 1), ((6, 0.5), 1), ((8, 0.5), 1.0129755), ((10, 0.5), 1.0107858)):
        kernel = blur.disk(*c)
        torch.testing.assert_close(kernel, kernel.mT)
        assert kernel.sum() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("c", [(3, 0.1), (10, 0.5)])
def test_defocus_is_a_convolution(c):
    x = torch.rand((2, 3, 40, 33), generator=torch.Generator().manual_seed(0))
    kernel = blur.disk(*c).numpy()
    expected = [[scipy.ndimage.correlate(plane.double().numpy(), kernel, mode="mirror") for plane in im] for im in x]
    torch.testing.assert_close(blur.defocus_blur(x, c).double(), torch.tensor(np.array(expected)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_glass_moves_are_those_of_the_loop(reach):
    rng = np.random.default_rng(reach)
    height, width = 17, 23
    moves = rng.integers(-reach, reach, (6, 2, height - 2 * reach, width - 2 * reach))
    sources = blur._sources(torch.from_numpy(moves), reach, height, width).view(6, height, width)
    for source, (down, right) in zip(sources, moves, strict=True):
        x = np.arange(height * width).reshape(height, width)
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                i, j = h - reach - 1, w - reach - 1
                x[h, w] = x[h + down[i, j], w + right[i, j]]
        assert np.array_equal(source.numpy(), x)


def test_glass_without_moves_is_a_gaussian_twice():
    x = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    still = torch.zeros((1, 3, 2, 28, 28), dtype=torch.int8)
    once = (filters.gaussian(x, 1.0) * 255).floor() / 255
    torch.testing.assert_close(blur.glass_blur(x, (1, 2, 3), still), filters.gaussian(once, 1.0), atol=1e-3, rtol=0)


def test_plasma_fractal_by_hand():
    # Two by two: the middle, the upper and the left edge, each the mean of its four neighbors plus 100^2 noise.
    noise = torch.tensor([[0.5, 0.25, -1.0]])
    corner, middle = 0.0, 5000.0
    upper = (2 * corner + 2 * middle) / 4 + 2500
    left = (2 * corner + 2 * middle) / 4 - 10000
    heights = torch.tensor([[corner, upper], [left, middle]])
    expected = (heights - left) / (upper - left)
    torch.testing.assert_close(plasma_fractal(noise, 2, 3.0)[0], expected)
    assert [fractal_side((n, n)) for n in (28, 32, 33, 64, 224, 256, 299)] == [32, 32, 64, 64, 256, 256, 512]


def test_brightness_and_saturation_by_hand():
    colors = [[200, 100, 50], [0, 0, 0], [90, 90, 90], [255, 0, 0], [250, 10, 240]]
    image = torch.tensor(colors, dtype=torch.uint8).T.reshape(1, 3, 5, 1).repeat_interleave(8, 2).expand(-1, -1, -1, 40)

    def result(name, severity):
        return corrupt(image, name, severity, "cifar")[0, :, ::8, 0].T.tolist()

    # value + 0.2, which is 51 levels: 200 becomes 251, and the other colors in proportion
    assert result("brightness", 4) == [[251, 125, 62], [51, 51, 51], [141, 141, 141], [255, 0, 0], [255, 10, 244]]
    # saturation times 0.3
    assert result("saturate", 1) == [[200, 170, 155], [0, 0, 0], [90, 90, 90], [255, 178, 178], [250, 178, 247]]
    # saturation times 2 plus 0.1, at most 1; a gray pixel turns red by a tenth
    assert result("saturate", 4)[2] == [90, 81, 81]


def test_contrast_by_hand():
    image = torch.zeros((1, 1, 30, 30), dtype=torch.uint8)
    image[..., :15] = 200
    assert sorted(set(corrupt(image, "contrast", 2, "cifar").flatten().tolist())) == [50, 150]


def test_impulses_are_black_and_white_and_leave_the_rest():
    image = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    assert sorted(set(corrupt(image, "impulse_noise", 5).flatten().tolist())) == [0, 77, 255]


def test_distance_by_hand():
    edges = torch.zeros((1, 1, 30, 31), dtype=torch.bool)
    edges[0, 0, 3, 4] = True
    distance = weather._distance(edges, 20)[0, 0]
    assert distance[3, 4] == 0
    assert distance[3, 9] == 5
    assert distance[6, 7] == pytest.approx(3 * 1.4, abs=1e-4)
    assert distance[5, 5] == pytest.approx(2.1969, abs=1e-4)
    assert distance[29, 30] == 20
    assert torch.equal(weather._distance(torch.zeros_like(edges), 20), torch.full((1, 1, 30, 31), 20.0))


def test_edges_of_a_square():
    levels = torch.zeros((1, 1, 20, 20))
    levels[..., 5:15, 5:15] = 200
    edges = weather._canny(levels, 50, 150)[0, 0]
    assert edges[4:16, 4:16].any(1).sum() >= 10
    assert not edges[7:13, 7:13].any()
    assert not edges[:4].any()
    assert edges[10].sum() == 2


def test_equalization_by_hand():
    levels = torch.tensor([[10.0, 10, 20, 30]]).view(1, 1, 1, 4)
    # The lowest level goes to 0; of the two values above, half lie at 20 or below: 127.5, rounded to even.
    assert weather.equalize(levels).flatten().tolist() == [0, 0, 128, 255]
    flat = torch.full((1, 1, 2, 2), 20.0)
    assert torch.equal(weather.equalize(flat), flat)


def test_elastic_with_nothing_to_move_is_the_identity():
    x = torch.rand((2, 3, 33, 40), generator=torch.Generator().manual_seed(0))
    still = digital.elastic_transform(x, (1, 0.05, 0.1), torch.zeros((2, 3, 2)), torch.zeros((2, 2, 33, 40)))
    torch.testing.assert_close(still, x, atol=1e-4, rtol=0)


def test_elastic_moves_the_three_points_where_they_are_sent():
    height = width = 48
    moves = torch.tensor([[[2.0, 1.0], [0.0, -3.0], [1.5, 0.5]]]).double()
    matrix = digital._inverse_affine(moves, height, width)[0]
    square, center = 16, 24
    for (x, y), move in zip([(1, 1), (1, -1), (-1, -1)], moves[0], strict=True):
        corner = torch.tensor([center + square * x, center + square * y]).double()
        position = torch.cat([corner + move, torch.ones(1).double()])
        torch.testing.assert_close(matrix @ position, corner)
