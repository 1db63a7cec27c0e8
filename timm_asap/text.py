"""Words of strangers, such as the names of a model's classes, shown as text: never run, rendered or fetched."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

__all__ = ["as_text", "plain_text"]

# Marks that reorder the text around them: a name could make a line read otherwise than it is.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# Everything that begins markup in HTML, in CommonMark or in the dialect of the Hub: links, images, emphasis, code,
# tables, mathematics, mentions, footnotes, headings. As character references they are letters and nothing else.
_HTML = re.compile(r"[&<>\"']")
_MARKDOWN = re.compile(
    r"[&<>\"'`*_\[\]()!|\\~#@${}^:]"
    r"|(?<=www)\.(?=\S)"  # a bare address becomes a link
    r"|^[-+=.](?=\s|$|[-+=])|(?<=^\d)\.|(?<=^\d\d)\.",  # at the start of a line: list, heading, rule
    re.IGNORECASE,
)


def as_text(value: object, where: Literal["terminal", "markdown", "html"] = "terminal") -> str:
    r"""A word of a stranger as one line that only shows it.

    Control characters (which move the cursor or set colors in a terminal), line breaks, marks that reorder text and
    lone surrogates become escapes such as `\x1b`. For `"markdown"` and `"html"` whatever could begin markup becomes a
    character reference (`&#91;`); the text for `"markdown"` may also stand in HTML, and in a cell of a table, but not
    in code, where references are not decoded.

    Args:
        value: The word; anything but a string is shown as `str` gives it.
        where: What reads the result.

    Examples:
        >>> as_text("cat\x1b[31m\n")
        'cat\\x1b[31m\\n'
        >>> as_text("![x](https://example.com/a.png)", "markdown")
        '&#33;&#91;x&#93;&#40;https&#58;//example.com/a.png&#41;'
    """
    text = "".join(_visible(char) for char in str(value))
    if where == "terminal":
        return text
    return (_MARKDOWN if where == "markdown" else _HTML).sub(lambda found: f"&#{ord(found[0][0])};", text)


def _visible(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char not in _REORDERING and unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp"):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def plain_text(words: object, limit: int = 200) -> str:
    """`as_text` for a terminal, a plot or a widget that shows text, of a length that fits.

    Args:
        words: As of `as_text`.
        limit: Longer text is cut, and ends in an ellipsis.
    """
    text = as_text(str(words)[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"
