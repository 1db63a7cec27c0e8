"""Attacks one batch and checks what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from timm_asap.adversarial.attacks import fgsm, pgd
from timm_asap.adversarial.model import PixelModel
from timm_asap.adversarial.modes import frozen
from timm_asap.adversarial.spaces import check_adversarial, take
from timm_asap.errors import UserError
from timm_asap.evaluation.attacks.autoattack import run_pyautoattack
from timm_asap.evaluation.attacks.spec import AttackSpec


@dataclass(frozen=True)
class AttackOutcome:
    """What an attack did to a batch."""

    adversarial: torch.Tensor
    """(B, C, H, W), float32: checked to lie within eps and [0, 1]. An image that is wrong as it is stays so."""
    robust: torch.Tensor
    """(B,), bool: right as it is and right when attacked."""
    warnings: tuple[str, ...] = ()
    """One-line reasons to doubt the result, from pyautoattack's own checks."""


def run_attack(
    model: PixelModel,
    images: torch.Tensor,
    labels: torch.Tensor,
    spec: AttackSpec,
    indices: torch.Tensor | None = None,
) -> AttackOutcome:
    """Attack a batch in evaluation mode and without autocast; the model and the global generators stay as they were.

    Args:
        model: Takes pixels in [0, 1].
        images: (B, C, H, W), float, on the model's device.
        labels: (B,), int64, there too.
        spec: The attack. Where it has a `batch_size`, results are reproducible for batches of that size.
        indices: (B,), int64, the images' numbers in their split, by default 0 up: random draws depend on them.

    Raises:
        UserError: If the images are not pixels in [0, 1], or the attack does not fit them.
        RuntimeError: If an adversarial image leaves the ball or the pixel range.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"expected float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        low, high = images.min().item(), images.max().item()
        raise UserError(f"an attack needs pixels in [0, 1], got {low:g} to {high:g}: normalise inside PixelModel")
    indices = torch.arange(len(images)) if indices is None else indices.cpu()
    adversarial, warnings = images.float().clone(), ()
    with frozen(model), torch.autocast(images.device.type, enabled=False):
        right = _is_right(model, adversarial, labels)
        if right.any():
            rows = right.nonzero().squeeze(1)
            found, warnings = _attack(model, take(adversarial, rows), labels[rows], spec, indices[rows.cpu()])
            adversarial[rows] = found
        check_adversarial(images, adversarial, spec.eps, spec.norm)
        robust = right & _is_right(model, adversarial, labels)
    return AttackOutcome(adversarial, robust, warnings)


def _attack(model, images, labels, spec: AttackSpec, indices) -> tuple[torch.Tensor, tuple[str, ...]]:
    if spec.name == "fgsm":
        return fgsm(model, images, labels, spec.eps, norm=spec.norm, step_size=spec.step_size), ()
    if spec.name == "pgd":
        effort = {"steps": spec.steps, "step_size": spec.step_size, "restarts": spec.restarts}
        return pgd(model, images, labels, spec.eps, norm=spec.norm, **effort, seed=spec.seed, indices=indices), ()
    return run_pyautoattack(model, images, labels, spec, indices)


@torch.no_grad()
def _is_right(model: PixelModel, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return model(images).argmax(dim=1) == labels if len(images) else labels.bool()
