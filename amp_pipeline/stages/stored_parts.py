"""Deduplicated parts as they are stored: written, read, held against what was written and what was there before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import xxhash

from amp_pipeline.config import Parts
from amp_pipeline.core import codec
from amp_pipeline.core.errors import DamagedObjectError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block, split_stored
from amp_pipeline.core.overlap import Behind
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import explained
from amp_pipeline.workspace.records import PartRecord
from amp_pipeline.workspace.store import ProjectStore

LARGE_BYTES = 16 << 20
"""Unpacked; hours from here on are worth threads."""


def open_parts(store: ObjectStore, parts: Sequence[PartRecord]) -> Iterator[Block]:
    """Yield the lines of stored parts, in order.

    Raises:
        DamagedObjectError: A part can't be unpacked.
        ObjectNotFoundError: A part is gone.
    """
    for part in parts:
        yield from split_stored(codec.unpack(store.chunks(part.name), store.uri(part.name)))


def put_parts(
    workspace: ProjectStore,
    hour: Hour,
    parts: Parts,
    lines: Iterable[tuple[Block, npt.NDArray[np.bool_]]],
    *,
    at_once: bool,
) -> list[PartRecord]:
    """Write the lines that are kept; of a large hour, reading, packing and checking go on at the same time."""
    numbers = count()

    def put(part: codec.Part) -> PartRecord:
        record = workspace.put_part(hour, next(numbers), part)
        check_part(workspace.store, record)
        return record

    with (
        explained(),
        Behind[PartRecord](at_once=at_once) as written,
        codec.PartsPacker(
            parts.size, lambda part: written.do(put, part), compression=parts.compression, at_once=at_once
        ) as packer,
    ):
        for block, keep in lines:
            packer.add(block, keep)
    return written.results


def check_part(store: ObjectStore, part: PartRecord) -> None:
    """Read a stored part again and hold its bytes and its lines against what was written.

    Raises:
        WorkspaceError: It is not what was written.
    """
    digest = hashlib.sha256()
    rows, last = 0, b""

    def chunks() -> Iterator[bytes]:
        for chunk in store.chunks(part.name):
            digest.update(chunk)
            yield chunk

    try:
        for block in codec.unpack(chunks(), store.uri(part.name)):
            rows += np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            last = block[-1:]
    except DamagedObjectError:
        rows = -1
    if digest.hexdigest() != part.sha256 or rows != part.rows or last != b"\n":
        raise WorkspaceError(
            f"{store.uri(part.name)} is not what was written ({rows} lines instead of {part.rows}); "
            "check the disk and run the hour again"
        )


def changed_lines(store: ObjectStore, before: Sequence[PartRecord], after: Sequence[PartRecord]) -> tuple[int, int]:
    """Return how many lines were added and how many removed between two versions of an hour; 16 bytes a line of memory.

    Raises:
        DamagedObjectError: A part can't be unpacked.
        ObjectNotFoundError: A part is gone.
    """
    old, new = _line_digests(store, before), _line_digests(store, after)
    lines, counts = np.unique(np.concatenate([old, new]), return_counts=True)
    was = np.zeros(len(lines), np.int64)
    found, times = np.unique(old, return_counts=True)
    was[np.searchsorted(lines, found)] = times
    more = counts - 2 * was
    return int(more[more > 0].sum()), int(-more[more < 0].sum())


def _line_digests(store: ObjectStore, parts: Sequence[PartRecord]) -> npt.NDArray[np.uint64]:
    """Return 8 bytes of digest of each line: two of a million lines share one by chance in 1 of 37 million hours."""
    digests = (xxhash.xxh3_64_intdigest(line) for block in open_parts(store, parts) for line in block.lines)
    return np.fromiter(digests, np.uint64)
