"""Words of strangers are shown as text, wherever they appear."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from timm_asap.text import as_text, plain_text

NASTY = [
    "![x](http://127.0.0.1/a.png)",
    "[click](http://127.0.0.1)",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "**bold** _it_ `code` ~~gone~~",
    "http://127.0.0.1/a https://example.com www.example.com",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "10. item",
    "> quote",
    "---",
    "===",
    "a | b | c",
    "&lt;b&gt; &#91;",
    "a\\*b",
    "$x^2$ {{ 7 * 7 }} :smile: @someone",
    "![ref][1]\n\n[1]: http://127.0.0.1/a.png",
    "~~~\ncode",
    "    code",
    "a\nb",
]


@pytest.mark.parametrize("name", NASTY)
def test_markdown_and_html_show_the_word_itself(name):
    shown = as_text(name, "markdown")
    markdown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(f"a {shown}")
    assert re.sub(r"<(/?)p>\n?", "", markdown).strip() == f"a {_escaped(as_text(name))}".rstrip()
    assert set(re.findall(r"</?(\w+)", MarkdownIt("commonmark").render(shown.strip()))) <= {"p"}
    for html in (as_text(name, "html"), shown):
        seen = _Text()
        seen.feed(html)
        assert seen.text == as_text(name)
        assert seen.tags == []


def test_bare_addresses_are_no_links():
    shown = as_text("see http://a.bc, https://a.bc, www.a.bc, WWW.a.bc or mailto:a@b.cd", "markdown")
    assert "://" not in shown
    assert "www." not in shown.lower()
    assert "@" not in shown


def _escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_a_cell_of_a_table_stays_one_cell():
    table = f"| a | b |\n|---|---|\n| {as_text('x | y', 'markdown')} | z |"
    assert MarkdownIt("gfm-like", {"linkify": False}).render(table).count("<td>") == 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("T-shirt/top", "T-shirt/top"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31mred", r"\x9b31mred"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("\x00\x7f", r"\x00\x7f"),
        ("família 猫 👩\u200d🔬", "família 猫 👩\u200d🔬"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(name, shown):
    assert as_text(name) == shown
    assert as_text(name).encode()


def test_long_words_are_cut():
    assert plain_text("x" * 10_000_000, limit=10) == "x" * 9 + "…"
    assert plain_text("x" * 200) == "x" * 200
    assert plain_text("two\nlines\x1b[2J") == r"two\nlines\x1b[2J"
