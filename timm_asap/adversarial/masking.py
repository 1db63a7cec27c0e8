"""Signs that gradients are masked, and that the robustness measured with them is not there.

After Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), section 3.1,
and Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from timm_asap.adversarial.config import AttackSpec

WHITE_BOX = ("pgd", "apgd-ce")
"""Iterated attacks that follow the gradient."""

MARGIN = 0.2
"""Points of accuracy that count as chance; pyautoattack's check of Square takes the same."""

_UNBOUNDED = 1.0
"""The linf eps with which every image can become any other."""


def masking_attacks(eps: float, *, norm: str = "linf", queries: int = 1000, seed: int = 0) -> tuple[AttackSpec, ...]:
    """The attacks that `masking_warnings` looks at.

    Args:
        eps: Where to look: best an eps at which some images are robust and some are not.
        norm: "linf" or "l2".
        queries: Of the model, by Square, per image.
        seed: Seed of the attacks.

    Returns:
        FGSM, PGD and Square at eps, and PGD with an eps without bound (1, linf).

    Raises:
        UserError: If pyautoattack is not installed, which Square needs.
    """
    return (
        AttackSpec("fgsm", eps, norm, seed=seed),
        AttackSpec("pgd", eps, norm, seed=seed),
        AttackSpec("square", eps, norm, steps=queries, seed=seed),
        AttackSpec("pgd", _UNBOUNDED, "linf", seed=seed),
    )


def masking_warnings(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Look through the results of one model for attacks that contradict each other.

    Args:
        results: Results of an evaluation record, as dicts; those of other measures are passed over. Attacks are
            compared where norm, eps and number of images agree.

    Returns:
        A line for each sign found; none where nothing speaks against the results.
    """
    attacks = [result for result in results if result["measure"] == "attack"]
    groups: dict[tuple, dict[str, float]] = {}
    for result in attacks:
        key = (result["norm"], result["eps"], result["images"])
        groups.setdefault(key, {})[result["attack"]] = result["accuracy"]
    warnings = []
    for (norm, eps, images), accuracy in sorted(groups.items()):
        where = f"at eps {eps:.6g} in {norm}"
        chance = _chance(images)
        iterated = {name: accuracy[name] for name in WHITE_BOX if name in accuracy}
        if not iterated:
            continue
        best = min(iterated, key=iterated.__getitem__)
        if "square" in accuracy and accuracy["square"] < iterated[best] - chance:
            warnings.append(
                f"gradients may be masked: Square, which uses none, leaves {accuracy['square']:.1f} % right {where}, "
                f"{best} {iterated[best]:.1f} %"
            )
        if "fgsm" in accuracy and accuracy["fgsm"] < iterated[best] - chance:
            warnings.append(
                f"gradients may be masked: FGSM's one step leaves {accuracy['fgsm']:.1f} % right {where}, "
                f"{best} {iterated[best]:.1f} %"
            )
        if norm == "linf" and eps >= _UNBOUNDED and iterated[best] > 0:
            warnings.append(
                f"gradients may be masked: {best} without a bound on eps leaves {iterated[best]:.1f} % right, "
                "where it should leave none"
            )
    return warnings


def _chance(images: int) -> float:
    """Points of accuracy that differ by chance: `MARGIN`, and at least one image."""
    return max(MARGIN, 100 / images) + 1e-9
