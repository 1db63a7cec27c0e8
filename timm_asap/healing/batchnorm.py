"""Moves the statistics of BatchNorm layers by what conversion changed, or re-estimates them from images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batchnorm_layers", "measuring", "move_batchnorm", "reestimate_batchnorm"]


def batchnorm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name; those that timm has frozen keep theirs."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


@contextmanager
def measuring(model: nn.Module, by_batch: bool) -> Iterator[None]:
    """Run a model in evaluation mode, without gradients or autocast, and leave every flag as it was found.

    Args:
        model: The model.
        by_batch: Its BatchNorm layers normalize each batch by itself, as in training, and update nothing: what
            follows them does not depend on statistics that are still to be estimated.
    """
    layers = batchnorm_layers(model) if by_batch else {}
    trained = {module: module.training for module in model.modules()}
    tracked = {layer: layer.track_running_stats for layer in layers.values()}
    device = next(model.parameters()).device
    try:
        model.eval()
        for layer in layers.values():
            layer.training, layer.track_running_stats = True, False
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in trained.items():
            module.training = training
        for layer, track in tracked.items():
            layer.track_running_stats = track


class _Moments:
    """Mean and scatter of each channel over everything added, merged in float64 (Chan, Golub & LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.scatter = torch.zeros((), dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        x = x if x.dtype == torch.float64 else x.float()
        dims = [axis for axis in range(x.ndim) if axis != 1]
        # Off the device first: not every accelerator has float64.
        variance, mean = (part.cpu().double() for part in torch.var_mean(x, dims, correction=0))
        count = x.numel() // x.shape[1]
        total = self.count + count
        shift = mean - self.mean
        self.scatter = self.scatter + count * variance + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """The unbiased one, which PyTorch keeps."""
        return self.scatter / (self.count - 1)


def reestimate_batchnorm(model: nn.Module, batches: Iterable[torch.Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Replace the running mean and variance of every BatchNorm layer by those of its input over all images.

    One pass. Each layer's input is what the layers before it give when each batch is normalized by itself, as in
    training; over the batches, mean and variance are pooled by their number of samples, so neither their order nor
    their sizes weigh in. Train and evaluation modes, momentum and the counters of batches stay as they are; nothing
    is written unless the whole pass succeeds.

    Args:
        model: Any network.
        batches: Images (B, C, H, W) with B of 2 or more.

    Returns:
        Names of the layers that were re-estimated, and of those that no image reached.

    Raises:
        ValueError: If a statistic is not finite.
    """
    layers = batchnorm_layers(model)
    moments = {name: _Moments() for name in layers}
    with measuring(model, by_batch=True), ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(partial(_look, moments[name])))
        for batch in batches:
            model(batch)
    reached = {name: m for name, m in moments.items() if m.count > 0}
    for name, found in reached.items():
        if not (found.mean.isfinite().all() and found.scatter.isfinite().all()):
            raise ValueError(f"the input of {name} is not finite: check the images and the model's weights")
    with torch.no_grad():
        for name, found in reached.items():
            _write(layers[name], (found.mean, found.variance))
    return tuple(reached), tuple(name for name in layers if name not in reached)


def move_batchnorm(
    model: nn.Module, plain: nn.Module, batches: Iterable[torch.Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Set the statistics of BatchNorm layers to the plain network's, moved by what conversion changed.

    On the same images, the input of a layer has mean `m` and variance `v` in the plain network, and `m'` and `v'` in
    the converted one. With the plain layer's statistics `M` and `V`, the new ones are

        M + sqrt(V) (m' - m) / sqrt(v),        V v' / v

    so that images of another distribution than the training images move them only as far as conversion does. One
    pass: while it runs, each layer normalizes with statistics that are moved by the batch it gets, so that what
    follows it is repaired already. Over the batches, means and variances are pooled.

    Args:
        model: The converted network.
        plain: The plain one, with the same layer names.
        batches: Images (B, C, H, W) with B of 2 or more.

    Returns:
        Names of the layers that were moved, and of those that no image reached in one of the two networks.

    Raises:
        ValueError: If a statistic is not finite; the layers are then as they were.
    """
    layers, plain_layers = batchnorm_layers(model), batchnorm_layers(plain)
    layers = {name: layer for name, layer in layers.items() if name in plain_layers}
    before = {name: _copied(_statistics(layer)) for name, layer in layers.items()}
    base = {name: _statistics(plain_layers[name]) for name in layers}
    moments, plain_moments = ({name: _Moments() for name in layers} for _ in range(2))
    of_batch: dict[str, _Moments] = {}
    parameter = next(plain.parameters())

    def look_at_plain(name: str, _: nn.Module, args: tuple) -> None:
        of_batch.setdefault(name, _Moments()).add(args[0])
        plain_moments[name].add(args[0])

    def move(name: str, _: nn.Module, args: tuple) -> None:
        moments[name].add(args[0])
        if name in of_batch:
            found = _Moments()
            found.add(args[0])
            _write(layers[name], _moved(base[name], found, of_batch[name], layers[name].eps))

    new: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    done = False
    try:
        with measuring(model, by_batch=False), measuring(plain, by_batch=False), ExitStack() as hooks:
            for name, layer in layers.items():
                looks = ((plain_layers[name], look_at_plain), (layer, move))
                for at, look in looks:
                    hooks.enter_context(at.register_forward_pre_hook(partial(look, name)))
            for batch in batches:
                of_batch.clear()
                plain(batch.to(parameter.device, parameter.dtype))
                model(batch)
        reached = [name for name in layers if moments[name].count > 1 and plain_moments[name].count > 1]
        new = {name: _moved(base[name], moments[name], plain_moments[name], layers[name].eps) for name in reached}
        for name, (mean, variance) in new.items():
            if not (mean.isfinite().all() and variance.isfinite().all()):
                raise ValueError(f"the input of {name} is not finite: check the images and the model's weights")
        done = True
    finally:
        for name, layer in layers.items():
            _write(layer, new[name] if done and name in new else before[name])
    return tuple(reached), tuple(name for name in batchnorm_layers(model) if name not in new)


def _moved(
    base: tuple[torch.Tensor, torch.Tensor], found: _Moments, plain: _Moments, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance, float64 on the CPU, moved by the change from `plain` to `found`."""
    mean, variance = (value.detach().cpu().double() for value in base)
    # a channel without variance has no scale to move on: `eps`, which the layer adds anyway, keeps the ratio at one
    plain_variance, new_variance = plain.variance + eps, found.variance + eps
    shift = (found.mean - plain.mean) * (variance / plain_variance).sqrt()
    return mean + shift, variance * new_variance / plain_variance


def _look(moments: _Moments, _: nn.Module, args: tuple) -> None:
    moments.add(args[0])


def _statistics(layer: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The running mean and variance of a layer of `batchnorm_layers`, themselves."""
    if layer.running_mean is None or layer.running_var is None:
        raise TypeError(f"{type(layer).__name__}: expected a layer that keeps running statistics")
    return layer.running_mean, layer.running_var


def _copied(statistics: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return statistics[0].clone(), statistics[1].clone()


def _write(layer: _BatchNorm, statistics: tuple[torch.Tensor, torch.Tensor]) -> None:
    with torch.no_grad():
        for own, new in zip(_statistics(layer), statistics, strict=True):
            own.copy_(new)
