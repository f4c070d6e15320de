"""How deliveries stand, in Dagster: a check of each, and which hours are in flight."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from amp_pipeline import clock
from amp_pipeline.alerting import Subject, deliveries
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour, ranges
from amp_pipeline.core.volume import Month, total
from amp_pipeline.defs.checks import apart
from amp_pipeline.defs.hours import hours_of_tags
from amp_pipeline.run import OrganizationRun
from amp_pipeline.status import DeliveryStatus, InFlight, ProjectStatus, gather

CHECK = "every_hour_up_to_now"

_NOT_DONE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FORGOTTEN_AFTER = timedelta(hours=12)
"""Dagster never ends the run of a command that was killed."""

_MOST_READ = 168
"""Dagster's dialog runs the check with each range of hours that is materialized: it must cost little."""

_MOST_RUNS = 1000
_MOST_RANGES = 20
_MOST_MONTHS = 14


def in_flight(instance: dg.DagsterInstance, now: datetime) -> InFlight:
    """Return the hours of runs that are not done, by the path of the asset that they make.

    Those of a job that is run as a whole are by its name.
    """
    found: dict[str, set[Hour]] = {}
    for record in instance.get_run_records(dg.RunsFilter(statuses=_NOT_DONE), limit=_MOST_RUNS):
        run = record.dagster_run
        if now - record.update_timestamp > _FORGOTTEN_AFTER:
            continue
        names = [run.job_name] if run.asset_selection is None else ["/".join(key.path) for key in run.asset_selection]
        for name in names:
            found.setdefault(name, set()).update(_hours_of(run))
    return found


def _hours_of(run: dg.DagsterRun) -> list[Hour]:
    # Of another code location partitions need not be hours.
    with suppress(ValueError):
        return hours_of_tags(run.tags)
    return []


def status_checks(organization: Organization, *, now: clock.Now = clock.now) -> list[dg.AssetChecksDefinition]:
    """Return the check of each delivery's hours, which a click in Dagster runs at once."""
    return [_status_check(organization, subject, now) for subject in deliveries(organization)]


def _status_check(
    organization: Organization, subject: Subject, now: Callable[[], datetime]
) -> dg.AssetChecksDefinition:
    def every_hour_up_to_now(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        at = now()
        slugs, only = [subject.project.slug] if subject.project else [], subject.delivery and subject.delivery.name
        running = in_flight(context.instance, at)
        (project,) = gather(
            OrganizationRun(organization), at, slugs=slugs, only=only, in_flight=running, most_read=_MOST_READ
        )
        (one,) = project.deliveries
        return dg.AssetCheckResult(passed=one.is_complete, description=_said(one), metadata=_metadata(project, one, at))

    return apart(
        dg.AssetKey(subject.asset.split("/")),
        CHECK,
        "Every hour that has ended and is ready is delivered, as it is on record. Those that are not are "
        "named, with what to do; and events and bytes by month.",
        every_hour_up_to_now,
    )


def _said(one: DeliveryStatus) -> str:
    counts = {name: len(hours) for name, hours in _open_hours(one).items() if hours}
    if not counts:
        return "every ready hour is delivered"
    last = f"complete up to {one.last_complete}" if one.last_complete else "nothing is complete yet"
    return f"{last}; {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _open_hours(one: DeliveryStatus) -> dict[str, list[Hour]]:
    return {
        "missing": list(one.missing),
        "waiting": list(one.waiting),
        "again": list(one.again),
        "failed": [hour for failure in one.failed for hour in failure.hours],
        "missed": list(one.missed),
    }


def _metadata(project: ProjectStatus, one: DeliveryStatus, now: datetime) -> dict[str, Any]:
    hours = _open_hours(one)
    whole = total(project.volumes.values())
    told: dict[str, Any] = {
        "last_complete_hour": str(one.last_complete) if one.last_complete else "none",
        "delivered_hours": one.complete,
        **{f"{name}_hours": len(found) for name, found in hours.items()},
        "in_flight_hours": len(one.in_flight or ()),
        "average_event_bytes": round(whole.event_bytes, 1),
        "average_packed_event_bytes": round(whole.packed_event_bytes, 1),
    }
    if one.next is not None:
        told |= {"next_hour": str(one.next.hour), "next_hour_due_at_latest": f"{one.next.due:%Y-%m-%d %H:%M} UTC"}
    if one.problem:
        told["bucket"] = one.problem
    rows = [(name, first, last) for name, found in hours.items() for first, last in reversed(ranges(found))]
    if rows:
        told["hours_not_delivered"] = _table(
            [{"what": name, "first": first.key, "last": last.key} for name, first, last in rows[:_MOST_RANGES]]
        )
    if one.commands:
        told["to_do"] = dg.MetadataValue.md("\n".join(f"    {command}" for command in one.commands[:_MOST_RANGES]))
    if months := [_month(month) for month in reversed(project.months(now))][:_MOST_MONTHS]:
        told["months_of_the_project"] = _table(months)
    return told


def _month(month: Month) -> dict[str, str | int]:
    expected = month.expected
    # As text: a column of Dagster's tables has one type, and most months have none.
    return {
        "month": month.name,
        "hours_known": f"{month.known} of {month.hours}",
        "events": month.volume.events,
        "bytes": month.volume.bytes,
        "unpacked_bytes": month.volume.unpacked_bytes,
        "expected_events": str(expected.events) if expected else "",
        "expected_bytes": str(expected.bytes) if expected else "",
    }


def _table(rows: Sequence[Mapping[str, str | int]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
