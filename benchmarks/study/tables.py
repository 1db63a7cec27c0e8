"""The study's tables, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from benchmarks.markdown import mean_and_sd, table
from benchmarks.study.plan import VARIANTS
from benchmarks.study.results import GROUPS, Difference, StudyRecord, difference
from benchmarks.study.seeds import over_seeds
from timm_asap.evaluation import CORRUPTIONS

Records = dict[str, list[StudyRecord]]

#: The README's rows and columns.
_SUMMARY_ROWS = ("plain", "asap", "asap_paper", "flc", "blur")
_SUMMARY = ("15 corruptions", "noise", "blur", "FGSM", "PGD-20", "circular shift")


def accuracies(records: Records) -> str:
    """A row per variant: mean and standard deviation over its seeds."""
    rows = []
    for name, runs in _clean_trained(records):
        cells = [mean_and_sd(100 * run.clean.mean() for run in runs)]
        cells += [mean_and_sd(100 * run.mean(prefixes).mean() for run in runs) for prefixes in GROUPS.values()]
        rows.append([VARIANTS[name].title, str(len(runs)), *cells])
    return table(["percent", "seeds", "clean", *GROUPS], rows)


def differences(records: Records, base: str = "plain") -> str:
    """A row per variant: what it gains or loses against another on the same images, with 95 % intervals."""
    rows = []
    for name, runs in _rivals(records, base):
        cells = [_signed(clean_difference(runs, records[base]))]
        cells += [_signed(group_difference(runs, records[base], prefixes)) for prefixes in GROUPS.values()]
        rows.append([VARIANTS[name].title, str(len(_same_seeds(runs, records[base]))), *cells])
    return table(["percent points", "seeds", "clean", *GROUPS], rows)


def differences_by_seed(records: Records) -> str:
    """A row per variant: what each of its networks gains or loses against the plain one of the same seed."""
    rows = []
    for name, runs in _rivals(records):
        found = _summary_differences(runs, records["plain"])
        rows.append([VARIANTS[name].title, *(", ".join(f"{gain:+.1f}" for gain in d.by_seed) for d in found)])
    return table(["percent points", "clean", *_SUMMARY], rows)


def differences_over_seeds(records: Records) -> str:
    """A row per variant: its mean difference from the plain stride, with 95 % t intervals over the seeds."""
    rows = []
    for name, runs in _rivals(records):
        over = [over_seeds(d.by_seed) for d in _summary_differences(runs, records["plain"])]
        rows.append([VARIANTS[name].title, *(f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" for d in over)])
    return table(["percent points", "clean", *_SUMMARY], rows)


def wins_and_losses(records: Records) -> str:
    """A row per variant of several seeds: where it is clearly ahead of the plain stride, and where behind."""
    rows = []
    for name, runs in _rivals(records):
        if len(runs) == 1:
            continue
        found: dict[str, Difference] = {"clean": clean_difference(runs, records["plain"])}
        for corruption in CORRUPTIONS:
            prefixes = (f"corruption/{corruption}/",)
            found[corruption.replace("_", " ")] = group_difference(runs, records["plain"], prefixes)
        for group in ("FGSM", "PGD-20", "circular shift", "crop shift"):
            found[group] = group_difference(runs, records["plain"], GROUPS[group])
        ahead = {what: d.gain for what, d in found.items() if d.is_clear and d.gain > 0}
        behind = {what: d.gain for what, d in found.items() if d.is_clear and d.gain < 0}
        rest = len(found) - len(ahead) - len(behind)
        rows.append([VARIANTS[name].title, _listed(ahead), _listed(behind), str(rest)])
    return table(["", "ahead", "behind", "undecided"], rows, numbers=1)


def attacks(records: Records) -> str:
    """Accuracy under each attack and eps, means over the seeds."""
    runs = [run for _, runs in _clean_trained(records) for run in runs]
    shown = {
        (part, r["id"]): f"{r['attack'].upper()} {r['eps'] * 255:g}"
        for part in ("robustness", "apgd")
        for run in runs
        for r in run.results(part, "attack")
    }
    rows = []
    for name, runs in _clean_trained(records):
        rows.append([VARIANTS[name].title, *(_mean_of(runs, f"{part}/{id_}") for part, id_ in shown)])
    return table(["percent", *shown.values()], rows)


def attack_training(records: Records) -> str:
    """What training under FGSM came to, and whether its robustness collapsed on the way."""
    rows = []
    for name, variant in VARIANTS.items():
        for run in records.get(f"{name}.fgsm", []):
            pgd = _at_eps(run, "pgd-linf", 8 / 255)
            watched = ", ".join(f"{epoch['pgd_accuracy']:.1f}" for epoch in run.content["epochs"])
            cells = [f"{100 * values.mean():.1f}" for values in (run.clean, _at_eps(run, "fgsm-linf", 8 / 255), pgd)]
            corrupted = f"{100 * run.mean(GROUPS['15 corruptions']).mean():.1f}"
            rows.append([f"{variant.title}, seed {run.content['seed']}", *cells, corrupted, watched])
    heads = ["percent", "clean", "FGSM 8/255", "PGD-20 8/255", "15 corruptions", "PGD-10 on held-out images, by epoch"]
    return table(heads, rows)


def held_out(records: Records) -> str:
    """A row per variant: what it reaches on images that were held out of training, from which choices are made."""
    groups = ("15 corruptions", "noise", "blur", "FGSM", "circular shift")
    if not any("held_out" in run.content for _, runs in _clean_trained(records) for run in runs):
        groups = ()  # only what training measured
    rows = []
    for name, runs in _clean_trained(records):
        measured = [run for run in runs if "held_out" in run.content]
        cells = [mean_and_sd(run.held_out_accuracy for run in runs)]
        cells += [mean_and_sd(100 * run.mean(GROUPS[group], "held_out").mean() for run in measured) for group in groups]
        rows.append([VARIANTS[name].title, str(len(runs)), *cells])
    return table(["percent", "seeds", "clean", *groups], rows)


def aliasing(records: Records) -> str:
    """A row per variant: the share of energy above the new Nyquist frequency that its strided layers let in."""
    rows = []
    for name, runs in _clean_trained(records):
        entries = [r for run in runs for r in run.results("robustness", "aliasing")]
        if entries:
            shares = [100 * r["above_nyquist"] for r in entries]
            rows.append(
                [VARIANTS[name].title, str(len(entries) // len(runs)), f"{min(shares):.2g}", f"{max(shares):.2g}"]
            )
    return table(["percent of the energy", "strided layers", "least", "most"], rows)


def summary(records: Records) -> str:
    """The README's table: the main variants against the plain stride."""
    rows = []
    for name, runs in ((name, records[name]) for name in _SUMMARY_ROWS if name in records):
        if name == "plain":
            cells = [mean_and_sd(100 * run.clean.mean() for run in runs)]
            cells += [mean_and_sd(100 * run.mean(GROUPS[group]).mean() for run in runs) for group in _SUMMARY]
        else:
            cells = [_signed(clean_difference(runs, records["plain"]), ends=False)]
            cells += [
                _signed(group_difference(runs, records["plain"], GROUPS[group]), ends=False) for group in _SUMMARY
            ]
        rows.append([VARIANTS[name].title, str(len(runs)), *cells])
    note = (
        "`resnet20_lowres` on Fashion-MNIST. First row: accuracy in percent and its standard deviation over the seeds, "
        "under attack the mean over eps 0.5 to 8 /255, under shifts how often the prediction stays. Below: percent "
        "points against it, bold where the 95 % interval over images excludes 0 and several seeds agree in the sign."
    )
    return f"{table(['', 'seeds', 'clean', *_SUMMARY], rows)}\n\n{note}"


def clean_difference(runs: list[StudyRecord], others: list[StudyRecord]) -> Difference:
    """What variants differ in on the test images as they are, over the seeds that both have."""
    pairs = _same_seeds(runs, others)
    return difference([run.clean for run, _ in pairs], [other.clean for _, other in pairs])


def group_difference(runs: list[StudyRecord], others: list[StudyRecord], prefixes: tuple[str, ...]) -> Difference:
    """What variants differ in on the mean of some results, by the beginnings of their ids."""
    pairs = _same_seeds(runs, others)
    return difference([run.mean(prefixes) for run, _ in pairs], [other.mean(prefixes) for _, other in pairs])


def _summary_differences(runs: list[StudyRecord], others: list[StudyRecord]) -> list[Difference]:
    return [
        clean_difference(runs, others),
        *(group_difference(runs, others, GROUPS[group]) for group in _SUMMARY),
    ]


def _same_seeds(runs: list[StudyRecord], others: list[StudyRecord]) -> list[tuple[StudyRecord, StudyRecord]]:
    by_seed = {other.content["seed"]: other for other in others}
    return [(run, by_seed[run.content["seed"]]) for run in runs if run.content["seed"] in by_seed]


def _clean_trained(records: Records) -> Iterator[tuple[str, list[StudyRecord]]]:
    return ((name, records[name]) for name in VARIANTS if name in records)


def _rivals(records: Records, base: str = "plain") -> Iterator[tuple[str, list[StudyRecord]]]:
    return ((name, runs) for name, runs in _clean_trained(records) if name != base)


def _at_eps(run: StudyRecord, attack: str, eps: float) -> np.ndarray:
    return run.right[f"robustness/attack/{attack}/{eps:.6g}"]


def _mean_of(runs: list[StudyRecord], key: str) -> str:
    values = [100 * run.right[key].mean() for run in runs if key in run.right]
    return f"{statistics.mean(values):.1f}" if values else "-"


def _signed(value: Difference, ends: bool = True) -> str:
    text = f"{value.gain:+.2f}" + (f" [{value.low:+.2f}, {value.high:+.2f}]" if ends else "")
    return f"**{text}**" if value.is_clear else text


def _listed(gains: dict[str, float]) -> str:
    ordered = sorted(gains, key=lambda what: -abs(gains[what]))
    return ", ".join(f"{what} {gains[what]:+.1f}" for what in ordered) or "-"
