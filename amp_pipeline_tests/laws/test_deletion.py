"""Deletion: nothing of a deleted user is left, the rest stays as it is, and no run brings anybody back."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put
from amp_pipeline_tests.laws.deleting import AMPLITUDE_ID, USER, ask, traces
from amp_pipeline_tests.laws.driver import Stores, buckets, differing, run, settle, stale
from amp_pipeline_tests.laws.truth import read_manifest

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


@pytest.mark.parametrize("landing", ["gone", "unreadable", "without the user"])
def test_hours_are_cleaned_whatever_became_of_their_landing(
    organization: Organization, tmp_path: Path, landing: str
) -> None:
    stores, whole = Stores(organization), Stores(organization)
    deliver(organization, stores)
    ask(organization, whole, **WHO)
    deliver(organization, whole)
    shutil.copytree(tmp_path / "landing", tmp_path / "kept")
    for file in (tmp_path / "landing").rglob("*#0.json"):
        if landing == "gone":
            file.unlink()
        elif landing == "unreadable":
            file.rename(file.with_suffix(".json.gz"))
            file.with_suffix(".json.gz").write_bytes(b"")
    if landing == "gone":
        (tmp_path / "landing" / merged_name(HOURS[1])).unlink()
    ask(organization, stores, **WHO)
    if landing == "gone":
        settle(organization, HOURS, stores)
        assert differing(buckets(organization, stores), buckets(organization, whole)) == []
        assert traces(organization, stores, USER, AMPLITUDE_ID) == []
