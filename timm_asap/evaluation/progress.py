"""What an evaluation shows while it goes on: one bar over the whole plan, on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["ProgressDisplay"]


class ProgressDisplay:
    """A bar on standard error, with the time left; nothing where that is no terminal.

    Args:
        passes: Forward passes of the whole plan, each image of each measurement counted.
        silent: Show nothing: every process but the main one.
    """

    def __init__(self, passes: float, silent: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=silent or not console.is_terminal,
            # a cell of an attack takes longer than the half minute that rich looks back by default
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("", total=passes)

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, text: str) -> None:
        """Say what runs now."""
        self._bar.update(self._task, description=text)

    def advance(self, passes: float) -> None:
        """Count what was done."""
        self._bar.advance(self._task, passes)

    def skip(self, passes: float) -> None:
        """Leave out of the plan what was measured before: it says nothing of the time left."""
        task = self._bar.tasks[0]
        self._bar.update(self._task, total=task.total - passes)
