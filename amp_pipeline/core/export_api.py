"""Amplitude's Export API: how hours are asked for, and what the members of an answer are called.

Source: amplitude-docs ``api/en/export.md``; what answers look like is from readers of real ones, since the docs don't
say: a zip of gzip files, ``{project}/{project}_{yyyy-MM-dd}_{H}#{n}.json.gz``, H unpadded, n from 0 or 1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from amp_pipeline.core.hours import Hour

EXPORT = "/api/2/export"

BY_HOUR = Hour.parse("2014-11-12-00:00")
"""Events from before are grouped by day, so their days are asked for as a whole."""

NO_EVENTS = Hour.parse("2012-01-01-00:00")
"""Amplitude has no events of this hour: who asks for it learns whether the keys are right, and waits for nothing."""

NOT_YET = "amp-pipeline-not-yet"
"""Header of ``amp-pipeline serve export``: the first hour of the range that is not delivered so far."""

_MEMBER = re.compile(
    r"(?:.*/)?([0-9]{1,18})_([0-9]{4}-[0-9]{2}-[0-9]{2})(?:_([0-9]{1,2}))?(?:#(-?[0-9]{1,18}))?\.json((?:\.gz|\.zst)?)"
)


def stamp(hour: Hour) -> str:
    """Return an hour as the API writes it.

    Example:
        >>> stamp(Hour.parse("2026-11-20-05:00"))
        '20261120T05'
    """
    return f"{hour.date:%Y%m%d}T{hour.of_day:02d}"


def parse_stamp(text: str) -> Hour:
    """Return the hour that :func:`stamp` writes.

    Raises:
        ValueError: It is none.

    Example:
        >>> parse_stamp("20261120T05").key
        '2026-11-20-05:00'
    """
    return Hour.of(datetime.strptime(text, "%Y%m%dT%H").replace(tzinfo=UTC))


class Member(NamedTuple):
    """What the name of a member tells."""

    project: int
    hour: Hour
    number: int
    ending: str
    """``.gz``, ``.zst`` or nothing."""


def member(name: str) -> Member | None:
    """Return what the name of a file in an answer tells, None where it is no name of events.

    Example:
        >>> member("374182/374182_2024-03-02_0#1.json.gz")
        Member(project=374182, hour=Hour(number=474816), number=1, ending='.gz')
    """
    match = _MEMBER.fullmatch(name)
    if match is None:
        return None
    try:
        day = date.fromisoformat(match[2])
    except ValueError:
        return None
    of_day = int(match[3] or 0)
    if of_day > 23:
        return None
    midnight = Hour.parse(f"{day.isoformat()}-00:00")
    return Member(int(match[1]), midnight + of_day, int(match[4] or 0), match[5])


def together(hour: Hour, wanted: Collection[Hour], most: int) -> Sequence[Hour]:
    """Return the hours to ask for at once: ``hour`` and those after it that are wanted without a gap, at most ``most``.

    Of the time before :data:`BY_HOUR` these are whole days.

    Example:
        >>> hours = {Hour(474840 + number) for number in (0, 1, 2, 4)}
        >>> [one.of_day for one in together(Hour(474840), hours, 24)]
        [0, 1, 2]
    """
    if hour < BY_HOUR:
        midnight = hour + -hour.of_day
        return [midnight + number for number in range(24)]
    found = [hour]
    while len(found) < most and found[-1] + 1 in wanted:
        found.append(found[-1] + 1)
    return found


def halves(hours: Sequence[Hour]) -> list[Sequence[Hour]]:
    """Return two ranges to ask for in place of one that is too large; none where it can't be cut.

    Example:
        >>> [[one.number for one in half] for half in halves([Hour(400000 + n) for n in range(3)])]
        [[400000, 400001], [400002]]
    """
    if len(hours) < 2 or hours[0] < BY_HOUR:
        return []
    middle = (len(hours) + 1) // 2
    return [hours[:middle], hours[middle:]]
