"""The study's records, gathered: accuracies by variant and seed, and what each image did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.study.measure import RECORDS
from timm_asap.evaluation import CORRUPTIONS
from timm_asap.evaluation.intervals import bootstrap_means, percentile_interval

#: What the tables show of a network: title, and the results that it is the mean of, by the beginning of their ids.
GROUPS: dict[str, tuple[str, ...]] = {
    "15 corruptions": tuple(f"corruption/{name}/" for name in CORRUPTIONS),
    "noise": tuple(f"corruption/{name}_noise/" for name in ("gaussian", "shot", "impulse")),
    "blur": tuple(f"corruption/{name}_blur/" for name in ("defocus", "glass", "motion", "zoom")),
    "weather": tuple(f"corruption/{name}/" for name in ("snow", "frost", "fog", "brightness")),
    "digital": tuple(
        f"corruption/{name}/" for name in ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
    ),
    "FGSM, 5 eps": ("attack/fgsm-linf/",),
    "PGD-20, 5 eps": ("attack/pgd-linf/",),
    "circular shift": ("shift/circular/",),
    "crop shift": ("shift/crop/",),
}


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """One measured network.

    Attributes:
        content: Its JSON.
        right: By result, uint8 (N,): 1 where the image was right, or the answer stayed.
    """

    content: dict[str, Any]
    right: dict[str, np.ndarray]

    @property
    def clean(self) -> float:
        """Accuracy on all test images, in percent."""
        return self.content["test"]["test_accuracy"]

    def group(self, name: str) -> np.ndarray:
        """Per image the share of a group's results that were right, (N,)."""
        prefixes = GROUPS[name]
        return np.mean([values for key, values in self.right.items() if key.startswith(prefixes)], axis=0)


def load_records(folder: Path = RECORDS) -> dict[str, list[StudyRecord]]:
    """The records by variant, in the order of their seeds; those trained under attack have `.fgsm` in their names."""
    found: dict[str, list[StudyRecord]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {result["id"]: result["images"] for result in content["results"]}
        bits = load_file(path.with_suffix(".safetensors"))
        right = {name: np.unpackbits(values, count=images[name]) for name, values in bits.items()}
        name = content["variant"] + (".fgsm" if content["attack_trained"] else "")
        found.setdefault(name, []).append(StudyRecord(content, right))
    return found


def difference(records: list[StudyRecord], others: list[StudyRecord], group: str) -> tuple[float, float, float]:
    """How much better some networks are than others on the same images, in percent points.

    Seeds are averaged image by image before images are resampled: the interval tells what other images would give, not
    what other seeds would.

    Args:
        records: One variant.
        others: The one it is compared with; the seeds that both have are used.
        group: Of `GROUPS`.

    Returns:
        The difference, and the ends of its 95 % bootstrap interval, paired by image.
    """
    seeds = min(len(records), len(others))
    mine, theirs = (np.mean([r.group(group) for r in side[:seeds]], axis=0) for side in (records, others))
    gain = 100 * (mine - theirs)
    # many distinct values: coarser steps keep the multinomial draw small, and are far below what is shown
    return (float(gain.mean()), *percentile_interval(bootstrap_means(np.round(gain, 2), seed=0)))
