"""The lines of what an hour is read from, with their numbers in the landing object that they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from amp_pipeline.core import deleted
from amp_pipeline.core.deleted import DeletedEvent
from amp_pipeline.core.errors import LandingError
from amp_pipeline.core.lines import Block, block_of
from amp_pipeline.sources.landing import ObjectReader
from amp_pipeline.storage.objects import ObjectStore

_LINES_AT_ONCE = 16_384
"""What is read of a line takes up to 2 KB, however short it is."""


def numbered(reader: ObjectReader, *, stray: bool) -> Iterator[tuple[Sequence[int], Block]]:
    """Yield an object's lines and their numbers in the landing object.

    A file of strays tells the numbers (see :class:`Scan`).
    """
    if stray:
        for block in reader.stored_blocks():
            pairs = [text.partition(b"\t") for text in block.lines if b"\t" in text]
            yield [int(number) for number, _, _ in pairs], block_of(line for _, _, line in pairs)
        return
    first = 1
    for large in reader.blocks():
        for block in large.at_most(_LINES_AT_ONCE):
            yield range(first, first + len(block)), block
            first += len(block)


def stray_origin(store: ObjectStore, file: str) -> str:
    """Return the landing object that a file of strays comes from."""
    with suppress(msgspec.MsgspecError):
        for block in ObjectReader(store, file).stored_blocks():
            return msgspec.json.decode(block.line(0), type=str)
    raise LandingError(f"{store.uri(file)} is empty or damaged; delete it and run the hour it came from again")


def deleted_events(numbers: Sequence[int], block: Block) -> dict[int, DeletedEvent]:
    """Return what stays of deleted events in a block of strays, by position; their numbers are negative."""
    if isinstance(numbers, range):
        return {}
    return {at: deleted.decode(block.line(at)) for at, number in enumerate(numbers) if number < 0}


def without(block: Block, gone: Mapping[int, DeletedEvent]) -> Block:
    """Return the block with blank lines where deleted events stood."""
    return block_of(b"" if at in gone else line for at, line in enumerate(block.lines))
