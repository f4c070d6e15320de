"""What a tick of the hour sensor is given by the one before it, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import msgspec

from amp_pipeline.core.hours import Hour


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """What a tick leaves to the next one."""

    format: int = 1
    sweep: str = ""
    """The day that the sweep goes on with."""
    pending: tuple[str, ...] = ()
    """Days with something left to do."""

    @classmethod
    def decode(cls, text: str | None) -> Cursor:
        """Return the cursor that was written as ``text``; a new one where that can't be read."""
        try:
            found = msgspec.json.decode(text, type=cls) if text else cls()
            for day in (*filter(None, [found.sweep]), *found.pending):
                date.fromisoformat(day)
        except (msgspec.MsgspecError, ValueError):
            return cls()
        return found if found.format == cls().format else cls()

    def encode(self) -> str:
        """Return it as text."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Request:
    """A run that is asked for."""

    key: str
    hours: tuple[Hour, ...]
    """Consecutive."""
    what: tuple[str, ...]
    why: str
    live: bool
    late: bool
    forced: bool


@dataclass
class Tick:
    """What came of a tick."""

    cursor: Cursor
    requests: list[Request] = field(default_factory=list[Request])
    settled: int = 0
    running: int = 0
    waiting: int = 0
    """Hours whose bucket can't be reached, or that wait for their next attempt."""
    late: int = 0
    """Hours that late data changes."""
    given_up: list[Hour] = field(default_factory=list[Hour])
    trouble: str = ""
    """Why the landing could not be listed."""

    @property
    def said(self) -> str:
        """For people."""
        if self.trouble:
            return self.trouble
        asked = sum(len(request.hours) for request in self.requests)
        counts = [
            (asked, "1 hour was asked for", "{} hours were asked for"),
            (self.running, "1 hour is running", "{} hours are running"),
            (self.waiting, "1 hour waits", "{} hours wait"),
            (len(self.given_up), "1 hour was given up", "{} hours were given up"),
        ]
        said = [one if count == 1 else more.format(count) for count, one, more in counts if count]
        return "; ".join(said) or "every ready hour is delivered"
