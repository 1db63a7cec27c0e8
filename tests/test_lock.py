"""One writer to a folder: the second one is told who and since when, and a killed one keeps nothing."""

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from timm_asap import _lock
from timm_asap._lock import LOCK_FILES, folder_lock, locks_folder, refuse_if_locked
from timm_asap.errors import UserError


@contextmanager
def holder(folder, then=lambda: None):
    """Another process that holds the lock of a folder; yields its id."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(done[1])
        with folder_lock(folder, "train.py"):
            then()
            os.write(ready[1], b"held")
            os.read(done[0], 1)  # until the test closes its end
        os._exit(0)
    try:
        assert os.read(ready[0], 4) == b"held"
        yield pid
    finally:
        for end in (*ready, *done):
            os.close(end)
        os.waitpid(pid, 0)


def test_the_second_process_is_told_who_holds_it_and_since_when(tmp_path):
    run = tmp_path / "run"
    with holder(run) as pid:
        said = rf"run is being written to by train.py \(process {pid} on .+\), since \d{{4}}-\d\d-\d\dT.*: wait for it"
        for take in (lambda: folder_lock(run, "card").__enter__(), lambda: refuse_if_locked(run)):
            with pytest.raises(UserError, match=said) as caught:
                take()
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()  # nothing was written to it
    with folder_lock(tmp_path / "run", "card"):
        refuse_if_locked(tmp_path / "run")


def test_a_kill_releases_it_though_its_children_live_on_for_a_moment(tmp_path):
    def leave_a_child():
        if not os.fork():
            time.sleep(1)
            os._exit(0)

    with holder(tmp_path, leave_a_child) as pid:
        os.kill(pid, signal.SIGKILL)
    assert set(os.listdir(tmp_path)) == LOCK_FILES
    refuse_if_locked(tmp_path)
    with folder_lock(tmp_path, "train.py"):
        assert json.loads((tmp_path / _lock._HOLDER).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_the_same_process_may_take_it_again(tmp_path):
    with folder_lock(tmp_path, "train.py"):
        with folder_lock(tmp_path / "." / "x" / "..", "card"):
            pass
        assert set(os.listdir(tmp_path)) == LOCK_FILES
    assert os.listdir(tmp_path) == []


def test_folders_that_were_made_for_it_go_with_it_unless_something_was_written(tmp_path):
    with folder_lock(tmp_path / "a" / "b", "train.py"):
        pass
    assert os.listdir(tmp_path) == []
    with folder_lock(tmp_path / "a" / "b", "train.py"):
        (tmp_path / "a" / "b" / "config.yaml").write_text("")
    assert os.listdir(tmp_path / "a" / "b") == ["config.yaml"]


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_warns_and_goes_on(code, tmp_path, monkeypatch):
    import errno

    class Lock:
        def __init__(self, path):
            pass

        def acquire(self, timeout):
            raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(_lock, "FileLock", Lock)
    with pytest.warns(UserWarning, match="file system without locks"), folder_lock(tmp_path, "train.py"):
        (tmp_path / "x").write_text("")
    assert os.listdir(tmp_path) == ["x"]


def test_a_decorated_function_holds_the_lock_of_its_folder(tmp_path):
    @locks_folder("timm-asap card")
    def write(folder, then=None):
        return sorted(os.listdir(folder)) if Path(folder).is_dir() else None

    assert set(write(str(tmp_path))) == LOCK_FILES
    assert set(write(folder=tmp_path)) == LOCK_FILES
    assert write(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    with holder(tmp_path) as pid, pytest.raises(UserError, match=f"process {pid}"):
        write(tmp_path)
