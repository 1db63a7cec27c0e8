"""Runs one attack on a batch and checks the result; APGD, Square and AutoAttack as their authors package them.

What `pyautoattack` 0.2.0 changes and does not put back is put back here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from timm_asap.adversarial.attacks import PixelModel, fgsm, frozen, pgd
from timm_asap.adversarial.config import AttackSpec
from timm_asap.adversarial.spaces import check_adversarial, take
from timm_asap.errors import UserError

_NORMS: dict[str, Literal["Linf", "L2"]] = {"linf": "Linf", "l2": "L2"}
_TARGETS = 9
"""Classes that AutoAttack's targeted attacks aim at, of those there are."""

# What pyautoattack's checks find, by a part of their message: the rest of it has counts, which differ from batch to
# batch, and a page that is not in the package. Its check of the number of classes is not among them: see _autoattack.
_WARNINGS = (
    (
        "randomized defense",
        "the model's predictions change from call to call: AutoAttack's standard version is too weak",
    ),
    ("probability distribution", "the model returns probabilities where attacks need logits"),
    ("zero gradient", "the gradient of some images is zero: attacks that follow it may fail"),
    ("dynamic defense", "the model takes gradients itself to answer: AutoAttack may be too weak"),
    (
        "Square Attack has decreased",
        "Square, which uses no gradients, fooled images that had withstood the other attacks",
    ),
)


def run_pyautoattack(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, spec: AttackSpec, indices: torch.Tensor
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Run `apgd-ce`, `square` or `autoattack` on a batch.

    Args:
        model: Takes pixels in [0, 1]; in evaluation mode, with parameters that take no gradient.
        images: (B, C, H, W), float32; all of them classified right.
        labels: (B,).
        spec: The attack.
        indices: (B,), the images' numbers: the seed is made of them and of `spec.seed`.

    Returns:
        Adversarial images, and the warnings of pyautoattack, one line each.

    Raises:
        UserError: If the images are too small for the attack.

    Reference:
        Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks" (arXiv 2003.01690); Andriushchenko et al., "Square Attack" (arXiv 1912.00049).
    """
    if spec.norm == "l2" and spec.name != "apgd-ce" and min(images.shape[2:]) < 5:
        raise UserError(f"{spec.name} in l2 needs images of 5 pixels or more, got {tuple(images.shape[2:])}")
    # contiguous: pyautoattack flattens with view
    images = images.contiguous()
    seed = int(np.random.SeedSequence([spec.seed, *indices.tolist()]).generate_state(1)[0])
    run = {"apgd-ce": _apgd, "square": _square, "autoattack": _autoattack}[spec.name]
    with _as_it_was(), _collected_warnings() as warnings:
        found = run(model, images, labels, spec, seed, warnings)
    return found.detach(), tuple(dict.fromkeys(warnings))


def _apgd(model, images, labels, spec: AttackSpec, seed: int, warnings: list[str]) -> torch.Tensor:
    from pyautoattack.autopgd_base import APGDAttack

    options = {"n_iter": spec.steps, "n_restarts": spec.restarts, "logger": logging.getLogger("auto-attack")}
    attack = APGDAttack(model, norm=_NORMS[spec.norm], eps=spec.eps, seed=seed, device=images.device, **options)
    return attack.perturb(images, labels)


def _square(model, images, labels, spec: AttackSpec, seed: int, warnings: list[str]) -> torch.Tensor:
    from pyautoattack.square import SquareAttack

    # the schedule of AutoAttack's own Square, not stretched to the number of queries
    options = {"n_queries": spec.steps, "n_restarts": spec.restarts, "resc_schedule": False}
    attack = SquareAttack(model, norm=_NORMS[spec.norm], eps=spec.eps, seed=seed, device=images.device, **options)
    with torch.no_grad():
        return attack.perturb(images, labels)


def _autoattack(model, images, labels, spec: AttackSpec, seed: int, warnings: list[str]) -> torch.Tensor:
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    attack = AutoAttack(model, norm=_NORMS[spec.norm], eps=spec.eps, seed=seed, device=images.device)
    attack.verbose = False
    # with as many targets as classes it would look for a class that is not there
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(_TARGETS, classes - 1)
    if classes < 4:
        # the targeted DLR loss compares four classes, the plain one three
        instead = ["apgd-dlr"] if classes == 3 else []
        attack.attacks_to_run = ["apgd-ce", *instead, "fab-t", "square"]
        by = "apgd-dlr takes its place" if instead else "it is left out"
        warnings.append(f"AutoAttack's apgd-t needs 4 classes, there are {classes}: {by}")
    found, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return found


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Puts back what pyautoattack changes for the whole process: PyTorch's generators and the trace function."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    trace = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        sys.settrace(trace)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """The warnings that pyautoattack logs, as they come; none of them reaches the terminal."""
    logger = logging.getLogger("auto-attack")
    warnings: list[str] = []
    handler = _IntoList(warnings)
    before = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield warnings
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.level = before


class _IntoList(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        self.lines.extend(ours for theirs, ours in _WARNINGS if theirs in message)


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
        raise UserError(f"an attack needs pixels in [0, 1], got {low:g} to {high:g}: normalize inside PixelModel")
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
