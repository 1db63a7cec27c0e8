"""One writer to a folder at a time: a lock that says who holds it, and goes when its holder does."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from timm_asap._io import disk_errors, is_alive, remove_leftovers, write_text
from timm_asap.errors import UserError

__all__ = [
    "LOCK_FILES",
    "folder_lock",
    "locks_folder",
    "refuse_if_locked",
    "refuse_if_locked_by_another_launch",
    "shared_folder_lock",
]

P = ParamSpec("P")
T = TypeVar("T")

_LOCK, _HOLDER = ".timm_asap.lock", ".timm_asap.holder"

LOCK_FILES = frozenset({_LOCK, _HOLDER})
"""What lies in a folder while it is written to; after a kill it stays, and means nothing."""

# File systems without locks answer with one of these (some NFS, Lustre and FUSE mounts).
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

# A killed process may leave children, such as those that load data, which keep its lock until they notice: torch's
# look every five seconds.
_PATIENCE_S = 20.0

_held: dict[Path, int] = {}


@contextmanager
def folder_lock(folder: Path, program: str) -> Iterator[None]:
    """Be the only process that writes to a folder.

    The lock is the operating system's (`flock`, which NFS carries to other machines): a killed process does not keep
    it. It may be taken again within the block by the same process. Where the file system has no locks, a warning says
    so, and the block runs.

    Args:
        folder: Made if need be, and removed again with the lock where nothing was written to it.
        program: What the others are told: "train.py", "timm-asap evaluate".

    Raises:
        UserError: If another process holds it, or the folder may not be written to.
    """
    place = folder.resolve()
    if place in _held:
        _held[place] += 1
        try:
            yield
        finally:
            _held[place] -= 1
        return
    made = _make(folder)
    try:
        lock = _acquire(folder)
        _held[place] = 1
        try:
            _write_holder(folder, program)
            remove_leftovers(folder)
            yield
        finally:
            del _held[place]
            _release(folder, lock)
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty: something was written
                path.rmdir()


@contextmanager
def shared_folder_lock(folder: Path, program: str) -> Iterator[None]:
    """`folder_lock` for the processes of one launch: the main one takes it for all, and all refuse where it cannot.

    Every process calls it, once accelerate's state is made.

    Args:
        folder: As of `folder_lock`.
        program: Likewise.

    Raises:
        UserError: In every process.
    """
    with ExitStack() as stack:
        _in_main_process(lambda: stack.enter_context(folder_lock(folder, program)))
        yield


def refuse_if_locked_by_another_launch(folder: Path) -> None:
    """`refuse_if_locked` for the processes of one launch, which all call it: the main one looks for all.

    Raises:
        UserError: In every process.
    """
    _in_main_process(lambda: refuse_if_locked(folder))


def _in_main_process(action: Callable[[], object]) -> None:
    """Do something in the main process alone; where it refuses, every process does."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state, refusal = PartialState(), [None]
    if state.is_main_process:
        try:
            action()
        except UserError as error:
            refusal = [str(error)]
    if state.num_processes > 1:
        broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise UserError(refusal[0])


def locks_folder(program: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function whose first argument is a folder that it writes to: `folder_lock` holds while it runs.

    A folder that is not there, or may not be written to, is left to the function, which says so.

    Args:
        program: As of `folder_lock`.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        first = next(iter(signature(function).parameters))

        @wraps(function)
        def locked(*args: P.args, **kwargs: P.kwargs) -> T:
            given: Any = args[0] if args else kwargs[first]
            folder = Path(given)
            if not folder.is_dir() or not os.access(folder, os.W_OK):
                return function(*args, **kwargs)
            with folder_lock(folder, program):
                return function(*args, **kwargs)

        return locked

    return decorate


def refuse_if_locked(folder: Path) -> None:
    """See that no other process writes to a folder, without writing: sooner than `folder_lock` would.

    Raises:
        UserError: If one does.
    """
    if folder.resolve() in _held or not (folder / _LOCK).is_file():
        return
    lock = FileLock(folder / _LOCK)
    with suppress(OSError, NotImplementedError):
        _try(folder, lock)
        lock.release()


def _make(folder: Path) -> list[Path]:
    """Make a folder; which ones were made, the innermost first."""
    with disk_errors(f"{folder} cannot be made"):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path) -> FileLock | None:
    lock = FileLock(folder / _LOCK)
    with disk_errors(f"{folder} cannot be written to"):
        try:
            _try(folder, lock)
        except NotImplementedError:
            return _without(folder)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return _without(folder)
            raise
    return lock


def _try(folder: Path, lock: FileLock) -> None:
    """Take the lock; where its holder is dead, wait for the children that it left."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            holder = _read_holder(folder)
            if _may_live(holder) or time.monotonic() > until:
                raise UserError(_told(folder, holder)) from None
            time.sleep(0.2)


def _without(folder: Path) -> None:
    warnings.warn(
        f"{folder} lies on a file system without locks: see to it that no other process writes there", stacklevel=4
    )


def _release(folder: Path, lock: FileLock | None) -> None:
    # removed while the lock is held; whoever opened the file meanwhile finds it without a name, and opens the next:
    # filelock does so from 3.24 on, before that two could hold it
    for name in LOCK_FILES if lock is not None else {_HOLDER}:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    if lock is not None:
        with suppress(OSError):
            lock.release()


def _write_holder(folder: Path, program: str) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"program": program, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    write_text(folder / _HOLDER, json.dumps(holder) + "\n")


def _read_holder(folder: Path) -> dict[str, Any]:
    """Who holds the lock, as far as is known."""
    try:
        holder = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _may_live(holder: dict[str, Any]) -> bool:
    here = holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int)
    return not here or is_alive(holder["pid"])


def _told(folder: Path, holder: dict[str, Any]) -> str:
    who = f"{holder.get('program', 'another process')} (process {holder.get('pid')} on {holder.get('host')})"
    if not holder:
        return f"{folder} is being written to by another process: wait for it, or choose another folder"
    return (
        f"{folder} is being written to by {who}, since {holder.get('since')}: wait for it, stop it, or choose another "
        "folder"
    )
