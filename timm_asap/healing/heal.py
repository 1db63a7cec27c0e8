"""The two repairs of a converted network, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from timm_asap.healing.batchnorm import batchnorm_layers, reestimate_batchnorm
from timm_asap.healing.images import ImageBatches
from timm_asap.healing.plain import plain_copy
from timm_asap.healing.refit import converted_convolutions, refit_convolutions
from timm_asap.healing.report import HealReport
from timm_asap.spectral import check_count

__all__ = ["heal"]


def heal(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    batchnorm: bool = True,
    refit: bool = False,
    plain: nn.Module | None = None,
    ridge: float | None = None,
    positions: int = 64,
    limit: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> HealReport:
    """Repair a converted network with unlabelled images, in place.

    Weights that were trained without ASAP meet other statistics once the strides are swapped. Two repairs, neither
    of which takes labels or gradients:

    1. `batchnorm`: the running mean and variance of every BatchNorm layer are re-estimated, in one pass, pooled over
       all images. Networks without BatchNorm (ConvNeXt) have nothing to re-estimate, and the report says so.
    2. `refit`: each converted convolution, front to back, gets the weights with which its output on the filtered
       input comes closest to the plain network's output there: ridge least squares in closed form, one pass up to
       the layer for each. Its error is measured before and after on every fifth image, which the fit does not see;
       where it does not fall, the weights stay. The BatchNorm statistics are re-estimated afterwards.

    Train and evaluation modes, momentum, the counters of batches and the keys of the state dict stay as they are.

    Args:
        model: A converted network, on any device.
        images: Images as the network takes them, normalised: a float tensor (N, C, H, W), or an iterable of batches,
            such as a data loader; of (images, labels) the labels are ignored. Without random augmentation, best.
        batchnorm: Re-estimate the BatchNorm statistics.
        refit: Refit the converted convolutions. Those with a standardised weight have none to fit, and are left.
        plain: The network before its conversion, for `refit`; by default `model` with its conversion undone, which is
            right as long as its weights are those of the plain network.
        ridge: Penalty of a change of weights, as a share of the mean squared input of the layer; by default, for each
            layer, that of 0.0001, 0.001, 0.01, 0.1 and 1 with the least error on the images that the fit does not
            see.
        positions: Output positions of each image that the refit looks at, at random.
        limit: Use so many images at most; None uses all.
        batch_size: How many images run at a time, if `images` is a tensor; batches are taken as they come.
        seed: Seed of the positions.

    Returns:
        What was re-estimated and refitted, with the relative error of each convolution before and after.

    Raises:
        TypeError: `model` is no module, or `images` no images.
        ValueError: Nothing to refit, fewer than two images, activations that are not finite, or an argument out of
            range.

    Warns:
        UserWarning: There was nothing to do: no BatchNorm layer, and `refit` was not asked for.

    Example:
        >>> import timm, timm_asap
        >>> model = timm.create_model("resnet20_lowres_asap", in_chans=1)
        >>> print(timm_asap.heal(model, torch.randn(64, 1, 28, 28)))
        healed with 64 images: 21 BatchNorm layers re-estimated
    """
    _check(model, plain, batchnorm, refit, ridge, positions, limit, batch_size)
    parameter = next(model.parameters())
    batches = ImageBatches(images, parameter.device, parameter.dtype, limit, batch_size, several_passes=refit)
    batchnorm = batchnorm and bool(batchnorm_layers(model))
    note = "" if batchnorm_layers(model) else "the network has no BatchNorm: there are no statistics to re-estimate"
    if not batchnorm and not refit:
        warnings.warn(f"nothing was healed: {note or 'neither repair was asked for'}; try refit=True", stacklevel=2)
        return HealReport(images=0, note=note)
    sites, done, left = (), (), ()
    if refit:
        plain = plain_copy(model) if plain is None else plain
        sites = refit_convolutions(
            model, plain, batches, ridge=ridge, positions=positions, by_batch=batchnorm, seed=seed
        )
    if batchnorm:
        done, left = reestimate_batchnorm(model, batches)
    return HealReport(batches.count, done, left, sites, note)


def _check(
    model: nn.Module,
    plain: nn.Module | None,
    batchnorm: bool,
    refit: bool,
    ridge: float | None,
    positions: int,
    limit: int | None,
    batch_size: int,
) -> None:
    for name, value in (("model", model), ("plain", plain)):
        if not isinstance(value, nn.Module) and not (name == "plain" and value is None):
            raise TypeError(f"{name}: expected a torch.nn.Module, got {type(value).__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError("model: expected a network with parameters; this one has nothing to heal")
    check_count("positions", positions)
    check_count("batch_size", batch_size)
    if limit is not None:
        check_count("limit", limit)
    if ridge is not None and not ridge > 0:
        raise ValueError(f"ridge: expected a number above 0, got {ridge}")
    if plain is not None and not refit:
        raise ValueError("plain: only refit=True compares with the plain network; leave it out, or ask for refit")
    if refit and not converted_convolutions(model):
        raise ValueError("refit: the model has no converted convolution; convert it first, with timm_asap.convert")
    if plain is not None and _shapes(plain) != _shapes(model):
        raise ValueError("plain: expected the network that model was converted from, with the same state dict")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
