"""The replicated tables of a delivery: what they hold is told in docs/tables.md, how they are kept up to date too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import polars as pl

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import dashboard as known
from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.manifest import Manifest, decode
from amp_pipeline.core.summaries import Summary, merged
from amp_pipeline.core.tables import FORMAT, TABLES, Name
from amp_pipeline.core.whole_tables import Dashboard, whole_tables
from amp_pipeline.destinations.archive import By
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.destinations.event_table import write_event_table
from amp_pipeline.destinations.parquet import ParquetFile, chunks_of, digest_of
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import explained, scratch
from amp_pipeline.workspace.dashboard import DashboardStore, Snapshot
from amp_pipeline.workspace.store import sha256
from amp_pipeline.workspace.tables import (
    HourTables,
    Level,
    Merged,
    TableFile,
    TablesStore,
    WholeTables,
    day_of,
    month_of,
)

PATIENCE_SECONDS = 10 * 60
"""How long a run waits for another one that is writing the tables that are one object."""

_MOST_TRIES = 5


class Tables:
    """The tables of one delivery, as one run sees them."""

    def __init__(
        self,
        organization: Organization,
        project: Project,
        delivery: Delivery,
        workspace: ObjectStore,
        destination: ObjectStore,
    ) -> None:
        """Write to ``destination`` what the delivery has put there as an archive."""
        self.store = destination
        self.names = ArchiveNames(organization.id, project.id, delivery.name)
        self.records = TablesStore(workspace, organization.id, project.id, delivery.name)
        self._dashboard = DashboardStore(workspace, organization.id, project.id)
        self._label = f"{project.slug}.{delivery.name}"

    def is_current(self, hour: Hour) -> bool:
        """Tell whether an hour is in the tables as it was delivered; the bucket is not looked at."""
        record = self.records.hour(hour)
        state = self.records.state(hour)
        if state is None or record is None or not record.clean or record.manifest_sha256 != state.manifest_sha256:
            return False
        day = self.records.merged("days", day_of(hour))
        if day is None or not day.clean or day.made_of.get(hour.key, "") != record.summary:
            return False
        month = self.records.merged("months", month_of(day_of(hour)))
        if month is None or not month.clean or month.made_of.get(day_of(hour), "") != day.summary:
            return False
        whole = self.records.whole()
        return whole is not None and whole.made_of.get(month_of(day_of(hour)), "") == month.summary

    def knows_dashboard(self) -> bool:
        """Tell whether the tables were made with what the dashboard knows now, deleted users left out."""
        whole, snapshot = self.records.whole(), self._dashboard.latest()
        return whole is None or whole.dashboard == (snapshot.fingerprint if snapshot else "")

    def has_all(self, hours: Iterable[Hour]) -> bool:
        """Tell whether the tables that are one object have all that is on record of the months of ``hours``."""
        whole, snapshot = self.records.whole(), self._dashboard.latest()
        months = sorted({month_of(day_of(hour)) for hour in hours})
        days = [day for month in months for day in self.records.keys("days", month)]
        return (
            whole is not None
            and whole.made_of == self._below("months")
            and whole.dashboard == (snapshot.fingerprint if snapshot else "")
            and all(self._is_merged("days", day, "hours") for day in days)
            and all(self._is_merged("months", month, "days") for month in months)
        )

    def write_hour(self, hour: Hour, by: By, *, force: bool = False) -> HourTables:
        """Write the rows of the table ``event`` of an hour, unless they are there.

        Args:
            hour: The hour, which was delivered.
            by: Who writes.
            force: Write them again even if nothing has changed.

        Raises:
            DeliveryError: The hour was not delivered, or the bucket does not hold what was; or another run writes it.
        """
        record = self.records.hour(hour)
        if not force and record is not None and self._is_as_delivered(hour, record):
            return record
        with Claim(self.store, self.names.event_table_claim(hour), self._what(hour), by.run, by.at) as claim:
            manifest, digest = self._manifest(hour)
            made_of = [file.sha256 for file in manifest.files if file.kind == "events"]
            record = self.records.hour(hour)
            if force or record is None or record.made_of != made_of or not self._stands(hour, record.event):
                if record is not None:
                    # From here on the bucket may hold something else; a run that is killed must not seem to have ended.
                    self.records.save_hour(hour, msgspec.structs.replace(record, manifest_sha256="", made_of=None))
                record = self._write(hour, manifest, made_of, claim)
            record = msgspec.structs.replace(
                record, manifest_sha256="", delivered=manifest.counts.delivered, clean=True
            )
            self.records.save_hour(hour, record)
        # Only now that the hour is given back: who is killed before is followed by a run that does that.
        finished = msgspec.structs.replace(record, manifest_sha256=digest)
        if self.records.hour(hour) == record:
            # Or another run writes it since, and its summary would go.
            self.records.save_hour(hour, finished)
        return finished

    def finish(self, hours: Iterable[Hour], by: By, *, force: bool = False) -> WholeTables:
        """Bring the tables that are one object up to date with ``hours``, and with what the dashboard knows.

        Raises:
            DeliveryError: Another run has been writing them all the time.
        """
        days = sorted({day_of(hour) for hour in hours})
        snapshot = self._dashboard.latest()
        if not force and (whole := self._finished(days, snapshot)) is not None:
            return whole
        with self._claimed(by) as claim:
            for day in days:
                self._merge("days", day, "hours")
            for month in sorted(set(map(month_of, days))):
                self._merge("months", month, "days")
            return self._write_whole(snapshot, claim, force=force)

    def uri(self, name: Name) -> str:
        """Return where a table is, for people."""
        one_object = self.names.table(name)
        return self.store.uri(one_object.removesuffix(".parquet") if name == "event" else one_object)

    def _is_as_delivered(self, hour: Hour, record: HourTables) -> bool:
        state = self.records.state(hour)
        return (
            record.clean
            and state is not None
            and record.manifest_sha256 == state.manifest_sha256
            and self._stands(hour, record.event)
        )

    def _stands(self, hour: Hour, event: TableFile | None) -> bool:
        found = self.store.head(self.names.event_table(hour))
        return (found.size if found else None) == (event.bytes if event else None)

    def _manifest(self, hour: Hour) -> tuple[Manifest, str]:
        """Return the manifest of a delivered hour and its digest."""
        state = self.records.state(hour)
        name = self.names.manifest(hour)
        try:
            data = self.store.get(name)
        except ObjectNotFoundError:
            data = b""
        if state is None or not state.fingerprint or sha256(data) != state.manifest_sha256:
            raise DeliveryError(
                f"hour {hour} of {self._label} is not delivered as it is on record ({self.store.uri(name)}); "
                f"materialize {self._label.replace('.', '/')}/manifest for it first"
            )
        return decode(data), state.manifest_sha256

    def _write(self, hour: Hour, manifest: Manifest, made_of: list[str], claim: Claim) -> HourTables:
        name = self.names.event_table(hour)
        files = [file for file in manifest.files if file.kind == "events"]
        record = HourTables(
            format=FORMAT,
            hour=hour.key,
            manifest_sha256="",
            made_of=made_of,
            event=None,
            delivered=0,
            same_uuid=0,
            summary="",
        )
        if not files:
            if self.store.head(name) is not None:
                self.store.delete(name)
            return record
        with explained(), scratch() as folder:
            path = folder / "event.parquet"
            found = write_event_table(self.store, hour, files, path)
            return msgspec.structs.replace(
                record,
                event=self._put(name, path, found.rows, claim),
                delivered=found.delivered,
                same_uuid=found.same_uuid,
                summary=self.records.put_summary("hours", hour.key, found.summary),
            )

    def _put(self, name: str, path: Path, rows: int, claim: Claim) -> TableFile:
        claim.renew()
        self.store.put_chunks(name, claim.renewed(chunks_of(path)))
        return TableFile(name=name, rows=rows, bytes=path.stat().st_size, sha256=digest_of(path))

    def _finished(self, days: list[str], snapshot: Snapshot | None) -> WholeTables | None:
        """Return what the tables are made of where that is all that there is; None where they have to be written."""
        months = sorted(set(map(month_of, days)))
        if not all(self._is_merged("days", day, "hours") for day in days):
            return None
        if not all(self._is_merged("months", month, "days") for month in months):
            return None
        whole = self.records.whole()
        if whole is None or not self._is_as_known(whole, self._below("months"), snapshot):
            return None
        # A run that was killed may have left its claim.
        return whole if self.store.head(self.names.tables_claim()) is None else None

    def _is_as_known(self, whole: WholeTables, made_of: Mapping[str, str], snapshot: Snapshot | None) -> bool:
        return (
            whole.made_of == made_of
            and whole.dashboard == (snapshot.fingerprint if snapshot else "")
            and len(whole.files) == len(TABLES) - 1
            and all(map(self._is_there, whole.files.values()))
        )

    def _is_there(self, file: TableFile) -> bool:
        found = self.store.head(file.name)
        return found is not None and found.size == file.bytes

    def _below(self, level: Level, within: str = "") -> dict[str, str]:
        """Return the digests of the summaries of a level, those of one day or month if so asked, that have events."""
        found: dict[str, str] = {}
        for key in self.records.keys(level, within):
            record = self.records.hour(Hour.parse(key)) if level == "hours" else self.records.merged(level, key)
            if record is not None:
                found[key] = record.summary
        return found

    def _is_merged(self, level: Level, key: str, below: Level) -> bool:
        record = self.records.merged(level, key)
        return record is not None and record.clean and record.made_of == self._below(below, key)

    def _merge(self, level: Level, key: str, below: Level) -> None:
        """Bring the summary of a day or month up to date."""
        if not self._is_merged(level, key, below):
            summed, made_of = self._merged(below, key)
            digest = self.records.put_summary(level, key, summed) if any(made_of.values()) else ""
            self.records.save_merged(level, key, Merged(format=FORMAT, made_of=made_of, summary=digest))

    def _merged(self, level: Level, within: str = "") -> tuple[Summary, dict[str, str]]:
        """Return the summary of all there is of a level, and what it was made of."""
        made_of: dict[str, str] = {}
        for _ in range(_MOST_TRIES):
            made_of = self._below(level, within)
            try:
                several = [self.records.summary(level, key, digest) for key, digest in made_of.items() if digest]
            except (ObjectNotFoundError, WorkspaceError):
                # Another run has just delivered one of the hours again; or one is lost.
                continue
            return merged(several), made_of
        gone = [key for key, digest in made_of.items() if digest and not self.records.holds_summary(level, key, digest)]
        for key in gone:
            # Or each run would miss them, and no hour would be asked for.
            self.records.forget(level, key)
        raise DeliveryError(
            f"summaries of {', '.join(gone)} of {self._label} are gone from the workspace, or damaged; run the tables "
            f"of {'these hours' if level == 'hours' else 'any hour of each'} again, which makes them anew"
            if gone
            else f"summaries of {within or 'months'} of {self._label} keep changing; run its tables again"
        )

    def _write_whole(self, snapshot: Snapshot | None, claim: Claim, *, force: bool) -> WholeTables:
        """Write the tables that are one object, where they have changed."""
        whole = self.records.whole()
        made_of = self._below("months")
        if not force and whole is not None and self._is_as_known(whole, made_of, snapshot):
            return whole
        before = whole.files if whole is not None and not force else {}
        summed, made_of = self._merged("months")
        # Without files: what a run that is killed has put is not told from what was there.
        nothing = WholeTables(format=FORMAT, made_of={}, dashboard="", files={})
        self.records.save_whole(nothing)
        files: dict[Name, TableFile] = {}
        with explained(), scratch() as folder:
            for name, rows in whole_tables(summed, _dashboard(snapshot)).items():
                files[name] = self._put_table(name, rows, folder, before.get(name), claim)
        whole = WholeTables(
            format=FORMAT, made_of=made_of, dashboard=snapshot.fingerprint if snapshot else "", files=files
        )
        self.records.save_whole(whole)
        return whole

    def _put_table(
        self, name: Name, rows: pl.DataFrame, folder: Path, before: TableFile | None, claim: Claim
    ) -> TableFile:
        path = folder / f"{name}.parquet"
        with ParquetFile(path, TABLES[name]) as parquet:
            parquet.write(rows)
        if before is not None and before.sha256 == digest_of(path) and self._is_there(before):
            return before
        return self._put(self.names.table(name), path, len(rows), claim)

    @contextmanager
    def _claimed(self, by: By) -> Iterator[Claim]:
        """Claim the tables that are one object; wait where another run has them."""
        claim = Claim(self.store, self.names.tables_claim(), f"the tables of {self._label}", by.run, by.at)
        with claim.waited_for(PATIENCE_SECONDS):
            yield claim

    def _what(self, hour: Hour) -> str:
        return f"the table event of hour {hour} of {self._label} in {self.store.url}"


def _dashboard(snapshot: Snapshot | None) -> Dashboard | None:
    if snapshot is None:
        return None
    members = [pl.DataFrame(schema=known.MEMBERS), *snapshot.members()]
    return Dashboard(snapshot.cohorts, pl.concat(members), snapshot.event_types, snapshot.categories)
