"""Reconciliation: the last days held against the source again, and what is found wrong given to the hour sensor.

Nobody asks for it, so it must not cry wolf: an hour that waits for something is not wrong, and one that a run is just
changing is looked at once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import Literal

import msgspec

from amp_pipeline.audit import OWNERSHIP, TABLES_BEHIND, WORKSPACE, HourAudit, audit
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.due import is_ready
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour, between, window
from amp_pipeline.destinations.claim import LEASE_SECONDS
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun, finished_hours
from amp_pipeline.sources import landing
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Day, Entry, Ledger, Schedule
from amp_pipeline.workspace.records import DedupedRecord

SETTLING = timedelta(hours=2)
"""What landed, became due or was asked for so short a time ago is taken in by its own run."""

MOST_TOLD = 100
"""Wrong hours that an alert names, and that the next reconciliation looks at again."""

_LONGEST = 300

State = Literal["agrees", "wrong", "missing", "waits"]


@dataclass(frozen=True)
class Looked:
    """How an hour of a delivery stands."""

    hour: Hour
    delivery: str
    state: State
    landed: int = 0
    delivered: int = 0
    what: str = ""
    """What is wrong, or what it waits for."""
    repairable: bool = True
    """Whether a run that is forced can put it right."""

    @property
    def is_wrong(self) -> bool:
        """Whether it does not agree with the source."""
        return self.state in ("wrong", "missing")


def recent_hours(project: Project, now: datetime, also: Iterable[Hour] = ()) -> list[Hour]:
    """Return the finished hours of the last days, and others of the project that are to be looked at ``also``."""
    this = Hour.of(now)
    recent = finished_hours(project, this + -24 * project.reconcile.days, None, now)
    return sorted({*recent, *(hour for hour in also if project.holds(hour) and hour < this)})


def reconcile(
    organization: Organization,
    project: Project,
    hours: Sequence[Hour],
    now: datetime,
    open_store: OpenStore = open_store,
    *,
    deliveries: Collection[str] | None = None,
) -> Iterator[Looked]:
    """Yield how ``hours`` stand, after marking those that are wrong for the hour sensor, a day at a time.

    Args:
        organization: Whose project.
        project: Whose hours.
        hours: Ascending.
        now: The time, aware.
        open_store: Opens stores.
        deliveries: Names of those that are looked at; all that are switched on if not given.

    Raises:
        AmpError: The workspace can't be read or written.
    """
    looked = tuple(one for one in project.deliveries if deliveries is None or one.name in deliveries)
    narrowed = project.model_copy(update={"deliveries": looked})
    for _, day_hours in groupby(hours, key=lambda hour: hour.date):
        day = list(day_hours)
        # What is new is late data. A source that does not answer is told of by the sensor that asks for hours.
        run = OrganizationRun(organization, open_store, now=now.timestamp)
        unasked = run.projects[project.slug].raw.landed.pull_again(day)
        found = [
            replace(one, state="waits", what=f"the source could not be asked again: {unasked[one.hour]}")
            if one.state == "agrees" and one.hour in unasked
            else one
            for one in _Day(organization, narrowed, now, open_store).look(day)
        ]
        mark(organization, project, open_store, found)
        yield from found


def mark(organization: Organization, project: Project, open_store: OpenStore, found: Iterable[Looked]) -> None:
    """Let the hour sensor have hours that are wrong made again, forced, and look at those that are missing.

    Raises:
        AmpError: The workspace can't be read or written.
    """
    wrong: dict[date, dict[str, Looked]] = {}
    for one in found:
        if one.is_wrong and one.repairable:
            by_hour = wrong.setdefault(one.hour.date, {})
            # Of two deliveries, one that is wrong says more than one that is missing.
            if one.hour.key not in by_hour or one.state == "wrong":
                by_hour[one.hour.key] = one
    ledger = Ledger(open_store(organization.workspace, organization.s3), organization.id, project.id)
    for day, by_hour in wrong.items():
        ledger.change(day, lambda known, by_hour=by_hour: _marked(known, by_hour))


def _marked(known: Day, wrong: Mapping[str, Looked]) -> bool:
    changed = False
    for key, one in wrong.items():
        entry = known.hours.get(key, Entry())
        # What was never delivered needs no force.
        forced = entry.forced or one.state == "wrong"
        doubt = f"an audit found it {one.state}: {one.what}"
        if (entry.doubt, entry.forced) != (doubt, forced):
            known.hours[key] = msgspec.structs.replace(entry, doubt=doubt, forced=forced)
            changed = True
    return changed


def trouble_of(found: Sequence[Looked], *, automatic: bool, run: str = "") -> Trouble | None:
    """Return what people are told of the hours of one delivery, None where all that was looked at agrees."""
    wrong = [one for one in found if one.is_wrong]
    if not wrong:
        return None
    count = f"{len(wrong)} of {len(found)} hours that were looked at do not agree with the source"
    return Trouble(
        source="audit",
        kind="audit",
        summary=f"{count}: {wrong[0].hour}: {wrong[0].what}",
        advice=_advice(wrong, automatic=automatic),
        run=run,
        hours={one.hour.key: one.what for one in wrong[-MOST_TOLD:]},
    )


def _advice(wrong: Sequence[Looked], *, automatic: bool) -> str:
    if not all(one.repairable for one in wrong):
        return "Runs can't put all of this right: do what is said of each hour."
    if automatic:
        return "The hours are made and delivered again by themselves. What changed the bucket is left for you to find."
    return "Deliver these hours again, forced: this project does not deliver by itself."


def is_settled(found: Sequence[Looked], before: Collection[str]) -> bool:
    """Tell whether something was looked at, and hours that were wrong ``before``, by key, are right now."""
    agreeing = {one.hour.key for one in found if one.state == "agrees"}
    return bool(agreeing) and agreeing >= {key for key in before if any(one.hour.key == key for one in found)}


class _Day:
    """The hours of one day, of the deliveries that the project names."""

    def __init__(self, organization: Organization, project: Project, now: datetime, open_store: OpenStore) -> None:
        self._organization = organization
        self._project = project
        self._now = now
        self._open_store = open_store

    def look(self, hours: Sequence[Hour]) -> list[Looked]:
        """Return how the hours stand."""
        early = {hour for hour in hours if not self._is_due(hour)}
        asked = [hour for hour in hours if hour not in early or self._was_delivered(hour)]
        found = self._audit(asked)
        if suspects := sorted({one.hour for one in found.values() if one.is_wrong}):
            # A run may have been writing just then.
            found |= self._audit(suspects)
        excuses = _Excuses(self._run(), self._project, self._now, asked)
        return [
            self._judged(found.get((hour, delivery.name)), hour, delivery, early, excuses)
            for hour in hours
            for delivery in self._project.deliveries
            if delivery.enabled
        ]

    def _judged(
        self, one: Looked | None, hour: Hour, delivery: Delivery, early: Collection[Hour], excuses: _Excuses
    ) -> Looked:
        if one is None or (one.state == "missing" and hour in early):
            return Looked(hour, delivery.name, "waits", what="its landing is not complete yet")
        if one.is_wrong and (why := excuses.of(one, delivery)):
            return replace(one, state="waits", what=why)
        return one

    def _audit(self, hours: Sequence[Hour]) -> dict[tuple[Hour, str], Looked]:
        if not hours:
            return {}
        found = audit(self._organization, self._project, hours, self._open_store, alone=True)
        return {(one.hour, one.delivery): looked(one) for one in found}

    def _run(self) -> OrganizationRun:
        return OrganizationRun(self._organization, self._open_store, reads=False)

    @cached_property
    def _first(self) -> ProjectRun:
        return self._run().projects[self._project.slug]

    def _is_due(self, hour: Hour) -> bool:
        source = self._project.source
        try:
            complete = source.complete is not None and self._first.raw.is_complete(hour)
        except AmpError:
            # The audit says what is wrong with the landing.
            complete = True
        return is_ready(hour, complete=complete, ready_at=source.ready_at(hour), now=self._now)

    def _was_delivered(self, hour: Hour) -> bool:
        states = (self._first.deliveries_of(one) for one in self._project.deliveries if one.enabled)
        return any(state.has_record("state", hour) for state in states)


def looked(one: HourAudit) -> Looked:
    """Return what an audit found, nothing excused."""
    laws = {finding.law for finding in one.findings}
    what = "; ".join(f"{finding.law}: {finding.what}" for finding in one.findings)
    what = what if len(what) <= _LONGEST else what[: _LONGEST - 1] + "…"
    state: State = "agrees"
    if laws == {TABLES_BEHIND}:
        state = "waits"
    elif one.state in ("broken", "missing"):
        state = "wrong" if one.state == "broken" else "missing"
    elif one.state == "failed":
        # A landing or a bucket that can't be read is told of by those who tried it first.
        state = "wrong" if WORKSPACE in laws else "waits"
    repairable = bool(laws - {OWNERSHIP, WORKSPACE})
    return Looked(one.hour, one.delivery, state, one.landed, one.delivered, what, repairable)


class _Excuses:
    """Why hours that seem wrong are not: they wait for something, or a run is at work."""

    def __init__(self, run: OrganizationRun, project: Project, now: datetime, looked_at: Sequence[Hour]) -> None:
        self._run = run
        self._project = project
        self._one = run.projects[project.slug]
        self._now = now
        self._looked_at = looked_at
        self._ledger = Ledger(run.workspace, run.organization.id, project.id)
        self._events = landing.events(self._one.raw.source, project)
        self._merged = landing.merged_ids(self._one.raw.source, project.source, run.organization.id)
        self._young: dict[Hour, bool] = {}

    def of(self, one: Looked, delivery: Delivery) -> str:
        """Return what an hour waits for; empty where it is wrong."""
        try:
            return self._left_out(one, delivery) or self._at_work(one.hour, delivery) or self._changing(one, delivery)
        except AmpError as error:
            return str(error)

    def _left_out(self, one: Looked, delivery: Delivery) -> str:
        if one.state != "missing":
            return ""
        if not self._project.automatic:
            return "never delivered; the project does not deliver by itself"
        if delivery.first_hour is not None and one.hour < delivery.first_hour:
            return f"never delivered; the delivery begins at {delivery.first_hour}"
        if self._schedules.get(delivery.name, Schedule()).leaves_out(one.hour):
            return "never delivered; the delivery was off, and the hour waits for a backfill by hand"
        if self._now < (one.hour + 1).start + SETTLING:
            return "ended a short time ago"
        return ""

    @cached_property
    def _schedules(self) -> Mapping[str, Schedule]:
        return self._ledger.schedules()[0].deliveries

    def _at_work(self, hour: Hour, delivery: Delivery) -> str:
        archive = self._one.archive(delivery)
        claims = [archive.names.claim(hour)]
        if delivery.tables:
            claims += [archive.names.event_table_claim(hour), archive.names.tables_claim()]
        if any(_is_held(archive.store.age(claim)) for claim in claims):
            return "a run is writing it"
        entry = self._ledger.day(hour.date)[0].entry(hour)
        if not entry.is_settled and self._now.timestamp() - entry.asked_at < SETTLING.total_seconds():
            return "a run of it was asked for a short time ago"
        return ""

    def _changing(self, one: Looked, delivery: Delivery) -> str:
        record = self._one.workspace.deduped(one.hour)
        first, last = window(one.hour, self._project.dedupe.window)
        for other in sorted({*between(max(first, self._project.first_hour), last), *self._looked_at}):
            if self._is_young(other) or (first <= other <= last and self._was_just_taken_in(other, record)):
                return f"what landed in hour {other} a short time ago may change it"
        if record is None or one.state == "missing":
            return ""
        if self._one.deduped.only_settings_changed(one.hour, record):
            return "made by other settings of the project; deliver it again to change it"
        merged = self._run.merged_workspace.merged(one.hour) if "merged_ids" in delivery.what else None
        if self._one.archive(delivery).only_settings_changed(one.hour, record, merged):
            return "delivered by other settings; deliver it again to change it"
        return ""

    def _is_young(self, hour: Hour) -> bool:
        """Tell whether anything landed in ``hour`` so short a time ago that no run need have taken it in."""
        if hour not in self._young:
            raw = self._one.raw.recorded(hour)
            pairs = self._run.merged_workspace.pairs(hour)
            known = {(one.object, one.size, one.version) for record in (raw, pairs) if record for one in record.inputs}
            listed = [*self._events.objects(hour), *self._merged.objects(hour)]
            new = [info.name for info in listed if (info.name, info.size, info.version) not in known]
            self._young[hour] = any(_settles(self._one.raw.source.age(name)) for name in new)
        return self._young[hour]

    def _was_just_taken_in(self, earlier: Hour, record: DedupedRecord | None) -> bool:
        """Tell whether late data of an earlier hour came a short time ago, and not yet to the hour of ``record``."""
        raw = self._one.raw.recorded(earlier)
        if raw is None or record is None or record.window.get(earlier.key, "") == raw.keys:
            return False
        workspace = self._one.workspace
        return _settles(workspace.store.age(workspace.path("raw", earlier, ".json")))


def _settles(age: float | None) -> bool:
    return age is not None and age < SETTLING.total_seconds()


def _is_held(age: float | None) -> bool:
    return age is not None and age < LEASE_SECONDS
