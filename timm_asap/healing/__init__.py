"""Repairs a converted network with unlabelled images: BatchNorm statistics, then the converted convolutions."""

from timm_asap.healing.batchnorm import batchnorm_layers
from timm_asap.healing.heal import heal
from timm_asap.healing.plain import plain_copy
from timm_asap.healing.report import HealReport, RefitSite

__all__ = ["HealReport", "RefitSite", "batchnorm_layers", "heal", "plain_copy"]
