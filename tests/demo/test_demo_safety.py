"""What strangers bring to the demo, and what it tells them: label names, files that are no pictures, its folders."""

import asyncio
import html
import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.support.demo_models import save_network
from tests.support.demo_server import DEMO, ask, free_port, serving
from timm_asap.demo import open_pair, predict
from timm_asap.demo.app import HiddenPaths

NAMES = ["![x](https://a.example/x.png)", "<img src=x onerror=alert(1)>", "cat\x1b[2J", "\u202edog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo_safety")


@pytest.fixture(scope="module")
def run(folder):
    return save_network(folder / "run", "resnet20_lowres_asap", NAMES)


@pytest.fixture(scope="module")
def picture(folder):
    path = folder / "picture.png"
    Image.new("L", (32, 32), 90).save(path)
    return path


def test_names_of_classes_are_text(run, picture):
    answer = predict(open_pair(str(run)), picture)
    for shown in answer.plain | answer.twin:
        assert shown.isprintable()
    assert {"cat\\x1b[2J", "\\u202edog"} <= set(answer.twin)
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(answer.verdict)
    assert "<img" not in rendered
    assert "href" not in rendered
    assert any(name in html.unescape(rendered) for name in answer.twin)


# An application that answers as Gradio does, and one request to it.


def call(app, path="/", body=b"", kind=b"application/json"):
    sent, asked = [], {}
    messages = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:]},
    ]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def inner(scope, receive, send):
        asked["path"], asked["raw_path"] = scope["path"], scope["raw_path"]
        asked["length"] = int(dict(scope["headers"])[b"content-length"])
        received = []
        while True:
            message = await receive()
            received.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        asked["body"] = b"".join(received)
        await app(send)

    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())],
    }
    asyncio.run(HiddenPaths(inner, "/tmp/secret/uploads", "/demo-files")(scope, receive, send))
    return asked, sent


def answering(kind, *chunks):
    async def app(send):
        length = str(sum(map(len, chunks))).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", kind), (b"content-length", length)],
            }
        )
        for number, chunk in enumerate(chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": number + 1 < len(chunks)})

    return app


@pytest.mark.parametrize("kind", [b"application/json", b"text/html; charset=utf-8"])
def test_the_folder_is_hidden_in_what_is_sent(kind):
    # the folder's name is cut in two by the chunks
    _, sent = call(answering(kind, b'{"path": "/tmp/sec', b'ret/uploads/a/b.png"}'))
    body = b"".join(message.get("body", b"") for message in sent)
    assert body == b'{"path": "/demo-files/a/b.png"}'
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(body)).encode()


def test_an_event_is_sent_as_soon_as_it_is_whole():
    kind = b"text/event-stream; charset=utf-8"
    _, sent = call(answering(kind, b"data: /tmp/secret/uploads/1\n", b"\ndata: /tmp/sec", b"ret/uploads/2\n\n"))
    assert [m["body"] for m in sent[1:]] == [b"data: /demo-files/1\n\n", b"data: /demo-files/2\n\n"]
    assert b"content-length" not in dict(sent[0]["headers"])


def test_a_picture_is_sent_as_it_is():
    _, sent = call(answering(b"image/png", b"\x89PNG /tmp/secret/uploads"))
    assert sent[1]["body"] == b"\x89PNG /tmp/secret/uploads"


def test_a_visitor_asks_by_the_name_that_was_shown():
    body = json.dumps({"data": [{"path": "/demo-files/a/b.png"}]}).encode()
    asked, _ = call(answering(b"text/plain", b"ok"), "/gradio_api/file=/demo-files/a/b.png", body)
    assert asked["path"] == "/gradio_api/file=/tmp/secret/uploads/a/b.png"
    assert asked["raw_path"] == asked["path"].encode()
    assert json.loads(asked["body"]) == {"data": [{"path": "/tmp/secret/uploads/a/b.png"}]}
    assert asked["length"] == len(asked["body"])
    raw, _ = call(answering(b"text/plain", b"ok"), body=b"/demo-files", kind=b"multipart/form-data; boundary=b")
    assert raw["body"] == b"/demo-files"  # an upload is what the visitor says


def upload(url, name, content):
    body = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    request = urllib.request.Request(
        f"{url}/gradio_api/upload",
        data=body + content + b"\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return {"path": json.load(reply)[0], "meta": {"_type": "gradio.FileData"}}


@pytest.mark.slow
def test_a_visit_by_a_stranger(run, picture, tmp_path):
    pytest.importorskip("gradio", reason="the demo extra installs it")
    port = free_port()
    with serving([*DEMO, str(run), "--port", str(port)], r"(http://\S+)", env={"TMPDIR": str(tmp_path)}) as started:
        url = started[1].rstrip("/")
        for page in ("/config", "/", "/gradio_api/info"):
            with urllib.request.urlopen(url + page, timeout=60) as reply:
                assert str(tmp_path).encode() not in reply.read(), page
        sent = upload(url, "picture.png", picture.read_bytes())
        assert str(tmp_path) not in sent["path"]
        seen, *_, verdict, _, _ = ask(url, sent, "none", 3)
        assert str(tmp_path) not in seen["path"]
        with urllib.request.urlopen(seen["url"], timeout=60) as reply:
            assert reply.read().startswith(b"\x89PNG")
        assert "answer" in verdict
        ghost = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
        for name, content in (("notes.txt", b"hello"), ("cat.png", ghost), ("empty.png", b"")):
            *nothing, verdict, _, _ = ask(url, upload(url, name, content), "none", 3)
            assert verdict.startswith("**No answer:** cannot read ")
            assert html.unescape(verdict).count(name) == 1
            assert not any(nothing[1:])


@pytest.mark.slow
def test_a_stopped_service_leaves_nothing_of_its_visitors(run, picture, tmp_path):
    pytest.importorskip("gradio", reason="the demo extra installs it")
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), **os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    words = [*DEMO, str(run), "--port", str(free_port())]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        url = next(line for line in process.stdout if "http://" in line).split("http://")[1].split("/")[0]
        upload(f"http://{url}", "picture.png", picture.read_bytes())
        assert list(tmp_path.rglob("picture.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.glob("timm_asap_demo_*"))
