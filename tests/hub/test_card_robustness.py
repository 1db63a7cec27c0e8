"""What an evaluation adds to a card: its numbers and intervals, wins beside losses, and what stays unknown."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import timm_asap
from tests.support.card_runs import QUICK, change_json, copy_run, evaluate_run, section, train_run
from timm_asap.errors import UserError
from timm_asap.evaluation import compare, read_record
from timm_asap.evaluation.per_image import write_per_image
from timm_asap.hub import check_card, write_card


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An evaluated twin and its evaluated plain network."""
    base = tmp_path_factory.mktemp("robustness")
    twin, plain = (train_run(base, name, name) for name in ("test_resnet_asap", "test_resnet"))
    for run in (twin, plain):
        evaluate_run(run, *QUICK)
    return twin, plain


@pytest.fixture
def twin(runs, tmp_path):
    return copy_run(runs[0], tmp_path)


@pytest.fixture
def plain(runs):
    return runs[1]


def results_of(run):
    return {result["id"]: result for result in json.loads((run / "evaluation.json").read_text())["results"]}


def card_of(run, **kwargs):
    text = write_card(run, **kwargs).read_text()
    check_card(text)
    return text


def test_model_index_holds_every_accuracy_and_how_it_was_measured(twin):
    found = {r.metric_name: r.metric_value for r in ModelCard(card_of(twin)).data.eval_results}
    results = results_of(twin)

    def mean(*ids):
        return round(sum(results[i]["accuracy"] for i in ids) / len(ids), 2)

    about = "severity 1, 3, cifar parameters, seed 0, 20 images"
    by = f"1 start, seed 0, timm_asap {timm_asap.__version__}, 12 images"
    fog, contrast = (("corruption/fog/1", "corruption/fog/3"), ("corruption/contrast/1", "corruption/contrast/3"))
    assert found == {
        "accuracy (percent), clean, 20 images": mean("clean"),
        f"accuracy (percent), under corruption, fog, {about}": mean(*fog),
        f"accuracy (percent), under corruption, contrast, {about}": mean(*contrast),
        f"accuracy (percent), under corruption, mean of 2 corruptions, {about}": mean(*fog, *contrast),
        f"accuracy (percent), under fgsm, linf, eps 2/255, 1 step of 2/255, {by}": mean("attack/fgsm-linf/0.00784314"),
        f"accuracy (percent), under pgd, linf, eps 2/255, 2 steps of 2.5/255, {by}": mean("attack/pgd-linf/0.00784314"),
    }


def test_tables_hold_the_numbers_of_the_record(twin):
    text, results = card_of(twin), results_of(twin)
    clean, pgd, shift = (results[i] for i in ("clean", "attack/pgd-linf/0.00784314", "shift/circular/1"))
    interval = "[{:.2f}, {:.2f}]".format
    assert f"| {clean['accuracy']:.2f} | {interval(*clean['interval'])} | {clean['loss']:.4f} |" in section(
        text, "Results"
    )
    fog = [results[f"corruption/fog/{severity}"]["accuracy"] for severity in (1, 3)]
    assert f"| fog | {fog[0]:.2f} | {fog[1]:.2f} | {sum(fog) / 2:.2f} [" in section(text, "Common corruptions")
    assert f"| 2/255 | 12 | {pgd['accuracy']:.2f} | {interval(*pgd['interval'])} |" in section(
        text, "Adversarial attacks"
    )
    shifted = f"| circular | 1 | 20 | {shift['consistency']:.2f} | {interval(*shift['interval'])} |"
    assert shifted in section(text, "Shifts")
    sites = [i.removeprefix("aliasing/") for i in results if i.startswith("aliasing/")]
    assert sites
    assert all(f"| `{site}` |" in section(text, "Aliasing") for site in sites)
    assert "hendrycks2019benchmarking" in text


def test_intervals_of_means_are_those_of_resampled_images(twin):
    right, ids = read_record(twin).per_image()
    generator = np.random.default_rng(1)
    for severity in (1, 3):  # the images decide, not the severities
        right[f"corruption/fog/{severity}"] = torch.from_numpy((np.arange(20) < 9).astype(np.uint8))
    write_answers(twin, right, ids)
    answers = np.arange(20) < 9
    drawn = 100 * answers[generator.integers(20, size=(20_000, 20))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    row = next(line for line in section(card_of(twin), "Common corruptions").splitlines() if line.startswith("| fog"))
    shown = [float(word.strip("[],")) for word in row.split("|")[-2].split()[1:]]
    assert shown == pytest.approx([low, high], abs=1.0)


def test_clean_accuracy_of_the_attacked_images(twin):
    right, ids = read_record(twin).per_image()
    right["clean"] = torch.isin(ids["clean"], ids["attack"][:9]).to(torch.uint8)
    write_answers(twin, right, ids)
    assert "Of these images as they are, 75.00 % are classified right." in card_of(twin)


def write_answers(run, right, ids):
    weights = json.loads((run / "evaluation.json").read_text())["model"]["weights_sha256"]
    write_per_image(run / "evaluation.safetensors", right, ids, weights, {})


def test_without_answers_per_image_means_have_no_interval(twin):
    (twin / "evaluation.safetensors").unlink()
    text = card_of(twin)
    assert "| all | " in text
    assert "[" not in section(text, "Common corruptions").partition("| fog")[2].partition("\n")[0]
    assert "Of these images as they are" not in text


def test_plots_are_shown_where_they_are(twin):
    assert "plots/attacks.png" not in card_of(twin)
    (twin / "plots" / "attacks.png").write_bytes(b"")
    assert "](plots/attacks.png)" in section(card_of(twin), "Adversarial attacks")


def test_limits_tell_what_is_not_known(twin):
    change_json(twin / "evaluation.json", summary__gradient_masking=["Square finds more than PGD"])
    content = json.loads((twin / "evaluation.json").read_text())
    content["results"] = [r for r in content["results"] if r["measure"] not in ("shift", "aliasing")]
    content["results"][1]["approximate"] = "rather round"
    (twin / "evaluation.json").write_text(json.dumps(content))
    text = card_of(twin)
    limits = section(text, "Limits")
    assert "Not measured: shifts, aliasing." in limits
    assert "Corruptions: 2 of the usual 15, at severity 1, 3" in limits
    assert "(*): fog: rather round." in limits
    assert "Attacked by fgsm, pgd alone" in limits
    assert "Doubt about the attacks (*): Square finds more than PGD" in limits
    assert "Not compared with the plain network" in limits
    assert "### Shifts" not in text
    assert "| fog * |" in text


def test_an_evaluation_of_other_weights_is_not_shown(twin):
    change_json(twin / "evaluation.json", model__weights_sha256="0" * 64)
    text = card_of(twin)
    assert "### Common corruptions" not in text
    assert "was measured on older weights alone" in section(text, "Limits")
    assert "--overwrite`" in section(text, "Limits")
    assert len(ModelCard(text).data.eval_results) == 1


def test_against_the_plain_network(twin, plain):
    text = card_of(twin, against=plain)
    found = section(text, "Against test_resnet")
    compared = compare(read_record(plain), read_record(twin))
    counts = [compared.count(verdict) for verdict in ("win", "loss", "tie")]
    assert "This model has {} wins, {} losses and {} ties".format(*counts) in found
    assert "trained with `timm-asap train" in found
    assert "paired by image" in found
    row = next(row for row in compared.rows if row.id == "clean")
    interval = "[{:+.2f}, {:+.2f}]".format(*row.interval)
    numbers = f"{row.baseline:.2f} | {row.model:.2f} | {row.difference:+.2f} | {interval}"
    assert f"| clean | accuracy | {row.verdict} | {numbers} |" in found
    assert "| fog, mean of 2 |" in found
    assert "fog, severity 1" not in found
    assert "| pgd, linf, eps 2/255 |" in found
    assert "| circular shift, 1 pixel |" in found
    assert "Not compared with the plain network" not in text
    assert str(plain.parent) not in text
    assert str(plain.parent) not in (twin / "comparison.json").read_text()


def test_losses_are_shown(twin, plain, tmp_path):
    better = copy_run(plain, tmp_path / "other")
    text = card_of(twin, against=better)
    verdicts = {line.split("|")[3].strip() for line in section(text, "Against test_resnet").splitlines() if "[" in line}
    flipped = {"win": "loss", "loss": "win", "tie": "tie"}
    again = card_of(better, against=twin)
    other = {
        line.split("|")[3].strip() for line in section(again, "Against test_resnet_asap").splitlines() if "[" in line
    }
    assert {flipped[verdict] for verdict in verdicts} == other


def test_a_comparison_stays_in_later_cards(twin, plain):
    text = card_of(twin, against=plain)
    assert card_of(twin) == text


def test_a_comparison_of_an_older_evaluation_is_refused(twin, plain):
    card_of(twin, against=plain)
    before = (twin / "README.md").read_text()
    change_json(twin / "evaluation.json", summary__clean_accuracy=1.0)
    with pytest.raises(
        UserError, match=r"comparison.json was made of an older evaluation: `timm-asap card \S+ --against"
    ):
        write_card(twin)
    assert (twin / "README.md").read_text() == before
    card_of(twin, against=plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "is of the same weights"),
        ({"model__weights_sha256": "0" * 64, "data__name": "other"}, "measured on other data"),
    ],
)
def test_what_cannot_be_compared(twin, tmp_path, change, message):
    (tmp_path / "record").mkdir()
    record = tmp_path / "record" / "evaluation.json"
    record.write_text((twin / "evaluation.json").read_text())
    change_json(record, **change)
    with pytest.raises(UserError, match=message):
        write_card(twin, against=record)
    assert not (twin / "comparison.json").exists()


def test_nan_in_an_evaluation_is_refused(twin):
    text = (twin / "evaluation.json").read_text()
    (twin / "evaluation.json").write_text(text.replace('"clean_accuracy": ', '"clean_accuracy": NaN, "was": ', 1))
    with pytest.raises(UserError, match=r"evaluation.json holds NaN: expected numbers that were measured"):
        write_card(twin)
