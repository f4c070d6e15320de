"""What the workspace says of the tables of a delivery: which hours are in them, and summaries by hour, day and month.

Below the delivery's folder: ``tables/hours/{day}/{HH}``, ``tables/days/{month}/{day}``, ``tables/months/{month}``, each
with a record and, where there are events, a summary that is named by its digest; and ``tables/whole.json``.
"""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec

from amp_pipeline.core import summaries
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.summaries import Summary
from amp_pipeline.core.tables import FORMAT, Name
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.store import DeliveryStore, sha256

Level = Literal["hours", "days", "months"]

_DAY, _MONTH = len("2024-05-06"), len("2024-05")
_RECORD = re.compile(r".*/([^/]+)\.json")


class _Form(msgspec.Struct):
    """What all records have: a version of their form."""

    format: int


class TableFile(msgspec.Struct, frozen=True, kw_only=True):
    """An object of a table in the bucket."""

    name: str
    rows: int
    bytes: int
    sha256: str


class HourTables(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables have of an hour."""

    format: int
    hour: str
    manifest_sha256: str
    """Of the delivered hour that this was made of; empty while it is being written."""
    made_of: list[str] | None
    """Digests of the files that were delivered; None while it is being written."""
    event: TableFile | None
    """None where there are no events."""
    delivered: int
    """Events of the manifest."""
    same_uuid: int
    """Those that are no row of ``event``, since an earlier one of the hour has their uuid."""
    summary: str
    """Digest of the summary; empty where there are no events."""
    clean: bool = True
    """Whether the summary before this one is gone."""

    @property
    def rows(self) -> int:
        """Rows of ``event``."""
        return self.event.rows if self.event else 0


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a day or month."""

    format: int
    made_of: dict[str, str]
    """Digests of the summaries of its hours or days, by their key."""
    summary: str
    clean: bool = True


class WholeTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables that are not of one hour."""

    format: int
    made_of: dict[str, str]
    """Digests of the summaries of months; empty while the tables are being written."""
    dashboard: str
    """Digest of what the dashboard knew; empty where there is none."""
    files: dict[Name, TableFile]


_Record = TypeVar("_Record", HourTables, Merged, WholeTables)


def day_of(hour: Hour) -> str:
    """Return the key of the day of an hour, ``2024-05-06``."""
    return hour.day


def month_of(day: str) -> str:
    """Return the key of the month of a day, ``2024-05``."""
    return day[:_MONTH]


class TablesStore(DeliveryStore):
    """The tables of a delivery in the workspace."""

    def __init__(self, store: ObjectStore, organization: int, project: int, delivery: str) -> None:
        """Use the delivery's folder of ``store``."""
        super().__init__(store, organization, project, delivery)

    def hour(self, hour: Hour) -> HourTables | None:
        """Return what the tables have of ``hour``; None where there is nothing of this format."""
        return self._get(self._place("hours", hour.key), HourTables)

    def has_hour(self, hour: Hour) -> bool:
        """Tell whether there are tables of ``hour``, of whatever format."""
        return self.store.head(f"{self._place('hours', hour.key)}.json") is not None

    def save_hour(self, hour: Hour, record: HourTables) -> None:
        """Write what the tables have of ``hour``, and remove the summary before."""
        self._save("hours", hour.key, record)

    def merged(self, level: Level, key: str) -> Merged | None:
        """Return the summary of a day or month; None where there is none of this format."""
        return self._get(self._place(level, key), Merged)

    def save_merged(self, level: Level, key: str, record: Merged) -> None:
        """Write the summary of a day or month, and remove the one before."""
        self._save(level, key, record)

    def whole(self) -> WholeTables | None:
        """Return what the tables were last made of; None where there are none of this format."""
        return self._get(f"{self.folder}/tables/whole", WholeTables)

    def save_whole(self, record: WholeTables) -> None:
        """Write what the tables were made of."""
        self.store.put(f"{self.folder}/tables/whole.json", msgspec.json.encode(record, order="deterministic"))

    def keys(self, level: Level, within: str = "") -> list[str]:
        """Return the keys of a level that have a record, those of one day or month if so asked, in order."""
        folder = f"{self.folder}/tables/{level}/" + (f"{within}/" if within else "")
        names = [info.name for info in self.store.find(folder) if info.name.endswith(".json")]
        ends = [name.removeprefix(folder).removesuffix(".json") for name in names]
        if level != "hours":
            return [end.rpartition("/")[2] for end in ends]
        days = [(within, end) if within else end.split("/") for end in ends]
        return [f"{day}-{of_day}:00" for day, of_day in days]

    def forget_merged(self, level: Level, key: str) -> None:
        """Have the summary of a day or month made again from those below it."""
        self.store.delete(f"{self._place(level, key)}.json")

    def forget(self, level: Level, key: str) -> None:
        """Have the summary of an hour, day or month made again; that there are tables of an hour stays known."""
        if level != "hours":
            self.forget_merged(level, key)
        elif (record := self.hour(Hour.parse(key))) is not None:
            self._put(self._place(level, key), msgspec.structs.replace(record, manifest_sha256="", made_of=None))

    def holds_summary(self, level: Level, key: str, digest: str) -> bool:
        """Tell whether a summary is there as it was written."""
        try:
            self.summary(level, key, digest)
        except (ObjectNotFoundError, WorkspaceError):
            return False
        return True

    def put_summary(self, level: Level, key: str, summed: Summary) -> str:
        """Write a summary and return its digest."""
        data = summaries.encode(summed)
        digest = sha256(data)
        self.store.put(self._summary(level, key, digest), data)
        return digest

    def summary(self, level: Level, key: str, digest: str) -> Summary:
        """Return a summary, held against its digest.

        Raises:
            ObjectNotFoundError: It is gone: another run has written a newer one.
            WorkspaceError: It is not what was written.
        """
        name = self._summary(level, key, digest)
        data = self.store.get(name)
        if sha256(data) != digest:
            raise WorkspaceError(
                f"{self.store.uri(name)} is not what was written; delete its .json and run the tables of {key} again"
            )
        return summaries.decode(data)

    def _place(self, level: Level, key: str) -> str:
        above = {"hours": f"{key[:_DAY]}/{key[_DAY + 1 : _DAY + 3]}", "days": f"{key[:_MONTH]}/{key}", "months": key}
        return f"{self.folder}/tables/{level}/{above[level]}"

    def _summary(self, level: Level, key: str, digest: str) -> str:
        return f"{self._place(level, key)}-{digest[:16]}.summary"

    def _get(self, place: str, record: type[_Record]) -> _Record | None:
        name = f"{place}.json"
        try:
            data = self.store.get(name)
        except ObjectNotFoundError:
            return None
        try:
            # First, since records of another format may have other fields.
            if msgspec.json.decode(data, type=_Form).format != FORMAT:
                return None
            return msgspec.json.decode(data, type=record)
        except msgspec.MsgspecError as error:
            raise WorkspaceError(
                f"{self.store.uri(name)} is damaged ({error}); delete it and run the tables of its hours again"
            ) from None

    def _save(self, level: Level, key: str, record: HourTables | Merged) -> None:
        """Write a record, then remove summaries that it does not name: deleted users may be in them.

        Until they are gone the record says so, and who is killed in between is followed by a run that does it.
        """
        place = self._place(level, key)
        kept = self._summary(level, key, record.summary) if record.summary else ""
        others = [info.name for info in self.store.find(f"{place}-") if info.name != kept]
        if others:
            self._put(place, msgspec.structs.replace(record, clean=False))
            for name in others:
                self.store.delete(name)
        self._put(place, msgspec.structs.replace(record, clean=True))

    def _put(self, place: str, record: HourTables | Merged) -> None:
        self.store.put(f"{place}.json", msgspec.json.encode(record, order="deterministic"))
