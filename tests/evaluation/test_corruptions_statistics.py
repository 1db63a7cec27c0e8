"""The random corruptions in distribution: moments, spectra and independence, with fixed seeds."""

import numpy as np
import pytest
import scipy.stats
import torch

from timm_asap.evaluation.corruptions import CORRUPTIONS, TABLES, blur, corrupt, digital, filters, weather

GREY = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
COUNT = GREY.numel()


def noise_of(name, severity, table="cifar", images=GREY):
    """What a corruption adds, in [0, 1]; cutting to whole levels takes half a level on average."""
    return (corrupt(images, name, severity, table).double() + 0.5 - images.double()) / 255


def assert_white(noise):
    """No frequency and no channel stands out, and images are independent."""
    power = (
        torch.fft.fft2(noise - noise.mean()).abs().square().flatten(0, 1).mean(0) / noise.var() / noise[0, 0].numel()
    )
    thirds = power.flatten()[1:].chunk(3)
    for third in thirds:
        assert third.mean() == pytest.approx(1, abs=0.06)
    correlation = torch.corrcoef(noise.flatten(2).flatten(0, 1)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.08  # 66 pairs of 4096 numbers: 0.016 is one standard deviation


@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_noise(severity):
    noise = noise_of("gaussian_noise", severity)
    scale = TABLES["cifar"].parameters["gaussian_noise"][severity - 1]
    assert noise.mean().abs() < 5 * scale / COUNT**0.5
    assert noise.std() == pytest.approx(scale, rel=0.02)
    assert abs(scipy.stats.skew(noise.flatten())) < 0.05
    assert abs(scipy.stats.kurtosis(noise.flatten())) < 0.1
    assert_white(noise)


@pytest.mark.parametrize("level", [40, 128, 200])
def test_speckle_noise_grows_with_the_value(level):
    noise = noise_of("speckle_noise", 2, images=torch.full_like(GREY, level))
    assert noise.mean().abs() < 1e-3
    assert noise.std() == pytest.approx(0.1 * level / 255, rel=0.03)
    assert_white(noise)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (3, 12)])
@pytest.mark.parametrize("level", [20, 90])
def test_shot_noise_counts_photons(severity, photons, level):
    images = torch.full_like(GREY, level)
    counts = torch.round((corrupt(images, "shot_noise", severity).double() + 0.5) / 255 * photons)
    rate = level / 255 * photons
    assert counts.mean() == pytest.approx(rate, abs=5 * (rate / COUNT) ** 0.5)
    observed = torch.bincount(counts.flatten().long(), minlength=200).numpy()
    expected = scipy.stats.poisson.pmf(np.arange(200), rate) * COUNT
    used = (expected > 10) & (np.arange(200) < photons)  # a count of `photons` and above is white
    statistic = ((observed - expected)[used] ** 2 / expected[used]).sum()
    assert scipy.stats.chi2.sf(statistic, used.sum() - 1) > 1e-3


def test_black_has_no_shot_noise():
    assert corrupt(torch.zeros_like(GREY), "shot_noise", 5).sum() == 0


@pytest.mark.parametrize("severity", [1, 5])
def test_impulse_noise_is_half_salt_and_half_pepper(severity):
    result = corrupt(GREY, "impulse_noise", severity)
    amount = TABLES["imagenet"].parameters["impulse_noise"][severity - 1]
    spread = (amount / 2 / COUNT) ** 0.5
    for level in (0, 255):
        assert (result == level).double().mean() == pytest.approx(amount / 2, abs=4 * spread)
    assert_white((result != 128).double())


def generators(name, count):
    return [filters.generator(0, name, 1, index) for index in range(count)]


def test_angles_are_uniform():
    image = np.zeros((1, 32, 32), dtype=np.uint8)
    motion = [blur.draw_angle(rng, image, None)[0] for rng in generators("motion_blur", 2000)]
    assert scipy.stats.kstest(motion, scipy.stats.uniform(-45, 90).cdf).pvalue > 1e-3
    snow = [weather.draw_snow(rng, image, None)[1] for rng in generators("snow", 2000)]
    assert scipy.stats.kstest(snow, scipy.stats.uniform(-135, 90).cdf).pvalue > 1e-3


def test_glass_displacements_are_uniform_and_leave_out_the_upper_end():
    image = np.zeros((3, 64, 64), dtype=np.uint8)
    moves = np.stack([blur.draw_displacements(rng, image, (1, 3, 2))[0] for rng in generators("glass_blur", 5)])
    assert moves.shape == (5, 2, 2, 58, 58)
    values, counts = np.unique(moves, return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0, 1, 2]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_elastic_numbers_are_uniform():
    image = np.zeros((3, 48, 48), dtype=np.uint8)
    drawn = [digital.draw_elastic(rng, image, None) for rng in generators("elastic_transform", 40)]
    for numbers in (np.stack([points for points, _ in drawn]), np.stack([field for _, field in drawn])):
        assert scipy.stats.kstest(numbers.flatten(), scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_fog_is_a_fractal():
    """Detail shrinks from octave to octave by the square of the table's number, on average."""
    black = np.zeros((1, 64, 64), dtype=np.uint8)
    numbers = np.stack([weather.draw_fog(rng, black, None)[0] for rng in generators("fog", 400)])
    assert scipy.stats.kstest(numbers[:20].flatten(), scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    heights = weather.plasma_fractal(torch.from_numpy(numbers).double(), 64, 2.0)
    assert heights.amin((1, 2)).abs().max() == 0
    assert (heights.amax((1, 2)) - 1).abs().max() == 0
    middles = []
    for step in (4, 8):  # what the middles of squares have beyond the mean of their corners
        corners = heights[:, ::step, ::step]
        mean = (corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))) / 4
        middles.append((heights[:, step // 2 :: step, step // 2 :: step] - mean).std())
    assert middles[1] / middles[0] == pytest.approx(2.0**2, rel=0.03)


def test_fog_lightens_the_dark_and_darkens_the_bright():
    image = torch.zeros((200, 1, 32, 32), dtype=torch.uint8)
    image[..., 16:] = 255
    result = corrupt(image, "fog", 4, "cifar").double() / 255  # (x + haze) / 2, haze in [0, 1]
    dark, bright = result[..., :16], result[..., 16:]
    assert dark.max() <= 0.5
    assert bright.min() >= 0.49
    assert (bright.mean() - dark.mean()).item() == pytest.approx(0.5, abs=0.03)


def test_snow_falls_everywhere_alike_and_is_point_symmetric():
    flakes = corrupt(torch.zeros((400, 1, 32, 32), dtype=torch.uint8), "snow", 3, "cifar").double()
    assert (flakes - flakes.flip(-2, -1)).abs().max() <= 1
    quarters = [flakes[..., i : i + 16, j : j + 16].mean().item() for i in (0, 16) for j in (0, 16)]
    assert max(quarters) < 1.1 * min(quarters)


def test_drawn_frost_has_the_photographs_colors(monkeypatch):
    monkeypatch.setattr(weather, "photographs", lambda: None)
    ice = corrupt(torch.zeros((64, 3, 64, 64), dtype=torch.uint8), "frost", 1).double() / 0.4
    red, green, blue = ice.mean((0, 2, 3)).tolist()
    assert 120 < red < green < blue < 200
    assert ice.flatten(2).std(2).mean() == pytest.approx(26, rel=0.1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_do_not_share_their_random_numbers(name, monkeypatch):
    """Results of equal images, less their mean, are not correlated."""
    monkeypatch.setattr(weather, "photographs", lambda: None)
    image = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0)).expand(60, 3, -1, -1)
    results = corrupt(image, name, 3, "cifar").double()
    deviation = (results - results.mean(0)).flatten(1)
    if deviation.abs().max() < 1e-9:
        return  # nothing random in it
    correlation = torch.corrcoef(deviation)
    pairs = correlation[~torch.eye(60, dtype=torch.bool)]
    assert pairs.mean().abs() < 0.05
