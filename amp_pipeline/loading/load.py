"""Bringing a database up to date with the tables of a delivery: what has changed is loaded, nothing else.

What lies in the bucket is told by the records in the workspace, and held against their SHA-256 on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import ConfigError, LoadError, ObjectNotFoundError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.tables import Name
from amp_pipeline.loading.database import NO_EVENTS, WHOLE, Database
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.tables import HourTables, TableFile, TablesStore

_MOST_TRIES = 3
_SHOWN = 5
_AT_ONCE = 16
"""Records that are read at the same time."""

Tell = Callable[[str], None]


@dataclass
class Loaded:
    """What a load did."""

    hours: int = 0
    """Loaded, again or for the first time."""
    same: int = 0
    """Hours that stood as they were."""
    removed: int = 0
    """Hours that were in the database, and are in the tables no more."""
    tables: list[Name] = field(default_factory=list[Name])
    """Loaded, of the seven that are replaced whole."""
    unready: list[str] = field(default_factory=list[str])
    """Hours and tables that a run is just writing; they are as they were."""
    without: list[Hour] = field(default_factory=list[Hour])
    """Delivered hours of which there are no tables yet."""


def load(
    organization: Organization,
    project: Project,
    delivery: Delivery,
    workspace: ObjectStore,
    bucket: ObjectStore,
    database: Database,
    scratch: Path,
    tell: Tell = lambda _: None,
) -> Loaded:
    """Bring ``database`` up to date.

    Args:
        organization: Of the project.
        project: Of the delivery.
        delivery: Whose tables.
        workspace: Store of the workspace.
        bucket: Store of the delivery.
        database: Where to load.
        scratch: A folder on local disk, with room for the largest file.
        tell: Is told what was loaded, hour by hour.

    Raises:
        ConfigError: The delivery has no tables.
        LoadError: The database can't be loaded; or the bucket does not hold all that was written, all else is loaded.
    """
    label = f"{project.slug}.{delivery.name}"
    if not delivery.tables:
        raise ConfigError(f"delivery {label} has no tables; write `tables: true` in it, and deliver its hours")
    records = TablesStore(workspace, organization.id, project.id, delivery.name)
    loading = _Loading(records, bucket, database, scratch, tell)
    keys = sorted(records.keys("hours"))
    if not keys:
        # Nothing is taken out of a database because a workspace seems to be empty.
        raise LoadError(f"delivery {label} has no tables yet; deliver its hours, then load again")
    database.prepare(f"{organization.id}/{project.id}/{delivery.name}")
    loading.hours([Hour.parse(key) for key in keys])
    loading.tables()
    loading.tell_what_is_lost()
    delivered = {hour for hour in records.hours("state") if project.holds(hour)}
    loading.done.without = sorted(delivered - set(map(Hour.parse, keys)))
    return loading.done


class _ChangedError(Exception):
    """The bucket does not hold what the record says."""


class _Loading:
    def __init__(
        self, records: TablesStore, bucket: ObjectStore, database: Database, scratch: Path, tell: Tell
    ) -> None:
        self.done = Loaded()
        self._records = records
        self._bucket = bucket
        self._database = database
        self._scratch = scratch
        self._tell = tell
        self._lost: list[str] = []

    def hours(self, hours: list[Hour]) -> None:
        loaded = self._database.hours()
        there = {hour.key for hour in hours}
        for key in sorted(set(loaded) - there):
            self._database.remove_hour(Hour.parse(key))
            self.done.removed += 1
            self._tell(f"{key} removed")
        changes = bool(self.done.removed)
        # Upwards: where a row goes, the hour that has to be loaded again for it is a later one.
        for hour, record in self._on_record(hours):
            if changes:
                loaded = self._database.hours()
            changes = self._hour(hour, record, loaded.get(hour.key, ""))

    def tables(self) -> None:
        loaded = self._database.tables()
        for _ in range(_MOST_TRIES):
            whole = self._records.whole()
            if whole is None or not whole.files:
                self.done.unready.append("all tables but event")
                return
            changed: list[Name] = [name for name in WHOLE if loaded.get(name) != whole.files[name].sha256]
            if not changed:
                return
            files: dict[Name, tuple[Path, str]] = {}
            try:
                needed = WHOLE if self._database.all_at_once else changed
                for name in needed:
                    files[name] = self._fetched(whole.files[name]), whole.files[name].sha256
            except _ChangedError:
                continue
            self._database.put_tables(files)
            for path, _ in files.values():
                path.unlink()
            self.done.tables = changed
            self._tell(f"tables {', '.join(self.done.tables)} loaded")
            return
        self._lost.append("the seven tables")

    def tell_what_is_lost(self) -> None:
        """Raise where the bucket does not hold what was written."""
        if self._lost:
            shown = ", ".join(self._lost[:_SHOWN]) + (", …" if len(self._lost) > _SHOWN else "")
            # Unforced runs look at sizes alone.
            raise LoadError(
                f"{self._bucket.url} does not hold what was written of {shown}; all else is loaded. Run the tables of "
                "these hours, or of any, again, forced (amp-pipeline deliver --force --from … --to …), then load"
            )

    def _on_record(self, hours: list[Hour]) -> Iterator[tuple[Hour, HourTables | None]]:
        """Yield hours with their records, which are read some at a time: of a long history one by one takes minutes."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for at in range(0, len(hours), _AT_ONCE):
                some = hours[at : at + _AT_ONCE]
                yield from zip(some, threads.map(self._records.hour, some), strict=True)

    def _hour(self, hour: Hour, record: HourTables | None, loaded: str) -> bool:
        """Load an hour where it has changed; tell whether anything was changed."""
        for _ in range(_MOST_TRIES):
            if record is None or not record.manifest_sha256:
                self.done.unready.append(hour.key)
                return False
            digest = record.event.sha256 if record.event else NO_EVENTS
            if digest == loaded:
                self.done.same += 1
                return False
            try:
                file = self._fetched(record.event) if record.event else None
            except _ChangedError:
                record = self._records.hour(hour)
                continue
            self._put(hour, record, file, digest)
            return True
        self._lost.append(hour.key)
        return False

    def _put(self, hour: Hour, record: HourTables, file: Path | None, digest: str) -> None:
        self._database.put_hour(hour, file, digest)
        if file is not None:
            file.unlink()
        self.done.hours += 1
        self._tell(f"{hour.key} loaded, {record.rows:,} rows")

    def _fetched(self, file: TableFile) -> Path:
        """Copy an object to local disk, held against its digest."""
        path = self._scratch / f"{file.sha256[:16]}-{file.name.rpartition('/')[2]}"
        found = hashlib.sha256()
        try:
            with path.open("wb") as out:
                for chunk in self._bucket.chunks(file.name):
                    found.update(chunk)
                    out.write(chunk)
        except ObjectNotFoundError:
            raise _ChangedError from None
        if found.hexdigest() != file.sha256:
            raise _ChangedError
        return path
