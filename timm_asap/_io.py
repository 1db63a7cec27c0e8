"""The one place that writes files: whole or not at all, and every refusal of the disk as one line.

Nothing here knows what a file means. `replace_file` is under every record, checkpoint, plot and export of the package;
`read_sealed` and `write_sealed` are safetensors that notice a flipped bit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from timm_asap.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = [
    "as_json",
    "cut_path",
    "disk_errors",
    "is_alive",
    "is_leftover",
    "read_json",
    "read_sealed",
    "reason",
    "remove",
    "remove_leftovers",
    "replace_file",
    "save_sealed",
    "sha256",
    "state_sha256",
    "sync_file",
    "write_json",
    "write_sealed",
    "write_text",
]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}

# `.NAME.HOST-PID.aside`: a file, or a folder, that is not complete yet
_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]*)-(?P<pid>\d+)\.aside")
_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:24]

# How the Rust side of safetensors names an error of the disk, which it does not raise as an OSError.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(doing: str, hint: str | None = None) -> Iterator[None]:
    """Turn what a disk refuses within the block into one line.

    Args:
        doing: What was tried: "runs/x/result.json cannot be written".
        hint: What to do; by default what fits the error: make room, or choose a folder of one's own.

    Raises:
        UserError: For an `OSError`, and for the errors of safetensors that stand for one.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:  # safetensors names an error of the disk in a class of its own
        code = _errno(error)
        if code is None:
            raise
        raise UserError(f"{doing} ({reason(error)}): {hint or _hint(code)}") from error


def reason(error: BaseException) -> str:
    """What the operating system says of an error: "No space left on device"."""
    code = _errno(error)
    return (os.strerror(code) if code else str(error).strip().split("\n")[0]) or type(error).__name__


def _errno(error: BaseException) -> int | None:
    """The number of an error of the disk; None where it is of another kind."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _OS_ERROR.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def _hint(code: int) -> str:
    if code in _NO_ROOM:
        return "make room on the disk, then run it again"
    if code in _NO_RIGHT:
        return "choose a folder that you may write to, or ask its owner for the right"
    return "see that the folder is there and may be used, then run it again"


@contextmanager
def replace_file(path: Path | str, *, doing: str | None = None, hint: str | None = None) -> Iterator[Path]:
    """Write a file aside, and put it in place only when it is complete and on the disk.

    What stood there before stays as it was until then. A link in the place of the file is replaced, not followed.

    Args:
        path: The file to replace or create; its folder is made if need be.
        doing: What was tried, where the disk does not take it; by default that the file cannot be written.
        hint: What to do then.

    Yields:
        The path to write to.

    Raises:
        UserError: If the disk does not take it.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.aside")
    with disk_errors(doing or f"{path} cannot be written", hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path)
        try:
            # what lies there is of a killed process that had this number, or a link that somebody put in the way
            aside.unlink(missing_ok=True)
            aside.touch(exist_ok=False)
            usual_mode = aside.stat().st_mode
            yield aside
            aside.chmod(usual_mode)  # safetensors makes files that only their owner may read
            sync_file(aside)
            os.replace(aside, path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """See that what was written to a file is on the disk, and has room there."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """See that a rename survives a power cut, where the system can promise it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_orphans(path: Path) -> None:
    """Remove what killed processes of this machine left of the same file."""
    for other in path.parent.glob(f".{_escaped(path.name)}.{_HOST}-*.aside"):
        found = _ASIDE.fullmatch(other.name)
        if found and not is_alive(int(found["pid"])):
            with suppress(OSError):
                other.unlink()


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


def write_text(path: Path | str, text: str) -> None:
    """Replace a text file in one go.

    Raises:
        UserError: If the disk does not take it.
    """
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path | str, record: Any) -> None:
    """Replace a JSON file in one go; NaN and infinity, which JSON does not have, raise ValueError.

    Raises:
        UserError: If the disk does not take it.
    """
    write_text(path, as_json(record))


def as_json(record: Any) -> str:
    """A record as the text of its file; NaN and infinity, which JSON does not have, raise ValueError."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(
    path: Path | str, expected: str = "a record of timm_asap", kind: str = "record of timm_asap"
) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: The file.
        expected: What should have been there, for the error.
        kind: What it is to be, likewise.

    Raises:
        UserError: If it cannot be read, is no JSON object, or holds NaN or infinity, which JSON does not have.
    """

    def refuse(constant: str) -> NoReturn:
        raise UserError(f"{path} holds {constant}: expected numbers that were measured")

    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: expected {expected}") from error
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        text = reason(error) if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as JSON ({text}): expected {expected}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is no {kind}: expected a JSON object, got a {type(record).__name__}")
    return record


def sha256(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        UserError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with disk_errors(f"{path} cannot be read"), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_sealed(path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Replace a safetensors file in one go, sealed as by `save_sealed`.

    Raises:
        UserError: If the disk does not take it.
    """
    with replace_file(path) as aside:
        save_sealed(aside, tensors, metadata)


def save_sealed(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose header holds the SHA-256 of everything else in it.

    Args:
        path: The file.
        tensors: On the CPU, contiguous.
        metadata: Text by name; `sha256` is taken.
    """
    from safetensors.torch import save_file

    save_file(dict(tensors), path, {**metadata, "sha256": _seal(tensors, metadata)})


def read_sealed(path: Path | str, hint: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What `write_sealed` wrote.

    Args:
        path: The file.
        hint: What to do where it is damaged.

    Returns:
        The tensors and the metadata, without the seal.

    Raises:
        UserError: If it cannot be read, or is not what was written, be it by one bit.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        seal = metadata.pop("sha256", None)
        found = _seal(tensors, metadata)
    except Exception as error:  # a damaged header can break the reader in any way
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read ({text[:200]}); {hint}") from error
    if seal is None:
        raise UserError(f"{path} has no checksum: an older version wrote it, or it is damaged; {hint}")
    if seal != found:
        raise UserError(f"{path} is damaged: its content does not match its checksum; {hint}")
    return tensors, metadata


def _seal(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over a state dict: of each entry in alphabetical order its name, dtype, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed process of this package leaves: no loss to anybody."""
    return name.startswith(".") and name.endswith(".aside")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder and in its own subfolders; only while nobody else writes there."""
    with disk_errors(f"{folder} cannot be cleared"):
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
        for path in [*folder.iterdir(), *(path for part in inside for path in part.iterdir())]:
            if is_leftover(path.name):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link (and not what it leads to) or a folder with all in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cut_path(name: str) -> str:
    """A data set, model or folder for others to read: without the folders above it that only its owner has."""
    source, colon, path = name.rpartition(":")
    return f"{source}{colon}{Path(path).name}" if path.startswith(("/", "~", "..")) else name
