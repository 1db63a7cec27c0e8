"""Keeps the server's folders out of what it sends: Gradio names its files by their whole paths."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["HiddenPaths"]

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
