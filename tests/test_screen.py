"""What commands show: nothing is cut at any width, and a long command is never silent."""

import io
import re

import pytest
from rich.console import Console

from timm_asap.screen import Column, ProgressDisplay, ScreenTable, duration, fit_segments, print_text

ROWS = [
    ("resnet50_asap", "25.56", "4.11", "a1_in1k, a1h_in1k, a2_in1k, a3_in1k, b1k_in1k, b2k_in1k"),
    ("vit_base_resnet26d_224_asap", "101.38", "6.97", "-"),
]


@pytest.fixture
def table():
    made = ScreenTable(
        [
            Column("name"),
            Column("parameters (M)", right=True, short="M", drop=1),
            Column("GMACs", right=True, drop=0),
            Column("tags", wraps=True),
        ]
    )
    for row in ROWS:
        made.add(*row)
    return made


def test_a_file_gets_a_line_for_each_row(table):
    lines, _ = table.render(None)
    assert lines[0].split() == ["name", "parameters", "(M)", "GMACs", "tags"]
    assert len(lines) == 2 + len(ROWS)
    for line, row in zip(lines[2:], ROWS, strict=True):
        assert re.split(r"  +", line) == list(row)


@pytest.mark.parametrize("width", range(10, 130))
def test_no_width_cuts_a_number_or_a_name(table, width):
    lines, styles = table.render(width)
    assert len(styles) <= len(lines)
    longest = max(len(word) for row in ROWS for word in row[0].split())
    assert all(len(line) <= max(width, longest) for line in lines)
    words = " ".join(lines).split()
    for name, parameters, macs, tags in ROWS:
        assert name in words
        assert set(tags.split()) <= set(words)
        assert parameters in words or "parameters (M)" in " ".join(words)
        assert macs in words or "GMACs" in " ".join(words)


def test_what_does_not_fit_goes_step_by_step(table):
    def shown(width):
        return table.render(width)[0]

    assert shown(100)[0].startswith("name")
    assert "M = parameters (M)" in shown(64)
    assert any(line.startswith("left out in 58 columns: GMACs; a wider") for line in shown(58))
    assert shown(40)[:4] == [
        "resnet50_asap",
        "  parameters (M) 25.56",
        "  GMACs 4.11",
        "  tags a1_in1k, a1h_in1k, a2_in1k,",
    ]


def test_wide_letters_take_two_columns():
    table = ScreenTable([Column("name"), Column("n", right=True)])
    table.add("猫", "1")
    table.add("ab", "2")
    assert table.render(None)[0][2:] == ["猫    1", "ab    2"]


def test_a_row_of_the_wrong_length_is_a_mistake_of_ours(table):
    with pytest.raises(ValueError, match="expected 4 cells, got 1"):
        table.add("x")


def test_segments_go_on_in_further_lines():
    segments = ["epoch 1/8", "loss 1.5000", "accuracy 40.00 %", "1,234 images/s"]
    assert fit_segments(segments, None) == "epoch 1/8  loss 1.5000  accuracy 40.00 %  1,234 images/s"
    assert fit_segments(segments, 40) == "epoch 1/8  loss 1.5000  accuracy 40.00 %\n  1,234 images/s"
    assert fit_segments(segments, 5) == "\n".join(segments)


def test_sentences_break_at_blanks_in_a_terminal_and_nowhere_else():
    text = "95 % percentile interval of the difference [bold], bootstrap over images\n  short: 1"
    for terminal, width in ((True, 40), (True, 20), (False, 40)):
        file = io.StringIO()
        print_text(text, Console(file=file, width=width, force_terminal=terminal, color_system=None))
        lines = file.getvalue().splitlines()
        if not terminal:
            assert file.getvalue() == text + "\n"
            continue
        assert max(map(len, lines)) <= width
        assert " ".join(lines).split() == text.split()
        assert lines[-1] == "  short: 1"


def test_durations_are_about_right():
    assert [duration(s) for s in (3, 99, 150, 5000, 12_600)] == ["3 s", "99 s", "2 min", "83 min", "3.5 h"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_pipe_gets_a_line_every_so_often(capsys):
    clock = Clock()
    with ProgressDisplay(200, name="timm-asap evaluate", clock=clock) as display:
        display.begin("net  fog")
        for _ in range(10):
            clock.now += 10
            display.advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "timm-asap evaluate: net  fog",
        "timm-asap evaluate: net  fog, 15 %, about 2.8 min left".replace("2.8", "3"),
        "timm-asap evaluate: net  fog, 30 %, about 2 min left",
        "timm-asap evaluate: net  fog, 45 %, about 2 min left",
    ]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "60")
    with ProgressDisplay(4, name="timm-asap heal") as display:
        display.begin("healing")
        display.advance(3)
        display._bar.refresh()
    err = capsys.readouterr().err
    assert "healing" in err
    assert "75%" in err
    assert "timm-asap heal:" not in err


def test_the_other_processes_say_nothing(capsys):
    with ProgressDisplay(4, silent=True) as display:
        display.begin("x")
        display.advance(4)
    assert capsys.readouterr() == ("", "")


def test_a_short_command_says_nothing_of_its_progress(capsys):
    clock = Clock()
    with ProgressDisplay(4, after=5, clock=clock) as display:
        display.begin("measuring")
        clock.now = 4
        display.advance()
        assert capsys.readouterr().err == ""
        clock.now = 6
        display.advance()
    assert "measuring, 50 %" in capsys.readouterr().err
