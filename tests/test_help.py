"""Help, versions and refusals: quick, readable at 80 columns, generated from the dataclasses."""

import dataclasses
import os
import re
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from timm_asap import cli, command_line
from timm_asap._startup import reads_flags_first
from timm_asap.errors import UserError
from timm_asap.evaluation.config import SHIFTS, EvaluateConfig
from timm_asap.evaluation.shift import ShiftKind
from timm_asap.ops.spectral import Boundary, Window

ROOT = Path(__file__).parents[1]
HELP = [["train", "--help"], *([name, "--help"] for name in cli.COMMANDS if name != "train")]


def run(*words, columns=80):
    env = {**os.environ, "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(*words):
    """The modules that a command line imports."""
    done, _ = run("-X", "importtime", *words)
    return done, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train.py", "--help"], 0),
        (["-m", "timm_asap", "evaluate", "--help"], 0),
        (["-m", "timm_asap.cli", "list", "--help"], 0),
        (["-m", "timm_asap", "--version"], 0),
        (["-m", "timm_asap", "train", "--epocs", "3"], 2),
        (["-m", "timm_asap", "heal"], 2),
        (["-m", "timm_asap", "demo", "runs/x", "--port", "many"], 2),
    ],
)
def test_help_versions_and_refused_flags_import_neither_torch_nor_timm(words, code):
    done, modules = imported(*words)
    assert done.returncode == code
    assert "tyro" in modules or "--version" in words
    assert modules.isdisjoint({"torch", "timm", "numpy", "datasets", "accelerate", "matplotlib"})


def test_every_help_is_quick():
    """Half a second on an idle core; twice that here, for tests share their cores."""
    seconds = [run("train.py", "--help")[1] for _ in range(3)]
    assert min(seconds) < 1.0, seconds


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("words", HELP, ids=lambda words: words[0])
def test_help_fits_the_screen(words, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    # a sentence goes on to the end of its line: no line of a paragraph ends where the source's does
    for line, after in pairwise(lines):
        here, there = (text.strip("│").rstrip() for text in (line, after))
        if re.match(r"\s{6}", here) and re.match(r"\s{6}\S", there):
            first = there.split()[0]
            assert len(here) + 1 + len(first) > len(line) - 5, (line, after)


@pytest.mark.parametrize("words", HELP, ids=lambda words: words[0])
def test_help_names_what_a_value_is(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(words)
    text = capsys.readouterr().out
    assert "STR" not in text
    assert "{None}" not in text
    assert "(default: None)" not in text
    assert "(default: )" not in text


def test_the_flags_are_grouped_by_concern(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    groups = ("options", "model", "data", "optimization", "augmentation", "adversarial", "runtime")
    places = [text.index(" options " if name == "options" else f" {name} options ") for name in groups]
    assert places == sorted(places)
    assert places[1] < text.index("--asap-window") < places[2] < text.index("--data-dir") < places[3]
    for name in ("csv", "arrow"):
        assert name in text[places[2] : places[3]]


def test_the_words_of_the_flags_are_those_of_the_operator():
    assert set(get_args(command_line.Window)) == {w.value for w in Window}
    assert set(get_args(command_line.Boundary)) == {b.value for b in Boundary}
    assert set(get_args(command_line.Layout)) == {"preserve", "paper"}
    assert set(SHIFTS) == {kind.value for kind in ShiftKind}


def test_versions_are_one_line(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"timm-asap \S+, torch \S+, timm \S+, Python \S+\n", capsys.readouterr().out)


def test_arguments_that_are_missing_stand_one_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["heal"]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "timm-asap: error: expected 3 arguments that are missing; timm-asap heal --help lists all:"
    assert [line.split("  ")[1] for line in others if not line.startswith("    ")] == [
        "MODEL",
        "--dataset NAME",
        "--output FOLDER",
    ]
    assert max(map(len, others)) <= 80


def test_refusals_hold_no_colors(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(UserError) as caught:
        command_line.read_flags(EvaluateConfig, ["x", "--dataset", "digits", "--limit", "many"], "x")
    assert str(caught.value) == "--limit: got 'many'; expected --limit INT"


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluate", "x", "--dataset", "digits", "--limit", "foo"], "--limit: got 'foo'; expected --limit INT"),
        (["train", "--lr", "foo"], "--lr: got 'foo'; expected --lr FLOAT"),
        (["convert", "x", "--layout", "y"], "--layout: unknown layout 'y': expected one of paper, preserve"),
        (["card"], "expected FOLDER: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refusals_are_one_clean_line_where_the_terminal_knows_ascii_alone(words, line, columns, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    done, _ = run("-m", "timm_asap", *words, columns=columns)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"timm-asap: error: {line}")
    assert done.stderr.count("\n") == 1, done.stderr


def test_every_field_has_its_help():
    for options in (EvaluateConfig,):
        for field in dataclasses.fields(options):
            owner = next(b for b in options.__mro__ if field.name in getattr(b, "__annotations__", {}))
            assert command_line._docs(owner).get(field.name), field.name


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["python", "/somewhere/bin/timm-asap", "list"], True),
        (["python", "-X", "dev", "-W", "error", "/somewhere/bin/timm-asap"], True),
        (["python", "-m", "timm_asap", "list"], True),
        (["python", "-m", "timm_asap.cli"], True),
        (["python", "-u", str(ROOT / "train.py"), "--help"], True),
        (["python", "/somewhere/train.py"], False),
        (["python", "my_program.py", "timm-asap"], False),
        (["python", "-c", "import timm_asap", "timm-asap"], False),
        (["python", "-m", "pytest"], False),
        (["python", "-m", "timm_asap_of_others"], False),
        (["python"], False),
    ],
)
def test_only_the_own_programs_import_late(words, own):
    assert reads_flags_first(words) is own


def test_another_program_finds_the_twins_registered():
    code = "import timm_asap, timm, sys; print(timm.is_model('resnet18_asap'), callable(timm_asap.convert))"
    done, _ = run("-c", code)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_ctrl_c_while_importing_is_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_path_that_is_no_folder_is_one_line(capsys):
    assert cli.main(["train", "--output", "/dev/null/x"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "/dev/null" in err
