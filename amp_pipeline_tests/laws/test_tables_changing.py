"""Tables of hours that change: late data, deletions, kills, two runs at once. What is in them is what was delivered."""

import io
import os
import threading
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core import summaries
from amp_pipeline.core.dashboard import MEMBERS
from amp_pipeline.core.errors import DeliveryError
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.dashboard import SCHEMAS, DashboardStore
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.laws.deleting import AMPLITUDE_ID, USER, ask
from amp_pipeline_tests.laws.driver import Stores, buckets, differing, run, settle, with_tables
from amp_pipeline_tests.laws.killed_child import EVERYTHING, HOURS, organization_in
from amp_pipeline_tests.laws.test_deletion import HOURS as SIX_HOURS
from amp_pipeline_tests.laws.test_deletion import WHO, land
from amp_pipeline_tests.laws.test_killed import CHANGES, Killer, copied, each_call, killer

__all__ = ["killer"]

MEMBER = 456789456789


@pytest.fixture
def organization(tmp_path: Path) -> Organization:
    land(tmp_path / "landing")
    return with_tables(builders.organization(tmp_path, tmp_path / "landing"))


def deliver(organization: Organization, stores: Stores) -> None:
    assert run(organization, SIX_HOURS, stores) == {}
    settle(organization, SIX_HOURS, stores)


def traces_in_tables(organization: Organization, stores: Stores, *ids: str | int) -> list[str]:
    """The objects of tables, in workspace and buckets, in whose values one of ``ids`` stands."""
    urls = [organization.workspace, *(one.url for one in organization.projects[0].deliveries)]
    return [
        f"{url}/{info.name}"
        for url in urls
        for info in stores(url, organization.s3).find("")
        if "tables/" in info.name and any(str(one) in text_of(stores(url), info.name) for one in ids)
    ]


def text_of(store: ObjectStore, name: str) -> str:
    data = store.get(name)
    if name.endswith(".parquet"):
        return str(pq.read_table(io.BytesIO(data)).to_pylist())
    if name.endswith(".summary"):
        return str([frame.rows() for frame in summaries.decode(data)])
    return data.decode()


def test_nothing_of_a_deleted_user_is_left_in_tables(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    assert len(traces_in_tables(organization, stores, USER, AMPLITUDE_ID)) > 10
    ask(organization, stores, **WHO)
    settle(organization, SIX_HOURS, stores)
    assert traces_in_tables(organization, stores, USER, AMPLITUDE_ID) == []
    never = Stores(organization)
    ask(organization, never, **WHO)
    deliver(organization, never)
    assert differing(buckets(organization, never), buckets(organization, stores)) == []


def test_late_data_gives_the_bytes_that_it_would_have_given_in_time(organization: Organization, tmp_path: Path) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    before = buckets(organization, stores)
    # The first event of an hour that had none of that type, a repeat, and a user who was here before.
    put(tmp_path / "landing", object_name(SIX_HOURS[4], 1), event(4 * HOUR_US + 5, uuid="new", user_id="other"))
    deliver(organization, stores)
    in_time = Stores(organization)
    deliver(organization, in_time)
    assert differing(buckets(organization, in_time), buckets(organization, stores)) == []
    changed = differing(before, buckets(organization, stores))
    events = [name for name in changed if name.endswith("event.parquet")]
    assert [name.partition("/tables/")[2] for name in events] == [
        f"7/event/date={FIRST_HOUR.day}/hour=04/event.parquet"
    ]


def test_an_hour_that_has_no_events_any_more_has_no_file(tmp_path: Path) -> None:
    put(tmp_path / "landing", object_name(FIRST_HOUR), event(1, uuid="a", user_id=USER))
    organization = with_tables(builders.organization(tmp_path, tmp_path / "landing"))
    stores = Stores(organization)
    assert run(organization, [FIRST_HOUR], stores) == {}
    assert [name for name in buckets(organization, stores) if name.endswith("/event.parquet")]
    ask(organization, stores, user_ids=[USER])
    settle(organization, [FIRST_HOUR], stores)
    assert not [name for name in buckets(organization, stores) if name.endswith("/event.parquet")]


@each_call
@pytest.mark.parametrize("what", ["redelivery with less", pytest.param("redelivery with more", marks=pytest.mark.soak)])
def test_killed_before_any_call_the_next_run_finishes_the_tables(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch, what: str, every: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    before, after = CHANGES[what]
    start = tmp_path / "start"
    before(start)
    finished(start)
    never_killed = copied(start, tmp_path / "never killed")
    after(never_killed)
    expected = finished(never_killed)
    step = 17 if every > 1 else 1
    call = 0
    for call in count(1, step):
        base = copied(start, tmp_path / "killed")
        after(base)
        killed = killer.was_killed(base, call, EVERYTHING, tables=True)
        assert finished(base) == expected, f"killed before call {call}"
        if not killed:
            break
    assert call > step


def finished(base: Path) -> dict[str, str]:
    """Run the hour, which nobody kills; return what lies in the buckets, and of tables in the workspace."""
    organization = organization_in(base, tables=True)
    assert run(organization, HOURS, open_store) == {}
    tables = [
        OrganizationRun(organization).projects["shop7"].tables(one) for one in organization.projects[0].deliveries
    ]
    assert all(one.is_current(HOURS[0]) for one in tables)
    workspace = open_store(organization.workspace, organization.s3)
    found = buckets(organization, open_store)
    return found | {info.name: info.name for info in workspace.find("") if info.name.endswith(".summary")}


def test_runs_of_several_hours_at_once_end_with_the_tables_of_all(organization: Organization, tmp_path: Path) -> None:
    alone = Stores(organization)
    deliver(organization, alone)
    stores = Stores(organization)
    bare = with_tables(organization, "nobody")
    assert run(bare, SIX_HOURS, stores) == {}
    settle(bare, SIX_HOURS, stores)
    one = organization.projects[0].deliveries[0]
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            tables = OrganizationRun(organization, stores).projects["shop7"].tables(one)
            tables.write_hour(SIX_HOURS[number], BY)
            tables.finish([SIX_HOURS[number]], BY)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(SIX_HOURS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    expected = {name: digest for name, digest in buckets(organization, alone).items() if name.startswith("shop7/all/")}
    found = {name: digest for name, digest in buckets(organization, stores).items() if name.startswith("shop7/all/")}
    assert differing(found, expected) == []


def test_a_run_that_is_late_takes_nothing_from_the_next_one(
    organization: Organization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = with_tables(organization, "all")
    stores = Stores(organization)
    deliver(with_tables(organization, "nobody"), stores)
    hour = SIX_HOURS[1]
    tables = OrganizationRun(organization, stores).projects["shop7"].tables(organization.projects[0].deliveries[0])
    give_back = Claim.__exit__

    def others_come_at_once(claim: Claim, *why: Any) -> None:
        give_back(claim, *why)
        with monkeypatch.context() as patch:
            patch.setattr(Claim, "__exit__", give_back)
            put(tmp_path / "landing", object_name(hour, 1), event(HOUR_US + 5, uuid="new", user_id="new"))
            assert run(organization, [hour], stores) == {}

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "__exit__", others_come_at_once)
        tables.write_hour(hour, BY)
    assert tables.is_current(hour)
    tables.finish([hour], BY)
    deliver(organization, stores)
    in_time = Stores(organization)
    deliver(organization, in_time)
    assert differing(buckets(organization, in_time), buckets(organization, stores)) == []


def test_a_delivered_file_that_was_changed_is_told_and_not_read(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(with_tables(organization, "nobody"), stores)
    one = organization.projects[0].deliveries[0]
    bucket = stores(one.url)
    (name,) = [info.name for info in bucket.find("7/") if info.name.endswith("_1#0.json.gz")]
    bucket.put(name, bucket.get(name.replace("_1#", "_2#")))
    tables = OrganizationRun(organization, stores).projects["shop7"].tables(one)
    with pytest.raises(DeliveryError, match="is not what the manifest says; deliver .* again"):
        tables.write_hour(SIX_HOURS[1], BY)
    assert bucket.head(tables.names.event_table(SIX_HOURS[1])) is None


@pytest.mark.parametrize(
    ("level", "lost"), [("hours", "gone"), ("days", "gone"), ("months", "gone"), ("days", "changed")]
)
def test_a_summary_that_is_lost_is_told_and_made_again(
    organization: Organization, tmp_path: Path, level: str, lost: str
) -> None:
    organization = with_tables(organization, "all")
    stores = Stores(organization)
    hours = [*SIX_HOURS, FIRST_HOUR + 30, FIRST_HOUR + 800]
    for number, hour in enumerate(hours[-2:]):
        us = hour.start_us - FIRST_HOUR.start_us
        put(tmp_path / "landing", object_name(hour), event(us, uuid=f"later {number}"))
    assert run(organization, hours, stores) == {}
    settle(organization, hours, stores)
    workspace = stores(organization.workspace)
    gone = [info.name for info in workspace.find("") if f"/tables/{level}/" in info.name and "summary" in info.name]
    assert len(gone) > 1
    for name in gone:
        if lost == "gone":
            workspace.delete(name)
        else:
            workspace.put(name, bytes(len(workspace.get(name))))
    put(tmp_path / "landing", object_name(SIX_HOURS[4], 1), event(4 * HOUR_US + 5, uuid="new"))
    with pytest.raises(DeliveryError, match="are gone from the workspace, or damaged; run the tables of"):
        run(organization, SIX_HOURS[4:5], stores)
    settle(organization, hours, stores)
    never = Stores(organization)
    assert run(organization, hours, never) == {}
    settle(organization, hours, never)
    assert differing(buckets(organization, never), buckets(organization, stores)) == []


def test_tables_of_another_format_are_made_anew_and_may_hold_deleted_users(
    organization: Organization,
) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    before = buckets(organization, stores)
    workspace = stores(organization.workspace)
    records = [info.name for info in workspace.find("") if "/tables/" in info.name and info.name.endswith(".json")]
    for name in records:
        # Of a version with other fields.
        workspace.put(name, b'{"format": 0, "other": []}')
    deletion = UserDeletion(organization, organization.projects[0], ask(organization, stores, **WHO), stores)
    deletion.clean(deletion.search(lambda *_: None), lambda *_: None)
    assert run(with_tables(organization, "nobody"), SIX_HOURS, stores) == {}
    assert set(deletion.to_deliver()["shop7"]) == {"all", "purchases"}
    assert traces_in_tables(organization, stores, USER, AMPLITUDE_ID)
    settle(organization, SIX_HOURS, stores)
    assert (deletion.to_deliver(), traces_in_tables(organization, stores, USER, AMPLITUDE_ID)) == ({}, [])
    assert buckets(organization, stores).keys() <= before.keys()


def test_an_hour_that_is_not_delivered_has_no_tables(organization: Organization) -> None:
    one = organization.projects[0].deliveries[0]
    tables = OrganizationRun(organization, Stores(organization)).projects["shop7"].tables(one)
    with pytest.raises(DeliveryError, match="materialize shop7/all/manifest for it first"):
        tables.write_hour(SIX_HOURS[1], BY)


def test_a_deletion_has_the_tables_written_again_and_names_those_that_are_kept_no_more(
    organization: Organization,
) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    project = organization.projects[0]
    deletion = UserDeletion(organization, project, ask(organization, stores, **WHO), stores)
    deletion.clean(deletion.search(lambda *_: None), lambda *_: None)
    bare = with_tables(organization, "nobody")
    # Archives are delivered again, and the run ends before the tables.
    assert run(bare, SIX_HOURS, stores) == {}
    found = deletion.to_deliver()["shop7"]
    assert set(found) == {"all", "purchases"}
    assert all(set(hours) <= set(SIX_HOURS[:4]) for hours in found.values())
    assert "could not be written" in " ".join(deletion.unreached_buckets())
    told = UserDeletion(bare, bare.projects[0], ask(bare, stores, **WHO), stores).unreached_buckets()
    assert [("has tables no more" in one, "set tables to true" in one) for one in told] == [(True, True)] * 2
    assert run(organization, SIX_HOURS, stores) == {}
    assert traces_in_tables(organization, stores, USER, AMPLITUDE_ID) == []
    assert (deletion.to_deliver(), deletion.unreached_buckets()) == ({}, [])


def test_a_deletion_takes_members_of_cohorts_out_of_the_tables(organization: Organization) -> None:
    stores = Stores(organization)
    dashboard = DashboardStore(stores(organization.workspace), organization.id, 7)
    at = datetime(2024, 6, 1, tzinfo=UTC)
    rows = {"cohort_id": ["c", "c"], "amplitude_id": [MEMBER, MEMBER + 1], "user_id": [USER, "other"]}
    members = dashboard.put_members("c", "1", at, pl.DataFrame(rows, schema=MEMBERS))
    frames: Any = {name: pl.DataFrame(schema=schema) for name, schema in SCHEMAS.items()}
    dashboard.save(frames, {"c": members}, {}, at=at, run="r", version="0")
    deliver(organization, stores)
    assert [name for name in traces_in_tables(organization, stores, MEMBER) if "user_cohort" in name]
    deletion = UserDeletion(
        organization, organization.projects[0], ask(organization, stores, amplitude_ids=[str(MEMBER)]), stores
    )
    assert deletion.search(lambda *_: None).events == set()
    deletion.clean_dashboard()
    assert deletion.to_deliver() == {"shop7": {"all": [SIX_HOURS[-1]], "purchases": [SIX_HOURS[-1]]}}
    assert run(organization, SIX_HOURS[-1:], stores) == {}
    assert traces_in_tables(organization, stores, MEMBER) == []
    assert traces_in_tables(organization, stores, MEMBER + 1)
    assert deletion.to_deliver() == {}
