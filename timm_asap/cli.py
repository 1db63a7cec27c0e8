"""`timm-asap`: finds the command and runs it; what each does lies in `timm_asap.commands`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from timm_asap._startup import importing
from timm_asap.errors import UserError, missing_package, run_program, unknown_name

#: Command, its module and its help line. Modules are imported when their command is called.
COMMANDS = {
    "train": ("timm_asap.commands.train", "train an image classifier and write its run folder: train.py"),
    "list": ("timm_asap.commands.list_twins", "list the alias-free twins, with costs and pretrained tags"),
    "convert": (
        "timm_asap.commands.convert",
        "show what conversion does to an architecture, or save the result",
    ),
    "heal": ("timm_asap.commands.heal", "swap a trained network's strides, and repair it without labels"),
    "adapt": ("timm_asap.commands.adapt", "teach a twin the plain network's predictions, on images without labels"),
    "evaluate": ("timm_asap.commands.evaluate", "measure robustness: clean, corrupted, attacked, shifted, aliased"),
    "compare": ("timm_asap.commands.compare", "compare models by their evaluations, with intervals"),
    "card": ("timm_asap.commands.card", "write the model card of a run from its records"),
    "publish": ("timm_asap.commands.publish", "put a run on the Hugging Face Hub, and verify it there"),
    "export": ("timm_asap.commands.export", "write a network as ONNX, with its preprocessing, checked in onnxruntime"),
    "demo": ("timm_asap.commands.demo", "show a network and its plain twin in the browser"),
}

#: The extra that holds everything a command needs besides the core.
EXTRAS = {
    "train": "train",
    "list": "cli",
    "convert": "cli",
    "heal": "train",
    "adapt": "train",
    "evaluate": "eval",
    "compare": "eval",
    "card": "hub",
    "publish": "hub",
    "export": "onnx",
    "demo": "demo",
}

_SHOWN_VERSIONS = ("torch", "timm")


# Imports stand where they are used: until `importing` begins, Ctrl-C is a traceback.


def _help() -> str:
    import shutil
    import textwrap

    width = max(map(len, COMMANDS))
    columns = shutil.get_terminal_size().columns
    lines = [
        "usage: timm-asap COMMAND [OPTIONS]",
        "",
        "Alias-free downsampling for timm's convolutional networks.",
        "",
    ]
    for name, (_, text) in COMMANDS.items():
        begin = f"  {name:<{width}}  "
        lines += textwrap.wrap(
            text, max(40, columns), initial_indent=begin, subsequent_indent=" " * len(begin), break_on_hyphens=False
        )
    lines += ["", "timm-asap COMMAND --help lists the options of a command, timm-asap --version", "the versions."]
    return "\n".join(lines)


def _versions() -> str:
    """This package and what its numbers depend on, in one line, without importing any of it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import timm_asap

    found = [f"timm-asap {timm_asap.__version__}"]
    for name in _SHOWN_VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} is not installed")
    return ", ".join([*found, f"Python {platform.python_version()}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: The words after the program's name; by default those of this process.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can put right, told in one line on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(_versions())
        return 0
    return run_program("timm-asap", lambda: run_command(words[0], words[1:]))


def run_command(name: str, words: Sequence[str], program: str = "timm-asap") -> int | None:
    """Run one command.

    Args:
        name: One of `COMMANDS`.
        words: The words after it.
        program: As an interruption calls it.

    Raises:
        UserError: Where the user can put something right; a package that is not installed, for one.
    """
    if name not in COMMANDS:
        raise UserError(unknown_name("command", name, COMMANDS))
    try:
        with importing(program):
            command = importlib.import_module(COMMANDS[name][0])
        return command.main(words)
    except ModuleNotFoundError as error:
        if (package := missing_package(error)) is None:
            raise
        raise UserError(
            f"{name} needs {package}, which is not installed: pip install 'timm_asap[{EXTRAS[name]}]'"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
