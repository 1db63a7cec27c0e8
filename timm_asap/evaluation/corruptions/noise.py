"""Noise: Gaussian, shot, impulse and speckle.

A gray image gets one draw per pixel; an RGB image one per color and pixel.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

Draws = tuple[np.ndarray, ...]


def draw_normal(rng: np.random.Generator, image: np.ndarray, _: float) -> Draws:
    """Standard normal numbers, one per value of the image."""
    return (rng.standard_normal(image.shape, dtype=np.float32),)


def gaussian_noise(x: Tensor, scale: float, normal: Tensor) -> Tensor:
    """Adds Gaussian noise of standard deviation `scale`."""
    return x + scale * normal


def speckle_noise(x: Tensor, scale: float, normal: Tensor) -> Tensor:
    """Adds Gaussian noise in proportion to the value."""
    return x + x * (scale * normal)


def draw_counts(rng: np.random.Generator, image: np.ndarray, photons: float) -> Draws:
    """Poisson counts whose mean is `photons` where the image is white."""
    return (rng.poisson(image * (photons / 255)).astype(np.float32),)


def shot_noise(x: Tensor, photons: float, counts: Tensor) -> Tensor:
    """What a sensor counts that expects `photons` photons of a white pixel."""
    return counts / photons


def draw_uniform(rng: np.random.Generator, image: np.ndarray, _: float) -> Draws:
    """Numbers uniform in [0, 1), one per value of the image."""
    return (rng.random(image.shape, dtype=np.float32),)


def impulse_noise(x: Tensor, amount: float, uniform: Tensor) -> Tensor:
    """Salt and pepper: replaces a share `amount` of the values, half by 1 and half by 0."""
    return x.masked_fill(uniform < amount, 0.0).masked_fill(uniform < amount / 2, 1.0)
