"""The demo's page, in Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from timm_asap.demo.answers import CLEAN, SHOWN_CLASSES, corruption_names, predict
from timm_asap.demo.hidden_paths import HiddenPaths
from timm_asap.demo.models import DemoModel, DemoPair
from timm_asap.errors import UserError
from timm_asap.text import as_text

__all__ = ["build_app", "launch"]

_INTRO = """# Alias-free downsampling, beside plain strides

A convolutional network shrinks its maps by strides, and what is finer than the smaller grid can carry folds back as
aliasing. An alias-free network removes those frequencies first (ASAP pooling,
[arXiv 2307.09804](https://arxiv.org/abs/2307.09804)). Choose a picture and a corruption, and compare the two.
"""
_SAME_WEIGHTS = (
    "Both networks have the same weights, trained with the strides of only one of them: the other was never trained as "
    "it is, so its answers show what the strides change, not how well such a network can do."
)
_SPECTRA = """### What aliases

A panel for every place where the networks downsample: the spectrum of what is sampled there for this picture. What lies
in the shaded part is too fine for the smaller grid, and folds back as aliasing.
"""
# The button that is left out would send a picture to a server of Gradio's makers.
_OUTPUT = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
# A picture of 32 pixels fills its frame, too.
_CSS = "#picture img { width: 100%; height: 100%; object-fit: contain; }"
_UPLOAD_LIMIT = "20mb"
# What visitors see in the place of the folder that the server keeps pictures in.
_SHOWN_FOLDER = "/demo-files"
_KEEP_UPLOADS = 3600  # seconds


def build_app(
    pair: DemoPair,
    examples: Sequence[str | Path],
    credits: str = "",
    corruption: str = CLEAN,
    severity: int = 3,
) -> gr.Blocks:
    """The page: a picture and a corruption in, the answers of both networks and their spectra out.

    Args:
        pair: The networks.
        examples: Picture files; the first one is shown when the page opens.
        credits: Markdown under the examples.
        corruption: Chosen when the page opens.
        severity: Likewise, 1 to 5.
    """
    with gr.Blocks(
        analytics_enabled=False,
        title="Alias-free downsampling",
        delete_cache=(_KEEP_UPLOADS, _KEEP_UPLOADS),
    ) as app:
        gr.Markdown(_INTRO)
        with gr.Row():
            with gr.Column(scale=2):
                picture = gr.Image(
                    str(examples[0]) if examples else None,
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=300,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                picture.preprocess = _path_of  # no subclass: Gradio would write a stub file beside this module
            with gr.Column(scale=2):
                seen = gr.Image(label="What both networks see", height=300, **_OUTPUT)
                chosen = gr.Dropdown(_choices(pair), value=corruption, label="Corruption", elem_id="corruption")
                strength = gr.Slider(1, 5, value=severity, step=1, label="Severity", elem_id="severity")
            with gr.Column(scale=3):
                verdict = gr.Markdown(elem_id="verdict")
                with gr.Row():
                    plain = _answer(pair.plain, "Plain strides", "plain")
                    twin = _answer(pair.twin, "Alias-free", "twin")
                if pair.same_weights:
                    gr.Markdown(_SAME_WEIGHTS)
        if examples:
            gr.Examples([[str(path)] for path in examples], picture, label="Examples", examples_per_page=len(examples))
        gr.Markdown(credits)
        gr.Markdown(_SPECTRA)
        aliasing = gr.Markdown(elem_id="aliasing")
        spectra = gr.Image(show_label=False, elem_id="spectra", **_OUTPUT)

        def answer(picture: str | None, corruption: str, severity: float) -> list[Any]:
            try:
                found = predict(pair, picture, corruption, int(severity))
            except UserError as error:
                return [None, None, None, f"**No answer:** {as_text(error, 'markdown')}.", None, ""]
            if found is None:
                return [None, None, None, "Choose a picture.", None, ""]
            return [found.seen, found.plain, found.twin, found.verdict, found.spectra, found.aliasing]

        gr.on(
            [app.load, picture.change, chosen.change, strength.change],
            answer,
            [picture, chosen, strength],
            [seen, plain, twin, verdict, spectra, aliasing],
            api_name="predict",
            trigger_mode="always_last",  # of a slider that is dragged, where it stops
            concurrency_limit=1,  # the spectra are heard inside the networks, which all visitors share
            show_progress="minimal",
        )
    return app


def launch(app: gr.Blocks, **settings: Any) -> gr.Blocks:
    """Serve the page, without reporting to anybody.

    Args:
        app: Of `build_app`.
        **settings: Of Gradio's `Blocks.launch`, over those of the demo.
    """
    hidden = Middleware(HiddenPaths, folder=str(Path(get_upload_folder()).absolute()), shown=_SHOWN_FOLDER)
    app.launch(
        **{
            "app_kwargs": {"middleware": [hidden]},
            "css": _CSS,
            "footer_links": [],
            "max_file_size": _UPLOAD_LIMIT,
            "quiet": True,
            "ssr_mode": False,  # would need Node.js
            "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            **settings,
        }
    )
    return app


def _path_of(payload: ImageData | None) -> str | None:
    """A picture as the file that it came in: `read_pixels` decodes it, says what is wrong, and knows its bounds.

    Gradio's own would hand any file to any decoder of Pillow, PostScript included, and show "Error" for one that is no
    picture.
    """
    return None if payload is None else payload.path


def _choices(pair: DemoPair) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), name) for name in corruption_names(pair)]


def _answer(model: DemoModel, heading: str, elem_id: str) -> gr.Label:
    with gr.Column(min_width=220):
        gr.Markdown(f"### {heading}\n{as_text(model.title, 'markdown')}")
        return gr.Label(num_top_classes=SHOWN_CLASSES, show_label=False, elem_id=elem_id)
