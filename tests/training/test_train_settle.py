"""Defaults that do not fit are adapted and said; what was typed is refused."""

import json

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from tests.support.tiny_run import main, tiny_flags, write_images
from timm_asap.errors import UserError
from timm_asap.training import TrainConfig, parse
from timm_asap.training.settle import settle_data, settle_machine, settle_parts, settle_processes, settle_steps


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and gives the flag that reads it."""

    def write(**fields):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(fields))
        return ["--recipe", str(path)]

    return write


def without(flags, *names):
    """The flags but for some."""
    pairs = zip(flags[::2], flags[1::2], strict=True)
    return [word for name, value in pairs if name not in names for word in (name, value)]


def test_the_first_command_of_a_beginner(capsys):
    """`python train.py --epochs 1`: the warm-up of the recipe is longer."""
    assert main(["--dry-run", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["warmup_epochs"] == 0.25
    assert "# adapted   warm-up of 0.25 epochs instead of 2: the run has only 1 epoch (--warmup-epochs)" in out


def test_an_own_folder_of_sixty_two_images(tmp_path, capsys):
    for number in range(62):
        folder = tmp_path / "photos" / f"kind{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 4 * number, dtype=np.uint8)).save(folder / f"{number}.png")
    flags = tiny_flags(tmp_path / "photos", tmp_path / "run", dataset="imagefolder", epochs=1, warmup_epochs=0)
    assert main(without(flags, "--batch-size")) == 0
    out = capsys.readouterr().out
    assert out.startswith("adapted: batches of 16 images instead of 128: there are 49 training images (--batch-size)\n")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["batch_size"] == 16
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["step"] == 3


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        (["--accumulate", "3"], {"batch_size": 63}),
        (["--recipe", "imagenet_a3", "--loss", "ce"], {"bce_threshold": None}),
        (["--recipe", "imagenet_a3", "--adversarial", "fgsm", "--eps", "8/255"], {"mixup": 0.0, "loss": "ce"}),
        (["--recipe", "imagenet_finetune", "--adversarial", "fgsm", "--eps", "8/255"], {"teacher": None}),
        (["--recipe", "imagenet_a3", "--dataset", "idx"], {"test_split": None}),
        (["--recipe", "imagenet_a3", "--epochs", "4"], {"warmup_epochs": 1.0}),
    ],
)
def test_flags_win_over_a_recipe_that_ships(argv, changed):
    config = parse(argv)
    assert {name: getattr(config, name) for name in changed} == changed
    assert config.notes


def test_a_recipe_of_ones_own_is_typed_too_until_a_flag_overrides_it(recipe):
    own = recipe(epochs=3, warmup_epochs=5)
    with pytest.raises(UserError, match="--warmup-epochs is part of --epochs: expected at most 3, got 5"):
        parse(own)
    assert parse([*own, "--epochs", "4"]).warmup_epochs == 1
    with pytest.raises(UserError, match="expected at most 4, got 6"):
        parse([*own, "--epochs", "4", "--warmup-epochs", "6"])


def test_what_was_typed_stays_as_it_is():
    for argv, told in (
        (["--batch-size", "10", "--accumulate", "3"], "expected a divisor of --batch-size 10, got 3"),
        (["--mixup", "0.2", "--adversarial", "fgsm", "--eps", "8/255"], "--mixup and --cutmix blend labels"),
        (["--loss", "ce", "--bce-threshold", "0.2"], "--bce-threshold is for --loss bce"),
    ):
        with pytest.raises(UserError, match=told):
            parse(argv)


@pytest.mark.parametrize(
    ("given", "images", "processes", "size"),
    [({}, 62, 1, 16), ({}, 5, 1, 2), ({}, 1000, 1, 128), ({}, 62, 3, 15), ({"accumulate": 4}, 62, 2, 16),
     ({"mixup": 0.5}, 62, 3, 12)],
)  # fmt: skip
def test_a_batch_that_fits_the_images_and_the_processes(given, images, processes, size):
    config = settle_processes(TrainConfig(**given), processes)
    config = settle_data(config, images, small=True, has_val=False, processes=processes)
    assert config.batch_size == size
    assert size % (processes * config.accumulate) == 0
    if size != 128:
        assert f"batches of {size} images instead of 128" in config.notes[-1]


def test_sizes_that_were_typed_are_refused_where_they_do_not_fit():
    with pytest.raises(UserError, match="expected a multiple of 3, got 16"):
        settle_processes(TrainConfig(batch_size=16), 3)
    with pytest.raises(UserError, match="expected at most the 62 training images, got 64"):
        settle_data(TrainConfig(batch_size=64), 62, small=True, has_val=True, processes=1)
    with pytest.raises(UserError, match="too few for a batch with --accumulate 64: expected 64 or more"):
        settle_data(TrainConfig(accumulate=64), 62, small=True, has_val=True, processes=1)
    with pytest.raises(UserError, match="--image-size, --train-image-size and --crop-pct are for large images"):
        settle_data(TrainConfig(image_size=64), 620, small=True, has_val=True, processes=1)
    with pytest.raises(UserError, match="--early-stop: data set digits has no validation split"):
        settle_data(TrainConfig(early_stop=2), 620, small=True, has_val=False, processes=1)
    with pytest.raises(UserError, match="expected at most the 4 batches"):
        settle_steps(TrainConfig(steps_per_epoch=5), 4)
    with pytest.raises(UserError, match="--sync-bn needs GPUs"):
        settle_machine(TrainConfig(sync_bn=True), on_cpu=True)


def test_what_a_recipe_asks_of_a_machine_gives_way(recipe):
    config = parse([*recipe(mixed_precision="fp16", sync_bn=True, num_workers=500), "--epochs", "3"])
    config = config.given_as(type(config.given)(config.given.flags, frozenset()))  # as of a recipe that ships
    config = settle_processes(settle_machine(config, on_cpu=True), 1)
    assert (config.mixed_precision, config.sync_bn) == ("fp32", False)
    assert 1 <= config.num_workers < 500
    assert len(config.notes) == 3


@pytest.fixture(scope="module")
def network():
    return timm.create_model("test_resnet", in_chans=1, num_classes=4)


class TestBatchesOfOne:
    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"batch_size": 1}, "which --batch-size 1 comes to: expected --batch-size 2 or more"),
            (
                {"batch_size": 16, "accumulate": 16},
                "which --batch-size 16 with --accumulate 16 comes to: expected --batch-size 32 or more, or "
                "--accumulate 8 or less",
            ),
        ],
    )
    def test_are_one_line_that_says_what_to_change(self, given, told, network):
        with pytest.raises(UserError, match="BatchNorm cannot train on one image of 16 x 16 pixels") as caught:
            settle_parts(TrainConfig(**given), network, (1, 16, 16), 64, 1)
        assert told in str(caught.value)

    def test_defaults_give_way(self, network):
        assert settle_parts(TrainConfig(accumulate=128), network, (1, 16, 16), 1000, 1).batch_size == 256

    def test_statistics_stay_as_they_were_and_larger_maps_need_nothing(self, network):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        generator = torch.get_rng_state()
        assert settle_parts(TrainConfig(batch_size=1), network, (1, 64, 64), 64, 1).batch_size == 1
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert torch.equal(torch.get_rng_state(), generator)

    def test_the_whole_program(self, data_dir, tmp_path, capsys):
        assert main(tiny_flags(data_dir, tmp_path / "run", model="resnet18_asap", model_kwargs="{}", batch_size=1)) == 2
        err = capsys.readouterr().err
        assert err.startswith("train.py: error: BatchNorm cannot train on one image of 32 x 32 pixels at a time")
        assert err.count("\n") == 1


class TestResumeOfNothing:
    def test_names_the_runs_that_are_there(self, tmp_path, capsys):
        for name in ("digits_first", "digits_second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.yaml").write_text("epochs: 3\n")
        assert main(["--output", str(tmp_path / "digit_first"), "--resume"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "there is no run in" in err
        assert f"the runs beside it are {tmp_path / 'digits_first'}, {tmp_path / 'digits_second'}" in err
        assert not (tmp_path / "digit_first").exists()

    def test_other_flags_start_one(self, tmp_path):
        assert parse(["--output", str(tmp_path / "new"), "--resume", "--dataset", "digits"]).resume
        assert parse(["--resume"]).resume

    @pytest.mark.parametrize("more", [["--epochs", "9"], ["--num-workers", "2"], ["--keep-checkpoints=3"]])
    def test_flags_that_do_not_say_what_to_train_are_none(self, more, tmp_path):
        with pytest.raises(UserError, match="no other flag says what to train"):
            parse(["--output", str(tmp_path / "new"), "--resume", *more])
