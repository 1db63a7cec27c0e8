"""Attacks on a model, each named by an `AttackSpec`, and the signs that their result is not to be trusted."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.adversarial.autoattack import AttackOutcome, run_attack
    from timm_asap.adversarial.config import ATTACKS, DEFAULT_EPS, AttackSpec
    from timm_asap.adversarial.masking import masking_attacks, masking_warnings

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
        "ATTACKS": "timm_asap.adversarial.config",
        "DEFAULT_EPS": "timm_asap.adversarial.config",
        "AttackOutcome": "timm_asap.adversarial.autoattack",
        "AttackSpec": "timm_asap.adversarial.config",
        "masking_attacks": "timm_asap.adversarial.masking",
        "masking_warnings": "timm_asap.adversarial.masking",
        "run_attack": "timm_asap.adversarial.autoattack",
    },
)
