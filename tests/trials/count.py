"""How trials ended, by kind, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.trials.children import Done


@dataclass
class Count:
    """How the trials of a kind ended."""

    kind: str
    tried: int = 0
    right: int = 0
    one_line: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, done: Done, problem: str | None = None, one_line_is_right: bool = True) -> None:
        """Count a trial.

        Args:
            what: Was tried.
            done: How the program ended.
            problem: What is wrong with what it left, although it ended well.
            one_line_is_right: Whether a refusal is as good an end as any.
        """
        self.tried += 1
        if problem is None and done.is_right:
            self.right += 1
        elif problem is None and done.is_one_line and one_line_is_right:
            self.one_line += 1
        else:
            why = problem or f"exit code {done.code}: {done.err.strip()[-300:] or done.out.strip()[-200:]}"
            self.failures.append(f"{what}: {why}")


def table(counts: Sequence[Count], seconds: Sequence[float]) -> str:
    """The counts as a table in Markdown, with a last row of all.

    Args:
        counts: Of the kinds.
        seconds: That each took.
    """
    rows = [(c.kind, c.tried, c.right, c.one_line, len(c.failures), s) for c, s in zip(counts, seconds, strict=True)]
    rows.append(("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))))
    lines = ["| kind | tried | right | one line, exit code 2 | failed | seconds |", "|:---|---:|---:|---:|---:|---:|"]
    for kind, *numbers, taken in rows:
        lines.append(f"| {kind} | {' | '.join(f'{number:,}' for number in numbers)} | {taken:.0f} |")
    return "\n".join(lines)
