"""What is not as it should be in the bucket is found, marked and made as it was; what only waits is let alone."""

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core import codec
from amp_pipeline.core.errors import StoreError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.destinations.archive import By
from amp_pipeline.reconciliation import Looked, recent_hours, reconcile
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Entry, Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put

FIRST = FIRST_HOUR + 20
LOOKED_AT = FIRST_HOUR + 22
BAD = FIRST_HOUR + 26
LAST = FIRST_HOUR + 27
DAY = BAD.day
PART = f"7/7_{DAY}_2#0.json.gz"
MANIFEST = f"_amp_pipeline/7/all/{DAY}/02.json"
MARKER = f"7/7_{DAY}_2_complete"


class House:
    """A project with hours in folders, all delivered."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.landing = folder / "landing"
        self.organization = self.described(**settings)
        for hour in between(FIRST, LAST):
            at = (hour.number - FIRST_HOUR.number) * HOUR_US
            lines = [event(at + n, uuid=f"{hour} {n}", event_type="purchase" if n % 2 else "click") for n in range(4)]
            put(self.landing, object_name(hour), *lines, event(at + 9, uuid=f"{hour + -1} 1"))
            put(self.landing, f"7/7_{hour.day}_{hour.of_day}_complete")
        put(self.landing, merged_name(BAD), merged(1, 2), merged(3, 4))
        # Landed long ago: what has just landed is not held against anybody.
        for path in self.landing.rglob("*.*"):
            self.age(path)
        self.now = (LOOKED_AT + 24).start + timedelta(minutes=30)

    def described(self, **settings: Any) -> Organization:
        deliveries = [
            builders.all_events(self.folder / "all"),
            builders.purchases(self.folder / "purchases", complete_markers=False),
        ]
        return builders.organization(
            self.folder,
            self.landing,
            projects=[
                {
                    "first_hour": FIRST.key,
                    "last_hour": LAST.key,
                    "reconcile": {"days": 1},
                    "deliveries": deliveries,
                    **settings,
                }
            ],
        )

    @staticmethod
    def age(path: Path, hours: float = 5) -> None:
        then = time.time() - hours * 3600
        os.utime(path, (then, then))

    def deliver(self, *hours: Hour, force: bool = False, by: By = BY) -> None:
        run = OrganizationRun(self.organization)
        project = run.projects["shop7"]
        for hour in hours:
            project.raw.land(hour, force=force)
            project.deduped.dedupe(hour, force=force)
            run.merged.merge(hour, force=force)
        for delivery in project.project.deliveries:
            archive = project.archive(delivery)
            for hour in hours:
                project.deliver(archive, delivery, hour, by, force=force)

    def look(self, **options: Any) -> list[Looked]:
        project = self.organization.projects[0]
        hours = recent_hours(project, self.now)
        return list(reconcile(self.organization, project, hours, self.now, **options))

    def wrong(self, **options: Any) -> dict[tuple[Hour, str], str]:
        return {(one.hour, one.delivery): one.what for one in self.look(**options) if one.is_wrong}

    def waiting(self, delivery: str = "all") -> dict[Hour, str]:
        return {one.hour: one.what for one in self.look() if one.state == "waits" and one.delivery == delivery}

    @property
    def ledger(self) -> Ledger:
        return Ledger(open_store(self.organization.workspace), self.organization.id, 7)

    def marked(self) -> dict[str, Entry]:
        days = {hour.date for hour in between(FIRST, LAST)}
        return {
            key: entry
            for day in days
            for key, entry in self.ledger.day(day)[0].hours.items()
            if entry.forced or entry.doubt
        }

    def buckets(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for name in ("all", "purchases")
            for path in (self.folder / name).rglob("*")
            if path.is_file()
        }

    def edit_manifest(self, edit: Callable[[dict[str, Any]], None]) -> None:
        path = self.folder / "all" / MANIFEST
        manifest = json.loads(path.read_text())
        edit(manifest)
        path.write_text(json.dumps(manifest, indent=2) + "\n")


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    made.deliver(*between(FIRST, LAST))
    return made


def a_part_is_damaged(house: House) -> None:
    path = house.folder / "all" / PART
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def a_part_is_gone(house: House) -> None:
    (house.folder / "all" / PART).unlink()


def a_count_is_falsified(house: House) -> None:
    house.edit_manifest(lambda manifest: manifest["counts"].update(landed=99, repeats=95))


def a_line_is_missing(house: House) -> None:
    path = house.folder / "all" / PART
    text = b"".join(codec.unpack([path.read_bytes()], PART))
    packed = codec.pack_one(text.splitlines()[1:])
    assert packed is not None
    path.write_bytes(packed.data)

    def says_so(manifest: dict[str, Any]) -> None:
        file = manifest["files"][0]
        file |= {"rows": packed.rows, "bytes": packed.bytes, "unpacked_bytes": packed.unpacked_bytes}
        file["sha256"] = packed.sha256
        manifest["counts"]["delivered"] -= 1
        manifest["counts"]["filtered"] += 1

    house.edit_manifest(says_so)


def the_marker_is_gone(house: House) -> None:
    (house.folder / "all" / MARKER).unlink()


def an_index_is_damaged(house: House) -> None:
    path = next((house.folder / "workspace" / "9" / "7" / "keys" / DAY).glob("02-*.keys"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def the_quarantine_lies(house: House) -> None:
    path = house.folder / "workspace" / "9" / "7" / "repeats" / DAY / "02.jsonl.gz"
    path.unlink()


def a_merged_id_is_missing(house: House) -> None:
    path = house.folder / "all" / "-9" / f"-9_{DAY}_2.json.gz"
    packed = codec.pack_one([merged(1, 2)])
    assert packed is not None
    path.write_bytes(packed.data)


DAMAGE = [
    a_part_is_damaged,
    a_part_is_gone,
    a_count_is_falsified,
    a_line_is_missing,
    the_marker_is_gone,
    an_index_is_damaged,
    the_quarantine_lies,
    a_merged_id_is_missing,
]


def test_hours_as_they_should_be_agree_and_only_the_last_days_are_looked_at(house: House) -> None:
    found = house.look()
    assert {one.state for one in found} == {"agrees"}
    assert [one.hour for one in found if one.delivery == "all"] == list(between(LOOKED_AT, LAST))
    # An event of each hour is landed again in the next one.
    assert {(one.landed, one.delivered) for one in found if one.delivery == "all"} == {(5, 4)}
    assert {(one.landed, one.delivered) for one in found if one.delivery == "purchases"} == {(5, 2)}
    assert house.marked() == {}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda one: one.__name__)
def test_what_is_wrong_is_found_marked_and_made_as_it_was_by_a_run_that_is_forced(
    house: House, damage: Callable[[House], None]
) -> None:
    before = house.buckets()
    damage(house)
    assert {hour for hour, _ in house.wrong()} == {BAD}
    marked = house.marked()
    assert list(marked) == [BAD.key]
    assert marked[BAD.key].forced
    assert "an audit found it wrong: " in marked[BAD.key].doubt
    house.deliver(BAD, force=True)
    assert house.buckets() == before
    assert house.wrong() == {}


def test_what_is_marked_keeps_what_else_the_ledger_says(house: House) -> None:
    def settled(known: Any) -> bool:
        known.hours[BAD.key] = Entry(settled="x", keys="k", asked=3)
        return True

    house.ledger.change(BAD.date, settled)
    a_part_is_gone(house)
    house.look()
    entry = house.marked()[BAD.key]
    assert (entry.settled, entry.keys, entry.asked, entry.forced) == ("x", "k", 3, True)
    assert not entry.is_settled
    version = house.ledger.day(BAD.date)[1]
    house.look()
    assert house.ledger.day(BAD.date)[1] == version


def late(house: House, *, hours_ago: float) -> None:
    put(house.landing, object_name(BAD, 1), event((BAD.number - FIRST_HOUR.number) * HOUR_US + 50, uuid="late"))
    house.age(house.landing / object_name(BAD, 1), hours_ago)


def test_a_landing_object_that_no_run_has_seen_is_found_once_it_is_old_enough(house: House) -> None:
    late(house, hours_ago=0.5)
    assert house.wrong() == {}
    assert "short time ago" in house.waiting()[BAD]
    assert house.marked() == {}
    house.age(house.landing / object_name(BAD, 1))
    wrong = house.wrong()
    assert wrong.keys() == {(BAD, "all"), (BAD, "purchases")}
    assert "1 lines that should be delivered are not" in wrong[BAD, "all"]
    house.deliver(BAD, force=True)
    assert house.wrong() == {}


def test_an_hour_that_was_never_delivered_is_missing_once_it_is_due(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.deliver(*(hour for hour in between(FIRST, LAST) if hour != BAD))
    assert house.wrong().keys() == {(BAD, "all"), (BAD, "purchases")}
    assert not house.marked()[BAD.key].forced
    (house.landing / MARKER).unlink()
    assert house.wrong() == {}
    assert "not complete" in house.waiting()[BAD]


@pytest.mark.parametrize(
    "settings",
    [{"automatic": False}, {"deliveries": "later"}],
    ids=["of a project that delivers by hand", "before the first hour of its delivery"],
)
def test_an_hour_that_nobody_is_to_deliver_is_not_missing(tmp_path: Path, settings: Mapping[str, Any]) -> None:
    deliveries = [builders.all_events(tmp_path / "all", first_hour=(BAD + 1).key)]
    house = House(tmp_path, **({"deliveries": deliveries} if "deliveries" in settings else settings))
    house.deliver(*(hour for hour in between(FIRST, LAST) if hour != BAD))
    assert house.wrong() == {}
    assert "never delivered" in house.waiting()[BAD]
    assert house.marked() == {}


def test_a_bucket_that_cannot_be_reached_is_waited_for_and_holds_up_no_other(house: House) -> None:
    a_part_is_gone(house)
    (house.folder / "purchases" / PART).unlink()

    class Away(FolderStore):
        def head(self, name: str) -> Any:
            raise StoreError(f"{self.uri(name)} can't be read: no answer")

        chunks: Any = head
        find: Any = head
        age: Any = head

    def opened(url: str, s3: S3 | None = None) -> ObjectStore:
        return Away(Path(url)) if url.endswith("/all") else open_store(url, s3)

    found = house.look(open_store=opened)
    assert {one.state for one in found if one.delivery == "all"} == {"waits"}
    assert {one.what for one in found if one.hour == BAD and "no answer" in one.what}
    assert {one.hour for one in found if one.is_wrong and one.delivery == "purchases"} == {BAD}
    assert list(house.marked()) == [BAD.key]


def test_a_delivery_that_is_switched_off_is_not_looked_at(house: House) -> None:
    a_part_is_gone(house)
    deliveries = [
        builders.all_events(house.folder / "all", enabled=False),
        builders.purchases(house.folder / "purchases", complete_markers=False),
    ]
    house.organization = house.described(deliveries=deliveries)
    assert {one.delivery for one in house.look()} == {"purchases"}
    assert house.wrong() == {}


def test_an_hour_that_a_run_is_writing_is_not_wrong(house: House) -> None:
    the_marker_is_gone(house)
    claim = house.folder / "all" / MANIFEST.replace(".json", ".claim")
    claim.write_text("{}")
    assert house.waiting() == {BAD: "a run is writing it"}
    house.age(claim, 1)
    assert house.wrong().keys() == {(BAD, "all")}


def test_an_hour_that_a_run_was_just_asked_for_is_not_wrong(house: House) -> None:
    the_marker_is_gone(house)

    def asked_for(at: datetime) -> None:
        def change(known: Any) -> bool:
            known.hours[BAD.key] = Entry(content="x", asked=1, asked_at=at.timestamp())
            return True

        house.ledger.change(BAD.date, change)

    asked_for(house.now - timedelta(minutes=20))
    assert BAD in house.waiting()
    asked_for(house.now - timedelta(hours=20))
    assert house.wrong().keys() == {(BAD, "all")}


def test_an_hour_that_is_being_changed_while_it_is_looked_at_is_looked_at_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = house.folder / "all" / MARKER
    path.unlink()
    from amp_pipeline import reconciliation

    looks: list[list[Hour]] = []
    real = reconciliation.audit

    def audit(organization: Any, project: Any, hours: list[Hour], *rest: Any, **options: Any) -> Any:
        looks.append(list(hours))
        if hours == [BAD]:
            path.touch()
        return real(organization, project, hours, *rest, **options)

    monkeypatch.setattr(reconciliation, "audit", audit)
    assert house.wrong() == {}
    assert looks[-1] == [BAD]


def test_hours_delivered_by_other_settings_wait_for_people(house: House) -> None:
    deliveries = [
        builders.all_events(house.folder / "all"),
        builders.purchases(house.folder / "purchases", complete_markers=False, filter="event_type = 'click'"),
    ]
    house.organization = house.described(deliveries=deliveries)
    assert house.wrong() == {}
    assert "other settings" in house.waiting("purchases")[BAD]


def test_an_hour_whose_landing_is_gone_is_repaired_from_the_workspace(house: House) -> None:
    before = house.buckets()
    (house.landing / object_name(BAD)).unlink()
    assert house.wrong() == {}
    a_part_is_damaged(house)
    assert house.wrong().keys() == {(BAD, "all")}
    house.deliver(BAD, force=True)
    assert house.buckets() == before
    assert house.wrong() == {}


def test_the_landing_of_hours_that_are_not_looked_at_is_not_read(house: House) -> None:
    for hour in between(FIRST, LOOKED_AT + -1):
        path = house.landing / object_name(hour)
        stat = path.stat()
        path.write_bytes(b"\0" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert house.wrong() == {}


def test_nothing_is_written_but_marks(house: House) -> None:
    before = {str(path): path.stat().st_mtime_ns for path in house.folder.rglob("*") if path.is_file()}
    a_part_is_gone(house)
    house.look()
    after = {str(path): path.stat().st_mtime_ns for path in house.folder.rglob("*") if path.is_file()}
    gone = {str(house.folder / "all" / PART)}
    assert {path for path in after if before.get(path) != after[path]} == {
        str(house.folder / "workspace" / "9" / "7" / "ledger" / "days" / f"{DAY}.json")
    }
    assert before.keys() - after.keys() == gone
