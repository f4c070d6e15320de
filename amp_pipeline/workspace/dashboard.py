"""Snapshots of what Amplitude's dashboard knew, one by each run that found something new.

Below the project's folder of the workspace::

    dashboard/{stamp}/record.json                        written last: a snapshot without it is none
    dashboard/{stamp}/{name}.parquet                     cohorts, event_types, categories
    dashboard/members/{of cohort}-{of file}.parquet      named by digests; snapshots share those that are equal

What a snapshot holds is never changed, but for members that are deleted users: :meth:`DashboardStore.forget`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec
import polars as pl

from amp_pipeline.core import dashboard
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.store import ProjectStore, sha256
from amp_pipeline.workspace.suppressions import SuppressionStore

FORMAT = 1
KEPT = 30
"""Snapshots."""

Frame = Literal["cohorts", "event_types", "categories"]
SCHEMAS: Mapping[Frame, Mapping[str, pl.DataType]] = {
    "cohorts": dashboard.COHORTS,
    "event_types": dashboard.EVENT_TYPES,
    "categories": dashboard.CATEGORIES,
}

_YOUNG_SECONDS = 12 * 3600
"""Files of members that no record names may belong to a run that has not written its record yet."""
_STAMP = re.compile(r"(\d{8}T\d{12}Z)/record\.json")


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A Parquet file of a snapshot."""

    name: str
    rows: int
    bytes: int
    sha256: str


class MembersRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a cohort."""

    file: FileRecord
    version: str
    """Of the cohort when they were asked for: while it is the same, they are not asked for again."""
    taken_at: str
    """When they were asked for, ISO 8601, UTC."""


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds."""

    format: int
    at: str
    """When it was taken, ISO 8601, UTC."""
    run: str
    version: str
    """Of amp_pipeline."""
    frames: dict[str, FileRecord]
    members: dict[str, MembersRecord]
    """By cohort."""
    not_available: dict[str, str]
    """What Amplitude did not give, and why."""
    content: str
    """Digest of all that it holds, times and runs aside."""
    refused: list[str] = msgspec.field(default_factory=list[str])
    """Cohorts whose file was asked for, and not given."""


class Snapshot:
    """A snapshot, its files not yet read. Deleted users are left out of what it returns, whenever they were deleted."""

    def __init__(self, store: ObjectStore, stamp: str, record: SnapshotRecord, suppressed: Suppressed) -> None:
        """Read the files of ``record`` in ``store``."""
        self.stamp = stamp
        self.record = record
        self._store = store
        self._suppressed = suppressed

    @property
    def at(self) -> datetime:
        """When it was taken, aware."""
        return datetime.fromisoformat(self.record.at)

    @property
    def fingerprint(self) -> str:
        """Digest of all that is read from it; changes with the list of deleted users."""
        return fingerprint(self.record.content, self._suppressed.fingerprint)

    @property
    def cohorts(self) -> pl.DataFrame:
        """The cohorts, with :data:`amp_pipeline.core.dashboard.COHORTS`."""
        return self._frame("cohorts")

    @property
    def event_types(self) -> pl.DataFrame:
        """The event types, with :data:`amp_pipeline.core.dashboard.EVENT_TYPES`."""
        return self._frame("event_types")

    @property
    def categories(self) -> pl.DataFrame:
        """The categories, with :data:`amp_pipeline.core.dashboard.CATEGORIES`."""
        return self._frame("categories")

    def members(self) -> Iterator[pl.DataFrame]:
        """Yield the members of one cohort after the other, with :data:`amp_pipeline.core.dashboard.MEMBERS`.

        In the order of cohorts' ids; only one cohort is in memory at a time. Each frame is sorted, and may be empty.

        Raises:
            WorkspaceError: A file is gone or not what was written.
        """
        for _, members in sorted(self.record.members.items()):
            yield self._without_deleted(_read(self._store, members.file, dashboard.MEMBERS))

    def _frame(self, name: Frame) -> pl.DataFrame:
        return _read(self._store, self.record.frames[name], SCHEMAS[name])

    def _without_deleted(self, frame: pl.DataFrame) -> pl.DataFrame:
        return dashboard.without(frame, self._suppressed.user_ids, self._suppressed.amplitude_ids)


class Saved(NamedTuple):
    """What became of a snapshot that was to be saved."""

    snapshot: Snapshot
    """The new one, or the one before where it holds the same."""
    is_new: bool
    removed: int
    """Older snapshots that went."""


class DashboardStore:
    """The snapshots of a project."""

    def __init__(self, store: ObjectStore, organization_id: int, project_id: int) -> None:
        """Keep them in the project's folder of ``store``, the workspace."""
        self._store = store
        workspace = ProjectStore(store, organization_id, project_id)
        self._folder = f"{workspace.folder}/dashboard"
        self._suppressions = SuppressionStore(workspace)

    def stamps(self) -> list[str]:
        """Return the stamps of all whole snapshots, oldest first."""
        found = (
            _STAMP.fullmatch(info.name.removeprefix(f"{self._folder}/")) for info in self._store.find(self._folder)
        )
        return sorted(match[1] for match in found if match)

    def latest(self) -> Snapshot | None:
        """Return the last snapshot, or None where there is none.

        Raises:
            WorkspaceError: Its record is damaged, or the list of deleted users is.
        """
        for stamp in reversed(self.stamps()):
            record = self._record(stamp)
            if record is not None:
                return Snapshot(self._store, stamp, record, self._suppressed)
        return None

    def put_members(self, cohort_id: str, version: str, taken_at: datetime, frame: pl.DataFrame) -> MembersRecord:
        """Write the members of a cohort, for a snapshot that is saved later. Deleted users are left out.

        Args:
            cohort_id: Of the cohort.
            version: Of the cohort.
            taken_at: When they were asked for, aware.
            frame: Its members.
        """
        kept = self._without_deleted(frame)
        return MembersRecord(file=self._put_members(cohort_id, kept), version=version, taken_at=taken_at.isoformat())

    def save(
        self,
        frames: Mapping[Frame, pl.DataFrame],
        members: Mapping[str, MembersRecord],
        not_available: Mapping[str, str],
        *,
        at: datetime,
        run: str,
        version: str,
        refused: Sequence[str] = (),
    ) -> Saved:
        """Write a snapshot unless it holds what the last one does, then remove those that are too many.

        Args:
            frames: All three.
            members: By cohort, as :meth:`put_members` returned them, or as they stand in an earlier snapshot.
            not_available: What Amplitude did not give, and why.
            at: When it was taken, aware, UTC.
            run: That took it.
            version: Of amp_pipeline.
            refused: Cohorts whose file was asked for, and not given.

        Raises:
            WorkspaceError: Files of members are gone.
        """
        packed: dict[Frame, bytes] = {name: _parquet(frame) for name, frame in frames.items()}
        content = _content({name: sha256(data) for name, data in packed.items()}, members, not_available)
        self._check_there(members)
        last = self.latest()
        if last is not None and last.record.content == content:
            # Members that were asked for again, and were the same, must not be asked for a third time.
            record = msgspec.structs.replace(
                last.record, members=dict(members), not_available=dict(not_available), refused=sorted(refused)
            )
            if record != last.record:
                self._put_record(last.stamp, record)
            return self._saved(last.stamp, record, is_new=False)
        stamp = at.strftime("%Y%m%dT%H%M%S%fZ")
        files: dict[str, FileRecord] = {}
        for name, data in packed.items():
            path = f"{self._folder}/{stamp}/{name}.parquet"
            self._store.put(path, data)
            rows = frames[name].height
            files[name] = FileRecord(name=path, rows=rows, bytes=len(data), sha256=sha256(data))
        record = SnapshotRecord(
            format=FORMAT,
            at=at.isoformat(),
            run=run,
            version=version,
            frames=files,
            members=dict(members),
            not_available=dict(not_available),
            content=content,
            refused=sorted(refused),
        )
        self._put_record(stamp, record)
        return self._saved(stamp, record, is_new=True)

    def _saved(self, stamp: str, record: SnapshotRecord, *, is_new: bool) -> Saved:
        """Return what was saved, without users who were deleted while it was taken: who did that has looked before."""
        known = self._suppressed.fingerprint
        del self._suppressed
        if self._suppressed.fingerprint != known:
            self.forget()
            record = self._record(stamp) or record
        return Saved(Snapshot(self._store, stamp, record, self._suppressed), is_new, self._remove_old())

    def forget(self) -> int:
        """Take deleted users out of all snapshots, and return how many rows of members went.

        Each record names whole files at any time, so it may be killed and done again.

        Raises:
            WorkspaceError: Something can't be read, so nobody can say whether it is clean.
        """
        gone = 0
        if not self._suppressed:
            return 0
        cleaned: dict[str, FileRecord] = {}
        for stamp in self.stamps():
            record = self._record(stamp)
            if record is None:
                continue
            for cohort, one in record.members.items():
                if one.file.name in cleaned:
                    continue
                frame = _read(self._store, one.file, dashboard.MEMBERS)
                kept = self._without_deleted(frame)
                cleaned[one.file.name] = one.file if kept.height == frame.height else self._put_members(cohort, kept)
                gone += frame.height - kept.height
            members = {
                cohort: msgspec.structs.replace(one, file=cleaned[one.file.name])
                for cohort, one in record.members.items()
            }
            if members != record.members:
                digests = {name: file.sha256 for name, file in record.frames.items()}
                content = _content(digests, members, record.not_available)
                self._put_record(stamp, msgspec.structs.replace(record, members=members, content=content))
        named = self._named()
        for info in self._store.find(f"{self._folder}/members/"):
            # Replaced just now, or by who was killed, or written by a run that has not saved its snapshot yet.
            if info.name not in named and self._holds_deleted(info.name):
                self._store.delete(info.name)
        return gone

    @cached_property
    def _suppressed(self) -> Suppressed:
        return self._suppressions.suppressed()

    def _check_there(self, members: Mapping[str, MembersRecord]) -> None:
        there = {info.name for info in self._store.find(f"{self._folder}/members/")}
        if any(one.file.name not in there for one in members.values()):
            raise WorkspaceError(
                f"files of members in {self._store.uri(self._folder)} are gone, as by a deletion of users while a "
                "snapshot was taken; take it again"
            )

    def _put_members(self, cohort_id: str, frame: pl.DataFrame) -> FileRecord:
        data = _parquet(frame)
        digest = sha256(data)
        name = f"{self._folder}/members/{sha256(cohort_id.encode())[:16]}-{digest[:16]}.parquet"
        # Written also where it is there already: it must be young until a record names it.
        self._store.put(name, data)
        return FileRecord(name=name, rows=frame.height, bytes=len(data), sha256=digest)

    def _record(self, stamp: str) -> SnapshotRecord | None:
        """Return a record, or None where it is of another version of amp_pipeline, or just went."""
        name = f"{self._folder}/{stamp}/record.json"
        try:
            data = self._store.get(name)
            if msgspec.json.decode(data, type=_Form).format != FORMAT:
                return None
            return msgspec.json.decode(data, type=SnapshotRecord)
        except ObjectNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise WorkspaceError(
                f"{self._store.uri(name)} is damaged ({error}); delete it: the next run takes another snapshot"
            ) from None

    def _put_record(self, stamp: str, record: SnapshotRecord) -> None:
        self._store.put(f"{self._folder}/{stamp}/record.json", msgspec.json.encode(record, order="deterministic"))

    def _remove_old(self) -> int:
        """Remove all but the last snapshots, what killed runs left, and members that nobody names any more."""
        stamps = self.stamps()
        old = stamps[:-KEPT]
        for stamp in old:
            # The record first: a snapshot without it is none.
            self._store.delete(f"{self._folder}/{stamp}/record.json")
        kept = set(stamps[-KEPT:])
        for info in self._store.find(f"{self._folder}/"):
            stamp = info.name.removeprefix(f"{self._folder}/").partition("/")[0]
            if stamp != "members" and stamp not in kept and (stamp in old or self._is_left(info.name)):
                self._store.delete(info.name)
        self._remove_members()
        return len(old)

    def _remove_members(self) -> None:
        named = self._named()
        for info in self._store.find(f"{self._folder}/members/"):
            if info.name not in named and self._is_left(info.name):
                self._store.delete(info.name)

    def _named(self) -> set[str]:
        """Return the files of members that any snapshot has."""
        records = (self._record(stamp) for stamp in self.stamps())
        return {one.file.name for record in records if record is not None for one in record.members.values()}

    def _holds_deleted(self, name: str) -> bool:
        """Tell whether a file of members has deleted users; one that can't be read may have."""
        try:
            frame = pl.read_parquet(io.BytesIO(self._store.get(name)))
        except ObjectNotFoundError:
            return False
        except (pl.exceptions.PolarsError, OSError):
            return True
        return self._without_deleted(frame).height < frame.height

    def _without_deleted(self, frame: pl.DataFrame) -> pl.DataFrame:
        return dashboard.without(frame, self._suppressed.user_ids, self._suppressed.amplitude_ids)

    def _is_left(self, name: str) -> bool:
        return (self._store.age(name) or 0) > _YOUNG_SECONDS


def _content(frames: Mapping[str, str], members: Mapping[str, MembersRecord], not_available: Mapping[str, str]) -> str:
    return fingerprint(
        dict(frames), {cohort: one.file.sha256 for cohort, one in members.items()}, sorted(not_available)
    )


class _Form(msgspec.Struct):
    format: int


def _parquet(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out, compression="zstd")
    return out.getvalue()


def _read(store: ObjectStore, file: FileRecord, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    try:
        data = store.get(file.name)
    except ObjectNotFoundError:
        raise WorkspaceError(f"{store.uri(file.name)} is gone; take a snapshot of the dashboard again") from None
    if sha256(data) != file.sha256:
        raise WorkspaceError(f"{store.uri(file.name)} is not what was written; take a snapshot of the dashboard again")
    frame = pl.read_parquet(io.BytesIO(data))
    # A column that an older version did not have is null.
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(missing).select(*schema)
