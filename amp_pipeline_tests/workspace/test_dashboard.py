"""Snapshots of the dashboard in the workspace."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from amp_pipeline.core import dashboard
from amp_pipeline.core.errors import WorkspaceError
from amp_pipeline.core.suppression import Suppression
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace import dashboard as workspace_dashboard
from amp_pipeline.workspace.dashboard import DashboardStore, Frame, MembersRecord, Saved
from amp_pipeline.workspace.store import ProjectStore
from amp_pipeline.workspace.suppressions import SuppressionStore
from amp_pipeline_tests.dashboard_server import cohort, event_type

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return FolderStore(tmp_path)


def snapshots(store: ObjectStore) -> DashboardStore:
    """As each run makes it anew."""
    return DashboardStore(store, 9, 7)


def frames(totals: int = 1) -> dict[Frame, pl.DataFrame]:
    return {
        "cohorts": dashboard.cohorts([cohort("a"), cohort("b")]).frame,
        "event_types": dashboard.event_types([event_type("buy", totals=totals)], []).frame,
        "categories": dashboard.categories([{"id": 1, "name": "Sales"}]).frame,
    }


def people(cohort_id: str, *rows: tuple[str, str]) -> pl.DataFrame:
    ids, users = [row[0] for row in rows], [row[1] for row in rows]
    return dashboard.members(cohort_id, pl.DataFrame({"amplitude_id": ids, "user_id": users})).frame


def put(store: ObjectStore, **rows: list[tuple[str, str]]) -> dict[str, MembersRecord]:
    one = snapshots(store)
    return {name: one.put_members(name, "1", NOON, people(name, *found)) for name, found in rows.items()}


def save(
    store: ObjectStore, totals: int = 1, members: Mapping[str, MembersRecord] | None = None, **settings: Any
) -> Saved:
    given: dict[str, Any] = {"not_available": {}, "at": NOON, "run": "r", "version": "1", **settings}
    return snapshots(store).save(frames(totals), members or {}, given.pop("not_available"), **given)


def delete(store: ObjectStore, users: list[str], numbers: list[str], up_to: int | None = None) -> None:
    SuppressionStore(ProjectStore(store, 9, 7)).add(
        Suppression(
            id="s1", project=7, user_ids=users, amplitude_ids=numbers, asked_at=NOON.isoformat(), up_to=up_to, note=""
        )
    )


def test_what_was_saved_is_read_again(store: ObjectStore) -> None:
    assert snapshots(store).latest() is None
    saved = save(store, members=put(store, b=[("2", "y")], a=[("1", "x"), ("3", "")]), not_available={"x": "why"})
    latest = snapshots(store).latest()
    assert latest is not None
    assert (saved.is_new, saved.removed, latest.stamp) == (True, 0, "20261120T120000000000Z")
    assert latest.at == NOON
    assert latest.cohorts.equals(frames()["cohorts"])
    assert latest.event_types.equals(frames()["event_types"])
    assert latest.categories.equals(frames()["categories"])
    assert [frame.rows() for frame in latest.members()] == [[("a", 1, "x"), ("a", 3, None)], [("b", 2, "y")]]
    assert latest.record.not_available == {"x": "why"}


def test_the_same_again_is_not_written_again(store: ObjectStore) -> None:
    first = save(store, members=put(store, a=[("1", "x")]))
    again = save(store, members=put(store, a=[("1", "x")]), at=NOON + timedelta(days=1), run="other")
    assert (again.is_new, again.snapshot.stamp) == (False, first.snapshot.stamp)
    assert snapshots(store).stamps() == [first.snapshot.stamp]
    assert again.snapshot.fingerprint == first.snapshot.fingerprint


@pytest.mark.parametrize(
    "other",
    [{"totals": 2}, {"not_available": {"taxonomy": "no"}}, {"members": "more"}],
)
def test_anything_else_is_another_snapshot(store: ObjectStore, other: dict[str, Any]) -> None:
    first = save(store, members=put(store, a=[("1", "x")]))
    given = {"members": put(store, a=[("1", "x")]), **other}
    if given["members"] == "more":
        given["members"] = put(store, a=[("1", "x"), ("2", "y")])
    second = save(store, at=NOON + timedelta(days=1), **given)
    assert second.is_new
    assert snapshots(store).stamps() == [first.snapshot.stamp, second.snapshot.stamp]
    assert first.snapshot.fingerprint != second.snapshot.fingerprint


def test_members_that_were_asked_for_again_and_are_the_same_are_not_asked_for_a_third_time(store: ObjectStore) -> None:
    save(store, members=put(store, a=[("1", "x")]))
    newer = {"a": snapshots(store).put_members("a", "2", NOON + timedelta(days=1), people("a", ("1", "x")))}
    assert not save(store, members=newer, at=NOON + timedelta(days=1)).is_new
    latest = snapshots(store).latest()
    assert latest is not None
    assert latest.record.members["a"].version == "2"


def test_the_last_thirty_are_kept_with_the_members_that_they_name(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_dashboard, "_YOUNG_SECONDS", -1)
    same = put(store, a=[("1", "x")])
    removed = [
        save(
            store,
            totals=day,
            members={**same, **put(store, b=[(str(day), "y")])},
            at=NOON + timedelta(days=day),
        ).removed
        for day in range(33)
    ]
    assert removed == [0] * 30 + [1] * 3
    assert len(snapshots(store).stamps()) == 30
    names = [info.name for info in store.find("9/7/dashboard/")]
    assert len(names) == 30 * 4 + 1 + 30
    latest = snapshots(store).latest()
    assert latest is not None
    assert [frame.rows() for frame in latest.members()] == [[("a", 1, "x")], [("b", 32, "y")]]


def test_snapshot_of_a_killed_run_is_none_and_goes_once_it_is_old(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(store)
    store.put("9/7/dashboard/20261121T120000000000Z/cohorts.parquet", b"half")
    put(store, left=[("1", "x")])
    latest = snapshots(store).latest()
    assert latest is not None
    assert latest.stamp == first.snapshot.stamp
    save(store, totals=2, at=NOON + timedelta(days=2))
    assert store.head("9/7/dashboard/20261121T120000000000Z/cohorts.parquet") is not None
    monkeypatch.setattr(workspace_dashboard, "_YOUNG_SECONDS", -1)
    save(store, totals=3, at=NOON + timedelta(days=3))
    assert store.head("9/7/dashboard/20261121T120000000000Z/cohorts.parquet") is None
    assert store.find("9/7/dashboard/members/") == []


def test_deleted_users_are_not_written(store: ObjectStore) -> None:
    delete(store, ["x"], ["2"])
    save(store, members=put(store, a=[("1", "x"), ("2", ""), ("3", "z")]))
    latest = snapshots(store).latest()
    assert latest is not None
    assert [frame.rows() for frame in latest.members()] == [[("a", 3, "z")]]
    assert [pl.read_parquet(file)["user_id"].to_list() for file in _files(store)] == [["z"]]


@pytest.mark.parametrize("up_to", [None, 0])
def test_deleted_users_are_not_read_from_what_was_written_before(store: ObjectStore, up_to: int | None) -> None:
    before = save(store, members=put(store, a=[("1", "x"), ("2", ""), ("3", "z")])).snapshot
    delete(store, ["x"], ["2"], up_to)
    latest = snapshots(store).latest()
    assert latest is not None
    assert [frame.rows() for frame in latest.members()] == [[("a", 3, "z")]]
    assert latest.fingerprint != before.fingerprint


def test_deletion_takes_users_out_of_all_snapshots(store: ObjectStore) -> None:
    save(store, members=put(store, a=[("1", "x"), ("3", "z")], b=[("4", "w")]))
    save(store, totals=2, members=put(store, a=[("1", "x")], b=[("4", "w")]), at=NOON + timedelta(days=1))
    delete(store, ["x"], [])
    assert snapshots(store).forget() == 2
    found = [pl.read_parquet(file)["user_id"].to_list() for file in _files(store)]
    assert sorted(map(sorted, found)) == [[], ["w"], ["z"]]
    assert snapshots(store).forget() == 0
    # Nothing new: what is left is what the next run finds.
    assert not save(store, totals=2, members=put(store, a=[("1", "x")], b=[("4", "w")]), at=NOON + timedelta(2)).is_new


def test_deletion_that_is_killed_is_finished_by_the_next(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(3):
        found = [("1", "x"), (str(day + 5), "z")]
        save(store, totals=day, members=put(store, a=found), at=NOON + timedelta(days=day))
    delete(store, ["x"], [])

    class Killed(BaseException):
        pass

    calls = 0
    while True:
        one = FolderStore(Path(store.url))
        original = one.put_chunks
        budget = [calls]

        def put_chunks(name: str, chunks: Any, budget: list[int] = budget, original: Any = original) -> None:
            if not budget[0]:
                raise Killed
            budget[0] -= 1
            original(name, chunks)

        monkeypatch.setattr(one, "put_chunks", put_chunks)
        try:
            snapshots(one).forget()
        except Killed:
            latest = snapshots(store).latest()
            assert latest is not None
            assert [frame.rows() for frame in latest.members()] == [[("a", 7, "z")]]
            calls += 1
        else:
            break
    assert calls > 0
    assert sorted(pl.read_parquet(file)["user_id"].to_list() for file in _files(store)) == [["z"]] * 3


def test_members_that_went_meanwhile_are_no_snapshot(store: ObjectStore) -> None:
    members = put(store, a=[("1", "x")])
    store.delete(members["a"].file.name)
    with pytest.raises(WorkspaceError, match="are gone, as by a deletion of users while a snapshot was taken"):
        save(store, members=members)
    assert snapshots(store).latest() is None


@pytest.mark.parametrize("totals", [1, 2])
def test_user_who_is_deleted_while_a_snapshot_is_taken_is_in_no_file(store: ObjectStore, totals: int) -> None:
    save(store, members=put(store, a=[("1", "x"), ("3", "z")]))
    one = snapshots(store)
    one.put_members("b", "1", NOON, people("b", ("4", "w")))
    delete(store, ["x"], [])
    snapshots(store).forget()
    # Members that came from Amplitude before it knew, and are written after the deletion has looked.
    found = {"a": one.put_members("a", "1", NOON, people("a", ("1", "x"), ("3", "z")))}
    saved = one.save(frames(totals), found, {}, at=NOON + timedelta(days=1), run="r", version="1")
    assert [frame.rows() for frame in saved.snapshot.members()] == [[("a", 3, "z")]]
    assert not any("x" in pl.read_parquet(file)["user_id"].to_list() for file in _files(store))
    assert snapshots(store).forget() == 0


def test_damage_is_told(store: ObjectStore) -> None:
    snapshot = save(store, members=put(store, a=[("1", "x")])).snapshot
    (file,) = store.find("9/7/dashboard/members/")
    store.put(file.name, b"other")
    with pytest.raises(WorkspaceError, match="is not what was written"):
        list(snapshot.members())
    store.delete(snapshot.record.frames["cohorts"].name)
    with pytest.raises(WorkspaceError, match=r"cohorts\.parquet is gone"):
        _ = snapshot.cohorts
    record = f"9/7/dashboard/{snapshot.stamp}/record.json"
    store.put(record, b"{")
    with pytest.raises(WorkspaceError, match=r"record\.json is damaged"):
        snapshots(store).latest()


def test_record_of_another_version_is_passed_over(store: ObjectStore) -> None:
    first = save(store).snapshot
    second = save(store, totals=2, at=NOON + timedelta(days=1)).snapshot
    name = f"9/7/dashboard/{second.stamp}/record.json"
    store.put(name, json.dumps({"format": 99}).encode())
    latest = snapshots(store).latest()
    assert latest is not None
    assert latest.stamp == first.stamp


def test_workspace_in_memory() -> None:
    store = MemoryStore("memory")
    save(store, members=put(store, a=[("1", "x")]))
    assert len(snapshots(store).stamps()) == 1


def _files(store: ObjectStore) -> list[str]:
    return [store.uri(info.name) for info in store.find("9/7/dashboard/members/")]
