"""When an hour is asked for, and asked for again: waits between attempts, when to give up, which hours go together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from amp_pipeline.core.hours import Hour

MOST_ATTEMPTS = 8
"""To make the events of an hour as it landed: after two hours it is up to what lands, or to somebody, to change it."""

GIVEN_UP_FOR = timedelta(days=1)
"""Then it is tried once more: a landing that could be listed but not read is mended without a change of what landed."""

_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)


def wait_after(attempt: int) -> timedelta:
    """Return how long to wait after an attempt that failed, counted from when it was asked for.

    Example:
        >>> [wait_after(attempt) // timedelta(minutes=1) for attempt in range(1, 9)]
        [1, 2, 4, 8, 16, 32, 60, 60]
    """
    return min(_FIRST_WAIT * 2 ** min(attempt - 1, 10), _LONGEST_WAIT)


def is_ready(hour: Hour, *, complete: bool, ready_at: datetime, now: datetime) -> bool:
    """Tell whether an hour is to be delivered.

    Args:
        hour: The hour.
        complete: Whether the source says that it is complete.
        ready_at: When the hour is no longer waited for where the source says nothing of it.
        now: The time.
    """
    return now >= ((hour + 1).start if complete else ready_at)


@dataclass(frozen=True)
class Candidate:
    """An hour that is to be asked for."""

    hour: Hour
    why: str
    what: tuple[str, ...]
    """Which of its assets: raw_events, deduped_events, merged_ids, names of deliveries."""
    live: bool = False
    """Whether it ended a short time ago: such hours go first."""
    alone: bool = False
    """Whether it has failed, so that others would fail with it."""
    forced: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """What all hours of one run have in common."""
        return self.what, self.live, self.forced, self.alone and self.hour.number, self.is_late

    @property
    def is_late(self) -> bool:
        """Whether it was delivered before."""
        return self.why != FIRST

    @property
    def rank(self) -> int:
        """Live hours first, then those that late data changes, then the rest."""
        return 0 if self.live else 1 if self.is_late else 2


FIRST = "first"
"""Why an hour is asked for that was never delivered."""


def together(candidates: Iterable[Candidate], most: int) -> list[Sequence[Candidate]]:
    """Return groups of consecutive hours that are asked for in one run, at most ``most`` in each, by rank and age."""
    groups: list[Sequence[Candidate]] = []
    ordered = sorted(candidates, key=lambda one: one.hour)
    for _, run in groupby(enumerate(ordered), key=lambda item: (item[1].hour.number - item[0], item[1].kind)):
        hours = [one for _, one in run]
        groups += [hours[start : start + most] for start in range(0, len(hours), most)]
    return sorted(groups, key=lambda group: (group[0].rank, group[0].hour))
