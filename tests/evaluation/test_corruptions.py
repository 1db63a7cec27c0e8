"""`corrupt`: what it takes, what it returns, and that an image's result is its own affair."""

import importlib.machinery
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from timm_asap.errors import UserError
from timm_asap.evaluation.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    TABLES,
    approximation,
    corrupt,
    weather,
)
from timm_asap.evaluation.corruptions.filters import generator

NAMES = CORRUPTIONS + EXTRA_CORRUPTIONS
# Same input, same output, whatever the seed.
DETERMINISTIC = {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
}


def pictures(count, channels=3, height=32, width=32, seed=0):
    """uint8 images with edges, gradients and colors."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, channels, -(-height // 8), -(-width // 8)), generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    blocks = torch.nn.functional.interpolate(coarse.flip(0), size=(height, width), mode="nearest")
    return (255 * (0.6 * smooth + 0.4 * blocks)).to(torch.uint8)


@pytest.fixture(autouse=True)
def no_photographs(monkeypatch):
    """Frost is drawn, also where the photographs are installed."""
    monkeypatch.setattr(weather, "photographs", lambda: None)


def test_the_names_are_the_benchmarks():
    assert len(CORRUPTIONS) == 15
    assert len(set(NAMES)) == 19
    for table in TABLES.values():
        assert set(table.parameters) == set(NAMES)
        assert {len(strengths) for strengths in table.parameters.values()} == {5}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", NAMES)
def test_every_severity_changes_the_images_and_none_leaves_the_range(name, table):
    images = pictures(2)
    changes = []
    for severity in SEVERITIES:
        result = corrupt(images, name, severity, table)
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        changes.append((result.float() - images.float()).abs().mean().item())
    assert min(changes) > 0.05
    if name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "brightness", "contrast"):
        assert changes == sorted(changes)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_same_result_in_any_batch_and_process(name):
    images = pictures(7)
    numbers = torch.tensor([5, 0, 40, 3, 99, 7, 1])
    whole = corrupt(images, name, 3, "cifar", seed=1, indices=numbers)
    for i in (0, 4, 6):
        alone = corrupt(images[i : i + 1], name, 3, "cifar", seed=1, indices=numbers[i : i + 1])
        assert torch.equal(alone[0], whole[i])
    backwards = corrupt(images.flip(0), name, 3, "cifar", seed=1, indices=numbers.flip(0))
    assert torch.equal(backwards.flip(0), whole)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(corrupt(images, name, 3, "cifar", seed=1, indices=numbers), whole)


@pytest.mark.parametrize("name", NAMES)
def test_batches_beyond_one_piece(name, monkeypatch):
    images = pictures(5, height=40, width=36)
    whole = corrupt(images, name, 5)
    monkeypatch.setattr("timm_asap.evaluation.corruptions.apply._PIECE", {"cpu": 2 * images[0].numel()})
    assert torch.equal(corrupt(images, name, 5), whole)


def test_the_streams_are_the_same_in_every_process():
    # Python salts its own hash of a string anew in each process; these are the stream's first numbers in another one.
    assert generator(0, "fog", 1, 17).integers(0, 2**63, 3).tolist() == [
        3948826600926939215,
        4033988340984737330,
        2783208348087378942,
    ]
    streams = [(0, "fog", 1, 17), (1, "fog", 1, 17), (0, "snow", 1, 17), (0, "fog", 2, 17), (0, "fog", 1, 18)]
    assert len({int(generator(*stream).integers(0, 2**63)) for stream in streams}) == len(streams)


@pytest.mark.parametrize("name", NAMES)
def test_random_ones_differ_by_image_and_seed_and_the_others_do_not(name):
    images = pictures(1).expand(2, -1, -1, -1)
    first, second = corrupt(images, name, 4)
    other = corrupt(images, name, 4, seed=1)[0]
    assert torch.equal(first, second) == (name in DETERMINISTIC)
    assert torch.equal(first, other) == (name in DETERMINISTIC)


def test_severities_draw_their_own_numbers():
    images = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    mild, strong = (corrupt(images, "gaussian_noise", s, "cifar").double() - 128 for s in (1, 2))
    assert abs(torch.corrcoef(torch.stack([mild.flatten(), strong.flatten()]))[0, 1]) < 0.06


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_floats_give_what_uint8_gives(name, dtype):
    images = pictures(2)
    result = corrupt((images.float() / 255).to(dtype), name, 2, "cifar")
    assert result.dtype == dtype
    assert torch.equal(result, (corrupt(images, name, 2, "cifar").float() / 255).to(dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (1, 45, 33), (3, 28, 61), (3, 64, 50)])
@pytest.mark.parametrize("table", TABLES)
def test_grey_odd_and_oblong_images(name, channels, height, width, table):
    images = pictures(2, channels, height, width)
    result = corrupt(images, name, 5, table)
    assert result.shape == images.shape
    assert not torch.equal(result, images)


@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"})
)
def test_a_grey_image_is_the_luma_of_the_same_image_in_colors(name):
    gray = pictures(2, channels=1)
    one = corrupt(gray, name, 4, "cifar").double()
    three = corrupt(gray.expand(-1, 3, -1, -1), name, 4, "cifar").double()
    luma = (three * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (one - luma).abs().mean() < 0.6  # each color was cut to whole levels by itself
    if name != "frost":  # whose colors are clipped each by itself
        assert (one - luma).abs().max() < 2.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images(name, level):
    images = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
    for table in TABLES:
        result = corrupt(images, name, 5, table)
        if name in ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "pixelate"):
            assert torch.equal(result, images)


def test_empty_batches_and_unchanged_inputs():
    assert corrupt(torch.zeros((0, 3, 32, 32)), "fog", 1).shape == (0, 3, 32, 32)
    images = pictures(2)
    kept = images.clone()
    for name in NAMES:
        corrupt(images, name, 5)
    assert torch.equal(images, kept)
    leaf = torch.rand((1, 3, 32, 32), requires_grad=True)
    assert not corrupt(leaf, "contrast", 1).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_within_rounding(name):
    images = pictures(3, height=64, width=64)
    on_gpu = corrupt(images.cuda(), name, 4)
    assert on_gpu.is_cuda
    assert (on_gpu.cpu().double() - corrupt(images, name, 4).double()).abs().mean() < 0.02


GOOD = torch.zeros((2, 3, 32, 32))
NOT_A_NUMBER = GOOD.clone().index_fill_(0, torch.tensor([1]), math.nan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, "gausian_noise", 1), "unknown corruption 'gausian_noise': closest matches: gaussian_noise"),
        ((GOOD, "fog", 0), "expected a severity from 1 to 5, got 0"),
        ((GOOD, "fog", 6), "expected a severity from 1 to 5, got 6"),
        ((GOOD, "fog", True), "expected a severity from 1 to 5, got True"),
        ((GOOD, "fog", 2.5), "expected a severity from 1 to 5, got 2.5"),
        ((GOOD, "fog", [1, 2]), "expected a severity from 1 to 5"),
        ((GOOD, "fog", 1, "mnist"), "unknown corruption table 'mnist': expected one of cifar, imagenet"),
        ((GOOD, "fog", 1, "cifar", 0.5), "expected an integer as the seed of the corruptions, got 0.5"),
        ((GOOD[0], "fog", 1), "expected images (B, C, H, W) with 1 or 3 channels"),
        ((GOOD[:, :2], "fog", 1), "expected images (B, C, H, W) with 1 or 3 channels"),
        ((GOOD[..., :27], "fog", 1), "at least 28 x 28 to corrupt, got 32 x 27"),
        (
            (torch.zeros((1, 3, 65, 65)), "fog", 1, "cifar"),
            "images of up to 64 x 64, got 65 x 65: take the imagenet table",
        ),
        ((GOOD.int(), "fog", 1), "expected uint8 images, or floats in [0, 1], to corrupt, got torch.int32"),
        ((GOOD + 1.5, "fog", 1), "in [0, 1] to corrupt, got values from 1.5 to 1.5: corrupt images before"),
        ((GOOD - 0.01, "fog", 1), "got values from -0.01 to -0.01"),
        ((NOT_A_NUMBER, "fog", 1), "got values from nan to nan"),
        ((GOOD / 0, "fog", 1), "got values from nan to nan"),
        ((GOOD.numpy(), "fog", 1), "expected a tensor of images to corrupt, got ndarray"),
        ((GOOD, "fog", 1, "cifar", 0, torch.tensor([1])), "expected 2 numbers, one for each image"),
        ((GOOD, "fog", 1, "cifar", 0, torch.tensor([0.0, 1.0])), "expected integers as the images' numbers"),
        ((GOOD, "fog", 1, "cifar", 0, torch.tensor([0, -1])), "expected the images' numbers to be >= 0, got -1"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message):
    with pytest.raises(UserError) as caught:
        corrupt(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rounding_of_an_undone_normalization_is_accepted():
    images = torch.full((1, 3, 32, 32), 1 + 1e-6)
    assert torch.equal(corrupt(images, "contrast", 1), torch.ones_like(images))


def test_what_is_approximate_is_said():
    assert "drawn frost" in approximation("frost", "cifar")
    assert approximation("motion_blur", "imagenet", 224) is None
    assert approximation("gaussian_noise", "cifar", 28, channels=1) is None
    assert approximation("defocus_blur", "imagenet", (96, 128)) == (
        "strengths chosen for 224 x 224 images, applied to 96 x 128"
    )
    assert "scaled to 28 x 28" in approximation("elastic_transform", "cifar", 28)
    assert "luma" in approximation("saturate", "cifar", channels=1)
    assert [name for name in NAMES if approximation(name, "cifar")] == ["frost"]
    with pytest.raises(UserError, match="unknown corruption"):
        approximation("rain")
    with pytest.raises(UserError, match="at least 28"):
        approximation("fog", "cifar", 16)


@pytest.fixture
def photograph_folder(tmp_path, monkeypatch):
    """An installed `imagecorruptions` whose code does not import, with photographs of noise."""
    package = tmp_path / "imagecorruptions"
    (package / "frost").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    rng = np.random.default_rng(0)
    for name in weather.PHOTOGRAPHS:
        picture = Image.fromarray(rng.integers(0, 256, (300, 420, 3), dtype=np.uint8))
        picture.save(package / "frost" / name, **({"quality": 95} if name.endswith("jpg") else {}))
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    weather.photographs.cache_clear()
    yield package / "frost"
    monkeypatch.undo()
    weather.photographs.cache_clear()


def test_photographs_of_frost_are_found_without_importing_their_package(photograph_folder):
    assert weather.photographs() == photograph_folder
    assert approximation("frost", "imagenet") is None
    assert approximation("frost", "cifar") is None
    assert "enlarged" in approximation("frost", "imagenet", 384)
    # Every fifth pixel from the third on, 60 x 84, at the weight that ice has at severity 1.
    small = {
        name: (0.2 * np.asarray(Image.open(photograph_folder / name).convert("RGB"))[2::5, 2::5] + 1e-3).astype(
            np.uint8
        )
        for name in weather.PHOTOGRAPHS
    }
    result = corrupt(torch.zeros((40, 3, 32, 32), dtype=torch.uint8), "frost", 1, "cifar", seed=3)
    places = [_find(piece.permute(1, 2, 0).numpy(), small) for piece in result]
    assert {name for name, _, _ in places} == set(weather.PHOTOGRAPHS)
    assert len(set(places)) == 40


def _find(piece, pictures_by_name):
    """The one picture and place that a piece was cut from."""
    height, width = piece.shape[:2]
    for name, picture in pictures_by_name.items():
        last_row, last_column = picture.shape[0] - height, picture.shape[1] - width
        corner = picture[:last_row, :last_column] == piece[0, 0]
        for row, column in np.argwhere(corner.all(-1)).tolist():
            if np.array_equal(picture[row : row + height, column : column + width], piece):
                return name, row, column
    raise AssertionError("the piece is in none of the pictures")


def test_photographs_smaller_than_the_image_are_enlarged(photograph_folder):
    images = torch.zeros((3, 1, 500, 310), dtype=torch.uint8)
    assert corrupt(images, "frost", 1).float().std() > 1


def test_a_missing_photograph_means_drawn_frost(photograph_folder):
    (photograph_folder / weather.PHOTOGRAPHS[3]).unlink()
    weather.photographs.cache_clear()
    assert weather.photographs() is None
    assert "drawn frost" in approximation("frost")


def test_no_package_means_drawn_frost(monkeypatch):
    monkeypatch.undo()
    weather.photographs.cache_clear()
    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", classmethod(lambda *_, **__: None))
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "imagecorruptions"})
    assert weather.photographs() is None
    weather.photographs.cache_clear()
