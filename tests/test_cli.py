"""The command line, run in this process."""

import pytest

from timm_asap.cli import main


def test_list_shows_costs_sites_and_tags(capsys):
    assert main(["list", "resnet18"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "resnet18_asap" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:4] == ["resnet18_asap", "11.69", "1.81", cells[3]]
    assert cells[4:7] == ["8", "0", "3x224x224"]
    assert "a1_in1k" in cells[7]


def test_list_takes_patterns_with_and_without_the_suffix(capsys):
    assert main(["list", "resnet20*"]) == 0
    assert main(["list", "resnet20_lowres_asap"]) == 0
    assert capsys.readouterr().out.count("resnet20_lowres_asap") == 2


def test_convert_dry_run_tells_every_site(capsys):
    assert main(["convert", "convnext_atto", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "stem.0" in out
    assert "left: a patchify stem (stride 4); stem=True converts it" in out
    assert out.count("low-pass, then the layer") == 3
    assert main(["convert", "resnet20_lowres_asap", "--dry-run", "--layout", "paper"]) == 0
    out = capsys.readouterr().out
    assert out.count("pool, then the layer at stride 1") == 4
    assert "16x32x32" in out


def test_convert_warns_of_small_maps(capsys):
    assert main(["convert", "convnext_atto", "--dry-run", "--input-size", "3", "32", "32"]) == 0
    assert "warning: stages.3.downsample.1: a map of 2x2 keeps its mean alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lst"], "unknown command 'lst': expected one of"),
        (["list", "resnet5000"], "unknown twin 'resnet5000': closest matches: resnet50"),
        (["list", "--patern", "x"], "unknown flag '--patern'"),
        (["convert", "resnet5o", "--dry-run"], "unknown model 'resnet5o': closest matches: resnet50"),
        (["convert", "resnet18", "--dry-run", "--window", "hann"], "unknown window 'hann'"),
        (
            ["convert", "resnet18", "--dry-run", "--stem", "yes"],
            "--stem: expected auto, true or false, got 'yes'",
        ),
        (["convert", "--dry-run"], "architecture"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, text, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("timm-asap: error: ")
    assert text in err
