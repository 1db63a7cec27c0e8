"""FGSM and PGD in batches, and the classifier of pixels that they attack.

The caller chooses the model's mode and hands in a model of pixels, such as `PixelModel` in evaluation mode, so that an
attack works on what an attacker would change. Gradients are taken with respect to the images alone: no parameter's
`.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from timm_asap.adversarial.config import check_eps
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
    if step_size is None:
        step_size = 2.5 * eps / max(1, steps)
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


def _check(eps: float, norm: str, steps: int, step_size: float) -> None:
    check_eps(eps, norm)
    if steps < 1:
        raise UserError(f"expected 1 step or more, got {steps}")
    if not (0 <= step_size < torch.inf):
        raise UserError(f"the step size is a number from 0 up on the [0, 1] pixel scale, got {step_size}")


class PixelModel(nn.Module):
    """A classifier of pixels in [0, 1]: normalizes, then calls the model.

    Its state dict is the model's under the prefix `model.`; mean and std are not part of it.

    Args:
        model: A network that takes normalized images.
        mean: Mean per channel on the [0, 1] scale, one number per channel or one for all.
        std: Standard deviation per channel, likewise.

    Shape:
        (B, C, H, W) -> (B, classes). Normalization runs in float32 and the network in the dtype of its first
        parameter; float32 logits come back, whatever dtype the network computes in.

    Examples:
        >>> pixels = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), mean=[0.5], std=[0.25])
        >>> pixels(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, images: torch.Tensor, *more: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits of each batch given, one after the other.

        Several batches in one call, for a loss of them all: called twice before a backward pass,
        DistributedDataParallel overwrites the BatchNorm statistics that the first pass saved for its gradient, which
        is an error up to recent releases of PyTorch (pytorch/pytorch, issue 175024).

        Args:
            images: Pixels in [0, 1].
            more: Further batches of them.

        Returns:
            One tensor of logits, or a tuple of as many as there were batches.
        """
        logits = tuple(self._logits(batch) for batch in (images, *more))
        return logits if more else logits[0]

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        normalized = (images - self.mean.float()) / self.std.float()
        parameter = next(self.model.parameters(), None)
        if parameter is not None and parameter.is_floating_point():
            normalized = normalized.to(parameter.dtype)
        return self.model(normalized).float()


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Puts a model into evaluation or training mode, and each of its modules back as it was.

    Args:
        model: The model.
        mode: "eval" or "train".
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter takes a gradient: for attacks that call `backward`."""
    taking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with in_mode(model, "eval"):
        try:
            for parameter in taking:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in taking:
                parameter.requires_grad_(True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, which prepares for a backward pass that an attack never takes.

    Accelerate compiles the wrapper: then this is the model as it was before. Otherwise a compiled model stays so.
    """
    wrapper = getattr(model, "_orig_mod", model)
    return wrapper.module if isinstance(wrapper, DistributedDataParallel) else model
