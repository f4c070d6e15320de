"""The client of Amplitude's Dashboard APIs, over HTTP."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.core import dashboard as frames
from amp_pipeline.sources import dashboard_api
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.sources.dashboard_api import DashboardApi
from amp_pipeline_tests.dashboard_server import (
    API_KEY,
    BASIC,
    SECRET_KEY,
    Dashboard,
    Fault,
    cohort,
    dashboard,
    event_type,
    members,
)


@pytest.fixture
def server() -> Iterator[Dashboard]:
    with dashboard() as one:
        yield one


class Clock:
    """A clock that goes on only while somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


def api(server: Dashboard, clock: Clock | None = None, **settings: Any) -> DashboardApi:
    clock = clock or Clock()
    return DashboardApi(Http(server.source(**settings), sleep=clock.sleep), sleep=clock.sleep, clock=clock.now)


def test_lists_are_asked_for_once_each_with_the_keys(server: Dashboard) -> None:
    server.cohorts = [cohort("a"), cohort("b")]
    server.events = [event_type("buy")]
    server.planned = [{"event_type": "buy", "category": {"name": "Sales"}, "description": None}]
    server.categories = [{"id": 4, "name": "Sales"}]
    one = api(server)
    assert one.cohorts().frame["id"].to_list() == ["a", "b"]
    found, why = one.event_types()
    assert (found.frame["category"].to_list(), why) == (["Sales"], "")
    categories, why = one.categories()
    assert (categories.frame.rows(), why) == ([(4, "Sales", None)], "")
    paths = [
        "/api/3/cohorts",
        "/api/2/events/list",
        "/api/2/taxonomy/event?showDeleted=true",
        "/api/2/taxonomy/category",
    ]
    assert server.asked == [(path, BASIC) for path in paths]


def test_empty_lists_are_empty_frames(server: Dashboard) -> None:
    assert api(server).cohorts().frame.is_empty()
    assert api(server).event_types().parsed.frame.is_empty()


@pytest.mark.parametrize("path", ["/api/3/cohorts", "/api/2/events/list"])
def test_truncated_lists_are_asked_for_again(server: Dashboard, path: str) -> None:
    server.cohorts = [cohort("a")]
    server.events = [event_type("a")]
    server.faults.extend([Fault(path, body=b'{"data": [{"va'), Fault(path, body=b'{"cohorts": [', cut=True)])
    one = api(server)
    assert (one.cohorts() if "cohorts" in path else one.event_types().parsed).frame.height == 1
    assert len(server.paths(path)) == 3


@pytest.mark.parametrize("body", [b"[]", b'"ok"', b'{"data": null}', b'{"success": false}'])
def test_other_answers_are_no_empty_lists(server: Dashboard, body: bytes) -> None:
    server.faults.append(Fault("/api/2/events/list", body=body))
    with pytest.raises(SourceError, match="/api/2/events/list has no list of data"):
        api(server).event_types()


def test_wrong_keys_are_told_without_them(server: Dashboard) -> None:
    one = DashboardApi(Http(server.source(secret_key="another-marker")))
    with pytest.raises(SourceError, match=r"answers 403: .*Check api_key and secret_key.*region") as raised:
        one.cohorts()
    assert raised.value.kind == "credentials"
    assert not any(secret in str(raised.value) for secret in (API_KEY, SECRET_KEY, "another-marker", BASIC[6:]))


@pytest.mark.parametrize("status", [400, 403, 404])
def test_plan_without_a_taxonomy_api_is_said_not_raised(server: Dashboard, status: int) -> None:
    server.events = [event_type("buy")]
    server.no_taxonomy = status
    found, why = api(server).event_types()
    assert found.frame["name"].to_list() == ["buy"]
    assert why == (
        f'/api/2/taxonomy/event answers {status}: {{"success": false, "errors": [{{"message": "not for this plan"}}]}}'
    )
    categories, why = api(server).categories()
    assert categories.frame.is_empty()
    assert str(status) in why


def test_taxonomy_that_is_away_is_raised(server: Dashboard) -> None:
    server.faults.extend([Fault("/api/2/taxonomy", 503)] * 9)
    with pytest.raises(SourceError, match="503"):
        api(server, attempts=3).categories()


@pytest.mark.parametrize("large", [False, True])
def test_members_are_asked_for_waited_for_and_fetched(server: Dashboard, tmp_path: Path, large: bool) -> None:
    server.members["a"] = members((2, "y"), (1, ""), ("", "z"))
    server.pending = 3
    server.large = {"a"} if large else set()
    clock = Clock()
    found = api(server, clock).members("a", tmp_path / "file")
    assert found.frame.rows() == [("a", 1, None), ("a", 2, "y"), ("a", None, "z")]
    assert clock.waits == [2, 3, 4.5]
    assert [keys for _, keys in server.asked_of_bucket] == ([None] if large else [])


def test_ids_are_quoted_in_paths(server: Dashboard, tmp_path: Path) -> None:
    server.faults.append(Fault("/api/5/cohorts/request/", 202, b'{"request_id": "r/../x?y"}'))
    server.faults.append(Fault("/api/5/cohorts/request-status/", 200, b'{"async_status": "JOB COMPLETED"}'))
    server.faults.append(Fault("/api/5/cohorts/request/", 200, members((1, "x"))))
    assert api(server).members("a/../b?c#d%", tmp_path / "file").frame.height == 1
    assert server.paths() == [
        "/api/5/cohorts/request/a%2F..%2Fb%3Fc%23d%25",
        "/api/5/cohorts/request-status/r%2F..%2Fx%3Fy",
        "/api/5/cohorts/request/r%2F..%2Fx%3Fy/file",
    ]
    with pytest.raises(SourceError, match="no id"):
        api(server).members("..", tmp_path / "file")


def test_file_that_is_never_made_is_given_up(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = members()
    server.pending = 10**6
    clock = Clock()
    with pytest.raises(SourceError, match="not made within 30 minutes"):
        api(server, clock).members("a", tmp_path / "file")
    assert 29 * 60 < clock.seconds <= 30 * 60
    assert max(clock.waits) == 30


def test_file_that_could_not_be_made_is_told(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = members()
    server.faults.append(Fault("/api/5/cohorts/request-status", 200, b'{"async_status": "JOB FAILED"}'))
    with pytest.raises(SourceError, match="cohort a could not be made: JOB FAILED"):
        api(server).members("a", tmp_path / "file")


def test_status_in_progress_counts_whatever_its_status(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = members((1, "x"))
    server.faults.append(Fault("/api/5/cohorts/request-status", 200, b'{"async_status": "JOB INPROGRESS"}'))
    server.faults.append(Fault("/api/5/cohorts/request-status", 202, b"{}"))
    clock = Clock()
    assert api(server, clock).members("a", tmp_path / "file").frame.height == 1
    assert clock.waits == [2, 3]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/5/cohorts/request/r", 500),
        Fault("/api/5/cohorts/request/r", 429, headers={"Retry-After": "1"}),
        Fault("/api/5/cohorts/request/r", body=b'"amplitude_id","user_id"\n"1","x"\n', cut=True),
        Fault("/api/5/cohorts/request/r", body=b'"amplitude_id","user_id"\n"1","x","y","z"\n'),
    ],
)
def test_file_that_breaks_off_is_fetched_again_not_asked_for_again(
    server: Dashboard, tmp_path: Path, fault: Fault
) -> None:
    server.members["a"] = members((1, "x"), (2, "y"))
    server.faults.append(fault)
    assert api(server).members("a", tmp_path / "file").frame.height == 2
    assert server.paths("/api/5/cohorts/request/") == [
        "/api/5/cohorts/request/a",
        *["/api/5/cohorts/request/r0/file"] * 2,
    ]


def test_broken_file_is_told_without_the_ids_in_it(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = b'"amplitude_id","user_id"\n"1","marker","y","z"\n'
    with pytest.raises(SourceError, match="CSV can't be read") as raised:
        api(server, attempts=2).members("a", tmp_path / "file")
    assert "marker" not in str(raised.value)


@pytest.mark.parametrize("body", [b"", members()])
def test_cohort_of_nobody(server: Dashboard, tmp_path: Path, body: bytes) -> None:
    server.members["a"] = body
    found = api(server).members("a", tmp_path / "file")
    assert found == (found.frame, 0)
    assert dict(found.frame.schema) == frames.MEMBERS
    assert found.frame.is_empty()


def test_cohort_of_groups_is_told(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = b'"group_id","group_name"\n"1","acme"\n'
    with pytest.raises(SourceError, match="its members are no users; its columns: group_id, group_name"):
        api(server).members("a", tmp_path / "file")


@pytest.mark.parametrize("path", ["/api/3/cohorts", "/api/5/cohorts/request/r0/file"])
def test_answers_without_end_are_not_taken(
    server: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(dashboard_api, "_MOST_LIST_BYTES", 1000)
    monkeypatch.setattr(dashboard_api, "_MOST_FILE_BYTES", 1000)
    server.members["a"] = members((1, "x"))
    packed = {"Content-Encoding": "gzip"}
    server.faults.append(Fault(path, body=gzip.compress(b"[" + b" " * 100_000), headers=packed))
    with pytest.raises(SourceError, match="an answer of more than 1,000 bytes"):
        api(server).members("a", tmp_path / "file") if "file" in path else api(server).cohorts()
    assert len(server.paths(path)) == 1


def test_json_without_bottom_is_no_answer(server: Dashboard) -> None:
    server.faults.extend([Fault("/api/3/cohorts", body=b"[" * 200_000)] * 2)
    with pytest.raises(SourceError, match="its JSON is not whole"):
        api(server, attempts=2).cohorts()


def test_sixty_files_in_ten_minutes_at_most(server: Dashboard, tmp_path: Path) -> None:
    server.members["a"] = members((1, "x"))
    clock = Clock()
    one = api(server, clock)
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(lambda n: one.members("a", tmp_path / str(n)), range(130)))
    assert clock.waits == [600, 600]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ({"rest_download": {"limit": 500, "usage": 480, "resets_at": "2026-12-01T00:00:00Z"}}, 20),
        ({"limit": 500, "count": 501}, 0),
        ({"rest_download": "unknown"}, None),
        ({"limit": "many", "usage": 1}, None),
        (None, None),
    ],
)
def test_files_left_this_month(server: Dashboard, answer: Any, left: int | None) -> None:
    server.usage = answer
    assert api(server).files_left() == left
