"""Losses of adversarial training: FGSM, PGD, TRADES and Free.

A step of training with any of them:

    for _ in range(config.replays):  # more than one with free only
        found = adversarial_loss(model, criterion, images, labels, config, state)
        accelerator.backward(found.loss)
        state.after_backward(config)
        optimizer.step()
        optimizer.zero_grad()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap._types import present
from timm_asap.adversarial.attacks import climb, in_mode, pgd, unwrapped
from timm_asap.adversarial.config import AdversarialConfig
from timm_asap.adversarial.spaces import ascend, draw_start, shorten

TRADES_START = 0.001
"""Standard deviation of the normal noise that TRADES starts from: at the image itself its gradient is zero."""


class AdversarialLoss(NamedTuple):
    """What a step of adversarial training came to."""

    loss: torch.Tensor
    """To call `backward` on."""
    adversarial_logits: torch.Tensor
    """Of the adversarial images, detached."""
    clean_logits: torch.Tensor | None
    """Of the images as they are, detached; only TRADES computes them."""


class AdversarialState:
    """What Free carries from step to step, on each process: the change that the next images start with.

    Part of a checkpoint where `config.method` is "free"; empty otherwise.
    """

    def __init__(self) -> None:
        self.change: torch.Tensor | None = None
        self._shown: torch.Tensor | None = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors to keep."""
        return {} if self.change is None else {"change": self.change}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up what `state_dict` gave."""
        self.change = tensors["change"].clone() if "change" in tensors else None

    def show(self, images: torch.Tensor) -> torch.Tensor:
        """The images with the changes carried over, in [0, 1], ready to take a gradient; unchanged at first."""
        if self.change is None or self.change.shape[1:] != images.shape[1:]:
            self.change = torch.zeros_like(images)
        if len(self.change) < len(images):
            fresh = torch.zeros_like(images[len(self.change) :])
            self.change = torch.cat([self.change.to(images.device), fresh])
        self.change = self.change.to(images.device)
        # The gradient is taken behind the clamp, which passes none on for pixels at 0 and 1: in PyTorch 2.15 they
        # would keep a change of zero for good, and with them the background of many an image.
        self._shown = (images + self.change[: len(images)]).clamp(0, 1).detach().requires_grad_()
        return self._shown

    def after_backward(self, config: AdversarialConfig) -> None:
        """Moves the changes along the gradient that the backward pass of the loss has left; free alone has any."""
        shown, self._shown = self._shown, None
        if shown is None:
            return
        change = present(self.change, "change")
        # finite, or one overflow of fp16, whose optimizer step is skipped, would stay for good
        gradient = present(shown.grad, "gradient: call backward on the loss first").nan_to_num()
        stepped = ascend(change[: len(shown)], gradient, config.settled.step_size, config.norm)
        kept = shorten(stepped, config.eps, config.norm)
        self.change = torch.cat([kept, change[len(kept) :]])


def adversarial_loss(
    model: nn.Module,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    config: AdversarialConfig,
    state: AdversarialState,
) -> AdversarialLoss:
    """The loss of one step. Random starts come from the global generator of the images' device.

    Args:
        model: A `PixelModel` in training mode, wrapped for training or not.
        criterion: Mean loss of logits and labels: what the found images are trained with.
        images: (B, C, H, W), pixels in [0, 1], augmented but not normalized.
        labels: (B,) classes.
        config: Method, ball and steps.
        state: Carried from step to step.
    """
    if config.method == "trades":
        return _trades(model, criterion, images, labels, config)
    if config.method == "free":
        adversarial = state.show(images)
    else:
        start = draw_start(images, config.eps, config.norm)
        adversarial = _sought(model, images, labels, start, config)
    logits = model(adversarial)
    return AdversarialLoss(criterion(logits, labels), logits.detach(), None)


def survives_pgd(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: AdversarialConfig, seed: int = 0
) -> torch.Tensor:
    """Which images are still right after PGD: to watch for catastrophic overfitting, epoch by epoch.

    FGSM training can lose all robustness within an epoch while its own accuracy rises (Wong, Rice & Kolter, 2020).
    Ten steps of eps / 4 from the same random starts each time, the model in evaluation mode.

    Args:
        model: A `PixelModel`, wrapped for training or not.
        images: (B, C, H, W), pixels in [0, 1], without augmentation.
        labels: (B,) classes.
        config: Norm and eps are used.
        seed: Seed of the starts.

    Returns:
        (B,), bool.
    """
    model = unwrapped(model)
    with in_mode(model, "eval"):
        found = pgd(model, images, labels, config.eps, norm=config.norm, steps=10, step_size=config.eps / 4, seed=seed)
        with torch.no_grad():
            return model(found).argmax(dim=1) == labels


def _trades(model, criterion, images, labels, config: AdversarialConfig) -> AdversarialLoss:
    with torch.no_grad(), in_mode(unwrapped(model), config.settled.model_mode):
        clean_probabilities = unwrapped(model)(images).softmax(dim=1)
    start = (images + TRADES_START * torch.randn_like(images)).clamp(0, 1)
    adversarial = _sought(model, images, clean_probabilities, start, config, loss=_divergence)
    clean, logits = model(images, adversarial)
    robustness = _divergence(logits, clean.softmax(dim=1)).mean()
    return AdversarialLoss(criterion(clean, labels) + config.settled.beta * robustness, logits.detach(), clean.detach())


def _divergence(logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each image: of its prediction from the given one."""
    return F.kl_div(logits.log_softmax(dim=1), probabilities, reduction="none").sum(dim=1)


def _sought(model, images, targets, start, config: AdversarialConfig, **loss) -> torch.Tensor:
    model = unwrapped(model)
    steps, step_size, _, _, mode = config.settled
    with in_mode(model, mode):
        return climb(
            model, images, targets, start, eps=config.eps, norm=config.norm, steps=steps, step_size=step_size, **loss
        )
