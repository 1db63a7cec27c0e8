"""The emoji study: its image folders, from sheets made here, and its page."""

import json

import pytest
from PIL import Image

from benchmarks.emoji import report
from benchmarks.emoji.images import VENDORS, write_folds
from benchmarks.emoji.plan import EMOJI, HYPOTHESES
from benchmarks.study.results import GROUPS
from benchmarks.study.seeds import SeedDifference
from timm_asap.errors import UserError

LISTED = [
    {"unified": "1F34E", "category": "Food & Drink", "sheet_x": 0, "sheet_y": 0, "color": (200, 0, 0, 255)},
    {"unified": "1F3C1", "category": "Flags", "sheet_x": 1, "sheet_y": 0, "color": (0, 0, 0, 0)},
    {"unified": "1F3FB", "category": "Component", "sheet_x": 0, "sheet_y": 1, "color": (9, 9, 9, 255)},
]


@pytest.fixture
def packages(tmp_path):
    """The four packages, each with a sheet of three drawings; Facebook has not drawn the flag."""
    for vendor in VENDORS:
        folder = tmp_path / "node_modules" / f"emoji-datasource-{vendor}"
        (folder / "img" / vendor / "sheets").mkdir(parents=True)
        sheet = Image.new("RGBA", (132, 132), (1, 2, 3, 255))  # what lies between drawings must not be seen
        for emoji in LISTED:
            sheet.paste(emoji["color"], tuple(66 * emoji[f"sheet_{axis}"] + o for o in (1, 65) for axis in "xy"))
        sheet.save(folder / "img" / vendor / "sheets" / "64.png")
        drawn = [e | {f"has_img_{vendor}": vendor != "facebook" or e["category"] != "Flags"} for e in LISTED]
        (folder / "emoji.json").write_text(json.dumps(drawn), encoding="utf-8")
    return tmp_path / "node_modules"


@pytest.mark.parametrize("size", [32, 64])
def test_each_fold_tests_on_the_vendor_that_it_does_not_train_on(packages, tmp_path, size):
    folds = write_folds(packages, tmp_path / "images", size)
    assert [fold.name for fold in folds] == list(VENDORS)
    names = {path.relative_to(folds[0]).as_posix() for path in folds[0].rglob("*.png")}
    assert names == {
        "test/food_and_drink/apple_1f34e.png",
        "test/flags/apple_1f3c1.png",
        *(f"train/food_and_drink/{vendor}_1f34e.png" for vendor in VENDORS[1:]),
        *(f"train/flags/{vendor}_1f3c1.png" for vendor in ("google", "twitter")),
    }
    with Image.open(folds[0] / "test/food_and_drink/apple_1f34e.png") as image:
        assert image.size == (size, size)
        assert image.getcolors() == [(size * size, (200, 0, 0))]
    with Image.open(folds[0] / "test/flags/apple_1f3c1.png") as image:
        assert image.getcolors() == [(size * size, (255, 255, 255))]  # transparent pixels show white


def test_a_missing_package_is_refused_before_anything_is_written(packages, tmp_path):
    (packages / "emoji-datasource-google" / "emoji.json").unlink()
    with pytest.raises(UserError, match=r"expected emoji-datasource-google/emoji\.json; npm install"):
        write_folds(packages, tmp_path / "images")
    with pytest.raises(UserError, match="expected 32 or 64, got 48"):
        write_folds(packages, tmp_path / "images", 48)
    assert not (tmp_path / "images").exists()


def test_every_seed_leaves_a_vendor_out_and_runs_go_seed_by_seed():
    assert [EMOJI.data_dir("images", seed) for seed in (0, 1, 5, 7)] == [
        "images/apple",
        "images/google",
        "images/google",
        "images/facebook",
    ]
    runs = EMOJI.runs()
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {h.measure for h in HYPOTHESES} <= {"clean", *GROUPS}


def test_a_hypothesis_holds_only_where_the_test_is_significant():
    risen, fallen = (SeedDifference(mean, 0, 0, 0, 0, ()) for mean in (1.0, -1.0))
    rises, falls = HYPOTHESES[0], next(h for h in HYPOTHESES if not h.rises)
    assert report.verdict(rises, risen, 0.04) == report.verdict(falls, fallen, 0.04) == "holds"
    assert report.verdict(rises, fallen, 0.04) == "fails"
    assert report.verdict(rises, risen, 0.06) == report.verdict(rises, risen, float("nan")) == "undecided"
