"""A server that answers like Amplitude's Export API, written for tests alone, with whatever goes wrong there."""

import base64
import http.server
import io
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from amp_pipeline.core.export_api import NOT_YET, stamp
from amp_pipeline.core.hours import Hour, between
from amp_pipeline_tests.listening import Handler, listening

KEYS = ("key-of-tests", "secret-of-tests")

Fault = Callable[[Hour, Hour, int], "int | str | None"]
"""From the first and last hour of a request and the number of requests before it to what goes wrong.

A status; "half": the connection ends in the middle; "short": half of the zip, as if it were whole; "flipped": a byte in
the middle is another; "reset": the connection is reset before the answer; "page": 404 with a page of HTML;
"login": 200 with one; "slow": a byte every 50 ms.
"""

_SAID = {
    400: b"The file size of the exported data is too large. Shorten the time ranges and try again.",
    403: b"Forbidden",
    404: b"Raw data files were not found.",
    429: b"Too many requests",
    504: b"Gateway timeout",
}


@dataclass
class Packed:
    """A member of an answer."""

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED


class StandIn(http.server.ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hours: dict[Hour, list[Packed]] = {}
        self.asked: list[tuple[Hour, Hour]] = []
        self.fault: Fault = lambda *_: None
        self.keys: tuple[str, str] = KEYS
        self.retry_after: str | None = "0"
        self.most_bytes = 4 << 30
        self.zip64 = False
        self.not_yet: Hour | None = None
        self.changed: Callable[[bytes], bytes] = lambda body: body
        """What becomes of a zip before it is sent."""
        self.headers: dict[str, str] = {}
        """Of all answers, beside the usual ones."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def source(self, **settings: Any) -> dict[str, Any]:
        """How a project pulls from it."""
        key, secret = KEYS
        return {"type": "amplitude_export", "url": self.url, "api_key": key, "secret_key": secret, **settings}


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    with listening(server):
        yield server


class _Handler(Handler):
    @override
    def answer_any(self) -> None:
        server = cast(StandIn, self.server)
        parts = urlsplit(self.path)
        basic = base64.b64encode(":".join(server.keys).encode()).decode()
        if self.headers.get("Authorization") != f"Basic {basic}":
            return self._say(403)
        if parts.path != "/api/2/export":
            return self._say(404)
        asked = parse_qs(parts.query)
        if not asked:
            return self._send(400, b"start and end are missing", "text/plain")
        first, last = (_hour(asked[name][0]) for name in ("start", "end"))
        fault = server.fault(first, last, len(server.asked))
        server.asked.append((first, last))
        if isinstance(fault, int):
            return self._say(fault)
        if fault == "page":
            return self._send(404, b"<html>no such page</html>", "text/html; charset=utf-8")
        if fault == "login":
            return self._send(200, b"<html>who are you?</html>", "text/html; charset=utf-8")
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return None
        members = [one for hour in between(first, last) for one in server.hours.get(hour, [])]
        if not members:
            return self._say(404)
        if sum(len(one.data) for one in members) > server.most_bytes:
            return self._say(400)
        return self._send_zip(server.changed(zipped(members, zip64=server.zip64)), fault)

    def _send_zip(self, body: bytes, fault: str | None) -> None:
        if fault == "flipped":
            middle = len(body) // 3
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if fault == "short":
            body = body[: len(body) // 2]
        self._send(200, body, "application/zip", half=fault == "half", slow=fault == "slow")

    def _say(self, status: int) -> None:
        self._send(status, _SAID.get(status, b"Something else"), "text/plain")

    def _send(self, status: int, body: bytes, kind: str, *, half: bool = False, slow: bool = False) -> None:
        server = cast(StandIn, self.server)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if server.not_yet is not None:
            self.send_header(NOT_YET, stamp(server.not_yet))
        if status in (429, 500, 503) and server.retry_after is not None:
            self.send_header("Retry-After", server.retry_after)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            for at in range(len(body) if slow else 0):
                self.wfile.write(body[at : at + 1])
                time.sleep(0.05)
        if slow:
            return
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.close_connection = True


def zipped(members: list[Packed], *, zip64: bool = False) -> bytes:
    """An answer, as real ones are: an entry for the folder, then the files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as answer:
        answer.mkdir(members[0].name.partition("/")[0])
        for one in members:
            info = zipfile.ZipInfo(one.name, (2026, 1, 1, 0, 0, 0))
            info.compress_type = one.method
            with answer.open(info, "w", force_zip64=zip64) as file:
                file.write(one.data)
    return made.getvalue()


def _hour(text: str) -> Hour:
    return Hour.of(datetime.strptime(text, "%Y%m%dT%H").replace(tzinfo=UTC))
