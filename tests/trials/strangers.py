"""Trials of what comes from strangers: answers of the Hub, configurations, pictures, records, and folders of images."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import timm_asap.demo.predictions
import timm_asap.hub.bundle
import timm_asap.hub.publishing
import timm_asap.zoo.hub_client
from tests.data.test_data_images import MALFORMED, TURNED, encoded, exif_block, noise
from tests.hub import test_hub_answers as answers
from tests.support.hub_server import HubServer
from tests.support.publishable_run import publishable_run
from tests.support.tiny_run import main as train
from tests.trials.children import Done, run
from tests.trials.count import Count
from tests.trials.runs import Trials
from tests.zoo import test_model_config as configs
from tests.zoo.test_hub_waiting import ROUTES as SILENT_ROUTES
from timm_asap.cli import main as timm_asap_program
from timm_asap.data.images import FORMATS
from timm_asap.errors import UserError

_ON_DIGITS = ("--dataset", "digits", "--limit", "16", "--measures", "clean", "--no-plots", "--batch-size", "16")
_STATUSES = (302, 400, 401, 403, 404, 407, 409, 410, 412, 429, 500, 503)


class Strangers:
    """The trials.

    Args:
        trials: Those of run folders: whose work folder, run, record and random numbers are taken.
        hub: The Hub on 127.0.0.1.
    """

    def __init__(self, trials: Trials, hub: HubServer) -> None:
        self.trials, self.hub, self.random, self.count = trials, hub, trials.random, trials.count
        self.work = trials.new()
        self.work.mkdir()
        self.run = publishable_run(self.work)
        (self.work / "bundle").mkdir()
        self.bundle = timm_asap.hub.bundle.make_bundle(self.run, self.work / "bundle", answers.REPO)
        self.net = self.work / "net"
        torch.manual_seed(0)
        model = timm.create_model("test_resnet_asap", num_classes=10, in_chans=1).eval()
        names = {"label_names": [str(number) for number in range(10)]}
        save_for_hf(model, self.net, model_config=names, safe_serialization=True)

    def some(self, cases: list, times: int = 1) -> list:
        """As many of the cases as are counted, in their order."""
        few = min(len(cases), self.count * times)
        return [cases[index] for index in sorted(self.random.sample(range(len(cases)), few))]

    # the Hub

    def _as_user(self, cache: Path, wait_s: float | None = None) -> Callable[[], None]:
        """The child is signed in, has a cache of its own, and repeats without a pause."""

        def before() -> None:
            os.environ.update(HF_TOKEN=self.hub.write_token, HF_HUB_CACHE=str(cache))
            import huggingface_hub.constants
            import huggingface_hub.file_download
            import huggingface_hub.utils._http

            huggingface_hub.constants.HF_HUB_CACHE = str(cache)
            client = timm_asap.zoo.hub_client
            clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
            for module in (huggingface_hub.utils._http, huggingface_hub.file_download, client):
                module.time = clock
            if wait_s is not None:
                client.WAIT_S = huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = wait_s

        return before

    def _publish(self, words: list[str], wait_s: float | None = None) -> Done:
        """`timm-asap publish`, without making the bundle again; what comes back is compared by sha256 alone."""
        as_user = self._as_user(self.trials.new(), wait_s)

        def before() -> None:
            as_user()
            timm_asap.hub.publishing.make_bundle = lambda *args: self.bundle
            timm_asap.hub.publishing.load = lambda name: None
            timm_asap.hub.publishing.sample_logits = lambda model: self.bundle.logits

        return run(timm_asap_program, ["publish", self.run, "--repo", answers.REPO, *words], before)

    def _try_publishing(
        self, count: Count, what: str, route: tuple, fault: dict, words: list[str], **how: float
    ) -> None:
        """Publish with a fault, then without it: nothing may be half there, and the second time it works."""
        self.hub.reset()
        if words:
            refs = self.hub.add_repo(answers.REPO, {"README.md": "---\nlicense: mit\n---\n"}).refs
            refs["refs/heads/next"] = refs["refs/heads/main"]
        self.hub.fail(route[0], route[1], times=10**6, **fault)
        done = self._publish(words, **how)
        self.hub.faults.clear()
        problem = None
        whole = {"model.safetensors", "config.json", "README.md", "evaluation.json"}
        for repository in self.hub.repositories.values():
            for commit in repository.refs.values():
                if whole & set(commit.files) - {"README.md"} and not whole <= set(commit.files):
                    problem = f"half published: {sorted(commit.files)}"
        if self.hub.write_token in done.out + done.err:
            problem = "the token is shown"
        again = self._publish(words)
        if not again.is_right:
            problem = problem or f"not published afterwards: {again.err[-300:]}"
        if self.hub.crashes:
            problem = f"the Hub of the tests broke: {self.hub.crashes[0]}"
        count.add(what, done, problem)

    def hub_publishing(self) -> Count:
        """Every route of publishing answered with something else, with each status, and with spoiled keys."""
        count = Count("publishing: answers that are none")
        cases = [
            (f"{route}: {kind}", route, {"answer": body})
            for route, (kind, body) in itertools.product(answers.ROUTES, answers.WHOLE.items())
        ]
        cases += [
            (f"{route}: {status}", route, {"status": status})
            for route, status in itertools.product(answers.ROUTES, _STATUSES)
        ]
        for route in answers.ROUTES.keys() - {"upload", "file", "file head"}:
            bodies: list[bytes] = []
            self.hub.reset()
            self.hub.fail(*answers.ROUTES[route], times=10**6, rewrite=lambda body, to=bodies: to.append(body) or body)
            if words := _words_of(route):
                refs = self.hub.add_repo(answers.REPO, {"README.md": "---\nlicense: mit\n---\n"}).refs
                refs["refs/heads/next"] = refs["refs/heads/main"]
            self._publish(words)
            cases += [
                (f"{route}: {how}", route, {"rewrite": lambda body, spoiled=spoiled: spoiled})
                for how, spoiled in answers.spoilings(max(bodies, key=len, default=b""))
            ]
        for what, route, fault in self.some(cases, 8):
            self._try_publishing(count, what, answers.ROUTES[route], fault, _words_of(route))
        return count

    def hub_silence(self) -> Count:
        """Every route of publishing that never answers: it ends, in one line."""
        count = Count("publishing: no answer")
        for name, route in self.some(list(SILENT_ROUTES.items())):
            self._try_publishing(count, name, route[:2], {"silent": True}, [], wait_s=0.3)
        return count

    def hub_loading(self) -> Count:
        """Every command that takes a model from the Hub, with a file that is answered by something else."""
        count = Count("loading: answers that are none")
        faults = [{"answer": body} for body in answers.WHOLE.values()] + [{"status": status} for status in _STATUSES]
        faults += [{"wrong_bytes": True}, {"truncate_to": 10}, {"lose_answer": True}, {"cut_after": 100}]
        cases = list(itertools.product(answers.COMMANDS, ("config.json", "model.safetensors"), ("HEAD", "GET"), faults))
        controls = [(command, "config.json", "GET", None) for command in answers.COMMANDS]
        for command, file, method, fault in controls + self.some(cases, 8):
            self.hub.reset()
            self.hub.add_repo(answers.REPO, {path.name: path.read_bytes() for path in self.net.iterdir()})
            here = self.trials.new()
            here.mkdir()
            if fault:
                self.hub.fail(method, f"/resolve/.*/{file}", times=10**6, **fault)
            more = {"evaluate": _ON_DIGITS[2:], "heal": ("--limit", "64", "--batch-size", "32")}.get(command, ())
            as_user = self._as_user(here / "cache")
            done = run(
                timm_asap_program,
                [*answers.COMMANDS[command], *more],
                lambda here=here, as_user=as_user: (as_user(), os.chdir(here)),
            )
            self.hub.faults.clear()
            problem = None
            if done.is_right and method == "GET" and fault and not fault.keys() & {"cut_after", "lose_answer"}:
                problem = "a file that was not the model's was taken"
            if not done.is_right and [path.name for path in here.iterdir() if path.name != "cache"]:
                problem = f"{sorted(os.listdir(here))} is left over"
            if [path for _, path, _ in self.hub.requests if path.endswith((".bin", ".pth", ".pt"))]:
                problem = "pickled weights were asked for"
            count.add(f"{command}: {method} {file}: {fault}", done, problem, fault is not None)
        return count

    # models

    def configurations(self) -> Count:
        """A config.json with every key of every type, in every command."""
        count = Count("hostile config.json")
        commands = ("evaluate", "heal", "demo", "export")
        cases = list(itertools.product(configs.PLACES, configs.VALUES.items()))
        controls = [(None, command) for command in commands]
        for where, what in controls + self.some(cases, 8):
            here = self.trials.new()
            folder = Path(shutil.copytree(self.net, here / "net"))
            if where is None:
                name, command = "as it was saved", what
            else:
                (place, key), (kind, value) = where, what
                configs.write(folder, **{place or "top": {key: value}})
                name, command = f"{place}.{key} {kind}", self.random.choice(commands)
            words = [word.format(f"local-dir:{folder}", folder=folder) for word in configs.COMMANDS[command]]
            words += {"evaluate": _ON_DIGITS[2:], "heal": ("--limit", "64", "--batch-size", "32")}.get(command, ())
            done = run(timm_asap_program, words, lambda here=here: os.chdir(here))
            left = sorted(set(os.listdir(here)) - {"net"})
            problem = f"{left} is left over" if done.code and left else None
            count.add(f"{command}: {name}", done, problem, where is not None)
            shutil.rmtree(here)
        return count

    # pictures

    def pictures(self) -> Count:
        """A folder of images of which one is hostile, in training, evaluation and the demo: no program is started."""
        count = Count("hostile pictures")
        folder = self.trials.new()
        for number in range(12):
            path = folder / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(32, 32).save(path)
        net = self.trials.new()
        model = timm.create_model("test_resnet", num_classes=2, in_chans=3).eval()
        save_for_hf(model, net, model_config={"label_names": ["a", "b"]}, safe_serialization=True)
        data = ["--dataset", "imagefolder", "--data-dir", folder]
        programs = self.trials.new()
        programs.mkdir()
        started = self.trials.new()
        for name in ("gs", "gswin64c", "djpeg", "convert", "rsvg-convert"):
            (programs / name).write_text(f"#!/bin/sh\ntouch '{started}'\n")
            (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        controls = [("as it is", encoded(noise(40, 24), "PNG")["bytes"])] * 5
        for name, content in controls + self.some(list(_pictures(self.random)), 8):
            hostile = folder / "a" / f"hostile.{self.random.choice(['png', 'jpg', 'JPEG', 'webp', 'tiff', 'gif'])}"
            hostile.write_bytes(content)
            skip = ["--skip-unreadable"] if self.random.random() < 0.5 else []
            program = self.random.choice(["train.py", "evaluate", "demo"])
            if program == "demo":
                done, skip = run(_read_for_demo, [hostile], _little_memory), []
            elif program == "evaluate":
                words = ["evaluate", f"local-dir:{net}", *data, *skip, *_ON_DIGITS[2:], "--output", self.trials.new()]
                done = run(timm_asap_program, words, _little_memory)
            else:
                words = [*data, *skip, "--model", "test_resnet", "--epochs", "1", "--output", self.trials.new()]
                done = run(train, words, _little_memory)
            problem = "it started a program" if started.exists() else None
            refused = not skip and name != "as it is"
            count.add(f"{program}{' --skip-unreadable' * bool(skip)}: {name}", done, problem, refused)
            hostile.unlink()
        return count

    def folders(self) -> Count:
        """Folders of images as people have them: what is trained on and measured is what lies there."""
        count = Count("folders of images")
        for names, images, expected in _FOLDERS:
            root = self.trials.new()
            for number, name in enumerate(names):
                (root / name).mkdir(parents=True)
                for image in range(images):
                    noise(32, 32).save(root / name / f"{'test_' * (image % 2)}{number}-{image}.png")
            words = ["--dataset", "imagefolder", "--data-dir", root, "--model", "test_resnet", "--epochs", "1"]
            done = run(train, [*words, "--output", self.trials.new()])
            problem = None
            if expected and expected not in done.out:
                problem = f"expected {expected!r} in {done.out[:300]!r}"
            count.add(", ".join(names), done, problem, one_line_is_right=not expected)
        return count

    # records

    def records(self) -> Count:
        """Files of runs and evaluations of which a key is missing or of another type."""
        count = Count("spoiled records")
        cases = [
            (source, name, how, spoiled)
            for source, name in (
                (self.trials.record, "evaluation.json"),
                (self.run, "evaluation.json"),
                (self.run, "result.json"),
                (self.run, "run.json"),
            )
            for how, spoiled in answers.spoilings((source / name).read_bytes())
        ]
        first = (self.run / "metrics.jsonl").read_bytes().splitlines()[0]
        cases += [(self.run, "metrics.jsonl", how, spoiled + b"\n") for how, spoiled in answers.spoilings(first)]
        cases += [(self.run, "README.md", repr(text), text.encode()) for text in _CARDS]
        cases += [(self.run, "config.yaml", repr(text), text.encode()) for text in _YAML]
        controls = [(self.run, "result.json", "as it is", (self.run / "result.json").read_bytes())] * 3
        for source, name, how, spoiled in controls + self.some(cases, 8):
            folder = Path(shutil.copytree(source, self.trials.new()))
            (folder / name).write_bytes(spoiled)
            if source == self.trials.record:
                words = ["compare", self.trials.record, folder, "--resamples", "1000"]
            else:
                words = self.random.choice((["card", folder], ["publish", folder, "--repo", "me/net", "--dry-run"]))
            here = self.trials.new()
            here.mkdir()
            self.hub.reset()
            as_user = self._as_user(here / "cache")
            done = run(timm_asap_program, words, lambda here=here, as_user=as_user: (as_user(), os.chdir(here)))
            problem = "it ran what a file said" if (here / "HOLE").exists() else None
            count.add(f"{words[0]}: {name}: {how}", done, problem, how != "as it is")
            shutil.rmtree(folder)
        return count


def _words_of(route: str) -> list[str]:
    return [
        word
        for key, value in answers.kinds_of_options(route).items()
        for word in (f"--{key.replace('_', '-')}", *([] if value is True else [value]))
    ]


def _little_memory() -> None:
    """Two GiB more than the child has already: a picture of some kilobytes must not take them."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))


def _read_for_demo(words: list[str]) -> int:
    """What the demo does with a visitor's picture, as a program."""
    pair = SimpleNamespace(input_size=(3, 32, 32), interpolation="bicubic", crop_pct=0.9)
    try:
        timm_asap.demo.predictions.read_pixels(words[0], pair)
    except UserError as error:
        os.write(2, f"demo: error: {error}\n".encode())
        return 2
    return 0


def _pictures(random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Hostile files, by name."""
    image = noise(40, 24)
    for name in FORMATS:
        content = encoded(image, name)["bytes"]
        for cut in (0, 1, 10, len(content) // 2, len(content) - 1):
            yield f"{name} cut after {cut}", content[:cut]
        for number in range(12):
            spoiled = bytearray(content)
            for _ in range(1 + number):
                spoiled[random.randrange(len(spoiled))] = random.randrange(256)
            yield f"{name} with {1 + number} wrong bytes ({number})", bytes(spoiled)
    for name in ("EPS", "PCX", "TGA", "SGI", "ICO", "DDS", "PDF", "IM", "MSP", "XBM"):
        buffer = io.BytesIO()
        image.convert("1" if name in ("MSP", "XBM") else "RGB").save(buffer, format=name)
        yield f"{name} by another name", buffer.getvalue()
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:9/'/></svg>"
    for (name, entries), kind in itertools.product(MALFORMED.items(), ("JPEG", "PNG", "WEBP")):
        yield f"{kind}, {name}", encoded(image, kind, exif=exif_block(TURNED, *entries))["bytes"]
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (20_000, 20_000), (2**31 - 1, 1), (0, 5)):
        yield f"a PNG that says {width} x {height}", _png(width, height)
    for size in ((1, 6000), (6000, 1), (2, 60_000), (11_000, 11_000), (1, 1)):
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, format="PNG")
        yield f"a PNG of {size[0]} x {size[1]}", buffer.getvalue()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


# Folders, images in each, and what the run says of them; "" where a line with exit code 2 is as good.
_FOLDERS = (
    (("cat", "dog"), 10, "16 training images, 4 test images (held-out fifth"),
    (("Train/a", "Train/b", "Test/a", "Test/b"), 4, "8 training images, 8 test images (test)"),
    (("TRAIN/a", "TRAIN/b", "TEST/a", "TEST/b"), 4, "8 training images, 8 test images (test)"),
    (("training/a", "training/b", "Valid/a", "Valid/b"), 4, "8 training images, 8 test images (validation)"),
    (("train/a", "train/b", "holdout/a", "holdout/b"), 4, "8 training images, 8 test images (holdout)"),
    (("fold1/a", "fold1/b", "fold2/a", "fold2/b"), 4, ""),
    (("train", "test", "bus and train"), 5, "3 classes (bus and train, test, train)"),
    (("train/bus", "train/train", "test/bus", "test/train"), 4, "8 test images (test), 2 classes (bus, train)"),
    (("train/train", "train/bullet_train", "test/train", "test/bullet_train"), 4, "2 classes (bullet_train, train)"),
    (("train/test_tube", "train/box", "test/test_tube", "test/box"), 4, "8 training images, 8 test images (test)"),
    (("cats/black", "dogs/black"), 10, "16 training images, 4 test images (held-out fifth"),
    (("a?b", "a*b", "axb", "my[1]"), 5, "16 training images, 4 test images"),
    (("__background__", "thing", "__MACOSX/thing"), 5, "2 classes (__background__, thing)"),
    (
        ("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_test/seg_test/b"),
        4,
        "8 test images",
    ),
    (("archive/data/a", "archive/data/b"), 5, "8 training images, 2 test images"),
    (("only",), 5, ""),
    (("a/train", "a/test", "b/train", "b/test"), 4, ""),
)

_CARDS = (
    "---\nlicense: [mit\n---\n",
    "---\n- a\n---\n",
    "---\nlicense: {a: b}\n---\n",
    "---\ntags: 7\nlibrary_name: [timm]\n---\n",
    "---\nx: !!python/object/apply:os.system ['touch HOLE']\n---\n",
    "{{ cycler.__init__.__globals__.os.system('touch HOLE') }}\n",
    "<!-- keep: limitations -->\nno end\n",
    "\ufeff---\r\nlicense: mit\r\n---\r\n",
)
_YAML = (
    "",
    "7\n",
    "[]\n",
    "model: [\n",
    "model: 7\n",
    "epochs: many\n",
    "x: !!python/object/apply:os.system ['touch HOLE']\n",
    "a: &a [*a]\n",
)

KINDS = (
    "hub_publishing", "hub_silence", "hub_loading", "configurations", "pictures", "folders", "records",
)  # fmt: skip
