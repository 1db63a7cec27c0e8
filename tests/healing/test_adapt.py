"""Adaptation: label-free distillation through the training loop, its run folder, resume and refusals."""

import importlib
import json
import shutil

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import timm_asap
from tests.support.tiny_run import write_images
from timm_asap.cli import main
from timm_asap.data.unlabeled import load_images
from timm_asap.errors import UserError
from timm_asap.healing.adapt import AdaptConfig, AdaptResult, command, run_adaptation
from timm_asap.healing.fidelity import Fidelity

CLASSES = 7


def photograph(seed, size=(190, 170)):
    """Smooth noise in color."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, some in a subfolder, and a file that is none."""
    folder = tmp_path_factory.mktemp("adapt") / "photographs"
    (folder / "more").mkdir(parents=True)
    for number in range(10):
        photograph(number).save(folder / ("more" if number % 2 else ".") / f"{number}.png")
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain network with weights, as a local folder."""
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=CLASSES)
    with torch.no_grad():  # statistics as of training, and predictions that differ from image to image
        for _ in range(20):
            model.train()(torch.randn(16, 3, 96, 96))
        model.classifier.weight.mul_(4)
    model.pretrained_cfg["input_size"] = (3, 96, 96)
    path = tmp_path_factory.mktemp("plain") / "plain"
    save_for_hf(
        model.eval(),
        str(path),
        model_config={"label_names": [f"c{i}" for i in range(CLASSES)]},
        safe_serialization=True,
    )
    return path


def flags(plain, folder, output, *more, steps=4):
    words = ["adapt", str(plain), "--images", str(folder), "--output", str(output), "--batch-size", "4"]
    return [*words, *(["--steps", str(steps)] if steps else []), *more]


@pytest.fixture(scope="module")
def run(plain, folder, tmp_path_factory):
    """A finished adaptation."""
    output = tmp_path_factory.mktemp("run") / "adapted"
    assert main(flags(plain, folder, output, "--lr", "2e-4", "--no-refit", steps=20)) == 0
    return output


class TestRun:
    def test_comes_closer_to_the_plain_network(self, run):
        record = json.loads((run / "adapt.json").read_text())
        assert record["after"]["kl"] < record["before"]["kl"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["train_loss"] < 0.7 * lines[0]["train_loss"]
        assert (record["steps"], record["twin"]) == (20, "test_efficientnet_asap")
        assert record["after"]["images"] == 2  # a fifth of ten

    def test_is_a_run_folder_like_any_other(self, run, folder):
        names = {path.name for path in run.iterdir()}
        expected = {"config.yaml", "run.json", "metrics.jsonl", "result.json", "model.safetensors", "config.json"}
        assert expected | {"adapt.json", "README.md", "plots", "checkpoints"} <= names
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(2, 21, 2))
        assert all({"agreement", "kl"} <= line.keys() for line in lines)
        assert not any("accuracy" in key for line in lines for key in line)
        assert "accuracy" not in (run / "result.json").read_text()
        model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
        assert type(model.conv_stem).__name__.startswith("Asap")
        assert model.pretrained_cfg["label_names"][3] == "c3"
        facts = json.loads((run / "run.json").read_text())
        assert facts["data"]["train_images"] == 8
        assert facts["command"].startswith("timm-asap adapt plain --images photographs")
        assert str(folder.parent) not in (run / "run.json").read_text()

    def test_the_record_is_of_the_exported_weights(self, run, plain, folder):
        own = timm.create_model(f"local-dir:{plain}", pretrained=True).eval()
        adapted = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
        dataset = load_images(folder, 96)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(own), is_training=False)
        x = torch.stack([transform(dataset.test[i][0]) for i in range(len(dataset.test))])
        found = timm_asap.healing.measure_fidelity(own, adapted, [x])
        assert found.kl == pytest.approx(json.loads((run / "adapt.json").read_text())["after"]["kl"], rel=1e-3)

    def test_statistics_of_batchnorm_stay_as_the_closed_form_left_them(self, plain, folder, tmp_path):
        result = run_adaptation(
            AdaptConfig(model=str(plain), images=str(folder), output=str(tmp_path), steps=2, batch_size=4, refit=False)
        )
        before, after = load_file(plain / "model.safetensors"), load_file(tmp_path / "model.safetensors")
        changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"weight", "bias"}
        assert result.model.state_dict().keys() == before.keys()
        assert result.at_first_step.kl == pytest.approx(result.before.kl)  # nothing was repaired first

    def test_the_card_says_what_it_is_and_calls_nothing_accuracy(self, run):
        card = (run / "README.md").read_text()
        assert "adapted without labels on photographs" in card
        assert "Started from the weights of `plain`, with alias-free strides. No label was used" in card
        assert "10 images without labels of the folder photographs; 8 to adapt on, 2 held out" in card
        assert "Accuracy was not measured." in card
        front = yaml.safe_load(card.split("---")[1])
        assert "metrics" not in front
        assert "model-index" not in front
        record = json.loads((run / "adapt.json").read_text())
        assert f"{record['after']['agreement']:.1f} %" in card
        assert main(["card", str(run)]) == 0

    def test_one_that_is_there_is_not_replaced_unless_asked(self, run, plain, folder, capsys):
        before = (run / "model.safetensors").read_bytes()
        assert main(flags(plain, folder, run)) == 2
        assert "already holds a run: --resume continues it" in capsys.readouterr().err
        assert (run / "model.safetensors").read_bytes() == before

    def test_features_of_both_networks_are_compared_where_asked(self, plain, folder, tmp_path):
        losses = []
        for weight in ("0", "5"):
            output = tmp_path / weight
            assert main(flags(plain, folder, output, "--features", weight, "--no-refit", steps=1)) == 0
            lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
            losses.append(lines[0]["train_loss"])
        assert losses[1] > losses[0] + 0.01

    def test_the_blend_begins_with_the_plain_network_and_ends_with_the_twin(self, plain, folder, tmp_path):
        losses = []
        for share in ("0", "1"):
            output = tmp_path / share
            assert main(flags(plain, folder, output, "--blend", share, "--no-refit", "--lr", "1e-9", steps=2)) == 0
            lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
            losses.append([line["train_loss"] for line in lines])
            start = json.loads((output / "adapt.json").read_text())["at_first_step"]
            assert lines[0]["kl"] == pytest.approx(start["kl"], rel=1e-3)  # measured is the twin
        assert losses[1][0] == pytest.approx(0, abs=1e-5)  # the plain network is its own teacher
        assert 0 < losses[1][1] < losses[0][1]

    def test_held_out_images_may_lie_in_a_folder_of_their_own(self, plain, folder, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        for number in range(3):
            photograph(100 + number).save(other / f"{number}.png")
        output = tmp_path / "run"
        assert main(flags(plain, folder, output, "--held-out", str(other), steps=1)) == 0
        record = json.loads((output / "adapt.json").read_text())
        assert (record["after"]["images"], record["held_out"]) == (3, "images of the folder other")
        assert json.loads((output / "run.json").read_text())["data"]["train_images"] == 10

    def test_a_data_set_of_train_py_will_do(self, tmp_path):
        output = tmp_path / "run"
        words = ["adapt", "resnet20_lowres.fashion_mnist", "--dataset", "idx", "--output", str(output)]
        data_dir = write_images(tmp_path / "idx")
        assert main([*words, "--data-dir", str(data_dir), "--steps", "1", "--batch-size", "8"]) == 0
        assert json.loads((output / "adapt.json").read_text())["twin"] == "resnet20_lowres_asap"


class TestPython:
    def test_a_network_is_adapted_in_place(self, plain, folder, tmp_path):
        model = timm.create_model(f"local-dir:{plain}", pretrained=True).eval()
        timm_asap.convert(model)
        model.pretrained_cfg["architecture"] = "test_efficientnet_asap"
        before = {k: v.clone() for k, v in model.state_dict().items()}
        result = timm_asap.adapt(model, folder, steps=2, batch_size=4, output=str(tmp_path / "run"))
        after = load_file(tmp_path / "run" / "model.safetensors")
        assert all(torch.equal(after[name], value) for name, value in model.state_dict().items())
        assert any(not torch.equal(before[name], after[name]) for name in after)
        assert result.after.images == 2

    def test_images_may_be_a_tensor(self, tmp_path):
        x = torch.randn(20, 1, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-0.8, 1.5)
        result = timm_asap.adapt(
            "resnet20_lowres.fashion_mnist", x, steps=1, batch_size=4, output=str(tmp_path / "run"), refit=False
        )
        assert result.before.images == 4

    def test_what_is_no_model_or_image_is_said(self):
        with pytest.raises(TypeError, match=r"model: expected a name or a torch.nn.Module, got int"):
            timm_asap.adapt(3, "x")
        with pytest.raises(TypeError, match="images: expected a folder or a tensor, got list"):
            timm_asap.adapt("resnet18", [])
        with pytest.raises(UserError, match="expected a converted network"):
            timm_asap.adapt(timm.create_model("test_efficientnet"), "x")


class TestResume:
    def test_an_interrupted_run_continues_bit_equal(self, plain, folder, tmp_path, monkeypatch):
        options = {"model": str(plain), "images": str(folder), "steps": 6, "batch_size": 4}
        whole = run_adaptation(AdaptConfig(**options, output=str(tmp_path / "whole")))
        module = importlib.import_module("timm_asap.healing.adapt")
        train_epoch, calls = module.train_epoch, []

        def stopping(run, epoch):
            calls.append(epoch)
            if len(calls) == 3:
                run.stop.asked = True
            return train_epoch(run, epoch)

        monkeypatch.setattr(module, "train_epoch", stopping)
        stopped = run_adaptation(AdaptConfig(**options, output=str(tmp_path / "parts")))
        assert stopped.stopped
        assert 0 < stopped.steps < 6
        monkeypatch.undo()
        again = run_adaptation(AdaptConfig(output=str(tmp_path / "parts"), resume=True))
        assert (again.steps, again.stopped) == (6, False)
        first, second = (load_file(r.run_folder / "model.safetensors") for r in (whole, again))
        assert all(torch.equal(first[name], second[name]) for name in first)
        records = [(r.run_folder / "metrics.jsonl").read_text().splitlines() for r in (whole, again)]
        for one, other in zip(*records, strict=True):
            one, other = json.loads(one), json.loads(other)
            assert all(one[name] == other[name] for name in ("step", "agreement", "kl"))
        assert (
            json.loads((again.run_folder / "adapt.json").read_text())["after"]
            == json.loads((whole.run_folder / "adapt.json").read_text())["after"]
        )

    def test_other_settings_are_refused(self, run, plain, folder, capsys):
        assert main(flags(plain, folder, run, "--resume", "--lr", "0.5", steps=None)) == 2
        assert "--lr was 0.0002 there, got 0.5" in capsys.readouterr().err

    def test_a_run_of_train_py_is_not_continued(self, run, tmp_path, capsys):
        other = tmp_path / "other"
        shutil.copytree(run, other)
        (other / "adapt.json").unlink()
        assert main(["adapt", "--output", str(other), "--resume"]) == 2
        assert "holds no adaptation" in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["MODEL", "--images", "EMPTY"], "expected image files"),
            (["MODEL", "--images", "NOWHERE"], "expected a folder of images, there is none"),
            (["MODEL", "--images", "SMALL"], "expected images of at least 96 x 96 pixels, the network's input; 1 of 3"),
            (["MODEL", "--images", "BROKEN"], "cannot read"),
            (["MODEL", "--images", "ONE"], "expected at least 2 images"),
            (["MODEL"], "no images: give --images DIR"),
            (["MODEL", "--images", "GOOD", "--dataset", "digits"], "both name the images"),
            (["vit_tiny_patch16_224", "--images", "GOOD"], "has no twin"),
            (["resnet1", "--images", "GOOD"], "unknown model 'resnet1'"),
            (["MODEL", "--images", "GOOD", "--teacher", "resnet20_lowres.fashion_mnist"], "has 10 classes"),
            (["NAN", "--images", "GOOD"], "hold NaN or infinity"),
            (["MODEL", "--images", "GOOD", "--steps", "0"], "--steps: expected at least 1, got 0"),
            (["MODEL", "--images", "GOOD", "--steps", "3", "--minutes", "3"], "give only one of them"),
            (["MODEL", "--images", "GOOD", "--lr", "-1"], "--lr: expected above 0"),
            (["MODEL", "--dataset", "digits"], "has 1 channels"),
            (["--images", "GOOD"], "MODEL is missing"),
        ],
    )
    def test_are_one_line_and_exit_code_2_and_write_nothing(self, words, text, plain, folder, tmp_path, capsys):
        for name in ("EMPTY", "SMALL", "BROKEN", "ONE"):
            (tmp_path / name).mkdir()
        for number in range(2):
            photograph(number).save(tmp_path / "SMALL" / f"{number}.png")
            photograph(number).save(tmp_path / "BROKEN" / f"{number}.png")
        photograph(3, (95, 120)).save(tmp_path / "SMALL" / "3.png")
        (tmp_path / "BROKEN" / "3.png").write_bytes(b"\x89PNG not an image")
        photograph(3).save(tmp_path / "ONE" / "3.png")
        if "NAN" in words:
            shutil.copytree(plain, tmp_path / "NAN")
            state = load_file(plain / "model.safetensors")
            state["conv_stem.weight"][0] = float("nan")
            from safetensors.torch import save_file

            save_file(state, tmp_path / "NAN" / "model.safetensors")
        places = {"MODEL": str(plain), "GOOD": str(folder), "NAN": str(tmp_path / "NAN")}
        places |= {name: str(tmp_path / name) for name in ("EMPTY", "SMALL", "BROKEN", "ONE", "NOWHERE")}
        capsys.readouterr()
        output = tmp_path / "out"
        if words[0].startswith("vit"):
            words = ["local-dir:VIT", *words[1:]]
            from timm.models import save_for_hf

            save_for_hf(timm.create_model("test_vit"), str(tmp_path / "VIT"), safe_serialization=True)
            places["local-dir:VIT"] = f"local-dir:{tmp_path / 'VIT'}"
        assert main(["adapt", *[places.get(w, w) for w in words], "--output", str(output)]) == 2
        _, err = capsys.readouterr()
        assert text in err
        assert err.count("\n") == 1
        assert not output.exists()

    def test_unreadable_files_are_left_out_with_a_warning_where_asked(self, folder, tmp_path):
        broken = tmp_path / "broken"
        shutil.copytree(folder, broken)
        (broken / "x.png").write_bytes(b"\x89PNG not an image")
        with pytest.warns(UserWarning, match="1 of 11 files cannot be read and are left out"):
            dataset = load_images(broken, 96, skip_unreadable=True)
        assert len(dataset.train) + len(dataset.test) == 10


class TestImages:
    def test_held_out_images_depend_on_their_number_alone(self, folder):
        first, second = load_images(folder, 96), load_images(folder, 64)
        assert first.test.paths == second.test.paths
        assert not set(first.test.paths) & set(first.train.paths)
        assert len(set(first.train.paths)) == 8

    def test_large_ones_are_kept_reduced(self, tmp_path):
        for number in range(2):
            photograph(number, (900, 600)).save(tmp_path / f"{number}.png")
        dataset = load_images(tmp_path, 100)
        assert dataset.train[0][0].size == (375, 250)
        assert dataset.train.select(torch.tensor([0, 0])).decode(1).size == (375, 250)


@pytest.mark.parametrize(
    ("before", "start", "after", "said"),
    [
        ((10, 2.0), (50, 0.5), (60, 0.4), None),
        ((10, 2.0), (50, 0.5), (40, 0.6), "the closed-form repair alone was closer: agreement 50.0 %"),
        ((10, 2.0), (50, 0.5), (60, 0.6), None),  # neither is closer in both
        ((10, 2.0), (10, 2.0), (5, 3.0), "this did not help"),
    ],
)
def test_what_training_adds_to_the_closed_form_is_said(before, start, after, said, run, monkeypatch, capsys):
    def fidelity(agreement, kl):
        return Fidelity(20, 0.5, agreement, (0.0, 100.0), 5, 50.0, kl, (0.0, 9.0))

    found = AdaptResult(
        run_folder=run,
        steps=20,
        stopped=False,
        before=fidelity(*before),
        at_first_step=fidelity(*start),
        after=fidelity(*after),
        load_line="LOAD",
        is_main_process=True,
    )
    monkeypatch.setattr("timm_asap.healing.adapt.run_adaptation", lambda config: found)
    assert main(["adapt", "resnet18", "--images", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if not line.startswith(("before:", "after:", "LOAD", "more images"))]
    assert len(notes) == (said is not None)
    assert not said or notes[0].startswith(said)


def test_the_command_is_spelled_as_it_was_given():
    config = AdaptConfig(model="/home/me/run", images="/data/photographs", steps=30, refit=False, lr=0.01)
    assert command(config) == "timm-asap adapt run --images photographs --steps 30 --lr 0.01 --no-refit"


def test_minutes_become_steps(plain, folder, tmp_path, capsys):
    output = tmp_path / "run"
    assert main([*flags(plain, folder, output, "--no-refit", "--minutes", "0.02", steps=None)]) == 0
    steps = yaml.safe_load((output / "config.yaml").read_text())["steps"]
    assert f"0.02 minutes: {steps:,} steps of about" in capsys.readouterr().out
    assert json.loads((output / "adapt.json").read_text())["steps"] >= steps
