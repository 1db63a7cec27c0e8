"""The committed benchmark records: complete, and the page that shows them is theirs."""

import json

import pytest

from benchmarks import heal
from benchmarks.pooling import GROUPS, contenders
from benchmarks.report import PAGE, README, blocks, load_records, page, readme


@pytest.mark.parametrize("name", ["pooling.cpu", "networks.float32.NCHW.eager.cpu"])
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
