"""Trials of run folders in a hostile world: kills, a second writer, flipped bits, full disks, missing rights, flags.

Every trial is a whole program in a child process: killed at a change of its files, beside another writer, with flipped
bits under it, on a full disk, in a folder that it may not write to, or with a random command line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sklearn.model_selection  # noqa: F401

# what a first command would import: every child has it from here
import timm_asap.commands.card
import timm_asap.commands.compare
import timm_asap.commands.demo
import timm_asap.commands.evaluate
import timm_asap.commands.heal
import timm_asap.commands.publish
import timm_asap.evaluation.plots
import timm_asap.hub
from tests.support.tiny_evaluation import write_model
from tests.support.tiny_run import main as train
from tests.support.tiny_run import tiny_flags, write_images
from tests.trials.children import Done, as_nobody, die_at, limit_files, run, start
from tests.trials.count import Count
from timm_asap.cli import main as timm_asap
from timm_asap.training.run_folder import RunFolder

_EVALUATE = (
    *("--dataset", "digits", "--limit", "24", "--measures", "clean,attacks", "--attacks", "fgsm", "--eps", "1/255"),
    *("--batch-size", "12", "--no-plots"),
)


class Trials:
    """The trials, and what they start from.

    Args:
        work: A folder of their own.
        count: About how many trials of each kind.
        seed: Of whatever is random.
    """

    def __init__(self, work: Path, count: int, seed: int) -> None:
        self.work, self.count, self.random = work, count, random.Random(seed)
        self.data = write_images(work / "idx")
        self.made = 0
        self.flags = lambda folder, **changes: tiny_flags(self.data, folder, **{"epochs": 2, **changes})
        self.straight = work / "straight"
        assert run(train, self.flags(self.straight)).is_right
        self.model = write_model(work / "model")
        self.record = work / "record"
        assert run(timm_asap, ["evaluate", self.model, *_EVALUATE, "--output", self.record]).is_right

    def new(self) -> Path:
        """A path that nothing has."""
        self.made += 1
        return self.work / f"trial{self.made}"

    def points(self, changes: int) -> list[int]:
        """Some of so many points, the first ones among them."""
        few = min(self.count, changes)
        return sorted({*range(1, few // 3 + 1), *self.random.sample(range(1, changes + 1), few - few // 3)})

    # what the runs came to

    def unlike_straight(self, folder: Path) -> str | None:
        """Why a run is not the one that nothing disturbed."""
        if _curve(folder) != _curve(self.straight):
            return "metrics.jsonl is another"
        for name in ("model.safetensors", "config.json"):
            if (folder / name).read_bytes() != (self.straight / name).read_bytes():
                return f"{name} is another"
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        return f"{left} is left over" if left else None

    def unlike_record(self, folder: Path) -> str | None:
        """Why an evaluation is not the one that nothing disturbed."""
        ours, theirs = (json.loads((f / "evaluation.json").read_text())["results"] for f in (folder, self.record))
        if ours != theirs:
            return "evaluation.json holds other results"
        left = [path.name for path in folder.iterdir() if path.name.startswith(".") or "partial" in path.name]
        return f"{left} is left over" if left else None

    # the kinds

    def kills_of_training(self) -> Count:
        """Killed before the so-manieth change of a file: the same start again, or --resume, comes to the same end."""
        count = Count("kills of training")
        for number in self.points(90):
            folder = self.new()
            if run(train, self.flags(folder), die_at(number, folder)).code != -9:
                continue  # it was over before
            fresh = not (folder / "config.yaml").is_file() or not RunFolder(folder).checkpoints.files()
            words = self.flags(folder) if fresh and number % 2 else ["--output", folder, "--resume"]
            if "--resume" in words and not (folder / "config.yaml").is_file():
                words = [*self.flags(folder), "--resume"]
            done = run(train, words)
            count.add(f"change {number}", done, self.unlike_straight(folder) if done.is_right else None, False)
            shutil.rmtree(folder)
        return count

    def kills_of_overwriting(self) -> Count:
        """Killed while a finished run is replaced: the old one is whole, or the new one can go on."""
        count = Count("kills of --overwrite")
        changed = {"seed": 1, "epochs": 1}
        for number in self.points(110):
            folder = self.new()
            shutil.copytree(self.straight, folder)
            if run(train, [*self.flags(folder, **changed), "--overwrite"], die_at(number, folder)).code != -9:
                shutil.rmtree(folder)
                continue
            old = (self.straight / "model.safetensors").read_bytes()
            kept = [path for path in folder.rglob("model.safetensors") if path.read_bytes() == old]
            problem = None if kept or RunFolder(folder).checkpoints.files() else "neither the old run nor a new one"
            done = run(train, ["--output", folder, "--resume"])
            if problem is None and done.is_right and not (folder / "result.json").is_file():
                problem = "no result"
            if problem is None and [path.name for path in folder.iterdir() if path.name.startswith(".")]:
                problem = "something is left over"
            count.add(f"change {number}", done, problem, False)
            shutil.rmtree(folder)
        return count

    def kills_of_evaluation(self) -> Count:
        """Killed at a change of a file: --resume comes to the same record."""
        count = Count("kills of evaluation")
        for number in self.points(40):
            folder = self.new()
            words = ["evaluate", self.model, *_EVALUATE, "--output", folder]
            if run(timm_asap, words, die_at(number, folder)).code == -9:
                done = run(timm_asap, [*words, "--resume"])
                count.add(f"change {number}", done, self.unlike_record(folder) if done.is_right else None, False)
            shutil.rmtree(folder, ignore_errors=True)
        return count

    def kills_of_healing(self) -> Count:
        """Killed while a healed model is replaced: weights and configuration load, and the next time works."""
        count = Count("kills of heal --overwrite")
        words = ["heal", self.straight, "--dataset", "idx", "--data-dir", self.data, "--output"]
        first = self.new()
        assert run(timm_asap, [*words, first]).is_right
        for number in self.points(30):
            folder = self.new()
            shutil.copytree(first, folder)
            if run(timm_asap, [*words, folder, "--overwrite", "--seed", "1"], die_at(number, folder)).code == -9:
                left = run(timm_asap, ["card", folder])
                done = run(timm_asap, [*words, folder, "--overwrite"])
                count.add(f"change {number}", done, None if left.is_right else f"the card: {left.err[-300:]}", False)
            shutil.rmtree(folder)
        return count

    def two_writers(self) -> Count:
        """A second program on the folder of a run refuses in one line that names the first; the run is as it was."""
        count = Count("two writers")
        folder = self.new()
        shutil.copytree(self.straight, folder)
        pid = start(train, [*self.flags(folder, epochs=200, seed=3), "--overwrite"])
        try:
            _wait_for(lambda: len(_curve(folder)) > 1 and (folder / ".timm_asap.holder").is_file())
            copies = {
                "train.py --resume": (train, ["--output", folder, "--resume"]),
                "train.py --overwrite": (train, [*self.flags(folder), "--overwrite"]),
                "evaluate": (timm_asap, ["evaluate", folder, "--dataset", "idx", "--data-dir", self.data]),
                "evaluate --overwrite": (
                    timm_asap,
                    ["evaluate", self.model, *_EVALUATE, "--overwrite", "--output", folder],
                ),
                "card": (timm_asap, ["card", folder]),
                "publish": (timm_asap, ["publish", folder, "--repo", "me/run", "--dry-run"]),
            }
            for what, (main, words) in copies.items():
                done = run(main, words)
                told = f"process {pid}" in done.err and "train.py" in done.err and "since" in done.err
                problem = None if done.code == 2 and told else f"exit code {done.code}: {done.err[-300:]}"
                count.add(what, done, problem)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        done = run(train, ["--output", folder, "--resume", "--epochs", len(_curve(folder)) + 1])
        epochs = [record["epoch"] for record in _curve(folder)]
        in_order = epochs == list(range(1, len(epochs) + 1))
        count.add("--resume after a kill", done, None if in_order else f"epochs {epochs}", False)
        return count

    def flipped_bits(self) -> Count:
        """A single flipped bit in a file: the same result, or one line; never another result, never a traceback."""
        count = Count("flipped bits")
        partial = self.new()
        words = ["evaluate", self.model, *_EVALUATE, "--output", partial]
        points = iter(range(8, 60))
        while not (partial / "evaluation.partial.safetensors").is_file():
            shutil.rmtree(partial, ignore_errors=True)
            run(timm_asap, words, die_at(next(points), partial))
        stopped = self.new()
        shutil.copytree(self.straight, stopped)
        (stopped / "result.json").unlink()
        cases: list[tuple[str, Path, Callable[[Path], Done], Callable[[Path], str | None]]] = [
            ("evaluation.partial.safetensors", partial, self._resume_evaluation, self.unlike_record),
            ("evaluation.json", self.record, self._compare, lambda folder: None),
            ("evaluation.safetensors", self.record, self._compare, lambda folder: None),
            ("checkpoints/*", stopped, self._resume_training, self.unlike_straight),
            ("metrics.jsonl", stopped, self._resume_training, lambda folder: None),
            ("config.yaml", stopped, self._resume_training, lambda folder: None),
            ("result.json", self.straight, lambda folder: run(timm_asap, ["card", folder]), lambda folder: None),
        ]
        for name, source, program, unlike in cases:
            for _ in range(self.count if "partial" in name else max(2, self.count // 2)):
                folder = self.new()
                shutil.copytree(source, folder)
                file = max(folder.glob(name), key=lambda path: path.name)
                where = self.random.randrange(8 * file.stat().st_size)
                content = bytearray(file.read_bytes())
                content[where // 8] ^= 1 << where % 8
                file.write_bytes(content)
                done = program(folder)
                count.add(f"bit {where} of {name}", done, unlike(folder) if done.is_right else None)
                shutil.rmtree(folder)
        return count

    def _resume_evaluation(self, folder: Path) -> Done:
        return run(timm_asap, ["evaluate", self.model, *_EVALUATE, "--output", folder, "--resume"])

    def _resume_training(self, folder: Path) -> Done:
        return run(train, ["--output", folder, "--resume"])

    def _compare(self, folder: Path) -> Done:
        return run(timm_asap, ["compare", self.record, folder, "--resamples", "1000"])

    def full_disk(self) -> Count:
        """Files that cannot grow: one line, what was there is as it was, and with room again the work goes on."""
        count = Count("full disk")
        for size in self._sizes():
            folder = self.new()
            done = run(train, self.flags(folder), limit_files(size))
            problem = None
            if not done.is_right:
                again = run(train, ["--output", folder, "--resume"] if (folder / "config.yaml").is_file()
                            else self.flags(folder))  # fmt: skip
                problem = self.unlike_straight(folder) if again.is_right else f"not gone on with: {again.err[-300:]}"
            count.add(f"train.py, {size} bytes", done, problem)
            for what, main, words, there in self._writers():
                before = _contents(there) if there.exists() else None
                done = run(main, words, limit_files(size))
                count.add(f"{what}, {size} bytes", done, _harmed(done, there, before))
                _clear(there, before, self)
        return count

    def _sizes(self) -> list[int]:
        return sorted({0, 300, 2_000, *(self.random.randrange(2_000_000) for _ in range(max(1, self.count // 4)))})

    def _writers(self) -> Iterator[tuple[str, Callable[[list[str]], int], list[object], Path]]:
        """Every command that writes: what it is, its words, and the folder that they are about, fresh for each."""
        run_copy, record_copy, heal_to = self.new(), self.new(), self.new()
        shutil.copytree(self.straight, run_copy)
        yield "train.py --overwrite", train, [*self.flags(run_copy, seed=1), "--overwrite"], run_copy
        yield "card", timm_asap, ["card", run_copy, "--license", "mit"], run_copy
        on_data = ["--dataset", "idx", "--data-dir", self.data]
        yield "heal", timm_asap, ["heal", self.straight, *on_data, "--output", heal_to], heal_to
        shutil.copytree(self.record, record_copy)
        again = ["--overwrite", "--seed", "1", "--output", record_copy]
        yield "evaluate --overwrite", timm_asap, ["evaluate", self.model, *_EVALUATE, *again], record_copy
        compared = self.new()
        compared.mkdir()
        (compared / "c.json").write_text("{}")
        words = ["compare", self.record, self.record, "--resamples", "1000", "--output", compared / "c.json"]
        yield "compare", timm_asap, [*words, "--overwrite"], compared
        exported = self.new()
        exported.mkdir()
        (exported / "m.onnx").write_text("old")
        words = ["export", f"local-dir:{self.straight}", "--onnx", exported / "m.onnx", "--overwrite"]
        yield "export", timm_asap, words, exported
        space = self.new()
        yield "demo --space", timm_asap, ["demo", f"local-dir:{self.straight}", "--space", space], space

    def small_disk(self) -> Count:
        """A disk of its own that runs full, where this user may mount one."""
        count = Count("a disk that is full")
        for megabytes in (1, 2, 3, 4, 6, 8)[: max(1, self.count // 3)]:
            with _mounted(self.new(), megabytes) as disk:
                if disk is None:
                    print("a disk of its own: not tried, this user may not mount one")
                    return count
                folder = disk / "run"
                done = run(train, self.flags(folder, epochs=4, keep_checkpoints=9))
                problem = None
                if not done.is_right:
                    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                    words = ["--output", folder, "--resume"] if (folder / "config.yaml").is_file() else None
                    again = run(train, words or self.flags(folder, epochs=4, keep_checkpoints=9))
                    problem = None if again.is_right else f"not gone on with: {again.err[-300:]}"
                count.add(f"{megabytes} MB", done, problem)
        return count

    def rights(self) -> Count:
        """Folders that may not be written to, or not be read, by a user who is not root."""
        count = Count("missing rights")
        if os.getuid() != 0:
            print("missing rights: tried as this user, and not as another")
        before = as_nobody if os.getuid() == 0 else None
        # Python itself may lie where only root may read: what these commands import is imported before
        for words in (["card", self.straight], ["export", f"local-dir:{self.straight}", "--onnx", self.new()]):
            timm_asap([str(word) for word in words])
        for path in (self.work, *self.work.parents):
            if path.stat().st_uid == os.getuid() and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o055)
        for mode in (0o555, 0o000, 0o444):
            parent = self.new()
            parent.mkdir()
            flags = self.flags(parent / "run")
            parent.chmod(mode)
            count.add(f"train.py in a parent of mode {mode:o}", run(train, flags, before))
            for what, main, words, there in self._writers():
                if not there.exists():
                    there.mkdir()
                for path in [*there.rglob("*"), there]:
                    path.chmod(mode if path.is_dir() else mode & 0o444)
                done = run(main, words, before)
                for path in [there, *there.rglob("*")]:
                    path.chmod(0o755 if path.is_dir() else 0o644)
                count.add(f"{what} in a folder of mode {mode:o}", done)
        return count

    def words(self) -> Count:
        """Random command lines: whatever they ask for, it is done or refused in one line."""
        count = Count("random command lines")
        values = ["0", "1", "-1", "4294967296", "nan", "1e30", "", "x", "\n", "ü", "true", "None", "[]", "{}", "a,b"]
        values += [
            str(self.straight),
            str(self.data),
            "digits",
            "idx",
            "test_resnet",
            "cpu",
            "meta",
            "hpu",
            "../..",
            "~",
        ]
        flags = ["--epochs", "--batch-size", "--seed", "--model", "--dataset", "--data-dir", "--lr", "--output"]
        flags += ["--limit", "--device", "--resume", "--overwrite", "--num-workers", "--accumulate", "--val-share"]
        flags += ["--measures", "--eps", "--severities", "--against", "--ridge", "--layout", "--recipe", "--mixup"]
        programs: list[tuple[Callable[[list[str]], int], list[object]]] = [
            (train, self.flags("OUT", epochs=1)),
            (timm_asap, ["evaluate", self.model, *_EVALUATE, "--output", "OUT"]),
            (timm_asap, ["heal", self.straight, "--dataset", "idx", "--data-dir", self.data, "--output", "OUT"]),
            (timm_asap, ["card", self.straight, "--output", "OUT"]),
            (timm_asap, ["compare", self.record, self.record]),
        ]
        here = self.new()
        here.mkdir()
        for _ in range(self.count * 4):
            main, words = self.random.choice(programs)
            out = self.new()
            words = [out if word == "OUT" else word for word in words]
            for _ in range(self.random.randint(1, 3)):
                more = [self.random.choice(flags), self.random.choice(values)][: self.random.randint(1, 2)]
                words += more
            done = run(main, words, lambda: os.chdir(here))
            count.add(" ".join(map(repr, map(str, words[1:]))), done)
            shutil.rmtree(out, ignore_errors=True)
        return count


def _curve(folder: Path) -> list[dict]:
    """The epochs of a run, without what depends on the clock."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_s")} for line in lines]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _harmed(done: Done, there: Path, before: dict[str, bytes] | None) -> str | None:
    """What a refused program did to what was there."""
    if done.is_right:
        return None
    if before is None:
        return f"{there.name} is half written" if there.exists() and any(there.iterdir()) else None
    after = _contents(there) if there.exists() else {}
    # a run that ended early may leave what it reached, but nothing of the old one may be missing or changed
    checkpoints = [name for name in after if name.startswith("checkpoints/") and name not in before]
    changed = [name for name, content in before.items() if after.get(name) != content]
    return f"{changed[0]} is not what it was" if changed and not checkpoints else None


def _clear(there: Path, before: dict[str, bytes] | None, trials: Trials) -> None:
    """Make the folder of a trial what it was, for the next one."""
    if before is not None and "config.yaml" in before:
        shutil.rmtree(there)
        shutil.copytree(trials.straight, there)
    else:
        shutil.rmtree(there, ignore_errors=True)


def _wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("the run did not begin")
        time.sleep(0.02)


@contextmanager
def _mounted(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A disk in memory of so many megabytes; None where this user may not mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


KINDS = (
    "kills_of_training", "kills_of_overwriting", "kills_of_evaluation", "kills_of_healing", "two_writers",
    "flipped_bits", "full_disk", "small_disk", "rights", "words",
)  # fmt: skip
