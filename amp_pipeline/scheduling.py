"""Which hours of a project are to be run now: what the hour sensor does at each tick, without Dagster.

Nothing is remembered that could not be found out again: an hour that was asked for and is not done is asked for again,
whatever has died in between. Each tick looks at the last days, at days known to have something left to do, and at some
of all others in turn, so its work does not grow with the history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

import msgspec

from amp_pipeline.config import Delivery, Project
from amp_pipeline.core.due import GIVEN_UP_FOR, MOST_ATTEMPTS, Candidate, is_ready, together, wait_after
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.ticks import Cursor, Request, Tick
from amp_pipeline.needs import RAW_EVENTS, Judge, Needs
from amp_pipeline.run import OrganizationRun
from amp_pipeline.workspace.ledger import Day, Entry, Ledger, Schedule, Schedules

RECENT_DAYS = 8
"""Looked at by each tick: as long as the usual window, and a day."""

SWEEP_DAYS = 16
"""Of the days before, so many are looked at by each tick: ten years of them in 228 ticks."""

PENDING_DAYS = 32
"""Days with something left to do that are looked at by each tick; those beyond are found again by the sweep."""

SECONDS = 20.0
"""After which a tick leaves the rest to the next one. Dagster gives a tick 60 s."""

RUNS_AT_ONCE = 4
"""Runs that a project may have asked for and that are not done; hours that ended a short time ago aside."""

LIVE = timedelta(hours=24)

LOST_AFTER = timedelta(minutes=2)
"""A request that Dagster knows no run of was lost with the tick that made it."""

TRY_ANYHOW = timedelta(hours=1)
"""After which an hour is asked for though its bucket can't be reached: whoever looks at buckets may have stopped."""

MANY_LATE = 200
"""Delivered hours that change at the same time; people are told."""


class Running(Protocol):
    """What Dagster is doing for a project."""

    @property
    def hours(self) -> Collection[Hour]:
        """Hours of runs that are not done, whoever asked for them."""
        ...

    @property
    def requests(self) -> int:
        """How many of these runs the sensor asked for."""
        ...

    def knows(self, request: str, /) -> bool:
        """Tell whether there is, or was, a run of a request."""
        ...


_NO_MERGES = fingerprint("", fingerprint([]))


class _LandingError(Exception):
    """The landing can't be listed."""


@dataclass
class _Visit:
    """A day that a tick looks at."""

    day: date
    known: Day
    version: str | None
    changed: bool = False
    is_left: bool = False

    def set(self, hour: Hour, entry: Entry) -> None:
        self.known.hours[hour.key] = entry
        self.changed = True


class Scheduler:
    """One tick of a project's hour sensor."""

    def __init__(
        self,
        run: OrganizationRun,
        project: Project,
        now: datetime,
        running: Running,
        *,
        unreachable: Collection[str] = (),
        source_trouble: str = "",
        hours_a_run: int = 24,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at the hours of ``project`` as things are ``now``.

        Args:
            run: Of the organization, wired so that it reads no landing.
            project: Of the organization.
            now: The time, aware.
            running: What Dagster is doing.
            unreachable: Names of deliveries whose bucket is known not to be reached.
            source_trouble: Why nothing can be pulled from the source; empty where it can.
            hours_a_run: Most hours that one run is asked for.
            clock: Seconds, for the time that a tick may take.
        """
        self._run = run
        self._one = run.projects[project.slug]
        self._project = project
        self._now = now
        self._running = running
        self._unreachable = unreachable
        self._source_trouble = source_trouble
        self._hours_a_run = hours_a_run
        self._clock = clock
        self._ledger = Ledger(run.workspace, run.organization.id, project.id)
        self._visits: dict[date, _Visit] = {}
        self._judged: set[Hour] = set()
        self._doubts: dict[int, dict[Hour, str]] = {}
        self._candidates: list[Candidate] = []

    def tick(self, cursor: Cursor) -> Tick:
        """Return the runs to ask for, which are in the ledger by then.

        Raises:
            AmpError: The workspace can't be read or written.
        """
        end = Hour.of(self._now) + -1
        last = min(end, self._project.last_hour or end)
        if last < self._project.first_hour:
            return Tick(cursor)
        self._judge = Judge(self._run, self._project.slug, self._scheduled(), self._unreachable)
        tick = Tick(cursor, trouble=self._source_trouble)
        try:
            tick.cursor = self._look(cursor, last, tick)
        except _LandingError as error:
            # What was found so far is kept.
            tick.trouble = str(error)
        groups = self._chosen(tick)
        requests = [self._ask(group) for group in groups]
        self._doubt()
        saved = self._save()
        tick.requests = [request for request in requests if all(saved.get(hour.date, True) for hour in request.hours)]
        return tick

    def _look(self, cursor: Cursor, last: Hour, tick: Tick) -> Cursor:
        """Look at days until the time is up; return where the next tick goes on."""
        began = self._clock()
        first_day, last_day = self._project.first_hour.date, last.date
        recent = max(first_day, last_day - timedelta(days=RECENT_DAYS - 1))
        for day in _days(recent, last_day):
            self._visit(day, last, tick)
        pending = [day for day in map(date.fromisoformat, cursor.pending) if first_day <= day < recent]
        left = set(pending)
        for day in pending:
            if self._clock() - began > SECONDS / 2:
                break
            self._visit(day, last, tick)
        sweep = date.fromisoformat(cursor.sweep) if cursor.sweep else first_day
        for _ in range(min(SWEEP_DAYS, (recent - first_day).days)):
            if self._clock() - began > SECONDS:
                break
            sweep = sweep if first_day <= sweep < recent else first_day
            if sweep not in self._visits:
                self._visit(sweep, last, tick)
                left.add(sweep)
            sweep += timedelta(days=1)
        done = {visit.day for visit in self._visits.values() if not visit.is_left}
        kept = sorted(left - done)[:PENDING_DAYS]
        return Cursor(sweep=sweep.isoformat(), pending=tuple(day.isoformat() for day in kept))

    def _visit(self, day: date, last: Hour, tick: Tick) -> None:
        known, version = self._ledger.day(day)
        visit = self._visits[day] = _Visit(day, known, version)
        start = Hour.parse(f"{day.isoformat()}-00:00")
        for hour in between(max(start, self._project.first_hour), min(start + 23, last)):
            entry = known.entry(hour)
            content = self._content(hour)
            # What was asked for since may have been delivered, and taken away again.
            if content and entry.settled == content and not entry.doubt and not entry.content:
                continue
            if hour in self._running.hours:
                tick.running += 1
                visit.is_left = True
                continue
            self._look_at(hour, entry, content, visit, tick)

    def _content(self, hour: Hour) -> str:
        try:
            self._one.raw.list(hour)
        except AmpError as error:
            raise _LandingError(str(error)) from None
        return self._judge.content(hour)

    def _look_at(self, hour: Hour, entry: Entry, content: str, visit: _Visit, tick: Tick) -> None:
        needs = self._judge.needs(hour, forced=entry.forced)
        if entry.forced and self._was_tried(entry, fingerprint(content, needs.what, entry.doubt, entry.forced)):
            if needs.waiting:
                # These are forced as well, once they can be reached.
                tick.waiting += 1
                visit.is_left = True
                return
            # Whether it helped is seen by who found it wrong; to force it again and again would help nobody.
            entry = msgspec.structs.replace(entry, forced=False)
            needs = self._judge.needs(hour)
        self._judged.add(hour)
        if needs.nothing:
            merged = self._judge.landed_merges(hour)
            if merged is None:
                # All that can be told of it is done.
                visit.is_left = True
                return
            self._settle(hour, entry, content, merged, visit)
            tick.settled += 1
            return
        if not self._is_ready(hour) or self._is_held(hour, needs):
            visit.is_left = True
            self._forgive(hour, entry, visit)
            return
        tick.late += needs.why not in ("", "first")
        asked_for = fingerprint(content, needs.what, entry.doubt, entry.forced)
        if entry.content != asked_for:
            entry = msgspec.structs.replace(entry, content=asked_for, attempt=0, request="")
        if not needs.what and self._now.timestamp() - entry.asked_at > TRY_ANYHOW.total_seconds():
            needs = needs._replace(what=needs.waiting)
        since = self._now.timestamp() - entry.asked_at
        given_up = entry.attempt >= MOST_ATTEMPTS and RAW_EVENTS in needs.what and since < GIVEN_UP_FOR.total_seconds()
        visit.is_left |= not given_up
        if given_up:
            # The sweep sees it when what landed changes.
            tick.given_up.append(hour)
        elif not needs.what or self._waits(entry):
            tick.waiting += 1
        else:
            visit.known.hours[hour.key] = entry
            self._candidates.append(self._candidate(hour, entry, needs))

    def _was_tried(self, entry: Entry, asked_for: str) -> bool:
        """Tell whether the run of a request has ended, one way or the other."""
        return bool(entry.request) and entry.content == asked_for and self._running.knows(entry.request)

    def _candidate(self, hour: Hour, entry: Entry, needs: Needs) -> Candidate:
        live = self._now - (hour + 1).start < LIVE
        alone = entry.attempt > 0 and RAW_EVENTS in needs.what and not self._is_read(hour)
        return Candidate(hour, needs.why, needs.what, live=live, alone=alone, forced=entry.forced)

    def _is_read(self, hour: Hour) -> bool:
        try:
            return self._one.raw.is_current(hour)
        except AmpError:
            return False

    def _is_ready(self, hour: Hour) -> bool:
        source = self._project.source
        was_done = self._one.workspace.has_record("deduped", hour)
        marked = source.complete is not None and self._one.raw.is_complete(hour)
        return is_ready(hour, complete=was_done or marked, ready_at=source.ready_at(hour), now=self._now)

    def _is_held(self, hour: Hour, needs: Needs) -> bool:
        """Tell whether an hour would have to be pulled from a source that gives nothing."""
        return bool(self._source_trouble) and RAW_EVENTS in needs.what and not self._one.raw.is_complete(hour)

    def _forgive(self, hour: Hour, entry: Entry, visit: _Visit) -> None:
        """Forget that an hour failed where it was the source that did: it goes with its neighbours again."""
        if self._source_trouble and entry.attempt:
            visit.set(hour, msgspec.structs.replace(entry, attempt=0, request=""))

    def _waits(self, entry: Entry) -> bool:
        """Tell whether an hour that was asked for has to wait before it is asked for again."""
        if not entry.request:
            return False
        age = self._now - datetime.fromtimestamp(entry.asked_at, self._now.tzinfo)
        if age < timedelta():
            # The clock has gone back.
            return False
        lost = not self._running.knows(entry.request)
        return age < (LOST_AFTER if lost else wait_after(entry.attempt))

    def _settle(self, hour: Hour, entry: Entry, content: str, landed_merges: str, visit: _Visit) -> None:
        # Without any reading this is the record that other hours were judged by in this tick.
        raw = self._one.raw.land(hour)
        record = self._one.workspace.deduped(hour)
        merges = fingerprint(raw.made_merges, landed_merges)
        later = Entry(
            settled=content,
            keys=raw.keys,
            merges=merges,
            asked=entry.asked,
            request=entry.request,
            why=entry.why,
            asked_at=entry.asked_at,
            events=record.rows if record else 0,
            bytes=sum(part.bytes for part in record.parts) if record else 0,
            unpacked_bytes=sum(part.unpacked_bytes for part in record.parts) if record else 0,
        )
        visit.set(hour, later)
        if later.keys != entry.keys:
            self._doubt_later(self._project, hour + 1, hour, self._project.dedupe.window)
        if merges != (entry.merges or _NO_MERGES):
            for project in self._run.organization.projects:
                self._doubt_later(project, hour, hour, self._run.organization.merged_ids_window)
        if entry.settled != content:
            for key in raw.strays_out:
                self._doubts.setdefault(self._project.id, {})[Hour.parse(key)] = f"strays in hour {hour}"

    def _doubt_later(self, project: Project, first: Hour, changed: Hour, window: timedelta) -> None:
        hours = -(-window // timedelta(hours=1))
        for hour in between(first, changed + hours):
            if (project.id, hour) != (self._project.id, changed):
                self._doubts.setdefault(project.id, {}).setdefault(hour, f"late data in hour {changed}")

    def _chosen(self, tick: Tick) -> list[Sequence[Candidate]]:
        room = max(0, RUNS_AT_ONCE - self._running.requests)
        chosen: list[Sequence[Candidate]] = []
        for group in together(self._candidates, self._hours_a_run):
            if len(chosen) < room or (group[0].live and len(chosen) < RUNS_AT_ONCE):
                chosen.append(group)
            else:
                tick.waiting += len(group)
        return chosen

    def _ask(self, group: Sequence[Candidate]) -> Request:
        entries = [self._visits[one.hour.date].known.entry(one.hour) for one in group]
        numbers = [(one.hour.key, entry.asked + 1) for one, entry in zip(group, entries, strict=True)]
        key = f"{self._project.id}-{group[0].hour.key}-{len(group)}-{fingerprint(numbers)[:12]}"
        for one, entry in zip(group, entries, strict=True):
            lost = entry.request and not self._running.knows(entry.request)
            self._visits[one.hour.date].set(
                one.hour,
                msgspec.structs.replace(
                    entry,
                    asked=entry.asked + 1,
                    attempt=max(1, entry.attempt) if lost else entry.attempt + 1,
                    asked_at=self._now.timestamp(),
                    request=key,
                    why=entry.doubt or one.why,
                ),
            )
        first = group[0]
        return Request(
            key, tuple(one.hour for one in group), first.what, first.why, first.live, first.is_late, first.forced
        )

    def _doubt(self) -> None:
        """Write down which hours have to be looked at again; before what they follow from is called settled."""
        for project, doubts in self._doubts.items():
            by_day: dict[date, dict[Hour, str]] = {}
            for hour, why in doubts.items():
                if project != self._project.id or hour not in self._judged:
                    by_day.setdefault(hour.date, {})[hour] = why
            for day, hours in by_day.items():
                visit = self._visits.get(day) if project == self._project.id else None
                if visit is not None:
                    visit.changed |= _doubted(visit.known, hours)
                else:
                    ledger = Ledger(self._run.workspace, self._run.organization.id, project)
                    ledger.change(day, lambda known, hours=hours: _doubted(known, hours))

    def _save(self) -> dict[date, bool]:
        """Write the days that changed, the latest first: doubts of later hours before what they follow from."""
        saved: dict[date, bool] = {}
        for day in sorted(self._visits, reverse=True):
            visit = self._visits[day]
            if visit.changed:
                saved[day] = self._ledger.save(day, visit.known, visit.version)
                if not saved[day]:
                    # Another tick is at work; what this one found out of earlier days is left to it.
                    return dict.fromkeys(self._visits, False) | saved
        return saved

    def _scheduled(self) -> Mapping[str, Schedule]:
        """Return which hours of the deliveries wait for a backfill by hand, after noting which are on and off now."""
        known, version = self._ledger.schedules()
        now = {
            name: self._switched(known.deliveries.get(name, Schedule()), delivery)
            for name, delivery in self._deliveries(known.deliveries)
        }
        if now != known.deliveries:
            self._ledger.save_schedules(Schedules(deliveries=now), version)
        return now

    def _deliveries(self, known: Iterable[str]) -> Iterable[tuple[str, Delivery | None]]:
        configured = {delivery.name: delivery for delivery in self._project.deliveries}
        return [(name, configured.get(name)) for name in sorted({*known, *configured})]

    def _switched(self, schedule: Schedule, delivery: Delivery | None) -> Schedule:
        this = Hour.of(self._now)
        if delivery is None or not delivery.enabled:
            return schedule if schedule.off_since else msgspec.structs.replace(schedule, off_since=this.key)
        if not schedule.off_since:
            return schedule
        off, caught_up = Hour.parse(schedule.off_since), Hour.of(self._now - delivery.catch_up)
        missed = ((off.key, (caught_up + -1).key),) if off < caught_up else ()
        return Schedule(missed=(*schedule.missed, *missed))


def _doubted(known: Day, doubts: Mapping[Hour, str]) -> bool:
    changed = False
    for hour, why in doubts.items():
        entry = known.entry(hour)
        # Others are looked at anyhow.
        if entry.is_settled:
            known.hours[hour.key] = msgspec.structs.replace(entry, doubt=why)
            changed = True
    return changed


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
