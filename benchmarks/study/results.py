"""The study's records, gathered: accuracies by variant and seed, and what each image did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.common import RESULTS
from benchmarks.study.plan import FASHION
from timm_asap.evaluation import CORRUPTIONS
from timm_asap.evaluation.statistics import bootstrap_means, percentile_interval

_PARTS = tuple(FASHION.parts)


def _corruptions(*names: str) -> tuple[str, ...]:
    return tuple(f"corruption/{name}/" for name in names)


#: What the tables show of a network: title, and the results that it is the mean of, by the beginning of their ids.
GROUPS: dict[str, tuple[str, ...]] = {
    "15 corruptions": _corruptions(*CORRUPTIONS),
    "noise": _corruptions("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": _corruptions("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": _corruptions("snow", "frost", "fog", "brightness"),
    "digital": _corruptions("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "FGSM": ("attack/fgsm-linf/",),
    "PGD-20": ("attack/pgd-linf/",),
    "circular shift": ("shift/circular/",),
    "crop shift": ("shift/crop/",),
}


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """One measured network.

    Attributes:
        content: Its JSON.
        right: By part and result, uint8 (N,): 1 where the image was right, or the answer stayed.
    """

    content: dict[str, Any]
    right: dict[str, np.ndarray]

    @property
    def clean(self) -> np.ndarray:
        """Whether each of all test images was right, (10000,)."""
        return self.right["clean/clean"]

    @property
    def held_out_accuracy(self) -> float:
        """Best accuracy of an epoch on the held-out images, in percent: what the exported epoch was chosen by."""
        return max(epoch["val_accuracy"] for epoch in self.content["epochs"])

    def results(self, part: str, measure: str) -> list[dict[str, Any]]:
        """Entries of `timm-asap evaluate`; none where the part was not measured.

        Args:
            part: Of the study's.
            measure: corruption, attack, shift or aliasing.
        """
        return [r for r in self.content.get(part, {"results": []})["results"] if r["measure"] == measure]

    def mean(self, prefixes: tuple[str, ...], part: str = "robustness") -> np.ndarray:
        """Per image the share of some results that were right, (N,).

        Args:
            prefixes: Beginnings of the results' ids.
            part: Of the study's.
        """
        prefixes = tuple(f"{part}/{prefix}" for prefix in prefixes)
        return np.mean([values for key, values in self.right.items() if key.startswith(prefixes)], axis=0)


def load_records(folder: Path = RESULTS / FASHION.name) -> dict[str, list[StudyRecord]]:
    """The records by variant, in the order of their seeds; those trained under attack have `.fgsm` in their names."""
    found: dict[str, list[StudyRecord]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "robustness" not in content:  # not finished
            continue
        name = content["variant"] + (".fgsm" if content["attack_trained"] else "")
        found.setdefault(name, []).append(StudyRecord(content, _unpack(path.with_suffix(".safetensors"), content)))
    return found


def _unpack(path: Path, content: dict[str, Any]) -> dict[str, np.ndarray]:
    bits = load_file(path)
    images = {f"{part}/{r['id']}": r["images"] for part in content if part in _PARTS for r in content[part]["results"]}
    return {name: np.unpackbits(values, count=images[name]) for name, values in bits.items()}


@dataclass(frozen=True)
class Difference:
    """How much better some networks are than others, in percent points.

    Attributes:
        gain: The mean over images and seeds.
        low: End of its 95 % bootstrap interval, paired by image.
        high: The other end.
        by_seed: The gain of each seed.
    """

    gain: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def is_clear(self) -> bool:
        """Whether its interval leaves out 0 and several seeds agree in its sign; of one seed nothing is clear."""
        signs = {np.sign(round(gain, 6)) for gain in self.by_seed}
        return len(self.by_seed) > 1 and signs in ({1}, {-1}) and (self.low > 0 or self.high < 0)


def difference(records: list[np.ndarray], others: list[np.ndarray]) -> Difference:
    """How much better some networks are than others on the same images.

    Seeds are averaged image by image before images are resampled: the interval tells what other images would give, not
    what other seeds would.

    Args:
        records: Shares per image, (N,), one array for each seed of a variant.
        others: Those of the variant that it is compared with, of the same seeds in the same order.
    """
    gains = [100 * (mine.astype(float) - theirs) for mine, theirs in zip(records, others, strict=True)]
    gain = np.mean(gains, axis=0)
    # many distinct values: coarser steps keep the multinomial draw small, and are far below what is shown
    ends = percentile_interval(bootstrap_means(np.round(gain, 2), seed=0))
    return Difference(float(gain.mean()), *ends, tuple(float(values.mean()) for values in gains))
