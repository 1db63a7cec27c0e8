"""Differences of models' records with intervals, paired by image where they can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch

from timm_asap.errors import UserError
from timm_asap.evaluation.record import Record
from timm_asap.evaluation.statistics import RESAMPLES, bootstrap_means, percentile_interval

__all__ = ["METHOD", "Comparison", "Row", "compare"]

METHOD = (
    "95 % percentile interval of the difference, bootstrap over images (Efron and Tibshirani, An Introduction to the "
    "Bootstrap, 1993)"
)

Results = dict[str, Mapping[str, Any]]

# What came out, or tells of it; all else in an entry says how it was measured, and has to agree.
_OUTCOMES = frozenset({"accuracy", "consistency", "interval", "loss", "warnings", "images", "version", "approximate"})


@dataclass(frozen=True)
class Row:
    """One measurement of two models.

    Args:
        id: Of the entry in both records; corruption/NAME is the mean over the severities, corruption over all.
        measure: clean, corruption, attack, shift or aliasing.
        entries: Of how many entries it is the mean.
        metric: accuracy, consistency (percent, higher is better) or above_nyquist (share, lower is better).
        baseline: What the baseline reached.
        model: What the other model reached.
        difference: model - baseline.
        interval: Low and high end of the difference; None where there is nothing to resample.
        verdict: "win", "loss" or "tie": whether the interval leaves out 0, seen from the other model; None without
            an interval.
    """

    id: str
    measure: str
    entries: int
    metric: str
    baseline: float
    model: float
    difference: float
    interval: tuple[float, float] | None
    verdict: str | None


@dataclass(frozen=True)
class Comparison:
    """One model against the baseline.

    Args:
        baseline: The baseline's name.
        model: The other model's name.
        paired: Whether the same images were compared.
        unpaired_because: Why not; None where they were.
        rows: The measurements that both have.
        left_out: The measurements that only one has, or that were not made alike, and why.
    """

    baseline: str
    model: str
    paired: bool
    unpaired_because: str | None
    rows: tuple[Row, ...]
    left_out: dict[str, str]

    def count(self, verdict: str) -> int:
        """How many measurements, means left out, end in a win, a loss or a tie."""
        return sum(row.verdict == verdict for row in self.rows if row.entries == 1)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        counts = {name: self.count(verdict) for name, verdict in (("wins", "win"), ("losses", "loss"), ("ties", "tie"))}
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], **counts}


def compare(baseline: Record, model: Record, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two evaluations.

    Where both were made of the same images, each image's two predictions are resampled together; elsewhere the images
    of each by themselves, which gives wider intervals.

    Args:
        baseline: One record.
        model: The other; a win is its win.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        UserError: If they were made of different data or with different tables of corruptions, or share nothing.
    """
    _refuse_mismatch(baseline, model)
    left_out: dict[str, str] = {}
    ours, theirs = _alike(baseline, model, left_out)
    why = _unpaired_because(baseline, model, ours)
    resampling = _Resampling(baseline, model, why is None, resamples)
    rows = []
    for number, (name, members) in enumerate(_rows(ours)):
        entries = [ours[m] for m in members], [theirs[m] for m in members]
        rows.append(_row(name, *entries, resampling.differences(*entries, (seed, number))))
    rows += [_aliasing_row(ours[name], theirs[name]) for name in ours if ours[name]["measure"] == "aliasing"]
    if not rows:
        raise UserError(f"{baseline.path} and {model.path} have no measurement in common")
    return Comparison(baseline.name, model.name, why is None, why, tuple(rows), left_out)


class _Resampling:
    """Bootstrap differences of the mean over some entries."""

    def __init__(self, baseline: Record, model: Record, paired: bool, resamples: int) -> None:
        files = [record.per_image() for record in (baseline, model)]
        self._right = [None if file is None else file[0] for file in files]
        self._paired = paired
        self._resamples = resamples

    def differences(
        self, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], seed: tuple[int, int]
    ) -> np.ndarray | None:
        """In percent, (resamples,); None where the predictions per image are not known, and the mean needs them."""
        counts = [self._right_answers(right, r) for right, r in zip(self._right, (ours, theirs), strict=True)]
        before, after = counts
        if before is None or after is None:
            return None
        if self._paired:
            drawn = bootstrap_means(after - before, np.random.SeedSequence(seed), self._resamples)
        else:
            seeds = np.random.SeedSequence(seed).spawn(2)
            means = [bootstrap_means(c, s, self._resamples) for c, s in zip((before, after), seeds, strict=True)]
            drawn = means[1] - means[0]
        return 100 * drawn / len(ours)

    @staticmethod
    def _right_answers(
        right: Mapping[str, torch.Tensor] | None, results: Sequence[Mapping[str, Any]]
    ) -> np.ndarray | None:
        """How often each image was right; in some order where only their number is known."""
        if right is not None:
            return reduce(torch.add, [right[result["id"]].to(torch.int64) for result in results]).numpy()
        if len(results) > 1:
            return None
        images, share = results[0]["images"], results[0][_metric(results[0])]
        count = round(images * share / 100)
        return np.repeat([1, 0], [count, images - count])


def _refuse_mismatch(baseline: Record, model: Record) -> None:
    a, b = baseline.content, model.content
    for key in ("name", "classes"):
        if a["data"][key] != b["data"][key]:
            raise UserError(
                f"{model.path} was measured on other data than {baseline.path}: {key} {b['data'][key]}, not "
                f"{a['data'][key]}"
            )
    tables = [{r["table"] for r in record["results"] if r["measure"] == "corruption"} for record in (a, b)]
    if all(tables) and tables[0] != tables[1]:
        raise UserError(
            f"{model.path} has corruptions with the {'/'.join(sorted(tables[1]))} table and {baseline.path} with "
            f"{'/'.join(sorted(tables[0]))}: expected the same; evaluate with --table"
        )


def _alike(baseline: Record, model: Record, left_out: dict[str, str]) -> tuple[Results, Results]:
    """The entries of both that were measured in the same way; the others go to `left_out`."""
    ours, theirs = ({r["id"]: r for r in record.content["results"]} for record in (baseline, model))
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in ours or name not in theirs:
            left_out[name] = f"only {(baseline if name in ours else model).name} has it"
        elif ours[name]["measure"] != "aliasing" and (why := _unlike(ours[name], theirs[name])):
            left_out[name] = why
    kept = [name for name in ours if name not in left_out]
    return {name: ours[name] for name in kept}, {name: theirs[name] for name in kept}


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    for key in (*a, *b):
        if key not in _OUTCOMES and a.get(key) != b.get(key):
            return f"{key} is {a.get(key)} in one and {b.get(key)} in the other"
    return None


def _unpaired_because(baseline: Record, model: Record, shared: Results) -> str | None:
    """Why the records cannot be compared image by image; None if they can."""
    for key in ("split", "images", "labels_sha256"):
        if baseline.content["data"].get(key) != model.content["data"].get(key):
            return f"the images differ ({key})"
    files = [record.per_image() for record in (baseline, model)]
    if missing := next((r for r, file in zip((baseline, model), files, strict=True) if file is None), None):
        return f"{missing.path.parent} has no evaluation.safetensors"
    for measure in {result["measure"] for result in shared.values()} - {"aliasing"}:
        before, after = (None if file is None else file[1].get(measure) for file in files)
        if before is None or after is None or not torch.equal(before, after):
            return f"the {measure} images differ (sample ids)"
    return None


def _rows(results: Results) -> Iterator[tuple[str, list[str]]]:
    """Each row's name and the entries that it is the mean of, in the order of the record."""
    by_corruption: dict[str, list[str]] = {}
    for name, result in results.items():
        if result["measure"] == "corruption":
            by_corruption.setdefault(result["corruption"], []).append(name)
    corrupted = [name for names in by_corruption.values() for name in names]
    for name, result in results.items():
        if name in corrupted[:1] and len(corrupted) > 1:
            yield "corruption", corrupted
        if result["measure"] == "corruption":
            names = by_corruption.pop(result["corruption"], [])
            if len(names) > 1:
                yield f"corruption/{result['corruption']}", names
        if result["measure"] != "aliasing":
            yield name, [name]


def _row(
    name: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], differences: np.ndarray | None
) -> Row:
    metric = _metric(ours[0])
    a, b = (sum(entry[metric] for entry in entries) / len(entries) for entries in (ours, theirs))
    interval = verdict = None
    if differences is not None:
        low, high = interval = percentile_interval(differences)
        verdict = "win" if low > 0 else "loss" if high < 0 else "tie"
    return Row(name, ours[0]["measure"], len(ours), metric, a, b, b - a, interval, verdict)


def _aliasing_row(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Row:
    a, b = ours["above_nyquist"], theirs["above_nyquist"]
    return Row(ours["id"], "aliasing", 1, "above_nyquist", a, b, b - a, None, None)


def _metric(result: Mapping[str, Any]) -> str:
    return "consistency" if result["measure"] == "shift" else "accuracy"
