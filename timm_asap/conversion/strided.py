"""The strided layers of a network with the operator attached.

A converted layer keeps its identity: the same object, parameters, hooks and, but for one subclass, the same class.
Its class becomes a subclass made here of a mixin below and the class it had, so `isinstance` still holds, the
state dict is untouched, and a root module or a shared one is converted where it stands.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import MethodType
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import torch
import torch.nn.functional as F
from timm.layers import AvgPool2dSame, BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from timm_asap._types import undeclared
from timm_asap.conversion.filtering import in_parts, resample, unwatched
from timm_asap.conversion.functional import CONV, Options, dense_padding, max_then_pool, pool_alone
from timm_asap.conversion.fusing import register_fusion
from timm_asap.conversion.geometry import AVG_POOLS, CONVOLUTIONS, MAX_POOLS, Geometry, geometry_of, upsampling_geometry
from timm_asap.ops.layers import not_traced

__all__ = [
    "AsapLayer",
    "AsapSpec",
    "LowPassed",
    "LowPassedAfter",
    "PoolTransposed",
    "attach",
    "detach",
    "input_of",
    "is_converted",
    "keeps_sizes",
    "mixin_for",
    "plain_class",
    "uses_own_forward",
]


if TYPE_CHECKING:
    from typing_extensions import TypeIs


@dataclass(frozen=True)
class AsapSpec:
    """How a converted layer downsamples.

    Attributes:
        geometry: Geometry of the layer before conversion.
        window: Window name.
        boundary: Boundary name.
        layout: `"preserve"` or `"paper"`.
        upsampling: Whether calls in the module's code that make a grid finer are low-passed too.
    """

    geometry: Geometry
    window: str
    boundary: str
    layout: str
    upsampling: bool = False

    @property
    def options(self) -> Options:
        """All but the geometry."""
        return Options(self.window, self.boundary, self.layout, self.upsampling)


if TYPE_CHECKING:
    _Module = nn.Module  # of which every class is that has one of the mixins
else:
    _Module = object

#: Attributes from which `geometry_of` reads; assigning one reads the layer again.
_GEOMETRY = {"kernel_size", "stride", "padding", "dilation", "ceil_mode", "downscale_factor"}


@not_traced
class AsapLayer(_Module):
    """Base of the mixins: the specification, pickling and the representation.

    Their `forward` calls on to the class they were mixed into. Never instantiated by itself.
    """

    asap: AsapSpec
    #: What the layer has become, in words, for reports.
    becomes: str
    #: Whether it runs the pool, or else the low-pass.
    pools = True
    #: A `forward` that was set on the layer itself before conversion, which the low-pass goes before.
    asap_replaced_forward: Callable | None = None

    # Of the classes made by `_class_of`.
    asap_mixin: type[AsapLayer]
    asap_plain: type[nn.Module]
    asap_options: Options
    asap_input: str

    #: Of the paper's layout: what is padded around the pool, as `F.pad` takes it.
    asap_pad: tuple[int, ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Of the class of a converted layer, as adapters build their branches: `type(layer)(3, 8, 3, stride=2)`.
        # What is built strides as alias-free as the layer whose class was taken.
        made = type(self)
        if made.asap_options.layout == "paper":
            raise TypeError(
                f"{made.__name__} cannot be built anew: a layer of the layout 'paper' runs at stride 1 and would hand "
                "on no stride; convert with layout='preserve', or attach the adapter before converting"
            )
        super().__init__(*args, **kwargs)
        undeclared(self).__class__ = made.asap_plain
        geometry, mixin = geometry_of(self), made.asap_mixin
        if mixin in _OF_GEOMETRY:
            if geometry is None or not geometry.strides:
                return
            mixin = mixin_for(self, geometry, "preserve")
        attach(self, AsapSpec(geometry or Geometry((1, 1), (1, 1)), *made.asap_options), mixin)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "qconfig" and value is not None:
            raise TypeError(
                f"{type(self).__name__}: eager-mode quantization swaps layers by their exact class, and would lose the "
                "alias-free filter; export the converted network first and quantize the exported program"
            )
        own = self.__dict__
        if name not in _GEOMETRY or "asap" not in own or "_parameters" not in own:  # the last: it is being unpickled
            super().__setattr__(name, value)  # pyright: ignore[reportArgumentType]  # PyTorch takes any value
            return
        # A stride that is changed after conversion, as re-identification networks do to their last stage.
        mixin, spec = self.asap_mixin, detach(self)
        setattr(self, name, value)
        geometry = upsampling_geometry(self) if mixin is LowPassedAfter else geometry_of(self)
        if geometry is not None and mixin in _OF_GEOMETRY:
            # at stride 1 the paper's layout would be the pool of nothing in place of the layer
            in_paper = geometry.strides and geometry.fits_pool()
            mixin = mixin_for(self, geometry, spec.layout if in_paper else "preserve")
        attach(self, replace(spec, geometry=geometry or spec.geometry), mixin)

    @classmethod
    def methods(cls, plain: type[nn.Module], options: Options) -> dict[str, Any]:
        """Methods that the class made of this mixin and a plain class has besides."""
        return {}

    def _attached(self) -> None:
        """What is changed on the layer itself, after it became of this class."""

    def _detaching(self) -> None:
        """The opposite of `_attached`."""

    def _lowpass(self, x: torch.Tensor) -> torch.Tensor:
        return resample(x, "lowpass", self.asap.geometry.stride, self.asap.window, self.asap.boundary)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return resample(x, "pool", self.asap.geometry.stride, self.asap.window, self.asap.boundary)

    def _plain_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer did before conversion."""
        if self.asap_replaced_forward is not None:
            return self.asap_replaced_forward(*args, **kwargs)
        return super().forward(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # What was converted travels in the metadata of a state dict, which holds no key for it.
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            entry = {"becomes": self.asap_mixin.__name__, **self.asap.options._asdict()}
            destination._metadata.setdefault(prefix[:-1], {})["asap"] = entry

    def extra_repr(self) -> str:
        """The plain layer's, and the operator attached to it."""
        plain = super().extra_repr()
        return f"{plain}{', ' if plain else ''}asap={self.asap.layout}/{self.asap.window}/{self.asap.boundary}"

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # The class is made at run time and has no importable name: name what it is made of instead.
        reduced = super().__reduce_ex__(2)
        _, (cls,), *rest = cast("tuple[Any, ...]", reduced)  # a string would be a global name
        if "asap_plain" not in vars(cls):  # a class that another library made of ours
            return super().__reduce_ex__(protocol)
        # A state that the class makes by itself, as PyTorch's int8 layers do, knows nothing of our attributes.
        own = (
            {} if rest and isinstance(rest[0], dict) else {n: v for n, v in vars(self).items() if n.startswith("asap")}
        )
        return (_blank_layer, (cls.asap_mixin, cls.asap_plain, tuple(cls.asap_options), own), *rest)

    def _deepcopy(self, memo: dict[int, Any]) -> nn.Module:
        # Of classes that copy themselves, such as PyTorch's int8 layers: they know nothing of our attributes.
        copied = undeclared(self.asap_plain).__deepcopy__(self, memo)
        vars(copied).update((name, value) for name, value in vars(self).items() if name.startswith("asap"))
        return copied

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError(
            f"TorchScript cannot compile {type(self).__name__}, an alias-free layer; use torch.export or torch.onnx, "
            "or torch.jit.trace at one image size"
        )


def _with_input(layer: AsapLayer, change: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call the plain layer with its input changed, which may come as a keyword."""
    if args:
        return layer._plain_forward(change(args[0]), *args[1:], **kwargs)
    return layer._plain_forward(**{**kwargs, layer.asap_input: change(kwargs[layer.asap_input])})


def input_of(layer: AsapLayer, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """The map that a layer was called with, by position or by name."""
    return args[0] if args else kwargs[layer.asap_input]


class LowPassed(AsapLayer):
    """Low-pass, then the layer untouched."""

    becomes = "low-pass, then the layer"
    pools = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Low-pass the input, then run the plain layer on it."""
        if len(args) == 1 and not kwargs and self._is_arithmetic():
            return in_parts(lambda x: self._plain_forward(self._lowpass(x)), args[0], self.asap.geometry.axes)
        return _with_input(self, self._lowpass, args, kwargs)

    def _is_arithmetic(self) -> bool:
        """Whether the plain layer can be called for each image alone: no parametrization changes between the calls."""
        is_plain = self.asap_plain in _IMAGE_BY_IMAGE and self.asap_replaced_forward is None
        return is_plain and "parametrizations" not in self._modules and "_conv_forward" not in vars(self)


#: Layers that treat every image of a batch by itself.
_IMAGE_BY_IMAGE = (*CONVOLUTIONS.values(), *AVG_POOLS.values(), Conv2dSame, AvgPool2dSame, BlurPool2d)


class PooledPointwise(AsapLayer):
    """A 1 x 1 convolution on the pool: what low-pass and strided convolution give, computed at the output's size."""

    becomes = "pool, then the 1x1 convolution"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool the input, then run the convolution on every sample."""
        layer = undeclared(self)
        return CONV[self.asap.geometry.axes](self._pool(input), layer.weight, layer.bias, groups=layer.groups)


class MaxThenPool(AsapLayer):
    """The maximum over every window, then the pool: a maximum makes new high frequencies, so the pool comes last.

    With `return_indices` the indices are the plain layer's: where in the input each of its maxima lies, as
    `nn.MaxUnpool2d` takes them.
    """

    becomes = "max at stride 1, then pool"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Slide the maximum by one sample, then pool to the plain layer's size."""
        x = input_of(self, args, kwargs)
        return _with_indices(self, x, max_then_pool(x, self.asap.geometry, self.asap.options))


def _with_indices(layer: AsapLayer, x: torch.Tensor, y: torch.Tensor) -> Any:
    if not getattr(layer, "return_indices", False):
        return y
    with unwatched():
        return y, layer._plain_forward(x)[1]


class PoolThenConv(AsapLayer):
    """The paper's layout: pool, then the convolution at stride 1 with 'same' padding."""

    becomes = "pool, then the layer at stride 1"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pool the input, then run the plain layer, whose stride is now 1, on it."""
        return _with_input(self, self._padded_pool, args, kwargs)

    def _padded_pool(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(pool_alone(x, self.asap.geometry, self.asap.options), self.asap_pad)


class PoolAlone(AsapLayer):
    """The paper's layout for pools: the pool in place of the layer."""

    becomes = "pool"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pool the input to the plain layer's size."""
        x = input_of(self, args, kwargs)
        return _with_indices(self, x, pool_alone(x, self.asap.geometry, self.asap.options))


class LowPassedAfter(AsapLayer):
    """An upsampling layer, then the low-pass: what lies above the Nyquist frequency of its input is an image of it."""

    becomes = "the layer, then low-pass"
    pools = False

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the plain layer, then remove the images of its input's spectrum."""
        y = self._plain_forward(*args, **kwargs)
        return resample(y, "lowpass", _factors(self, y), self.asap.window, self.asap.boundary)


class PoolTransposed(AsapLayer):
    """The paper's layout for interpolation: the transpose of the pool in place of the layer."""

    becomes = "the transpose of the pool"
    pools = False

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Enlarge by the pool's transpose."""
        x = input_of(self, args, kwargs)
        return resample(x, "upsample", _factors(self, x), self.asap.window, self.asap.boundary)


def _factors(layer: AsapLayer, x: torch.Tensor) -> tuple[int, ...]:
    """The factor per axis: that of `nn.Upsample` may be one number for as many axes as its map has."""
    factors = layer.asap.geometry.stride
    single = isinstance(layer, nn.Upsample) and not isinstance(layer.scale_factor, tuple)
    return factors[:1] * (x.ndim - 2) if single else factors


#: Mixins that follow from a layer's geometry alone.
_OF_GEOMETRY = (LowPassed, PooledPointwise, MaxThenPool, PoolThenConv, PoolAlone)


@cache
def _class_of(mixin: type[AsapLayer], plain: type[nn.Module], options: Options) -> type[AsapLayer]:
    """The class of a converted layer, of a mixin and the class that the layer had."""
    names: dict[str, Any] = {
        # Tracers tell by the module of a class whether it is one of PyTorch's layers, which they do not look into.
        "__module__": plain.__module__,
        "__doc__": mixin.__doc__,
        "asap_mixin": mixin,
        "asap_plain": plain,
        "asap_options": options,
        "asap_input": _first_parameter(plain),
    }
    names.update(mixin.methods(plain, options))
    if hasattr(plain, "__deepcopy__"):
        names["__deepcopy__"] = AsapLayer._deepcopy
    if getattr(plain, "cls_to_become", None) is not None:  # a lazy layer, and what the first batch makes of it
        names["cls_to_become"] = _class_of(mixin, undeclared(plain).cls_to_become, options)
    made: type[AsapLayer] = type(f"Asap{plain.__name__}", (mixin, plain), names)
    register_fusion(made, plain)
    return made


def _first_parameter(plain: type[nn.Module]) -> str:
    parameters = list(inspect.signature(plain.forward).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return named[0] if named else "input"


def _blank_layer(
    mixin: type[AsapLayer],
    plain: type[nn.Module],
    options: tuple = ("asap", "circular"),
    own: dict[str, Any] | None = None,
) -> nn.Module:
    """An empty instance of the class made of both, for pickling and copying to fill."""
    cls = _class_of(mixin, plain, Options(*options))
    layer = cls.__new__(cls)
    vars(layer).update(own or {})
    return layer


def is_converted(layer: nn.Module) -> TypeIs[AsapLayer]:
    """Whether a layer has the operator attached already."""
    return isinstance(layer, AsapLayer)


def _made_class(layer: nn.Module) -> type[AsapLayer]:
    """The class of a converted layer that `_class_of` made: its own, or one that a parametrization was built on."""
    return next(cls for cls in type(layer).__mro__ if issubclass(cls, AsapLayer) and "asap_plain" in vars(cls))


def _base_class(layer: nn.Module) -> type[nn.Module]:
    """A layer's class, without the one that `torch.nn.utils.parametrize` puts on top."""
    cls = type(layer)
    return cls.__bases__[0] if "parametrizations" in layer._modules and cls.__name__.startswith("Parametrized") else cls


def plain_class(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer before conversion and parametrization."""
    return _made_class(layer).asap_plain if is_converted(layer) else _base_class(layer)


def _rebase(cls: type, old: type, new: type) -> type:
    """A class as `cls`, with `new` in place of the base `old`."""
    if cls is old:
        return new
    if old not in cls.__mro__:
        return cls
    names = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, tuple(_rebase(base, old, new) for base in cls.__bases__), names)


def uses_own_forward(layer: nn.Module) -> bool:
    """Whether what a layer computes is not what PyTorch's class of that name does.

    True for a `forward` or `_conv_forward` of its own, in its class or set on the layer. accelerate's hooks, which
    call the class's `forward` by a name of their own, do not count.
    """
    cls = plain_class(layer)
    known = next((c for c in cls.__mro__ if c.__module__.startswith("torch.nn.modules.") and "forward" in vars(c)), cls)
    conv = getattr(known, "_conv_forward", None)
    if cls.forward is not known.forward or getattr(cls, "_conv_forward", None) is not conv:
        return True
    _forget_own_forward(layer)
    return "_conv_forward" in vars(layer) or ("forward" in vars(layer) and not _is_hooked(layer))


def _forget_own_forward(layer: nn.Module) -> None:
    """Drop a `forward` on the layer that is its class's own: what remains where a hook of accelerate was removed."""
    own = vars(layer).get("forward")
    if isinstance(own, MethodType) and own.__self__ is layer and own.__func__ is type(layer).forward:
        del layer.forward


def _is_hooked(layer: nn.Module) -> bool:
    """Whether accelerate's `add_hook_to_module` holds the layer's own `forward` behind the one that it set."""
    return getattr(vars(layer).get("_old_forward"), "__self__", None) is layer


def mixin_for(layer: nn.Module, geometry: Geometry, layout: str) -> type[AsapLayer]:
    """What makes a strided layer alias-free in a layout.

    Args:
        layer: A layer of which `timm_asap.conversion.geometry.geometry_of` knows the geometry.
        geometry: That geometry.
        layout: `"preserve"` or `"paper"`.
    """
    pools = isinstance(layer, (*MAX_POOLS.values(), *AVG_POOLS.values()))
    convolves = not pools and hasattr(layer, "weight")
    if layout == "paper":
        return PoolThenConv if convolves else PoolAlone
    if isinstance(layer, tuple(MAX_POOLS.values())):
        return MaxThenPool
    # Exact only where the layer is nothing but the convolution: standardized ones compute their weight in forward.
    is_plain = isinstance(layer, tuple(CONVOLUTIONS.values())) and not uses_own_forward(layer)
    return PooledPointwise if geometry.is_pointwise and is_plain else LowPassed


def keeps_sizes(layer: nn.Module, geometry: Geometry, mixin: type[AsapLayer]) -> bool:
    """Whether a layer still gives its own sizes after conversion; it is tried where its `forward` is its own.

    Args:
        layer: A layer that is not converted.
        geometry: Its geometry.
        mixin: What it would become.
    """
    if mixin is not PoolThenConv or not uses_own_forward(layer) or not isinstance(layer, nn.Conv2d):
        return True
    plain = copy.deepcopy(layer).to("meta")
    changed = copy.deepcopy(plain)
    attach(changed, AsapSpec(geometry, "asap", "circular", "paper"), mixin)
    with torch.no_grad():
        for size in ((32, 48), (33, 50), (38, 35)):
            x = torch.zeros(1, layer.in_channels, *size, device="meta", dtype=next(layer.parameters()).dtype)
            try:
                if changed(x).shape != plain(x).shape:
                    return False
            except Exception:  # whatever a class of its own may raise
                return False
    return True


def _make_dense(layer: nn.Module, geometry: Geometry) -> None:
    """Stride 1 and 'same' padding, (extent - 1) // 2 before and extent // 2 after, on a convolution."""
    own = undeclared(layer)
    own.stride = (1,) * geometry.axes
    own.asap_pad = (0,) * (2 * geometry.axes)
    if geometry.same:
        return
    before, after = dense_padding(geometry)
    around = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        own.padding = before
        own._reversed_padding_repeated_twice = around  # what PyTorch's convolutions pad with in these modes
    elif before == after:
        own.padding = before
    else:
        own.padding = (0,) * geometry.axes
        own.asap_pad = tuple(around)


def attach(layer: nn.Module, spec: AsapSpec, mixin: type[AsapLayer]) -> None:
    """Convert one strided layer in place.

    Args:
        layer: A layer that is not converted yet.
        spec: How it shall downsample.
        mixin: What it becomes: of `mixin_for`, or of `timm_asap.conversion.sites`.
    """
    own = undeclared(layer)
    if mixin is PoolThenConv:
        _make_dense(layer, spec.geometry)
    plain = _base_class(layer)
    made = _class_of(mixin, plain, spec.options)
    _forget_own_forward(layer)
    if "forward" in vars(layer) and hasattr(mixin, "forward"):
        if _is_hooked(layer):
            own._old_forward = made.forward.__get__(layer)
        else:
            own.asap_replaced_forward = vars(layer).pop("forward")
    own.asap = spec
    own.__class__ = _rebase(type(layer), plain, made)
    own._attached()


def detach(layer: nn.Module) -> AsapSpec:
    """Undo `attach` in place: class, stride and padding as before the conversion.

    Args:
        layer: A converted layer.

    Returns:
        How it downsampled.
    """
    own = undeclared(layer)
    spec: AsapSpec = own.asap
    geometry, made = spec.geometry, _made_class(layer)
    own._detaching()
    del own.asap
    _forget_own_forward(layer)
    own.__class__ = _rebase(type(layer), made, made.asap_plain)
    if _is_hooked(layer):
        own._old_forward = made.asap_plain.forward.__get__(layer)
    elif "asap_replaced_forward" in vars(layer):
        own.forward = vars(layer).pop("asap_replaced_forward")
    if made.asap_mixin is PoolThenConv:
        del own.asap_pad
        own.stride = geometry.stride
        if not geometry.same:
            own.padding = geometry.padding
            if getattr(layer, "padding_mode", "zeros") != "zeros":
                doubled = [n for n in reversed(geometry.padding) for _ in range(2)]
                own._reversed_padding_repeated_twice = doubled
    return spec


# Names from before: whole-model pickles and programs may hold them.
wear, unwear = attach, detach
