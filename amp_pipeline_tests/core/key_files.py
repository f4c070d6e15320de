"""Key indexes and rows files written from the description of their formats, plainly."""

from collections.abc import Sequence
from struct import pack
from typing import NamedTuple

import xxhash

from amp_pipeline.core import index
from amp_pipeline.core.index import Keys, Read

NO_TIME = -(2**63)


class Event(NamedTuple):
    row: int
    time: int
    event_time: int | None = None
    identity: tuple[int, int] | None = (0, 0)
    content: int = 0


def ranked(events: Sequence[Event]) -> list[tuple[int, int, int, int, int]]:
    """``high``, ``low``, ``time``, ``content`` and row of what has an identity, as they stand in an index."""
    found = [(*event.identity, event.time, event.content, event.row) for event in events if event.identity is not None]
    # Sorting is stable, so ties stay in landing order.
    return sorted(found, key=lambda key: key[:3])


def keys_file(events: Sequence[Event]) -> bytes:
    keys = ranked(events)
    entries: list[bytes] = []
    for start in range(0, len(keys), index.KEYS_A_BLOCK):
        block = keys[start : start + index.KEYS_A_BLOCK]
        entries.append(pack("<QQQ", block[0][0], xxhash.xxh3_64_intdigest(_highs(block)), _digest_of_rests(block)))
    directory = b"".join(entries)
    header = b"AMPKEYS2" + pack("<QQQ", len(keys), xxhash.xxh3_64_intdigest(directory), 0)
    return header + directory + _highs(keys) + _rests(keys)


def rows_file(events: Sequence[Event]) -> bytes:
    keys = ranked(events)
    header = b"AMPROWS2" + pack("<QQQ", len(events), len(keys), 0)
    times = [NO_TIME if event.event_time is None else event.event_time for event in events]
    records = [pack("<Qqq", event.row, event.time, time) for event, time in zip(events, times, strict=True)]
    return header + b"".join(records) + b"".join(pack("<Q", row) for *_, row in keys)


def reading(data: bytes) -> Read:
    return lambda start, length: data[start : start + length]


def plain(keys: Keys) -> list[tuple[int, int, int, int]]:
    columns = (keys.high.tolist(), keys.low.tolist(), keys.time.tolist(), keys.content.tolist())
    return list(zip(*columns, strict=True))


def _highs(keys: Sequence[tuple[int, ...]]) -> bytes:
    return b"".join(pack("<Q", high) for high, *_ in keys)


def _rests(keys: Sequence[tuple[int, ...]]) -> bytes:
    return b"".join(pack("<QqQ", low, time, content) for _, low, time, content, _ in keys)


def _digest_of_rests(keys: Sequence[tuple[int, ...]]) -> int:
    return xxhash.xxh3_64_intdigest(_rests(keys))
