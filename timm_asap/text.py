"""Words of strangers (label names, titles, file names), shown as text: in a terminal, in Markdown, on a page."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["markdown_text", "plain_text"]

# They reorder what stands after them, so that a reader sees other words than the program: Unicode's bidirectional
# controls. Joiners stay, which emoji and many scripts need.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")

# Anything that can begin a link, a picture, a tag, an entity, emphasis, code, a formula or a cell of a table.
_SPECIAL = re.compile(r"[&<>\[\]`*|~$\\]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
# At the start of a line alone: a heading, a list, a line that underlines the one before.
_LEADING = re.compile(r"^(?:[#+=-]|\d+(?=[.)])(?P<mark>[.)]))")


def plain_text(words: object, limit: int = 200) -> str:
    """One line of printable text: without line breaks, terminal escapes and controls that reorder text.

    For a terminal, a plot, or a widget that shows text. `rich` reads `[...]` as markup: print it with `markup=False`.

    Args:
        words: What a stranger named something; anything but a string is shown as Python writes it.
        limit: Longer text is cut, and ends in an ellipsis.

    Example:
        >>> plain_text("cat\\x1b[2J\\nand dog")
        'cat[2J and dog'
    """
    text = words if isinstance(words, str) else repr(words)
    text = text[: 8 * limit]  # what is cut anyway need not be cleaned
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Zl", "Zp", "Zs") or character in "\t\n\v\f\r":
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category != "Cc" and character not in _BIDI:
            kept.append(character)
    text = " ".join("".join(kept).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "\u2026"


def markdown_text(words: object, limit: int = 200) -> str:
    """:func:`plain_text`, written so that Markdown and HTML show it letter by letter.

    Special characters become numbered entities, which CommonMark never reads as structure: no picture is fetched, no
    link and no tag is made, and a cell of a table stays one. Not for code spans, where entities are shown as such.

    Args:
        words: As of `plain_text`.
        limit: As of `plain_text`.

    Example:
        >>> markdown_text("![x](https://a.example/x.png) <b>")
        '!&#91;x&#93;(https&#58;//a.example/x.png) &#60;b&#62;'
    """
    text = plain_text(words, limit)
    leading = _LEADING.match(text)
    text = _SPECIAL.sub(_entity, text)
    if leading is None:
        return text
    if leading["mark"]:
        digits, mark = leading[0][:-1], leading["mark"]
        return text.replace(digits + mark, f"{digits}&#{ord(mark)};", 1)
    return f"&#{ord(leading[0])};{text[1:]}"


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"
