"""Deletion: nothing of a deleted user is left, the rest stays as it is, and no run brings anybody back."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.audit import DELETED, audit
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put
from amp_pipeline_tests.laws.deleting import AMPLITUDE_ID, USER, ask, traces
from amp_pipeline_tests.laws.driver import Stores, buckets, differing, run, settle, stale
from amp_pipeline_tests.laws.killed_child import EVERYTHING
from amp_pipeline_tests.laws.test_killed import Killer, copied, killer
from amp_pipeline_tests.laws.truth import Truth, read_manifest
from amp_pipeline_tests.oracle import Suppressed

__all__ = ["killer"]

WINNER = 5555555
"""Into which others were merged. Their events say so, and stay."""

HOURS = [FIRST_HOUR + number for number in range(6)]


def mine(us: int, **fields: Any) -> bytes:
    return event(us, user_id=USER, **fields)


def land(landing: Path) -> None:
    """Six hours: events, repeats, strays, quarantine, merged ids of the user and of others; the last two without."""
    put(
        landing,
        object_name(HOURS[0]),
        mine(1, uuid="a", event_type="purchase"),
        event(2, uuid="b", user_id="other"),
        mine(3, uuid="a"),
        event(4, uuid="a", user_id="other"),
        b'{"user_id":"%s","server_upload_time":"never"}' % USER.encode(),
        b'{"user_id":"other","server_upload_time":"never"}',
        b'{"user_id":"%s", and then it broke' % USER.encode(),
        mine(2 * HOUR_US + 5, uuid="stray"),
        event(2 * HOUR_US + 6, uuid="stray", user_id="other"),
        mine(HOUR_US + 6, uuid="lonely", amplitude_id=AMPLITUDE_ID, data={"merged_amplitude_id": 5}),
    )
    put(
        landing,
        object_name(HOURS[1]),
        event(HOUR_US + 1, uuid="c", amplitude_id=AMPLITUDE_ID, event_type="purchase"),
        event(HOUR_US + 2, uuid="d", amplitude_id=3, data={"merged_amplitude_id": WINNER}, event_type="purchase"),
        event(HOUR_US + 3, uuid="e", amplitude_id=3, data={"merged_amplitude_id": 5}),
    )
    put(landing, object_name(HOURS[2]), mine(2 * HOUR_US + 8, uuid="f"), mine(2 * HOUR_US + 9, uuid="b"))
    put(
        landing, object_name(HOURS[3]), event(3 * HOUR_US, uuid="\\u0073", user_id="other"), mine(3 * HOUR_US, uuid="g")
    )
    put(landing, object_name(HOURS[4]), event(4 * HOUR_US, uuid="h", user_id="other", event_type="purchase"))
    put(landing, object_name(HOURS[5]), event(5 * HOUR_US, uuid="h", user_id="other"))
    put(landing, merged_name(HOURS[1]), merged(AMPLITUDE_ID, 8), merged(3, 4), merged(9, AMPLITUDE_ID))


def deliver(organization: Organization, stores: Stores, hours: list[Hour] = HOURS) -> None:
    assert run(organization, hours, stores) == {}
    settle(organization, hours, stores)


def counts(organization: Organization, stores: Stores, hour: Hour, delivery: int = 0) -> dict[str, int]:
    project = organization.projects[0]
    one = project.deliveries[delivery]
    found: dict[str, int] = read_manifest(stores(one.url), project, one, hour)["counts"]
    return found


WHO_TO_THE_ORACLE = Suppressed(frozenset({USER}), frozenset({AMPLITUDE_ID, WINNER}))
WHO: dict[str, Any] = {"user_ids": [USER], "amplitude_ids": [str(AMPLITUDE_ID), str(WINNER)]}


@pytest.fixture
def organization(tmp_path: Path) -> Organization:
    land(tmp_path / "landing")
    return builders.organization(tmp_path, tmp_path / "landing")


def test_nothing_of_a_deleted_user_is_left_in_workspace_and_buckets(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    assert len(traces(organization, stores, USER, AMPLITUDE_ID)) > 10
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    assert traces(organization, stores, USER, AMPLITUDE_ID) == []


def test_what_landed_is_still_accounted_for(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    assert counts(organization, stores, HOURS[0]) == {
        "landed": 7,
        "quarantined": 3,
        "repeats": 2,
        "deleted": 1,
        "filtered": 0,
        "delivered": 1,
    }
    assert counts(organization, stores, HOURS[0], 1)["filtered"] == 1
    assert [counts(organization, stores, hour)["deleted"] for hour in HOURS] == [1, 2, 2, 1, 0, 0]


def test_only_hours_that_hold_something_of_the_user_run_again_and_no_other_object_changes(
    organization: Organization,
) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    before = buckets(organization, stores)
    ask(organization, stores, **WHO)
    again = settle(organization, HOURS, stores)
    assert sorted(again) == HOURS[:4]
    changed = differing(before, buckets(organization, stores))
    assert changed
    assert not [name for name in changed if any(f"_{hour.of_day}" in name.rpartition("/")[2] for hour in HOURS[4:])]
    assert stale(organization, HOURS, stores) == []


def test_whether_it_is_asked_for_before_or_after_the_delivery_makes_no_difference(organization: Organization) -> None:
    before, between, after = Stores(organization), Stores(organization), Stores(organization)
    ask(organization, before, **WHO)
    deliver(organization, before)
    assert run(organization, HOURS[1:3], between) == {}
    ask(organization, between, **WHO)
    deliver(organization, between)
    deliver(organization, after)
    ask(organization, after, **WHO)
    settle(organization, HOURS, after)
    assert differing(buckets(organization, before), buckets(organization, after)) == []
    assert differing(buckets(organization, before), buckets(organization, between)) == []
    for stores in (before, between):
        assert traces(organization, stores, USER, AMPLITUDE_ID) == []


def test_a_repeat_of_a_deleted_event_stays_a_repeat(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    workspace = OrganizationRun(organization, stores).projects["shop7"].workspace
    (gone, other) = workspace.report("repeats", HOURS[0])
    assert gone == {
        "row": 2,
        "object": object_name(HOURS[0]),
        "line": 3,
        "first_seen": HOURS[0].key,
        "conflict": True,
        "deleted": True,
    }
    assert '"other"' in other["text"]
    # That of a stray too, of which nothing but its digest is left.
    assert [entry["line"] for entry in workspace.report("repeats", HOURS[2]) if "deleted" not in entry] == [9]


@pytest.mark.parametrize("what", ["forced", "record lost", "late data"])
def test_no_later_run_brings_anybody_back(organization: Organization, tmp_path: Path, what: str) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    expected = buckets(organization, stores)
    one = OrganizationRun(organization, stores).projects["shop7"]
    if what == "forced":
        for hour in HOURS:
            one.raw.land(hour, force=True)
        for hour in HOURS:
            one.deduped.dedupe(hour, force=True)
    if what == "record lost":
        for hour in HOURS:
            for kind in ("raw", "deduped"):
                one.workspace.store.delete(one.workspace.path(kind, hour, ".json"))
    if what == "late data":
        put(tmp_path / "landing", object_name(HOURS[4], 1), mine(4 * HOUR_US + 1, uuid="x"), mine(2, uuid="y"))
    deliver(organization, stores)
    assert traces(organization, stores, USER, AMPLITUDE_ID) == []
    if what == "late data":
        assert [counts(organization, stores, HOURS[number])["deleted"] for number in (0, 4)] == [2, 1]
    else:
        assert differing(buckets(organization, stores), expected) == []


def test_up_to_a_time_means_that_later_events_are_delivered(organization: Organization) -> None:
    stores = Stores(organization)
    ask(organization, stores, **WHO, up_to=HOURS[2].start_us + 7)
    deliver(organization, stores)
    assert [counts(organization, stores, hour)["deleted"] for hour in HOURS] == [1, 2, 1, 0, 0, 0]
    held = [name for name in traces(organization, stores, USER) if "/deduped/" in name]
    assert [name.rpartition("/")[2][:2] for name in held] == ["02", "03"]


def test_hours_whose_landing_is_gone_are_cleaned_like_any_other(organization: Organization, tmp_path: Path) -> None:
    stores, whole = Stores(organization), Stores(organization)
    deliver(organization, stores)
    ask(organization, whole, **WHO)
    deliver(organization, whole)
    for file in (tmp_path / "landing").rglob("*.json"):
        file.unlink()
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    assert differing(buckets(organization, stores), buckets(organization, whole)) == []
    assert traces(organization, stores, USER, AMPLITUDE_ID) == []
    # Once more, with another user and digests of a first deletion in the strays.
    ask(organization, stores, id="d2", user_ids=["other"])
    settle(organization, HOURS, stores)
    assert traces(organization, stores, USER, AMPLITUDE_ID, '"other"') == []
    assert [counts(organization, stores, hour)["delivered"] for hour in HOURS] == [0, 2, 0, 0, 0, 0]


def test_a_user_whose_lines_the_owner_took_out_of_the_landing_is_not_counted_any_more(
    organization: Organization, tmp_path: Path
) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    before = [counts(organization, stores, hour) for hour in HOURS]
    for file in (tmp_path / "landing").rglob("*#0.json"):
        lines = file.read_bytes().split(b"\n")
        file.write_bytes(b"\n".join(b"" if USER.encode() in line else line for line in lines))
    settle(organization, HOURS, stores)
    Truth(organization, suppressed=[WHO_TO_THE_ORACLE]).assert_agrees(stores, HOURS)
    after = [counts(organization, stores, hour) for hour in HOURS]
    assert [one["deleted"] for one in after] == [0, 1, 0, 0, 0, 0]
    assert [one["landed"] for one in after] == [3, 3, 1, 1, 1, 1]
    assert before[4:] == after[4:]


def test_what_is_deleted_is_as_the_oracle_says(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    ask(organization, stores, **WHO)
    settle(organization, HOURS, stores)
    Truth(organization, suppressed=[WHO_TO_THE_ORACLE]).assert_agrees(stores, HOURS)


def test_late_data_that_a_frozen_hour_refuses_holds_up_no_deletion(organization: Organization, tmp_path: Path) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    (tmp_path / "landing" / object_name(HOURS[2])).unlink()
    put(tmp_path / "landing", object_name(HOURS[3], 1), event(2 * HOUR_US + 20, uuid="late"))
    failures = run(organization, HOURS, stores)
    assert {hour for _, hour in failures} == {HOURS[2]}
    deletion = UserDeletion(organization, organization.projects[0], ask(organization, stores, **WHO), stores)
    found = deletion.search(lambda _done, _of: None)
    assert found.events == {*HOURS[:4]}
    assert deletion.clean(found, lambda _done, _of: None) == {}
    one = OrganizationRun(organization, stores).projects["shop7"]
    record = one.workspace.deduped(HOURS[2])
    assert record is not None
    assert record.deleted == 2
    # They are delivered as they are on record.
    outdated = deletion.to_deliver()["shop7"]
    assert outdated == {"all": HOURS[:4], "purchases": HOURS[:4]}
    for delivery in one.project.deliveries:
        for hour in outdated[delivery.name]:
            one.deliver(one.archive(delivery), delivery, hour, builders.BY)
    assert traces(organization, stores, USER, AMPLITUDE_ID) == []
    assert deletion.to_deliver() == {}
    assert deletion.left(found.events | found.merged) == []


def test_a_damaged_suppression_stops_everything_and_its_ids_are_not_told(organization: Organization) -> None:
    stores = Stores(organization)
    ask(organization, stores, **WHO)
    name = "9/7/suppressions/d1.json"
    store = stores(organization.workspace)
    store.put(name, store.get(name).replace(b'"up_to"', b'"up_to": "%s", "x"' % USER.encode()))
    failures = run(organization, HOURS[:1], stores)
    assert failures
    assert all("no suppression that can be read" in why and USER not in why for why in failures.values())


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_before_any_call_the_next_run_finishes_the_deletion(tmp_path: Path, killer: Killer, every: int) -> None:
    start = tmp_path / "start"
    land(start / "landing")
    organization = builders.organization(start, start / "landing")
    assert run(organization, HOURS, open_store) == {}
    never_killed = copied(start, tmp_path / "never killed")
    told = builders.organization(never_killed, never_killed / "landing")
    ask(told, open_store, **WHO)
    assert run(told, HOURS, open_store) == {}
    expected = buckets(told, open_store)
    for call in itertools.count(1, every):
        base = copied(start, tmp_path / "killed")
        killed = builders.organization(base, base / "landing")
        ask(killed, open_store, **WHO)
        was_killed = killer.was_killed(base, call, EVERYTHING)
        assert run(killed, HOURS, open_store) == {}
        assert differing(buckets(killed, open_store), expected) == [], f"killed before call {call}"
        assert traces(killed, open_store, USER, AMPLITUDE_ID) == [], f"killed before call {call}"
        if not was_killed:
            break


def test_the_audit_finds_a_deleted_user_who_is_delivered_and_nothing_else(organization: Organization) -> None:
    stores = Stores(organization)
    deliver(organization, stores)
    project = organization.projects[0]
    ask(organization, stores, **WHO)
    found = list(audit(organization, project, HOURS, stores))
    named = [one.hour for one in found if any(finding.law == DELETED for finding in one.findings)]
    assert named == [HOURS[0], HOURS[0], HOURS[1], HOURS[1], HOURS[2], HOURS[3]]
    settle(organization, HOURS, stores)
    clean = list(audit(organization, project, HOURS, stores))
    assert [finding for one in clean for finding in one.findings] == []
    assert sum(one.deleted for one in clean if one.delivery == "all") == 6
