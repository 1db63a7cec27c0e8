"""Attacks on a model, each named by an `AttackSpec`, and the signs that their result is not to be trusted."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.evaluation.attacks.masking import masking_attacks, masking_warnings
    from timm_asap.evaluation.attacks.run import AttackOutcome, run_attack
    from timm_asap.evaluation.attacks.spec import ATTACKS, DEFAULT_EPS, AttackSpec

__all__ = [
    "ATTACKS",
    "DEFAULT_EPS",
    "AttackOutcome",
    "AttackSpec",
    "masking_attacks",
    "masking_warnings",
    "run_attack",
]

# Whoever reads flags needs the names, and no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "ATTACKS": "timm_asap.evaluation.attacks.spec",
        "DEFAULT_EPS": "timm_asap.evaluation.attacks.spec",
        "AttackOutcome": "timm_asap.evaluation.attacks.run",
        "AttackSpec": "timm_asap.evaluation.attacks.spec",
        "masking_attacks": "timm_asap.evaluation.attacks.masking",
        "masking_warnings": "timm_asap.evaluation.attacks.masking",
        "run_attack": "timm_asap.evaluation.attacks.run",
    },
)
