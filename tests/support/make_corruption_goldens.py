"""Makes tests/goldens/corruptions.safetensors: what the published corruption code gives for known random numbers.

The code is not here: it is read from the installed package `imagenet-c` 0.0.3 (Apache-2.0), which is that of
hendrycks/robustness, and run with its sizes and strengths replaced, and with stored numbers in place of NumPy's
generators. In an environment of its own:

    pip install imagenet-c==0.0.3 numpy==1.26.4 scipy==1.13.1 scikit-image==0.24.0 opencv-python-headless==4.8.1.78
    pip install Wand==0.7.2 pillow safetensors setuptools==65.5.0        (and Debian's libmagickwand-6.q16-6)
    python tests/support/make_corruption_goldens.py tests/goldens/corruptions.safetensors

The strengths of "imagenet" are the code's own, so they are checked; those of "cifar" are those of our table, for the
package has no make_cifar_c.py.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import re
import runpy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "timm_asap/evaluation/corruptions/tables.py"))
VERSIONED = ("imagenet-c", "numpy", "scipy", "scikit-image", "opencv-python-headless", "Wand", "pillow")

# Interfaces that have changed their names since 2018.
RENAMED = {
    "multichannel=True": "channel_axis=-1",
    "np.float_": "np.float64",
    "np.fromstring": "np.frombuffer",
    "scipy.ndimage.interpolation": "scipy.ndimage",
    "from pkg_resources import resource_filename": "",
}


class _Strengths(ast.NodeTransformer):
    """Replaces each function's `c = [...][severity - 1]` by `c = STRENGTHS[function][severity - 1]`."""

    def visit_FunctionDef(self, function: ast.FunctionDef) -> ast.FunctionDef:
        for i, line in enumerate(function.body):
            if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", None) == "c":
                function.body[i] = ast.parse(f"c = STRENGTHS[{function.name!r}][severity - 1]").body[0]
        return function


def published(table: str, side: int) -> dict[str, Any]:
    """The functions of the published code, for images of this side."""
    package = importlib.util.find_spec("imagenet_c")
    source = (Path(package.submodule_search_locations[0]) / "corruptions.py").read_text()
    for old, new in RENAMED.items():
        source = source.replace(old, new)
    source = re.sub(r"\b224\b", str(side), source)
    source = re.sub(r"\b244\b", repr(side * 244 / 224), source)
    source = source.replace("mapsize=256", f"mapsize={1 << (side - 1).bit_length()}")
    tree = ast.parse(source)
    namespace: dict[str, Any] = {}
    if table == "cifar":
        tree = ast.fix_missing_locations(_Strengths().visit(tree))
        strengths = dict(TABLES["TABLES"]["cifar"].parameters)
        strengths["elastic_transform"] = [[side * f for f in c] for c in strengths["elastic_transform"]]
        strengths["spatter"] = [(*c[:5], int(c[5] == "mud")) for c in strengths["spatter"]]
        namespace["STRENGTHS"] = strengths
    exec(compile(tree, "imagenet_c/corruptions.py", "exec"), namespace)
    return namespace


def image(side: int) -> np.ndarray:
    """uint8 (H, W, 3): a photograph (NASA, public domain) with a patch of gray, one of black and one of white."""
    from skimage.data import astronaut

    small = np.array(Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS))
    for i, level in enumerate((100, 0, 255)):
        small[2:8, 2 + 7 * i : 8 + 7 * i] = level
    return small


def random_numbers(side: int) -> dict[str, np.ndarray]:
    """What the corruptions draw, in the shapes in which `timm_asap` draws it."""
    rng = np.random.default_rng(0)
    fractal = 1 << (side - 1).bit_length()

    def uniform(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32) * 2 - 1

    return {
        "normal": rng.standard_normal((3, side, side), dtype=np.float32),
        "uniform": rng.random((3, side, side), dtype=np.float32),
        "displacements": uniform(3, 2, side, side),
        "angle": np.array(0.37),
        "fractal": uniform(fractal * fractal - 1),
        "points": uniform(3, 2).astype(np.float64),
        "field": uniform(2, side, side),
    }


def replacements(name: str, severity: int, table: str, x: np.ndarray, numbers: dict[str, np.ndarray]) -> dict[str, Any]:
    """NumPy's random functions, giving the stored numbers in the order in which the code asks for them."""
    side = x.shape[0]
    strength = TABLES["TABLES"][table].parameters[name][severity - 1]

    def normal(loc: float = 0.0, scale: float = 1.0, size: Any = None) -> np.ndarray:
        field = numbers["normal"].astype(np.float64)
        return loc + scale * (field.transpose(1, 2, 0) if len(size) == 3 else field[0])

    def poisson(rate: np.ndarray) -> np.ndarray:
        return np.round(rate)

    if name == "glass_blur":
        reach = strength[1]
        moves = np.floor(numbers["displacements"].astype(np.float64) * reach).astype(int)
        inner = moves[:, :, : side - 2 * reach, : side - 2 * reach]
        visits = iter(inner[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(-1, 2))

    def randint(*_: Any, **__: Any) -> np.ndarray:
        down, right = next(visits)
        return right, down

    order = {
        "motion_blur": [numbers["angle"] * 45],
        "snow": [-90 + numbers["angle"] * 45],
        "fog": list(numbers["fractal"].astype(np.float64)),
        "elastic_transform": [numbers["points"], numbers["field"][0], numbers["field"][1]],
    }.get(name, [])
    used = [0]

    def uniform(low: float, high: float, size: Any = None) -> np.ndarray:
        if name in ("motion_blur", "snow"):
            return order[0]
        if name == "fog":
            count = int(np.prod(size))
            values = np.array(order[used[0] : used[0] + count]).reshape(size)
            used[0] += count
            return values * high
        values = order[used[0]].astype(np.float64)
        used[0] += 1
        return values * high

    class Generator:
        """scikit-image asks which values to replace, then which of them by white."""

        def __init__(self, *_: Any) -> None:
            field = numbers["uniform"].astype(np.float64).transpose(1, 2, 0)
            self.fields = iter((field, field / strength if name == "impulse_noise" else field))

        def random(self, *_: Any) -> np.ndarray:
            return next(self.fields)

    return {"normal": normal, "poisson": poisson, "randint": randint, "uniform": uniform, "default_rng": Generator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--imagenet-side", default=37, type=int)
    parser.add_argument("--cifar-side", default=32, type=int)
    args = parser.parse_args()
    tensors = {}
    for table, side in (("imagenet", args.imagenet_side), ("cifar", args.cifar_side)):
        functions = published(table, side)
        x, numbers = image(side), random_numbers(side)
        tensors[f"{table}.image"] = x
        tensors |= {f"{table}.draws.{name}": value for name, value in numbers.items()}
        for name in (*TABLES["CORRUPTIONS"], *TABLES["EXTRA_CORRUPTIONS"]):
            if name == "frost":
                continue  # needs photographs
            outputs = []
            for severity in TABLES["SEVERITIES"]:
                with mock.patch.multiple("numpy.random", **replacements(name, severity, table, x, numbers)):
                    outputs.append(np.uint8(np.array(functions[name](Image.fromarray(x), severity))))
            tensors[f"{table}.{name}"] = np.stack(outputs)
    versions = {name: importlib.metadata.version(name) for name in VERSIONED}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, args.out, metadata=versions)
    print(f"{args.out}: {args.out.stat().st_size} bytes, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
