"""`timm-asap demo MODEL`: a page that shows a network and its twin side by side, served here or written as a Space."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import tyro

from timm_asap.command_line import Folder, Model, Name, parse
from timm_asap.demo import CLEAN
from timm_asap.errors import UserError, unknown_name
from timm_asap.text import plain_text

if TYPE_CHECKING:
    from timm_asap.demo.models import DemoPair


@dataclass(frozen=True)
class DemoOptions:
    """Show a network and its twin side by side: a picture and a corruption in, answers and spectra out."""

    model: tyro.conf.Positional[Model]
    """A run folder, a pretrained model such as resnet50_asap.a1_in1k, or hf-hub:NAME."""
    plain: Model | None = None
    """Trained network to show as the plain one; by default the same weights, their strides unswapped."""
    corruption: Name = CLEAN
    """Corruption that is chosen when the page opens."""
    severity: int = 3
    """Its severity, 1 to 5."""
    examples: Folder | None = None
    """Folder of example pictures; by default digits for small networks, photographs for others."""
    port: int | None = None
    """Port on 127.0.0.1; by default the first free one from 7860 on."""
    share: bool = False
    """Also open a public address, through Gradio's servers."""
    space: Folder | None = None
    """Serve nothing: write the folder of a Space for the Hugging Face Hub."""

    def __post_init__(self) -> None:
        if not 1 <= self.severity <= 5:
            raise UserError(f"--severity: expected 1 to 5, got {self.severity}")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UserError(f"--port: expected 1 to 65535, got {self.port}")
        if self.space is not None and (self.share or self.port is not None):
            raise UserError("--space serves nothing: leave out --share and --port")


def main(argv: Sequence[str]) -> None:
    """Serve the page until Ctrl-C, or write the folder."""
    options = parse(DemoOptions, argv, prog="timm-asap demo")
    if find_spec("gradio") is None:
        raise UserError("timm-asap demo needs gradio: pip install 'timm_asap[demo]'")
    # torch and timm: not for the help
    from timm_asap.demo.models import open_pair
    from timm_asap.demo.predictions import corruption_names

    if options.space is not None:
        from timm_asap.demo.space import check_folder

        check_folder(Path(options.space))
    pair = open_pair(options.model, options.plain)
    if options.corruption not in corruption_names(pair):
        raise UserError(unknown_name("corruption", options.corruption, corruption_names(pair)))
    if options.space is not None:
        _write(options, options.space, pair)
    else:
        _serve(options, pair)


def _write(options: DemoOptions, space: str, pair: DemoPair) -> None:
    from timm_asap.demo.space import write_space

    folder = write_space(
        space,
        pair,
        options.model,
        options.plain,
        examples=options.examples,
        corruption=options.corruption,
        severity=options.severity,
    )
    print(f"wrote {folder}; try it with: python {folder / 'app.py'}")
    print(f"push it with: hf upload USER/NAME {folder} --repo-type space")


def _serve(options: DemoOptions, pair: DemoPair) -> None:
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="timm_asap_demo_") as folder:
        from timm_asap.demo.predictions import write_examples

        pictures = Path(folder) / "examples"
        pictures.mkdir()
        examples, credits = write_examples(pair, pictures, options.examples)
        # what visitors upload goes with the demo
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        # Gradio takes two seconds to import: whoever mistyped a name need not wait for it
        from timm_asap.demo.app import build_app, launch

        app = build_app(pair, examples, credits, options.corruption, options.severity)
        try:
            launch(
                app,
                server_name="127.0.0.1",
                server_port=options.port,
                share=options.share,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(f"the page cannot be served: {' '.join(str(error).split())}") from error
        address = app.share_url or app.local_url
        title = f"{plain_text(pair.twin.title)} beside {plain_text(pair.plain.title)}"
        print(f"{title}: {address} (Ctrl-C ends it)", flush=True)
        try:
            app.block_thread()
        finally:
            app.close(verbose=False)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit: a service that is stopped deletes what visitors left, too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
