"""Looking whether anything of deleted users is left in an object: what an audit and the end of a deletion ask."""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec

from amp_pipeline.core import codec, merged_ids
from amp_pipeline.core.lines import Block, block_of, split_stored
from amp_pipeline.core.merged_ids import Merge
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.storage.objects import ObjectStore

Kind = Literal["events", "repeats", "quarantine", "strays", "merged_ids", "pairs"]
"""What an object holds, one thing a line."""

_entry = msgspec.json.Decoder(dict[str, Any]).decode
_pair = msgspec.json.Decoder(Merge).decode


def traces(store: ObjectStore, name: str, kind: Kind, here: Suppressed) -> int:
    """Return how many lines of an object are of users that ``here`` deletes.

    Raises:
        DamagedObjectError: It can't be unpacked.
        ObjectNotFoundError: It is gone.
    """
    return sum(_of_block(block, kind, here) for block in split_stored(codec.unpack(store.chunks(name), name)))


def _of_block(block: Block, kind: Kind, here: Suppressed) -> int:
    if kind == "events":
        return len(here.find(block))
    if kind == "strays":
        lines = (line for number, _, line in (text.partition(b"\t") for text in block.lines) if number[:1].isdigit())
        return len(here.find(block_of(lines)))
    if kind == "repeats":
        return len(here.find(block_of(_text(line) for line in block.lines)))
    if kind == "quarantine":
        return sum(here.of_bad_line(_text(line)) is not None for line in block.lines)
    merges = [_pair(line) if kind == "pairs" else merged_ids.read_landed(line) for line in block.lines]
    return sum(isinstance(merge, Merge) and here.of_merge(*merge.pair) is not None for merge in merges)


def _text(line: bytes) -> bytes:
    entry = _entry(line)
    return base64.b64decode(entry["base64"]) if "base64" in entry else entry.get("text", "").encode()
