"""The shipped numbers and the page made of them are those of the networks."""

from pathlib import Path

import pytest
import timm
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

from timm_asap import convert
from timm_asap.cli import main
from timm_asap.zoo import plain_name, summary, twin_names
from timm_asap.zoo.page import render_page
from timm_asap.zoo.summary import build_on_meta, measure, pretrained_tags, summarize

SAMPLE = ["resnet18", "convnext_atto", "dla34", "efficientnet_cc_b0_4e", "nextvit_small", "tresnet_m", "inception_v3"]
STALE = "run `python -m timm_asap.zoo.page`"


def test_every_twin_is_shipped_and_none_that_is_gone():
    assert list(summary._shipped()) == twin_names(), STALE


def test_the_page_is_made_of_the_shipped_numbers_and_the_registry():
    page = Path(__file__).parents[2] / "docs" / "zoo.md"
    assert page.read_text(encoding="utf-8") == render_page(summary._shipped().values()), STALE


@pytest.mark.parametrize("name", SAMPLE)
def test_shipped_numbers_are_measured_ones(name):
    assert summary._shipped()[f"{name}_asap"] == measure(f"{name}_asap"), STALE


@pytest.mark.zoo
@pytest.mark.parametrize("name", twin_names())
def test_shipped_sites_of_every_twin(name):
    report = convert(build_on_meta(plain_name(name)), dry_run=True)
    shipped = summary._shipped()[name]
    assert (len(report.converted), len(report.left)) == (shipped.converted, shipped.left), STALE


def test_multiply_adds_are_known_ones():
    # The numbers that timm's results and the papers give.
    for name, gigamacs in [("resnet50", 4.11), ("vgg16", 15.47), ("efficientnet_b0", 0.385), ("convnext_tiny", 4.46)]:
        assert abs(summarize(f"{name}_asap").macs / 1e9 - gigamacs) < 0.02 * gigamacs, name


def test_layers_that_no_image_reaches_add_nothing():
    assert measure("dla46_c_asap").added_macs > 0


def test_what_is_not_shipped_is_measured(monkeypatch):
    monkeypatch.setattr(summary, "_shipped", dict)
    assert summarize("test_resnet_asap").converted == 8


def test_tags_and_licences_are_upstreams():
    count = 0
    for twin in twin_names():
        plain = plain_name(twin)
        tags = [name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(plain).items() if cfg.has_weights]
        assert pretrained_tags(twin) == tags
        for tag in tags:
            assert get_pretrained_cfg(f"{twin}.{tag}").license == get_pretrained_cfg(f"{plain}.{tag}").license
        count += len(tags)
    assert count == len(timm.list_pretrained("*_asap")) > 1000


def test_list_of_all_takes_no_measuring(capsys, monkeypatch):
    monkeypatch.setattr(summary, "measure", lambda twin: pytest.fail(f"{twin} is not shipped"))
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert f"{len(twin_names())} alias-free twins" in out
    assert "regnety_160_asap" in out
