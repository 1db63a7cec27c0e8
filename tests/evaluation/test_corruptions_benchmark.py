"""The committed record of what the corruptions cost: complete, within its aim, and shown on the page."""

import json

import pytest

from benchmarks.corruptions import PAGE, RECORD, SETTINGS, page
from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS

RESULTS = json.loads(RECORD.read_text(encoding="utf-8"))


def test_the_record_is_complete():
    assert {"device", "threads", "torch", "timm", "python"} <= set(RESULTS["environment"])
    assert RESULTS["environment"]["threads"] == 1
    assert [(t["table"], t["side"], t["batch_size"], t["limit_ms"]) for t in RESULTS["tables"]] == list(SETTINGS)
    for table in RESULTS["tables"]:
        assert set(table["rows"]) == set(CORRUPTIONS + EXTRA_CORRUPTIONS)
        for row in (*table["rows"].values(), table["all_15"]):
            assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]
        assert table["all_15"]["median_ms"] <= table["limit_ms"]


def test_the_page_is_generated_from_the_record():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, RESULTS) == text
    with pytest.raises(ValueError, match="expected the markers"):
        page("no markers", RESULTS)
