"""A web server that answers like Amplitude's Dashboard APIs, and one like the bucket it keeps large cohorts in.

What they answer is written down in docs/export-api.md, "Dashboard". Any request can be made to go wrong.
"""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline_tests.listening import Handler, listening

API_KEY = "marker-of-the-api-key"
SECRET_KEY = "marker-of-the-secret/key+"
BASIC = "Basic " + base64.b64encode(f"{API_KEY}:{SECRET_KEY}".encode()).decode()


@dataclass
class Fault:
    """What one request gets in place of its answer."""

    path: str
    """What the path begins with."""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """The connection ends before the body does; of the body is sent what ``body`` says."""
    trickle: float = 0
    """Seconds before each byte of the body."""


@dataclass
class Dashboard:
    """What Amplitude knows of a project, and what it was asked."""

    cohorts: list[dict[str, Any]] = field(default_factory=list)
    members: dict[str, bytes] = field(default_factory=dict)
    """CSV by cohort."""
    large: set[str] = field(default_factory=set)
    """Cohorts whose file is in the bucket."""
    pending: int = 0
    """How often the status of each request says that it goes on."""
    events: list[Any] = field(default_factory=list)
    planned: list[Any] = field(default_factory=list)
    categories: list[Any] = field(default_factory=list)
    no_taxonomy: int = 0
    """Status of the Taxonomy API where the project may not use it."""
    usage: dict[str, Any] | None = None
    slow: float = 0
    """Seconds that each answer takes."""
    faults: deque[Fault] = field(default_factory=deque)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and query, and Authorization, of each request to the API."""
    asked_of_bucket: list[tuple[str, str | None]] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)
    """Cohort by request."""
    most_at_once: int = 0
    api: str = ""
    bucket: str = ""

    def source(self, **settings: Any) -> AmplitudeExport:
        """How amp_pipeline reaches it."""
        given = {"type": "amplitude_export", "url": self.api, "api_key": API_KEY, "secret_key": SECRET_KEY}
        return AmplitudeExport.model_validate({**given, "connect_timeout": 5, "read_timeout": 5, **settings})

    def paths(self, beginning: str = "") -> list[str]:
        return [path for path, _ in self.asked if path.startswith(beginning)]


def cohort(id: str, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the word that Amplitude has
    """A cohort as ``/api/3/cohorts`` lists it."""
    known = {
        "appId": 7,
        "archived": False,
        "definition": {"version": 3, "cohortType": "UNIQUES"},
        "description": "",
        "finished": True,
        "id": id,
        "name": f"Cohort {id}",
        "owners": ["owner@house.example"],
        "viewers": [],
        "published": True,
        "size": 2,
        "type": "redshift",
        "lastMod": 1679437294,
        "createdAt": 1679437288,
        "lastComputed": 1679440233,
        "hidden": False,
        "metadata": None,
        "view_count": None,
        "is_predictive": False,
    }
    return {**known, **fields}


def members(*pairs: tuple[object, str]) -> bytes:
    """The CSV of a cohort."""
    rows = [f'"{amplitude_id}","{user_id}"' for amplitude_id, user_id in pairs]
    return "\n".join(['"amplitude_id","user_id"', *rows, ""]).encode()


def event_type(value: str, **fields: Any) -> dict[str, Any]:
    """An event type as ``/api/2/events/list`` lists it."""
    known = {"id": len(value), "value": value, "name": value, "display": value, "totals": 5}
    return {**known, "hidden": False, "deleted": False, "non_active": False, "flow_hidden": False, **fields}


@contextmanager
def dashboard() -> Iterator[Dashboard]:
    state = Dashboard()
    with _Server(_Api, state) as api, _Server(_Bucket, state) as bucket:
        state.api, state.bucket = api.address, bucket.address
        with listening(api), listening(bucket):
            yield state


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[_Answering], state: Dashboard) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.state = state
        self.lock = threading.Lock()
        self.at_once = 0
        self.waiting: dict[str, int] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of clients that go away in the middle of an answer nothing is printed."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answering(Handler):
    wbufsize = 1 << 16  # head and body in one packet: in two, each answer takes 40 ms more

    @property
    def own(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    @property
    def state(self) -> Dashboard:
        return self.own.state

    def fault(self, path: str) -> Fault | None:
        with self.own.lock:
            found = next((one for one in self.state.faults if path.startswith(one.path)), None)
            if found is not None:
                self.state.faults.remove(found)
            return found

    def send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
        trickle: float = 0,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + 100 * cut))
        self.end_headers()
        for at in range(len(body) if trickle else 0):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            time.sleep(trickle)
        self.wfile.write(b"" if trickle else body)
        if cut:
            self.close_connection = True


class _Api(_Answering):
    def answer_any(self) -> None:
        server, state = self.own, self.state
        with server.lock:
            state.asked.append((self.path, self.headers.get("Authorization")))
            server.at_once += 1
            state.most_at_once = max(state.most_at_once, server.at_once)
        try:
            time.sleep(state.slow)
            fault = self.fault(self.path)
            if fault is not None:
                self.send(fault.status, fault.body, fault.headers, cut=fault.cut, trickle=fault.trickle)
            else:
                self.send(*self._answer())
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> tuple[int, bytes, dict[str, str]]:
        state = self.state
        if self.headers.get("Authorization") != BASIC:
            said = f"Invalid API/Secret Key combination {self.headers.get('Authorization')}"
            return _json({"error": {"http_code": 403, "metadata": {"details": said}}}, 403)
        path = self.path.split("?")[0]
        lists: dict[str, Any] = {
            "/api/3/cohorts": {"cohorts": state.cohorts},
            "/api/2/events/list": {"data": state.events},
            "/api/2/taxonomy/event": {"success": True, "data": state.planned},
            "/api/2/taxonomy/category": {"success": True, "data": state.categories},
        }
        if "/taxonomy/" in path and state.no_taxonomy:
            return _json({"success": False, "errors": [{"message": "not for this plan"}]}, state.no_taxonomy)
        if path in lists:
            return _json(lists[path])
        if path == "/api/3/cohorts/usage" and state.usage is not None:
            return _json(state.usage)
        return self._of_cohort(path.split("/")[4:])

    def _of_cohort(self, rest: list[str]) -> tuple[int, bytes, dict[str, str]]:
        state = self.state
        match rest:
            case ["request", of] if of in state.members:
                return self._request(of)
            case ["request-status", request] if request in state.requests:
                return self._status(request)
            case ["request", request, "file"] if request in state.requests:
                of = state.requests[request]
                if of in state.large:
                    link = f"{state.bucket}/{request}.csv?X-Amz-Signature={secrets.token_hex(8)}"
                    return 302, b"", {"Location": link}
                return 200, state.members[of], {"Content-Type": "text/csv"}
        return _json({"error": {"http_code": 404}}, 404)

    def _request(self, of: str) -> tuple[int, bytes, dict[str, str]]:
        with self.own.lock:
            request = f"r{len(self.state.requests)}"
            self.state.requests[request] = of
            self.own.waiting[request] = self.state.pending
        return _json({"request_id": request, "cohort_id": of}, 202)

    def _status(self, request: str) -> tuple[int, bytes, dict[str, str]]:
        with self.own.lock:
            self.own.waiting[request] -= 1
            goes_on = self.own.waiting[request] >= 0
        status = "JOB INPROGRESS" if goes_on else "JOB COMPLETED"
        return _json({"request_id": request, "async_status": status}, 202 if goes_on else 200)


class _Bucket(_Answering):
    def answer_any(self) -> None:
        keys = self.headers.get("Authorization")
        with self.own.lock:
            self.state.asked_of_bucket.append((self.path, keys))
        fault = self.fault("bucket")
        if fault is not None:
            self.send(fault.status, fault.body)
        elif keys:
            # S3 takes no second kind of authentication beside a signature.
            self.send(400, b"<Error/>")
        else:
            request = self.path.split("?")[0].strip("/").removesuffix(".csv")
            self.send(200, self.state.members[self.state.requests[request]])


def _json(answer: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(answer).encode(), {"Content-Type": "application/json"}
