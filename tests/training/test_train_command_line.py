"""Flags and recipes: what wins, what is refused, and that what is recorded reads back."""

import shlex

import pytest
import yaml

from timm_asap.errors import UserError
from timm_asap.training.command_line import command, parse
from timm_asap.training.config import RECIPE_KEYS, TrainConfig, read_recipe, shipped_recipes, to_yaml


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and gives the flag that reads it."""

    def write(text):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return ["--recipe", str(path)]

    return write


def test_no_flags_give_the_recipe_of_the_digits():
    config = parse([])
    assert (config.model, config.dataset) == ("resnet20_lowres_asap", "digits")
    for name, value in read_recipe(shipped_recipes()["digits"]).items():
        assert getattr(config, name) == value


def test_the_data_set_chooses_its_recipe():
    expected = read_recipe(shipped_recipes()["fashion_mnist"])
    config = parse(["--dataset", "fashion_mnist"])
    assert {name: getattr(config, name) for name in expected} == expected
    assert parse(["--dataset", "uoft-cs/cifar10"]).epochs == TrainConfig.epochs


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_parses_and_opens_with_its_command(name):
    path = shipped_recipes()[name]
    config = parse(["--recipe", name])
    first, *rest = path.read_text().splitlines()
    words = shlex.split(first)
    assert words[1] in ("python", "accelerate")
    assert parse(words[words.index("train.py") + 1 :]).recorded() | {"data_dir": None} == config.recorded()
    header = " ".join(line for line in rest if line.startswith("#"))
    assert "CPU" in header or "GPU" in header
    measured = "minute" in header and "%" in header and "measured" in header
    assert measured or "not run here" in header


def test_flags_override_the_recipe_whatever_their_order(recipe):
    own = recipe("epochs: 7\nlr: 1e-3\nflip: true\nmodel_kwargs: {drop_rate: 0.1}\nchannels_last: true\n")
    for argv in (["--epochs", "9", *own], [*own, "--epochs=9"]):
        config = parse(argv)
        assert config.epochs == 9
        assert config.lr == 1e-3  # a string to YAML 1.1, a number here
        assert config.flip is True
        assert config.model_kwargs == {"drop_rate": 0.1}
        assert config.channels_last is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epocs", "3"], "unknown flag '--epocs': closest matches: --epochs"),
        (["--epocs=3"], "unknown flag '--epocs': closest matches: --epochs"),
        (["extra"], "unexpected 'extra'"),
        (["--epochs", "many"], "--epochs: .*'many'; expected --epochs INT"),
        (["--epochs"], "Missing value for argument '--epochs'"),
        (["--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["--lr", "nan"], "--lr: expected above 0, got nan"),
        (["--lr", "-1"], "--lr: expected above 0"),
        (["--label-smoothing", "1"], "--label-smoothing: expected in .0, 1., got 1"),
        (["--flip", "maybe"], "--flip: got 'maybe'; expected --flip true|false"),
        (["--asap-stem", "1"], "--asap-stem: got '1'"),
        (["--mixed-precision", "fp8"], "--mixed-precision: got 'fp8'; expected --mixed-precision fp32|bf16|fp16"),
        (["--model-kwargs", "[1]"], "--model-kwargs: .*JSON-OBJECT"),
        (["--sched", "cosin"], "unknown schedule 'cosin': expected one of constant, cosine"),
        (["--epochs", "2", "--warmup-epochs", "3"], "--warmup-epochs is part of --epochs"),
        (["--resume", "--overwrite"], "give only one of them"),
        (["--output", ""], "--output is empty"),
        (["--recipe", "digit"], "unknown recipe 'digit': expected one of cifar10, digits"),
        (["--recipe", "no/such.yaml"], "recipe no/such.yaml: no such file"),
    ],
)
def test_a_wrong_flag_is_one_line(argv, message, capsys):
    with pytest.raises(UserError, match=message) as caught:
        parse(argv)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "own.yaml: unknown key 'epoch': closest matches: epochs"),
        ("overwrite: true", "own.yaml: unknown key 'overwrite'"),
        ("epochs: many", "own.yaml: --epochs: .*'many'"),
        ("epochs: [1, 2]", "own.yaml: --epochs: "),
        ("channels_last: 3", "own.yaml: "),
        ("flip: 1", "own.yaml: --flip: got '1'"),
        ("lr: -1", "own.yaml: --lr: expected above 0"),
        ("- epochs", "own.yaml: expected 'key: value' lines, got a list"),
        ("epochs: [", "own.yaml: cannot be read as YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_it(recipe, text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(recipe(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--dataset", "fashion_mnist", "--data-dir", "images"],
        ["--dataset", "uoft-cs/cifar10", "--image-key", "img", "--model", "resnet18_asap", "--pretrained"],
        ["--flip", "true", "--asap-stem", "false", "--asap-window", "flc", "--mixed-precision", "bf16"],
        ["--model-kwargs", '{"drop_path_rate": 0.1, "name": "it\'s"}', "--channels-last", "--output", "here"],
    ],
)
def test_what_is_recorded_reads_back(argv, recipe):
    config = parse(argv)
    assert parse(recipe(to_yaml(config))).recorded() == config.recorded()
    program, script, *flags = shlex.split(command(config))
    assert (program, script) == ("timm-asap", "train")
    assert parse(flags).recorded() == config.recorded()


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--dataset", "idx", "--data-dir", "/home/me/letters"], "--dataset idx --data-dir letters"),
        (["--dataset", "~/letters"], "--dataset letters"),
        (["--model", "local-dir:/home/me/runs/first"], "--model local-dir:first"),
        (["--output", "../../me/first"], "--output first"),
        (["--output", "runs/mine"], "--output runs/mine"),
    ],
)
def test_the_recorded_command_shows_no_folder_of_its_owner(argv, shown):
    assert command(parse(argv)) == f"timm-asap train {shown}"


def test_actions_are_not_recorded():
    recorded = yaml.safe_load(to_yaml(parse(["--overwrite", "--dry-run"])))
    assert tuple(recorded) == RECIPE_KEYS
    assert {"recipe", "resume", "overwrite", "dry_run"}.isdisjoint(recorded)


def test_the_folder_is_named_after_model_and_data():
    assert TrainConfig().run_folder.as_posix() == "runs/resnet20_lowres_asap.digits"
    config = TrainConfig(model="hf-hub:timm/resnet18.a1_in1k", dataset="owner/letters:small")
    assert config.run_folder.as_posix() == "runs/resnet18.a1_in1k.letters_small"
    assert TrainConfig(model="local-dir:first", dataset="../images/").run_folder.as_posix() == "runs/first.images"


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in TrainConfig.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in text


class TestResume:
    @pytest.fixture
    def started(self, tmp_path):
        """A run folder that was started with settings of its own."""
        config = parse(["--epochs", "5", "--lr", "0.3", "--output", str(tmp_path)])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        return ["--output", str(tmp_path), "--resume"]

    def test_takes_the_configuration_of_the_run(self, started):
        config = parse(started)
        assert (config.epochs, config.lr, config.resume) == (5, 0.3, True)

    def test_may_prolong_the_run(self, started):
        assert parse([*started, "--epochs", "8"]).epochs == 8

    def test_refuses_to_turn_it_into_another(self, started):
        with pytest.raises(UserError, match=r"--lr was 0.3 there, got 0.1; leave the flag out"):
            parse([*started, "--lr", "0.1"])

    def test_starts_a_run_where_there_is_none(self, tmp_path):
        config = parse(["--output", str(tmp_path / "new"), "--resume", "--lr", "0.2"])
        assert (config.lr, config.resume) == (0.2, True)
