"""The two repairs of a converted network, one after the other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from timm_asap.healing.batchnorm import batchnorm_layers, move_batchnorm, reestimate_batchnorm
from timm_asap.healing.fidelity import HealReport, HealStage, compare_outputs, outputs_of
from timm_asap.healing.images import ImageBatches
from timm_asap.healing.pair import plain_copy
from timm_asap.healing.refit import converted_convolutions, refit_convolutions
from timm_asap.ops.spectral import check_count

__all__ = ["heal"]


def heal(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    batchnorm: bool = True,
    refit: bool | Literal["all"] = False,
    training_distribution: bool = False,
    plain: nn.Module | None = None,
    ridge: float | None = None,
    positions: int = 64,
    limit: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> HealReport:
    """Repair a converted network with unlabeled images, in place, and only as far as it helps.

    Weights that were trained without ASAP meet other statistics once the strides are swapped. Two repairs, neither
    of which takes labels or gradients:

    1. `refit`: each converted convolution, front to back, gets the weights with which its output on the filtered
       input comes closest to the plain network's output there: ridge least squares in closed form, one pass up to
       the layer for each. Its error is measured before and after on every fifth image of the repair, which the fit
       does not see; where it does not fall, the weights stay.
    2. `batchnorm`: the running mean and variance of every BatchNorm layer are moved by what its input differs in from
       the plain network's on the same images. With `training_distribution` they are replaced by those of the images
       instead. Networks without BatchNorm (ConvNeXt) have no statistics, and the report says so.

    Every fifth image, 1,000 at most, is held out of both. On these, the fidelity to the plain network is measured
    before and after each repair: the network is left in the best of these states, which may be the first. Better
    means a lower Kullback-Leibler divergence and no fewer images with the same top class; for networks without a
    classifier, a lower relative error of the output.

    Train and evaluation modes, momentum, the counters of batches and the keys of the state dict stay as they are.

    Args:
        model: A converted network, on any device.
        images: Images as the network takes them, normalized: a float tensor (N, C, H, W), or an iterable of batches,
            such as a data loader; of (images, labels) the labels are ignored. Without random augmentation, best.
        batchnorm: Move the BatchNorm statistics.
        refit: Refit the converted convolutions. With "all", every convolution from the first converted one on: what
            low-passing takes away at one layer is then made up for at those behind it. That takes a single pass, on
            256 images at most. Layers with a standardized weight have none to fit, and are left.
        training_distribution: The images are those that the network was trained on, or alike: replace the statistics
            by theirs. A few hundred images of another distribution would ruin even the plain network that way.
        plain: The network before its conversion; by default `model` with its conversion undone, which is right as
            long as its weights are those of the plain network.
        ridge: Penalty of a change of weights, as a share of the mean squared input of the layer; by default, for each
            layer, that of 0.0001, 0.001, 0.01, 0.1 and 1 with the least error on the images that the fit does not
            see.
        positions: Output positions of each image that the refit looks at, at random.
        limit: Use so many images at most; None uses all.
        batch_size: How many images run at a time, if `images` is a tensor; batches are taken as they come.
        seed: Seed of the positions.

    Returns:
        What was changed, the relative error of each convolution, and the fidelity before and after each repair.

    Raises:
        TypeError: `model` is no module, or `images` no images.
        ValueError: Nothing to refit, fewer than three different images, activations that are not finite, or an
            argument out of range. The network is then as it was.

    Warns:
        UserWarning: There was nothing to do: no BatchNorm layer, and `refit` was not asked for.

    Examples:
        >>> import timm, timm_asap
        >>> model = timm.create_model("resnet20_lowres_asap", in_chans=1)
        >>> report = timm_asap.heal(model, torch.randn(64, 1, 28, 28))
        >>> report.after.kl <= report.before.kl
        True
    """
    _check(model, plain, batchnorm, refit, training_distribution, ridge, positions, limit, batch_size)
    parameter = next(model.parameters())
    batchnorm = batchnorm and bool(batchnorm_layers(model))
    note = "" if batchnorm_layers(model) else "the network has no BatchNorm: there are no statistics to move"
    if not batchnorm and not refit:
        warnings.warn(f"nothing was healed: {note or 'neither repair was asked for'}; try refit=True", stacklevel=2)
        return HealReport(images=0, note=note)
    batches = ImageBatches(images, parameter.device, parameter.dtype, limit, batch_size)
    held_out = batches.hold_out()
    plain = plain_copy(model) if plain is None else plain
    reference = outputs_of(plain, held_out)
    before = compare_outputs(reference, outputs_of(model, held_out))

    best, stages, states = before, [], [copy.deepcopy(model.state_dict())]
    done, left, sites, kept = (), (), (), 0
    try:
        if refit:
            by_batch = batchnorm and training_distribution
            sites = refit_convolutions(
                model,
                plain,
                batches,
                ridge=ridge,
                positions=positions,
                by_batch=by_batch,
                seed=seed,
                every=refit == "all",
            )
            stages.append("refit")
            states.append(copy.deepcopy(model.state_dict()))
        if batchnorm:
            if training_distribution:
                done, left = reestimate_batchnorm(model, batches)
            else:
                done, left = move_batchnorm(model, plain, batches)
            stages.append("statistics")
            states.append(copy.deepcopy(model.state_dict()))
        found = []
        for number, state in enumerate(states[1:], start=1):
            model.load_state_dict(state)
            found.append(compare_outputs(reference, outputs_of(model, held_out)))
            if found[-1].is_better_than(best):
                best, kept = found[-1], number
    except BaseException:
        model.load_state_dict(states[0])
        raise
    model.load_state_dict(states[kept])
    return HealReport(
        images=batches.count + sum(map(len, held_out)),
        batchnorm=done if "statistics" in stages[:kept] else (),
        batchnorm_left=left,
        sites=sites,
        note=note,
        held_out=sum(map(len, held_out)),
        before=before,
        stages=tuple(HealStage(n, f, i < kept) for i, (n, f) in enumerate(zip(stages, found, strict=True))),
    )


def _check(
    model: nn.Module,
    plain: nn.Module | None,
    batchnorm: bool,
    refit: bool | str,
    training_distribution: bool,
    ridge: float | None,
    positions: int,
    limit: int | None,
    batch_size: int,
) -> None:
    if refit not in (True, False, "all"):
        raise ValueError(f"refit: expected True, False or 'all', got {refit!r}")
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
    if training_distribution and not batchnorm:
        raise ValueError("training_distribution: it is for the statistics of BatchNorm, and batchnorm is False")
    if refit and not converted_convolutions(model):
        raise ValueError("refit: the model has no converted convolution; convert it first, with timm_asap.convert")
    if plain is not None and _shapes(plain) != _shapes(model):
        raise ValueError("plain: expected the network that model was converted from, with the same state dict")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
