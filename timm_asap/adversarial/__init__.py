"""Adversarial images: the balls they stay in, the attacks that find them, and the losses that train on them.

Images are pixels in [0, 1] throughout, and so is eps: `PixelModel` normalises inside the attacked model.
"""

from timm_asap.adversarial.attacks import fgsm, pgd
from timm_asap.adversarial.config import AdversarialConfig
from timm_asap.adversarial.eps import parse_eps
from timm_asap.adversarial.model import PixelModel
from timm_asap.adversarial.spaces import NORMS, check_adversarial
from timm_asap.adversarial.training import AdversarialLoss, AdversarialState, adversarial_loss, survives_pgd

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
