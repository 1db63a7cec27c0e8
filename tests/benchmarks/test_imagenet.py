"""The test bed of a real ImageNet network: its page, and how an adaptation's run folder becomes a row."""

import json

import pytest

from benchmarks.imagenet import report
from benchmarks.imagenet.__main__ import adaptation_row
from timm_asap.errors import UserError
from timm_asap.evaluation import CORRUPTIONS

ROW = {"agreement": 50.0, "agreement_interval": [40.0, 60.0], "confident_agreement": 70.0, "kl": 0.5}


def test_the_page_is_made_from_the_record():
    record = report.load()
    expected = report.page(record)
    assert report.PAGE.read_text(encoding="utf-8") == expected, "run `python -m benchmarks.imagenet.report`"


def test_only_measured_networks_are_compared_under_corruptions():
    stays = dict.fromkeys((*CORRUPTIONS, "mean"), 75.0)
    record = {"rows": {"plain": ROW | {"corruption_consistency": stays}, "twin": ROW}}
    lines = report.corrupted(record).splitlines()
    assert lines[0] == "| percent | plain |"
    assert len(lines) == 2 + len(CORRUPTIONS) + 1
    assert lines[-1] == "| mean | 75 |"


def test_an_adaptation_brings_its_curve_from_the_start(tmp_path):
    start = {"agreement": 40.0, "kl": 0.6, "images": 31}
    images = "1,188 images without labels"
    (tmp_path / "adapt.json").write_text(json.dumps({"steps": 2600, "images": images, "at_first_step": start}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 260, "agreement": 45.0, "kl": 0.5}) + "\n")
    title, found = adaptation_row(tmp_path)
    assert title == "twin, adapted for 2,600 steps"
    assert found["curve"] == [
        {"step": 0, "agreement": 40.0, "kl": 0.6},
        {"step": 260, "agreement": 45.0, "kl": 0.5},
    ]
    assert report.curves({"rows": {title: found, "plain": ROW}}).splitlines()[2:] == [
        "| 0 | 40.0 | 0.600 |",
        "| 260 | 45.0 | 0.500 |",
    ]


def test_a_name_is_of_shipped_weights_and_an_unfinished_run_is_refused(tmp_path):
    assert adaptation_row(tmp_path / "net_asap.tag") == ("shipped: net_asap.tag", {})
    with pytest.raises(UserError, match=r"adapt\.json"):
        adaptation_row(tmp_path)
