"""Amplitude's Dashboard APIs: cohorts, their members, event types, categories. Facts: docs/export-api.md, "Dashboard".

Lists come whole, in one answer each; none of these APIs has pages. Members of a cohort are a file that is asked for,
waited for, and fetched. Limits of Amplitude that are kept here: five requests at a time in all (three are used, so that
an export has its place), and 60 files asked for in ten minutes. How many may be asked for this month it says itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import polars as pl
import requests

from amp_pipeline.core import dashboard
from amp_pipeline.core.dashboard import Parsed
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.sources.answer_body import BrokenAnswerError, TooLongError

AT_ONCE = 3
"""Requests at a time."""

_MOST_FILES = 60
_FILES_WINDOW_SECONDS = 600.0
_FIRST_POLL_SECONDS = 2.0
_LONGEST_POLL_SECONDS = 30.0
_LONGEST_JOB_SECONDS = 30 * 60.0
"""Amplitude's jobs take 30 to 60 s, as other clients say; large ones longer."""
_MOST_LIST_BYTES = 256 << 20
"""They are held in memory; a hundred thousand cohorts with their definitions have as much."""
_MOST_FILE_BYTES = 2 << 30
"""Ten million members, the most that any document allows, with ids of 200 characters."""
_NOT_FOR_THIS_PROJECT = frozenset({400, 402, 403, 404, 405, 410, 501})
"""What an API that a plan does not have may answer; 400 and 403 were seen, the rest is guessed."""


class EventTypes(NamedTuple):
    """The event types, and why a part of what is known of them is not there."""

    parsed: Parsed
    not_planned: str
    """Why the plan (categories, descriptions) could not be had; empty where it could."""


class DashboardApi:
    """Asks for what Amplitude's dashboard knows. Its methods may be called by several threads."""

    def __init__(
        self, http: Http, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask by ``http``; ``sleep`` waits some seconds by ``clock``."""
        self._http = http
        self._sleep = sleep
        self._clock = clock
        self._asked: deque[float] = deque()
        self._lock = threading.Lock()

    def cohorts(self) -> Parsed:
        """Return all cohorts that can be discovered; see :data:`amp_pipeline.core.dashboard.COHORTS`.

        Raises:
            SourceError: They could not be had.
        """
        path = "/api/3/cohorts"
        return dashboard.cohorts(self._list(path, "cohorts"))

    def event_types(self) -> EventTypes:
        """Return all event types; see :data:`amp_pipeline.core.dashboard.EVENT_TYPES`.

        Raises:
            SourceError: They could not be had.
        """
        listed = self._list("/api/2/events/list", "data")
        planned, why = self._taxonomy("/api/2/taxonomy/event", {"showDeleted": "true"})
        return EventTypes(dashboard.event_types(listed, planned), why)

    def categories(self) -> tuple[Parsed, str]:
        """Return all categories, and why there are none where they could not be had.

        Raises:
            SourceError: Amplitude is not there, or asks to wait.
        """
        found, why = self._taxonomy("/api/2/taxonomy/category")
        return dashboard.categories(found), why

    def files_left(self) -> int | None:
        """Return how many files of cohorts may be asked for this month, or None where Amplitude does not say."""
        try:
            found = self._read("/api/3/cohorts/usage")
        except SourceError as error:
            if error.kind == "server":
                return None
            raise
        # As other clients saw it: {"rest_download": {"limit", "usage", "resets_at"}}; or flat, with "count".
        inner: Any = found.get("rest_download", found) if isinstance(found, dict) else None
        if not isinstance(inner, dict):
            return None
        limit, used = inner.get("limit"), inner.get("usage", inner.get("count"))
        return max(0, limit - used) if isinstance(limit, int) and isinstance(used, int) else None

    def members(self, cohort_id: str, file: Path) -> Parsed:
        """Return the members of a cohort; see :data:`amp_pipeline.core.dashboard.MEMBERS`.

        Args:
            cohort_id: Of the cohort.
            file: Where its CSV is kept meanwhile, on local disk.

        Raises:
            SourceError: They could not be had.
        """
        request = self._request(cohort_id)
        self._wait_for(cohort_id, request)
        path = f"/api/5/cohorts/request/{_segment(request)}/file"

        def keep(answer: requests.Response) -> pl.DataFrame:
            with file.open("wb") as out:
                for chunk in self._http.chunks(answer, _MOST_FILE_BYTES):
                    out.write(chunk)
            return _csv(file)

        try:
            raw = self._http.read(path, keep)
        except TooLongError as error:
            raise SourceError(f"the file of cohort {cohort_id} is {error}", "server", 200) from None
        if raw.columns and not {"amplitude_id", "user_id"} & set(raw.columns):
            raise SourceError(
                f"the file of cohort {cohort_id} has neither amplitude_id nor user_id, so its members are no users; "
                f"its columns: {self._http.explained(', '.join(raw.columns))}",
                "server",
                200,
            )
        return dashboard.members(cohort_id, raw)

    def _request(self, cohort_id: str) -> str:
        """Have the file of a cohort made, and return the id of the request."""
        self._take_a_place()
        found = self._read(f"/api/5/cohorts/request/{_segment(cohort_id)}")
        request = found.get("request_id") if isinstance(found, dict) else None
        if not isinstance(request, str) or not request:
            raise SourceError(f"the answer to a request for cohort {cohort_id} has no request_id", "server", 200)
        return request

    def _wait_for(self, cohort_id: str, request: str) -> None:
        began, wait = self._clock(), _FIRST_POLL_SECONDS
        while True:
            status, text = self._http.read(f"/api/5/cohorts/request-status/{_segment(request)}", self._status)
            if status != 202 and text in ("", "JOB COMPLETED"):
                return
            if status != 202 and text != "JOB INPROGRESS":
                said = self._http.explained(text)
                raise SourceError(f"the file of cohort {cohort_id} could not be made: {said}", "server", status)
            if self._clock() + wait - began > _LONGEST_JOB_SECONDS:
                raise SourceError(
                    f"the file of cohort {cohort_id} was not made within {_LONGEST_JOB_SECONDS / 60:.0f} minutes",
                    "server",
                    status,
                )
            self._sleep(wait)
            wait = min(wait * 1.5, _LONGEST_POLL_SECONDS)

    def _take_a_place(self) -> None:
        """Wait until one more file may be asked for."""
        with self._lock:
            # Whoever waits holds up the others: none of them could go on before.
            while len(self._asked) >= _MOST_FILES:
                free_at = self._asked[0] + _FILES_WINDOW_SECONDS
                if (left := free_at - self._clock()) <= 0:
                    self._asked.popleft()
                else:
                    self._sleep(left)
            self._asked.append(self._clock())

    def _list(self, path: str, key: str) -> list[Any]:
        found = dashboard.entries(self._read(path), key)
        if found is None:
            raise SourceError(f"the answer of {path} has no list of {key}", "server", 200)
        return found

    def _taxonomy(self, path: str, params: dict[str, str | int] | None = None) -> tuple[list[Any], str]:
        """Return what a list of the Taxonomy API holds, and why it is empty where the project has no such API."""

        def read(answer: requests.Response) -> tuple[list[Any] | None, str]:
            if answer.status_code in _NOT_FOR_THIS_PROJECT:
                return [], f"{path} answers {answer.status_code}: {self._http.said(answer) or 'nothing'}"
            return dashboard.entries(self._json(answer), "data"), ""

        found, why = self._http.read(path, read, params, seen=_NOT_FOR_THIS_PROJECT)
        return (found, why) if found is not None else ([], f"the answer of {path} has no list of data")

    def _read(self, path: str) -> Any:
        return self._http.read(path, self._json)

    def _json(self, answer: requests.Response) -> Any:
        try:
            return json.loads(b"".join(self._http.chunks(answer, _MOST_LIST_BYTES)))
        except TooLongError as error:
            raise SourceError(f"{urlsplit(answer.url).path} gives {error}", "server", 200) from None
        except (ValueError, RecursionError):
            raise BrokenAnswerError("its JSON is not whole") from None

    def _status(self, answer: requests.Response) -> tuple[int, str]:
        found = self._json(answer)
        text = found.get("async_status") if isinstance(found, dict) else None
        return answer.status_code, text if isinstance(text, str) else ""


def _segment(text: str) -> str:
    """Return a piece of a path. One of dots would be taken for another folder."""
    if text in (".", ".."):
        raise SourceError(f"{text} is no id that can be asked for", "server")
    return quote(text, safe="")


def _csv(file: Path) -> pl.DataFrame:
    """Read a CSV whose columns are all text."""
    if not file.stat().st_size:
        return pl.DataFrame()
    try:
        return pl.read_csv(file, infer_schema=False, truncate_ragged_lines=False)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except pl.exceptions.PolarsError:
        # Without its message, which quotes the file: there are ids in it.
        raise BrokenAnswerError("its CSV can't be read") from None
