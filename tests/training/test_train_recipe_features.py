"""What a recipe can ask of the training step, and that it has the effect that it names."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_run import TRAIN_IMAGES, main, tiny_flags, write_images
from timm_asap.training import TrainConfig, epoch, parse, train
from timm_asap.training.setup import build_optimizer, build_scheduler
from timm_asap.training.start import start_run

# no batch normalization and no dropout: the same images give the same gradients however they are divided
STEADY = {"model": "test_vit", "model_kwargs": "{}", "opt": "adamw", "lr": 1e-3, "epochs": 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


def run(data_dir, folder, **changes):
    assert main(tiny_flags(data_dir, folder, **changes)) == 0
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def config(data_dir, folder, **changes):
    return parse(tiny_flags(data_dir, folder, **changes))


def losses(records):
    return [record["train_loss"] for record in records]


def test_a_batch_in_parts_trains_as_a_whole_one(data_dir, tmp_path):
    whole = run(data_dir, tmp_path / "whole", **STEADY)
    parts = run(data_dir, tmp_path / "parts", **STEADY, accumulate=4)
    assert [r["step"] for r in parts] == [r["step"] for r in whole]
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


def test_clipping_limits_the_step(data_dir, tmp_path):
    start = {
        **STEADY,
        "lr": 0.1,
        "opt": "momentum",
        "momentum": 0.5,
        "weight_decay": 0,
        "epochs": 1,
        "warmup_epochs": 0,
    }
    for mode, limit in (("norm", 1e-9), ("value", 1e-9), ("agc", 1e-9)):
        folder = tmp_path / mode
        state = start_run(config(data_dir, folder, **start, clip_grad=limit, clip_mode=mode))
        before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        epoch.train_epoch(state, 0)
        moved = max((tensor - before[name]).abs().max() for name, tensor in state.model.state_dict().items())
        # agc leaves the classifier and biases be
        assert moved < (1e-6 if mode != "agc" else 1), mode


def test_the_averaged_weights_are_those_that_are_tested_and_saved(data_dir, tmp_path):
    state = start_run(config(data_dir, tmp_path / "run", **STEADY, ema=0.9))
    epoch.train_epoch(state, 0)
    raw, averaged = state.model.state_dict(), state.ema.module.state_dict()
    assert not torch.equal(raw["head.weight"], averaged["head.weight"])
    assert state.tested_model is state.ema.module
    assert torch.equal(state.network_on_cpu().state_dict()["head.weight"], averaged["head.weight"])


def test_layer_decay_lowers_the_rate_towards_the_first_layer(data_dir, tmp_path):
    state = start_run(config(data_dir, tmp_path / "run", **STEADY, layer_decay=0.5))
    scales = {group["lr_scale"] for group in state.optimizer.param_groups}
    assert max(scales) == 1
    assert min(scales) < 0.1


def test_keywords_reach_the_optimizer_and_the_schedule():
    settings = TrainConfig(
        model="test_resnet", opt="adamw", opt_kwargs={"betas": [0.5, 0.6]}, lr=1.0, sched="multistep",
        sched_kwargs={"decay_milestones": [2, 3], "decay_rate": 0.1}, epochs=4, warmup_epochs=0,
    )  # fmt: skip
    optimizer = build_optimizer(torch.nn.Linear(2, 2), settings)
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.5, 0.6)
    schedule = build_scheduler(optimizer, settings, steps_per_epoch=10)
    rates = []
    for step in (5, 15, 25, 35):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_mixing_makes_shares_of_two_classes(data_dir, tmp_path):
    state = start_run(config(data_dir, tmp_path / "run", **STEADY, mixup=1.0, mixup_off_epoch=1))
    images, labels = next(iter(state.train_loader))
    before = images.clone()
    mixed, targets = state.objective.targets(images.clone(), labels, 0, 0)
    again, _ = state.objective.targets(images.clone(), labels, 0, 0)
    other, _ = state.objective.targets(images.clone(), labels, 0, 1)
    assert targets.shape == (16, 4)
    assert torch.allclose(targets.sum(1), torch.ones(16))
    assert ((targets > 0).sum(1) <= 2).all()
    assert not torch.equal(mixed, before)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)
    off, labels_off = state.objective.targets(images.clone(), labels, 1, 0)
    assert torch.equal(off, before)
    assert torch.equal(labels_off, labels)


def test_binary_cross_entropy_counts_every_class(data_dir, tmp_path):
    state = start_run(config(data_dir, tmp_path / "run", **STEADY, loss="bce"))
    scores, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.eye(4)[labels])
    assert state.objective.criterion(scores, labels) == pytest.approx(expected.item(), rel=1e-6)


@pytest.fixture(scope="module")
def teacher(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run(data_dir, folder, **STEADY)
    return folder


class TestTeacher:
    def test_its_answers_pull_the_student(self, teacher, data_dir, tmp_path):
        taught = config(
            data_dir,
            tmp_path / "run",
            **STEADY,
            teacher=f"local-dir:{teacher}",
            teacher_weight=1,
            teacher_temperature=2,
        )
        state = start_run(taught)
        images, labels = next(iter(state.train_loader))
        answers = state.plan.teacher(images)
        # the same pixels as it was trained on, since mean and std are the same
        loss, scores, *_ = state.objective(state.model, images, labels)
        expected = 4 * torch.nn.functional.kl_div(
            (scores / 2).log_softmax(1), (answers / 2).softmax(1), reduction="batchmean"
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert not any(p.requires_grad for p in state.plan.teacher.parameters())

    def test_weight_0_is_no_teacher(self, teacher, data_dir, tmp_path):
        alone = run(data_dir, tmp_path / "alone", **STEADY)
        taught = run(data_dir, tmp_path / "run", **STEADY, teacher=f"local-dir:{teacher}", teacher_weight=0)
        assert losses(taught) == pytest.approx(losses(alone), rel=1e-6)

    def test_other_pixels_are_brought_to_its_own(self, teacher, data_dir, tmp_path):
        config_file = tmp_path / "teacher" / "config.json"
        config_file.parent.mkdir()
        described = json.loads((teacher / "config.json").read_text())
        mean, std = described["pretrained_cfg"]["mean"], described["pretrained_cfg"]["std"]
        described["pretrained_cfg"] |= {"mean": [0.25], "std": [0.125]}
        config_file.write_text(json.dumps(described))
        (config_file.parent / "model.safetensors").write_bytes((teacher / "model.safetensors").read_bytes())
        state = start_run(config(data_dir, tmp_path / "run", **STEADY, teacher=f"local-dir:{config_file.parent}"))
        images, _ = next(iter(state.train_loader))
        pixels = images * std[0] + mean[0]
        expected = state.plan.teacher((pixels - 0.25) / 0.125)
        assert torch.allclose(state.objective.teaching.teacher(images), expected, atol=1e-4)


class TestAdversarial:
    @pytest.mark.parametrize("method", ["fgsm", "pgd", "trades", "free"])
    def test_trains_watches_and_exports_a_network_of_normalized_images(self, method, data_dir, tmp_path):
        extra = {"attack_steps": 2} if method in ("pgd", "trades") else {}
        extra |= {"free_replays": 2} if method == "free" else {}
        records = run(data_dir, tmp_path / "run", **STEADY, adversarial=method, eps="8/255", **extra, watch_images=12)
        assert all(0 <= record["pgd_accuracy"] <= record["test_accuracy"] + 100 / 12 for record in records)
        assert records[-1]["step"] == 2 * 4 * extra.get("free_replays", 1)
        assert not any(name.startswith("model.") for name in load_file(tmp_path / "run" / "model.safetensors"))
        described = json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]
        assert described["mean"] != [0.0]

    def test_the_images_that_it_trains_on_are_attacked(self, data_dir, tmp_path):
        clean = run(data_dir, tmp_path / "clean", **STEADY)
        attacked = run(data_dir, tmp_path / "attacked", **STEADY, adversarial="fgsm", eps="0.3")
        assert attacked[0]["train_loss"] > clean[0]["train_loss"] + 0.05

    def test_a_free_run_resumes_bit_equally(self, data_dir, tmp_path):
        free = {**STEADY, "sched": "constant", "adversarial": "free", "eps": "8/255", "free_replays": 2}
        straight = run(data_dir, tmp_path / "straight", **free)
        run(data_dir, tmp_path / "run", **{**free, "epochs": 1})
        assert main(["--output", str(tmp_path / "run"), "--resume", "--epochs", "2"]) == 0
        resumed = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert losses(resumed) == losses(straight)


class TestValidation:
    def test_chooses_the_epoch_and_the_test_split_is_looked_at_once(self, data_dir, tmp_path):
        records = run(data_dir, tmp_path / "run", **{**STEADY, "epochs": 4}, val_share=0.25)
        assert not any("test_accuracy" in record for record in records)
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        best = max(records, key=lambda record: record["val_accuracy"])
        assert result["epoch"] == best["epoch"]
        assert result["chosen_by"].startswith("highest accuracy on held-out 25 % of train")
        assert 0 <= result["test_accuracy"] <= 100
        facts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
        assert (facts["train_images"], facts["val_images"]) == (TRAIN_IMAGES * 3 // 4, TRAIN_IMAGES // 4)

    def test_stops_early(self, data_dir, tmp_path, capsys):
        # far too small a rate to learn anything
        still = {**STEADY, "lr": 1e-12, "epochs": 6, "weight_decay": 0}
        records = run(data_dir, tmp_path / "run", **still, val_share=0.25, early_stop=2)
        assert len(records) == 3
        assert "no better epoch since 1: stopping early" in capsys.readouterr().out


def test_an_epoch_of_fewer_steps(data_dir, tmp_path):
    records = run(data_dir, tmp_path / "run", **STEADY, steps_per_epoch=3)
    assert [record["step"] for record in records] == [3, 6]


def test_gradient_checkpointing_changes_nothing(data_dir, tmp_path):
    kept = run(data_dir, tmp_path / "kept", **STEADY)
    flags = [*tiny_flags(data_dir, tmp_path / "again", **STEADY), "--grad-checkpointing"]
    assert main(flags) == 0
    again = [json.loads(line) for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    assert losses(again) == pytest.approx(losses(kept), rel=1e-6)


def test_tensorboard_gets_every_epoch(data_dir, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = run(data_dir, tmp_path / "run", **STEADY, tracker="tensorboard")
    found = (tmp_path / "run" / "tracker" / "timm_asap").glob("events.out.*")  # the configuration has its own folder
    reader = EventAccumulator(str(next(found)))
    reader.Reload()
    assert [e.value for e in reader.Scalars("train_loss")] == pytest.approx(losses(records), rel=1e-6)


def test_train_returns_what_the_run_came_to(data_dir, tmp_path):
    result = train(config(data_dir, tmp_path / "run", **STEADY))
    assert (result.epochs, result.stopped) == (2, False)
    assert result.test_accuracy == json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]
