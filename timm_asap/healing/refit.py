"""Refits convolutions of a converted network, front to back, to the outputs of the plain network.

Each convolution is linear in its weights, so the best weights for the filtered input it gets now are a least-squares
solution. The network in front of it is healed already when its turn comes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from timm_asap._types import undeclared
from timm_asap.conversion.strided import is_converted
from timm_asap.healing.batchnorm import measuring
from timm_asap.healing.fidelity import RefitLayer
from timm_asap.healing.least_squares import ConvCall, ConvCalls, ResidualFit, output_positions, rows_of

__all__ = ["converted_convolutions", "refit_convolutions"]

# One image in five is kept from the fit, to measure it.
_HELD_OUT_EVERY = 5

# Inputs of a group of a convolution up to which it is refitted: the normal equations then take half a gigabyte.
_MOST_INPUTS = 8192

# Images that a refit of every layer holds in memory, and images whose positions are drawn together.
_ONE_PASS_IMAGES = 256
_PART = 32

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
    every: bool = False,
) -> tuple[RefitLayer, ...]:
    """Refit convolutions whose weight is free, in place.

    Args:
        model: The converted network.
        plain: The network whose outputs are wanted, with the same layer names.
        batches: Images, gone through once for each convolution and once to find them.
        ridge: Penalty of a change of the weights, as a share of the mean squared input; None takes, for each
            convolution, the one of five with the least error on the images that the fit does not see.
        positions: Output positions taken of each image, at random.
        by_batch: BatchNorm layers of `model` normalize each batch by itself: they are re-estimated afterwards.
        seed: Seed of the positions.
        every: Refit every convolution from the first converted one on, not only the converted ones: in one pass, for
            which 256 images at most are held in memory.

    Returns:
        The convolutions that were looked at, in the order in which the network runs them.

    Raises:
        ValueError: If an input or output is not finite.
    """
    sites = []
    with measuring(model, by_batch), measuring(plain, by_batch=False), _full_float32():
        names = _in_running_order(model, next(iter(batches)), every)
        if every:
            return _refit_in_one_pass(model, plain, names, _first_images(batches), ridge, positions, seed)
        for name, reason in names.items():
            if reason:
                sites.append(RefitLayer(name, refitted=False, reason=reason))
            else:
                generator = torch.Generator().manual_seed(seed)
                sites.append(_refit(model, plain, name, batches, ridge, positions, generator))
    return tuple(sites)


def _in_running_order(model: nn.Module, batch: torch.Tensor, every: bool) -> dict[str, str]:
    """The convolutions to refit, front to back, and the reason to leave one, if any."""
    converted = converted_convolutions(model)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if name in converted or (every and isinstance(layer, nn.Conv2d))
    }
    ran: Counter[str] = Counter()
    convolved: Counter[int] = Counter()
    with ExitStack() as watch:
        for name, layer in layers.items():
            watch.enter_context(layer.register_forward_pre_hook(lambda *_, name=name: ran.update([name])))
        watch.enter_context(ConvCalls(lambda call: convolved.update([id(call.weight)])))
        model(batch)
    order = list(ran)
    order = order[next((i for i, name in enumerate(order) if name in converted), len(order)) :]
    reasons = {}
    for name in [*order, *(name for name in layers if name not in ran)]:
        # A parametrised weight is no parameter of its layer, and every look at it makes a new tensor.
        times = convolved[id(layers[name].weight)] if "weight" in layers[name]._parameters else 0
        if not ran[name]:
            reasons[name] = "no image reached it"
        elif times == 0:
            kind = type(layers[name]).__name__.removeprefix("Asap")
            reasons[name] = f"its weight is computed anew in every pass ({kind})"
        elif times > 1:
            reasons[name] = f"its weight is used {times} times in one pass"
        elif undeclared(layers[name]).weight[0].numel() > _MOST_INPUTS:
            reasons[name] = f"it has more than {_MOST_INPUTS:,} inputs"
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
) -> RefitLayer:
    began = time.perf_counter()
    layer = model.get_submodule(name)
    biased = layer.bias is not None
    fit, held_out = ResidualFit(), ResidualFit()
    for batch in batches:
        call = _convolution_at(model, layer, batch)
        target = _output_at(plain, plain.get_submodule(name), batch).to(call.output.device)
        if target.shape != call.output.shape:
            return RefitLayer(
                name, False, f"the plain layer gives {tuple(target.shape[1:])}, it {tuple(call.output.shape[1:])}"
            )
        where = output_positions(call.output, positions, generator)
        target = target.flatten(2)[:, :, where.to(target.device)]
        is_held_out = torch.arange(len(batch)) % _HELD_OUT_EVERY == 0
        for part, chosen in ((fit, ~is_held_out), (held_out, is_held_out)):
            for rows in rows_of(call, target, chosen.nonzero().flatten(), where, ones=biased):
                part.add(*rows)
    return _fitted(name, layer, fit, held_out, ridge, began)


def _fitted(
    name: str, layer: nn.Module, fit: ResidualFit, held_out: ResidualFit, ridge: float | None, began: float
) -> RefitLayer:
    """Correct a layer by what its rows say, unless that does not lower the error on those that are held out."""
    biased = layer.bias is not None
    if not torch.isfinite(torch.tensor([fit.residual_energy, fit.target_energy, held_out.residual_energy])).all():
        raise ValueError(f"the output of {name} is not finite: check the images and the model's weights")

    corrections = [fit.solve(value, free=int(biased)) for value in (_RIDGES if ridge is None else (ridge,))]
    errors = [held_out.relative_error(correction) for correction in corrections]
    before, after = held_out.relative_error(), min(errors)
    better = after < before
    if better:
        _correct(layer, corrections[errors.index(after)])
    reason = "" if better else "the refit does not lower the error on images that it did not see"
    return RefitLayer(name, better, reason, before, after, time.perf_counter() - began)


def _first_images(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """As many images as one pass holds, those of one size."""
    found: list[torch.Tensor] = []
    for batch in batches:
        if found and batch.shape[1:] != found[0].shape[1:]:
            break
        found.append(batch)
        if sum(map(len, found)) >= _ONE_PASS_IMAGES:
            break
    return torch.cat(found)[:_ONE_PASS_IMAGES]


def _refit_in_one_pass(
    model: nn.Module,
    plain: nn.Module,
    names: dict[str, str],
    images: torch.Tensor,
    ridge: float | None,
    positions: int,
    seed: int,
) -> tuple[RefitLayer, ...]:
    """Refit layers while the model runs once on all images: each, when its turn comes, before what follows it runs.

    Args:
        model: The converted network.
        plain: The plain one.
        names: The layers front to back, and the reason to leave one, if any.
        images: All of them are one batch.
        ridge: As of `refit_convolutions`.
        positions: Likewise.
        seed: Likewise.
    """
    generator = torch.Generator().manual_seed(seed)
    free = [name for name, reason in names.items() if not reason]
    targets = _targets(plain, free, images, positions, generator)
    layers = {id(model.get_submodule(name).weight): name for name in free}
    done: dict[str, RefitLayer] = {}

    def look(call: ConvCall) -> bool:
        name = layers.get(id(call.weight))
        if name is None:
            return False
        began = time.perf_counter()
        layer = model.get_submodule(name)
        fit, held_out = ResidualFit(), ResidualFit()
        for start, where, size, target in targets[name]:
            if size != call.output.shape[1:]:
                sizes = f"the plain layer gives {tuple(size)}, it {tuple(call.output.shape[1:])}"
                done[name] = RefitLayer(name, False, sizes)
                return False
            target = target.to(call.output.device)
            of_part = replace(call, input=call.input[start:], output=call.output[start:])
            is_held_out = torch.arange(start, start + len(target)) % _HELD_OUT_EVERY == 0
            for part, chosen in ((fit, ~is_held_out), (held_out, is_held_out)):
                for rows in rows_of(of_part, target, chosen.nonzero().flatten(), where, ones=layer.bias is not None):
                    part.add(*rows)
        done[name] = _fitted(name, layer, fit, held_out, ridge, began)
        return done[name].refitted

    with ConvCalls(look):
        model(images)
    return tuple(done.get(name) or RefitLayer(name, refitted=False, reason=reason) for name, reason in names.items())


def _targets(
    plain: nn.Module, names: list[str], images: torch.Tensor, positions: int, generator: torch.Generator
) -> dict[str, list[tuple[int, torch.Tensor, torch.Size, torch.Tensor]]]:
    """What layers of the plain network give at some positions.

    Returns:
        For each layer a list over parts of the images: number of the first image, positions (P,), size of an output
        (O, H, W), and the output there (B, O, P).
    """
    found: dict[str, list] = {name: [] for name in names}
    parameter = next(plain.parameters())
    with ExitStack() as watch:
        start = 0

        def look(name: str, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
            where = output_positions(output, positions, generator)
            at = output.flatten(2)[:, :, where.to(output.device)]
            found[name].append((start, where, output.shape[1:], at))

        for name in names:
            watch.enter_context(plain.get_submodule(name).register_forward_hook(partial(look, name)))
        for part in images.split(_PART):
            plain(part.to(parameter.device, parameter.dtype))
            start += len(part)
    return found


def _correct(layer: nn.Module, correction: torch.Tensor) -> None:
    """Add a correction (groups, inputs, outputs), its last input a bias if the layer has one."""
    weight: torch.Tensor = undeclared(layer).weight
    bias: torch.Tensor | None = undeclared(layer).bias
    added = correction[:, : weight[0].numel()].mT.reshape(weight.shape)
    weight.add_(added.to(weight))
    if bias is not None:
        bias.add_(correction[:, -1].flatten().to(bias))


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
