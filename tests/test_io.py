"""Files are written whole or not at all, a disk's refusal is one line, and a flipped bit is noticed."""

import errno
import json
import os
import signal
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from timm_asap._io import (
    disk_errors,
    read_json,
    read_sealed,
    remove,
    remove_leftovers,
    replace_file,
    write_json,
    write_sealed,
    write_text,
)
from timm_asap.errors import UserError, run_program


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "record.json"
    write_json(file, {"a": 1})
    with replace_file(file) as aside:
        aside.write_text("half")
        assert read_json(file) == {"a": 1}
    assert file.read_text() == "half"
    assert os.listdir(file.parent) == ["record.json"]


def test_a_failure_leaves_the_older_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "record.json"
    write_text(file, "old")
    with suppress(ZeroDivisionError), replace_file(file) as aside:
        aside.write_text("new")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(outside)
    write_text(tmp_path / "run" / "README.md", "card")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "run" / "README.md").is_symlink()


def test_a_link_in_the_place_of_the_file_aside_is_not_followed(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    with replace_file(tmp_path / "run" / "README.md") as aside:
        aside.write_text("first")
    aside.symlink_to(outside)
    write_text(tmp_path / "run" / "README.md", "card")
    assert outside.read_text() == "mine"
    assert (tmp_path / "run" / "README.md").read_text() == "card"
    assert not (tmp_path / "run" / "README.md").is_symlink()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "cannot be written (No space left on device): make room on the disk"),
        (errno.EACCES, "cannot be written (Permission denied): choose a folder that you may write to"),
        (errno.EIO, "cannot be written (Input/output error): see that"),
    ],
)
def test_a_refusal_of_the_disk_is_one_line(code, told):
    with pytest.raises(UserError) as caught, disk_errors("a/b cannot be written"):
        raise OSError(code, os.strerror(code))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_safetensors_names_its_errors_in_another_way(tmp_path):
    limit = tmp_path / "folder"
    limit.mkdir()
    with (
        pytest.raises(UserError, match=r"x.safetensors cannot be written \(Is a directory\)"),
        replace_file(tmp_path / "x.safetensors"),
    ):
        save_file({"a": torch.ones(2)}, limit)


def test_what_killed_processes_left_is_cleared(tmp_path):
    mine = tmp_path / "plots"
    mine.mkdir()
    for folder in (tmp_path, mine):
        (folder / ".result.json.host-1.aside").write_text("half")
    (tmp_path / ".export.aside").mkdir()
    (tmp_path / ".export.aside" / "model.safetensors").write_text("half")
    (tmp_path / ".notes").write_text("mine")
    elsewhere = tmp_path.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / ".a.aside").write_text("of somebody else")
    (tmp_path / "checkpoints").symlink_to(elsewhere)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".notes", "checkpoints", "plots"]
    assert os.listdir(mine) == []
    assert os.listdir(elsewhere) == [".a.aside"]


def test_a_dead_process_leaves_no_rubbish_of_the_same_file_for_ever(tmp_path):
    write_text(tmp_path / "m.onnx", "old")
    with replace_file(tmp_path / "m.onnx") as aside:
        host = aside.name.removeprefix(".m.onnx.").rpartition("-")[0]
        aside.write_text("new")
    (tmp_path / f".m.onnx.{host}-{2**22 + 1}.aside").write_text("half")  # no process has so high a number
    (tmp_path / f".m.onnx.{host}-1.aside").write_text("of a process that lives")
    write_text(tmp_path / "m.onnx", "newer")
    assert sorted(os.listdir(tmp_path)) == [f".m.onnx.{host}-1.aside", "m.onnx"]


def test_remove_takes_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert os.listdir(tmp_path) == ["data"]


def test_a_flipped_bit_of_a_sealed_file_is_noticed(tmp_path):
    file = tmp_path / "evaluation.partial.safetensors"
    tensors = {"right": torch.tensor([1, 0, 1], dtype=torch.uint8), "loss": torch.tensor([0.5, 1.5])}
    write_sealed(file, tensors, {"configuration": json.dumps({"eps": 0.1})})
    back, metadata = read_sealed(file, "again")
    assert metadata == {"configuration": '{"eps": 0.1}'}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 3):  # each bit of a byte in its turn
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"evaluation.partial.safetensors .*again") as caught:
            read_sealed(file, "again")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no record of timm_asap: expected a JSON object, got a list"),
        ('{"a": NaN}', "holds NaN: expected numbers that were measured"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
    ],
)
def test_a_damaged_record_is_one_line(text, told, tmp_path):
    (tmp_path / "r.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "r.json")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("expected this, got that"), 2, "p: error: expected this, got that\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "p: error: /x/y: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "p: error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "p: interrupted\n"),
        (KeyboardInterrupt("stopped; go on with --resume"), 130, "p: stopped; go on with --resume\n"),
    ],
)
def test_a_program_ends_in_one_line(error, code, told, capsys):
    assert run_program("p", lambda: _raise(error)) == code
    assert capsys.readouterr().err == told


@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_that_a_library_turned_into_another_error_is_one_line(capsys):
    def half_imported():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RecursionError("maximum recursion depth exceeded")

    assert run_program("p", half_imported) == 130
    assert capsys.readouterr().err == "p: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_mistake_of_ours_stays_a_traceback():
    with pytest.raises(KeyError):
        run_program("p", lambda: _raise(KeyError("x")))
