"""What a delivered archive holds of a range of hours, and its bytes, held against the manifests that list them.

An hour is what its manifest says: that is written after its files were read back, and taken away before they change.
Where an hour has none, it is either to come or missing, and the two are told apart by whether there is a later one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import msgspec

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import AmpError, ObjectNotFoundError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.zip_stream import Member, length, pieces
from amp_pipeline.storage.objects import ObjectStore

_AT_ONCE = 8
"""Manifests that are read at once: of a year there are 8,760."""

_SINGLE_DAYS = 14
"""Longer ranges are listed by month: a listing of S3 gives a thousand names, and a month has 744 hours."""


class _File(msgspec.Struct, frozen=True):
    """What has to be known of a delivered file."""

    name: str
    kind: Literal["events", "merged_ids"]
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    """What has to be known of a manifest (:mod:`amp_pipeline.core.manifest`); a year of whole ones takes 100 MB."""

    version: Literal[1]
    hour: str
    files: list[_File]


class NotWholeError(AmpError):
    """Hours that were asked for can't be given as they are now; the message is for who asked."""


class ChangedError(AmpError):
    """A file is not, or is no more, what its manifest says."""


@dataclass(frozen=True)
class Answer:
    """What there is of a range of hours."""

    files: list[_File]
    not_yet: Hour | None
    """First hour of the range that has not been delivered so far, nor any after it; None where there is none."""

    @property
    def packed_bytes(self) -> int:
        """Bytes of all files as stored."""
        return sum(file.bytes for file in self.files)


class Exported:
    """One delivery's archive, to be read."""

    def __init__(
        self,
        organization: Organization,
        project: Project,
        delivery: Delivery,
        store: ObjectStore,
        today: Callable[[], date],
    ) -> None:
        """Read the archive of ``delivery`` from ``store``; nothing is opened before it is asked for."""
        self.label = f"{project.slug}.{delivery.name}"
        self.store = store
        self._names = ArchiveNames(organization.id, project.id, delivery.name)
        self._folder = str(project.id)
        self._begin = max(project.first_hour, delivery.first_hour or project.first_hour)
        self._end = project.last_hour
        self._today = today
        self._newest: Hour | None = None

    def between(self, first: Hour, last: Hour) -> Answer:
        """Return what there is of the hours from ``first`` to ``last``, both included.

        Raises:
            NotWholeError: An hour is being written, or is missing though later ones are there.
            ChangedError: A manifest can't be read, or is none of its hour.
            StoreError: The store can't be read.
        """
        delivered, claimed = self._listed(first, last)
        missing = [hour for hour in between(*self._of_project(first, last)) if hour not in delivered]
        for hour in missing:
            if hour in claimed:
                raise NotWholeError(f"the hour {hour} is being written; ask again in a moment")
        if missing and self._is_later(missing[0], last, delivered):
            raise NotWholeError(f"the hour {missing[0]} is missing, or being written again; later ones are there")
        hours = sorted(delivered)
        # One at a time has no use for threads.
        with ThreadPoolExecutor(min(_AT_ONCE, len(hours) or 1), thread_name_prefix="manifests") as threads:
            files = [file for found in threads.map(self._files, hours) for file in found]
        return Answer(files, missing[0] if missing else None)

    def length(self, answer: Answer) -> int:
        """Return how many bytes :meth:`zipped` will give."""
        return length(self._folder, [Member(file.name, file.bytes) for file in answer.files])

    def zipped(self, answer: Answer) -> Generator[bytes, None, None]:
        """Yield the files as one zip. Where it raises, the zip has no end.

        Raises:
            ChangedError: A file's bytes are not those of its manifest, or it is no more.
            StoreError: The store can't be read.
        """
        return pieces(self._folder, ((Member(file.name, file.bytes), self._held(file)) for file in answer.files))

    def _of_project(self, first: Hour, last: Hour) -> tuple[Hour, Hour]:
        return max(first, self._begin), last if self._end is None else min(last, self._end)

    def _listed(self, first: Hour, last: Hour) -> tuple[set[Hour], set[Hour]]:
        """Return the hours of a range that have a manifest, and those that a run is writing."""
        delivered: set[Hour] = set()
        claimed: set[Hour] = set()
        for beginning in _days(first.date, last.date):
            for info in self.store.find(self._names.manifests_prefix(beginning)):
                of = self._names.hour_of_end(info.name)
                if of is not None and first <= of[0] <= last:
                    (delivered if of[1] else claimed).add(of[0])
        if delivered:
            self._newest = max(delivered | ({self._newest} if self._newest else set()))
        return delivered, claimed

    def _is_later(self, missing: Hour, last: Hour, delivered: set[Hour]) -> bool:
        """Tell whether an hour after ``missing`` has been delivered, or itself was when somebody asked before."""
        if any(hour > missing for hour in delivered) or (self._newest is not None and self._newest >= missing):
            return True
        for beginning in _months_from(last.date, self._today()):
            for info in self.store.find(self._names.manifests_prefix(beginning)):
                of = self._names.hour_of_end(info.name)
                if of is not None and of[1] and of[0] > missing:
                    self._newest = of[0]
                    return True
        return False

    def _files(self, hour: Hour) -> list[_File]:
        name = self._names.manifest(hour)
        try:
            found = msgspec.json.decode(self.store.get(name), type=_Manifest)
        except ObjectNotFoundError:
            raise NotWholeError(f"the hour {hour} is being written; ask again in a moment") from None
        except msgspec.MsgspecError as error:
            raise ChangedError(f"{self.store.uri(name)} is no manifest: {error}") from None
        events = [file for file in found.files if file.kind == "events"]
        # What is no name of the hour's parts would be a way out of the bucket's folder, or of who unpacks the zip.
        known = [re.compile(f"{re.escape(prefix)}\\d+\\.json\\.gz") for prefix in self._names.events_prefixes(hour)]
        for file in events:
            if found.hour != hour.key or not any(pattern.fullmatch(file.name) for pattern in known):
                raise ChangedError(f"{self.store.uri(name)} is no manifest of the hour {hour}: it lists {file.name!r}")
        return events

    def _held(self, file: _File) -> Iterator[bytes]:
        """Yield a file's bytes, and raise at their end where they are others than the manifest says."""
        digest = hashlib.sha256()
        size = 0
        try:
            for chunk in self.store.chunks(file.name):
                size += len(chunk)
                if size > file.bytes:
                    break
                digest.update(chunk)
                yield chunk
        except ObjectNotFoundError:
            raise ChangedError(f"{self.store.uri(file.name)} is no more, though its manifest lists it") from None
        if size != file.bytes or digest.hexdigest() != file.sha256:
            raise ChangedError(f"{self.store.uri(file.name)} has other bytes than its manifest says")


def _days(first: date, last: date) -> Iterator[str]:
    """Yield beginnings of days that cover a range: each day, or the months where these are many."""
    if (last - first).days < _SINGLE_DAYS:
        for number in range((last - first).days + 1):
            yield f"{(first + timedelta(days=number)).isoformat()}/"
        return
    year, month = first.year, first.month
    while (year, month) <= (last.year, last.month):
        yield f"{year:04d}-{month:02d}-"
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _months_from(first: date, today: date) -> Iterator[str]:
    """Yield beginnings of days from the month of ``first`` until today: months, then years."""
    for month in range(first.month, 13):
        if (first.year, month) > (today.year, today.month):
            return
        yield f"{first.year:04d}-{month:02d}-"
    for year in range(first.year + 1, today.year + 1):
        yield f"{year:04d}-"
