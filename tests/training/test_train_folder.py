"""What a run does to the folder that it is given: it replaces, continues, refuses, and harms nothing."""

import errno
import json
import os
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_run import main, tiny_flags, write_images
from timm_asap import _io
from timm_asap.cli import main as timm_asap
from timm_asap.errors import UserError
from timm_asap.training import epoch, export, start
from timm_asap.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(tiny_flags(data_dir, folder, epochs=2)) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys, *words, code=2):
    assert main([*map(str, words)]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


class TestOverwrite:
    def test_never_follows_a_link_out_of_the_folder(self, run, data_dir, tmp_path):
        disk = tmp_path / "large_disk"
        shutil.move(run / "checkpoints", disk)
        (run / "checkpoints").symlink_to(disk)
        (disk / "mine.txt").write_text("mine")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "kept").write_text("mine")
        (run / "plots" / "elsewhere").symlink_to(tmp_path / "mine")
        before = contents(disk)
        assert main([*tiny_flags(data_dir, run, epochs=1), "--overwrite"]) == 0
        assert contents(disk) == before
        assert contents(tmp_path / "mine") == {"kept": b"mine"}
        assert not (run / "checkpoints").is_symlink()
        assert len(RunFolder(run).checkpoints.files()) == 1

    def test_removes_all_that_the_project_wrote_there(self, run, data_dir):
        for name in ("heal.json", "evaluation.json", "evaluation.partial.safetensors", "comparison.json", "notes.txt"):
            (run / name).write_text("{}")
        (run / "publish").mkdir()
        assert main([*tiny_flags(data_dir, run, epochs=1), "--overwrite"]) == 0
        assert {path.name for path in run.iterdir()} == {
            *("README.md", "config.json", "config.yaml", "metrics.jsonl", "model.safetensors", "result.json"),
            *("run.json", "plots", "checkpoints", "notes.txt"),
        }

    def test_brings_the_old_run_back_where_the_new_one_comes_to_nothing(self, run, data_dir, capsys):
        before = contents(run)
        words = [*tiny_flags(data_dir, run, lr=1e30, warmup_epochs=0, epochs=1, batch_size=64), "--overwrite"]
        assert "what --overwrite had replaced is back" in refusal(capsys, *words)
        assert contents(run) == before

    def test_ctrl_c_before_the_first_checkpoint_brings_it_back_too(self, run, data_dir, monkeypatch, capsys):
        before = contents(run)
        monkeypatch.setattr(epoch, "_train_on_batch", _interrupt)
        assert main([*tiny_flags(data_dir, run, epochs=1), "--overwrite"]) == 130
        assert contents(run) == before

    @pytest.mark.parametrize("stage", ["moving", "moved", "restoring"])
    def test_a_kill_in_the_middle_is_undone_by_the_next_start(self, stage, run, data_dir, capsys):
        before = contents(run)
        folder = RunFolder(run)
        folder._move_aside()
        aside = run / ".replaced"
        if stage == "moving":  # the last folder had not been moved yet
            (aside / ".moved").unlink()
            (aside / "checkpoints").rename(run / "checkpoints")
        else:
            (run / "run.json").write_text("{}")
            (run / "config.yaml").write_text("epochs: 1\n")
        if stage == "restoring":
            (run / "run.json").unlink()
            (aside / ".moved").unlink()
            (aside / "checkpoints").rename(run / "checkpoints")
        assert "already holds a run" in refusal(capsys, *tiny_flags(data_dir, run, epochs=1))
        RunFolder(run).recover()
        assert contents(run) == before

    def test_a_folder_of_another_program_is_left_alone(self, data_dir, tmp_path, capsys):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "config.yaml").write_text("trainer: theirs\n")
        assert "holds files but no run" in refusal(capsys, *tiny_flags(data_dir, tmp_path), "--overwrite")
        assert sorted(os.listdir(tmp_path)) == ["checkpoints", "config.yaml"]

    def test_a_healed_model_is_replaced_when_it_is_meant(self, data_dir, tmp_path, capsys):
        folder = tmp_path / "healed"
        folder.mkdir()
        (folder / "heal.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
        assert "already holds a healed model: --overwrite" in refusal(capsys, *tiny_flags(data_dir, folder, epochs=1))
        assert main([*tiny_flags(data_dir, folder, epochs=1), "--overwrite"]) == 0
        assert not (folder / "heal.json").exists()


def _interrupt(*args):
    raise KeyboardInterrupt


class TestFirstSecond:
    def test_leftovers_of_a_killed_start_are_ours_to_clear(self, data_dir, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        for name in (".config.yaml.aside", ".config.yaml.host-1.aside", ".timm_asap.lock", ".timm_asap.holder"):
            (folder / name).write_text("")
        assert main(tiny_flags(data_dir, folder, epochs=1)) == 0
        assert not [name for name in os.listdir(folder) if name.startswith(".")]

    @pytest.mark.parametrize("files", [("config.yaml",), ("config.yaml", "run.json")])
    def test_a_run_that_came_to_nothing_starts_again(self, files, finished, data_dir, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        for name in files:
            shutil.copy(finished / name, folder / name)
        assert main(tiny_flags(data_dir, folder, epochs=1)) == 0

    @pytest.mark.usefixtures("usual_ctrl_c")
    def test_ctrl_c_before_the_first_step_is_one_line(self, data_dir, tmp_path, monkeypatch, capsys):
        for place in ("make_plan", "_prepare", "_continue_or_begin"):
            with monkeypatch.context() as patch:
                patch.setattr(start, place, _interrupt)
                said = refusal(capsys, *tiny_flags(data_dir, tmp_path / "run"), code=130)
            assert said == (
                "train.py: interrupted before the first checkpoint: nothing was kept, start it again with the same "
                "flags\n"
            )
            assert list(tmp_path.iterdir()) == []


class TestFullDisk:
    @pytest.mark.parametrize("val_share", [0, 0.2])
    def test_an_export_that_finds_no_room_is_made_up_for(
        self, val_share, finished, data_dir, tmp_path, monkeypatch, capsys
    ):
        flags = {"epochs": 2, "val_share": val_share}
        straight = finished if val_share == 0 else tmp_path / "straight"
        if val_share:
            assert main(tiny_flags(data_dir, straight, **flags)) == 0
        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(export, "export_model", _no_room)
            capsys.readouterr()
            said = refusal(capsys, *tiny_flags(data_dir, folder, **flags))
        assert "epoch 1 is kept, and --resume goes on after it without training it again" in said
        trained = []
        monkeypatch.setattr(epoch, "_train_on_batch", _count(trained, epoch._train_on_batch))
        assert main(["--output", str(folder), "--resume"]) == 0
        assert len(trained) == (4 if val_share == 0 else 3)  # the second epoch alone
        assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()

    def test_what_was_best_is_exported_again_from_its_checkpoint(self, data_dir, tmp_path):
        folder = tmp_path / "run"
        assert main(tiny_flags(data_dir, folder, epochs=6, val_share=0.3, lr=0.01)) == 0
        best, weights = RunFolder(folder).result()["epoch"], (folder / "model.safetensors").read_bytes()
        assert best < 6, "the trial needs a best epoch before the last one"
        for name in ("model.safetensors", "result.json"):
            (folder / name).unlink()
        with pytest.warns(UserWarning, match=f"exported again, from its checkpoint: epoch {best}"):
            assert main(["--output", str(folder), "--resume"]) == 0
        assert (folder / "model.safetensors").read_bytes() == weights
        assert RunFolder(folder).result()["epoch"] == best

    def test_a_start_that_finds_no_room_leaves_the_run_it_was_to_replace(self, run, data_dir, monkeypatch, capsys):
        before = contents(run)

        def half(self, text, facts):
            _io.write_json(self.run_json, facts)
            raise UserError("config.yaml cannot be written (No space left on device): make room")

        monkeypatch.setattr(RunFolder, "_write_start", half)
        assert "No space left" in refusal(capsys, *tiny_flags(data_dir, run, epochs=1), "--overwrite")
        assert contents(run) == before


def _no_room(*args):
    raise UserError("the trained model cannot be written (No space left on device): make room")


def _count(calls, function):
    def wrapper(*args):
        calls.append(1)
        return function(*args)

    return wrapper


class TestRecords:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("{", "metrics.jsonl, line 3 is damaged"),
            ("[1]", "a list"),
            ('{"epoch": 3}', "step is missing"),
            ('{"epoch": "3", "step": 1, "seconds": 1}', "epoch is no number"),
            ('{"epoch": 0, "step": 1, "seconds": 1}', "epoch is 0"),
            ('{"epoch": 3, "step": NaN, "seconds": 1}', "step is no number"),
            ("\xff", "metrics.jsonl, line 3"),
        ],
    )
    def test_a_damaged_line_is_one_line(self, line, told, run, capsys):
        with open(run / "metrics.jsonl", "ab") as file:
            file.write(line.encode("latin-1") + b"\n")
        assert told in refusal(capsys, "--output", run, "--resume")
        assert timm_asap(["card", str(run)]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1

    def test_lines_that_are_missing_are_told(self, run, capsys):
        (run / "metrics.jsonl").unlink()
        assert "metrics.jsonl has no line of epoch 2" in refusal(capsys, "--output", run, "--resume")

    def test_a_card_shows_no_accuracy_of_other_weights(self, run, capsys):
        result = json.loads((run / "result.json").read_text())
        assert result["weights_sha256"] == _io.state_sha256(load_file(run / "model.safetensors"))
        model = timm.create_model(f"local-dir:{run}", pretrained=True)
        torch.nn.init.zeros_(model.get_classifier().bias)
        save_file(model.state_dict(), run / "model.safetensors")
        assert timm_asap(["card", str(run)]) == 2
        assert "result.json was measured on other weights than" in capsys.readouterr().err
        # the checkpoint still has the weights that it was measured on
        assert main(["--output", str(run), "--resume"]) == 0
        assert timm_asap(["card", str(run)]) == 0


def test_a_seed_that_not_every_generator_takes(data_dir, tmp_path, capsys):
    said = refusal(capsys, *tiny_flags(data_dir, tmp_path / "run", seed=2**32))
    assert "--seed: expected at most 4294967295, got 4294967296" in said
    assert main(tiny_flags(data_dir, tmp_path / "run", seed=2**32 - 1, epochs=1)) == 0


def test_the_second_run_in_a_folder_is_told_of_the_first(run, data_dir, capsys):
    before = contents(run)
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        from timm_asap._lock import folder_lock

        os.close(done[1])
        with folder_lock(run, "timm-asap evaluate"):
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for words in (["--output", run, "--resume"], [*tiny_flags(data_dir, run), "--overwrite"]):
        said = refusal(capsys, *words)
        assert f"is being written to by timm-asap evaluate (process {pid} on" in said
    for end in (*ready, *done):
        os.close(end)
    os.waitpid(pid, 0)
    assert contents(run) == before


def test_room_is_looked_for_by_number(tmp_path):
    assert _io._errno(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert _io._errno(ValueError("(os error 28)")) is None
