"""Alias-free versions of PyTorch's downsampling functions: the same arguments after the options, the same sizes.

Each gives what PyTorch's own gives where nothing is downsampled. Where an axis shrinks by no whole factor, as in
adaptive pools and interpolation, the cut is that of the next whole one, so that nothing aliases.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same_arg

from timm_asap.conversion.filtering import in_float, in_parts, opaque_to_fx, resample, resample_axes, unwatched
from timm_asap.conversion.geometry import Geometry, as_sizes
from timm_asap.ops.resample import is_channels_last, is_known
from timm_asap.ops.sliding_max import sliding_max2d

__all__ = [
    "CONV",
    "REPLACEMENTS",
    "Options",
    "Replacement",
    "alias_free",
    "dense_padding",
    "max_then_pool",
    "pool_alone",
    "stepped_axes",
]

Sizes = tuple[int, ...]

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LP = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}
_ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


class Options(NamedTuple):
    """What a conversion was asked for: names of window, boundary and layout, and whether upsampling is low-passed."""

    window: str
    boundary: str
    layout: str = "preserve"
    upsampling: bool = False


def _lowpass(x: torch.Tensor, stride: Sizes, options: Options) -> torch.Tensor:
    return resample(x, "lowpass", stride, options.window, options.boundary) if max(stride) > 1 else x


def check_size(name: str, size: Sizes, output: Sizes) -> None:
    """RuntimeError, as PyTorch's own pools raise, where a map is too small for a window."""
    if any(is_known(n < 1) for n in output):
        shown = "x".join(map(str, size))
        raise RuntimeError(f"{name}: a map of {shown} is too small: its output would have no sample")


def _grid(x: torch.Tensor, axes: int) -> Sizes:
    return tuple(x.shape[-axes:])


def _output_size(geometry: Geometry, size: Sizes) -> Sizes:
    return tuple(geometry.output_size(n, axis) for axis, n in enumerate(size))


def sliding_max(x: torch.Tensor, geometry: Geometry, padding: Sizes) -> torch.Tensor:
    """The maximum over every window of a pool's size, one sample apart."""
    if geometry.axes == 2:
        (height, width), (rows, columns), (down, right) = geometry.kernel_size, padding, geometry.dilation
        return sliding_max2d(x, (height, width), (rows, columns), (down, right))
    return _MAX[geometry.axes](x, geometry.kernel_size, 1, padding, geometry.dilation)


@opaque_to_fx
def max_then_pool(x: torch.Tensor, geometry: Geometry, options: Options) -> torch.Tensor:
    """The maximum over every window, then the pool: a maximum makes new high frequencies, so the pool comes last.

    Args:
        x: (B, C, *grid) or (C, *grid).
        geometry: Of the plain max-pool, whose size comes out.
        options: Window and boundary of the pool.
    """
    run = partial(_max_then_pool, geometry=geometry, options=options)
    return in_parts(partial(in_float, run), x, geometry.axes)


def _max_then_pool(x: torch.Tensor, geometry: Geometry, options: Options) -> torch.Tensor:
    size = _grid(x, geometry.axes)
    check_size("max-pool", size, _output_size(geometry, size))
    channels_last = is_channels_last(x)
    padding = (0,) * geometry.axes if geometry.same else geometry.padding
    if geometry.same or geometry.ceil_mode:
        x = F.pad(x, _extra_padding(geometry, size), value=-torch.inf)
    y = sliding_max(x, geometry, padding)
    y = resample(y, "pool", geometry.stride, options.window, options.boundary) if geometry.strides else y
    return y if channels_last else y.contiguous()


def _extra_padding(geometry: Geometry, size: Sizes) -> list[int]:
    """What 'same' padding or ceil mode adds to a layer's own, as `F.pad` takes it: (left, right, top, bottom)."""
    if geometry.same:
        return pad_same_arg(list(size), list(geometry.kernel_size), list(geometry.stride), list(geometry.dilation))
    extra: list[int] = []
    for axis, n in enumerate(size):
        last_window = (geometry.output_size(n, axis) - 1) * geometry.stride[axis]
        reach = last_window + geometry.extent[axis] - 2 * geometry.padding[axis]
        extra = [0, max(0, reach - n), *extra]
    return extra


@opaque_to_fx
def pool_alone(x: torch.Tensor, geometry: Geometry, options: Options) -> torch.Tensor:
    """The pool, without the last samples of an axis where the plain layer would not give them."""
    size = _grid(x, geometry.axes)
    output = _output_size(geometry, size)
    check_size("pool", size, output)
    x = resample(x, "pool", geometry.stride, options.window, options.boundary)
    for axis, n in enumerate(output):
        dim = axis - geometry.axes
        x = x if x.shape[dim] == n else x.narrow(dim, 0, n)
    return x


def dense_padding(geometry: Geometry) -> tuple[Sizes, Sizes]:
    """'Same' padding at stride 1, (extent - 1) // 2 before and extent // 2 after each axis."""
    return tuple((n - 1) // 2 for n in geometry.extent), tuple(n // 2 for n in geometry.extent)


def _convolution(
    axes: int,
    options: Options,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sizes = 1,
    padding: int | Sizes | str = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> torch.Tensor:
    stride = as_sizes(stride, axes)
    if max(stride) == 1:
        return CONV[axes](input, weight, bias, stride, padding, dilation, groups)
    if options.layout == "paper":
        sizes = (0,) * axes if isinstance(padding, str) else as_sizes(padding, axes)
        geometry = Geometry(tuple(weight.shape[2:]), stride, sizes, as_sizes(dilation, axes))
        if geometry.fits_pool():
            before, after = dense_padding(geometry)
            around = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
            x = F.pad(pool_alone(input, geometry, options), around)
            return CONV[axes](x, weight, bias, 1, 0, dilation, groups)
    return CONV[axes](_lowpass(input, stride, options), weight, bias, stride, padding, dilation, groups)


def _max_pool(
    axes: int,
    options: Options,
    input: torch.Tensor,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    kernel_size = as_sizes(kernel_size, axes)
    # An empty tuple is what TorchScript passes for no stride.
    stride = kernel_size if stride is None or stride == () else as_sizes(stride, axes)
    geometry = Geometry(kernel_size, stride, as_sizes(padding, axes), as_sizes(dilation, axes), ceil_mode)
    plain = partial(_MAX[axes], input, kernel_size, stride, padding, dilation, ceil_mode)
    if not geometry.strides:
        return plain(return_indices=return_indices)
    if options.layout == "paper" and geometry.fits_pool():
        y = pool_alone(input, geometry, options)
    else:
        y = max_then_pool(input, geometry, options)
    return (y, _indices(plain)) if return_indices else y


def _indices(plain: Callable) -> torch.Tensor:
    """Where the plain pool's maxima lie: its values are not used, so that nothing is sampled by it."""
    with unwatched():
        return plain(return_indices=True)[1]


def _max_pool_with_indices(axes: int, options: Options, *args: Any, **kwargs: Any) -> Any:
    kwargs.pop("return_indices", None)
    return _max_pool(axes, options, *args[:6], **kwargs, return_indices=True)


def _avg_pool(
    axes: int,
    options: Options,
    input: torch.Tensor,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    kernel_size = as_sizes(kernel_size, axes)
    stride = kernel_size if stride is None or stride == () else as_sizes(stride, axes)
    geometry = Geometry(kernel_size, stride, as_sizes(padding, axes), ceil_mode=ceil_mode)
    if options.layout == "paper" and geometry.strides and geometry.fits_pool():
        return pool_alone(input, geometry, options)
    x = _lowpass(input, stride, options)
    return _AVG[axes](x, kernel_size, stride, padding, ceil_mode, count_include_pad, *args, **kwargs)


def _lp_pool(
    axes: int,
    options: Options,
    input: torch.Tensor,
    norm_type: float,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    kernel_size = as_sizes(kernel_size, axes)
    stride = kernel_size if stride is None else as_sizes(stride, axes)
    if max(stride) == 1:
        return _LP[axes](input, norm_type, kernel_size, stride, ceil_mode)
    # The power makes new high frequencies, so the low-pass comes after it; where that rings below 0, no root exists.
    power = _lowpass(input.pow(norm_type), stride, options)
    mean = _AVG[axes](power, kernel_size, stride, 0, ceil_mode)
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).mul(math.prod(kernel_size)).pow(1.0 / norm_type)


def shrinking(size: Sizes, output: Sizes) -> Sizes:
    """The next whole factor by which each axis shrinks; 1 where it grows or stays."""
    return tuple(-(-n // out) if n > out else 1 for n, out in zip(size, output, strict=True))


def _sampling(size: Sizes, output: Sizes) -> Sizes:
    """As `shrinking`, but 1 where one sample is left: a mean or maximum over everything samples nothing."""
    return tuple(s if out > 1 else 1 for s, out in zip(shrinking(size, output), output, strict=True))


def _adaptive_output(output_size: Any, size: Sizes) -> Sizes:
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * len(size)
    return tuple(n if out is None else int(out) for n, out in zip(size, wanted, strict=True))


def _adaptive_avg_pool(axes: int, options: Options, input: torch.Tensor, output_size: Any) -> torch.Tensor:
    size = _grid(input, axes)
    output = _adaptive_output(output_size, size)
    input = _lowpass(input, _sampling(size, output), options)
    return _ADAPTIVE_AVG[axes](input, output_size)


def _adaptive_max_pool(
    axes: int, options: Options, input: torch.Tensor, output_size: Any, return_indices: bool = False
) -> Any:
    size = _grid(input, axes)
    output = _adaptive_output(output_size, size)
    stride = _sampling(size, output)
    plain = partial(_ADAPTIVE_MAX[axes], input, output_size)
    if max(stride) == 1:
        return plain(return_indices=return_indices)
    windows = shrinking(size, output)
    y = _lowpass(sliding_max(input, Geometry(windows, windows), (0,) * axes), stride, options)
    for axis, (n, out) in enumerate(zip(size, output, strict=True)):
        if n > out:  # the first sample of every window
            first = torch.arange(out, device=y.device) * n // out
            with unwatched():  # axis by axis: only the first samples what the low-pass gave
                y = y.index_select(axis - axes, first)
    return (y, _indices(plain)) if return_indices else y


def _adaptive_max_pool_with_indices(axes: int, options: Options, input: torch.Tensor, output_size: Any, *_: Any) -> Any:
    return _adaptive_max_pool(axes, options, input, output_size, return_indices=True)


def _fractional_max_pool(axes: int, options: Options, plain: Callable, input: torch.Tensor, **kwargs: Any) -> Any:
    kernel = as_sizes(kwargs["kernel_size"], axes)
    samples = kwargs.pop("_random_samples", None)
    if samples is None:
        samples = torch.rand((*input.shape[:-axes], axes), dtype=input.dtype, device=input.device)
        samples = samples.unsqueeze(0) if input.ndim == axes + 1 else samples
    want_indices = kwargs.pop("return_indices", False)
    size = _grid(input, axes)
    # The random windows of every channel, read off a map that rises along memory: a maximum is the last of its window.
    rising = torch.arange(math.prod(size), dtype=torch.float64, device=input.device).view(size).expand_as(input)
    last = _indices(partial(plain, rising, **kwargs, _random_samples=samples.double()))
    dense = sliding_max(input, Geometry(kernel, kernel), (0,) * axes)
    output = tuple(last.shape[-axes:])
    y = _lowpass(dense, shrinking(size, output), options)
    index, step, rest = torch.zeros_like(last), 1, last
    for axis in reversed(range(axes)):
        first = rest % size[axis] - (kernel[axis] - 1)
        rest = rest // size[axis]
        index, step = index + first * step, step * y.shape[axis - axes]
    y = y.flatten(-axes).gather(-1, index.flatten(-axes)).unflatten(-1, output)
    if not want_indices:
        return y
    return y, _indices(partial(plain, input, **kwargs, _random_samples=samples))


def _fractional_max_pool2d(options: Options, input: torch.Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    return _fractional(2, options, F.fractional_max_pool2d, input, kernel_size, args, kwargs)


def _fractional_max_pool3d(options: Options, input: torch.Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    return _fractional(3, options, F.fractional_max_pool3d, input, kernel_size, args, kwargs)


def _fractional(axes: int, options: Options, plain: Callable, x: torch.Tensor, kernel_size: Any, args, kwargs) -> Any:
    names = ("output_size", "output_ratio", "return_indices", "_random_samples")
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs, "kernel_size": kernel_size}
    return _fractional_max_pool(axes, options, plain, x, **kwargs)


def _interpolate(
    options: Options,
    input: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    if not antialias:  # which is a low-pass of PyTorch's own
        grid = _grid(input, input.ndim - 2)
        input = _lowpass(input, shrinking(grid, interpolated_size(grid, size, scale_factor)), options)
    y = F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return _without_images(y, _grid(input, input.ndim - 2), options)


def _without_images(y: torch.Tensor, size: Sizes, options: Options) -> torch.Tensor:
    """An upsampled map without what lies above the Nyquist frequency of the grid it had, where the factor is whole."""
    if not options.upsampling:
        return y
    factors = tuple(out // n if out % n == 0 else 1 for n, out in zip(size, _grid(y, len(size)), strict=True))
    return _lowpass(y, factors, options)


def _conv_transpose(
    axes: int,
    options: Options,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sizes = 1,
    padding: int | Sizes = 0,
    output_padding: int | Sizes = 0,
    groups: int = 1,
    dilation: int | Sizes = 1,
) -> torch.Tensor:
    y = _CONV_TRANSPOSE[axes](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _lowpass(y, as_sizes(stride, axes), options) if options.upsampling else y


def _pixel_shuffle(options: Options, input: torch.Tensor, upscale_factor: int) -> torch.Tensor:
    y = F.pixel_shuffle(input, upscale_factor)
    return _lowpass(y, (upscale_factor,) * 2, options) if options.upsampling else y


def interpolated_size(grid: Sizes, size: Any, scale_factor: Any) -> Sizes:
    """The output size of `F.interpolate`."""
    if size is not None:
        return _adaptive_output(size, grid)
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * len(grid)
    return tuple(math.floor(n * factor) for n, factor in zip(grid, factors, strict=True))


def _pixel_unshuffle(options: Options, input: torch.Tensor, downscale_factor: int) -> torch.Tensor:
    return F.pixel_unshuffle(_lowpass(input, (downscale_factor,) * 2, options), downscale_factor)


def _unfold(
    options: Options,
    input: torch.Tensor,
    kernel_size: int | Sizes,
    dilation: int | Sizes = 1,
    padding: int | Sizes = 0,
    stride: int | Sizes = 1,
) -> torch.Tensor:
    return F.unfold(_lowpass(input, as_sizes(stride, 2), options), kernel_size, dilation, padding, stride)


def stepped_axes(steps: list[int], ndim: int) -> tuple[Sizes, Sizes]:
    """Which axes of a tensor a strided slice downsamples, and by how much.

    A slice steps over the grid of a map where it steps along two or three neighboring axes, the first of the tensor
    aside. A single axis is taken for the grid's only where it is neither among the first two, which are the batch and
    the channels, nor the last, along which rotary embeddings and interleaved channels are split.

    Args:
        steps: The step of every axis.
        ndim: Number of axes.

    Returns:
        Axes and strides; both empty where the slice does not downsample a map.
    """
    axes = tuple(axis for axis in range(ndim) if abs(steps[axis]) > 1)
    neighbors = len(axes) in (2, 3) and axes[-1] - axes[0] == len(axes) - 1 and axes[0] > 0
    single = len(axes) == 1 and 2 <= axes[0] < ndim - 1
    return (axes, tuple(abs(steps[axis]) for axis in axes)) if neighbors or single else ((), ())


@opaque_to_fx
def getitem(window: str, boundary: str, layout: str, upsampling: bool, x: Any, key: Any) -> Any:
    """`x[key]`, low-passed first along the axes of a map that the key steps over."""
    if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
        return x[key]
    steps, parts = [], list(key) if isinstance(key, tuple) else [key]
    if all(part is Ellipsis or isinstance(part, slice) for part in parts):
        missing = x.ndim - sum(part is not Ellipsis for part in parts)
        for part in parts:
            steps += [1] * missing if part is Ellipsis else [part.step or 1]
        steps += [1] * (x.ndim - len(steps))
        axes, stride = stepped_axes(steps, x.ndim)
        if axes:
            x = resample_axes(x, "lowpass", axes, stride, window, boundary)
    return x[key]


class Replacement(NamedTuple):
    """An alias-free function in place of one of PyTorch's.

    Attributes:
        name: What the plain one is called in reports.
        function: Called with `Options` and the plain one's arguments.
        arguments: Names of the plain one's arguments, in order.
        kind: What decides whether a call downsamples: "stride", "kernel" (where no stride is given), "factor",
            "output" or "scale".
        becomes: What a report says.
        direction: "down", "up" or, where a call may be either, "both".
    """

    name: str
    function: Callable
    arguments: tuple[str, ...]
    kind: str
    becomes: str
    direction: str = "down"


_LOWPASSED = "low-pass, then the call"
_THEN_LOWPASSED = "the call, then low-pass"


def _replacements() -> dict[Callable, Replacement]:
    table: dict[Callable, Replacement] = {}

    def add(
        plain: list[Callable | None],
        name: str,
        function: Callable,
        kind: str,
        becomes: str = _LOWPASSED,
        direction: str = "down",
    ) -> None:
        target = function.func if isinstance(function, partial) else function
        names = tuple(inspect.signature(target).parameters)
        names = names[names.index("input") :] if "input" in names else names
        for one in plain:
            if one is not None:
                table[one] = Replacement(name, function, names, kind, becomes, direction)

    maximum = "max at stride 1, then pool"
    for n in (1, 2, 3):
        torchs = partial(getattr, torch)
        add([CONV[n], torchs(f"conv{n}d", None)], f"F.conv{n}d", partial(_convolution, n), "stride")
        plain = [_CONV_TRANSPOSE[n], torchs(f"conv_transpose{n}d", None)]
        add(plain, f"F.conv_transpose{n}d", partial(_conv_transpose, n), "stride", _THEN_LOWPASSED, "up")
        plain = [_MAX[n], getattr(F, f"_max_pool{n}d", None), torchs(f"max_pool{n}d", None)]
        add(plain, f"F.max_pool{n}d", partial(_max_pool, n), "kernel", maximum)
        with_indices = partial(_max_pool_with_indices, n)
        add([getattr(F, f"max_pool{n}d_with_indices")], f"F.max_pool{n}d_with_indices", with_indices, "kernel", maximum)
        add([_AVG[n], torchs(f"avg_pool{n}d", None)], f"F.avg_pool{n}d", partial(_avg_pool, n), "kernel")
        add([_LP[n]], f"F.lp_pool{n}d", partial(_lp_pool, n), "kernel")
        plain = [_ADAPTIVE_AVG[n], torchs(f"adaptive_avg_pool{n}d", None)]
        add(plain, f"F.adaptive_avg_pool{n}d", partial(_adaptive_avg_pool, n), "output")
        plain = [_ADAPTIVE_MAX[n], getattr(F, f"_adaptive_max_pool{n}d", None)]
        add(plain, f"F.adaptive_max_pool{n}d", partial(_adaptive_max_pool, n), "output", maximum)
        plain = [getattr(F, f"adaptive_max_pool{n}d_with_indices")]
        name = f"F.adaptive_max_pool{n}d_with_indices"
        add(plain, name, partial(_adaptive_max_pool_with_indices, n), "output", maximum)
    add([F.fractional_max_pool2d], "F.fractional_max_pool2d", _fractional_max_pool2d, "output", maximum)
    add([F.fractional_max_pool3d], "F.fractional_max_pool3d", _fractional_max_pool3d, "output", maximum)
    add([F.interpolate, F.upsample], "F.interpolate", _interpolate, "scale", direction="both")
    add([F.pixel_unshuffle, torch.pixel_unshuffle], "F.pixel_unshuffle", _pixel_unshuffle, "factor")
    add([F.unfold], "F.unfold", _unfold, "stride")
    add([F.pixel_shuffle, torch.pixel_shuffle], "F.pixel_shuffle", _pixel_shuffle, "factor", _THEN_LOWPASSED, "up")
    return table


#: The alias-free version of every function of PyTorch that can downsample, by the function itself.
REPLACEMENTS: dict[Callable, Replacement] = _replacements()

_BY_NAME = {replacement.name: replacement for replacement in REPLACEMENTS.values()}


@opaque_to_fx
def alias_free(name: str, window: str, boundary: str, layout: str, upsampling: bool, *args: Any, **kwargs: Any) -> Any:
    """Call the alias-free version of one of PyTorch's functions.

    Args:
        name: Of the plain function, as reports call it: `"F.max_pool2d"`.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        layout: `"preserve"` or `"paper"`.
        upsampling: Whether what makes a grid finer is low-passed too.
        *args: The plain function's arguments.
        **kwargs: Likewise, by name.
    """
    return _BY_NAME[name].function(Options(window, boundary, layout, upsampling), *args, **kwargs)
