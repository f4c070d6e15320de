"""What web servers of tests have in common: a free port of 127.0.0.1, a thread, one method for all of HTTP's."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every method by ``answer_any``."""

    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Any:
        # The base class looks for do_GET and so on.
        if name.startswith("do_"):
            return self.answer_any
        raise AttributeError(name)

    def answer_any(self) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class has
        pass


@contextmanager
def listening(server: http.server.ThreadingHTTPServer) -> Iterator[None]:
    """Answer in a thread while the block lasts."""
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
