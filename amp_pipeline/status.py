"""How each delivery stands: which hours are delivered, which are not and why, and how large the project's hours are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from amp_pipeline.alerting import Subject
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.due import FIRST
from amp_pipeline.core.hours import Hour, between, ranges
from amp_pipeline.core.volume import Month, Volume, by_month
from amp_pipeline.evidence import AT_ONCE, MOST_READ, Evidence, Many, Trouble
from amp_pipeline.run import OrganizationRun
from amp_pipeline.source_settings import Landing
from amp_pipeline.workspace.ledger import Schedule

InFlight = Mapping[str, Collection[Hour]]
"""Hours of runs that are not done, by the path of the asset that they make."""


@dataclass(frozen=True)
class Failure:
    """Hours that failed for one reason."""

    hours: tuple[Hour, ...]
    what: str
    since: datetime
    given_up: bool
    """Whether they are not tried again by themselves."""


@dataclass(frozen=True)
class Next:
    """The next hour of a delivery, and when it is due."""

    hour: Hour
    ends: datetime
    marked: bool
    """Whether the source marks complete hours: it is due as soon as it has ended and is marked."""
    due: datetime
    """When it is due in any case."""


@dataclass(frozen=True)
class DeliveryStatus:
    """How one delivery stands. Hours are in order, and each is in one place only, ``in_flight`` aside."""

    subject: Subject
    project: Project
    delivery: Delivery
    first_hour: Hour
    last_complete: Hour | None
    """It and all before it are delivered as they are on record."""
    complete: int = 0
    """All hours that are, also behind a gap."""
    waiting: tuple[Hour, ...] = ()
    """Deduplicated, but never delivered."""
    again: tuple[Hour, ...] = ()
    """Delivered, but otherwise than they would be today."""
    missing: tuple[Hour, ...] = ()
    """Ready, but nothing was done for them yet."""
    unready: tuple[Hour, ...] = ()
    """Ended, but not called complete by the source, which is waited for."""
    failed: tuple[Failure, ...] = ()
    missed: tuple[Hour, ...] = ()
    """Missed while it was switched off for longer than its ``catch_up``: they wait for a backfill by hand."""
    in_flight: tuple[Hour, ...] | None = None
    """Of runs that are not done; None: not known."""
    next: Next | None = None
    """None where the project has ended."""
    off_since: Hour | None = None
    problem: str = ""
    """What is wrong with its bucket, or with the project's landing, as alerts know it."""
    problem_is_of: str = ""
    """``bucket`` or ``source``."""
    problem_since: datetime | None = None
    earlier_settings: tuple[Hour, ...] | None = None
    """Delivered under other settings than those of today; None: not looked at."""

    @property
    def is_complete(self) -> bool:
        """Whether all hours that are ready are delivered; one that is switched off has nothing to deliver."""
        return not self.delivery.enabled or not any((self.waiting, self.again, self.missing, self.failed, self.missed))

    @property
    def failed_hours(self) -> int:
        """How many hours failed."""
        return sum(len(one.hours) for one in self.failed)

    @property
    def commands(self) -> list[str]:
        """What delivers the hours that nothing delivers by itself, ready to be run."""
        by_hand: set[Hour] = {*self.missed, *(self.earlier_settings or ())}
        if not self.project.automatic and self.delivery.enabled:
            by_hand.update(self.waiting, self.again, self.missing)
        return [command(self.project, first, last) for first, last in ranges(by_hand)]


def command(project: Project, first: Hour, last: Hour) -> str:
    """Return the command that delivers a range of hours by hand."""
    return f"amp-pipeline deliver --project {project.slug} --from {first} --to {last}"


@dataclass(frozen=True)
class ProjectStatus:
    """How a project stands."""

    organization: Organization
    project: Project
    deliveries: tuple[DeliveryStatus, ...]
    volumes: Mapping[Hour, Volume]
    """Of the deduplicated hours whose volume is known."""
    unknown_volumes: int
    """Deduplicated hours whose volume is not known: they are too many to be read."""
    made_again: int
    """Hours that were asked for again after they had been delivered, for late data or other reasons."""

    def months(self, now: datetime) -> list[Month]:
        """Return events and bytes by month, with what is expected of this month and the next."""
        return by_month(self.volumes, Hour.of(now), self.project.first_hour, self.project.last_hour)


def gather(
    run: OrganizationRun,
    now: datetime,
    *,
    slugs: Collection[str] | None = None,
    only: str | None = None,
    in_flight: InFlight | None = None,
    settings: bool = False,
    sizes: bool = True,
    most_read: int = MOST_READ,
) -> list[ProjectStatus]:
    """Return how the projects of an organization stand ``now``.

    Args:
        run: Of the organization; its landings need not be there.
        now: The time, aware.
        slugs: Of the projects that are looked at; all if not given.
        only: Name of the delivery that is looked at; all if not given.
        in_flight: Hours of runs that are not done; None: not known.
        settings: Find the hours that were delivered under earlier settings, for which the state of each is read.
        sizes: Find the volumes of hours.
        most_read: Hours that the sensor has not settled and whose records are read, the newest first.

    Raises:
        AmpError: The workspace can't be read.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        many = Many(pool)
        return [
            _project(
                Evidence(run, one, now, many, most_read),
                [delivery for delivery in one.project.deliveries if only in (None, delivery.name)],
                now,
                in_flight,
                settings=settings,
                sizes=sizes,
            )
            for slug, one in run.projects.items()
            if slugs is None or slug in slugs
        ]


def _project(
    evidence: Evidence,
    deliveries: list[Delivery],
    now: datetime,
    in_flight: InFlight | None,
    *,
    settings: bool,
    sizes: bool,
) -> ProjectStatus:
    statuses = tuple(_delivery(evidence, one, now, in_flight, settings=settings) for one in deliveries)
    volumes, unknown = evidence.volumes() if sizes else ({}, 0)
    made_again = sum(entry.why not in ("", FIRST) for entry in evidence.entries.values())
    return ProjectStatus(evidence.run.organization, evidence.project, statuses, volumes, unknown, made_again)


def _delivery(
    evidence: Evidence, delivery: Delivery, now: datetime, in_flight: InFlight | None, *, settings: bool
) -> DeliveryStatus:
    project, subject = evidence.project, Subject(evidence.run.organization, evidence.project, delivery)
    first = max(project.first_hour, delivery.first_hour or project.first_hour)
    end = Hour.of(now) + -1
    ended = set(between(first, min(end, project.last_hour or end)))
    delivered = evidence.delivered(delivery) & ended
    schedule = evidence.schedules.get(delivery.name, Schedule())
    about = _About(subject, project, delivery, first)
    if not delivery.enabled:
        off = Hour.parse(schedule.off_since) if schedule.off_since else None
        return DeliveryStatus(*about, _before_gap(first, delivered), len(delivered), off_since=off)
    again = evidence.again(delivery) & ended
    failed = {hour: why for hour, why in evidence.failed(delivery, again).items() if hour in ended}
    complete = delivered - again - failed.keys()
    missed = _missed(schedule, ended - delivered) - failed.keys()
    waiting = (evidence.deduped & ended) - delivered - missed - failed.keys()
    nothing = ended - delivered - evidence.deduped - missed - failed.keys()
    unready = {hour for hour in _newest_first(nothing, project, now) if not evidence.is_ready(hour)}
    where, problem, since = evidence.problem(delivery)
    earlier = evidence.earlier_settings(delivery) & ended if settings else None
    return DeliveryStatus(
        *about,
        last_complete=_before_gap(first, complete),
        complete=len(complete),
        waiting=tuple(sorted(waiting)),
        again=tuple(sorted(again - failed.keys())),
        missing=tuple(sorted(nothing - unready)),
        unready=tuple(sorted(unready)),
        failed=_by_reason(failed),
        missed=tuple(sorted(missed)),
        in_flight=None if in_flight is None else _of_delivery(in_flight, subject, first),
        next=_next(project, min(unready, default=max(end + 1, first))),
        problem=problem,
        problem_is_of=where,
        problem_since=since,
        earlier_settings=None if earlier is None else tuple(sorted(earlier)),
    )


class _About(NamedTuple):
    subject: Subject
    project: Project
    delivery: Delivery
    first_hour: Hour


def _before_gap(first: Hour, hours: Collection[Hour]) -> Hour | None:
    """Return the last of the hours from ``first`` on that are all there."""
    hour = first
    while hour in hours:
        hour += 1
    return hour + -1 if hour > first else None


def _missed(schedule: Schedule, hours: set[Hour]) -> set[Hour]:
    spans = [between(Hour.parse(first), Hour.parse(last)) for first, last in schedule.missed]
    return {hour for span in spans for hour in span if hour in hours}


def _newest_first(hours: set[Hour], project: Project, now: datetime) -> list[Hour]:
    """Return those of ``hours`` that the source may be waited for: the landing is asked for no other."""
    oldest = Hour.of(now - project.source.patience) + -1
    return sorted((hour for hour in hours if hour >= oldest), reverse=True)


def _by_reason(failed: Mapping[Hour, Trouble]) -> tuple[Failure, ...]:
    by_reason: dict[tuple[str, bool], list[Hour]] = {}
    for hour in sorted(failed):
        by_reason.setdefault((failed[hour].what, failed[hour].given_up), []).append(hour)
    return tuple(
        Failure(tuple(hours), what, min(failed[hour].since for hour in hours), given_up)
        for (what, given_up), hours in by_reason.items()
    )


def _of_delivery(in_flight: InFlight, subject: Subject, first: Hour) -> tuple[Hour, ...]:
    slug = subject.project.slug if subject.project else ""
    # The last is the name of the project's job, run as a whole.
    assets = [f"{slug}/raw_events", f"{slug}/deduped_events", subject.asset, f"{slug}_hours"]
    if subject.delivery is not None and "merged_ids" in subject.delivery.what:
        assets.append(f"{subject.organization.slug}/merged_ids")
    return tuple(sorted({hour for asset in assets for hour in in_flight.get(asset, ()) if hour >= first}))


def _next(project: Project, hour: Hour) -> Next | None:
    if not project.holds(hour):
        return None
    ends = (hour + 1).start
    source = project.source
    # What is pulled says itself that it is complete, once it was pulled.
    marked = isinstance(source, Landing) and source.complete is not None
    return Next(hour, ends, marked, source.ready_at(hour))
