"""The replicated tables: what they hold is what was delivered, in any order of runs, and nothing is written twice."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.workspace.store import sha256
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS, FIRST_HOUR, HOUR_US, object_name, put
from amp_pipeline_tests.laws.counting import telling
from amp_pipeline_tests.laws.deleting import ask_all
from amp_pipeline_tests.laws.driver import Stores, buckets, in_chunks, run, run_all, settle, stale, with_tables
from amp_pipeline_tests.laws.soak import many, quick
from amp_pipeline_tests.laws.strategies import Case, cases
from amp_pipeline_tests.laws.tables_truth import TablesTruth


def assert_tables_agree(organization: Organization, stores: Stores, folder: Path, *, by_duckdb: bool) -> None:
    for project in organization.projects:
        for delivery in [one for one in project.deliveries if one.tables]:
            store = stores(delivery.url, organization.s3)
            truth = TablesTruth(organization, project, delivery, store)
            if by_duckdb:
                truth.read_by_duckdb()
            else:
                truth.read_by_python()
            truth.read_tables(folder / project.slug / delivery.name)
            truth.assert_agree(as_written=not by_duckdb)


def tables_of(organization: Organization, stores: Stores) -> dict[str, str]:
    return {name: digest for name, digest in buckets(organization, stores).items() if "/tables/" in name}


SOME_HOURS = EXAMPLE_HOURS[:96]
"""Four days with repeats, strays and empty hours; `make soak` takes all nine."""


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Organization, Stores]:
    organization = with_tables(builders.example(tmp_path_factory.mktemp("tables")))
    stores = Stores(organization)
    assert run(organization, SOME_HOURS, stores) == {}
    assert stale(organization, SOME_HOURS, stores) == []
    return organization, stores


def test_the_tables_of_the_example_are_what_duckdb_makes_of_its_archives(
    delivered: tuple[Organization, Stores], tmp_path: Path
) -> None:
    organization, stores = delivered
    assert_tables_agree(organization, stores, tmp_path, by_duckdb=True)


@pytest.mark.soak
@pytest.mark.parametrize("by_duckdb", [True, False])
def test_the_tables_of_all_days_of_the_example_are_what_duckdb_makes_of_its_archives(
    tmp_path: Path, by_duckdb: bool
) -> None:
    organization = with_tables(builders.example(tmp_path / "example"))
    stores = Stores(organization)
    assert run(organization, EXAMPLE_HOURS, stores) == {}
    assert_tables_agree(organization, stores, tmp_path / "tables", by_duckdb=by_duckdb)


def test_a_second_run_writes_nothing(delivered: tuple[Organization, Stores]) -> None:
    organization, stores = delivered
    written: list[tuple[str, str]] = []

    def tell(method: str, uri: str) -> None:
        if method in ("put", "delete"):
            written.append((method, uri))

    assert run(organization, SOME_HOURS, telling(stores, tell)) == {}
    assert written == []


@pytest.mark.parametrize("seed", [1, pytest.param(None, marks=pytest.mark.soak)])
def test_hours_in_any_order_in_runs_of_any_size_give_the_same_bytes(
    delivered: tuple[Organization, Stores], tmp_path: Path, seed: int | None
) -> None:
    organization, stores = delivered
    chosen = random.Random(seed)
    hours = SOME_HOURS[::4] if seed else list(SOME_HOURS)
    several: list[dict[str, str]] = []
    for number in range(2):
        chosen.shuffle(hours)
        one = with_tables(builders.example(tmp_path / str(number)))
        theirs = Stores(one)
        run_all(one, in_chunks(hours, chosen.choice([5, 11, 40])), theirs)
        settle(one, sorted(hours), theirs)
        several.append({**tables_of(one, theirs), **summaries_of(one, theirs)})
    assert several[0] == several[1]
    if not seed:
        assert tables_of(organization, stores) == {name: several[0][name] for name in tables_of(organization, stores)}


def summaries_of(organization: Organization, stores: Stores) -> dict[str, str]:
    """Digest of everything in the workspace that is about tables."""
    store = stores(organization.workspace)
    return {info.name: sha256(store.get(info.name)) for info in store.find("") if "/tables/" in info.name}


RICH = [
    {"user_id": "a", "amplitude_id": 1, "device_id": "d", "groups": {"team": ["x", "y", "x"], "plan": "free"}},
    {"user_id": "a", "amplitude_id": 1, "device_id": "e", "groups": {"team": "x", "w": 5, "v": None, "u": [1, "z"]}},
    {"user_id": None, "amplitude_id": 1, "device_id": "d", "group_properties": {"team": {"x": {"n": 1}}}},
    {"user_id": "", "device_id": "d", "city": "Köln", "paying": True, "user_properties": {"k": "ä\t", "n": 1.0}},
    {"user_id": "b", "paying": "true", "location_lat": 5, "user_creation_time": "2024-01-01T00:00:00"},
    {"amplitude_id": 2, "groups": {}, "new key": [1, {"b": 2}], "z": None, "app": 7.0},
    {"amplitude_id": 2, "groups": {"team": ["ü", ""]}, "city": 5, "session_id": "never", "event_time": "yesterday"},
]
"""Fields of events that have all that tables are about."""


@st.composite
def rich_days(draw: st.DrawFn) -> tuple[dict[Hour, list[bytes]], dict[Hour, list[bytes]]]:
    """Lines of some hours, and of some objects that land late."""
    landed: dict[Hour, list[bytes]] = {}
    late: dict[Hour, list[bytes]] = {}
    for number in range(draw(st.integers(15, 25))):
        hour = draw(st.sampled_from([0, 0, 1, 5, 30, 800]))
        us = hour * HOUR_US + draw(st.sampled_from([0, 1, 1, HOUR_US - 1]))
        fields = draw(st.sampled_from(RICH)) | {
            "event_type": draw(st.sampled_from(["purchase", "click", None])),
            "uuid": draw(st.sampled_from([f"u{number}", f"u{number}", "same", "", None])),
            "$insert_id": str(number),
            "language": f"l{number}",
        }
        where = draw(st.sampled_from([landed, landed, late]))
        where.setdefault(FIRST_HOUR + hour, []).append(builders.event(us, **fields))
    return landed, late


def agrees(case: tuple[dict[Hour, list[bytes]], dict[Hour, list[bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        organization = with_tables(builders.organization(base, base / "landing"))
        stores = Stores(organization)
        hours = [FIRST_HOUR + number for number in (0, 1, 5, 30, 800)]
        for number, lines in enumerate(case):
            for hour, some in lines.items():
                put(base / "landing", object_name(hour, number), *some)
            assert run(organization, hours, stores) == {}
            settle(organization, hours, stores)
        for by_duckdb in (True, False) if not any(b"yesterday" in line for line in all_of(case)) else (False,):
            assert_tables_agree(organization, stores, base / str(by_duckdb), by_duckdb=by_duckdb)


def all_of(case: tuple[dict[Hour, list[bytes]], ...]) -> list[bytes]:
    return [line for landed in case for lines in landed.values() for line in lines]


@settings(quick, max_examples=3)
@given(rich_days())
def test_generated_days_agree_with_duckdb(case: tuple[dict[Hour, list[bytes]], dict[Hour, list[bytes]]]) -> None:
    agrees(case)


def hostile_agrees(case: Case) -> None:
    """Lines of every kind that can be delivered, deletions and late objects among them."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        organization = with_tables(case.organization(base), "all")
        stores = Stores(organization)
        case.land(base, frozenset(case.objects) - case.late)
        run_all(organization, case.runs, stores)
        settle(organization, case.hours, stores)
        ask_all(organization, stores, case.suppressed)
        case.land(base, case.late)
        run_all(organization, case.runs, stores)
        settle(organization, case.hours, stores)
        assert_tables_agree(organization, stores, base / "tables", by_duckdb=False)


@settings(quick, max_examples=4)
@given(cases())
def test_hostile_lines_agree(case: Case) -> None:
    hostile_agrees(case)


@pytest.mark.soak
def test_many_generated_days_agree_with_duckdb() -> None:
    many(agrees, rich_days(), 300)


@pytest.mark.soak
def test_many_hostile_lines_agree() -> None:
    many(hostile_agrees, cases(), 300)
