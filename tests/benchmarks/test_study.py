"""The committed study: its plan can be run, its records are complete, and its pages are made of them."""

import json
import sys

import numpy as np
import pytest
import timm
import torch

from benchmarks.report import README
from benchmarks.study import __main__ as study
from benchmarks.study import measure, networks, plan, report, tables
from benchmarks.study.figures import draw_differences, draw_eps_curves
from benchmarks.study.held_out import held_out_folder
from benchmarks.study.results import GROUPS, StudyRecord, difference, load_records
from tests.support.tiny_run import write_images
from timm_asap.data.idx import load_fashion_mnist
from timm_asap.evaluation import CORRUPTIONS
from timm_asap.training import TrainConfig, make_plan

RECORDS = load_records()
RUNS = {record.content["run"]: record for runs in RECORDS.values() for record in runs}


def test_the_plan_is_what_the_page_says():
    runs = plan.FASHION.runs()
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) == 8 * 3 + 3
    assert {f"{variant}.seed{seed}" for variant in plan.VARIANTS for seed in range(3)} <= set(names)
    assert {f"{variant}.fgsm.seed0" for variant in ("plain", "flc", "asap")} <= set(names)
    for run in runs:
        config = TrainConfig(**run.settings(), data_dir="DIR")
        assert timm.is_model(config.model)
        assert (config.epochs, config.val_share, config.seed) == (3, 0.2, run.seed)


@pytest.mark.parametrize("rival", networks.__all__)
def test_rivals_keep_the_plain_networks_parameters_and_sizes(rival):
    torch.manual_seed(0)
    plain, other = timm.create_model("resnet20_lowres").eval(), timm.create_model(rival).eval()
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in plain.parameters())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        sizes = [features.shape for features in other.forward_intermediates(x)[1]]
        assert sizes == [features.shape for features in plain.forward_intermediates(x)[1]]
    strides = [m.stride for m in other.modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)]
    assert rival != "resnet20_lowres_blur" or not strides
    assert other.pretrained_cfg["architecture"] == rival


@pytest.mark.parametrize("rival", networks.__all__)
def test_rivals_are_saved_and_loaded_with_their_weights(rival, tmp_path):
    model = timm.create_model(rival, num_classes=4, in_chans=1).eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))
    assert type(loaded.layer2[0].downsample[0]) is type(model.layer2[0].downsample[0])


def test_held_out_images_are_those_that_no_seed_trains_on(tmp_path):
    data = write_images(tmp_path / "data")
    folder = held_out_folder(tmp_path / "work", str(data))
    whole, held_out = load_fashion_mnist(data), load_fashion_mnist(folder)
    assert len(held_out.test) == round(0.2 * len(whole.train))
    for seed in (0, 1):
        config = TrainConfig(dataset="idx", data_dir=str(data), val_share=0.2, seed=seed, batch_size=16)
        val = make_plan(config).dataset.val
        assert torch.equal(val.images, held_out.test.images)
        assert torch.equal(val.labels, held_out.test.labels)


def test_differences_are_paired_by_image_and_clear_only_where_seeds_agree():
    rng = np.random.default_rng(0)
    base = rng.random(2000) < 0.5
    better = base | (rng.random(2000) < 0.1)
    d = difference([better, better], [base, base])
    assert d.gain == pytest.approx(100 * (better.mean() - base.mean()))
    assert d.low < d.gain < d.high
    assert d.high - d.low < 3  # unpaired, it would be 6
    assert d.is_clear
    assert not difference([better, base], [base, base]).is_clear
    worse = base & (rng.random(2000) < 0.98)
    mixed = difference([better, worse], [base, base])
    assert mixed.low > 0
    assert not mixed.is_clear


@pytest.mark.parametrize("name", RUNS)
def test_records_are_complete_and_follow_the_plan(name):
    record = RUNS[name]
    # bfloat16 or not, these are the same weights on the same images; held-out images come from the same source
    assert record.content["training"]["test_accuracy"] == pytest.approx(100 * record.clean.mean(), abs=0.3)
    assert record.held_out_accuracy == pytest.approx(100 * record.clean.mean(), abs=3)
    run = next(run for run in plan.FASHION.runs() if run.name == name)
    assert record.content["settings"] == json.loads(json.dumps(run.settings()))
    assert len(record.content["epochs"]) == plan.RECIPE["epochs"]
    assert len(record.clean) == 10_000
    assert record.content["clean"]["results"][0]["accuracy"] == pytest.approx(100 * record.clean.mean())
    corruptions = {(r["corruption"], r["severity"]) for r in record.results("robustness", "corruption")}
    assert corruptions == {(name, severity) for name in CORRUPTIONS for severity in range(1, 6)}
    attacks = {(r["attack"], round(255 * r["eps"], 1)) for r in record.results("robustness", "attack")}
    assert attacks == {(attack, eps) for attack in ("fgsm", "pgd") for eps in (0.5, 1, 2, 4, 8)}
    for part in plan.FASHION.parts:
        for result in record.content.get(part, {"results": []})["results"]:
            if result["measure"] != "aliasing":
                shown = result.get("accuracy", result.get("consistency"))
                assert shown == pytest.approx(100 * record.right[f"{part}/{result['id']}"].mean()), result["id"]


def test_the_main_variants_were_measured():
    assert {"plain", "asap", "asap_paper", "flc"} <= set(RECORDS)


def test_of_one_seed_nothing_is_called_clear():
    few = {name: RECORDS[name][:1] for name in ("plain", "asap")}
    assert "**" not in tables.differences(few) + tables.summary(few)
    assert len(tables.wins_and_losses(few).splitlines()) == 2


def test_the_page_is_generated_from_the_records():
    assert report.PAGE.read_text(encoding="utf-8") == report.page(RECORDS), "run `python -m benchmarks.study.report`"


def test_tables_show_the_records():
    plain = RECORDS["plain"]
    first = tables.accuracies(RECORDS).splitlines()[2]
    assert f"| plain stride | {len(plain)} | {np.mean([100 * r.clean.mean() for r in plain]):.2f}" in first
    assert len(first.split("|")) == len(GROUPS) + 5
    assert tables.summary(RECORDS).splitlines()[2] in README.read_text(encoding="utf-8")


def test_a_variant_that_is_worse_is_shown_as_worse():
    plain = RECORDS["plain"]
    worse = [StudyRecord(r.content, {k: v & (np.arange(len(v)) % 4 > 0) for k, v in r.right.items()}) for r in plain]
    shown = {"plain": plain, "asap": worse}
    row = tables.wins_and_losses(shown).splitlines()[2].split("|")
    assert row[2].strip() == "-"
    assert "clean -2" in row[3]
    assert "**-" in tables.differences(shown)


def test_differences_compare_the_same_seeds():
    plain, first = RECORDS["plain"], RECORDS["asap"][:1]
    assert tables.clean_difference(first, plain) == tables.clean_difference(first, plain[:1])
    assert tables.clean_difference(first, plain[::-1]) == tables.clean_difference(first, plain[:1])
    assert tables.clean_difference(RECORDS["asap"], plain).by_seed[0] == tables.clean_difference(first, plain).gain
    (row,) = tables.differences({"plain": plain, "asap": first}, "asap").splitlines()[2:]
    assert row.startswith("| plain stride | 1 |")


def test_figures_are_drawn_of_any_records():
    few = {name: RECORDS[name][:1] for name in ("plain", "asap")}
    assert draw_differences(few).axes[0].get_yticklabels()[0].get_text() == "gaussian noise"
    assert [axis.get_title() for axis in draw_eps_curves(few).axes] == ["FGSM", "PGD, 20 steps"]


@pytest.mark.slow
def test_the_study_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    data = write_images(tmp_path / "data")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setitem(plan.RECIPE, "epochs", 1)
    monkeypatch.setitem(plan.RECIPE, "batch_size", 16)
    for settings in plan.FASHION.parts.values():
        monkeypatch.setitem(settings, "limit", 16)
        monkeypatch.setitem(settings, "limit_attacks", 4)
    words = ["--data-dir", str(data), "--work", str(tmp_path / "work"), "--only", "plain.seed0"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.study", *words])
    study.main()
    (record,) = load_records(tmp_path / plan.FASHION.name)["plain"]
    assert set(plan.FASHION.parts) <= set(record.content)
    assert "plain.seed0: trained" in capsys.readouterr().out
    study.main()
    assert "plain.seed0" not in capsys.readouterr().out  # nothing is done twice
