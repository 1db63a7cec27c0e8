"""`timm-asap evaluate`: the record against what is worked out by hand, interrupts, and several models."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from tests.support.tiny_evaluation import QUICK, evaluate, record_of, write_model
from timm_asap.adversarial import AttackSpec, PixelModel, run_attack
from timm_asap.cli import main
from timm_asap.data import load_dataset
from timm_asap.evaluation import EvaluateConfig, corrupt
from timm_asap.evaluation import evaluate as evaluate_config
from timm_asap.evaluation.measurements import AttackMeasurement, CorruptionMeasurement
from timm_asap.evaluation.models import open_model
from timm_asap.evaluation.shift import ShiftSpec, shift_consistency


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "digits_resnet")


@pytest.fixture(scope="module")
def twin_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("twin") / "digits_resnet_twin", "test_resnet_asap")


@pytest.fixture(scope="module")
def evaluated(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "first"
    assert evaluate(model_folder, *QUICK, "--output", folder) == 0
    return folder


def per_image(folder):
    with safe_open(folder / "evaluation.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def without_spectra(record):
    return [{k: v for k, v in result.items() if k != "spectrum"} for result in record["results"]]


def test_the_record_says_what_was_measured_of_what_on_what(evaluated, model_folder):
    record = record_of(evaluated)
    assert record["version"] == 1
    opened = open_model(str(model_folder))
    assert record["model"] | {"weights_sha256": None} == {
        "name": "digits_resnet",
        "architecture": "test_resnet",
        "asap": None,
        "parameters": sum(p.numel() for p in opened.network.parameters()),
        "weights_sha256": None,
        "input_size": [1, 32, 32],
        "mean": [0.3054],
        "std": [0.3237],
    }
    data = record["data"]
    assert (data["name"], data["hub_id"], data["split"]) == ("digits", None, "held-out fifth, seed 0")
    assert (data["images"], data["classes"], data["label_names"]) == (360, 10, [str(n) for n in range(10)])
    produced = record["produced_by"]
    assert produced["command"].startswith("timm-asap evaluate digits_resnet --dataset digits ")
    assert str(model_folder.parent) not in json.dumps(record)
    assert (produced["processes"], produced["batch_size"]) == (1, 16)
    assert produced["versions"]["timm"]
    ids = [result["id"] for result in record["results"] if result["measure"] != "aliasing"]
    assert ids == [
        "clean",
        *(f"corruption/{name}/{severity}" for name in ("fog", "gaussian_noise") for severity in (1, 3)),
        *(f"attack/{name}-linf/{eps}" for name in ("fgsm", "pgd") for eps in ("0.00196078", "0.00784314")),
        "shift/circular/0.5",
        "shift/circular/2",
    ]
    sites = [result["site"] for result in record["results"] if result["measure"] == "aliasing"]
    assert "layer2.0.conv1" in sites
    summary = record["summary"]
    assert summary["clean_accuracy"] == record["results"][0]["accuracy"]
    assert summary["corruption_accuracy"] is None  # not all fifteen
    assert summary["mce"] is summary["mce_reference"] is None


def test_every_number_is_what_the_model_does(evaluated, model_folder):
    """Each entry against the parts that it is made of, called one image set at a time."""
    opened = open_model(str(model_folder))
    model = PixelModel(opened.network, opened.pixels.mean, opened.pixels.std).eval()
    right, metadata = per_image(evaluated)
    assert metadata["weights_sha256"] == opened.weights_sha256
    test = load_dataset("digits").test
    ids, few = right["sample_ids/clean"], right["sample_ids/attack"]
    assert len(ids) == 40
    assert set(few.tolist()) < set(ids.tolist())
    assert torch.equal(ids, ids.sort().values)
    pixels, labels = test.images.float() / 255, test.labels
    for result in record_of(evaluated)["results"]:
        if result["measure"] == "clean":
            images, spec = pixels[ids], None
        elif result["measure"] == "corruption":
            images = corrupt(pixels[ids], result["corruption"], result["severity"], "cifar", 0, ids)
        elif result["measure"] == "attack":
            steps = 3 if result["attack"] == "pgd" else None
            spec = AttackSpec(result["attack"], result["eps"], steps=steps)
            expected = run_attack(model, pixels[few], labels[few], spec, few).robust
        elif result["measure"] == "shift":
            spec = ShiftSpec(result["kind"], result["pixels"])
            expected = shift_consistency(model, pixels[ids], spec, ids)
        else:
            continue
        if result["measure"] in ("clean", "corruption"):
            with torch.no_grad():
                scores = model(images)
            expected = scores.argmax(dim=1) == labels[ids]
            assert result["loss"] == pytest.approx(F.cross_entropy(scores, labels[ids]).item(), rel=1e-4)
        assert torch.equal(right[result["id"]].bool(), expected), result["id"]
        share = result["consistency" if result["measure"] == "shift" else "accuracy"]
        assert share == pytest.approx(100 * expected.double().mean().item())
        assert result["images"] == len(expected)
        assert result["interval"][0] <= share <= result["interval"][1]


def test_the_batch_size_does_not_matter(evaluated, model_folder, tmp_path):
    assert evaluate(model_folder, *QUICK, "--batch-size", "7", "--output", tmp_path / "e") == 0
    ours, theirs = (without_spectra(record_of(folder)) for folder in (evaluated, tmp_path / "e"))
    assert per_image(evaluated)[0].keys() == per_image(tmp_path / "e")[0].keys()
    for name, vector in per_image(evaluated)[0].items():
        assert torch.equal(vector, per_image(tmp_path / "e")[0][name]), name
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == (pytest.approx(b[key], rel=1e-4) if isinstance(a[key], float) else b[key])


def test_a_run_folder_gets_its_record_beside_the_model(tmp_path):
    run = write_model(tmp_path / "run")
    assert evaluate(run, "--dataset", "digits", "--limit", "20", "--measures", "clean", "--no-plots") == 0
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "evaluation.json",
        "evaluation.safetensors",
        "model.safetensors",
    ]
    assert [result["id"] for result in record_of(run)["results"]] == ["clean"]


def interrupt_after(monkeypatch, calls, cell=AttackMeasurement):
    """Ctrl-C in the middle of a later batch of that kind of measurement; returns how often each ran."""
    ran = []
    whole = cell.run

    def run(self, model, batch):
        ran.append(self.id)
        if len(ran) == calls:
            raise KeyboardInterrupt
        return whole(self, model, batch)

    monkeypatch.setattr(cell, "run", run)
    return ran


@pytest.mark.parametrize(
    ("calls", "cell"), [(2, AttackMeasurement), (5, AttackMeasurement), (3, CorruptionMeasurement)]
)
def test_an_interrupted_evaluation_goes_on(calls, cell, evaluated, model_folder, tmp_path, monkeypatch, capsys):
    flags = [model_folder, *QUICK, "--output", tmp_path / "e"]
    with monkeypatch.context() as patch:
        # one call is the trial of a corruption before the start
        interrupt_after(patch, calls, cell)
        with pytest.raises(SystemExit) as stop:
            evaluate(*flags)
    assert stop.value.code == 130
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("timm-asap evaluate ")
    assert told.endswith("--resume")
    assert not (tmp_path / "e" / "evaluation.json").exists()

    ran = interrupt_after(monkeypatch, -1, cell)
    assert main(told.split()[1:]) == 0
    assert without_spectra(record_of(tmp_path / "e")) == without_spectra(record_of(evaluated))
    ours, theirs = per_image(evaluated)[0], per_image(tmp_path / "e")[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "e" / "evaluation.partial.safetensors").exists()
    batches = (
        8 if cell is AttackMeasurement else 13
    )  # two batches for each attack; three for each corruption, and a trial
    trial = 0 if cell is AttackMeasurement else 1
    assert len(ran) == batches - (calls - 1) + trial


def test_a_finished_evaluation_is_not_measured_again(evaluated, model_folder, monkeypatch, capsys):
    before = record_of(evaluated)
    ran = interrupt_after(monkeypatch, -1)
    assert evaluate(model_folder, *QUICK, "--output", evaluated, "--resume") == 0
    assert ran == []
    assert record_of(evaluated) == before
    assert "clean accuracy" in capsys.readouterr().out


def test_resume_refuses_what_would_change_the_numbers(evaluated, model_folder, tmp_path, capsys):
    def refusal(*words):
        assert evaluate(*words, "--output", evaluated) == 2
        return capsys.readouterr().err

    assert "already holds an evaluation: --resume" in refusal(model_folder, *QUICK)
    assert "--steps was 3 there, got 4" in refusal(model_folder, *QUICK, "--steps", "4", "--resume")
    assert "--batch-size was 16 there, got 8" in refusal(model_folder, *QUICK, "--batch-size", "8", "--resume")
    other = write_model(tmp_path / "other", seed=1)
    assert "the model's weights was" in refusal(other, *QUICK, "--resume")
    before = record_of(evaluated)
    assert before["model"]["name"] == "digits_resnet"


def test_overwrite_replaces_an_evaluation(model_folder, twin_folder, tmp_path):
    few = ["--dataset", "digits", "--limit", "20", "--measures", "clean", "--no-plots", "--output", tmp_path / "e"]
    assert evaluate(model_folder, *few) == 0
    assert evaluate(twin_folder, *few, "--overwrite") == 0
    assert record_of(tmp_path / "e")["model"]["asap"] == {
        "window": "asap",
        "boundary": "circular",
        "layout": "preserve",
        "stem": "auto",
    }


def test_several_models_share_a_table_and_plots(model_folder, twin_folder, tmp_path, capsys):
    quick = [word for word in QUICK if word != "--no-plots"]
    assert evaluate(model_folder, twin_folder, *quick, "--output", tmp_path / "both") == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if "measurement" in line and "digits_resnet_twin" in line)
    assert "digits_resnet " in header
    for folder in (tmp_path / "both", tmp_path / "both" / "digits_resnet", tmp_path / "both" / "digits_resnet_twin"):
        assert {"corruptions.png", "attacks.png", "shift.png", "aliasing.png"} <= {
            path.name for path in (folder / "plots").iterdir()
        }
    assert (tmp_path / "both" / "digits_resnet" / "plots" / "contact_sheet.png").stat().st_size > 5000
    twin = record_of(tmp_path / "both" / "digits_resnet_twin")
    converted = [r for r in twin["results"] if r["measure"] == "aliasing" and r["status"] == "converted"]
    assert converted
    assert all(result["above_nyquist"] < 1e-6 for result in converted)


def test_mce_against_a_reference(model_folder, twin_folder, tmp_path, capsys):
    words = ["--dataset", "digits", "--limit", "20", "--measures", "corruptions", "--no-plots"]
    assert evaluate(twin_folder, *words, "--output", tmp_path / "reference") == 0
    reference = tmp_path / "reference" / "evaluation.json"
    assert evaluate(model_folder, *words, "--output", tmp_path / "e", "--reference", reference) == 0
    summary, results = record_of(tmp_path / "e")["summary"], record_of(tmp_path / "e")["results"]
    its = record_of(tmp_path / "reference")["results"]
    assert summary["corruption_accuracy"] == pytest.approx(sum(r["accuracy"] for r in results) / 75)
    assert "digits_resnet_twin" in summary["mce_reference"]
    assert "mCE" in capsys.readouterr().out
    ratios = []
    for first in range(0, 75, 5):  # in the order of the record: five severities of each corruption
        ours, theirs = (sum(100 - r["accuracy"] for r in part[first : first + 5]) for part in (results, its))
        ratios.append(100 * ours / theirs)
    assert summary["mce"] == pytest.approx(sum(ratios) / 15)
    assert list(summary["corruption_errors"].values()) == pytest.approx(ratios)

    # a finished record can be given another reference, here itself: none of its numbers changes
    again = ["--resume", "--reference", tmp_path / "e" / "evaluation.json"]
    assert evaluate(model_folder, *words, "--output", tmp_path / "e", *again) == 0
    assert record_of(tmp_path / "e")["summary"]["mce"] == pytest.approx(100)
    assert record_of(tmp_path / "e")["results"] == results

    def refusal(*more):
        assert evaluate(model_folder, *words, "--output", tmp_path / "no", "--reference", reference, *more) == 2
        assert not (tmp_path / "no").exists()
        return capsys.readouterr().err

    assert "has corruptions of table cifar, here it is imagenet" in refusal("--table", "imagenet")
    assert "has corruptions of seed 0, here it is 1" in refusal("--seed", "1")
    assert "has corruptions of images 20, here it is 30" in refusal("--limit", "30")


def test_the_python_interface(model_folder, tmp_path):
    config = EvaluateConfig(
        models=(str(model_folder),),
        dataset="digits",
        measures=("clean",),
        limit=20,
        plots=False,
        output=str(tmp_path / "e"),
    )
    (record,) = evaluate_config(config)
    assert record.content == record_of(tmp_path / "e")
    assert record.name == "digits_resnet"


def test_channels_last_changes_rounding_alone(evaluated, model_folder, tmp_path):
    orders = set()

    def look(module, inputs):
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
            orders.add(module.weight.is_contiguous())

    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        assert evaluate(model_folder, *QUICK, "--channels-last", "--output", tmp_path / "out") == 0
    assert False in orders  # the first image is tried out before
    before, after = (per_image(folder)[0] for folder in (evaluated, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert (values != after[name]).float().mean() <= 0.05, name
