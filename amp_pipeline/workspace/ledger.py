"""What the hour sensor remembers of a project's hours: a record for each day, and one for all deliveries.

All of it can be derived again from landing and records; it is kept so that a tick looks only at what may have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import msgspec

from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.objects import ObjectStore

_FORMAT = 1
_MOST_TRIES = 20


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of an hour."""

    settled: str = ""
    """Fingerprint of what landed, and of where it goes, when all of it was found delivered."""
    keys: str = ""
    """Digest of the hour's key index then."""
    merges: str = ""
    """Fingerprint of what landed or was made of merged ids then."""
    doubt: str = ""
    """Why it has to be looked at again though nothing landed in it; empty where it need not."""
    forced: bool = False
    """Whether it is to be made again even if nothing has changed: an audit found it wrong."""
    content: str = ""
    """Fingerprint of what it was asked for last."""
    asked: int = 0
    """How often it was asked for, ever."""
    attempt: int = 0
    """How often for this content."""
    asked_at: float = 0.0
    """When last, in seconds since 1970."""
    request: str = ""
    """The key of that request; Dagster never begins two runs with one."""
    why: str = ""
    events: int = 0
    """Deduplicated events, when it was settled."""
    bytes: int = 0
    """Of its deduplicated files."""
    unpacked_bytes: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether all of it was found delivered, and nothing has put that in doubt."""
        return bool(self.settled) and not self.doubt


class Day(msgspec.Struct, kw_only=True):
    """The hours of a day; those that nothing is remembered of are left out."""

    format: int = _FORMAT
    hours: dict[str, Entry] = msgspec.field(default_factory=dict[str, Entry])
    """By partition key."""

    def entry(self, hour: Hour) -> Entry:
        """Return what is remembered of ``hour``."""
        return self.hours.get(hour.key, Entry())


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which hours of a delivery are not delivered by themselves."""

    off_since: str = ""
    """The hour in which it was found switched off, or gone; empty where it is on."""
    missed: tuple[tuple[str, str], ...] = ()
    """First and last hours of the times that it was off too long for its ``catch_up``."""

    def leaves_out(self, hour: Hour) -> bool:
        """Tell whether ``hour`` waits for a backfill by hand."""
        return any(first <= hour.key <= last for first, last in self.missed)


class Schedules(msgspec.Struct, kw_only=True):
    """The deliveries of a project, by name."""

    format: int = _FORMAT
    deliveries: dict[str, Schedule] = msgspec.field(default_factory=dict[str, Schedule])


class Ledger:
    """A project's ledger."""

    def __init__(self, store: ObjectStore, organization: int, project: int) -> None:
        """Use the folder ``{organization}/{project}/ledger`` of ``store``."""
        self._store = store
        self._folder = f"{organization}/{project}/ledger"

    def day(self, day: date) -> tuple[Day, str | None]:
        """Return what is remembered of a day, and its version, None where there is none."""
        name = self._name(day)
        found = self._store.head(name)
        if found is None:
            return Day(), None
        try:
            known = msgspec.json.decode(self._store.get(name), type=Day)
        except (ObjectNotFoundError, msgspec.MsgspecError):
            # Whatever it said can be found out again.
            return Day(), found.version
        return (known if known.format == _FORMAT else Day()), found.version

    def save(self, day: date, known: Day, version: str | None) -> bool:
        """Write a day unless somebody else has since it was in ``version``; tell whether it was written."""
        data = msgspec.json.encode(known, order="deterministic")
        return self._store.put_if(self._name(day), data, version) is not None

    def change(self, day: date, change: Callable[[Day], bool]) -> None:
        """Change a day that others may change too; ``change`` tells whether there was anything to change.

        Raises:
            WorkspaceError: Others change it all the time.
        """
        for _ in range(_MOST_TRIES):
            known, version = self.day(day)
            if not change(known) or self.save(day, known, version):
                return
        raise WorkspaceError(f"{self._store.uri(self._name(day))} is being changed by others all the time")

    def days(self) -> list[date]:
        """Return all days that something is remembered of."""
        prefix = f"{self._folder}/days/"
        names = (info.name.removeprefix(prefix).removesuffix(".json") for info in self._store.find(prefix))
        return [date.fromisoformat(name) for name in names]

    def schedules(self) -> tuple[Schedules, str | None]:
        """Return what is remembered of the deliveries, and its version."""
        name = f"{self._folder}/deliveries.json"
        found = self._store.head(name)
        if found is None:
            return Schedules(), None
        try:
            return msgspec.json.decode(self._store.get(name), type=Schedules), found.version
        except msgspec.MsgspecError as error:
            # Unlike a day it can't be found out again.
            raise WorkspaceError(f"{self._store.uri(name)} is damaged ({error}); delete it to begin anew") from None

    def save_schedules(self, known: Schedules, version: str | None) -> bool:
        """Write what is remembered of the deliveries unless somebody else has; tell whether it was written."""
        data = msgspec.json.encode(known, order="deterministic")
        return self._store.put_if(f"{self._folder}/deliveries.json", data, version) is not None

    def _name(self, day: date) -> str:
        return f"{self._folder}/days/{day.isoformat()}.json"
