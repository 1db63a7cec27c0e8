"""The committed benchmark records: complete, and the page that shows them is theirs."""

import json

import pytest
import torch
from torch import nn

import timm_asap
from benchmarks import depthwise, heal, networks, speed_page
from benchmarks.pooling import GROUPS, contenders
from benchmarks.report import PAGE, README, blocks, load_records, page, readme


@pytest.mark.parametrize("name", ["pooling.cpu", speed_page.NETWORKS])
def test_records_are_complete(name):
    record = load_records()[name]
    assert {"device", "threads", "torch", "timm", "python"} <= set(record["environment"])
    for table in record["tables"]:
        assert table["yardstick"] in table["rows"]
        for row in table["rows"].values():
            assert row["min_ms"] <= row["median_ms"] <= row["max_ms"]
            assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
            assert row["peak_mib"] >= 0
    if name == "pooling.cpu":
        assert {table["group"] for table in record["tables"]} == set(GROUPS)
        assert set(record["tables"][0]["rows"]) == set(contenders(1))
    else:
        assert set(speed_page.by_network(record)) == set(networks.NETWORKS)


def test_contenders_of_a_twin_run_another_operator():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2))
    timm_asap.convert(layer, layout="paper")
    x = torch.randn(1, 3, 16, 16)
    ours = layer(x)
    for other in (networks.blur, networks.released):
        with networks.operator(other):
            assert layer(x).shape == ours.shape
            assert not torch.allclose(layer(x), ours)
    torch.testing.assert_close(layer(x), ours)


@pytest.mark.parametrize("memory_format", list(networks.FORMATS))
def test_forms_of_a_depthwise_convolution_are_the_same_function(memory_format):
    for size, kernel in ((12, 3), (14, 5)):
        forms = depthwise.Forms(4, size, kernel, networks.FORMATS[memory_format])
        x = torch.randn(2, 4, size, size).contiguous(memory_format=networks.FORMATS[memory_format])
        expected = forms.twin(x)
        for name in ("conv, pool, borders", "half rank", "halves", "fourier", "whole"):
            torch.testing.assert_close(forms.forms()[name](x), expected, atol=1e-5, rtol=1e-4)


def test_the_page_is_generated_from_the_records():
    assert PAGE.read_text() == page(load_records()) + "\n"


def test_the_readmes_tables_are_generated_from_the_records():
    text = README.read_text(encoding="utf-8")
    assert readme(text, blocks()) == text
    with pytest.raises(ValueError, match="expected the markers of 'evidence'"):
        readme("no markers", blocks())


def test_the_healing_table_is_generated_from_its_record():
    record = json.loads(heal.RESULTS.read_text(encoding="utf-8"))
    assert heal.RESULTS.with_suffix(".md").read_text(encoding="utf-8") == heal.table(record)
