"""Cards whose metadata would not survive the way to the Hub are refused in one line."""

import numpy as np
import pytest
import yaml

from tests.support.publishable_run import publishable_run
from timm_asap.errors import UserError
from timm_asap.hub import check_card, publish

RESULT = {
    "task": {"type": "image-classification"},
    "dataset": {"name": "idx", "type": "idx"},
    "metrics": [{"type": "accuracy", "value": 50.0}],
}
METADATA = {
    "library_name": "timm",
    "pipeline_tag": "image-classification",
    "license": "mit",
    "tags": ["timm"],
    "model-index": [{"name": "net", "results": [RESULT]}],
}


def card(dump=yaml.safe_dump, **changes):
    return f"---\n{dump({**METADATA, **changes})}---\n\n# A net\n"


def test_a_sound_card_passes():
    check_card(card())


def with_value(value):
    result = {**RESULT, "metrics": [{"type": "accuracy", "value": value}]}
    return [{"name": "net", "results": [result]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (card(yaml.dump, **{"model-index": with_value(np.float64(50.0))}), "cannot be read back as YAML"),
        (card(**{"model-index": with_value(float("nan"))}), r"holds nan at model-index\[0\].results\[0\].metrics"),
        (card(**{"model-index": with_value(float("inf"))}), "holds inf at"),
        (card(**{"model-index": [{"name": "net", "results": [{"task": {}}]}]}), "the Hub would refuse its metadata"),
        (card(license=None), "lacks license"),
        ("---\ntags: [a\n---\ntext", "cannot be read back as YAML"),
        ("---\n- a\n---\ntext", "expected 'key: value' lines as metadata, got a list"),
        ("# A net\n", "has no metadata"),
        (card().split("\n# A net")[0], "no text"),
    ],
)
def test_metadata_that_would_not_parse_back(text, message):
    with pytest.raises(UserError, match=message) as raised:
        check_card(text)
    assert "\n" not in str(raised.value)


def test_publish_checks_the_card_before_anything_is_sent(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    run = publishable_run(tmp_path)

    def write_bad_card(folder, repo):
        (folder / "README.md").write_text(card(yaml.dump, **{"model-index": with_value(np.float64(50.0))}))

    monkeypatch.setattr("timm_asap.hub.bundle.write_card", write_bad_card)
    with pytest.raises(UserError, match="cannot be read back as YAML"):
        publish(run, "you/net")
    assert hub.requests == []
