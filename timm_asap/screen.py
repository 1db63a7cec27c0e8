"""What commands show: tables that fit the terminal they have, and progress for terminals and for pipes alike."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = [
    "Column",
    "ProgressDisplay",
    "ScreenTable",
    "duration",
    "fit_segments",
    "print_lines",
    "print_text",
    "room",
    "screen",
]

_GAP = "  "


def screen() -> Console:
    """Standard output. A file or a pipe has no width to fit: nothing is wrapped or left out there."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def room(console: Console) -> int | None:
    """Columns of a terminal; None for a file or a pipe."""
    return console.width if console.is_terminal else None


def print_lines(lines: Sequence[str], console: Console, styles: Sequence[str | None] = ()) -> None:
    """Print lines as they are.

    Args:
        lines: The lines.
        console: Where to.
        styles: Of each line, as rich names them; the last ones may be missing.
    """
    for number, line in enumerate(lines):
        style = styles[number] if number < len(styles) else None
        console.print(line, style=style or None)


def print_text(text: str, console: Console | None = None) -> None:
    """Print a sentence: in a terminal broken at blanks where a line ends, else as one line.

    Not for commands, which a line's end would break for whoever copies them.

    Args:
        text: The sentence.
        console: Where to; standard output where none is given.
    """
    console = console or screen()
    width = room(console)
    console.print(text if width is None else _fit_sentence(text, width), markup=False, emoji=False, soft_wrap=True)


def _fit_sentence(text: str, width: int) -> str:
    """A text whose lines are broken at blanks where they are longer than a terminal's."""
    lines = text.splitlines() or [""]
    return "\n".join(part for line in lines for part in ([line] if cell_len(line) <= width else _wrap(line, width)))


def fit_segments(segments: Sequence[str], width: int | None, indent: int = 2) -> str:
    """Short texts side by side, continued on further lines where the width ends: no number is broken in two.

    Args:
        segments: The texts.
        width: Columns; None puts all into one line.
        indent: Of the lines after the first.
    """
    if width is None:
        return _GAP.join(segments)
    indent = max(0, min(indent, width - max(map(cell_len, segments))))
    lines = [""]
    for segment in segments:
        longer = f"{lines[-1]}{_GAP}{segment}" if lines[-1].strip() else lines[-1] + segment
        if cell_len(longer) <= width or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(" " * indent + segment)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """About how long, for a reader: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: Its name.
        right: Set to the right, as numbers are.
        short: Its name where the whole one takes too much room; a line above the table then says what it means.
        drop: When it is left out for want of room: the lowest number first; None stays.
        wraps: Its cells may go on in further lines, at blanks.
    """

    heading: str
    right: bool = False
    short: str | None = None
    drop: int | None = None
    wraps: bool = False


class ScreenTable:
    """Rows that are laid out for the width there is, and never cut.

    Where they do not fit, columns get their short names, then the ones that can be missed go, with a line that names
    them; then each row becomes a block of lines.

    Args:
        columns: The first one names the row.
    """

    LEAST = 16
    """Columns of the screen that a wrapping cell needs at least."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)
        self.rows: list[tuple[list[str], str | None]] = []

    def add(self, *cells: str, style: str | None = None) -> None:
        """Add a row, with the style of its lines on a terminal."""
        if len(cells) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(([str(cell) for cell in cells], style))

    def print(self, console: Console) -> None:
        """Print the table, as wide as the console."""
        lines, styles = self.render(room(console))
        print_lines(lines, console, styles)

    def render(self, width: int | None) -> tuple[list[str], list[str | None]]:
        """The lines and the style of each.

        Args:
            width: Columns of the screen; None is a file.
        """
        shown = list(range(len(self.columns)))
        if width is None or self._fits(self.columns, shown, width):
            return self._grid(self.columns, shown, width, [])
        short = [replace(c, heading=c.short or c.heading) for c in self.columns]
        left_out: list[str] = []
        while not self._fits(short, shown, width):
            droppable = {i: drop for i in shown if (drop := self.columns[i].drop) is not None}
            if not droppable:
                return self._blocks(width)
            dropped = min(droppable, key=droppable.__getitem__)
            shown.remove(dropped)
            left_out.append(self.columns[dropped].heading)
        named = [self.columns[i] for i in shown if self.columns[i].short]
        lines, styles = self._grid(short, shown, width, [f"{c.short} = {c.heading}" for c in named])
        if left_out:
            text = f"left out in {width} columns: {', '.join(left_out)}; a wider terminal or a pipe shows them"
            lines += textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        return lines, styles

    def _fits(self, columns: Sequence[Column], shown: Sequence[int], width: int) -> bool:
        return self._least(columns, shown) <= width

    def _least(self, columns: Sequence[Column], shown: Sequence[int]) -> int:
        widths = [
            max(self.LEAST, self._longest_word(i)) if columns[i].wraps else self._natural(columns, i) for i in shown
        ]
        return sum(widths) + len(_GAP) * (len(shown) - 1)

    def _longest_word(self, i: int) -> int:
        words = (word for cells, _ in self.rows for word in cells[i].split())
        return max(map(cell_len, words), default=0)

    def _natural(self, columns: Sequence[Column], i: int) -> int:
        return max([cell_len(columns[i].heading), *(cell_len(cells[i]) for cells, _ in self.rows)])

    def _grid(
        self, columns: Sequence[Column], shown: Sequence[int], width: int | None, legend: Sequence[str]
    ) -> tuple[list[str], list[str | None]]:
        widths = {i: self._natural(columns, i) for i in shown}
        wrapping = [i for i in shown if columns[i].wraps]
        if width is not None and wrapping:
            free = width - len(_GAP) * (len(shown) - 1) - sum(widths[i] for i in shown if i not in wrapping)
            # what a narrow column leaves goes to the others
            for number, i in enumerate(sorted(wrapping, key=widths.__getitem__)):
                part = max(self.LEAST, self._longest_word(i), free // (len(wrapping) - number))
                widths[i] = min(widths[i], part)
                free -= widths[i]

        def line(cells: Sequence[str]) -> str:
            padded = [_pad(cell, widths[i], columns[i].right) for i, cell in zip(shown, cells, strict=True)]
            return _GAP.join(padded).rstrip()

        heading = line([columns[i].heading for i in shown])
        rule = "─" * (sum(widths.values()) + len(_GAP) * (len(shown) - 1))
        lines = [*legend, heading, rule]
        styles: list[str | None] = [None] * len(lines)
        for cells, style in self.rows:
            parts = [_wrap(cells[i], widths[i]) if columns[i].wraps else [cells[i]] for i in shown]
            for row in range(max(map(len, parts))):
                lines.append(line([part[row] if row < len(part) else "" for part in parts]))
                styles.append(style)
        return lines, styles

    def _blocks(self, width: int) -> tuple[list[str], list[str | None]]:
        lines: list[str] = []
        styles: list[str | None] = []
        for cells, style in self.rows:
            own = [cells[0]]
            for column, cell in list(zip(self.columns, cells, strict=True))[1:]:
                if cell:
                    text = f"{column.heading} {cell}".strip()
                    own += _wrap(text, width - 4, first="  ", others="    ")
            lines += own
            styles += [style] * len(own)
        return lines, styles


def _pad(cell: str, width: int, right: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if right else cell + blanks


def _wrap(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Lines broken at blanks alone: a name that is longer than a line keeps it."""
    lines = textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]
    return [(others if number else first) + line for number, line in enumerate(lines)]


class ProgressDisplay:
    """How far a long command has come, on standard error: a bar in a terminal, else a line every so often.

    Args:
        total: What there is to do, in any unit.
        silent: Show nothing: every process but the main one.
        name: What the lines begin with.
        seconds: Between two lines where there is no terminal.
        after: Seconds until the first of them.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        total: float,
        silent: bool = False,
        name: str = "",
        seconds: float = 30,
        after: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._silent = silent
        self._prints = not silent and not self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=silent or not self._console.is_terminal,
            # a cell of an attack takes longer than the half minute that rich looks back by default
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("", total=total)
        self._name, self._seconds, self._clock = name, seconds, clock
        self._began = clock()
        self._next = self._began + after
        self._text = ""

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, text: str) -> None:
        """Say what runs now."""
        self._text = text
        self._bar.update(self._task, description=text)
        self._say()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._silent:
            begin = f"{self._name}: " if self._name else ""
            print_text(begin + text, self._console)

    def advance(self, amount: float = 1) -> None:
        """Count what was done."""
        self._bar.advance(self._task, amount)
        self._say()

    def skip(self, amount: float) -> None:
        """Leave out of the plan what was done before: it says nothing of the time left."""
        task = self._bar.tasks[0]
        self._bar.update(self._task, total=(task.total or 0) - amount)

    def _say(self) -> None:
        now = self._clock()
        if not self._prints or now < self._next:
            return
        self._next = now + self._seconds
        task = self._bar.tasks[0]
        parts = [self._text] if self._text else []
        if task.total and task.completed:
            done = min(1.0, task.completed / task.total)
            parts.append(f"{100 * done:.0f} %")
            parts.append(f"about {duration((now - self._began) * (1 - done) / done)} left")
        begin = f"{self._name}: " if self._name else ""
        self._console.print(begin + ", ".join(parts or ["started"]))
