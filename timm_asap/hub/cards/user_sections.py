"""User-edited sections of a card, which stay when the card is made anew."""

from __future__ import annotations

import re

from timm_asap.errors import UserError

__all__ = ["MARK", "PLACES", "is_generated", "read_kept", "wrap"]

MARK = "<!-- timm-asap card:"
"""Begins the comment that tells a generated card."""

PLACES = {
    "intended use": "What the model is for and what it is not for; begin with a heading. This text stays.",
    "notes": "Anything else; begin with a heading. This text stays.",
}
"""The places that every card offers, and the hint in each while it is empty."""

_OPEN = re.compile(r"<!-- keep: (.+?) -->")
_CLOSE = "<!-- /keep -->"


def is_generated(card: str) -> bool:
    """Whether a card was made by `timm-asap card`, as opposed to written by hand."""
    return any(line.startswith(MARK) for line in card.splitlines())


def read_kept(card: str) -> dict[str, str]:
    """The texts between `<!-- keep: NAME -->` and `<!-- /keep -->`, each on a line of its own.

    Args:
        card: A card.

    Returns:
        By name, in order; without the markers.

    Raises:
        UserError: If a marker is without its partner or a name comes twice: making the card anew would lose text.
    """
    kept: dict[str, str] = {}
    name, lines = None, []
    for number, line in enumerate(card.splitlines(), start=1):
        opened = _OPEN.fullmatch(line.strip())
        if opened and name is None and opened[1] not in kept:
            name, lines = opened[1], []
        elif opened:
            why = "comes twice" if name is None else f"stands inside {name!r}"
            raise UserError(f"the card's line {number}: keep {opened[1]!r} {why}: expected {_CLOSE} and another name")
        elif line.strip() == _CLOSE:
            if name is None:
                raise UserError(
                    f"the card's line {number}: {_CLOSE} closes nothing: expected <!-- keep: NAME --> above"
                )
            kept[name], name = "\n".join(lines), None
        elif name is not None:
            lines.append(line)
    if name is not None:
        raise UserError(f"the card's keep {name!r} has no end: expected a line {_CLOSE}")
    return kept


def wrap(name: str, text: str | None) -> str:
    """A text between its markers; where there is none, the hint of the place."""
    text = f"<!-- {PLACES.get(name, '')} -->" if text is None else text
    return f"<!-- keep: {name} -->\n{text}\n{_CLOSE}"
