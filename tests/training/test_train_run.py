"""Whole runs, from the command line to the model that is loaded back."""

import json

import pytest
import timm
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from tests.support.tiny_run import CLASSES, TEST_IMAGES, TRAIN_IMAGES, equal, main, tiny_flags, write_images
from timm_asap.data import build_loader, load_dataset
from timm_asap.training import TrainConfig, epoch, export, loop, objective, train
from timm_asap.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


def metrics(folder, *, timed=True):
    """The lines of metrics.jsonl, with or without what depends on the clock."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if timed or k not in ("seconds", "images_per_s")} for r in records]


def checkpoints(folder):
    """The newest first."""
    return RunFolder(folder).checkpoints.files()


def newest_state(folder):
    return RunFolder(folder).checkpoints.newest()[1]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """The folder of a finished run, and the model as it was trained."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        models = []
        patch.setattr(export, "export_model", _remember(models, export.export_model))
        assert main(tiny_flags(data_dir, folder, seed=3)) == 0
    return folder, models[-1]


def _remember(models, write):
    def remember(plan, model, folder):
        models.append(model)
        write(plan, model, folder)

    return remember


class TestAFinishedRun:
    def test_learned_and_recorded_every_epoch(self, finished):
        folder, _ = finished
        records = metrics(folder)
        assert [r["epoch"] for r in records] == [1, 2, 3, 4]
        assert [r["step"] for r in records] == [4, 8, 12, 16]
        assert {*records[0]} == {
            *("epoch", "step", "lr", "seconds", "images_per_s"),
            *("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_images"),
        }
        assert records[-1]["train_loss"] < records[0]["train_loss"]
        assert records[-1]["train_accuracy"] > 100 / CLASSES
        assert 0 < TRAIN_IMAGES / records[0]["images_per_s"] < records[0]["seconds"]
        # warmed up over the first epoch, then the cosine, at every step
        assert [r["lr"] for r in records] == pytest.approx(
            [0.05 / 2 * (1 + torch.cos(torch.tensor(torch.pi * s / 16)).item()) for s in (4, 8, 12, 16)], abs=1e-7
        )

    def test_records_the_resolved_configuration(self, finished):
        folder, _ = finished
        recorded = yaml.safe_load((folder / "config.yaml").read_text())
        assert (recorded["epochs"], recorded["seed"], recorded["crop_padding"]) == (4, 3, 2)
        assert recorded["flip"] is False
        facts = json.loads((folder / "run.json").read_text())
        assert facts["data"]["train_images"] == TRAIN_IMAGES
        assert facts["versions"]["timm"] == timm.__version__

    def test_loads_back_with_equal_logits(self, finished):
        folder, trained = finished
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(model(images), trained.eval()(images))
        assert model.pretrained_cfg["label_names"] == [str(c) for c in range(CLASSES)]

    def test_reported_accuracy_is_that_of_the_saved_model(self, finished, data_dir):
        folder, _ = finished
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        data = load_dataset("idx", data_dir)
        # batches of 16 out of 20 images: each image must count once
        ((images, labels),) = build_loader(data.test, data, TEST_IMAGES, training=False)
        with torch.no_grad():
            scores = model(images)
        last = metrics(folder)[-1]
        assert last["test_accuracy"] == 100 * (scores.argmax(1) == labels).double().mean().item()
        assert last["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-5)

    def test_config_json_describes_these_weights_and_no_others(self, finished, data_dir):
        config = json.loads((finished[0] / "config.json").read_text())
        data = load_dataset("idx", data_dir)
        assert config["model_args"] == {"in_chans": 1, "global_pool": "avg"}
        cfg = config["pretrained_cfg"]
        assert (tuple(cfg["mean"]), tuple(cfg["std"])) == (data.mean, data.std)
        assert cfg["input_size"] == [1, 32, 32]
        assert (cfg["interpolation"], cfg["crop_pct"], cfg["num_classes"]) == ("bicubic", 1.0, CLASSES)
        assert not {"tag", "url", "file", "hf_hub_id", "origin_url", "license", "source"} & set(cfg)

    def test_weights_are_readable_like_other_files(self, finished):
        modes = {(finished[0] / name).stat().st_mode for name in ("model.safetensors", "config.json", "README.md")}
        modes |= {path.stat().st_mode for path in (finished[0] / "checkpoints").iterdir()}
        assert len(modes) == 1

    def test_leaves_only_the_files_of_a_run(self, finished):
        assert {str(path) for path in contents(finished[0])} == {
            "README.md", "config.json", "config.yaml", "metrics.jsonl", "model.safetensors", "result.json", "run.json",
            "plots/learning_curves.png", *(f"checkpoints/{path.name}" for path in checkpoints(finished[0])),
        }  # fmt: skip

    def test_keeps_the_newest_checkpoints_and_that_of_the_best_epoch(self, finished):
        best = max(metrics(finished[0]), key=lambda record: record["test_accuracy"])
        steps = {int(path.name.split(".")[0].removeprefix("step-")) for path in checkpoints(finished[0])}
        assert steps == {16, 12, best["step"]}

    def test_resuming_it_changes_nothing(self, finished, data_dir, capsys):
        before = contents(finished[0])
        assert main(["--output", str(finished[0]), "--resume"]) == 0
        assert "epoch 4/4" not in capsys.readouterr().out
        assert contents(finished[0]) == before


def test_prints_a_line_per_epoch_and_the_line_that_loads_the_model(data_dir, tmp_path, capsys):
    flags = tiny_flags(data_dir, tmp_path / "run", epochs=2, model="resnet20_lowres_asap", model_kwargs="{}")
    assert main([*flags, "--asap-window", "flc", "--asap-boundary", "reflect"]) == 0
    about, *epochs, result, load_line = capsys.readouterr().out.splitlines()
    assert about == (
        f"64 training images, 20 test images (test), 4 classes (0, 1, 2, 3): IDX files of the folder {data_dir.name}"
    )
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert result.startswith(f"accuracy {metrics(tmp_path / 'run')[-1]['test_accuracy']:.2f} % on test (20 images)")
    names = {}
    exec(load_line, names)
    model = names["model"]
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architecture"] == "resnet20_lowres_asap"
    assert {k: v for k, v in config["model_args"].items() if k.startswith("asap_")} == {
        "asap_window": "flc", "asap_boundary": "reflect", "asap_layout": "preserve", "asap_stem": "auto"
    }  # fmt: skip


def test_weights_of_a_tag_leave_no_trace_of_it(data_dir, tmp_path):
    flags = tiny_flags(data_dir, tmp_path / "run", model="resnet10t.c3_in1k", model_kwargs="{}", epochs=1)
    assert main(flags) == 0
    config = (tmp_path / "run" / "config.json").read_text()
    for stale in ("c3_in1k", "github.com", "timm/resnet10t", "0.485", "apache"):
        assert stale not in config


def test_fine_tuning_starts_from_the_weights_and_their_pixels(finished, tmp_path):
    darker = write_images(tmp_path / "darker", offset=-30)
    flags = tiny_flags(darker, tmp_path / "run", model=f"local-dir:{finished[0]}", epochs=1, lr=1e-12)
    assert main([*flags, "--pretrained"]) == 0
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (finished[0], tmp_path / "run"))
    assert after["architecture"] == "test_resnet"
    assert after["pretrained_cfg"]["mean"] == before["pretrained_cfg"]["mean"]
    assert list(load_dataset("idx", darker).mean) != before["pretrained_cfg"]["mean"]
    weights = [load_file(folder / "model.safetensors")["conv1.0.weight"] for folder in (finished[0], tmp_path / "run")]
    torch.testing.assert_close(*weights)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- Started from the weights of `run`." in card
    assert str(finished[0].parent) not in card


def test_a_folder_of_large_images(tmp_path):
    for number in range(12):
        folder = tmp_path / "photos" / ("bright" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 80), (200 * (number % 2), number, 0)).save(folder / f"{number}.png")
    output = tmp_path / "run"
    flags = tiny_flags(tmp_path / "photos", output, dataset="imagefolder", model="test_resnet", batch_size=4, epochs=1)
    assert main(flags) == 0
    config = json.loads((output / "config.json").read_text())
    own = timm.get_pretrained_cfg("test_resnet")
    assert config["label_names"] == ["bright", "dark"]
    assert config["pretrained_cfg"]["input_size"] == [3, 224, 224]
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    assert config["pretrained_cfg"]["interpolation"] == own.interpolation
    assert config["pretrained_cfg"]["crop_pct"] == own.crop_pct
    facts = json.loads((output / "run.json").read_text())["data"]
    assert (facts["train_images"], facts["test_images"], facts["test_name"]) == (9, 3, "held-out fifth, seed 0")


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert main(tiny_flags(data_dir, folder)) == 0
    return folder


def assert_equal_ends(folder, other):
    """Both runs came to the same weights and the same state, but for the clock."""
    assert (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    ours, theirs = newest_state(folder), newest_state(other)
    for state in (ours, theirs):
        del state["sums"]["seconds"]
    assert equal(ours, theirs)


class TestInterruptedRun:
    @pytest.mark.parametrize("at", ["evaluate", "save_epoch"])
    def test_resumes_bit_equally(self, at, straight, data_dir, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            _fail_in_epoch(patch, at, 3)
            with pytest.raises(_Interruption):
                main(tiny_flags(data_dir, folder))
        assert newest_state(folder)["position"]["epoch"] == 2
        torch.manual_seed(99)  # whatever happened since
        assert main(["--output", str(folder), "--resume"]) == 0

        assert metrics(folder, timed=False) == metrics(straight, timed=False)
        assert_equal_ends(folder, straight)

    def test_starts_again_where_no_epoch_was_finished(self, straight, data_dir, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            _fail_in_epoch(patch, "evaluate", 1)
            with pytest.raises(_Interruption):
                main(tiny_flags(data_dir, folder))
        assert main(["--output", str(folder), "--resume"]) == 0
        assert metrics(folder, timed=False) == metrics(straight, timed=False)


class _Interruption(Exception):  # noqa: N818 (it stands for a killed process)
    pass


def _fail_in_epoch(patch, name, number):
    """Stop a run where it first calls a function of the loop in an epoch, counted from 1."""
    epochs, original = [], getattr(loop, name)
    train_epoch = loop.train_epoch

    def counted(run, epoch):
        epochs.append(epoch + 1)
        return train_epoch(run, epoch)

    def wrapper(*args):
        if epochs[-1] == number:
            raise _Interruption
        return original(*args)

    patch.setattr(loop, "train_epoch", counted)
    patch.setattr(loop, name, wrapper)


class TestFolderThatHoldsSomething:
    @pytest.fixture
    def run(self, data_dir, tmp_path):
        folder = tmp_path / "run"
        assert main(tiny_flags(data_dir, folder, epochs=1)) == 0
        return folder

    def test_a_run_is_refused_and_stays(self, run, data_dir, capsys):
        before = contents(run)
        assert main(tiny_flags(data_dir, run, epochs=2)) == 2
        error = capsys.readouterr().err
        assert "already holds a run: --resume continues it, --overwrite replaces it" in error
        assert contents(run) == before

    def test_overwrite_replaces_the_run_and_nothing_else(self, run, data_dir):
        (run / "notes.txt").write_text("mine")
        (run / "evaluation.json").write_text("{}")
        assert main([*tiny_flags(data_dir, run, epochs=2, seed=1), "--overwrite"]) == 0
        assert [r["epoch"] for r in metrics(run)] == [1, 2]
        assert (run / "notes.txt").read_text() == "mine"
        assert not (run / "evaluation.json").exists()  # of the model that is gone

    def test_overwrite_does_not_touch_a_folder_of_other_files(self, data_dir, tmp_path, capsys):
        (tmp_path / "thesis.tex").write_text("mine")
        assert main([*tiny_flags(data_dir, tmp_path), "--overwrite"]) == 2
        assert "holds files but no run" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file_is_no_folder(self, data_dir, tmp_path, capsys):
        (tmp_path / "run").write_text("mine")
        assert main(tiny_flags(data_dir, tmp_path / "run")) == 2
        assert "is a file: expected a folder" in capsys.readouterr().err


class TestDivergence:
    @pytest.mark.parametrize("steps_per_look", [1, 3, 10])
    def test_stops_at_the_step_and_keeps_the_last_epoch(self, steps_per_look, data_dir, tmp_path, monkeypatch, capsys):
        folder = tmp_path / "run"
        monkeypatch.setattr(epoch, "_batches_per_look", lambda device: steps_per_look)
        _nan_loss_at_step(monkeypatch, 11)
        assert main(tiny_flags(data_dir, folder)) == 2
        error = capsys.readouterr().err
        assert "the loss is nan at step 11 (epoch 3)" in error
        assert "step-00000008." in error
        assert "keeps epoch 2" in error
        assert [r["epoch"] for r in metrics(folder)] == [1, 2]
        state = newest_state(folder)
        assert state["position"]["step"] == 8
        assert all(torch.isfinite(t).all() for t in state["model"].values())
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        assert all(torch.equal(t, state["model"][k]) for k, t in model.state_dict().items())

    def test_a_learning_rate_that_is_far_too_high(self, data_dir, tmp_path, capsys):
        flags = tiny_flags(data_dir, tmp_path / "run", lr=1e30, warmup_epochs=0, epochs=3)
        assert main(flags) == 2
        assert "lower --lr 1e+30" in capsys.readouterr().err
        assert not (tmp_path / "run" / "model.safetensors").exists()

    def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(self, data_dir, tmp_path, capsys):
        # one step per epoch: its loss is taken before it, only the test sees what it did
        flags = tiny_flags(data_dir, tmp_path / "run", lr=1e30, warmup_epochs=0, epochs=1, batch_size=64)
        assert main(flags) == 2
        assert "at step 1 (epoch 1); no epoch was finished" in capsys.readouterr().err
        assert not (tmp_path / "run" / "checkpoints").exists()


def _nan_loss_at_step(monkeypatch, number):
    calls = []

    class Loss(torch.nn.CrossEntropyLoss):
        def forward(self, scores, labels):
            calls.append(number)
            loss = super().forward(scores, labels)
            return loss * float("nan") if len(calls) == number else loss

    monkeypatch.setattr(objective.nn, "CrossEntropyLoss", Loss)


@pytest.fixture
def other_precision():
    """accelerate fixes the precision of a process at its first use; these tests need another one."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("other_precision")
def test_fp16_without_a_gpu_is_refused(data_dir, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine can do fp16")
    assert main(tiny_flags(data_dir, tmp_path / "run", mixed_precision="fp16")) == 2
    assert "--mixed-precision fp16 needs a GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_what_would_run_and_writes_nothing(data_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["--dataset", "idx", "--data-dir", str(data_dir), "--dry-run", "--epochs", "7", "--batch-size", "8"]) == 0
    )
    out = capsys.readouterr().out
    resolved = yaml.safe_load(out)  # the summary is a comment, so the output is a recipe
    assert (resolved["epochs"], resolved["crop_padding"], resolved["output"]) == (7, 2, "runs/resnet20_lowres_asap.idx")
    for line in ("resnet20_lowres_asap, 271,796 parameters", "1 x 32 x 32", "4: 0, 1, 2, 3", "64 training images"):
        assert line in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("other_precision")
def test_bf16_and_channels_last_train_and_load_back(data_dir, tmp_path):
    config = TrainConfig(
        model="test_resnet", dataset="idx", data_dir=str(data_dir), output=str(tmp_path / "run"), epochs=1,
        batch_size=16, channels_last=True, opt="adamw", lr=1e-3, mixed_precision="bf16",
    )  # fmt: skip
    result = train(config)
    assert result.epochs == 1
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32, torch.int64}
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert all(torch.equal(t, saved[k]) for k, t in model.state_dict().items())
