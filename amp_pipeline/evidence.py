"""What is known of a project's hours: listings of the workspace, the hour sensor's ledger, what alerts remember.

The records of an hour are read only where these leave a doubt, and of the newest such hours alone: so
the history may be long. No bucket is asked for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple, TypeVar

from amp_pipeline.alerting import LANDING, Subject
from amp_pipeline.config import Delivery
from amp_pipeline.core.due import FIRST, MOST_ATTEMPTS, is_ready
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.volume import Volume
from amp_pipeline.run import OrganizationRun, ProjectRun
from amp_pipeline.workspace.alerts import AlertStore
from amp_pipeline.workspace.ledger import Entry, Ledger, Schedule
from amp_pipeline.workspace.pulls import TroubleStore

MOST_READ = 1000
"""Hours of a project whose records are read, the newest first, if not told otherwise: six weeks."""

AT_ONCE = 8
"""Reads that are made at a time."""

_TOGETHER = 1000
"""Reads that are asked for together: of ten years of hours each would take a kilobyte while it waits."""

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Many:
    """Does the same for many at a time: over a bucket each read takes its time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        """Work in the threads of ``pool``."""
        self._pool = pool

    def __call__(self, work: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[tuple[_Item, _Found]]:
        """Yield the items, each with what ``work`` finds for it."""
        listed = list(items)
        for start in range(0, len(listed), _TOGETHER):
            some = listed[start : start + _TOGETHER]
            yield from zip(some, self._pool.map(work, some), strict=True)


class Trouble(NamedTuple):
    """Why an hour failed."""

    what: str
    since: datetime
    given_up: bool


class Evidence:
    """What is known of a project's hours; read when it is asked for."""

    def __init__(self, run: OrganizationRun, one: ProjectRun, now: datetime, many: Many, most_read: int) -> None:
        """Look at the project ``one`` of ``run`` as things are ``now``; read the records of ``most_read`` hours."""
        self._now, self._most_read = now, most_read
        self.run, self.one, self.project, self._many = run, one, one.project, many
        self._ledger = Ledger(run.workspace, run.organization.id, one.project.id)
        self._enabled = [delivery for delivery in one.project.deliveries if delivery.enabled]
        self._delivered: dict[str, set[Hour]] = {}
        self._unlike: dict[str, set[Hour]] = {}
        alerts = AlertStore(run.workspace, run.organization.id)
        of = run.organization
        self.states = {one.name: alerts.state(Subject(of, self.project, one).key) for one in self.project.deliveries}
        self._landing = alerts.state(Subject(of, self.project, what=LANDING).key)
        self.before = {
            what: alerts.state(Subject(of, None if what == "merged_ids" else self.project, what=what).key)
            for what in ("raw_events", "deduped_events", "merged_ids")
        }

    @cached_property
    def deduped(self) -> set[Hour]:
        """Hours that are deduplicated."""
        return {hour for hour in self.one.workspace.hours("deduped") if self.project.holds(hour)}

    def delivered(self, delivery: Delivery) -> set[Hour]:
        """Return the hours that were delivered at least once."""
        if delivery.name not in self._delivered:
            self._delivered[delivery.name] = self.one.deliveries_of(delivery).hours("state")
        return self._delivered[delivery.name]

    @cached_property
    def schedules(self) -> Mapping[str, Schedule]:
        """Which hours of the deliveries are not delivered by themselves."""
        return self._ledger.schedules()[0].deliveries

    @cached_property
    def entries(self) -> dict[Hour, Entry]:
        """What the ledger says."""
        found: dict[Hour, Entry] = {}
        for date, (day, _) in self._many(self._ledger.day, self._ledger.days()):
            # Its hours by their place in the day: to parse each key of ten years takes longer than to read them.
            midnight = Hour.parse(f"{date.isoformat()}-00:00")
            found.update((midnight + int(key[-5:-3]), entry) for key, entry in day.hours.items())
        return found

    @cached_property
    def open(self) -> dict[Hour, Entry]:
        """Hours that the sensor has asked for, and has not found done since."""
        if not self.project.automatic:
            # Nobody looks at them again.
            return {}
        return {hour: entry for hour, entry in self.entries.items() if entry.content}

    def is_settled(self, hour: Hour) -> bool:
        """Tell whether the sensor has found all of an hour delivered, and nothing speaks against it."""
        entry = self.entries.get(hour)
        return entry is not None and entry.is_settled and not entry.content

    @cached_property
    def read(self) -> set[Hour]:
        """The hours whose records are read."""
        doubtful = (hour for hour in self.deduped if not self.is_settled(hour))
        return set(sorted(doubtful, reverse=True)[: self._most_read])

    def unlike(self, delivery: Delivery) -> set[Hour]:
        """Return of the hours that are read those that are delivered otherwise than they are on record."""
        if delivery.name not in self._unlike:
            self._unlike[delivery.name] = self._found_unlike(delivery)
        return self._unlike[delivery.name]

    def _found_unlike(self, delivery: Delivery) -> set[Hour]:
        archive = self.one.archive(delivery)

        def stands(hour: Hour) -> bool:
            if self.one.is_delivered(archive, delivery, hour):
                return True
            record = self.one.workspace.deduped(hour)
            merged = self.run.merged_workspace.merged(hour) if "merged_ids" in delivery.what else None
            # It stands as it was meant to; whether it is made anew is up to people.
            return record is not None and archive.only_settings_changed(hour, record, merged)

        failed = {Hour.parse(key) for key in self.states[delivery.name].failed}
        return {hour for hour, well in self._many(stands, self.delivered(delivery) & (self.read | failed)) if not well}

    def again(self, delivery: Delivery) -> set[Hour]:
        """Return the hours that are delivered otherwise than they would be today."""
        asked = self.open.keys() & self.delivered(delivery)
        # An hour that is as it is on record was asked for because of another delivery, for the first time, or because
        # of what landed since.
        elsewhere = {hour for hour in asked if self._is_open_elsewhere(hour)}
        since = {
            hour for hour in asked & self.read if self.open[hour].settled and self.open[hour].why != FIRST
        } - elsewhere
        undone = {hour for hour, done in self._many(lambda hour: self._was_done(hour, delivery), since) if not done}
        return self.unlike(delivery) | (asked - self.read) | undone

    def _is_open_elsewhere(self, hour: Hour) -> bool:
        return any(hour not in self.delivered(one) or hour in self.unlike(one) for one in self._enabled)

    def _was_done(self, hour: Hour, delivery: Delivery) -> bool:
        """Tell whether an hour was delivered since it was asked for, which the sensor has yet to find out."""
        store = self.one.deliveries_of(delivery)
        age = store.store.age(store.path("state", hour, ".json"))
        return age is not None and age <= self._now.timestamp() - self.open[hour].asked_at

    def failed(self, delivery: Delivery, again: set[Hour]) -> dict[Hour, Trouble]:
        """Return the hours that failed and were not done since, as alerts and the ledger know it."""
        delivered = self.delivered(delivery)
        found: dict[Hour, Trouble] = {}
        for noun, state in {"": self.states[delivery.name], **self.before}.items():
            if noun == "merged_ids" and "merged_ids" not in delivery.what:
                continue
            for key, failed in state.failed.items():
                hour = Hour.parse(key)
                done = self.is_settled(hour) if noun else hour in delivered and hour not in again
                if not done:
                    what = f"{noun}: {failed.what}" if noun else failed.what
                    found.setdefault(hour, Trouble(what, failed.at, self._given_up(hour, delivery)))
        for hour, entry in self.open.items():
            if entry.attempt > 1 and (hour not in delivered or hour in again) and hour not in found:
                asked_at = datetime.fromtimestamp(entry.asked_at, UTC)
                what = f"asked for {entry.attempt} times, and not done"
                found[hour] = Trouble(what, asked_at, self._given_up(hour, delivery))
        return found

    def _given_up(self, hour: Hour, delivery: Delivery) -> bool:
        """Tell whether an hour is not tried again by itself; one that waits for its bucket always is."""
        waits_for_bucket = hour in self.deduped and (
            hour not in self.delivered(delivery) or hour in self.unlike(delivery)
        )
        entry = self.open.get(hour)
        return entry is not None and entry.attempt >= MOST_ATTEMPTS and not waits_for_bucket

    def problem(self, delivery: Delivery) -> tuple[str, str, datetime | None]:
        """Return whether the ``bucket`` of a delivery or the ``source`` is in trouble, which, and since when.

        Empty texts and None where neither is known to be.
        """
        for where, state in (("bucket", self.states[delivery.name]), ("source", self._landing)):
            problem = state.problem
            if problem is not None and problem.trouble.source == "access" and problem.fine_since is None:
                return where, problem.trouble.summary, problem.since
        # What a run was told by the source, before the next tick of the sensor that tells people.
        trouble = TroubleStore(self.run.workspace, self.run.organization.id, self.project.id).load()
        if trouble is not None:
            return "source", trouble.summary, datetime.fromtimestamp(trouble.since, UTC)
        return "", "", None

    def earlier_settings(self, delivery: Delivery) -> set[Hour]:
        """Return the hours that were delivered under other settings than today's; reads the state of each hour."""
        archive = self.one.archive(delivery)
        states = self._many(archive.state.state, self.delivered(delivery))
        return {hour for hour, state in states if state is not None and state.settings != archive.settings}

    def is_ready(self, hour: Hour) -> bool:
        """Tell whether an hour that has ended is to be delivered."""
        source = self.project.source
        if is_ready(hour, complete=False, ready_at=source.ready_at(hour), now=self._now):
            return True
        # A landing that can't be listed says of no hour that it is complete.
        with suppress(AmpError):
            return source.complete is not None and self.one.raw.is_complete(hour)
        return False

    def volumes(self) -> tuple[dict[Hour, Volume], int]:
        """Return the volumes of deduplicated hours, and of how many it is not known."""
        found = {
            hour: Volume(entry.events, entry.bytes, entry.unpacked_bytes)
            for hour, entry in self.entries.items()
            if entry.settled and hour in self.deduped
        }
        unknown = sorted(self.deduped - found.keys(), reverse=True)
        for hour, record in self._many(self.one.workspace.deduped, unknown[: self._most_read]):
            if record is not None:
                parts = record.parts
                found[hour] = Volume(
                    record.rows, sum(part.bytes for part in parts), sum(part.unpacked_bytes for part in parts)
                )
        return found, len(unknown[self._most_read :])
