"""The card of a run follows what is measured of it: evaluate writes it anew, or says why not; heal writes one."""

import json

import pytest

from tests.support.card_runs import QUICK, copy_run, evaluate_run, section, train_run
from tests.support.tiny_run import write_images
from timm_asap.cli import main
from timm_asap.hub.card import write_card

SHORT = (*QUICK[:-1], "--measures", "clean,corruptions")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("follow")


@pytest.fixture(scope="module")
def trained(base):
    return train_run(base, "run", "test_resnet")


@pytest.fixture
def run(trained, tmp_path):
    write_images(tmp_path / "idx")
    return copy_run(trained, tmp_path)


def test_evaluating_writes_the_card_anew(run, capsys):
    assert "Robustness was not measured" in (run / "README.md").read_text()
    evaluate_run(run, *SHORT)
    text = (run / "README.md").read_text()
    assert "Robustness was not measured" not in text
    assert "under 2 corruptions, mean" in text
    assert text.index("![What was measured of") < text.index("## Model details")
    assert "](plots/summary.png)" in text
    assert f"wrote {run / 'README.md'}" in capsys.readouterr().out


def test_a_card_written_by_hand_stays_and_the_command_is_named(run, capsys):
    (run / "README.md").write_text("# Mine\n")
    evaluate_run(run, *SHORT, "--no-plots")
    out = capsys.readouterr().out
    assert (run / "README.md").read_text() == "# Mine\n"
    assert "README.md is as it was: " in out
    assert f"to write it anew: timm-asap card {run}" in out


def test_what_the_user_wrote_stays(run):
    card = run / "README.md"
    card.write_text(card.read_text().replace("<!-- keep: notes -->", "<!-- keep: notes -->\n## Mine\n\nkept words"))
    evaluate_run(run, *SHORT, "--no-plots")
    assert "kept words" in card.read_text()


def test_an_evaluation_elsewhere_touches_no_card(run, tmp_path):
    before = (run / "README.md").read_text()
    evaluate_run(run, *SHORT, "--no-plots", "--output", str(tmp_path / "elsewhere"))
    assert (run / "README.md").read_text() == before
    assert not (tmp_path / "elsewhere" / "README.md").exists()


def test_a_healed_network_has_a_card_whose_line_names_its_data(run, tmp_path, capsys):
    data_dir, healed = tmp_path / "idx", tmp_path / "healed"
    words = ["heal", str(run), "--dataset", "idx", "--data-dir", str(data_dir), "--output", str(healed)]
    assert main([*words, "--limit", "16"]) == 0
    out, err = capsys.readouterr()
    assert f"wrote {healed / 'README.md'}" in out
    assert "timm-asap heal: " in err  # through a pipe, a line says how far it is
    record = json.loads((healed / "heal.json").read_text())
    assert (record["data_dir"], record["small"]) == ("idx", True)
    text = (healed / "README.md").read_text()
    assert "healed with images of" in text
    assert f"| accuracy on idx, test | 20 | **{record['accuracy']['healed']:.2f}** |" in text
    limits = section(text, "Limits")
    assert f"`timm-asap evaluate {healed.name} --dataset idx --data-dir idx`" in limits
    evaluate_run(healed, *SHORT, "--no-plots")
    assert "under 2 corruptions, mean" in (healed / "README.md").read_text()


def test_what_was_not_compared_is_a_table_at_the_end(run, tmp_path):
    other = copy_run(run, tmp_path / "other")
    (tmp_path / "other" / "idx").symlink_to(tmp_path / "idx")
    evaluate_run(run, *SHORT, "--no-plots")
    evaluate_run(other, *QUICK[:-1], "--measures", "clean", "--no-plots")
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    save_file({k: v + 1e-3 if v.dtype == torch.float32 else v for k, v in weights.items()}, other / "model.safetensors")
    evaluate_run(other, *QUICK[:-1], "--measures", "clean", "--no-plots", "--overwrite")
    text = write_card(run, against=other).read_text()
    assert "4 measurements are not compared; the end of this card says why." in section(text, "Limits")
    table = text[text.index("## Not compared") :]
    assert "| fog, severity 1 | `corruption/fog/1` | only" in table
    assert "corruption/fog/1" not in text[: text.index("## Not compared")].split("---\n", 2)[2]
