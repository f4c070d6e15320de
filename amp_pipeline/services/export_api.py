"""Amplitude's Export API over delivered archives: ``GET /api/2/export`` gives the events of a range of hours as a zip.

For whoever has a connector to Amplitude. An answer begins with its length, and is cut where what is read is not what
was promised, so nobody takes a part for the whole. What is asked and answered how: docs/export-api.md; what Amplitude
does: amplitude-docs ``api/en/export.md``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from amp_pipeline.core.errors import StoreError
from amp_pipeline.core.export_api import EXPORT, NOT_YET, stamp
from amp_pipeline.core.hours import Hour
from amp_pipeline.services.exported import Answer, ChangedError, Exported, NotWholeError
from amp_pipeline.source_settings import Keys

_OTHERS_OF_API = "/api/2/"

LIMIT_BYTES = 4_000_000_000
"""Amplitude's 4 GB, in the reading that never needs ZIP64 for a size, which some readers in Java don't know."""

MOST_HOURS = 365 * 24
"""Amplitude's 365 days."""

AT_ONCE = 8
"""Answers at once: each holds a connection to the bucket and up to 4 MB."""

_RETRY_SECONDS = 30
_STALLED_SECONDS = 300
"""After so long without reading anything a client's answer is cut: it holds one of few places."""

_TOO_LARGE = (
    "The file size of the exported data is too large. Shorten the time ranges and try again. The limit size is {limit}."
)
_HOUR = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{1,2})")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _RefusedError(Exception):
    """A request that gets no zip."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None, why: str = "") -> None:
        self.status = status
        self.text = text
        self.headers = headers or {}
        self.why = why


@dataclass
class _Request:
    """What is told of a request when it is over."""

    status: int = 0
    who: str = "-"
    hours: str = "-"
    sent: int = 0
    why: str = ""
    began: float = field(default_factory=time.monotonic)

    def told(self) -> str:
        line = f"{self.status or '-'} {self.who} {self.hours} {self.sent} bytes {time.monotonic() - self.began:.2f} s"
        # What a bucket's server said may have several lines.
        why = " ".join(self.why.split())
        return f"{line}: {why}" if why else line


class ExportApi:
    """An ASGI application."""

    def __init__(
        self,
        archives: Sequence[tuple[Keys, Exported]],
        say: Callable[[str], None],
        *,
        limit_bytes: int = LIMIT_BYTES,
        at_once: int = AT_ONCE,
        stalled_seconds: float = _STALLED_SECONDS,
    ) -> None:
        """Serve ``archives``, each to who has its keys.

        Args:
            archives: What is served.
            say: Is given a line for each request, without keys.
            limit_bytes: The most that an answer may hold, packed.
            at_once: How many answers are given at once; who comes then is asked to come back.
            stalled_seconds: After how long without reading a client is given up.
        """
        # Digests, so that comparing takes as long for any key, whatever its length.
        self._salt = secrets.token_bytes(32)
        self._known = [
            (self._digest(keys.api_key.get_secret_value(), keys.secret_key.get_secret_value()), archive)
            for keys, archive in archives
        ]
        self._say = say
        self._limit = limit_bytes
        self._places = at_once
        self._stalled = stalled_seconds
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="export")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        request = _Request()
        try:
            try:
                await self._export(scope, receive, send, request)
            except _RefusedError as refused:
                request.status, request.why = refused.status, refused.why or refused.text
                await _send_text(send, refused)
        except Exception as error:
            # A bug; the client sees a cut answer, or none.
            request.why = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._say(request.told())

    async def _export(self, scope: Scope, receive: Receive, send: Send, request: _Request) -> None:
        path = scope["path"]
        if path == EXPORT and scope["method"] != "GET":
            raise _RefusedError(405, f"{EXPORT} is asked by GET.", {"allow": "GET"})
        if not path.startswith(_OTHERS_OF_API):
            raise _RefusedError(404, f"Nothing is served here but {EXPORT}.")
        archive = self._archive(scope)
        request.who = archive.label
        if path != EXPORT:
            # Known to whoever has the keys alone, so that a connector that tries these paths learns whether they fit.
            raise _RefusedError(404, f"Of Amplitude's APIs, {EXPORT} is served here and no other.")
        first, last = _hours(scope)
        request.hours = f"{stamp(first)}-{stamp(last)}"
        with self._place():
            answer = await self._found(archive, first, last)
            await self._stream(archive, answer, receive, send, request)

    def _archive(self, scope: Scope) -> Exported:
        """Return the archive whose keys the request has."""
        told = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, credentials = told.partition(b" ")
        try:
            if kind.lower() != b"basic":
                raise ValueError
            user, colon, password = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
            if not colon:
                raise ValueError
        except (ValueError, binascii.Error):
            raise _RefusedError(
                401,
                "Send the API key as user name and the secret key as password of HTTP Basic authentication.",
                {"www-authenticate": 'Basic realm="Export API", charset="UTF-8"'},
            ) from None
        sent = self._digest(user, password)
        # All of them, whichever fits.
        found = [archive for known, archive in self._known if hmac.compare_digest(known, sent)]
        if not found:
            raise _RefusedError(403, "The API key or the secret key is wrong, or both are of another server.")
        return found[0]

    def _digest(self, user: str, password: str) -> bytes:
        return b"".join(hmac.digest(self._salt, text.encode(), "sha256") for text in (user, password))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places:
            raise _RefusedError(429, "Too many requests at once; ask again in a moment.", _again())
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def _found(self, archive: Exported, first: Hour, last: Hour) -> Answer:
        try:
            answer = await self._in_thread(archive.between, first, last)
        except NotWholeError as error:
            raise _RefusedError(503, f"{error}.", _again()) from None
        except (ChangedError, StoreError) as error:
            raise _unreadable(error) from None
        if not answer.files:
            raise _RefusedError(404, "There are no events in this range.", _not_yet(answer), why=" ")
        if answer.packed_bytes > self._limit:
            limit = "4GB" if self._limit == LIMIT_BYTES else f"{self._limit} bytes"
            raise _RefusedError(400, _TOO_LARGE.format(limit=limit))
        return answer

    async def _stream(self, archive: Exported, answer: Answer, receive: Receive, send: Send, request: _Request) -> None:
        pieces = archive.zipped(answer)
        gone = asyncio.create_task(_disconnected(receive))
        coming = self._in_thread(next, pieces, None)
        try:
            piece = await coming
            headers = {
                "content-type": "application/zip",
                "content-length": str(archive.length(answer)),
                "content-disposition": f'attachment; filename="{request.hours}.zip"',
                **_not_yet(answer),
            }
            await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
            request.status = 200
            while piece is not None and not gone.done():
                # The next one is read while this one is sent.
                coming = self._in_thread(next, pieces, None)
                await asyncio.wait_for(
                    send({"type": "http.response.body", "body": piece, "more_body": True}), self._stalled
                )
                request.sent += len(piece)
                piece = await coming
            if piece is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                request.why = "the client has gone"
        except (ChangedError, StoreError) as error:
            if not request.status:
                raise _unreadable(error) from None
            # Returning without having sent everything cuts the connection.
            request.why = f"cut off: {error}"
        except TimeoutError:
            request.why = f"cut off: the client has read nothing for {self._stalled:g} s"
        finally:
            gone.cancel()
            # What is being read can't be closed.
            with suppress(Exception):
                await coming
            await self._in_thread(pieces.close)

    def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _hours(scope: Scope) -> tuple[Hour, Hour]:
    """Return the first and last hour that a request asks for."""
    try:
        asked = parse_qs(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        asked = {}
    found: list[Hour] = []
    for name in ("start", "end"):
        match = _HOUR.fullmatch(asked[name][0]) if len(asked.get(name, ())) == 1 else None
        try:
            if match is None:
                raise ValueError
            found.append(Hour.parse(f"{match[1]}-{match[2]}-{match[3]}-{int(match[4]):02d}:00"))
        except ValueError:
            raise _RefusedError(
                400, f"{name} has to be there once, as an hour in UTC, YYYYMMDDTHH, like 20240506T05."
            ) from None
    first, last = found
    if last < first:
        raise _RefusedError(400, "end lies before start.")
    if last.number - first.number >= MOST_HOURS:
        raise _RefusedError(400, "The range is longer than 365 days. Shorten the time ranges and try again.")
    return first, last


def _not_yet(answer: Answer) -> dict[str, str]:
    return {} if answer.not_yet is None else {NOT_YET: stamp(answer.not_yet)}


def _again() -> dict[str, str]:
    return {"retry-after": str(_RETRY_SECONDS)}


def _unreadable(error: Exception) -> _RefusedError:
    text = "The archive can't be read as it should just now; whoever runs this server finds the reason in its log."
    return _RefusedError(502, text, _again(), why=str(error))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_text(send: Send, refused: _RefusedError) -> None:
    body = f"{refused.text}\n".encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **refused.headers}
    await send({"type": "http.response.start", "status": refused.status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
