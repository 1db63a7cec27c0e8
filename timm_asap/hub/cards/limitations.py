"""The limitations of a model: a card states what is not known as plainly as what is."""

from __future__ import annotations

import shlex

from timm_asap._types import present
from timm_asap.evaluation.corruptions import CORRUPTIONS
from timm_asap.evaluation.table import measurement_name
from timm_asap.hub.cards.records import RunRecords
from timm_asap.hub.cards.results import of_measure

__all__ = ["limits"]

_MEASURES = {
    "clean": "clean accuracy",
    "corruption": "common corruptions",
    "attack": "adversarial attacks",
    "shift": "shifts",
    "aliasing": "aliasing",
}


def _evaluate_line(records: RunRecords, repo: str | None) -> str:
    """The command that measures robustness on the data of the run."""
    words = ["timm-asap", "evaluate", f"hf-hub:{repo}" if repo else records.shown_folder, "--dataset"]
    if records.adaptation is not None:
        source = {"dataset": "NAME"}
    elif records.config is None:
        source = present(records.healing, "record of healing")
    else:
        source = records.config
    words.append(source["dataset"])
    for name in ("data_dir", "image_key", "label_key", "train_split", "test_split"):
        if source.get(name):
            words += [f"--{name.replace('_', '-')}", str(source[name])]
    return shlex.join([*words, "--overwrite"] if records.evaluation_is_stale and repo is None else words)


def limits(records: RunRecords, repo: str | None = None) -> list[str]:
    """Sentences, each a limit.

    Args:
        records: Of the run.
        repo: Repository on the Hub that a reader has the model from; None for the run folder.
    """
    size = " x ".join(map(str, records.model.pixels.size))
    found = [
        f"It knows the {records.data['classes']:,} classes of {records.data_name}, and was tried on images prepared "
        f"as {size} (channels, height, width): other data, sizes and cameras are untried."
    ]
    if records.adaptation is not None:
        found = [
            f"It knows the {records.data['classes']:,} classes of {records.origin}, whose predictions it imitates, "
            f"mistakes included; how often they are right was not measured here. Images were prepared as {size} "
            "(channels, height, width)."
        ]
    if records.config is not None:
        found.append(
            f"The weights of one run, with seed {records.config['seed']}: runs of other seeds end higher or lower, and "
            "this card does not show them."
        )
        if records.config.get("adversarial") is None:
            found.append("It was not trained on adversarial images.")
    return [*found, *_of_the_evaluation(records, repo), *_of_the_comparison(records, repo)]


def _of_the_evaluation(records: RunRecords, repo: str | None) -> list[str]:
    if records.evaluation is None:
        why = "was not measured"
        if records.evaluation_is_stale:
            why = "was measured on older weights alone, and so is not shown"
        return [f"Robustness {why}. The line that measures it: `{_evaluate_line(records, repo)}`."]
    found = []
    if missing := [text for measure, text in _MEASURES.items() if not of_measure(records, measure)]:
        found.append(f"Not measured: {', '.join(missing)}.")
    corruptions = of_measure(records, "corruption")
    if corruptions and records.evaluation.content["summary"]["corruption_accuracy"] is None:
        names = {result["corruption"] for result in corruptions}
        severities = sorted({result["severity"] for result in corruptions})
        found.append(
            f"Corruptions: {len(names & set(CORRUPTIONS))} of the usual {len(CORRUPTIONS)}, at severity "
            f"{', '.join(map(str, severities))}; means over these compare with no published number."
        )
    reasons = {result["approximate"]: None for result in corruptions if result["approximate"]}
    for reason in reasons:
        names = dict.fromkeys(r["corruption"].replace("_", " ") for r in corruptions if r["approximate"] == reason)
        found.append(f"Corruptions that differ from the original definition (*): {', '.join(names)}: {reason}.")
    attacks = of_measure(records, "attack")
    if attacks and not any(result["attack"] == "autoattack" for result in attacks):
        names = ", ".join(dict.fromkeys(result["attack"] for result in attacks))
        found.append(f"Attacked by {names} alone: a stronger attack, such as AutoAttack, can only find less accuracy.")
    warnings = records.evaluation.content["summary"]["gradient_masking"]
    own = (f"{measurement_name(result['id'])}: {text}" for result in attacks for text in result["warnings"])
    found += [f"Doubt about the attacks (*): {text}" for text in dict.fromkeys((*warnings, *own))]
    return found


def _of_the_comparison(records: RunRecords, repo: str | None) -> list[str]:
    if records.comparison is None:
        if not (records.is_twin and records.evaluation):
            return []
        line = f"; `timm-asap card {shlex.quote(records.shown_folder)} --against RECORD` adds its evaluation"
        return [f"Not compared with the plain network trained alike{'' if repo else line}."]
    count = len(records.comparison["left_out"])
    if not count:
        return []
    which = "measurement is" if count == 1 else "measurements are"
    return [f"{count} {which} not compared; the end of this card says why."]
