"""What others changed in a repository since a run was published to it, so that publishing again loses none of it.

A published card carries a stamp, a comment with the digests of what it was published with: of its own text without the
user-edited sections, of each of these, and of every other file. Whoever publishes next, from this folder or another,
sees by it what was edited on the Hub. The run's card gets it, too, for the case that the one on the Hub is lost.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from timm_asap._io import sha256
from timm_asap.errors import UserError
from timm_asap.hub.cards.user_sections import PLACES, read_kept
from timm_asap.text import as_text

__all__ = [
    "EditedOnHubError",
    "Stamp",
    "carry_stamp",
    "is_placeholder",
    "merge_sections",
    "outside_sections",
    "show_difference",
    "stamp",
]

_MARK = "<!-- timm-asap published: "
_END = " -->"
_DIGITS = 16
_SHOWN_LINES = 80


class EditedOnHubError(UserError):
    """Publishing would undo what somebody changed on the Hub.

    Args:
        line: What was changed, and what to do.
        difference: What would be lost, as a unified difference from the Hub's files to those of the run; lines, for a
            terminal.
    """

    def __init__(self, line: str, difference: str) -> None:
        super().__init__(line)
        self.difference = difference


@dataclass(frozen=True)
class Stamp:
    """What a card was published with.

    Args:
        card: Digest of its text outside the user-edited sections.
        sections: Digest of each section, by name.
        files: By path, the digests that the Hub may state for a file: sha256, and git's.
    """

    card: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, card: str) -> Stamp | None:
        """That of a card; None where it has none, or none that can be read."""
        lines = [line for line in card.splitlines() if line.startswith(_MARK) and line.rstrip().endswith(_END.strip())]
        try:
            content = json.loads(lines[-1].rstrip()[len(_MARK) : -len(_END)])
            sections = {str(name): str(digest) for name, digest in content["sections"].items()}
            files = {str(path): (str(first), str(second)) for path, (first, second) in content["files"].items()}
            return cls(str(content["card"]), sections, files)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None

    def knows(self, path: str, stated: str) -> bool:
        """Whether the Hub states for a file what it was published with."""
        return stated[:_DIGITS] in self.files.get(path, ())


def carry_stamp(before: str, card: str) -> str:
    """A card made anew, with the stamp that it had: what the Hub holds of the run is still what was published."""
    lines = [line for line in before.splitlines() if line.startswith(_MARK)]
    return f"{card.rstrip()}\n\n{lines[-1]}\n" if lines else card


def stamp(card: str, files: Mapping[str, Path]) -> str:
    """A card with a stamp, in place of an older one.

    Args:
        card: The card.
        files: What it is published with, by path in the repository.
    """
    text = "\n".join(line for line in card.splitlines() if not line.startswith(_MARK)).rstrip()
    content = {
        "card": outside_sections(text),
        "sections": {name: _digest(section) for name, section in read_kept(text).items()},
        "files": {
            name: [sha256(path)[:_DIGITS], git_hash(path.read_bytes())[:_DIGITS]]
            for name, path in sorted(files.items())
        },
    }
    line = json.dumps(content).replace("--", "-\\u002d").replace(">", "\\u003e")
    return f"{text}\n\n{_MARK}{line}{_END}\n"


def _digests(path: Path) -> list[str]:
    """The beginnings of those that the Hub may state, depending on how it keeps the file."""
    return [digest[:_DIGITS] for digest in (sha256(path), git_hash(path.read_bytes()))]


def outside_sections(card: str) -> str:
    """The digest of a card without its user-edited sections, blank lines and stamp.

    Raises:
        UserError: If its markers do not match.
    """
    read_kept(card)
    lines: list[str] = []
    inside = False
    for line in card.splitlines():
        opened = re.fullmatch(r"<!-- keep: (.+?) -->", line.strip())
        if opened:
            inside = True
            if opened[1] in PLACES:  # other sections come and go
                lines.append(opened[1])
        if not inside and line.strip() and not line.startswith(_MARK):
            lines.append(line.rstrip())
        if line.strip() == "<!-- /keep -->":
            inside = False
    return _digest("\n".join(lines))


def merge_sections(
    ours: Mapping[str, str], theirs: Mapping[str, str], base: Stamp | None
) -> tuple[dict[str, str], list[str]]:
    """The user-edited sections of two cards as one: whatever one side alone changed.

    Args:
        ours: Of the run's card.
        theirs: Of the Hub's.
        base: What both began with, if it is known.

    Returns:
        The sections, and the names of those that both changed: these are ours.
    """
    merged, both = {}, []
    for name in dict.fromkeys((*ours, *theirs)):
        our, their = ours.get(name), theirs.get(name)
        was = base.sections.get(name) if base else None
        our_is_old = _is_empty(name, our) if was is None else our is None or _digest(our) == was
        their_is_old = _is_empty(name, their) if was is None else _digest(their or "") == was
        chosen = our
        if our_is_old and not (their_is_old and our is not None):
            chosen = their
        elif not our_is_old and not their_is_old and _lines(our) != _lines(their):
            both.append(name)
        if chosen is not None:
            merged[name] = chosen
    return merged, both


def is_placeholder(theirs: str, ours: str) -> bool:
    """Whether a card is metadata alone, as the Hub's form for a new model writes it, and the other has them all."""
    front = re.fullmatch(r"\s*(?:---\r?\n(.*?)\r?\n?---\s*)?", theirs, re.DOTALL)
    return front is not None and set(_lines(front[1])) <= set(_lines(ours))


def show_difference(path: str, theirs: str, ours: str) -> str:
    """A unified difference from the Hub's file to ours, shortened, for a terminal."""
    names = f"{path} (on the Hub)", f"{path} (of the run)"
    lines = list(difflib.unified_diff(theirs.splitlines(), ours.splitlines(), *names, lineterm="", n=1))
    shown = [as_text(line if len(line) <= 200 else f"{line[:197]}...") for line in lines[:_SHOWN_LINES]]
    if len(lines) > _SHOWN_LINES:
        shown.append(f"... {len(lines) - _SHOWN_LINES} more lines")
    return "\n".join(shown)


def _is_empty(name: str, section: str | None) -> bool:
    """Whether nobody wrote into a section yet."""
    return section is None or section.strip() in ("", f"<!-- {PLACES.get(name, '')} -->")


def _digest(text: str) -> str:
    return hashlib.sha256("\n".join(_lines(text)).encode(errors="replace")).hexdigest()[:_DIGITS]


def _lines(text: str | None) -> list[str]:
    """Without what an editor changes on its own: line ends, blanks at the end of lines, blank lines around."""
    return "\n".join(line.rstrip() for line in (text or "").splitlines()).strip().split("\n")
