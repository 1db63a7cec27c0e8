"""What is wrong with an installation, in one line: a package that is missing or broken, a timm too old or too new."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

__all__ = ["NEWEST_TIMM", "OLDEST_TIMM", "InstallationError", "explained_imports", "installation_fault"]

OLDEST_TIMM = "1.0.20"
"""The oldest timm that was tested; pyproject.toml asks for it."""

NEWEST_TIMM = "1.0.31"
"""The newest timm that was tested; newer ones are tried, and named where they fail."""

# What the core imports, and as it is installed.
_CORE = {
    "PIL": "pillow",
    "filelock": "filelock",
    "huggingface_hub": "huggingface-hub",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
}
_PAIR = "install the torchvision that belongs to this torch, as pytorch.org (Start Locally) names them together"


class InstallationError(ImportError):
    """The installation lacks something, or its parts do not fit together; the text is one line that says what to do."""


@contextmanager
def explained_imports() -> Iterator[None]:
    """Imports within the block fail with an `InstallationError` where the fault is the installation's."""
    try:
        yield
    except InstallationError:
        raise
    except Exception as error:
        if (line := installation_fault(error)) is None:
            raise
        # without the traceback of timm's or torch's own imports: their last words are in the line
        raise InstallationError(line, name=getattr(error, "name", None)) from None


def installation_fault(error: Exception) -> str | None:
    """What to say of an error that an import ended with; None where it is no fault of the installation.

    Args:
        error: Of the import.
    """
    said = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name in _CORE:
        return f"timm_asap needs {_CORE[name]}, which is not installed: pip install {_CORE[name]}"
    timm = _version("timm")
    if timm is not None and _numbers(timm) < _numbers(OLDEST_TIMM):
        return f"timm {timm} is older than timm_asap takes ({OLDEST_TIMM} or newer): pip install -U timm"
    if timm is not None and (name == "timm" or _numbers(timm) > _numbers(NEWEST_TIMM)):
        return (
            f"timm_asap does not work with timm {timm} ({said}); {OLDEST_TIMM} to {NEWEST_TIMM} were tested: "
            f"pip install -U timm_asap, or pip install 'timm>={OLDEST_TIMM},<={NEWEST_TIMM}'"
        )
    if "torchvision::" in said or name == "torchvision":
        return f"torchvision {_version('torchvision')} does not fit torch {_version('torch')} ({said}): {_PAIR}"
    if isinstance(error, OSError) and "torch" in f"{said}{error.filename}":
        return f"torch {_version('torch')} cannot be loaded ({said}): install it anew, as pytorch.org names it"
    if isinstance(error, ImportError) and name in _CORE:
        return f"{_CORE[name]} {_version(_CORE[name])} cannot be imported ({said}): pip install -U {_CORE[name]}"
    return None


def _version(package: str) -> str | None:
    """Of the copy that is imported, or else of the one that is installed; None where there is none."""
    found = getattr(sys.modules.get(package), "__version__", None)
    if found is None:
        try:
            found = version(package)
        except PackageNotFoundError:
            return None
    return str(found)


def _numbers(release: str) -> tuple[int, ...]:
    """`1.0.31.dev0` as (1, 0, 31)."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[a-z+-]", release)[0])))
