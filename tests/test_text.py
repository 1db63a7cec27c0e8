"""Strangers' words are shown as text: nothing in them moves a cursor, fetches a picture or makes a tag."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from timm_asap.text import markdown_text, plain_text

HOSTILE = [
    "![cat](https://a.example/x.png)",
    "[cat](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "&lt;b&gt;",
    "**bold** _slanted_ __x__ ~~gone~~ `code`",
    "a | b | c",
    "# heading",
    "- item",
    "1. item",
    "23) item",
    "+ item",
    "=====",
    "$$x^2$$",
    "https://a.example and www.a.example",
    "<https://a.example>",
    "back\\slash \\[x\\]",
    "snake_case_name",
    "T-shirt/top",
    "*",
    "_",
]


@pytest.mark.parametrize("words", HOSTILE)
def test_markdown_shows_the_words_themselves(words):
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(markdown_text(words))
    assert re.fullmatch(r"<p>([^<]*)</p>\n", rendered), rendered
    assert html.unescape(rendered[3:-5]) == words


@pytest.mark.parametrize("words", HOSTILE)
def test_a_cell_of_a_table_stays_one(words):
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(f"|a|b|\n|---|---|\n|{markdown_text(words)}|2|\n")
    cells = re.findall(r"<td>(.*?)</td>", rendered)
    assert [html.unescape(cell) for cell in cells] == [words, "2"]


def test_markdown_leaves_ordinary_names_as_they_are():
    for words in ("T-shirt/top", "snake_case", "Ankle boot", "C#", "naïve 猫", "rock & roll".replace("&", "and")):
        assert markdown_text(words) == words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("two\nlines\r\nand\ta tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m\x07", "[31mred[0m"),
        ("\x9b31mred", "31mred"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("a\u2028b\u2029c\u00a0d", "a b c d"),
        ("half \ud800", "half \ufffd"),
        ("👩‍🔬", "👩‍🔬"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_one_line_without_controls(words, shown):
    assert plain_text(words) == shown


def test_long_words_are_cut():
    assert plain_text("x" * 10_000_000, limit=10) == "x" * 9 + "…"
    assert len(plain_text("x" * 200)) == 200
