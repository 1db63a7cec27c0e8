"""FGSM and PGD, in batches.

The caller chooses the model's mode and hands in a model of pixels, such as `PixelModel` in evaluation mode. Gradients
are taken with respect to the images alone: no parameter's `.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.adversarial.eps import check_eps
from timm_asap.adversarial.spaces import ascend, draw_seeded_start, draw_start, project, take
from timm_asap.errors import UserError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What an attack raises: logits (B, K) and targets to one loss per image, (B,)."""

FGSM_RANDOM_STEP = 1.25
"""Step of FGSM after a random start, in eps (Wong, Rice & Kolter, 2020: 10/255 at eps 8/255)."""


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image, with a gradient that holds where the model is sure: the attacks' usual loss.

    PyTorch's own takes the probability less one for the right class, which float32 rounds to zero from a margin of
    17 on: attacks would raise the other classes and forget to lower the right one.

    Args:
        logits: (B, K).
        targets: (B,), the right classes.
    """
    right = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(dim=1, keepdim=True)
    return F.softplus(others - right).squeeze(1)


@torch.inference_mode(False)
def fgsm(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    norm: str = "linf",
    step_size: float | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    indices: torch.Tensor | None = None,
) -> torch.Tensor:
    """The fast gradient sign method: one step along the gradient, as long as the ball allows.

    Args:
        model: Pixels in [0, 1] to logits.
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the right classes.
        eps: Radius of the ball, [0, 1] pixel scale.
        norm: "linf" or "l2".
        step_size: Length of the step, [0, 1] pixel scale; by default eps, or 1.25 eps after a random start.
        random_start: Step from a random image of the ball.
        generator: Where the start is drawn from, on the images' device; by default PyTorch's global generator.
        seed: Draw the start of each image from this seed and its index instead.
        indices: (B,), the images' numbers, by default 0 up; used with `seed`.

    Returns:
        Adversarial images, float32, within eps and [0, 1].

    Raises:
        UserError: If eps, norm or step size cannot be used.

    Reference:
        Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples" (arXiv 1412.6572); with the
        random start: Wong, Rice & Kolter, "Fast is better than free" (arXiv 2001.03994).
    """
    if step_size is None:
        step_size = FGSM_RANDOM_STEP * eps if random_start else eps
    _check(eps, norm, 1, step_size)
    images, labels = _own(images), labels.clone()
    start = _start(images, eps, norm, generator, seed, indices, 0) if random_start else images
    return climb(model, images, labels, start, eps=eps, norm=norm, steps=1, step_size=step_size)


@torch.inference_mode(False)
def pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    norm: str = "linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    indices: torch.Tensor | None = None,
    loss: Loss = cross_entropy,
) -> torch.Tensor:
    """Projected gradient descent, to measure robustness: an image that is fooled is left alone from then on.

    Of the restarts, each image keeps the first that fools the model, or else the one with the highest loss. With
    `seed`, an image's result does not depend on the batch it came in, up to the rounding of the model itself.

    Args:
        model: Pixels in [0, 1] to logits; in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the right classes.
        eps: Radius of the ball, [0, 1] pixel scale.
        norm: "linf" or "l2".
        steps: Gradient steps per restart.
        step_size: Length of each, [0, 1] pixel scale; by default 2.5 eps / steps, which can cross the ball.
        restarts: Attempts, each from another random start.
        random_start: Start from a random image of the ball.
        generator: Where starts are drawn from, on the images' device; by default PyTorch's global generator.
        seed: Draw the starts of each image from this seed and its index instead.
        indices: (B,), the images' numbers, by default 0 up; used with `seed`.
        loss: What to raise: logits and labels to one loss per image.

    Returns:
        Adversarial images, float32, within eps and [0, 1].

    Raises:
        UserError: If an option cannot be used.

    Reference:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv 1706.06083), with its
        step size of 2.5 eps / steps.
    """
    step_size = 2.5 * eps / steps if step_size is None and steps > 0 else step_size
    _check(eps, norm, steps, step_size)
    if restarts < 1 or (restarts > 1 and not random_start):
        raise UserError(f"expected 1 restart or more, and 1 without a random start, got {restarts}")
    images, labels = _own(images), labels.clone()
    worst = images.clone()
    worst_loss = torch.full((len(images),), -torch.inf, device=images.device)
    indices = torch.arange(len(images)) if indices is None else indices.cpu()
    for restart in range(restarts):
        rows = (worst_loss < torch.inf).nonzero().squeeze(1)
        if not len(rows):
            break
        originals, targets = take(images, rows), labels[rows]
        found = originals
        if random_start:
            found = _start(originals, eps, norm, generator, seed, indices[rows.cpu()], restart)
        found = _climb_until_fooled(model, originals, targets, found, eps, norm, steps, step_size, loss)
        with torch.no_grad():
            logits = model(found)
            reached = loss(logits, targets).masked_fill(logits.argmax(dim=1) != targets, torch.inf)
        better = reached > worst_loss[rows]
        worst[rows[better]], worst_loss[rows[better]] = found[better], reached[better]
    return worst


def climb(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    step_size: float,
    loss: Loss = cross_entropy,
) -> torch.Tensor:
    """Gradient steps for a whole batch, each projected onto the ball: what training takes.

    Args:
        model: Pixels in [0, 1] to logits.
        images: The originals, (B, C, H, W).
        targets: What `loss` compares the logits with.
        start: Where to step from.
        eps: Radius of the ball, [0, 1] pixel scale.
        norm: "linf" or "l2".
        steps: Gradient steps.
        step_size: Length of each, [0, 1] pixel scale.
        loss: What to raise.

    Returns:
        Adversarial images in the originals' dtype and memory format.
    """
    adversarial = start
    for _ in range(steps):
        _, gradient = _input_gradient(model, adversarial, targets, loss)
        adversarial = project(ascend(adversarial, gradient, step_size, norm), images, eps, norm)
    return adversarial


def _climb_until_fooled(model, images, labels, start, eps, norm, steps, step_size, loss) -> torch.Tensor:
    """As `climb`, but an image that fools the model stays as it is, and costs nothing more."""
    adversarial = start.clone()
    rows = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        current = take(adversarial, rows)
        logits, gradient = _input_gradient(model, current, labels[rows], loss)
        standing = logits.argmax(dim=1) == labels[rows]
        rows = rows[standing]
        if not len(rows):
            break
        stepped = ascend(current[standing], gradient[standing], step_size, norm)
        adversarial[rows] = project(stepped, images[rows], eps, norm)
    return adversarial


def _input_gradient(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient of each image's loss with respect to that image."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        # summed, not averaged: the gradient of an image does not depend on how many others there are
        (gradient,) = torch.autograd.grad(loss(logits, targets).sum(), images)
    return logits.detach(), gradient


def _own(images: torch.Tensor) -> torch.Tensor:
    """A float32 copy to work on, in the same memory format."""
    return images.detach().clone().float()


def _start(images, eps, norm, generator, seed, indices, restart) -> torch.Tensor:
    if seed is None:
        return draw_start(images, eps, norm, generator)
    indices = torch.arange(len(images)) if indices is None else indices.cpu()
    return draw_seeded_start(images, eps, norm, seed, indices, restart)


def _check(eps: float, norm: str, steps: int, step_size: float | None) -> None:
    check_eps(eps, norm)
    if steps < 1:
        raise UserError(f"expected 1 step or more, got {steps}")
    if not (0 <= step_size < torch.inf):
        raise UserError(f"the step size is a number from 0 up on the [0, 1] pixel scale, got {step_size}")
