"""Faults that a test asks for, and their one-time use."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

_HOLD_S = 60  # a forgotten release must not hang a test run


@dataclass
class Fault:
    """What goes wrong with the next requests that match; exactly one of the kinds is set.

    Args:
        method: "GET", "PUT", ...
        path: Regular expression, searched for in the unquoted path with its query.
        times: How many requests it meets.
        status: Answer this HTTP status; nothing is carried out.
        headers: With these headers.
        cut_after: Hang up after this many bytes of the request's body; of the response's body for GET.
        truncate_to: Answer only this many bytes, as if the file had no more.
        wrong_bytes: Answer as many bytes as wanted, the last four of them inverted.
        lose_answer: Carry the request out, then hang up.
        hold: Wait until the test calls `release()`; then carry the request out.
        answer: Answer this with status 200 and without the Hub's headers, as a proxy does; nothing is carried out.
        rewrite: Carry the request out, then answer what this makes of the body.
        silent: Never answer, until the test calls `release()`; nothing is carried out.
        drip: Carry the request out, then answer the body byte by byte, 20 in a second.

    Attributes:
        reached: Set once a request met this fault.
        hits: How many requests met it.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    cut_after: int | None = None
    truncate_to: int | None = None
    wrong_bytes: bool = False
    lose_answer: bool = False
    hold: bool = False
    answer: bytes | None = None
    rewrite: Callable[[bytes], bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    drip: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    hits: int = 0

    def __post_init__(self) -> None:
        values = (self.status, self.cut_after, self.truncate_to, self.answer, self.rewrite)
        flags = (self.wrong_bytes, self.lose_answer, self.hold, self.silent, self.drip)
        kinds = sum(value is not None for value in values) + sum(flags)
        if kinds != 1:
            raise ValueError(f"a fault has exactly one kind, this one has {kinds}")
        self._released = threading.Event()

    def release(self) -> None:
        """Let the requests go on that `hold` or `silent` stopped."""
        self._released.set()

    def wait(self) -> None:
        """Return at once, or after `release()` if this fault holds requests."""
        if self.hold or self.silent:
            self._released.wait(_HOLD_S)

    @property
    def is_released(self) -> bool:
        """Whether the test is over, or has called `release()`."""
        return self._released.is_set()

    def spoil(self, body: bytes) -> bytes:
        """The body of a response as this fault lets it out."""
        if self.rewrite is not None:
            return self.rewrite(body)
        if self.truncate_to is not None:
            return body[: self.truncate_to]
        if self.wrong_bytes:
            return body[:-4] + bytes(byte ^ 0xFF for byte in body[-4:])
        return body


class Faults:
    """The faults that wait for a request; safe to use from many threads."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._all: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._waiting.append(fault)
            self._all.append(fault)
        return fault

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that meets this request, counted as used."""
        with self._lock:
            for fault in self._waiting:
                if fault.method == method and re.search(fault.path, unquote(path)):
                    fault.hits += 1
                    if fault.hits == fault.times:
                        self._waiting.remove(fault)
                    fault.reached.set()
                    return fault
        return None

    def clear(self) -> None:
        """Forget all, and release what is held."""
        with self._lock:
            for fault in self._all:
                fault.release()
            self._waiting.clear()
            self._all.clear()
