"""Attacks on a model, each named by an `AttackSpec`, and the signs that their result is not to be trusted."""

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
