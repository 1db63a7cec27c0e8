"""The typed front matter of a card, which the Hub reads; the license of its weights; and whom to cite.

The license is that of the weights that the training started from, or the trainer's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from timm_asap._types import present
from timm_asap.errors import UserError, unknown_name
from timm_asap.hub.cards.base_model import UNKNOWN_LICENSE, Origin
from timm_asap.hub.cards.records import RunRecords
from timm_asap.hub.cards.results import attack_settings, corruption_means, eps_text, measured_on, of_measure

__all__ = [
    "FROM_SCRATCH",
    "HUB_LICENSES",
    "License",
    "choose_license",
    "citations",
    "metadata",
    "of_data",
    "states_license",
]


_ASAP = """\
@article{grabinski2023fix,
  title   = {Fix your downsampling {ASAP}! Be natively more robust via Aliasing and Spectral Artifact free Pooling},
  author  = {Grabinski, Julia and Keuper, Janis and Keuper, Margret},
  journal = {arXiv preprint arXiv:2307.09804},
  year    = {2023}
}"""

_TIMM = """\
@misc{rw2019timm,
  title     = {PyTorch Image Models},
  author    = {Wightman, Ross},
  publisher = {GitHub},
  year      = {2019},
  doi       = {10.5281/zenodo.4414861},
  url       = {https://github.com/huggingface/pytorch-image-models}
}"""

_CORRUPTIONS = """\
@inproceedings{hendrycks2019benchmarking,
  title     = {Benchmarking Neural Network Robustness to Common Corruptions and Perturbations},
  author    = {Hendrycks, Dan and Dietterich, Thomas},
  booktitle = {International Conference on Learning Representations},
  year      = {2019}
}"""

# By the letters and digits of the last part of a data set's name.
_DATA = {
    "digits": """\
@misc{alpaydin1998optical,
  title     = {Optical Recognition of Handwritten Digits},
  author    = {Alpaydin, E. and Kaynak, C.},
  publisher = {UCI Machine Learning Repository},
  year      = {1998},
  doi       = {10.24432/C50P49}
}""",
    "fashionmnist": """\
@article{xiao2017fashion,
  title   = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author  = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year    = {2017}
}""",
    "cifar10": """\
@techreport{krizhevsky2009learning,
  title       = {Learning Multiple Layers of Features from Tiny Images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}""",
    "imagenet1k": """\
@article{russakovsky2015imagenet,
  title   = {{ImageNet} Large Scale Visual Recognition Challenge},
  author  = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
             Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
             Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume  = {115},
  number  = {3},
  pages   = {211--252},
  year    = {2015},
  doi     = {10.1007/s11263-015-0816-y}
}""",
}


def citations(records: RunRecords) -> list[str]:
    """BibTeX entries, one a text."""
    found = [_ASAP] if records.is_twin else []
    found.append(_TIMM)
    if (data := of_data(records)) is not None:
        found.append(data)
    if of_measure(records, "corruption"):
        found.append(_CORRUPTIONS)
    return found


def of_data(records: RunRecords) -> str | None:
    """The entry of the data; None where their authors are not known here."""
    # a folder of the user may have any name: only what this package and the Hub name is known
    hub_id, name = records.data["hub_id"], records.data["name"]
    if hub_id is None and name not in ("digits", "fashion_mnist"):
        return None
    letters = re.sub(r"[^a-z0-9]", "", (hub_id or name).rpartition("/")[2].lower())
    return _DATA.get(letters.removesuffix("wds"))  # timm/imagenet-1k-wds


FROM_SCRATCH = "mit"
"""Of weights that were trained from random ones, where nobody says otherwise: the license of timm_asap."""

# "license mit", as of a data set on the Hub; "MIT license"; "CC BY 4.0". Older runs spell it "licence".
_LICENSE_OF_DATA = re.compile(r"licen[cs]e (?!not stated)|\w licen[cs]e\b|\bCC\b")

_LISTED = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
"""

HUB_LICENSES = frozenset(_LISTED.split())
"""Identifiers that the Hub takes; source: https://huggingface.co/docs/hub/repositories-licenses."""


@dataclass(frozen=True)
class License:
    """A license in the terms of the Hub.

    Args:
        id: Identifier.
        name: Its name, where the identifier is "other".
        link: Where to read it, likewise.
        because: A sentence on why it is this one.
    """

    id: str
    name: str | None
    link: str | None
    because: str


def choose_license(origin: Origin | None, asked: str | None, before: str | None) -> License:
    """The license of the weights.

    Args:
        origin: What they started from; None for random weights.
        asked: What the user chose.
        before: What the card stated so far; it stays unless the user or the origin says otherwise.

    Raises:
        UserError: If the choice is no identifier of the Hub, or contradicts the stated license of the origin.
    """
    if asked is not None and asked not in HUB_LICENSES:
        raise UserError(
            f"--license: {unknown_name('license', asked, HUB_LICENSES)}; all are listed at "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    if origin is None:
        return License(asked or before or FROM_SCRATCH, None, None, "They were trained from random weights.")
    if origin.license is not None:
        return _of_origin(origin, asked)
    unknown = "whose license timm does not state" if origin.stated_by == "timm" else "whose license is not recorded"
    chosen = asked or (None if before == "other" else before)
    if chosen is not None:
        because = f"They started from {origin}, {unknown}: whoever made this card states it."
        return License(chosen, None, None, because)
    slug = re.sub(r"[^a-z0-9.]+", "-", (origin.hub_id or origin.name).lower()).strip("-")
    because = f"They started from {origin}, {unknown}: read it there before using these."
    return License("other", f"{UNKNOWN_LICENSE}{slug}", origin.link, because)


def _of_origin(origin: Origin, asked: str | None) -> License:
    if asked not in (None, origin.license):
        raise UserError(
            f"--license {asked}: these weights started from {origin.name}, which is under {origin.license} "
            f"({origin.stated_by}); leave --license out"
        )
    because = f"They started from {origin}, and keep its license, as {origin.stated_by} states it."
    if origin.is_identifier and origin.license is not None:
        return License(origin.license, None, None, because)
    return License("other", origin.license, origin.link, because)


def states_license(source: str) -> bool:
    """Whether a data set's description tells its license."""
    return _LICENSE_OF_DATA.search(source) is not None


_TASK = "image-classification"


def metadata(records: RunRecords, license: License) -> ModelCardData:
    """Everything of a card that programs read.

    Args:
        records: Of the run.
        license: Of the weights.
    """
    tags = ["timm", _TASK]
    if records.needs_import:
        tags.append("timm_asap")
    if records.is_twin:
        tags.append("anti-aliasing")
    base: dict[str, Any] = {}
    if records.origin is not None and records.origin.hub_id is not None:
        base = {"base_model": records.origin.hub_id, "base_model_relation": "finetune"}
    hub_id = records.data["hub_id"]
    results = list(_results(records))
    return ModelCardData(
        library_name="timm",
        pipeline_tag=_TASK,
        license=license.id,
        license_name=license.name,
        license_link=license.link,
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
    data, result = records.data, records.result
    if result is not None:
        images, accuracy = result["test_images"], result["test_accuracy"]
    else:
        healing = present(records.healing, "record of healing")
        images, accuracy = healing["test_images"], healing["accuracy"]["healed"]
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
