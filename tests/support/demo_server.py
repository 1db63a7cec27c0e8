"""Starts a demo in a process of its own: Gradio leaves event loops open, which would be errors in this one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "timm_asap.cli", "demo"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serving(words, started, **settings):
    """A process that serves; gives the match of the line that says so. Ctrl-C ends it, and has to end it well.

    Args:
        words: Its command line.
        started: Regular expression of the line.
        settings: Of `subprocess.Popen`.
    """
    environment = {"PYTHONPATH": str(_ROOT), **os.environ, "PYTHONUNBUFFERED": "1", **settings.pop("env", {})}
    # a shell that runs the tests in the background has them, and their children, ignore Ctrl-C
    heed_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, env=environment, preexec_fn=heed_ctrl_c, **pipes, **settings) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if found := re.search(started, line):
                    break
            else:
                raise AssertionError(f"the demo did not start:\n{''.join(lines)}")
            yield found
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
        assert process.returncode == 0, output
        assert "Traceback" not in output


def ask(url, *data):
    """What the page's function answers, by Gradio's HTTP interface: one value for each output."""
    call = urllib.request.Request(
        f"{url}/gradio_api/call/predict",
        data=json.dumps({"data": data}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=60) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{url}/gradio_api/call/predict/{event}", timeout=60) as reply:
        kind, content = reply.read().decode().strip().split("\n")[-2:]
    assert kind == "event: complete", (kind, content)
    return json.loads(content.removeprefix("data: "))


def component(url, elem_id):
    """A component of the page, as its configuration has it."""
    with urllib.request.urlopen(f"{url}/config", timeout=60) as reply:
        components = json.load(reply)["components"]
    return next(c["props"] for c in components if c["props"].get("elem_id") == elem_id)
