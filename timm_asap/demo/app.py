"""The demo's page, in Gradio.

Gradio names its files by their whole paths: the server's folders are kept out of what it sends.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from timm_asap.demo.models import DemoModel, DemoPair
from timm_asap.demo.predictions import CLEAN, SHOWN_CLASSES, corruption_names, predict
from timm_asap.errors import UserError
from timm_asap.text import as_text

__all__ = ["HiddenPaths", "build_app", "launch"]


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TEXTS = (b"application/json", b"text/html", b"text/event-stream", b"text/plain", b"application/javascript")


class HiddenPaths:
    """ASGI middleware: in what is sent, a folder has another name; in what is asked for, it has its own again.

    Args:
        app: The application.
        folder: As the server has it, an absolute path.
        shown: What visitors see in its place; a path that the server does not have.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: str, shown: str) -> None:
        self.app = app
        # as it stands in JSON, where a backslash is written twice
        self.folder, self.shown = json.dumps(folder)[1:-1].encode(), json.dumps(shown)[1:-1].encode()
        self.own_path, self.shown_path = folder, shown

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = dict(scope)
        scope["path"] = scope["path"].replace(self.shown_path, self.own_path)
        scope["raw_path"] = scope.get("raw_path", b"").replace(self.shown_path.encode(), self.own_path.encode())
        headers = dict(scope["headers"])
        if headers.get(b"content-type", b"").startswith(b"application/json"):
            body = await _whole_body(receive)
            body = body.replace(self.shown, self.folder)
            headers[b"content-length"] = str(len(body)).encode()
            scope["headers"] = list(headers.items())
            receive = _once(body, receive)
        await self.app(scope, receive, _Hiding(send, self.folder, self.shown))


class _Hiding:
    """Sends a response with the folder's other name in it; pictures and other files as they are."""

    def __init__(self, send: Send, folder: bytes, shown: bytes) -> None:
        self.send, self.folder, self.shown = send, folder, shown
        self.start: Message | None = None
        self.is_text = self.is_stream = False
        self.held = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            kind = headers.get(b"content-type", b"")
            self.is_text, self.is_stream = kind.startswith(_TEXTS), kind.startswith(b"text/event-stream")
            if self.is_text:
                # the length is known when the text is
                kept = [(k, v) for k, v in message["headers"] if k != b"content-length"]
                self.start = {**message, "headers": kept}
                return
        elif self.is_text and message["type"] == "http.response.body":
            self.held += message.get("body", b"")
            more = message.get("more_body", False)
            # a server-sent event ends in an empty line: what is whole goes out at once
            whole = self.held.rfind(b"\n\n") + 2 if self.is_stream else 0
            if more and not (self.is_stream and whole > 1):
                return
            body, self.held = (self.held[:whole], self.held[whole:]) if more else (self.held, b"")
            body = body.replace(self.folder, self.shown)
            if self.start is not None:
                if not self.is_stream and not more:
                    self.start["headers"] = [*self.start["headers"], (b"content-length", str(len(body)).encode())]
                await self.send(self.start)
                self.start = None
            message = {**message, "body": body}
        await self.send(message)


async def _whole_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _once(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


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
            concurrency_limit=1,  # the spectra are measured inside the networks, which all visitors share
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
