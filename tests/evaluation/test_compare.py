"""`timm-asap compare`: differences against answers by hand, and what is refused or left out."""

import json

import numpy as np
import pytest
import torch

from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.evaluation import compare, read_record
from timm_asap.evaluation.per_image import write_per_image

N = 200


def write_record(folder, right, ids=None, *, answers=True, data=None, **changes):
    """A record of one model.

    Args:
        folder: Where to.
        right: By the id of a result, which images were right.
        ids: Their positions in the split.
        answers: Whether evaluation.safetensors lies beside it.
        data: Changes to the record's `data`.
        changes: By the id of a result with / as __ , changes to it.
    """
    results = []
    for name, vector in right.items():
        measure, *rest = name.split("/")
        metric = "consistency" if measure == "shift" else "accuracy"
        result = {
            "measure": measure,
            "id": name,
            "images": len(vector),
            metric: 100 * vector.mean(),
            "interval": [0, 1],
        }
        if measure == "corruption":
            result |= {"corruption": rest[0], "severity": int(rest[1]), "table": "cifar", "seed": 0}
        if measure == "attack":
            result |= {"attack": rest[0].split("-")[0], "norm": "linf", "eps": float(rest[1]), "steps": 20}
        results.append(result | changes.get(name.replace("/", "__"), {}))
    about = {"name": "made", "classes": 10, "split": "test", "images": 1000, "labels_sha256": "ab", **(data or {})}
    model = {"name": folder.name, "weights_sha256": folder.name}
    content = {"version": 1, "model": model, "data": about, "results": results, "summary": {}}
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(content))
    if answers:
        vectors = {name: torch.from_numpy(vector.astype(np.uint8)) for name, vector in right.items()}
        ids = torch.arange(N) if ids is None else ids
        samples = {name.split("/")[0]: ids for name in right}
        write_per_image(folder / "evaluation.safetensors", vectors, samples, folder.name, {})
    return read_record(folder)


def answers(seed=0, **shares):
    rng = np.random.default_rng(seed)
    return {name.replace("__", "/"): rng.random(N) < share for name, share in shares.items()}


def test_paired_intervals_are_those_of_resampled_images(tmp_path):
    ours = answers(0, clean=0.8)
    theirs = {"clean": ours["clean"] ^ (np.random.default_rng(5).random(N) < 0.1)}
    comparison = compare(write_record(tmp_path / "a", ours), write_record(tmp_path / "b", theirs))
    (row,) = comparison.rows
    assert comparison.paired
    difference = 100.0 * (theirs["clean"].astype(int) - ours["clean"])
    assert row.difference == pytest.approx(difference.mean())
    assert (row.baseline, row.model) == pytest.approx((100 * ours["clean"].mean(), 100 * theirs["clean"].mean()))
    rng = np.random.default_rng(1)
    slow = difference[rng.integers(0, N, (10_000, N))].mean(axis=1)
    assert row.interval == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])), abs=0.51)
    # far narrower than two samples of their own: the models agree on nine images of ten
    unpaired = compare(
        write_record(tmp_path / "c", ours, answers=False), write_record(tmp_path / "d", theirs, answers=False)
    )
    (wide,) = unpaired.rows
    assert (unpaired.paired, unpaired.unpaired_because) == (False, f"{tmp_path / 'c'} has no evaluation.safetensors")
    p, q = ours["clean"].mean(), theirs["clean"].mean()
    half = 196 * np.sqrt((p * (1 - p) + q * (1 - q)) / N)
    assert wide.interval == pytest.approx((100 * (q - p) - half, 100 * (q - p) + half), abs=1)
    assert wide.interval[1] - wide.interval[0] > 1.3 * (row.interval[1] - row.interval[0])


def test_wins_and_losses_are_both_told(tmp_path, capsys):
    ours = answers(0, clean=0.9, corruption__fog__1=0.5, corruption__fog__2=0.5, shift__crop__1=0.7)
    theirs = answers(1, clean=0.6, corruption__fog__1=0.9, corruption__fog__2=0.9)
    theirs["shift/crop/1"] = ours["shift/crop/1"]
    write_record(tmp_path / "base", ours)
    write_record(tmp_path / "other", theirs)
    words = ["compare", str(tmp_path / "base"), str(tmp_path / "other" / "evaluation.json")]
    assert main([*words, "--output", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out
    assert "other: 2 wins, 1 loss, 1 tie of 4 measurements" in out
    assert "paired by image" in out
    assert "Efron and Tibshirani" in out
    assert "\nfog, mean of 2" in out
    assert "fog, severity 1" not in out
    content = json.loads((tmp_path / "c.json").read_text())
    assert (content["resamples"], content["seed"]) == (10_000, 0)
    (comparison,) = content["comparisons"]
    verdicts = {row["id"]: row["verdict"] for row in comparison["rows"]}
    assert verdicts == {
        "clean": "loss",
        "corruption": "win",
        "corruption/fog": "win",
        "corruption/fog/1": "win",
        "corruption/fog/2": "win",
        "shift/crop/1": "tie",
    }
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (2, 1, 1)
    assert main([*words, "--severities"]) == 0
    assert "\nfog, severity 1" in capsys.readouterr().out
    assert main([*words, "--output", str(tmp_path / "c.json")]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_the_mean_of_a_corruption_is_resampled_by_image(tmp_path):
    """Severities are of the same images: their mean varies as the images do, not as four times as many would."""
    same = np.random.default_rng(0).random(N) < 0.5
    names = [f"corruption/fog/{severity}" for severity in (1, 2, 3, 4)]
    ours = write_record(tmp_path / "a", {name: np.ones(N, dtype=bool) for name in names})
    theirs = write_record(tmp_path / "b", dict.fromkeys(names, same))
    rows = {row.id: row for row in compare(ours, theirs).rows}
    width = {name: rows[name].interval[1] - rows[name].interval[0] for name in ("corruption/fog", "corruption/fog/1")}
    assert width["corruption/fog"] == pytest.approx(width["corruption/fog/1"], rel=0.05)
    assert rows["corruption/fog"].entries == 4
    # without the answers of each image that cannot be told
    ours = write_record(tmp_path / "c", {name: np.ones(N, dtype=bool) for name in names}, answers=False)
    rows = {row.id: row for row in compare(ours, theirs).rows}
    assert rows["corruption/fog"].interval is rows["corruption/fog"].verdict is None
    assert rows["corruption/fog/1"].verdict == "loss"


def test_the_seed_decides(tmp_path):
    a, b = write_record(tmp_path / "a", answers(0, clean=0.8)), write_record(tmp_path / "b", answers(1, clean=0.8))
    assert compare(a, b) == compare(a, b)
    assert compare(a, b).rows[0].interval != compare(a, b, seed=1, resamples=1000).rows[0].interval


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ids": torch.arange(1, N + 1)}, "the clean images differ (sample ids)"),
        ({"data": {"split": "all"}}, "the images differ (split)"),
        ({"data": {"labels_sha256": "cd"}}, "the images differ (labels_sha256)"),
    ],
)
def test_other_images_are_not_paired(changes, why, tmp_path):
    a = write_record(tmp_path / "a", answers(0, clean=0.8))
    b = write_record(tmp_path / "b", answers(0, clean=0.8), **changes)
    comparison = compare(a, b)
    assert (comparison.paired, comparison.unpaired_because) == (False, why)
    assert comparison.rows[0].interval[0] < -1  # the same answers, but perhaps of other images


def test_what_was_measured_otherwise_is_left_out(tmp_path, capsys):
    ours = answers(0, clean=0.8, **{"attack__pgd-linf__0.01": 0.5, "shift__crop__1": 0.9})
    theirs = answers(1, clean=0.8, **{"attack__pgd-linf__0.01": 0.5})
    a = write_record(tmp_path / "a", ours)
    b = write_record(tmp_path / "b", theirs, **{"attack__pgd-linf__0.01": {"steps": 40}})
    comparison = compare(a, b)
    assert [row.id for row in comparison.rows] == ["clean"]
    assert comparison.left_out == {
        "attack/pgd-linf/0.01": "steps is 20 in one and 40 in the other",
        "shift/crop/1": "only a has it",
    }
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "not compared: attack/pgd-linf/0.01 (steps is 20 in one and 40 in the other), and 1 more" in (
        capsys.readouterr().out
    )


def test_aliasing_is_shown_without_an_interval(tmp_path):
    records = []
    for name, share in (("a", 0.25), ("b", 1e-14)):
        record = write_record(tmp_path / name, answers(0, clean=0.8))
        site = {"measure": "aliasing", "id": "aliasing/conv1", "site": "conv1", "above_nyquist": share, "folded": share}
        record.content["results"].append(site)
        records.append(record)
    row = compare(*records).rows[-1]
    assert (row.id, row.metric, row.difference, row.interval) == (
        "aliasing/conv1",
        "above_nyquist",
        1e-14 - 0.25,
        None,
    )


def test_mismatched_records_are_refused(tmp_path, capsys):
    a = write_record(tmp_path / "a", answers(0, corruption__fog__1=0.8))
    table = write_record(tmp_path / "b", answers(0, corruption__fog__1=0.8), corruption__fog__1={"table": "imagenet"})
    with pytest.raises(UserError, match=r"with the imagenet table and .* with cifar: expected the same"):
        compare(a, table)
    other = write_record(tmp_path / "c", answers(0, corruption__fog__1=0.8), data={"name": "cifar10"})
    with pytest.raises(UserError, match=r"was measured on other data than .*: name cifar10, not made"):
        compare(a, other)
    nothing = write_record(tmp_path / "d", answers(0, clean=0.8))
    with pytest.raises(UserError, match="have no measurement in common"):
        compare(a, nothing)
    # answers of an older evaluation beside a newer record
    content = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    content["model"]["weights_sha256"] = "newer"
    (tmp_path / "a" / "evaluation.json").write_text(json.dumps(content))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    write_record(tmp_path / "e", answers(0, corruption__fog__1=0.8))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "e")]) == 2
    assert "does not belong to the record beside it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "expected two records or more, the baseline first, got 1"),
        (["a", "nowhere.json"], "there is no nowhere.json: expected what timm-asap evaluate wrote"),
        (["a", "text.json"], "cannot be read"),
        (["a", "list.json"], "is no record of an evaluation"),
        (["a", "later.json"], "has version 2: this timm_asap reads version 1"),
        (["a", "a", "--resamples", "10"], "--resamples: expected 1000 or more, got 10"),
    ],
)
def test_a_mistake_is_told_in_a_line(words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = write_record(tmp_path / "a", answers(0, clean=0.8))
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "later.json").write_text(json.dumps({**record.content, "version": 2}))
    assert main(["compare", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
