"""A Hugging Face Hub on 127.0.0.1, in memory: the routes that the real clients use, and faults on demand.

Standard library, and PyYAML for the metadata of cards. Its parts lie in the folder `hub`. It speaks no Xet: the client
needs HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.support.hub import files, repos, uploads  # noqa: F401  registers the routes
from tests.support.hub.faults import Fault
from tests.support.hub.messages import Request, Response
from tests.support.hub.router import answer
from tests.support.hub.state import Hub


class HubServer(Hub):
    """The Hub, listening from the start on a free port of 127.0.0.1 until `close()`."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        super().__init__(f"http://127.0.0.1:{self._server.server_port}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.faults.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: object, client_address: object) -> None:
        text = traceback.format_exc()
        if "ConnectionResetError" not in text and "BrokenPipeError" not in text:  # the client may leave at any time
            self.hub.crashes.append(text)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out in two writes
    server: _Server

    def _handle(self) -> None:
        hub = self.server.hub
        fault = hub.faults.take(self.command, self.path)
        path, _, query = self.path.partition("?")
        if fault is not None:
            fault.wait()
            if fault.cut_after is not None and self.command != "GET":
                self.rfile.read(min(fault.cut_after, int(self.headers.get("Content-Length", 0))))
                self.close_connection = True
                self._record(path, 0)
                return
            if fault.silent:
                self.close_connection = True
                self._record(path, 0)
                return
        request = Request(self.command, path, query, self.headers, self._read_body())
        if fault is not None and fault.status is not None:
            response = Response(fault.status, b"injected", dict(fault.headers))
        elif fault is not None and fault.answer is not None:
            response = Response(200, fault.answer, {"Content-Type": "text/html"})
        else:
            response = answer(hub, request)
        self._record(path, response.status)
        self._send(response, fault)

    def _record(self, path: str, status: int) -> None:
        with self.server.hub.lock:
            self.server.hub.requests.append((self.command, unquote(path), status))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  named by http.server

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, response: Response, fault: Fault | None) -> None:
        if fault is not None and fault.lose_answer:
            self.close_connection = True
            return
        body = fault.spoil(response.body) if fault is not None else response.body
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault is not None and fault.cut_after is not None:
            self.close_connection = True
            body = body[: fault.cut_after]
        if fault is not None and fault.drip:
            self._drip(body, fault)
        elif self.command != "HEAD":
            self.wfile.write(body)

    def _drip(self, body: bytes, fault: Fault) -> None:
        for byte in body:
            if fault.is_released:
                self.close_connection = True
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: `requests` is the log."""
