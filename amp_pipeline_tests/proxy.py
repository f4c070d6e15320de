"""A proxy before a server, of S3 mostly, that spoils requests: what networks and busy servers do."""

import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast
from urllib.parse import urlsplit

from typing_extensions import override

from amp_pipeline_tests.listening import Handler, listening
from amp_pipeline_tests.servers import Server

Fault = Callable[[str, str, int], str]
"""From method, path and number of requests before to what happens to a request.

"" nothing; "500", "503" and other statuses are answered; "reset" closes the connection before, "lost" after the server
has done it;
"half" gives half of the answer; "other" gives one with another last byte; "stall" gives none for three seconds.
"""

_CODES = {"500": "InternalError", "503": "SlowDown"}
_STALL_SECONDS = 3
_HOP_BY_HOP = ("transfer-encoding", "connection", "content-length")


class Proxy(http.server.ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.before = urlsplit(server.endpoint)
        self.fault: Fault = lambda *_: ""
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.spoilt: list[str] = []
        self._lock = threading.Lock()

    def fault_of(self, method: str, path: str, headers: dict[str, str]) -> str:
        with self._lock:
            self.headers.append({name.lower(): value for name, value in headers.items()})
            fault = self.fault(method, path, len(self.seen))
            self.seen.append(f"{method} {path}")
            if fault:
                self.spoilt.append(f"{fault} {method} {path}")
            return fault


@contextmanager
def proxied(server: Server) -> Iterator[tuple[Proxy, Server]]:
    """A proxy, and the server as it is seen through it."""
    proxy = Proxy(server)
    with listening(proxy):
        yield proxy, Server(server.kind, f"http://127.0.0.1:{proxy.server_address[1]}", server.log)


class _Handler(Handler):
    @override
    def answer_any(self) -> None:
        proxy = cast(Proxy, self.server)
        body = self.body()
        fault = proxy.fault_of(self.command, self.path, dict(self.headers))
        if fault in _CODES:
            text = f"<Error><Code>{_CODES[fault]}</Code><Message>Try again.</Message></Error>"
            self._answer(int(fault), [], text.encode())
            return
        if fault.isdigit():
            self._answer(int(fault), [("Retry-After", "0")] * (fault == "429"), b"Spoilt.")
            return
        if fault == "stall":
            time.sleep(_STALL_SECONDS)
        if fault not in ("stall", "reset"):
            status, headers, data = self._forward(proxy, body)
            if fault != "lost":
                other = data[:-1] + bytes(1) if fault == "other" else data
                self._answer(status, headers, other, half=fault == "half")
        if fault:
            self.close_connection = True

    def _forward(self, proxy: Proxy, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(proxy.before.hostname or "", proxy.before.port)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        told = {name.lower(): value for name, value in headers}
        # An answer to HEAD tells the length of what it does not bring.
        self.send_header(
            "Content-Length", told.get("content-length", "0") if self.command == "HEAD" else str(len(data))
        )
        # Who asked may have given up.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if half else data)
