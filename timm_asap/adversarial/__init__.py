"""Adversarial images: the balls they stay in, the attacks that find them, and the losses that train on them.

Images are pixels in [0, 1] throughout, and so is eps: `PixelModel` normalizes inside the attacked model. An evaluation
names each of its attacks by an `AttackSpec`, and `masking_warnings` says when a result is not to be trusted.
"""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.adversarial.attacks import PixelModel, fgsm, pgd
    from timm_asap.adversarial.autoattack import AttackOutcome, run_attack
    from timm_asap.adversarial.config import ATTACKS, DEFAULT_EPS, NORMS, AdversarialConfig, AttackSpec, parse_eps
    from timm_asap.adversarial.losses import AdversarialLoss, AdversarialState, adversarial_loss, survives_pgd
    from timm_asap.adversarial.masking import masking_attacks, masking_warnings
    from timm_asap.adversarial.spaces import check_adversarial

__all__ = [
    "ATTACKS",
    "DEFAULT_EPS",
    "NORMS",
    "AdversarialConfig",
    "AdversarialLoss",
    "AdversarialState",
    "AttackOutcome",
    "AttackSpec",
    "PixelModel",
    "adversarial_loss",
    "check_adversarial",
    "fgsm",
    "masking_attacks",
    "masking_warnings",
    "parse_eps",
    "pgd",
    "run_attack",
    "survives_pgd",
]

_CONFIG = ("ATTACKS", "DEFAULT_EPS", "NORMS", "AdversarialConfig", "AttackSpec", "parse_eps")
_LOSSES = ("AdversarialLoss", "AdversarialState", "adversarial_loss", "survives_pgd")

# Whoever reads flags needs the names, and no torch.
__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_CONFIG, "timm_asap.adversarial.config"),
        **dict.fromkeys(_LOSSES, "timm_asap.adversarial.losses"),
        **dict.fromkeys(("PixelModel", "fgsm", "pgd"), "timm_asap.adversarial.attacks"),
        **dict.fromkeys(("AttackOutcome", "run_attack"), "timm_asap.adversarial.autoattack"),
        **dict.fromkeys(("masking_attacks", "masking_warnings"), "timm_asap.adversarial.masking"),
        "check_adversarial": "timm_asap.adversarial.spaces",
    },
)
