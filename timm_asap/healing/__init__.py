"""Repairs a converted network with unlabeled images: closed-form repairs, and fidelity to the plain network."""

from timm_asap._startup import lazy_names
from timm_asap.healing.batchnorm import batchnorm_layers
from timm_asap.healing.fidelity import Fidelity, HealReport, HealStage, RefitLayer, measure_fidelity
from timm_asap.healing.heal import heal
from timm_asap.healing.pair import plain_copy

__all__ = [
    "Fidelity",
    "HealReport",
    "HealStage",
    "RefitLayer",
    "batchnorm_layers",
    "heal",
    "measure_fidelity",
    "plain_copy",
]

__getattr__ = lazy_names(__name__, {}, {"RefitSite": "RefitLayer"})
