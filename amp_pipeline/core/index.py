"""What an hour leaves behind for deduplication: a key index for ever, and the rows of the hour for itself.

Both are little-endian, so that any language reads them, and the same content has the same bytes. A key index is made
to be searched where it lies, a week of a million events an hour without loading any of it whole:

* key index: a header (``AMPKEYS2``, u64 number of keys, u64 XXH3 of the directory, u64 zero), the directory, the keys.
  A key is the 128-bit digest of an identity (``high``, ``low``: u64), ``time`` (i64, µs) and ``content`` (u64); keys
  are sorted by digest, time and landing order. All ``high`` stand first, then for each key ``low``, ``time`` and
  ``content``: 32 bytes an event that has an identity. The directory has for each 4096 keys three u64: the first
  ``high``, and the XXH3 of the ``high`` and of the rest of these keys, so that what is read in pieces is checked too.
* rows: a header (``AMPROWS2``, u64 number of events, u64 number of keys, u64 zero), then for each event in landing
  order ``row`` (u64, position among all lines of the hour's objects, blank ones too), ``time`` and ``event_time``
  (i64, µs; the smallest i64 where the event has none), then for each key in the order of the key index the ``row`` of
  its event (u64).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from amp_pipeline.core.errors import WorkspaceError

HEADER_BYTES = 32
KEYS_A_BLOCK = 4096

HIGH = np.dtype("<u8")
REST = np.dtype([("low", "<u8"), ("time", "<i8"), ("content", "<u8")])
EVENT = np.dtype([("row", "<u8"), ("time", "<i8"), ("event_time", "<i8")])
RANK = np.dtype("<u8")
_ENTRY = np.dtype([("first", "<u8"), ("high", "<u8"), ("rest", "<u8")])

_KEYS_MAGIC = b"AMPKEYS2"
_ROWS_MAGIC = b"AMPROWS2"
_SPACE = 1 << 64

Read = Callable[[int, int], bytes]
"""Reads some bytes of a file: start, length."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of an index, sorted by ``high``, ``low``, ``time``; the columns have shape (keys,)."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    time: npt.NDArray[np.int64]
    """µs."""
    content: npt.NDArray[np.uint64]

    @property
    def count(self) -> int:
        """How many keys there are."""
        return len(self.high)

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Keys:
        """Return some of the keys."""
        return Keys(self.high[chosen], self.low[chosen], self.time[chosen], self.content[chosen])

    def frame(self) -> pl.DataFrame:
        """Return the same as a frame."""
        return pl.DataFrame({"high": self.high, "low": self.low, "time": self.time, "content": self.content})

    def same_as_before(self) -> npt.NDArray[np.bool_]:
        """Tell for each key whether it has the identity of the key before it."""
        same = np.zeros(self.count, np.bool_)
        same[1:] = (self.high[1:] == self.high[:-1]) & (self.low[1:] == self.low[:-1])
        return same


def no_keys() -> Keys:
    """Return the key index of an hour without identities."""
    return joined([])


def joined(several: list[Keys]) -> Keys:
    """Return keys one behind the other."""
    if len(several) == 1:
        return several[0]
    u64, i64 = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return Keys(
        np.concatenate([u64, *(keys.high for keys in several)]),
        np.concatenate([u64, *(keys.low for keys in several)]),
        np.concatenate([i64, *(keys.time for keys in several)]),
        np.concatenate([u64, *(keys.content for keys in several)]),
    )


def order(keys: Keys) -> npt.NDArray[np.int64]:
    """Return the positions of unsorted keys, given in landing order, as they stand in an index."""
    by_high = np.argsort(keys.high)
    high = keys.high[by_high]
    tied = np.zeros(keys.count, np.bool_)
    tied[1:] = high[1:] == high[:-1]
    tied[:-1] |= tied[1:]
    # Sorting by 64 bits is quick and settles nearly all.
    some = by_high[tied]
    by_high[tied] = some[np.lexsort((some, keys.time[some], keys.low[some], keys.high[some]))]
    return by_high


def ranges(keys: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut the space of ``high`` into ranges, so that of that many keys hardly more than ``most`` are in each.

    Yields:
        First and last ``high``, both included; digests are spread evenly.
    """
    count = max(1, -(-keys // most))
    for number in range(count):
        yield number * _SPACE // count, (number + 1) * _SPACE // count - 1


def keys_header(count: int, directory: bytes) -> bytes:
    """Return the header of a key index."""
    digest = xxhash.xxh3_64_intdigest(directory)
    return _KEYS_MAGIC + b"".join(number.to_bytes(8, "little") for number in (count, digest, 0))


def rows_header(events: int, keys: int) -> bytes:
    """Return the header of a rows file."""
    return _ROWS_MAGIC + b"".join(number.to_bytes(8, "little") for number in (events, keys, 0))


def high_start(count: int) -> int:
    """Return where the ``high`` of a key index of ``count`` keys begin."""
    return HEADER_BYTES + _blocks(count) * _ENTRY.itemsize


def rest_start(count: int) -> int:
    """Return where the rest of the keys begins."""
    return high_start(count) + count * HIGH.itemsize


def directory(count: int, read: Read) -> bytes:
    """Return the directory of a key index whose keys are written."""
    entries = np.zeros(_blocks(count), _ENTRY)
    for block, entry in enumerate(entries):
        here = min(KEYS_A_BLOCK, count - block * KEYS_A_BLOCK)
        high = read(high_start(count) + block * KEYS_A_BLOCK * HIGH.itemsize, here * HIGH.itemsize)
        rest = read(rest_start(count) + block * KEYS_A_BLOCK * REST.itemsize, here * REST.itemsize)
        entry["first"] = int.from_bytes(high[: HIGH.itemsize], "little")
        entry["high"], entry["rest"] = xxhash.xxh3_64_intdigest(high), xxhash.xxh3_64_intdigest(rest)
    return entries.tobytes()


class KeyIndex:
    """A key index where it lies."""

    def __init__(self, read: Read, size: int, name: str) -> None:
        """Open an index.

        Args:
            read: Reads its bytes.
            size: All its bytes.
            name: For messages.

        Raises:
            WorkspaceError: It is no whole key index of this version.
        """
        self._read = read
        self._name = name
        header = read(0, HEADER_BYTES)
        self.count = int.from_bytes(header[8:16], "little")
        if header[:8] != _KEYS_MAGIC or size != rest_start(self.count) + self.count * REST.itemsize:
            raise WorkspaceError(
                f"{name} is not a whole {_KEYS_MAGIC.decode()} file ({size} bytes); "
                "delete it and run its hour again, forced"
            )
        entries = read(HEADER_BYTES, high_start(self.count) - HEADER_BYTES)
        if header != keys_header(self.count, entries):
            raise self._damaged()
        self._directory = np.frombuffer(entries, _ENTRY)

    def between(self, first: int, last: int) -> tuple[int, Keys]:
        """Return the keys whose ``high`` is from ``first`` to ``last``, both included, and the rank of the first.

        Raises:
            WorkspaceError: The file is not what was written.
        """
        start, end = self._blocks_of(first, last)
        high = self._highs(start, end)
        rest = self._rests(start, end)
        low = int(np.searchsorted(high, np.uint64(first), "left"))
        top = int(np.searchsorted(high, np.uint64(last), "right"))
        rest = rest[low:top]
        keys = Keys(high[low:top], rest["low"].copy(), rest["time"].copy(), rest["content"].copy())
        return start * KEYS_A_BLOCK + low, keys

    def all(self) -> Keys:
        """Return all keys."""
        return self.between(0, _SPACE - 1)[1]

    def search(self, wanted: npt.NDArray[np.uint64]) -> Keys:
        """Return the keys that have one of the ``high`` wanted.

        Args:
            wanted: ``high`` of identities, sorted, each once.

        Raises:
            WorkspaceError: The file is not what was written.
        """
        if not len(wanted) or not self.count:
            return no_keys()
        start, end = self._blocks_of(int(wanted[0]), int(wanted[-1]))
        high = self._highs(start, end)
        found = np.flatnonzero(in_both(high, wanted))
        # Those of the keys' blocks that stand together are read at once.
        blocks = np.unique(found // KEYS_A_BLOCK)
        runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1) if len(blocks) else []
        several: list[Keys] = []
        for run in runs:
            first, behind = int(run[0]), int(run[-1]) + 1
            rest = self._rests(start + first, start + behind)
            here = found[(found >= first * KEYS_A_BLOCK) & (found < behind * KEYS_A_BLOCK)]
            chosen = rest[here - first * KEYS_A_BLOCK]
            several.append(Keys(high[here], chosen["low"], chosen["time"], chosen["content"]))
        return joined(several)

    def _blocks_of(self, first: int, last: int) -> tuple[int, int]:
        """Return the first block that may hold ``first``, and the one behind the last that may hold ``last``."""
        begin = int(np.searchsorted(self._directory["first"], np.uint64(first), "left"))
        end = int(np.searchsorted(self._directory["first"], np.uint64(last), "right"))
        return max(0, begin - 1), end

    def _highs(self, start: int, end: int) -> npt.NDArray[np.uint64]:
        data = self._checked("high", high_start(self.count), HIGH.itemsize, start, end)
        return np.frombuffer(data, HIGH)

    def _rests(self, start: int, end: int) -> npt.NDArray[np.void]:
        data = self._checked("rest", rest_start(self.count), REST.itemsize, start, end)
        return np.frombuffer(data, REST)

    def _checked(self, column: str, begin: int, width: int, start: int, end: int) -> bytes:
        """Return the bytes of some blocks, held against the directory."""
        at = start * KEYS_A_BLOCK
        behind = max(at, min(self.count, end * KEYS_A_BLOCK))
        data = self._read(begin + at * width, (behind - at) * width)
        view, size = memoryview(data), KEYS_A_BLOCK * width
        digests = [xxhash.xxh3_64_intdigest(view[offset : offset + size]) for offset in range(0, len(data), size)]
        if digests != self._directory[column][start:end].tolist():
            raise self._damaged()
        return data

    def _damaged(self) -> WorkspaceError:
        return WorkspaceError(f"{self._name} is not what was written; delete it and run its hour again, forced")


class Rows:
    """A rows file where it lies."""

    def __init__(self, read: Read, size: int, name: str) -> None:
        """Open a file; the arguments are those of :class:`KeyIndex`.

        Raises:
            WorkspaceError: It is no whole rows file of this version.
        """
        self._read = read
        header = read(0, HEADER_BYTES)
        self.events, self.keys = (int.from_bytes(header[at : at + 8], "little") for at in (8, 16))
        if header[:8] != _ROWS_MAGIC or size != self._ranks_start + self.keys * RANK.itemsize:
            raise WorkspaceError(
                f"{name} is not a whole {_ROWS_MAGIC.decode()} file ({size} bytes); "
                "delete it and run its hour again, forced"
            )

    def chunks(self, events: int = 1 << 17) -> Iterator[npt.NDArray[np.void]]:
        """Yield the events in landing order, records of ``row``, ``time`` and ``event_time``, some at a time."""
        for start in range(0, self.events, events):
            here = min(events, self.events - start)
            yield np.frombuffer(self._read(HEADER_BYTES + start * EVENT.itemsize, here * EVENT.itemsize), EVENT)

    def of_ranks(self, first: int, count: int) -> npt.NDArray[np.uint64]:
        """Return the rows of ``count`` keys from the rank ``first`` on."""
        return np.frombuffer(self._read(self._ranks_start + first * RANK.itemsize, count * RANK.itemsize), RANK)

    @property
    def _ranks_start(self) -> int:
        return HEADER_BYTES + self.events * EVENT.itemsize


def in_both(keys: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Tell for each of the sorted ``keys`` whether it is among ``wanted``, which is sorted and has each once."""
    # A stable sort of two sorted runs is one merge: three times faster than a million binary searches.
    merged = np.concatenate([wanted, keys])
    merged.sort(kind="stable")
    met = np.unique(merged[1:][merged[1:] == merged[:-1]])
    met = met[_is_in(wanted, met)]
    starts = np.searchsorted(keys, met, "left")
    ends = np.searchsorted(keys, met, "right")
    chosen = np.zeros(len(keys), np.bool_)
    single = ends - starts == 1
    chosen[starts[single]] = True
    for start, end in zip(starts[~single].tolist(), ends[~single].tolist(), strict=True):
        chosen[start:end] = True
    return chosen


def _is_in(wanted: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(wanted, values), max(0, len(wanted) - 1))
    return wanted[at] == values if len(wanted) else np.zeros(len(values), np.bool_)


def _blocks(count: int) -> int:
    return -(-count // KEYS_A_BLOCK)
