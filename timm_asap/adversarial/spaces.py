"""The balls that adversarial images stay in, intersected with the pixel range [0, 1].

Images are float32 (B, C, H, W), and each is projected, measured and moved by itself.
"""

from __future__ import annotations

import numpy as np
import torch

TOLERANCE = 1e-6
"""How far outside the ball an image may lie by rounding: float32 pixels are spaced by up to 6e-8."""


def distance(adversarial: torch.Tensor, images: torch.Tensor, norm: str) -> torch.Tensor:
    """Distance of each image from its original, in float64.

    Args:
        adversarial: The changed images.
        images: The originals.
        norm: "linf" (largest change of a pixel) or "l2" (root of the summed squares over the image).

    Returns:
        (B,), float64.
    """
    # where the device has no float64, on the CPU
    if adversarial.device.type == "mps":
        adversarial, images = adversarial.cpu(), images.cpu()
    change = (adversarial.double() - images.double()).flatten(1)
    if norm == "linf":
        return change.abs().amax(dim=1)
    return change.square().sum(dim=1).sqrt()


def project(adversarial: torch.Tensor, images: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """The nearest images in the ball, then clamped to [0, 1].

    Clamping keeps them in the ball: the originals lie in [0, 1], so it moves every pixel towards its original.

    Args:
        adversarial: Images anywhere.
        images: The originals, in [0, 1].
        eps: Radius, [0, 1] pixel scale.
        norm: "linf" or "l2".
    """
    return (images + shorten(adversarial - images, eps, norm)).clamp(0, 1)


def shorten(change: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """The nearest changes within eps of zero.

    Args:
        change: Changes of images.
        eps: Largest length, [0, 1] pixel scale.
        norm: "linf" or "l2".
    """
    if norm == "linf":
        return change.clamp(-eps, eps)
    return change * (eps / _length(change).clamp_min(eps)).nan_to_num(1.0)


def ascend(adversarial: torch.Tensor, gradient: torch.Tensor, step_size: float, norm: str) -> torch.Tensor:
    """One step of the given length, in the norm, along the steepest ascent.

    Args:
        adversarial: Where to step from.
        gradient: Gradient of the loss there. Where an image's gradient is zero, it stays.
        step_size: Length of the step, [0, 1] pixel scale.
        norm: "linf" (the sign of the gradient) or "l2" (its direction).
    """
    if norm == "linf":
        return adversarial + step_size * gradient.sign()
    # divided by the largest value first: squares of small gradients would be zero in float32
    gradient = gradient / gradient.flatten(1).abs().amax(dim=1).clamp_min(1e-38).view(-1, 1, 1, 1)
    return adversarial + step_size * gradient / _length(gradient).clamp_min(1e-12)


def draw_start(images: torch.Tensor, eps: float, norm: str, generator: torch.Generator | None = None) -> torch.Tensor:
    """Images drawn uniformly from the ball, then clamped to [0, 1].

    Args:
        images: The originals.
        eps: Radius, [0, 1] pixel scale.
        norm: "linf" or "l2".
        generator: On the images' device; by default PyTorch's global one.
    """
    if norm == "linf":
        change = torch.empty_like(images).uniform_(-eps, eps, generator=generator)
    else:
        direction = torch.empty_like(images).normal_(generator=generator)
        share = torch.rand(len(images), generator=generator, device=images.device)
        change = _in_ball(direction, share, eps)
    return (images + change).clamp(0, 1)


def draw_seeded_start(
    images: torch.Tensor, eps: float, norm: str, seed: int, indices: torch.Tensor, restart: int
) -> torch.Tensor:
    """As `draw_start`, drawn for each image by itself: its batch has no say in it.

    Args:
        images: The originals.
        eps: Radius, [0, 1] pixel scale.
        norm: "linf" or "l2".
        seed: Seed of the evaluation, 0 up.
        indices: (B,), the images' numbers in their split.
        restart: Number of the restart.
    """
    if not len(images):
        return images.clone()
    # NumPy's counters are seeded in microseconds, and draw on the CPU whatever the device
    drawers = [np.random.Generator(np.random.Philox([seed, restart, index])) for index in indices.tolist()]
    shape = images.shape[1:]
    if norm == "linf":
        drawn = np.stack([drawer.random(shape, np.float32) for drawer in drawers])
        change = (2 * torch.from_numpy(drawn) - 1) * eps
    else:
        direction = np.stack([drawer.standard_normal(shape, np.float32) for drawer in drawers])
        share = torch.tensor([drawer.random() for drawer in drawers], dtype=torch.float32)
        change = _in_ball(torch.from_numpy(direction), share, eps)
    return (images + change.to(images.device)).clamp(0, 1)


def check_adversarial(images: torch.Tensor, adversarial: torch.Tensor, eps: float, norm: str) -> None:
    """Make sure of every image that it is within eps of its original, and within [0, 1].

    Args:
        images: The originals.
        adversarial: What an attack made of them.
        eps: Radius, [0, 1] pixel scale.
        norm: "linf" or "l2".

    Raises:
        RuntimeError: If one is not, or is not a number: the attack is wrong, or the model's gradient not finite.
    """
    farthest = distance(adversarial, images, norm).max().item() if len(images) else 0.0
    if not farthest <= eps + TOLERANCE * max(1.0, eps):
        raise RuntimeError(f"an adversarial image is {farthest:.9g} from its original in {norm}, beyond eps {eps:.9g}")
    low, high = (adversarial.min().item(), adversarial.max().item()) if len(images) else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise RuntimeError(f"an adversarial image has pixels from {low:.9g} to {high:.9g}, outside [0, 1]")


def take(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some of the images, in the memory format of all: indexing alone would lose channels_last.

    Args:
        images: (B, C, H, W).
        rows: (N,), positions in the batch, each once.
    """
    if len(rows) == len(images):
        return images
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images[rows].contiguous(memory_format=memory_format)


def _in_ball(direction: torch.Tensor, share: torch.Tensor, eps: float) -> torch.Tensor:
    """Uniform in the l2 ball of d dimensions: a normal direction, a radius that is the d-th root of a uniform one."""
    radius = eps * share.pow(1 / direction.shape[1:].numel())
    return direction * (radius.view(-1, 1, 1, 1) / _length(direction))


def _length(change: torch.Tensor) -> torch.Tensor:
    """The l2 norm of each image, (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
