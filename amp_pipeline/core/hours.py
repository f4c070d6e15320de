"""One UTC hour of ``server_upload_time``: the partition of everything.

``Hour`` crosses function boundaries instead of ``datetime``; keys are parsed once, where they come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

MICROSECONDS = 3_600_000_000
"""Length of an hour in µs, the unit of every time in the pipeline."""

_REMEMBERED = 4096  # each hour of a window is asked for by its key for each hour of a run
_KEY_FORMAT = "%Y-%m-%d-%H:%M"


@dataclass(frozen=True, order=True, slots=True)
class Hour:
    """The hour that begins ``number`` hours after 1970-01-01T00:00 UTC."""

    number: int

    @classmethod
    def parse(cls, key: str) -> Hour:
        """Return the hour of a Dagster partition key such as ``2026-11-20-17:00``.

        Raises:
            ValueError: ``key`` is not the key of a whole hour.

        Example:
            >>> Hour.parse("2026-11-20-17:00").key
            '2026-11-20-17:00'
        """
        return _parsed(key)

    @classmethod
    def of(cls, at: datetime) -> Hour:
        """Return the hour that holds ``at``; a datetime without zone is UTC."""
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        return cls((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(hours=1))

    @property
    def start(self) -> datetime:
        """First instant, aware, UTC."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=self.number)

    @property
    def start_us(self) -> int:
        """First instant in µs since 1970."""
        return self.number * MICROSECONDS

    @property
    def key(self) -> str:
        """The Dagster partition key, ``2026-11-20-17:00``."""
        return _key(self.number)

    @property
    def date(self) -> date:
        """The UTC day."""
        return self.start.date()

    @property
    def day(self) -> str:
        """The UTC day as ``2026-11-20``."""
        return self.date.isoformat()

    @property
    def of_day(self) -> int:
        """0 to 23."""
        return self.start.hour

    def __add__(self, hours: int) -> Hour:
        """Return the hour ``hours`` later."""
        return Hour(self.number + hours)

    def __str__(self) -> str:
        """The key."""
        return self.key


@lru_cache(maxsize=_REMEMBERED)
def _key(number: int) -> str:
    return Hour(number).start.strftime(_KEY_FORMAT).rjust(16, "0")


@lru_cache(maxsize=_REMEMBERED)
def _parsed(key: str) -> Hour:
    start = datetime.strptime(key, _KEY_FORMAT).replace(tzinfo=UTC)
    if start.minute or start.strftime(_KEY_FORMAT).rjust(16, "0") != key:
        raise ValueError(f"{key!r} is not the start of an hour")
    return Hour.of(start)


def between(first: Hour, last: Hour) -> Iterator[Hour]:
    """Yield the hours from ``first`` to ``last``, both included."""
    return (Hour(number) for number in range(first.number, last.number + 1))


def window(hour: Hour, length: timedelta) -> tuple[Hour, Hour]:
    """Return the first and last hour *before* ``hour`` that can hold an event at most ``length`` before one in it.

    Example:
        >>> first, last = window(Hour(1000), timedelta(days=7))
        >>> first.number, last.number
        (832, 999)
    """
    first_us = hour.start_us - length // timedelta(microseconds=1)
    return Hour(first_us // MICROSECONDS), hour + -1


def ranges(hours: Iterable[Hour]) -> list[tuple[Hour, Hour]]:
    """Return ``hours`` as the first and last of consecutive ones, oldest first.

    Example:
        >>> [(first.number, last.number) for first, last in ranges([Hour(7), Hour(2), Hour(1)])]
        [(1, 2), (7, 7)]
    """
    found: list[tuple[Hour, Hour]] = []
    for hour in sorted(hours):
        if found and hour.number <= found[-1][1].number + 1:
            found[-1] = found[-1][0], hour
        else:
            found.append((hour, hour))
    return found
