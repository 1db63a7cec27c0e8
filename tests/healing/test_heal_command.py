"""`timm-asap heal` on a trained run, and the committed table of what it gains."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from benchmarks.heal import RESULTS, STAGES, table
from tests.support.heal_networks import images
from tests.support.tiny_run import CLASSES, TEST_IMAGES, tiny_flags, write_images
from tests.support.tiny_run import main as train_main
from timm_asap import heal
from timm_asap.cli import main
from timm_asap.data import build_loader, load_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained plain network, and its data."""
    folder = tmp_path_factory.mktemp("heal")
    data_dir = write_images(folder / "idx")
    assert train_main(tiny_flags(data_dir, folder / "plain", epochs=6)) == 0
    return folder / "plain", data_dir


class TestCommand:
    def flags(self, run, output, *more):
        return ["heal", str(run[0]), "--dataset", "idx", "--data-dir", str(run[1]), "--output", str(output), *more]

    def test_writes_a_twin_that_loads_and_prints_what_it_brought(self, run, tmp_path, capsys):
        output = tmp_path / "healed"
        capsys.readouterr()
        assert main(self.flags(run, output, "--refit", "--layout", "paper", "--limit", "50")) == 0
        out = capsys.readouterr().out
        assert "healed with 50 images" in out
        assert "4 of 4 converted convolutions" in out or "left: the refit does not" in out
        record = json.loads((output / "heal.json").read_text())
        shown = ", ".join(f"{k} {v:.2f} %" for k, v in record["accuracy"].items())
        assert f"accuracy on test ({TEST_IMAGES} images): {shown}" in out
        assert list(record["accuracy"]) == ["plain", "before", "healed"]

        config = json.loads((output / "config.json").read_text())
        assert config["architecture"] == "test_resnet_asap"
        assert config["model_args"]["asap_layout"] == "paper"
        assert "num_classes" not in config["model_args"]
        load_line = out.splitlines()[-1]
        space = {}
        exec(load_line, space)
        model = space["model"].eval()
        assert model.layer2[0].conv1.asap.layout == "paper"
        x = images(5, 1, size=32)
        with torch.no_grad():
            again = timm.create_model("test_resnet_asap", num_classes=CLASSES, in_chans=1, asap_layout="paper").eval()
            again.load_state_dict(load_file(output / "model.safetensors"))
            assert torch.equal(model(x), again(x))
        assert load_file(run[0] / "model.safetensors").keys() == again.state_dict().keys()

    def test_saves_what_healing_gives_and_prints_its_accuracy(self, run, tmp_path, capsys):
        assert main(self.flags(run, tmp_path / "healed")) == 0
        model = timm.create_model(f"local-dir:{tmp_path / 'healed'}", pretrained=True).eval()
        dataset = load_dataset("idx", run[1])
        expected = timm.create_model("test_resnet_asap", num_classes=CLASSES, in_chans=1).eval()
        expected.load_state_dict(load_file(run[0] / "model.safetensors"))
        order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
        report = heal(expected, build_loader(dataset.train.select(order), dataset, 128, training=False))
        assert report.changed
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            test = build_loader(dataset.test, dataset, 7, training=False)
            accuracy = 100 * torch.cat([(model(x).argmax(1) == y).float() for x, y in test]).mean().item()
        assert f"healed {accuracy:.2f} %" in capsys.readouterr().out

    def test_takes_a_twin_with_its_own_options(self, run, tmp_path, capsys):
        assert main(self.flags(run, tmp_path / "one", "--window", "flc")) == 0
        assert main(self.flags((tmp_path / "one", run[1]), tmp_path / "two")) == 0
        config = json.loads((tmp_path / "two" / "config.json").read_text())
        assert config["model_args"]["asap_window"] == "flc"
        record = json.loads((tmp_path / "two" / "heal.json").read_text())
        assert list(record["accuracy"]) == ["before", "healed"]
        capsys.readouterr()
        assert main(self.flags((tmp_path / "one", run[1]), tmp_path / "three", "--window", "asap")) == 2
        assert "alias-free already, with options of its own: leave out --window" in capsys.readouterr().err

    def test_replaces_only_what_it_wrote(self, run, tmp_path, capsys):
        output = tmp_path / "healed"
        assert main(self.flags(run, output)) == 0
        capsys.readouterr()
        assert main(self.flags(run, output)) == 2
        assert "already holds a healed model: --overwrite replaces it" in capsys.readouterr().err
        assert main(self.flags(run, output, "--overwrite")) == 0
        capsys.readouterr()
        assert main(self.flags(run, run[0], "--overwrite")) == 2
        assert "holds other files: choose another folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["resnet1"], "unknown model 'resnet1': closest matches"),
            (["resnet18.a9_in1k"], "unknown tag of resnet18 'a9_in1k'"),
            (["resnet20_lowres"], "with weights: resnet20_lowres.fashion_mnist"),
            (["no/folder"], "there is no folder no/folder: expected a run folder"),
            (["test_resnet", "--limit", "1"], "--limit: expected 3 or more, got 1"),
            (["test_resnet", "--stem", "yes"], "--stem: unknown stem 'yes'"),
            (["test_resnet", "--layout", "papr"], "unknown layout 'papr'"),
            (["test_resnet", "--device", "gpu"], "--device gpu cannot be used"),
            (["test_resnet", "--ridge", "0"], "--ridge: expected a number above 0, got 0"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2(self, words, text, run, tmp_path, capsys):
        capsys.readouterr()
        line = ["heal", *words, "--dataset", "idx", "--data-dir", str(run[1]), "--output", str(tmp_path / "out")]
        assert main(line) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert text in err
        assert not (tmp_path / "out").exists()

    def test_other_classes_are_refused(self, run, tmp_path, capsys):
        capsys.readouterr()
        assert main(["heal", str(run[0]), "--dataset", "digits", "--output", str(tmp_path / "out")]) == 2
        assert f"has {CLASSES} classes, and digits has 10" in capsys.readouterr().err


def test_the_committed_table_is_made_of_the_committed_record():
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == table(record)
    for values in record["layouts"].values():
        assert set(values["accuracy"]) == set(STAGES)
