"""Stopping a program from outside: SIGINT and SIGTERM alike, politely once, at once when they come again."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

# A launcher and the terminal may both pass on the one Ctrl-C that a user gave.
_SAME_REQUEST_S = 2.0


class StopRequest:
    """Notices SIGINT and SIGTERM while it is entered; whoever asks `asked` stops at the next good moment.

    A second signal, more than two seconds after the first, raises KeyboardInterrupt where the program stands.

    Args:
        at_once: Raise KeyboardInterrupt at the first signal, too; those of the two seconds after it are the same
            request, and do not disturb what is saved then.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.asked = False
        self.at_once = at_once
        self._first_at = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._first_at = time.monotonic()
            if self.at_once:
                raise KeyboardInterrupt
        elif time.monotonic() - self._first_at > _SAME_REQUEST_S:
            raise KeyboardInterrupt
