"""Makes downsampling alias-free that a `forward` does by calling functions: its source is rewritten, call by call.

A module whose class calls `F.max_pool2d(x, 2)`, or slices `x[:, :, ::2, ::2]`, becomes of a subclass in which those
calls go to `timm_asap.conversion.functional`; everything else in the method is as it was written, line numbers
included. The subclass is made anew from the class wherever the module is copied or loaded, so that copying, pickling,
`torch.compile`, `torch.export` and ONNX work as for any module. Code without source, such as that of a decorator or of
`exec`, is left; so is what a class inherits and calls by `super()`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from timm_asap.conversion.functional import REPLACEMENTS, Options, Replacement, alias_free, getitem
from timm_asap.conversion.strided import AsapLayer

__all__ = ["AliasFreeCalls", "Call", "Rewritten", "call_of", "calls_in", "rewritten_methods"]

# Modules whose functions are never looked into.
_LIBRARIES = ("torch.", "timm_asap.", "builtins", "numpy.", "einops.")


@dataclass(frozen=True)
class Call:
    """One call in a module's code that downsamples, or may.

    Attributes:
        name: Of the function, such as `F.max_pool2d`, or `x[::2]` for a strided slice.
        becomes: What the call becomes, in words.
        file: Where it is written.
        first_line: Likewise.
        last_line: Likewise.
        owner: The function that it is in.
        strides: Whether it makes a grid coarser, as the source shows it; None where that depends on the input.
        upsamples: Whether it makes a grid finer, likewise.
        instance: It is in a function that was set on the module itself.
    """

    name: str
    becomes: str
    file: str
    first_line: int
    last_line: int
    owner: str
    strides: bool | None
    upsamples: bool | None = False
    instance: bool = False

    def is_rewritten(self, options: Options) -> bool:
        """Whether a conversion with these options would replace it."""
        return self.strides is not False or (options.upsampling and self.upsamples is not False)

    @property
    def where(self) -> str:
        """File and line, as a report shows them."""
        return f"{Path(self.file).name}:{self.first_line}"

    def covers(self, lines: Iterable[tuple[str, int, int]]) -> bool:
        """Whether one of the lines that a watcher saw is in this call."""
        return any(file == self.file and self.first_line <= line <= self.last_line for file, line, _ in lines)


# What a watcher calls the operations of a function, by a part of the function's name.
_KINDS = {
    "conv_transpose": ("transposed convolution",),
    "conv": ("convolution",),
    "pixel_shuffle": ("rearrangement",),
    "max_pool": ("max-pool", "adaptive max-pool", "fractional max-pool"),
    "avg_pool": ("average pool", "adaptive average pool"),
    "lp_pool": ("average pool",),
    "interpolate": ("resize", "adaptive average pool"),
    "unshuffle": ("rearrangement",),
    "unfold": ("patches",),
    "[": ("slice",),
}


def call_of(calls: list[Call], lines: Iterable[tuple[str, int, int]], kind: str) -> Call | None:
    """The call that an operation came of.

    Args:
        calls: Of the operation's module.
        lines: Where the operation was run from, innermost first.
        kind: Of the operation.
    """

    def fits(call: Call) -> bool:
        return any(kind in kinds for part, kinds in _KINDS.items() if part in call.name)

    covering = [call for line in lines for call in calls if call.covers([line])]
    functions = [call for call in calls if call.instance and not call.file]
    return next(filter(fits, [*covering, *functions]), None)


class AliasFreeCalls(AsapLayer):
    """A module whose calls of downsampling functions go to their alias-free versions."""

    becomes = "alias-free calls in its forward"
    pools = False

    @classmethod
    def methods(cls, plain: type[nn.Module], options: Options) -> dict[str, Any]:
        """The methods of the plain class that call downsampling functions, rewritten."""
        return rewritten_methods(plain, options)

    def _attached(self) -> None:
        attach_functions(self, self.asap.options)

    def _detaching(self) -> None:
        detach_functions(self)


class Rewritten:
    """A function that was set on a module, with its calls alias-free; it pickles as the function that it was made of.

    Args:
        original: The function.
        options: Window, boundary and layout.
    """

    def __init__(self, original: Callable, options: Options) -> None:
        self.original, self.options = original, options
        replacement = _replacement(original)
        if replacement is not None:
            self.function = partial(alias_free, replacement.name, *options)
        elif isinstance(original, MethodType):
            self.function = _rewritten(original.__func__, options).__get__(original.__self__)
        else:
            self.function = _rewritten(original, options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the alias-free version."""
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple:
        return Rewritten, (self.original, self.options)


def calls_in(module: nn.Module) -> list[Call]:
    """Every call in a module's own code that downsamples or may, as far as its source can be read.

    Args:
        module: Any module that is not converted. Its submodules are not looked into.
    """
    found: dict[Call, None] = {}
    for function in _methods(type(module)).values():
        found.update(dict.fromkeys(_calls(function)))
    for value in vars(module).values():
        if (replacement := _replacement(value)) is not None:
            strides, upsamples = _possible(replacement)
            found[Call(replacement.name, replacement.becomes, "", 0, 0, "", strides, upsamples, instance=True)] = None
        else:
            found.update((replace(call, instance=True), None) for call in _calls_of_attribute(value))
    return list(found)


def rewritten_methods(cls: type[nn.Module], options: Options) -> dict[str, Any]:
    """The methods of a class that call downsampling functions, with those calls alias-free.

    Args:
        cls: A class of modules.
        options: Window, boundary and layout.
    """
    methods: dict[str, Any] = {}
    for name, function in _methods(cls).items():
        made = _rewritten(function, options)
        if made is not function:
            methods[name] = staticmethod(made) if isinstance(inspect.getattr_static(cls, name), staticmethod) else made
    return methods


def attach_functions(module: nn.Module, options: Options) -> None:
    """Rewrite the functions that were set on a module itself."""
    for name, value in list(vars(module).items()):
        replacement = _replacement(value)
        held = replacement is not None and (options.upsampling or replacement.direction != "up")
        if held or any(call.is_rewritten(options) for call in _calls_of_attribute(value)):
            vars(module)[name] = Rewritten(value, options)


def detach_functions(module: nn.Module) -> None:
    """Undo `attach_functions`."""
    for name, value in list(vars(module).items()):
        if isinstance(value, Rewritten):
            vars(module)[name] = value.original


def _calls_of_attribute(value: Any) -> tuple[Call, ...]:
    """The downsampling calls of a function that is an attribute of a module."""
    function = value.__func__ if isinstance(value, MethodType) else value
    return _calls(function) if isinstance(function, FunctionType) and not _in_library(function) else ()


def _replacement(value: Any) -> Replacement | None:
    try:
        return REPLACEMENTS.get(value)
    except TypeError:  # not hashable
        return None


def _in_library(function: Callable) -> bool:
    return f"{getattr(function, '__module__', '') or ''}.".startswith(_LIBRARIES)


@cache
def _methods(cls: type[nn.Module]) -> dict[str, FunctionType]:
    """The methods that an instance calls, of classes that are not PyTorch's own, by name."""
    methods: dict[str, FunctionType] = {}
    seen: set[str] = set()
    for owner in cls.__mro__:
        for name, value in vars(owner).items():
            if name in seen or name in ("__init__", "__getattr__", "__setattr__"):
                continue
            seen.add(name)
            value = value.__func__ if isinstance(value, staticmethod) else value
            if isinstance(value, FunctionType) and not _in_library(value) and not hasattr(value, "__wrapped__"):
                methods[name] = value
    return methods


@cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None


@cache
def _node_of(code: CodeType) -> ast.FunctionDef | ast.Lambda | None:
    """Where a function is written; None where its source is not available, or not this function's any more."""
    tree = _tree(code.co_filename)
    if tree is None:
        return None
    nodes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
            nodes.append(node)
        elif isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                nodes.append(node)
    # Two lambdas in a line, or a file that was edited since: tell them by their arguments and the names that they use.
    nodes = [
        node for node in nodes if _arguments(node) == code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    ]
    used = set(_names_used(code))
    nodes = [node for node in nodes if used.issuperset(_attributes(node))]
    return nodes[0] if len(nodes) == 1 else None


def _arguments(node: ast.FunctionDef | ast.Lambda) -> tuple[str, ...]:
    args = node.args
    return tuple(a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs))


def _names_used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_used(constant)


def _attributes(node: ast.FunctionDef | ast.Lambda) -> Iterator[str]:
    """Names of attributes in a function's body, but for those that are spelled otherwise in its code."""
    parts = list(node.body) if isinstance(node.body, list) else [node.body]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.Attribute) and not part.attr.startswith("__"):
            yield part.attr
        for name, value in ast.iter_fields(part):
            if name not in ("annotation", "returns", "decorator_list"):
                parts += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]


class _Names:
    """What the names in a function mean: globals and what it closes over; its own variables are not known."""

    def __init__(self, function: FunctionType) -> None:
        code = function.__code__
        self._own = {*code.co_varnames, *code.co_cellvars}
        self._globals = function.__globals__
        self._closure = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))

    def value(self, node: ast.expr) -> Any:
        """The object that `F`, `F.max_pool2d` or `nn.functional.max_pool2d` names; None where that is not known."""
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            return getattr(owner, node.attr, None) if inspect.ismodule(owner) else None
        if not isinstance(node, ast.Name) or node.id in self._own:
            return None
        if node.id in self._closure:
            try:
                return self._closure[node.id].cell_contents
            except ValueError:  # not filled yet
                return None
        return self._globals.get(node.id, getattr(builtins, node.id, None))


@cache
def _calls(function: FunctionType) -> tuple[Call, ...]:
    """The downsampling calls of a function, and of the functions that it calls by a name known beforehand."""
    return tuple(_find_calls(function, {function}))


def _find_calls(function: FunctionType, seen: set[FunctionType]) -> Iterator[Call]:
    code = function.__code__
    node = _node_of(code)
    if node is None:
        return
    names = _Names(function)
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            target = names.value(part.func)
            replacement = _replacement(target)
            if replacement is not None:
                strides, upsamples = directions_by_source(part, replacement)
                if strides is not False or upsamples is not False:
                    yield _call(replacement.name, replacement.becomes, code, part, strides, upsamples)
            elif isinstance(target, FunctionType) and target not in seen and not _in_library(target):
                seen.add(target)
                yield from _find_calls(target, seen)
        elif isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load):
            strides = _slice_strides(part.slice)
            if strides is not False:
                yield _call(f"{ast.unparse(part)}", "low-pass, then the slice", code, part, strides, False)


def _call(
    name: str, becomes: str, code: CodeType, node: ast.expr, strides: bool | None, upsamples: bool | None
) -> Call:
    owner = getattr(code, "co_qualname", code.co_name)
    return Call(name, becomes, code.co_filename, node.lineno, node.end_lineno or node.lineno, owner, strides, upsamples)


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return ...


def _possible(replacement: Replacement) -> tuple[bool | None, bool | None]:
    """Whether a function may make a grid coarser, and finer: None or False."""
    return (None if replacement.direction != "up" else False, None if replacement.direction != "down" else False)


def directions_by_source(call: ast.Call, replacement: Replacement) -> tuple[bool | None, bool | None]:
    """Whether a call makes a grid coarser, and finer: True or False where its literals show it, else None."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return _possible(replacement)
    given = dict(zip(replacement.arguments, call.args, strict=False)) | {k.arg: k.value for k in call.keywords}

    def numbers(name: str, default: Any) -> tuple | None:
        value = _literal(given[name]) if name in given else default
        value = value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)
        return value if all(isinstance(v, (int, float)) for v in value) else None

    if replacement.kind == "scale":
        if _literal(given.get("antialias")) is True:
            return False, False
        scale = numbers("scale_factor", None)
        return (min(scale) < 1, max(scale) > 1) if scale and "size" not in given else (None, None)
    if replacement.kind == "output":
        output = numbers("output_size", None)
        return (False if output and max(output) == 1 else None), False
    if replacement.kind == "factor":
        factor = numbers("upscale_factor" if replacement.direction == "up" else "downscale_factor", None)
        strides = max(factor) > 1 if factor else None
    else:
        stride = numbers("stride", 1 if replacement.kind == "stride" else None)
        if replacement.kind == "kernel" and ("stride" not in given or _literal(given["stride"]) is None):
            stride = numbers("kernel_size", None)
        strides = max(stride) > 1 if stride else None
    return (False, strides) if replacement.direction == "up" else (strides, False)


def _slice_strides(key: ast.expr) -> bool | None:
    parts = key.elts if isinstance(key, ast.Tuple) else [key]
    steps = [_literal(p.step) for p in parts if isinstance(p, ast.Slice) and p.step is not None]
    if not steps or all(step in (None, 1, -1) for step in steps):
        return False
    # A step along the last axis alone splits channels; whether any other axis is a map's, the tensor tells.
    whole = [p for p in parts if isinstance(p, ast.Slice) and _literal(p.step) not in (None, 1)]
    return True if len(whole) >= 2 and ... not in steps else None


class _Rewriter(ast.NodeTransformer):
    """Sends the calls of one function to their replacements, which it collects by the names that it gives them."""

    def __init__(self, function: FunctionType, options: Options) -> None:
        self._names, self._options = _Names(function), options
        self.values: dict[str, Any] = {}
        # Names like self.__part are spelled with their class outside of it.
        qualname = function.__qualname__.replace(".<locals>", "").split(".")
        self._class = qualname[-2].lstrip("_") if len(qualname) > 1 else ""

    def _bind(self, prefix: str, value: Any) -> ast.Name:
        name = f"_asap_{prefix}_{len(self.values)}"
        self.values[name] = value
        return ast.Name(name, ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.AST:
        target = self._names.value(node.func)
        replacement = _replacement(target)
        if replacement is not None:
            strides, upsamples = directions_by_source(node, replacement)
            if strides is not False or (self._options.upsampling and upsamples is not False):
                function = partial(alias_free, replacement.name, *self._options)
                node.func = ast.copy_location(self._bind("call", function), node.func)
        elif isinstance(target, FunctionType) and not _in_library(target):
            made = _rewritten(target, self._options) if _calls(target) else target
            if made is not target:
                node.func = ast.copy_location(self._bind("helper", made), node.func)
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load) or _slice_strides(node.slice) is False:
            return node
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        key = [self._as_call(part) for part in parts]
        index = ast.Tuple(key, ast.Load()) if isinstance(node.slice, ast.Tuple) else key[0]
        function = self._bind("getitem", partial(getitem, *self._options))
        return ast.copy_location(ast.Call(function, [node.value, index], []), node)

    @staticmethod
    def _as_call(part: ast.expr) -> ast.expr:
        if not isinstance(part, ast.Slice):
            return part
        ends = [end or ast.Constant(None) for end in (part.lower, part.upper, part.step)]
        return ast.Call(ast.Name("slice", ast.Load()), ends, [])

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if self._class and node.attr.startswith("__") and not node.attr.endswith("__"):
            node.attr = f"_{self._class}{node.attr}"
        return node


@cache
def _rewritten(function: FunctionType, options: Options) -> FunctionType:
    """The function with its downsampling calls alias-free; the function itself where its source is not available."""
    code = function.__code__
    original = _node_of(code)
    if original is None:
        return function
    node = ast.fix_missing_locations(_copy(original))
    rewriter = _Rewriter(function, options)
    node = rewriter.visit(node)
    if not rewriter.values:
        return function
    inner: list[ast.stmt]
    names = [*code.co_freevars, *rewriter.values]
    parameters = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
    if isinstance(node, ast.Lambda):
        inner = [ast.Return(node)]
        made = "<lambda>"
    else:
        node.decorator_list, node.returns = [], None
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
        for argument in (node.args.vararg, node.args.kwarg):
            if argument is not None:
                argument.annotation = None
        inner = [node, ast.Return(ast.Name(node.name, ast.Load()))]
        made = node.name
    node.args.defaults, node.args.kw_defaults = _no_defaults(node.args)
    factory = ast.FunctionDef("_asap_factory", parameters, inner, [], None)
    if hasattr(factory, "type_params"):
        vars(factory)["type_params"] = []
    tree = ast.fix_missing_locations(
        ast.copy_location(ast.Module([ast.copy_location(factory, original)], []), original)
    )
    outer = next(c for c in compile(tree, code.co_filename, "exec").co_consts if isinstance(c, CodeType))
    inner_code = next(c for c in outer.co_consts if isinstance(c, CodeType) and c.co_name == made)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    cells.update((name, CellType(value)) for name, value in rewriter.values.items())
    closure = tuple(cells[name] for name in inner_code.co_freevars)
    result = FunctionType(inner_code, function.__globals__, function.__name__, function.__defaults__, closure)
    result.__kwdefaults__ = function.__kwdefaults__
    result.__qualname__, result.__doc__, result.__module__ = (
        function.__qualname__,
        function.__doc__,
        function.__module__,
    )
    result.__dict__.update(function.__dict__)
    return result


def _copy(node: ast.AST) -> Any:
    """A copy that may be changed, with the same line numbers."""
    fields = {}
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            fields[name] = [_copy(v) if isinstance(v, ast.AST) else v for v in value]
        else:
            fields[name] = _copy(value) if isinstance(value, ast.AST) else value
    return ast.copy_location(type(node)(**fields), node)


def _no_defaults(args: ast.arguments) -> tuple[list, list]:
    """Placeholders: the function's own defaults are set on the result."""
    return [ast.Constant(None) for _ in args.defaults], [
        None if d is None else ast.Constant(None) for d in args.kw_defaults
    ]
