"""How many events and bytes a project has by month, and how many it will have if things go on as in the last weeks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from amp_pipeline.core.hours import Hour, between

WEEKS = 4
"""Of settled hours before now, which an expectation is made from."""

_WEEK = 7 * 24


class Volume(NamedTuple):
    """What deduplicated hours hold."""

    events: int = 0
    bytes: int = 0
    """Packed, as delivered without a filter."""
    unpacked_bytes: int = 0

    @property
    def event_bytes(self) -> float:
        """Average size of an event, unpacked; 0 where there are none."""
        return self.unpacked_bytes / self.events if self.events else 0.0

    @property
    def packed_event_bytes(self) -> float:
        """The same, packed."""
        return self.bytes / self.events if self.events else 0.0


def total(volumes: Iterable[Volume]) -> Volume:
    """Return the sum of ``volumes``."""
    events = packed = unpacked = 0
    for one in volumes:
        events += one[0]
        packed += one[1]
        unpacked += one[2]
    return Volume(events, packed, unpacked)


@dataclass(frozen=True)
class Month:
    """One month of a project, UTC."""

    name: str
    """Like ``2026-11``."""
    hours: int
    """Of the project."""
    known: int
    """Those of them whose volume is known."""
    volume: Volume
    """Of these."""
    expected: Volume | None
    """Of the whole month, of this month and the next alone; None where no hour of the last weeks is known."""


def by_month(volumes: Mapping[Hour, Volume], now: Hour, first: Hour, last: Hour | None) -> list[Month]:
    """Return the months of a project from the first one with a known hour to the one after ``now``.

    What is expected of a month is what its known hours hold and, for each other hour of it, the mean of the hours of
    the last :data:`WEEKS` weeks that are the same hour of the week; where none of these is known, the mean of all hours
    of these weeks. It knows of no holidays and no growth.

    Args:
        volumes: Of the hours that are known.
        now: The hour that goes on.
        first: First hour of the project.
        last: Last hour of the project, where it has ended.
    """
    by_name: dict[str, list[Hour]] = {}
    for hour in volumes:
        by_name.setdefault(hour.day[:7], []).append(hour)
    expect = _Expectation(volumes, now)
    this, following = _month_start(now, 0), _month_start(now, 1)
    starts = {f"{start.start:%Y-%m}": start for start in map(_start_of, by_name)}
    starts |= {f"{start.start:%Y-%m}": start for start in (this, following)}
    found: list[Month] = []
    for name, start in sorted(starts.items()):
        end = _month_start(start, 1) + -1
        mine = Hour(max(start.number, first.number)), min(end, last or end)
        hours = [hour for hour in by_name.get(name, []) if mine[0] <= hour <= mine[1]]
        known = total(volumes[hour] for hour in hours)
        whole = None
        if start in (this, following) and mine[0] <= mine[1]:
            whole = expect.of(known, set(hours), mine)
        count = max(0, mine[1].number - mine[0].number + 1)
        if count:
            found.append(Month(name, count, len(hours), known, whole))
    return found


class _Expectation:
    """What an hour holds by the hours of the last weeks."""

    def __init__(self, volumes: Mapping[Hour, Volume], now: Hour) -> None:
        recent = [(hour, volumes[hour]) for hour in between(now + -WEEKS * _WEEK, now + -1) if hour in volumes]
        self._all = [volume for _, volume in recent]
        self._by_hour_of_week: dict[int, list[Volume]] = {}
        for hour, volume in recent:
            self._by_hour_of_week.setdefault(hour.number % _WEEK, []).append(volume)

    def of(self, known: Volume, hours: set[Hour], extent: tuple[Hour, Hour]) -> Volume | None:
        if not self._all:
            return None
        sums = [float(value) for value in known]
        for hour in between(*extent):
            if hour not in hours:
                like = self._by_hour_of_week.get(hour.number % _WEEK, self._all)
                for place, value in enumerate(total(like)):
                    sums[place] += value / len(like)
        return Volume(*(round(value) for value in sums))


def _start_of(name: str) -> Hour:
    return Hour.parse(f"{name}-01-00:00")


def _month_start(hour: Hour, later: int) -> Hour:
    """Return the first hour of the month of ``hour``, or of the month after it."""
    year, month = hour.start.year, hour.start.month - 1 + later
    return Hour.of(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))
