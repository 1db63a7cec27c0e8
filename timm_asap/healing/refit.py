"""Refits the converted convolutions of a network, front to back, to the outputs of the plain network.

Each convolution is linear in its weights, so the best weights for the filtered input it gets now are a least-squares
solution. The network in front of it is healed already when its turn comes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import nn

from timm_asap.conversion.strided import is_converted
from timm_asap.healing.batchnorm import measuring
from timm_asap.healing.least_squares import ResidualFit
from timm_asap.healing.patches import ConvCall, ConvCalls, output_positions, rows_of
from timm_asap.healing.report import RefitSite

__all__ = ["converted_convolutions", "refit_convolutions"]

# One image in five is kept from the fit, to measure it.
_HELD_OUT_EVERY = 5

# What is tried where no ridge is given: with few images, close to the old weights is best.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was to be seen."""


def converted_convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """The converted layers with a convolution's weight of their own, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if is_converted(layer) and getattr(layer, "weight", None) is not None and hasattr(layer, "groups")
    }


def refit_convolutions(
    model: nn.Module,
    plain: nn.Module,
    batches: Iterable[torch.Tensor],
    *,
    ridge: float | None,
    positions: int,
    by_batch: bool,
    seed: int,
) -> tuple[RefitSite, ...]:
    """Refit every converted convolution whose weight is free, in place.

    Args:
        model: The converted network.
        plain: The network whose outputs are wanted, with the same layer names.
        batches: Images, gone through once for each convolution and once to find them.
        ridge: Penalty of a change of the weights, as a share of the mean squared input; None takes, for each
            convolution, the one of five with the least error on the images that the fit does not see.
        positions: Output positions taken of each image, at random.
        by_batch: BatchNorm layers of `model` normalise each batch by itself: they are re-estimated afterwards.
        seed: Seed of the positions.

    Returns:
        Every converted convolution, in the order in which the network runs them.

    Raises:
        ValueError: If an input or output is not finite.
    """
    sites = []
    with measuring(model, by_batch), measuring(plain, by_batch=False), _full_float32():
        for name, reason in _in_running_order(model, next(iter(batches))).items():
            if reason:
                sites.append(RefitSite(name, refitted=False, reason=reason))
            else:
                generator = torch.Generator().manual_seed(seed)
                sites.append(_refit(model, plain, name, batches, ridge, positions, generator))
    return tuple(sites)


def _in_running_order(model: nn.Module, batch: torch.Tensor) -> dict[str, str]:
    """Every converted convolution, front to back, and the reason to leave it, if any."""
    layers = converted_convolutions(model)
    ran: Counter[str] = Counter()
    convolved: Counter[int] = Counter()
    with ExitStack() as watch:
        for name, layer in layers.items():
            watch.enter_context(layer.register_forward_pre_hook(lambda *_, name=name: ran.update([name])))
        watch.enter_context(ConvCalls(lambda call: convolved.update([id(call.weight)])))
        model(batch)
    reasons = {}
    for name in [*ran, *(name for name in layers if name not in ran)]:
        # A parametrised weight is no parameter of its layer, and every look at it makes a new tensor.
        times = convolved[id(layers[name].weight)] if "weight" in layers[name]._parameters else 0
        if not ran[name]:
            reasons[name] = "no image reached it"
        elif times == 0:
            kind = type(layers[name]).__name__.removeprefix("Asap")
            reasons[name] = f"its weight is computed anew in every pass ({kind})"
        elif times > 1:
            reasons[name] = f"its weight is used {times} times in one pass"
        else:
            reasons[name] = ""
    return reasons


def _refit(
    model: nn.Module,
    plain: nn.Module,
    name: str,
    batches: Iterable[torch.Tensor],
    ridge: float | None,
    positions: int,
    generator: torch.Generator,
) -> RefitSite:
    began = time.perf_counter()
    layer = model.get_submodule(name)
    biased = layer.bias is not None
    fit, held_out = ResidualFit(), ResidualFit()
    for batch in batches:
        call = _convolution_at(model, layer, batch)
        target = _output_at(plain, plain.get_submodule(name), batch).to(call.output.device)
        if target.shape != call.output.shape:
            return RefitSite(
                name, False, f"the plain layer gives {tuple(target.shape[1:])}, it {tuple(call.output.shape[1:])}"
            )
        where = output_positions(call, positions, generator)
        is_held_out = torch.arange(len(batch)) % _HELD_OUT_EVERY == 0
        for part, chosen in ((fit, ~is_held_out), (held_out, is_held_out)):
            for rows in rows_of(call, target, chosen.nonzero().flatten(), where, ones=biased):
                part.add(*rows)
    if not torch.isfinite(torch.tensor([fit.residual_energy, fit.target_energy, held_out.residual_energy])).all():
        raise ValueError(f"the output of {name} is not finite: check the images and the model's weights")

    corrections = [fit.solve(value, free=int(biased)) for value in (_RIDGES if ridge is None else (ridge,))]
    errors = [held_out.relative_error(correction) for correction in corrections]
    before, after = held_out.relative_error(), min(errors)
    better = after < before
    if better:
        _correct(layer, corrections[errors.index(after)])
    reason = "" if better else "the refit does not lower the error on images that it did not see"
    return RefitSite(name, better, reason, before, after, time.perf_counter() - began)


def _correct(layer: nn.Module, correction: torch.Tensor) -> None:
    """Add a correction (groups, inputs, outputs), its last input a bias if the layer has one."""
    weight = correction[:, : layer.weight[0].numel()].mT.reshape(layer.weight.shape)
    layer.weight.add_(weight.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(correction[:, -1].flatten().to(layer.bias))


def _convolution_at(model: nn.Module, layer: nn.Module, batch: torch.Tensor) -> ConvCall:
    """What the layer convolves when the model runs on a batch; the pass ends there."""
    seen = []

    def look(call: ConvCall) -> None:
        if call.weight is layer.weight:
            seen.append(call)
            raise _ReachedError

    with suppress(_ReachedError), ConvCalls(look):
        model(batch)
    return seen[0]


def _output_at(plain: nn.Module, layer: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What the layer gives when the plain model runs on a batch; the pass ends there."""
    seen = []

    def look(_: nn.Module, __: tuple, output: torch.Tensor) -> None:
        seen.append(output)
        raise _ReachedError

    parameter = next(plain.parameters())
    with suppress(_ReachedError), layer.register_forward_hook(look):
        plain(batch.to(parameter.device, parameter.dtype))
    return seen[0]


@contextmanager
def _full_float32() -> Iterator[None]:
    """Matrix products of float32 in float32: sums over a hundred thousand rows are worth more than TF32's 10 bits."""
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(found)
