"""Adversarial images: the balls they stay in, the attacks that find them, and the losses that train on them.

Images are pixels in [0, 1] throughout, and so is eps: `PixelModel` normalises inside the attacked model.
"""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.adversarial.attacks import PixelModel, fgsm, pgd
    from timm_asap.adversarial.config import NORMS, AdversarialConfig, parse_eps
    from timm_asap.adversarial.losses import AdversarialLoss, AdversarialState, adversarial_loss, survives_pgd
    from timm_asap.adversarial.spaces import check_adversarial

__all__ = [
    "NORMS",
    "AdversarialConfig",
    "AdversarialLoss",
    "AdversarialState",
    "PixelModel",
    "adversarial_loss",
    "check_adversarial",
    "fgsm",
    "parse_eps",
    "pgd",
    "survives_pgd",
]

# Whoever reads flags needs no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "NORMS": "timm_asap.adversarial.config",
        "AdversarialConfig": "timm_asap.adversarial.config",
        "AdversarialLoss": "timm_asap.adversarial.losses",
        "AdversarialState": "timm_asap.adversarial.losses",
        "PixelModel": "timm_asap.adversarial.attacks",
        "adversarial_loss": "timm_asap.adversarial.losses",
        "check_adversarial": "timm_asap.adversarial.spaces",
        "fgsm": "timm_asap.adversarial.attacks",
        "parse_eps": "timm_asap.adversarial.config",
        "pgd": "timm_asap.adversarial.attacks",
        "survives_pgd": "timm_asap.adversarial.losses",
    },
)
