"""What retention takes away is missed by nobody: every law holds in a workspace that was tidied at any time."""

import tempfile
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from amp_pipeline.audit import audit
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import By
from amp_pipeline.retention import Removal, plan, remove
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import LogEntry
from amp_pipeline.workspace.store import DeliveryStore
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put
from amp_pipeline_tests.laws.driver import Stores, buckets, differing, run, run_all, settle, stale
from amp_pipeline_tests.laws.soak import many, quick
from amp_pipeline_tests.laws.strategies import Case, cases
from amp_pipeline_tests.laws.truth import Truth

NOW = datetime.fromisoformat("2024-08-01T00:00:00Z")
A, B = FIRST_HOUR, FIRST_HOUR + 1
MERGING: dict[str, Any] = {"amplitude_id": 5, "data": {"merged_amplitude_id": 6}}


def shortest(organization: Organization) -> Organization:
    """The organization with the shortest retention of everything."""
    day = timedelta(hours=24)
    return organization.model_copy(
        update={"retention": organization.retention.model_copy(update={"superseded": day, "logs": day})}
    )


def workspace_of(organization: Organization, stores: Stores) -> ObjectStore:
    return stores(organization.workspace, organization.s3)


def age(store: ObjectStore, days: float = 3) -> None:
    """Make everything that is there as old as if it had been written days ago; in a real bucket nothing is."""
    if isinstance(store, MemoryStore):
        store._written_at = {name: at - days * 86_400 for name, at in store._written_at.items()}


def tidy(organization: Organization, stores: Stores) -> list[Removal]:
    workspace = workspace_of(organization, stores)
    age(workspace)
    return list(remove(workspace, plan(shortest(organization), workspace, NOW)))


def findings(organization: Organization, stores: Stores, hours: list[Hour]) -> list[str]:
    return [
        finding.what
        for project in organization.projects
        for one in audit(organization, project, [hour for hour in hours if project.holds(hour)], stores)
        for finding in one.findings
    ]


def late_objects_are_taken_in_by_a_workspace_that_is_tidied_in_between(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        organization = case.organization(base)
        stores = Stores(organization)
        case.land(base, frozenset(case.objects) - case.late)
        run_all(organization, case.runs, stores)
        ordered = sorted(case.late)
        for late in (ordered[::2], ordered[1::2]):
            tidy(organization, stores)
            case.land(base, frozenset(late))
            settle(organization, case.hours, stores)
        before = buckets(organization, stores)
        tidy(organization, stores)
        assert stale(organization, case.hours, stores) == []
        assert run(organization, case.hours, stores) == {}
        assert buckets(organization, stores) == before
        Truth(organization).assert_agrees(stores, case.hours)
        from_the_start = Stores(organization)
        run_all(organization, [case.hours], from_the_start)
        settle(organization, case.hours, from_the_start)
        assert differing(before, buckets(organization, from_the_start)) == []
        assert findings(organization, stores, list(case.hours)) == []


@settings(quick, max_examples=3)
@given(cases())
def test_late_objects_are_taken_in_by_a_workspace_that_is_tidied_in_between(case: Case) -> None:
    late_objects_are_taken_in_by_a_workspace_that_is_tidied_in_between(case)


@pytest.mark.soak
def test_many_late_objects_are_taken_in_by_a_workspace_that_is_tidied_in_between() -> None:
    many(late_objects_are_taken_in_by_a_workspace_that_is_tidied_in_between, cases())


class House:
    """Three hours that were changed several times, so that there are superseded versions of everything."""

    def __init__(self, folder: Path) -> None:
        self.landing = folder / "landing"
        self.hours = [FIRST_HOUR + n for n in range(3)]
        self.organization = builders.organization(folder, self.landing)
        self.stores = Stores(self.organization)
        for version in range(4):
            self.land(version)
            run_all(self.organization, [self.hours], self.stores)
            settle(self.organization, self.hours, self.stores)

    def land(self, version: int) -> None:
        """Land every hour as it was in that version; in each, half of the events are those of the hour before."""
        for n, hour in enumerate(self.hours):
            own = [
                event(n * HOUR_US + i, uuid=f"{version} {n} {i}", **MERGING | {"amplitude_id": 9 * version + i})
                for i in range(3)
            ]
            again = [event(n * HOUR_US + 9, uuid=f"{version} {n - 1} 1")]
            put(self.landing, object_name(hour), *own, *again)
            put(self.landing, merged_name(hour), merged(version + 1, 99), merged(n + 50, 99))

    @property
    def workspace(self) -> ObjectStore:
        return workspace_of(self.organization, self.stores)

    def names(self) -> set[str]:
        return {info.name for info in self.workspace.find("")}

    def tidy(self) -> list[Removal]:
        return tidy(self.organization, self.stores)

    def assert_sound(self, before: dict[str, str]) -> None:
        assert stale(self.organization, self.hours, self.stores) == []
        assert run(self.organization, self.hours, self.stores) == {}
        assert buckets(self.organization, self.stores) == before
        assert findings(self.organization, self.stores, self.hours) == []


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_superseded_versions_of_everything_go_and_what_is_named_stays(house: House) -> None:
    before = buckets(house.organization, house.stores)
    gone = house.tidy()
    assert {one.kind for one in gone} == {"keys", "rows", "made_merges", "deduped", "pairs", "merged_ids"}
    assert all(one.bytes for one in gone)
    one_left = [name for name in house.names() if "/keys/" in name]
    assert len(one_left) == len(house.hours)
    house.assert_sound(before)
    assert house.tidy() == []
    # Deliveries begin anew from what is left, also those that repack.
    for url in {one.url for project in house.organization.projects for one in project.deliveries}:
        bucket = house.stores(url, house.organization.s3)
        for info in bucket.find(""):
            bucket.delete(info.name)
    assert run(house.organization, house.hours, house.stores) == {}
    assert buckets(house.organization, house.stores) == before


def test_what_was_superseded_a_short_time_ago_stays(house: House) -> None:
    workspace = house.workspace
    assert list(plan(shortest(house.organization), workspace, NOW)) == []
    age(workspace)
    # The first run of the second day: what it supersedes was read until now.
    house.land(7)
    run_all(house.organization, [house.hours], house.stores)
    kinds = {one.kind for one in plan(shortest(house.organization), workspace, NOW)}
    assert kinds <= {"log"}


def test_a_key_index_that_another_hour_was_held_against_stays(tmp_path: Path) -> None:
    hours = [A, B]
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    put(tmp_path / "landing", object_name(A), event(1, uuid="a"))
    put(tmp_path / "landing", object_name(B), event(HOUR_US, uuid="b"))
    run_all(organization, [hours], stores)
    # Touches nothing of the later hour, which stands and still names the index that it was held against.
    put(tmp_path / "landing", object_name(A, 1), event(2, uuid="c"))
    run_all(organization, [[A]], stores)
    gone = tidy(organization, stores)
    assert "keys" not in {one.kind for one in gone}
    put(tmp_path / "landing", object_name(A, 2), event(3, uuid="b"))
    assert sorted(settle(organization, hours, stores)) == hours
    Truth(organization).assert_agrees(stores, hours)


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 14, 20])
def test_killed_at_any_time_nothing_is_missed(house: House, steps: int) -> None:
    before = buckets(house.organization, house.stores)
    workspace = house.workspace
    age(workspace)
    assert len(list(islice(remove(workspace, plan(shortest(house.organization), workspace, NOW)), steps))) == steps
    house.assert_sound(before)


def test_what_a_run_takes_up_again_after_the_plan_was_made_stays(house: House) -> None:
    workspace = house.workspace
    age(workspace)
    planned = list(plan(shortest(house.organization), workspace, NOW))
    house.land(1)
    run_all(house.organization, [house.hours], house.stores)
    settle(house.organization, house.hours, house.stores)
    before = buckets(house.organization, house.stores)
    left = {one.name for one in planned} - {one.name for one in remove(workspace, planned)}
    assert any("/keys/" in name for name in left)
    assert any("/pairs/" in name for name in left)
    house.assert_sound(before)


@pytest.mark.parametrize("kind", ["raw", "deduped"])
def test_of_an_hour_whose_record_cannot_be_read_nothing_goes(house: House, kind: str) -> None:
    name = f"9/7/{kind}/{A.day}/01.json"
    house.workspace.put(name, msgspec.json.encode({"format": 0}))
    gone = house.tidy()
    assert not [
        one for one in gone if one.kind in ("keys", "deduped" if kind == "deduped" else "rows") and "/01-" in one.name
    ]


def test_the_last_entry_of_each_hour_and_those_of_deletions_stay(tmp_path: Path) -> None:
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    put(tmp_path / "landing", object_name(A), event(1))
    run_all(organization, [[A]], stores)
    one = OrganizationRun(organization, stores).projects["shop7"]
    delivery = one.project.deliveries[0]
    log = DeliveryStore(stores(organization.workspace, organization.s3), 9, 7, delivery.name)
    (first,) = log.log(A)

    def deliver(at: str) -> None:
        one.deliver(one.archive(delivery), delivery, A, By("again", at, "0"), force=True)

    deliver("2024-06-02T00:00:00.123456+00:00")
    log.append(A, msgspec.structs.replace(first, at="2024-06-03T00:00:00.000000+00:00", why="deletion"))
    deliver("2024-07-31T12:00:00.000000+00:00")
    deliver("2024-07-31T18:00:00.000000+00:00")
    tidy(organization, stores)
    assert [(entry.at[:13], entry.why) for entry in log.log(A)] == [
        ("2024-06-03T00", "deletion"),
        ("2024-07-31T12", "forced"),
        ("2024-07-31T18", "forced"),
    ]
    assert isinstance(first, LogEntry)
