"""Some of the laws over buckets of two servers; ``pytest amp_pipeline_tests/laws --over moto`` (make soak) has all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amp_pipeline.core import codec
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS, EXAMPLE_LANDING, event, put_bytes
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.driver import Failures, Stores, buckets, over_s3, run
from amp_pipeline_tests.laws.killed_child import HOURS
from amp_pipeline_tests.laws.test_killed import (
    FIRST,
    Killer,
    assert_readers_are_not_lied_to,
    killed_and_finished,
    one_part,
    two_parts,
)
from amp_pipeline_tests.proxy import Proxy, proxied
from amp_pipeline_tests.servers import Server

SOME_HOURS = EXAMPLE_HOURS[2 * 24 + 10 : 2 * 24 + 13]
EVERY = 29
"""Of the calls before which a run could be killed, so many apart. ``make soak`` tries each."""


@pytest.fixture
def over(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Organizations of builders have their workspace and buckets on this server."""
    client = s3_server.client()
    if builders.BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=builders.BUCKET)
    monkeypatch.setenv(builders.OVER, s3_server.endpoint)
    return s3_server


on_each_server = pytest.mark.parametrize(
    "s3_server", [pytest.param("moto", marks=pytest.mark.soak), "ministack"], indirect=True
)
"""In `make test` on the stricter one, in `make soak` on both."""


@on_each_server
def test_hours_have_the_same_bytes_as_elsewhere(tmp_path: Path, example_range: Delivered, over: Server) -> None:
    organization = builders.example(tmp_path)
    stores = Stores(organization)
    assert run(organization, SOME_HOURS[::-1], stores) == {}
    found = buckets(organization, stores)
    assert len(found) > 15
    assert found.items() <= example_range.buckets.items()


@on_each_server
def test_landing_may_be_in_a_bucket_too(tmp_path: Path, example_range: Delivered, over: Server) -> None:
    landing = open_store(builders.place(tmp_path / "landing"), over_s3())
    files = [path for path in EXAMPLE_LANDING.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: landing.put(str(path.relative_to(EXAMPLE_LANDING)), path.read_bytes()), files))
    given = {"id": 187520, "slug": "shop", "last_hour": EXAMPLE_HOURS[-1].key, "source": {"url": landing.url}}
    organization = builders.organization(tmp_path, tmp_path / "none", id=189524, projects=[given])
    assert run(organization, SOME_HOURS, open_store) == {}
    found = buckets(organization, open_store)
    assert len(found) > 15
    assert found.items() <= example_range.buckets.items()


@pytest.fixture
def killer(over: Server) -> Iterator[Killer]:
    one = Killer()
    yield one
    one.close()


@on_each_server
def test_killed_now_and_then_the_next_run_finishes(tmp_path: Path, killer: Killer) -> None:
    assert killed_and_finished(tmp_path, killer, one_part, two_parts, EVERY) > 3 * EVERY


LARGE = b"".join(event(number, uuid=str(number), filling=f"{number:03}" * 999) + b"\n" for number in range(40))


@pytest.fixture
def spoilt(over: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxied(over) as (proxy, seen):
        monkeypatch.setenv(builders.OVER, seen.endpoint)
        yield proxy


_SOAK = [pytest.param(fault, marks=pytest.mark.soak) for fault in ("500", "reset", "lost")]


@pytest.mark.parametrize("fault", ["503", "half", *_SOAK])
def test_server_in_trouble_loses_and_doubles_nothing(tmp_path: Path, spoilt: Proxy, fault: str) -> None:
    """Every eleventh request goes wrong, or of those that have an answer each fourth."""
    every = 4 if fault == "half" else 11
    spoilt.fault = lambda method, path, at: fault if at % every == 3 and (fault != "half" or method == "GET") else ""
    one_part(tmp_path)
    put_bytes(tmp_path / "landing", FIRST, LARGE)
    organization = builders.organization(tmp_path, tmp_path / "landing")
    failures: Failures = {}
    for _ in range(10):
        failures = run(organization, HOURS, open_store)
        assert_readers_are_not_lied_to(organization)
        if not failures:
            break
    assert failures == {}
    assert len(spoilt.spoilt) > 3
    spoilt.fault = lambda *_: ""
    assert run(organization, HOURS, open_store) == {}
    project = organization.projects[0]
    store = open_store(project.deliveries[0].url, over_s3())
    (part,) = [info.name for info in store.find("7/") if "#" in info.name]
    assert b"".join(codec.unpack(store.chunks(part), part)) == LARGE
    assert [info.name for info in store.find("") if info.name.endswith(".claim")] == []
