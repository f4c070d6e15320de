"""A landing: which objects an hour has, whether it is complete, and their lines.

Rules: docs/rules.md, "Landing objects".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date

from amp_pipeline.config import Project
from amp_pipeline.core import codec
from amp_pipeline.core.errors import DamagedObjectError, StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import Pattern
from amp_pipeline.core.lines import Block, split, split_stored
from amp_pipeline.core.overlap import ahead
from amp_pipeline.source_settings import AmplitudeExport, Landing
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore


class Listing:
    """The landing's objects by hour, listed a day at a time and remembered: one view of the landing for one run."""

    def __init__(self, store: ObjectStore, pattern: Pattern, *, pulled: bool = False) -> None:
        """List ``store`` by ``pattern``; what is ``pulled`` into it need not be there before."""
        self._store = store
        self._pattern = pattern
        self._pulled = pulled
        self._days: dict[date, dict[Hour, list[ObjectInfo]]] = {}

    def objects(self, hour: Hour) -> list[ObjectInfo]:
        """Return the hour's objects in their order."""
        if hour.date not in self._days:
            self._days[hour.date] = self._list(hour.date)
        return self._days[hour.date].get(hour, [])

    def forget(self) -> None:
        """List anew the next time: something was pulled, or removed."""
        self._days.clear()

    def hours(self) -> list[Hour]:
        """Return all hours that have objects, in order; this lists the whole landing."""
        hours = (self._pattern.hour_of(info.name) for info in self._store.find(self._pattern.common_prefix))
        return sorted({hour for hour in hours if hour is not None})

    def _list(self, day: date) -> dict[Hour, list[ObjectInfo]]:
        found: dict[Hour, list[ObjectInfo]] = {}
        listed = self._store.find(self._pattern.listing_prefix(day))
        if not listed and not self._pulled and not self._store.is_there():
            # Or every hour would be delivered as an empty one.
            raise StoreError(f"the landing {self._store.url} is not there; check the source's url, or mount it")
        for info in listed:
            hour = self._pattern.hour_of(info.name)
            if hour is not None and hour.date == day:
                found.setdefault(hour, []).append(info)
        for objects in found.values():
            objects.sort(key=lambda info: (self._pattern.order_of(info.name), info.name))
        return found


def events(store: ObjectStore, project: Project) -> Listing:
    """Return the listing of a project's event objects."""
    return Listing(store, project.events_pattern, pulled=_is_pulled(project.source))


def markers(store: ObjectStore, project: Project) -> Listing | None:
    """Return the listing of a project's complete markers, or None where the source has none."""
    pattern = _markers_pattern(project)
    return None if pattern is None else Listing(store, pattern, pulled=_is_pulled(project.source))


def other_patterns(project: Project, organization: int) -> list[Pattern]:
    """Return the patterns of what else lands beside a project's events: complete markers, merged ids."""
    merged = Pattern(project.source.merged_ids, organization=organization)
    return [pattern for pattern in (_markers_pattern(project), merged) if pattern is not None]


def _markers_pattern(project: Project) -> Pattern | None:
    pattern = project.source.complete
    return None if pattern is None else Pattern(pattern, project=project.id)


def merged_ids(store: ObjectStore, source: Landing | AmplitudeExport, organization: int) -> Listing:
    """Return the listing of an organization's merged-id objects."""
    return Listing(store, Pattern(source.merged_ids, organization=organization), pulled=_is_pulled(source))


def _is_pulled(source: Landing | AmplitudeExport) -> bool:
    return isinstance(source, AmplitudeExport)


_LARGE_BYTES = 1 << 20
"""Packed; objects from here on are read and unpacked in a thread while their lines are looked at."""


class ObjectReader:
    """Reads one object once: its lines block by block, and after the last its digest and whether it is damaged."""

    def __init__(self, store: ObjectStore, name: str, *, size: int = 0, to_the_damage: bool = False) -> None:
        """Read an object.

        Args:
            store: Where it is.
            name: Its name.
            size: Its bytes, as far as known: those of a large one are read ahead.
            to_the_damage: Of a damaged object, read every line before the damage.
        """
        self._store = store
        self._name = name
        self._ahead = size >= _LARGE_BYTES
        self._to_the_damage = to_the_damage
        self._hash = hashlib.sha256()
        self._ended = True
        self.damage: DamagedObjectError | None = None
        """Why the object could not be read to its end.

        Its last line is then the rest before the damage, if :attr:`unfinished`.
        """

    def blocks(self) -> Iterator[Block]:
        """Yield the object's lines, blank ones included.

        Raises:
            ObjectNotFoundError: The object is gone.
        """
        blocks = split(self._unpacked())
        return ahead(blocks) if self._ahead else blocks

    def stored_blocks(self) -> Iterator[Block]:
        """Yield the lines of an object that the pipeline wrote itself."""
        return split_stored(self._unpacked())

    @property
    def sha256(self) -> str:
        """Digest of the packed bytes, once all blocks were read."""
        return self._hash.hexdigest()

    @property
    def unfinished(self) -> bool:
        """Whether the last line had no line end."""
        return not self._ended

    def _unpacked(self) -> Iterator[bytes]:
        chunks = self._hashed()
        try:
            for block in codec.unpack(chunks, self._store.uri(self._name), to_the_damage=self._to_the_damage):
                self._ended = block.endswith(b"\n")
                yield block
        except DamagedObjectError as error:
            self.damage = error
        for _ in chunks:
            pass

    def _hashed(self) -> Iterator[bytes]:
        for chunk in self._store.chunks(self._name):
            self._hash.update(chunk)
            yield chunk
