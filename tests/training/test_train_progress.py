"""The display of a run: a bar on a terminal, plain lines elsewhere, nothing from the other processes."""

import time

import pytest

from timm_asap.training import display
from timm_asap.training.display import ProgressDisplay

RECORD = {
    "epoch": 1,
    "train_loss": 1.5,
    "train_accuracy": 40.0,
    "test_loss": 1.25,
    "test_accuracy": 50.0,
    "images_per_s": 1234.5,
}


def show(**options):
    display = ProgressDisplay(epochs=2, steps_per_epoch=5, batch_size=8, **options)
    with display:
        display.begin_epoch(0)
        for step in range(1, 6):
            display.show_step(0, step, loss=1.5, accuracy=40.0)
            time.sleep(0.01)  # rich tells the time left from the steps of a while
        display.bar.refresh()
        display.show_epoch(RECORD)
    return display


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")


def test_plain_lines_where_there_is_no_terminal(capsys):
    show()
    line = "epoch 1/2  loss 1.5000  accuracy  40.00 %  test loss 1.2500  test accuracy  50.00 %  1,234 images/s\n"
    assert capsys.readouterr().out == line


@pytest.mark.usefixtures("terminal")
def test_a_bar_on_a_terminal(capsys):
    display = show()
    out = capsys.readouterr().out
    assert "epoch 1/2" in out
    assert "loss 1.500  40.0 %" in out
    assert "img/s" in out
    assert "0:00:0" in out  # the time left
    assert display.bar.tasks[0].percentage == 50


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", range(20, 100, 7))
def test_a_narrow_terminal_breaks_the_line_between_figures(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    ProgressDisplay(epochs=2, steps_per_epoch=5, batch_size=8).show_epoch(RECORD)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= columns
    assert "  ".join(line.strip() for line in shown) == (
        "epoch 1/2  loss 1.5000  train  40.00 %  test  50.00 %  1,234 img/s"
    )


def test_a_long_epoch_says_through_a_pipe_how_far_it_is(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(display.time, "perf_counter", lambda: now[0])
    shown = ProgressDisplay(epochs=2, steps_per_epoch=10, batch_size=8)
    with shown:
        shown.begin_epoch(0)
        for step in range(1, 11):
            now[0] += 13
            shown.show_step(0, step, loss=1.5, accuracy=40.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 3/10", "step 6/10", "step 9/10"]
    assert lines[0].endswith("accuracy  40.00 %  1 images/s  about 91 s left of the epoch")


@pytest.mark.usefixtures("terminal")
def test_the_bar_of_a_continued_run_starts_where_it_was():
    display = ProgressDisplay(epochs=4, steps_per_epoch=5, batch_size=8)
    display.begin_epoch(3, 2)
    assert display.bar.tasks[0].completed == 17


@pytest.mark.usefixtures("terminal")
def test_silence_from_the_other_processes(capsys):
    show(silent=True)
    assert capsys.readouterr().out == ""
