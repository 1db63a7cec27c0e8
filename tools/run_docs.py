"""Runs every shell block of README.md and docs/: `python tools/run_docs.py [--list] [--only PAGE ...]`.

The commands run as they stand, page by page, in one folder that stands for a user's: what a page makes, the next one
may use. Data sets of a few images lie there, and the Hub is the one of the tests, on 127.0.0.1. `timm-asap` and
`train.py` run in this process, with flags that make them short where a page leaves them out; servers are started, asked
once, and stopped.

A block that is not run says why, in a comment above it: `<!-- not run: needs eight GPUs -->`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import shlex
import signal
import string
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: In the order in which they run: what one makes, later ones use.
PAGES = (
    "README.md",
    "docs/training.md",
    "docs/evaluate.md",
    "docs/aliasing.md",
    "docs/cards.md",
    "docs/heal.md",
    "docs/publish.md",
    "docs/demo.md",
    "docs/robust_backbone.md",
    "docs/compare_downsampling.md",
)

#: Flags that make a command short, where the page leaves them out.
SHORT = {
    "train": {"--epochs": ["1"], "--warmup-epochs": ["0"]},
    "adapt": {"--steps": ["4"], "--limit": ["24"]},
    "evaluate": {
        "--limit": ["12"],
        "--limit-attacks": ["4"],
        "--limit-aliasing": ["2"],
        "--corruptions": ["fog", "contrast"],
        "--severities": ["1"],
        "--eps": ["2/255"],
        "--steps": ["2"],
        "--shift-pixels": ["1"],
    },
    "heal": {"--limit": ["24"]},
    "compare": {"--resamples": ["1000"]},
}

_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
_SHELLS = ("```bash", "```sh", "```shell", "```console")
_PROGRAMS = ("timm-asap", "python", "torchrun", "accelerate", "pip", "git", "hf", "srun", "pytest", "export", "cd")


@dataclass(frozen=True)
class Block:
    """A shell block of a page.

    Attributes:
        page: Path from the root of the repository.
        line: Of its first command, from 1.
        text: Its lines.
        why_not: Why it is not run; None where it is.
    """

    page: str
    line: int
    text: str
    why_not: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        variables: dict[str, str] = {}
        found = []
        for part in (part for line in joined.splitlines() for part in line.split(" && ")):
            words = [string.Template(word).safe_substitute(variables) for word in shlex.split(part, comments=True)]
            if words and (assigned := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
                variables[assigned[1]] = assigned[2]
            elif words:
                found.append(words)
        return found


def blocks_of(page: Path, root: Path = ROOT) -> list[Block]:
    """The shell blocks of a page, and any other block whose first word is a program's."""
    found, inside, start, lines, why = [], None, 0, [], None
    text = page.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if inside is None and line.startswith("```"):
            inside, start, lines = line.strip(), number + 1, []
        elif inside is not None and line.startswith("```"):
            first = lines[0].split()[0] if lines and lines[0].split() else ""
            if inside.startswith(_SHELLS) or (inside == "```" and first in _PROGRAMS):
                found.append(Block(page.relative_to(root).as_posix(), start, "\n".join(lines), why))
            inside, why = None, None
        elif inside is not None:
            lines.append(line)
        elif reason := _NOT_RUN.search(line):
            why = reason[1]
        elif line.strip():
            why = None
    return found


def shortened(words: Sequence[str]) -> list[str]:
    """A command of timm_asap with the flags of `SHORT` that it does not have."""
    extra = SHORT.get(words[0], {})
    missing = [word for flag, values in extra.items() if flag not in words for word in (flag, *values)]
    return [*words, *missing]


def pages(only: Sequence[str] = ()) -> list[Path]:
    """The pages that have shell blocks, those of `PAGES` first."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    wanted = [page for page in every if not only or page.relative_to(ROOT).as_posix() in only or page.name in only]
    rank = {name: place for place, name in enumerate(PAGES)}
    return sorted(wanted, key=lambda page: rank.get(page.relative_to(ROOT).as_posix(), len(rank)))


def main(argv: Sequence[str] | None = None) -> int:
    """List or run; the exit code is the number of commands that failed."""
    parser = argparse.ArgumentParser(description="Run the shell blocks of README.md and docs/.")
    parser.add_argument("--list", action="store_true", help="list the blocks, run nothing")
    parser.add_argument("--only", nargs="+", default=(), metavar="PAGE", help="pages, such as evaluate.md")
    options = parser.parse_args(argv)
    found = [block for page in pages(options.only) for block in blocks_of(page)]
    if options.list:
        for block in found:
            print(f"{block.page}:{block.line}: {block.why_not or 'run'}")
        return 0
    with tempfile.TemporaryDirectory(prefix="timm_asap_docs_") as folder, _workspace(Path(folder)):
        failed = [where for block in found if block.why_not is None for where in _run_block(block)]
    for where in failed:
        print(f"FAILED {where}")
    print(f"{sum(block.why_not is None for block in found)} blocks run, {len(failed)} commands failed")
    return len(failed)


def _run_block(block: Block) -> Iterator[str]:
    for words in block.commands:
        print(f"\n+ {block.page}:{block.line}: {shlex.join(words)}", flush=True)
        began = time.monotonic()
        try:
            code = _run(words)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(error)
            code = 1
        print(f"= {code} after {time.monotonic() - began:.0f} s", flush=True)
        if code:
            yield f"{block.page}:{block.line}: {shlex.join(words)}"


def _run(words: list[str]) -> int:
    if words[:2] == ["python", "train.py"]:
        words = ["timm-asap", "train", *words[2:]]
    if words[0] == "timm-asap" and (words[1] != "demo" or "--space" in words):
        from timm_asap.cli import main as timm_asap

        return timm_asap(shortened(words[1:]))
    if words[0] == "timm-asap":
        return _serve([sys.executable, "-m", "timm_asap", *words[1:]])
    if words[0] == "python" and words[1].endswith("app.py"):
        return _serve([sys.executable, *words[1:]])
    if words[0] == "torchrun":
        own = words.index("train.py")
        launch = [sys.executable, "-m", "torch.distributed.run", *words[1:own], str(ROOT / "train.py")]
        return subprocess.run([*launch, *shortened(["train", *words[own + 1 :]])[1:]], check=False).returncode
    raise RuntimeError(f"nothing here runs {words[0]}: give the block a comment <!-- not run: WHY -->")


def _serve(words: list[str]) -> int:
    """Start a server, ask it for its page, and end it as Ctrl-C does."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # a shell that runs this in the background has it, and its children, ignore Ctrl-C
    heed_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, env=environment, preexec_fn=heed_ctrl_c, **pipes) as process:
        try:
            for line in process.stdout:
                print(line, end="")
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    with urllib.request.urlopen(address[0], timeout=60) as reply:
                        reply.read()
                    process.send_signal(signal.SIGINT)
                    process.communicate(timeout=60)
                    return 0
        finally:
            if process.poll() is None:
                process.kill()
    return process.returncode or 1


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[None]:
    """A user's folder with small data sets, and a Hub of its own; both are gone afterwards."""
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    from tests.support.hub_server import HubServer

    hub = HubServer()
    os.environ.update(
        HF_ENDPOINT=hub.url,
        HF_HOME=str(folder / ".cache"),
        HF_TOKEN=hub.write_token,
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )
    _write_fashion_mnist(folder / "fashion-mnist")
    _write_photographs(folder / "photos")
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        hub.close()


def _write_fashion_mnist(folder: Path) -> None:
    """As many files as the real one, with noise of ten gray levels in the place of clothes."""
    import gzip
    import struct

    import numpy as np

    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 200), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (rng.integers(0, 60, (count, 28, 28)) + 18 * labels[:, None, None]).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def _write_photographs(folder: Path) -> None:
    """Class folders of pictures that are larger than 64 pixels."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for level, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (80, 96, 3)) + 120 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")


if __name__ == "__main__":
    raise SystemExit(min(1, main()))
