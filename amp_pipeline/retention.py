"""What the workspace holds that nothing can need any more, and taking it away.

First a plan, then its execution. A data object goes only where no record names it, where the record that took its
place is old enough for every run that read the one before to have ended, and where the object itself is old: whoever
uses an old object for a new record writes it anew first (:meth:`HourStore.put_data`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

import msgspec

from amp_pipeline.config import Organization, Project
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import LogEntry
from amp_pipeline.workspace.store import HourStore, OrganizationStore, ProjectStore

Kind = Literal["keys", "rows", "made_merges", "deduped", "pairs", "merged_ids", "log"]

LONGEST_WINDOW = timedelta(days=31)
"""Records may have been made by a longer window than that of today; so far ahead they are asked at least."""

_DATA = re.compile(r".*/(\d{4}-\d{2}-\d{2})/([01]\d|2[0-3])-(?:(\d+)-)?[0-9a-f]{16}\.[a-z.]+")
_ENTRY = re.compile(r"(.*/log/\d{4}-\d{2}-\d{2}/\d{2})/(\d{8}T\d{6})[^/]*\.json")
_DELETION = "deletion"


@dataclass(frozen=True)
class Removal:
    """An object that is to go."""

    kind: Kind
    name: str
    bytes: int
    why: str
    at_least: timedelta
    """How old it must be when it goes."""


_Record = TypeVar("_Record")
Removals = Iterator[Removal]
Named = Callable[[Collection[Hour]], Mapping[Hour, Collection[str] | None]]
"""From hours to the names of the objects that records need; None where nobody can say."""


def plan(organization: Organization, workspace: ObjectStore, now: datetime) -> Removals:
    """Yield what may go; nothing is written.

    Listings tell which hours have more than one version of anything; only of those the records are read.

    Args:
        organization: Whose workspace.
        workspace: The store of it.
        now: The time, aware.

    Raises:
        AmpError: The workspace can't be read.
    """
    bound = organization.retention.superseded
    merged = OrganizationStore(workspace, organization.id)
    for project in organization.projects:
        of_project = _Project(organization, project, workspace, merged)
        yield from of_project.superseded(bound)
        if organization.retention.logs is not None:
            yield from _logs(workspace, of_project.folder, organization.retention.logs, now)
    yield from _merged(organization, merged, bound)


def remove(workspace: ObjectStore, removals: Iterable[Removal]) -> Removals:
    """Delete objects and yield those that went: each by itself may go, so it may be killed at any time.

    Raises:
        AmpError: The workspace can't be read or written.
    """
    for one in removals:
        # A run may have written it anew since it was planned.
        if _is_older(workspace, one.name, one.at_least):
            workspace.delete(one.name)
            yield one


class _Project:
    """The data objects of a project."""

    def __init__(
        self, organization: Organization, project: Project, workspace: ObjectStore, merged: OrganizationStore
    ) -> None:
        self._store = ProjectStore(workspace, organization.id, project.id)
        self._merged = merged
        self._id = str(project.id)
        self._reach = max(project.dedupe.window, LONGEST_WINDOW) // timedelta(hours=1) + 1
        self.folder = self._store.folder

    def superseded(self, bound: timedelta) -> Removals:
        of: list[tuple[Kind, str, Named]] = [
            ("keys", "raw", self._keys),
            ("rows", "raw", self._rows),
            ("made_merges", "raw", self._made_merges),
            ("deduped", "deduped", self._parts),
        ]
        for kind, record, named in of:
            yield from _superseded(self._store, kind, record, named, bound)

    def _keys(self, hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        """Key indexes are named by their own hour, and by later ones that were held against them."""
        found: dict[Hour, set[str] | None] = {}
        for hour in hours:
            raw = _read(self._store.raw, hour)
            found[hour] = None if raw is None else {raw.keys}
        by_key = {hour.key: hour for hour in hours}
        for later in _later(self._store.hours("deduped"), hours, self._reach):
            record = _read(self._store.deduped, later)
            for key in by_key:
                known = found[by_key[key]]
                if record is None:
                    # Of another version: nobody knows what it names.
                    found[by_key[key]] = None
                elif known is not None and key in record.window:
                    known.add(record.window[key])
        return {hour: known and self._names("keys", hour, known, ".keys") for hour, known in found.items()}

    def _rows(self, hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        raws = ((hour, _read(self._store.raw, hour)) for hour in hours)
        return {hour: raw and self._names("rows", hour, [raw.rows], ".rows") for hour, raw in raws}

    def _made_merges(self, hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        found: dict[Hour, Collection[str] | None] = {}
        for hour in hours:
            raw, pairs = _read(self._store.raw, hour), _read(self._merged.pairs, hour)
            unknown = raw is None or (pairs is None and self._merged.has_record("pairs", hour))
            digests = [raw.made_merges if raw else "", pairs.made.get(self._id, "") if pairs else ""]
            found[hour] = None if unknown else self._names("made_merges", hour, digests, ".json.gz")
        return found

    def _parts(self, hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        records = ((hour, _read(self._store.deduped, hour)) for hour in hours)
        return {hour: record and [part.name for part in record.parts] for hour, record in records}

    def _names(self, kind: str, hour: Hour, digests: Iterable[str], ending: str) -> list[str]:
        return [self._store.data_name(kind, hour, digest, ending) for digest in digests if digest]


def _merged(organization: Organization, store: OrganizationStore, bound: timedelta) -> Removals:
    reach = max(organization.merged_ids_window, LONGEST_WINDOW) // timedelta(hours=1) + 1

    def pairs(hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        found: dict[Hour, set[str] | None] = {}
        for hour in hours:
            record, merged = _read(store.pairs, hour), _read(store.merged, hour)
            unknown = record is None or (merged is None and store.has_record("merged_ids", hour))
            found[hour] = None if unknown or record is None else {record.pairs, merged.pairs if merged else ""}
        for later in _later(store.hours("merged_ids"), hours, reach):
            merged = _read(store.merged, later)
            for hour in hours:
                known = found[hour]
                if merged is None:
                    found[hour] = None
                elif known is not None:
                    known.add(merged.window.get(hour.key, ""))
        return {
            hour: known and [store.data_name("pairs", hour, digest, ".jsonl.gz") for digest in known if digest]
            for hour, known in found.items()
        }

    def files(hours: Collection[Hour]) -> Mapping[Hour, Collection[str] | None]:
        records = ((hour, _read(store.merged, hour)) for hour in hours)
        return {hour: record and ([record.part.name] if record.part else []) for hour, record in records}

    yield from _superseded(store, "pairs", "pairs", pairs, bound)
    yield from _superseded(store, "merged_ids", "merged_ids", files, bound)


def _read(load: Callable[[Hour], _Record | None], hour: Hour) -> _Record | None:
    """Return a record; None where there is none, or nobody can say what it names."""
    try:
        return load(hour)
    except WorkspaceError:
        return None


def _later(there: Collection[Hour], hours: Collection[Hour], reach: int) -> list[Hour]:
    """Return the recorded hours that may name something of ``hours``."""
    wanted = {hour.number + ahead for hour in hours for ahead in range(1, reach + 1)}
    return sorted(hour for hour in there if hour.number in wanted)


def _superseded(store: HourStore, kind: Kind, record: str, named: Named, bound: timedelta) -> Removals:
    """Yield objects of hours with more than one version that no record names."""
    several = _with_versions(store.store.find(f"{store.folder}/{kind}/"))
    settled = [hour for hour in several if _is_older(store.store, store.path(record, hour, ".json"), bound)]
    for hour, names in named(settled).items() if settled else ():
        if names is None:
            continue
        for info in several[hour]:
            if info.name not in names and _is_older(store.store, info.name, bound):
                yield Removal(kind, info.name, info.size, f"no record of {store.folder} names it any more", bound)


def _with_versions(found: Iterable[ObjectInfo]) -> dict[Hour, list[ObjectInfo]]:
    """Return the data objects of the hours that have two for one place: one of them was superseded."""
    by_hour: defaultdict[Hour, list[ObjectInfo]] = defaultdict(list)
    places: defaultdict[Hour, list[str | None]] = defaultdict(list)
    for info in found:
        if match := _DATA.fullmatch(info.name):
            hour = Hour.parse(f"{match[1]}-{match[2]}:00")
            by_hour[hour].append(info)
            places[hour].append(match[3])
    return {hour: infos for hour, infos in by_hour.items() if len(set(places[hour])) < len(infos)}


def _logs(workspace: ObjectStore, folder: str, kept: timedelta, now: datetime) -> Removals:
    """Yield entries of the delivery logs but the last of each hour, and those that prove a deletion."""
    by_hour: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for info in workspace.find(f"{folder}/deliveries/"):
        if match := _ENTRY.fullmatch(info.name):
            by_hour[match[1]].append(info)
    for infos in by_hour.values():
        for info in sorted(infos, key=lambda one: one.name)[:-1]:
            match = _ENTRY.fullmatch(info.name)
            at = datetime.strptime(match[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if match else now
            if now - at > kept and _is_older(workspace, info.name, kept) and not _is_deletion(workspace, info.name):
                yield Removal("log", info.name, info.size, "it is old, and not the last of its hour", kept)


def _is_deletion(workspace: ObjectStore, name: str) -> bool:
    try:
        return msgspec.json.decode(workspace.get(name), type=LogEntry).why == _DELETION
    except msgspec.MsgspecError:
        # Whoever can't read it can't tell.
        return True
    except ObjectNotFoundError:
        return False


def _is_older(store: ObjectStore, name: str, bound: timedelta) -> bool:
    age = store.age(name)
    return age is not None and age > bound.total_seconds()
