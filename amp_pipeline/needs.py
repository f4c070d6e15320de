"""What an hour needs, told from listings and records alone: which of its assets have to run, and why.

Nothing that landed is read here, so that a sensor may ask it of many hours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from amp_pipeline.config import Delivery
from amp_pipeline.core.due import FIRST
from amp_pipeline.core.errors import AmpError, WorkspaceError
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import Archive
from amp_pipeline.run import OrganizationRun
from amp_pipeline.workspace.ledger import Schedule
from amp_pipeline.workspace.records import DedupedRecord, MergedRecord

RAW_EVENTS, DEDUPED_EVENTS, MERGED_IDS = "raw_events", "deduped_events", "merged_ids"
TABLES = "/tables"
"""Behind the name of a delivery: its tables."""

LATE_DATA = "late data"
AUDIT = "an audit found it wrong"


class Needs(NamedTuple):
    """What is left to do for an hour."""

    why: str = ""
    what: tuple[str, ...] = ()
    """Assets that have to run: raw_events, deduped_events, merged_ids, names of deliveries, and of their tables."""
    waiting: tuple[str, ...] = ()
    """Deliveries that would have to, but whose bucket can't be reached."""

    @property
    def nothing(self) -> bool:
        """Whether all is done."""
        return not self.what and not self.waiting


class Judge:
    """Judges the hours of one project."""

    def __init__(
        self, run: OrganizationRun, slug: str, schedules: Mapping[str, Schedule], unreachable: Collection[str]
    ) -> None:
        """Judge by what ``run`` sees, which must have been wired so that it reads no landing.

        Args:
            run: Of the organization.
            slug: Of the project.
            schedules: Which hours of a delivery wait for a backfill by hand, by its name.
            unreachable: Names of deliveries whose bucket is known not to be reached.
        """
        self._run = run
        self._one = run.projects[slug]
        self._schedules = schedules
        self._unreachable = unreachable
        self._deliveries = [
            (delivery, self._one.archive(delivery)) for delivery in self._one.project.deliveries if delivery.enabled
        ]
        self._tables = {one.name: self._one.tables(one) for one, _ in self._deliveries if one.tables}
        organization, project = run.organization, self._one.project
        # Only assets with the same hours can be in one run.
        self._in_one_run = (project.first_hour, project.last_hour) == (organization.first_hour, organization.last_hour)
        self._merges = any(MERGED_IDS in delivery.what for delivery, _ in self._deliveries)
        self._lists_merges = True
        self._settings = [
            (
                *(delivery.name, archive.settings, delivery.first_hour and delivery.first_hour.key),
                *(self._left_out(delivery), *([TABLES] if delivery.tables else [])),
            )
            for delivery, archive in self._deliveries
        ]

    def content(self, hour: Hour) -> str:
        """Return a fingerprint of what landed in ``hour`` and of where it goes, from listings alone.

        "" where landed merged ids can't be listed.
        """
        merged = self.landed_merges(hour) if self._merges else None
        return "" if self._merges and merged is None else fingerprint(self._one.raw.seen(hour), merged, self._settings)

    def landed_merges(self, hour: Hour) -> str | None:
        """Return a fingerprint of the merged-id objects that landed in ``hour``; None where they can't be listed.

        They may lie in the landing of another project, which must not hold up this one: it is tried once.
        """
        try:
            return self._run.merged.seen(hour) if self._lists_merges else None
        except AmpError:
            self._lists_merges = False
            return None

    def needs(self, hour: Hour, *, forced: bool = False) -> Needs:
        """Return what is left to do for ``hour``.

        Hours that nothing but changed settings make stale need nothing: it is for people to say that all of history is
        to be written again.
        """
        if forced:
            return self._all_of(hour, AUDIT)
        try:
            return self._needs(hour)
        except WorkspaceError:
            # A record that can't be read: a run says which, and tells people.
            return self._all_of(hour, LATE_DATA)

    def _needs(self, hour: Hour) -> Needs:
        record = self._one.workspace.deduped(hour)
        if record is None:
            return self._all_of(hour, FIRST)
        if self._has_changed(hour, record):
            return self._all_of(hour, LATE_DATA)
        merged = self._run.merged_workspace.merged(hour) if self._merges else None
        if self._merges and (merged is None or self._is_outdated(hour, merged)):
            why = FIRST if merged is None else LATE_DATA
            return self._with_held(why, (MERGED_IDS,), self._wanted(hour) if self._in_one_run else [])
        left = {
            delivery.name: why
            for delivery, archive in self._deliveries
            if (why := self._why(archive, delivery, hour, record))
        }
        tables = [name for name in self._tables if name not in left and self._lacks(name, hour)]
        why = next((why for why in left.values() if why != FIRST), FIRST)
        return self._with_held(why, (), list(left), tables) if left or tables else Needs()

    def _lacks(self, delivery: str, hour: Hour) -> bool:
        """Tell whether the tables of a delivery lack an hour that was delivered."""
        tables = self._tables[delivery]
        return tables.records.state(hour) is not None and not tables.is_current(hour)

    def _is_outdated(self, hour: Hour, merged: MergedRecord) -> bool:
        if self.landed_merges(hour) is None:
            return False
        try:
            return self._run.merged.is_stale(hour, merged)
        except WorkspaceError:
            raise
        except AmpError:
            # A run says what is wrong with what landed, and tells people.
            return True

    def _has_changed(self, hour: Hour, record: DedupedRecord) -> bool:
        try:
            if not self._one.raw.is_current(hour):
                return True
        except AmpError:
            # A run says what is wrong, and tells people.
            return True
        return bool(self._one.deduped.is_stale(hour, record)) and not self._one.deduped.only_settings_changed(
            hour, record
        )

    def _why(self, archive: Archive, delivery: Delivery, hour: Hour, record: DedupedRecord) -> str:
        """Return why an hour has to be delivered; empty where it has not."""
        merged = self._run.merged_workspace.merged(hour) if MERGED_IDS in delivery.what else None
        state = archive.state.state(hour)
        if state is None:
            return FIRST if self._wants(delivery, hour) else ""
        if state.fingerprint == archive.fingerprint(record, merged):
            return ""
        return "" if archive.only_settings_changed(hour, record, merged) else LATE_DATA

    def _all_of(self, hour: Hour, why: str) -> Needs:
        events = (RAW_EVENTS, DEDUPED_EVENTS)
        if not self._in_one_run:
            return Needs(why, events)
        return self._with_held(why, (*events, *((MERGED_IDS,) if self._merges else ())), self._wanted(hour))

    def _wanted(self, hour: Hour) -> list[str]:
        """Return the deliveries that ``hour`` goes to, or went to before."""
        return [
            delivery.name
            for delivery, archive in self._deliveries
            if self._wants(delivery, hour) or archive.state.has_record("state", hour)
        ]

    def _wants(self, delivery: Delivery, hour: Hour) -> bool:
        first = delivery.first_hour
        schedule = self._schedules.get(delivery.name, Schedule())
        return (first is None or first <= hour) and not schedule.leaves_out(hour)

    def _with_held(
        self, why: str, what: tuple[str, ...], deliveries: Sequence[str], tables: Sequence[str] = ()
    ) -> Needs:
        """Return what is needed; whatever is delivered has its tables written too."""
        every = [*deliveries, *[name + TABLES for name in (*tables, *deliveries) if name in self._tables]]
        reached = tuple(name for name in every if name.removesuffix(TABLES) not in self._unreachable)
        return Needs(why, (*what, *reached), tuple(name for name in every if name not in reached))

    def _left_out(self, delivery: Delivery) -> list[tuple[str, str]]:
        return list(self._schedules.get(delivery.name, Schedule()).missed)
