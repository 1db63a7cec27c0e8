"""A stranger's config.json: whatever it holds, one line names the key, what was expected and what came."""

import itertools
import json
import re
import shutil

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf

import timm_asap
from timm_asap import machine
from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.evaluation.models import open_model
from timm_asap.zoo.model_config import read_model_config

# every kind of JSON, small and large
VALUES = {
    "null": "null",
    "true": "true",
    "number": "7",
    "zero": "0",
    "negative": "-1",
    "fraction": "2.5",
    "huge": "1" + 30 * "0",
    "infinite": "1e999",
    "NaN": "NaN",
    "text": '"text"',
    "empty text": '""',
    "control characters": json.dumps("\x1b[31m\r\n"),
    "half a character": '"\\ud800"',
    "list": "[]",
    "list of texts": '["a", "b"]',
    "list of numbers": "[1, 2]",
    "nested": "[[1]]",
    "object": "{}",
    "object of texts": '{"a": "b"}',
}
TOP = [
    "architecture",
    "num_classes",
    "global_pool",
    "label_names",
    "label_descriptions",
    "pretrained_cfg",
    "model_args",
]
PRETRAINED = [
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct"),
    *("crop_mode", "mean", "std", "num_classes", "label_offset", "label_names", "pool_size", "first_conv"),
    *("classifier", "custom_load", "hf_hub_filename", "state_dict", "file", "url", "source", "hf_hub_id", "nonsense"),
]
ARGS = [
    *("num_classes", "in_chans", "global_pool", "img_size", "features_only", "out_indices", "feature_cls"),
    *("pretrained", "pretrained_cfg", "pretrained_strict", "checkpoint_path", "asap_window", "asap_stem", "nonsense"),
    *("drop_rate", "layers", "block", "cache_dir", "model_name", "act_layer"),
]
PLACES = (
    [("", key) for key in TOP] + [("pretrained_cfg", key) for key in PRETRAINED] + [("model_args", k) for k in ARGS]
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A twin of five classes, as timm saves it."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_asap", num_classes=5, in_chans=1).eval()
    save_for_hf(model, folder, model_config={"label_names": list("abcde")}, safe_serialization=True)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "net")


def write(folder, **changes):
    """Change keys; a value of text is JSON, one of `None` leaves the key out."""
    config = json.loads((folder / "config.json").read_text())
    for place, values in changes.items():
        node = config if place == "top" else config[place]
        for key, value in values.items():
            node.pop(key, None)
            if value is not None:
                node[key] = f"@@{value}@@"
    text = re.sub(r'"@@(.*?)@@"', lambda found: json.loads(f'"{found[1]}"'), json.dumps(config))
    (folder / "config.json").write_text(text)


def outcome(folder, build=True):
    """The line, or the network; None where the file passes and `build` is false."""
    try:
        if not build:
            return read_model_config(folder / "config.json", "net") and None
        return timm_asap.load(f"local-dir:{folder}")
    except UserError as error:
        line = str(error)
    assert line.isprintable()
    assert line.encode()
    return line


@pytest.mark.parametrize(("place", "key"), PLACES, ids=[".".join(filter(None, where)) for where in PLACES])
def test_every_key_with_every_kind_of_value(folder, place, key):
    original = (folder / "config.json").read_text()
    logits = timm_asap.load(f"local-dir:{folder}")(torch.ones(1, 1, 32, 32))
    built = 0
    for kind, value in VALUES.items():
        (folder / "config.json").write_text(original)
        write(folder, **{place or "top": {key: value}})
        found = outcome(folder, build=built < 6)
        if found is None:
            continue
        built += not isinstance(found, str)
        if not isinstance(found, str):
            # nothing that is let through may change the weights, nor hold what cannot be written as JSON
            if key != "global_pool":
                assert torch.equal(found(torch.ones(1, 1, 32, 32)), logits), kind
            json.dumps(found.pretrained_cfg, allow_nan=False, default=list)
            assert found.pretrained_cfg["input_size"][0] == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"top": {"architecture": "7"}}, "architecture: expected the name of an architecture of timm, a text, got 7"),
        ({"top": {"architecture": '"resnet5o"'}}, "unknown architecture 'resnet5o': closest matches: resnet50"),
        ({"top": {"architecture": None}}, "config.json has no architecture"),
        ({"top": {"num_classes": "-1"}}, "num_classes: expected a whole number from 0 to 10,000,000, got -1"),
        ({"pretrained_cfg": {"num_classes": "-1"}}, "pretrained_cfg.num_classes: expected a whole number from 0"),
        ({"model_args": {"num_classes": "7"}}, "model_args.num_classes: expected 5, as num_classes says, got 7"),
        ({"top": {"label_names": "7"}}, "label_names: expected a list of names"),
        ({"top": {"label_names": "[1, 2, 3, 4, 5]"}}, "label_names: expected a list of names"),
        ({"top": {"label_names": '[{}, "b", "c", "d", "e"]'}}, "label_names: expected a list of names"),
        (
            {"top": {"label_names": '["a", "b"]'}},
            "names 2 classes in label_names: expected 5, its num_classes",
        ),
        ({"top": {"pretrained_cfg": "null"}}, "pretrained_cfg: expected an object, got null"),
        ({"top": {"pretrained_cfg": '"fcmae"'}}, 'pretrained_cfg: expected an object, got "fcmae"'),
        ({"top": {"pretrained_cfg": "[1]"}}, "pretrained_cfg: expected an object, got [1]"),
        ({"top": {"model_args": "[1]"}}, "model_args: expected an object, got [1]"),
        ({"top": {"model_args": "null"}}, "model_args: expected an object, got null"),
        ({"top": {"model_args": '"x"'}}, 'model_args: expected an object, got "x"'),
        ({"model_args": {"features_only": "true"}}, "model_args.features_only: expected false"),
        ({"model_args": {"pretrained_strict": "false"}}, "model_args.pretrained_strict: expected nothing"),
        ({"model_args": {"layers": "[100000, 1, 1, 1]"}}, "model_args.layers: expected at most 4096 blocks"),
        ({"pretrained_cfg": {"mean": '"0.5"'}}, 'pretrained_cfg.mean: expected a list of numbers, got "0.5"'),
        (
            {"pretrained_cfg": {"mean": "[0.1, 0.2, 0.3]"}},
            "pretrained_cfg.mean: expected 1 numbers, one for each channel",
        ),
        ({"pretrained_cfg": {"mean": None}}, "pretrained_cfg.mean: expected 1 numbers, one for each channel"),
        ({"pretrained_cfg": {"std": "[0]"}}, "pretrained_cfg.std: expected a list of numbers above 0, got [0]"),
        ({"pretrained_cfg": {"std": "[1e999]"}}, "pretrained_cfg.std[0]: expected a finite number, got inf"),
        ({"pretrained_cfg": {"mean": "[-Infinity]"}}, "config.json holds -Infinity, which is no JSON"),
        *(
            ({"pretrained_cfg": {"input_size": size}}, "pretrained_cfg.input_size: expected three whole numbers")
            for size in ("[1, -32, 32]", "[1, 0, 32]", "[1, 32.5, 32]", "[1, 10000, 10000]", "[1, 1000000, 1000000]")
        ),
        ({"pretrained_cfg": {"custom_load": "true"}}, "pretrained_cfg.custom_load: expected false"),
        ({"pretrained_cfg": {"hf_hub_filename": '"a.bin"'}}, "pretrained_cfg.hf_hub_filename: expected nothing"),
        (
            {"pretrained_cfg": {"interpolatoin": '"x"'}},
            "unknown key of pretrained_cfg 'interpolatoin': closest matches",
        ),
    ],
)
def test_the_line_names_the_key_what_was_expected_and_what_came(folder, changes, line):
    write(folder, **changes)
    found = outcome(folder)
    assert isinstance(found, str)
    assert line in found
    assert f"local-dir:{folder}" in found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[1]", "expected an object, as timm writes it, got [1]"),
        ("null", "expected an object, as timm writes it, got null"),
        ("[" * 100_000, "cannot be read as JSON: is nested too deeply"),
        ('{"architecture": "test_resnet", "n": ' + "9" * 10_000 + "}", "cannot be read as JSON"),
        (b"\xff\xfe{", "cannot be read as JSON"),
        ("<!doctype html><html>", "cannot be read as JSON"),
    ],
    ids=["empty", "cut", "list", "null", "deep", "long number", "no UTF-8", "HTML"],
)
def test_files_that_are_no_configuration(folder, text, line):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert line in outcome(folder)


def test_a_number_of_a_class_of_thousands_of_digits(folder):
    write(folder, top={"label_names": json.dumps({"1" * 5000: "a"})})
    assert "config.json: label_names: expected a list of names" in outcome(folder)


def test_names_by_number_are_names_in_order(folder):
    write(folder, top={"label_names": '{"4": "e", "3": "d", "2": "c", "1": "b", "0": "a"}'})
    assert open_model(str(folder)).label_names == tuple("abcde")
    write(folder, top={"label_names": '{"0": "a", "7": "b"}'})
    assert open_model(str(folder)).label_names is None


def test_one_mean_for_all_channels(tmp_path):
    save_for_hf(timm.create_model("test_resnet", num_classes=2), tmp_path, safe_serialization=True)
    write(tmp_path, pretrained_cfg={"mean": "[0.25]", "std": "[0.5]"})
    assert open_model(str(tmp_path)).pixels.mean == (0.25, 0.25, 0.25)


def test_an_older_file_of_one_level_loads(folder):
    config = json.loads((folder / "config.json").read_text())
    pretrained = config["pretrained_cfg"] | {"architecture": "test_resnet_asap", "labels": list("abcde")}
    (folder / "config.json").write_text(json.dumps(pretrained))
    assert open_model(str(folder)).label_names == tuple("abcde")
    (folder / "config.json").write_text(json.dumps(pretrained | {"mean": 7}))
    assert "config.json: mean: expected a list of numbers, got 7" in outcome(folder)


def test_memory_is_estimated_before_it_is_taken(folder, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**9)
    write(folder, top={"num_classes": "9000000", "label_names": None}, pretrained_cfg={"num_classes": "9000000"})
    write(folder, model_args={"num_classes": None})
    line = outcome(folder)
    assert re.search(
        r"the network that its config\.json describes needs about 3\.5 GB of memory, and 1\.0 GB are free", line
    )
    assert "for one image of 1 x 4096 x 4096, needs about 1.5 GB" in with_size(folder)
    monkeypatch.setattr(machine, "available_memory", lambda: None)  # a system that does not say
    write(folder, top={"num_classes": "5"}, pretrained_cfg={"num_classes": "5"})
    assert not isinstance(outcome(folder), str)


def with_size(folder):
    write(
        folder,
        top={"num_classes": "5"},
        pretrained_cfg={"num_classes": "5", "input_size": "[1, 4096, 4096]"},
    )
    return outcome(folder)


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_files_that_a_container_has_read_take_no_memory_from_it(tmp_path, monkeypatch, version):
    """The system counts them as used until it wants the memory: after a data set, nothing would be free."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    place, names, prefix = tmp_path, ("memory.max", "memory.current"), ""
    if version == "v1":
        place, names, prefix = tmp_path / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"
        place.mkdir()
    for name, size in zip(names, (10_000_000, 9_900_000), strict=True):
        (place / name).write_text(f"{size}\n")
    assert machine.available_memory() == 100_000
    (place / "memory.stat").write_text(f"{prefix}inactive_file 7000000\n{prefix}active_file 500000\nanon 2400000\n")
    assert machine.available_memory() == 7_600_000


def test_what_is_free_is_known_here():
    free = machine.available_memory()
    assert free is not None
    assert 10**7 < free < 10**14


COMMANDS = {
    "evaluate": ["evaluate", "{}", "--dataset", "digits"],
    "heal": ["heal", "{}", "--dataset", "digits", "--output", "out"],
    "demo": ["demo", "{}", "--space", "out"],
    "export": ["export", "{}", "--onnx", "out.onnx"],
    "card": ["card", "{folder}"],
    "publish": ["publish", "{folder}", "--repo", "you/net"],
}
BAD = {
    "architecture": ({"top": {"architecture": "[]"}}, "architecture: expected the name"),
    "mean": ({"pretrained_cfg": {"mean": '"x"'}}, "pretrained_cfg.mean: expected a list"),
    "input_size": ({"pretrained_cfg": {"input_size": "[1, 1000000, 1000000]"}}, "pretrained_cfg.input_size: expected"),
}


@pytest.mark.parametrize(("command", "bad"), list(itertools.product(COMMANDS, BAD)))
def test_every_command_refuses_it_before_it_writes(folder, monkeypatch, capsys, command, bad):
    changes, line = BAD[bad]
    write(folder, **changes)
    for name in ("config.yaml", "run.json", "metrics.jsonl", "result.json", "evaluation.json"):
        (folder / name).write_text("{}\n")
    if command == "card":
        (folder / "config.yaml").unlink()
        (folder / "heal.json").write_text("{}")
    monkeypatch.chdir(folder.parent)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [word.format(f"local-dir:{folder}", folder=folder) for word in COMMANDS[command]]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("command", ["evaluate", "heal"])
def test_memory_for_a_batch_is_estimated_too(folder, monkeypatch, capsys, command):
    """One image would fit."""
    write(folder, pretrained_cfg={"input_size": "[1, 1000, 1000]"})
    write(folder, top={"num_classes": "10", "label_names": None}, pretrained_cfg={"num_classes": "10"})
    write(folder, model_args={"num_classes": "10"})
    model = timm.create_model("test_resnet_asap", num_classes=10, in_chans=1)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    monkeypatch.setattr(machine, "available_memory", lambda: 10**9)
    words = [word.format(folder) for word in COMMANDS[command]]
    assert main([*words, "--device", "cpu"]) == 2
    assert re.search(
        r"with --batch-size \d+ needs about \d+\.\d GB of memory, and 1\.0 GB are free", capsys.readouterr().err
    )
