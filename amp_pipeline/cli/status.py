"""``amp-pipeline status``: how each delivery stands, for people and as JSON."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from amp_pipeline import clock
from amp_pipeline.cli.asking import chosen, has_dagster_home, need_dagster_home, says_what_is_wrong
from amp_pipeline.core.hours import Hour, ranges
from amp_pipeline.core.volume import Month, Volume, total
from amp_pipeline.evidence import MOST_READ
from amp_pipeline.run import OrganizationRun
from amp_pipeline.status import DeliveryStatus, InFlight, ProjectStatus, gather

_MOST_RANGES = 6
_TIME = "%Y-%m-%d %H:%M"
_HEAD = (
    "delivery",
    "complete up to",
    "delivered",
    "waiting",
    "again",
    "failed",
    "missing",
    "in flight",
    "next hour",
    "due (UTC)",
)
_RULE = (
    "expected: what is known, and for each other hour the mean of the same hour of the week in the last four weeks; "
    "growth and holidays are not known to it"
)


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option("--months", is_flag=True, help="Show events and bytes by month, and what to expect of this and the next.")
@click.option("--settings", is_flag=True, help="Find hours delivered under earlier settings; reads a record an hour.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all ranges of hours.")
@says_what_is_wrong
def status(slug: str | None, months: bool, settings: bool, as_json: bool) -> None:
    """Show which hours are delivered, and which are not and why. Exit status 1 unless all that are ready are.

    Neither the buckets nor the records of all hours are read. With DAGSTER_HOME set, runs that are not done are shown.
    """
    now = clock.now()
    found = gathered(slug, now, settings=settings, sizes=months)
    deliveries = [delivery for project in found for delivery in project.deliveries]
    if as_json:
        click.echo(json.dumps(_as_json(found, now, months=months), indent=2))
    else:
        for line in _told(found, deliveries, now, months=months):
            click.echo(line)
    sys.exit(0 if all(one.is_complete for one in deliveries) else 1)


def gathered(slug: str | None, now: datetime, *, settings: bool = False, sizes: bool = True) -> list[ProjectStatus]:
    """Return how the project ``slug`` stands, or all do.

    Raises:
        AmpError: There is no such project, or a workspace can't be read.
    """
    projects = chosen(slug)
    organizations = {organization.id: organization for organization, _ in projects}.values()
    slugs, in_flight = {project.slug for _, project in projects}, runs_in_flight(now)
    found: list[ProjectStatus] = []
    for one in organizations:
        found += gather(OrganizationRun(one), now, slugs=slugs, in_flight=in_flight, settings=settings, sizes=sizes)
    return found


def runs_in_flight(now: datetime) -> InFlight | None:
    """Return the hours of runs that are not done, as the Dagster instance knows them; None where there is none.

    Raises:
        ConfigError: DAGSTER_HOME names no folder.
    """
    if not has_dagster_home():
        return None
    need_dagster_home()
    # Dagster takes 2 s to import.
    import dagster as dg

    from amp_pipeline.defs.status import in_flight

    with dg.DagsterInstance.get() as instance:
        return in_flight(instance, now)


def _told(
    found: list[ProjectStatus], deliveries: list[DeliveryStatus], now: datetime, *, months: bool
) -> Iterator[str]:
    yield f"{now:{_TIME}} UTC"
    yield ""
    yield from _aligned([_HEAD, *map(_row, deliveries)], left={0, 1, 8, 9})
    for one in deliveries:
        details = list(_details(one))
        if details:
            yield ""
            yield one.subject.name
            yield from (f"  {what:9}  {text}" for what, text in details)
    if any(one.in_flight is None and one.delivery.enabled for one in deliveries):
        yield ""
        yield "in flight is not known: set DAGSTER_HOME to the folder of your Dagster instance"
    if months:
        for project in found:
            yield ""
            yield from _months(project, now)
    yield ""
    open_deliveries = [one.subject.name for one in deliveries if not one.is_complete]
    yield f"not complete: {', '.join(open_deliveries)}" if open_deliveries else "every ready hour is delivered"


def _row(one: DeliveryStatus) -> tuple[str, ...]:
    last = str(one.last_complete) if one.last_complete else "nothing yet"
    if not one.delivery.enabled:
        return (one.subject.name, last, f"{one.complete:,}", *["-"] * 5, "none", "switched off")
    counts = (one.complete, len(one.waiting), len(one.again), one.failed_hours, len(one.missing))
    in_flight = "?" if one.in_flight is None else f"{len(one.in_flight):,}"
    return (one.subject.name, last, *(f"{count:,}" for count in counts), in_flight, *_next(one))


def _next(one: DeliveryStatus) -> tuple[str, str]:
    if one.next is None:
        return "none", "the project has ended"
    if not one.project.automatic:
        return str(one.next.hour), "by hand"
    by = f"{one.next.due:{_TIME}}"
    return str(one.next.hour), f"{one.next.ends:{_TIME}} if marked, else {by}" if one.next.marked else by


def _details(one: DeliveryStatus) -> Iterator[tuple[str, str]]:
    for what, hours, why in (
        ("waiting", one.waiting, "deduplicated, not delivered"),
        ("again", one.again, "delivered, but something has changed since"),
        ("missing", one.missing, "nothing was done yet"),
        ("not ready", one.unready, "the source has not called them complete"),
        ("missed", one.missed, "switched off at that time; deliver them by hand"),
        (
            "settings",
            one.earlier_settings or (),
            "delivered under earlier settings; they stay so until delivered again",
        ),
    ):
        if hours:
            yield what, f"{_listed(hours)}: {why}"
    for failure in one.failed:
        given_up = ", given up" if failure.given_up else ""
        yield "failed", f"{_listed(failure.hours)}, since {failure.since:{_TIME}} UTC{given_up}: {failure.what}"
    if one.in_flight:
        yield "in flight", _listed(one.in_flight)
    if one.problem:
        yield one.problem_is_of, f"since {one.problem_since:{_TIME}} UTC: {one.problem}"
    if one.off_since:
        yield "off", f"since {one.off_since}"
    for command in one.commands[:_MOST_RANGES]:
        yield "to do", command
    if len(one.commands) > _MOST_RANGES:
        yield "to do", f"and {len(one.commands) - _MOST_RANGES} more; --json names all"


def _listed(hours: Iterable[Hour]) -> str:
    """Return hours as their count and, the latest first, their ranges."""
    found = ranges(hours)
    count = sum(last.number - first.number + 1 for first, last in found)
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in reversed(found)][:_MOST_RANGES]
    more = [f"and {len(found) - _MOST_RANGES:,} more ranges"] if len(found) > _MOST_RANGES else []
    return f"{count:,} {'hour' if count == 1 else 'hours'}, {', '.join([*shown, *more])}"


def _months(project: ProjectStatus, now: datetime) -> Iterator[str]:
    whole = total(project.volumes.values())
    if not whole.events:
        yield f"{project.project.slug}: no events yet"
        return
    average = f"{whole.event_bytes:,.0f} bytes on average, {whole.packed_event_bytes:,.0f} packed"
    yield f"{project.project.slug}: an event has {average}"
    head = ("month", "hours known", "events", "packed", "unpacked", "expected events", "packed", "unpacked")
    months = project.months(now)
    rows = [
        (one.name, f"{one.known:,} of {one.hours:,}", *_volume(one.volume), *_volume(one.expected)) for one in months
    ]
    yield from _aligned([head, *rows], left={0})
    if any(one.expected for one in months):
        yield _RULE
    if project.unknown_volumes:
        yield (
            f"{project.unknown_volumes:,} older hours are left out: the hour sensor has not looked at them, and only "
            f"{MOST_READ:,} are read for this"
        )


def _volume(volume: Volume | None) -> tuple[str, str, str]:
    if volume is None:
        return "", "", ""
    return f"{volume.events:,}", _size(volume.bytes), _size(volume.unpacked_bytes)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _aligned(rows: list[tuple[str, ...]], left: set[int]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.ljust(width) if place in left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _as_json(found: list[ProjectStatus], now: datetime, *, months: bool) -> dict[str, Any]:
    deliveries = [_delivery_json(one) for project in found for one in project.deliveries]
    answer: dict[str, Any] = {"at": now.isoformat(timespec="seconds"), "deliveries": deliveries}
    if months:
        answer["projects"] = [
            {
                "organization": project.organization.slug,
                "project": project.project.slug,
                "unknown_hours": project.unknown_volumes,
                "months": [_month_json(month) for month in project.months(now)],
            }
            for project in found
        ]
    return answer


def _month_json(month: Month) -> dict[str, Any]:
    return {
        "month": month.name,
        "hours": month.hours,
        "known": month.known,
        **month.volume._asdict(),
        "expected": month.expected._asdict() if month.expected else None,
    }


def _delivery_json(one: DeliveryStatus) -> dict[str, Any]:
    sets: Mapping[str, tuple[Hour, ...] | None] = {
        "waiting": one.waiting,
        "again": one.again,
        "missing": one.missing,
        "not_ready": one.unready,
        "missed": one.missed,
        "in_flight": one.in_flight,
        "earlier_settings": one.earlier_settings,
    }
    due = one.next
    return {
        "organization": one.subject.organization.slug,
        "project": one.project.slug,
        "delivery": one.delivery.name,
        "enabled": one.delivery.enabled,
        "off_since": _key(one.off_since),
        "is_complete": one.is_complete,
        "first_hour": _key(one.first_hour),
        "last_complete_hour": _key(one.last_complete),
        "delivered": one.complete,
        **{name: None if hours is None else _hours_json(hours) for name, hours in sets.items()},
        "failed": [
            {
                **_hours_json(failure.hours),
                "what": failure.what,
                "since": failure.since.isoformat(timespec="seconds"),
                "given_up": failure.given_up,
            }
            for failure in one.failed
        ],
        "next": due
        and {
            "hour": due.hour.key,
            "ends": due.ends.isoformat(),
            "marked": due.marked,
            "due": due.due.isoformat(),
        },
        "bucket_problem": one.problem or None,
        "bucket_problem_since": one.problem_since and one.problem_since.isoformat(timespec="seconds"),
        "commands": one.commands,
    }


def _key(hour: Hour | None) -> str | None:
    return hour.key if hour else None


def _hours_json(hours: tuple[Hour, ...]) -> dict[str, Any]:
    return {"hours": len(hours), "ranges": [[first.key, last.key] for first, last in ranges(hours)]}
