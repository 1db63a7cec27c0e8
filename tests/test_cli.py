"""The command line, run in this process."""

import json
import re

import pytest
import timm
import torch
import torch.nn.functional as F

import timm_asap
from timm_asap.cli import main


def test_list_shows_costs_sites_and_tags(capsys):
    assert main(["list", "resnet18"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "resnet18_asap" in line)
    name, parameters, macs, _, sites, left, size, *tags = row.split()
    assert (name, parameters, macs) == ("resnet18_asap", "11.69", "1.81")
    assert (sites, left, size) == ("8", "0", "3x224x224")
    assert "a1_in1k," in tags


def test_list_takes_patterns_with_and_without_the_suffix(capsys):
    assert main(["list", "resnet20*"]) == 0
    assert main(["list", "resnet20_lowres_asap"]) == 0
    assert capsys.readouterr().out.count("resnet20_lowres_asap") == 2


@pytest.mark.parametrize("flag", ["--license", "--licence"])
def test_list_shows_the_license_of_each_tag(flag, capsys):
    assert main(["list", "mobileone_s0", flag]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("mobileone_s0_asap.apple_in1k"))
    stated = timm.get_pretrained_cfg("mobileone_s0.apple_in1k").license
    assert re.split(r" {2,}", row.strip())[1:] == [stated, "timm/mobileone_s0.apple_in1k", "not stated by timm"]
    assert main(["list", "resnet20_lowres", flag]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["resnet20_lowres_asap.fashion_mnist", "mit", "timm_asap"] in [row[:3] for row in rows]


def test_a_license_that_timm_does_not_state_is_not_guessed(monkeypatch, capsys):
    from timm_asap.zoo import summary

    cfg = type(timm.get_pretrained_cfg("resnet18"))(hf_hub_id="timm/x", license="other")
    monkeypatch.setattr(summary, "get_arch_pretrained_cfgs", lambda twin: {f"{twin}.tag": cfg})
    assert main(["list", "resnet18", "--license"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("resnet18_asap.tag"))
    assert re.split(r" {2,}", row.strip())[1:] == ["not stated by timm", "timm/x", "not stated by timm"]


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


def test_convert_says_whether_anything_else_downsamples(capsys, monkeypatch):
    assert main(["convert", "resnet18", "--dry-run"]) == 0
    assert "complete: nothing else downsamples in a forward pass of that size" in capsys.readouterr().out
    names = {"original": timm.models.resnet.ResNet.forward_features, "F": F}
    exec("def forward_features(self, x): return F.max_pool2d(original(self, x), 3, 2)", names)  # it has no source
    monkeypatch.setattr(timm.models.resnet.ResNet, "forward_features", names["forward_features"])
    assert main(["convert", "resnet18", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "max-pool / 2 in ResNet" in out
    assert "not handled: no call in the module's source does it" in out
    assert "incomplete: 1 operations downsample as before" in out


def test_convert_warns_of_small_maps(capsys):
    assert main(["convert", "convnext_atto", "--dry-run", "--input-size", "3", "32", "32"]) == 0
    assert "warning: stages.3.downsample.1: a map of 2x2 keeps its mean alone" in capsys.readouterr().out


def test_convert_saves_the_twin_with_its_upstream_weights(hub, tmp_path, capsys):
    plain = timm.create_model("test_resnet")
    timm.models.save_for_hf(plain, tmp_path / "upstream", safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "upstream").iterdir()}
    hub.add_repo("timm/test_resnet.r160_in1k", files)
    folder = tmp_path / "converted"
    assert main(["convert", "test_resnet", "--layout", "paper", "--output", str(folder)]) == 0
    assert f'"local-dir:{folder}"' in capsys.readouterr().out.replace("\n", "")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    timm_asap.convert(plain, layout="paper")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), plain.eval()(x))
    assert "num_classes" not in json.loads((folder / "config.json").read_text())["model_args"]
    assert main(["convert", "test_resnet", "--output", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_convert_writes_nothing_where_the_weights_cannot_be_had(hub, tmp_path, capsys):
    assert main(["convert", "test_resnet", "--output", str(tmp_path / "out")]) == 2
    assert "the weights of test_resnet are not available" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lst"], "unknown command 'lst': expected one of"),
        (["list", "resnet5000"], "unknown twin 'resnet5000': closest matches: resnet50"),
        (["list", "--patern", "x"], "unknown flag '--patern': expected one of --help, --license, --no-license\n"),
        (["list", "--pattern", "x"], "--pattern is no flag: expected the value alone, timm-asap list [PATTERN]\n"),
        (["card", "--run=x"], "--run is no flag: expected the value alone, timm-asap card FOLDER\n"),
        (["evaluate", "--models", "x"], "--models is no flag: expected the value alone, timm-asap evaluate MODEL"),
        (["convert", "resnet5o", "--dry-run"], "unknown model 'resnet5o': closest matches: resnet50"),
        (["convert", "resnet18", "--dry-run", "--window", "hann"], "unknown window 'hann'"),
        (
            ["convert", "resnet18", "--dry-run", "--stem", "yes"],
            "--stem: unknown stem 'yes': expected one of auto, false, true",
        ),
        (["convert", "--dry-run"], "expected ARCHITECTURE: name of a plain architecture"),
        (["convert", "resnet18"], "expected --dry-run"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, text, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("timm-asap: error: ")
    assert text in err
