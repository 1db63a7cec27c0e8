"""The typed front matter of a card, which the Hub reads."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCardData

from timm_asap.hub.cards.accuracy import corruption_means, measured_on, of_measure
from timm_asap.hub.cards.licences import Licence
from timm_asap.hub.cards.markdown import eps_text
from timm_asap.hub.cards.records import RunRecords
from timm_asap.hub.cards.robustness import attack_settings

__all__ = ["metadata"]

_TASK = "image-classification"


def metadata(records: RunRecords, licence: Licence) -> ModelCardData:
    """Everything of a card that programs read.

    Args:
        records: Of the run.
        licence: Of the weights.
    """
    tags = ["timm", _TASK]
    if records.needs_import:
        tags.append("timm_asap")
    if records.is_twin:
        tags.append("anti-aliasing")
    base = {}
    if records.origin is not None and records.origin.hub_id is not None:
        base = {"base_model": records.origin.hub_id, "base_model_relation": "finetune"}
    hub_id = records.data["hub_id"]
    results = list(_results(records))
    return ModelCardData(
        library_name="timm",
        pipeline_tag=_TASK,
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        tags=tags,
        datasets=[hub_id] if hub_id else None,
        **base,
        metrics=["accuracy"] if results else None,
        model_name=records.name if results else None,
        eval_results=results or None,
    )


def _results(records: RunRecords) -> Iterator[EvalResult]:
    """Clean, corrupted and attacked accuracy; without an evaluation, what training or healing ended with."""
    if records.evaluation is None:
        if records.adaptation is None:  # its fidelity is no accuracy
            yield _of_the_run(records)
        return
    data = records.evaluation.content["data"]
    where = (measured_on(records), data["hub_id"], data["split"])
    clean = of_measure(records, "clean")
    if not clean and records.adaptation is None:
        yield _of_the_run(records)
    for result in clean:
        yield _accuracy(*where, f"clean, {result['images']:,} images", result["accuracy"])
    corruptions = of_measure(records, "corruption")
    for name, (mean, _) in corruption_means(records).items():
        group = [result for result in corruptions if name in ("all", result["corruption"])]
        names = {result["corruption"] for result in group}
        of = f"mean of {len(names)} corruptions" if name == "all" else name.replace("_", " ")
        severities = _severities(sorted({result["severity"] for result in group}))
        about = f"{group[0]['table']} parameters, seed {group[0]['seed']}, {group[0]['images']:,} images"
        yield _accuracy(*where, f"under corruption, {of}, {severities}, {about}", mean)
    for result in of_measure(records, "attack"):
        norm = result["norm"]
        about = f"{norm}, eps {eps_text(result['eps'], norm)}, {attack_settings(result)}, {result['version']}"
        yield _accuracy(*where, f"under {result['attack']}, {about}, {result['images']:,} images", result["accuracy"])


def _of_the_run(records: RunRecords) -> EvalResult:
    data, result, healing = records.data, records.result, records.healing
    images, accuracy = (
        (result["test_images"], result["test_accuracy"])
        if result is not None
        else (healing["test_images"], healing["accuracy"]["healed"])
    )
    return _accuracy(records.data_name, data["hub_id"], data["test_name"], f"clean, {images:,} images", accuracy)


def _accuracy(name: str, hub_id: str | None, split: str, about: str, value: float) -> EvalResult:
    # an entry of `model-index` has one data set and many metrics: how it was measured is told by the metric's name
    return EvalResult(
        task_type=_TASK,
        dataset_type=hub_id or name,
        dataset_name=name,
        dataset_split=split,
        metric_type="accuracy",
        metric_name=f"accuracy (percent), {about}",
        metric_value=round(float(value), 2),  # a NumPy scalar would become a Python object in YAML
    )


def _severities(severities: list[int]) -> str:
    """`severities 1 to 5`, or each by itself where some between are missing."""
    first, last = severities[0], severities[-1]
    if len(severities) > 1 and severities == list(range(first, last + 1)):
        return f"severities {first} to {last}"
    return f"severity {', '.join(map(str, severities))}"
