"""Blocks of lines, to columns of what is read of them: what :mod:`envelope` does line by line, many times faster.

Lines of one source have mostly the same keys, and msgspec reads known keys in one go, keeping of each value that is
no field of the envelope its bytes as they stand. So the keys seen so far make the type that the next lines are read
with; a line with a new key is learnt from. Whatever is not read that way, a bad line say, is read line by line, by the
rules of :mod:`envelope`, and gives the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec.structs import astuple

from amp_pipeline.core import envelope, identity
from amp_pipeline.core.envelope import MOST_LEVELS, Bad, Data, Envelope
from amp_pipeline.core.lines import Block, is_blank

PIECE_BYTES = 512 << 10
"""Lines that are decoded at a time: they and what is made of them stay in the processor's cache."""

MOST_KEYS = 256
"""Keys that are learnt. A source with more of them at the top of its lines is read the slower way."""

_NO_EVENT = Envelope()
_NO_NAME = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')  # in a key that msgspec takes for no field's name
_OPEN_BRACKETS = 0x7B  # [ and { differ in the one bit 0x20
_WORD_BITS = 64
_STEP = 64 << 10  # so small that what is made of it stays in the processor's cache


@dataclass(slots=True)
class Columns:
    """What was read of some lines; the lists are parallel to them."""

    events: list[Any] = field(default_factory=list[Any])
    """Objects with the fields of an envelope as attributes, ``data`` aside; an empty one where there is no event."""
    merged: list[int | None] = field(default_factory=list[int | None])
    """``data.merged_amplitude_id``."""
    contents: list[int] = field(default_factory=list[int])
    """Content digests, 64 bits."""
    refused: dict[int, Bad | None] = field(default_factory=dict[int, Bad | None])
    """Position of lines that are no events, and why; None where the line is blank."""


class _Shape(NamedTuple):
    """How lines with some keys are read."""

    decode: Callable[[bytes], Any]
    decode_lines: Callable[[memoryview], list[Any]]
    columns: Callable[[Any], tuple[Any, ...]]
    """Of an event's fields in order, the values of the columns that are content."""
    other_keys: tuple[str, ...]
    """Keys that are no known columns."""
    others: Callable[[Any], tuple[Any, ...]]
    """Their values."""


class Reader:
    """Reads the blocks of one source, learning its keys."""

    def __init__(self, *, contents: bool = True) -> None:
        """Begin without keys; without ``contents``, content digests are left out of what is returned."""
        self._with_contents = contents
        self._keys: dict[str, None] = {}
        self._shape = _shape(())

    def read(self, block: Block) -> Columns:
        """Return what there is to know of the lines of ``block``."""
        columns = Columns()
        if block.text and not self._whole(block, columns):
            # So that a bad line makes few others slow.
            for piece in block.pieces(PIECE_BYTES):
                if not self._whole(piece, columns):
                    for line in piece.lines:
                        self._one(line, columns)
        return columns

    def _whole(self, block: Block, columns: Columns) -> bool:
        """Read all lines in one go, unless one of them is no event, or may be none; tell whether that was done."""
        if not (_is_utf8(block.text) and _has_an_object_a_line(block) and not _may_be_too_deep(block)):
            return False
        try:
            events = self._decoded(block)
            merged = _merged(events)
        except msgspec.DecodeError:
            return False
        if len(events) != len(block):
            return False
        columns.events += events
        columns.merged += merged
        if self._with_contents:
            columns.contents += self._contents(events)
        return True

    def _decoded(self, block: Block) -> list[Any]:
        """Return the events on the lines, learning new keys on the way.

        Raises:
            msgspec.DecodeError: One is none.
        """
        events: list[Any] = []
        text = memoryview(block.text)
        start = 0
        while start < len(text):
            end = block.text.find(b"\n", start + PIECE_BYTES - 1) + 1 or len(text)
            try:
                events += self._shape.decode_lines(text[start:end])
            except msgspec.ValidationError:
                if not self._learn(Block(block.text[start:end])):
                    raise
                # From the beginning: all events of a block are of one shape.
                events, start = [], 0
            else:
                start = end
        return events

    def _learn(self, piece: Block) -> bool:
        """Learn the keys of the first line that can't be read with those known; tell whether there were new ones."""
        for line in piece.lines:
            try:
                self._shape.decode(line)
            except msgspec.ValidationError:
                try:
                    keys = identity.members(line).keys()
                except msgspec.DecodeError:
                    return False
                return self._add(keys)
            except msgspec.DecodeError:
                return False
        return False

    def _add(self, keys: Iterable[str]) -> bool:
        new = [key for key in keys if key not in self._keys]
        if not new or len(self._keys) + len(new) > MOST_KEYS or any(map(_NO_NAME.search, new)):
            return False
        self._keys |= dict.fromkeys(keys)
        self._shape = _shape(tuple(self._keys))
        return True

    def _one(self, line: bytes, columns: Columns) -> None:
        position = len(columns.events)
        event, merged, content = self._event(line)
        if event is None or isinstance(event, Bad):
            columns.refused[position] = event
            event = _NO_EVENT
        columns.events.append(event)
        columns.merged.append(merged)
        if self._with_contents:
            columns.contents.append(content)

    def _event(self, line: bytes) -> tuple[Any, int | None, int]:
        if is_blank(line):
            return None, None, 0
        piece = Block(line + b"\n")
        try:
            line.decode()
            if not _may_be_too_deep(piece):
                event = self._shape.decode(line)
                return event, _merged([event])[0], self._content(event)
        except (UnicodeDecodeError, msgspec.DecodeError):
            pass
        found = envelope.read_line(line)
        if not isinstance(found, Envelope):
            return found, None, 0
        merged = found.data.merged_amplitude_id if found.data else None
        return found, merged, identity.content_digest(line, found)

    def _contents(self, events: Sequence[Any]) -> list[int]:
        contents = identity.content_digests(identity.heads(events), map(self._shape.columns, map(astuple, events)))
        if self._shape.other_keys:
            others = map(any, map(self._shape.others, events))
            for position in compress(range(len(events)), others):
                contents[position] = self._content(events[position])
        return contents

    def _content(self, event: Any) -> int:
        shape = self._shape
        others = {key: value for key, value in zip(shape.other_keys, shape.others(event), strict=True) if value}
        if not others:
            return identity.content_digests(identity.heads([event]), [shape.columns(astuple(event))])[0]
        columns = dict(zip(identity.COLUMNS, shape.columns(astuple(event)), strict=True))
        return identity.digest_of_members(event, columns | others)


_ENVELOPE = {item.encode_name: item for item in msgspec.structs.fields(Envelope)}
_ABSENT = msgspec.Raw(b"")
_data = msgspec.json.Decoder(Data | None).decode_lines


@lru_cache(maxsize=256)
def _shape(keys: tuple[str, ...]) -> _Shape:
    # Keys in the order of the lines are found fastest; what no line has had so far may come yet.
    known = dict.fromkeys((*keys, *_ENVELOPE, *identity.COLUMNS, *identity.NOT_CONTENT))
    fields: list[tuple[str, Any, Any]] = []
    names: dict[str, str] = {}
    for position, key in enumerate(known):
        typed = _ENVELOPE.get(key)
        if typed is not None and key != "data":
            fields.append((typed.name, typed.type, msgspec.field(name=key, default=None)))
        else:
            names[key] = "data" if key == "data" else f"value_{position}"
            fields.append((names[key], msgspec.Raw, msgspec.field(name=key, default=_ABSENT)))
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, forbid_unknown_fields=True, gc=False))
    at = {name: position for position, (name, _, _) in enumerate(fields)}
    others = sorted(names.keys() - {*identity.COLUMNS, *identity.NOT_CONTENT})
    return _Shape(
        decode=decoder.decode,
        decode_lines=decoder.decode_lines,
        columns=itemgetter(*[at[names[key]] for key in identity.COLUMNS]),
        other_keys=tuple(others),
        others=_values_of([names[key] for key in others]),
    )


def _values_of(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    def values(event: Any) -> tuple[Any, ...]:
        return tuple([getattr(event, name) for name in names])

    return values


def _merged(events: Sequence[Any]) -> list[int | None]:
    """Return the merged ids of events.

    Raises:
        msgspec.ValidationError: A ``data`` is of an impossible type.
    """
    found = _data(b"\n".join([event.data or b"null" for event in events]))
    return [None if data is None else data.merged_amplitude_id for data in found]


def _is_utf8(text: bytes) -> bool:
    # Polars checks ten times faster than Python decodes, and other threads go on meanwhile.
    try:
        pl.Series([text], dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.PolarsError:
        return False
    return True


def _has_an_object_a_line(piece: Block) -> bool:
    """Tell whether each line begins with ``{`` and ends with ``}``.

    Then no JSON value goes over a line end: behind a ``}`` no value goes on with ``{``. So lines of which as many
    values are read as there are lines hold one each.
    """
    text = np.frombuffer(piece.text, np.uint8)
    return bool((text[piece.starts] == ord("{")).all() and (text[piece.ends - 1] == ord("}")).all())


def _words(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return marks as bits of 64-bit words."""
    bits = np.packbits(marks)
    whole = len(bits) % 8 == 0
    return (bits if whole else np.concatenate([bits, np.zeros(-len(bits) % 8, np.uint8)])).view(np.uint64)


def _may_be_too_deep(piece: Block) -> bool:
    """Tell whether a line may have more brackets open at once than is allowed, since it has more at all.

    Counted in words of 64 bytes, so that the answer may be yes for a line whose neighbours have many.
    """
    text = np.frombuffer(piece.text, np.uint8)
    counts = [
        np.bitwise_count(_words((text[start : start + _STEP] | 0x20) == _OPEN_BRACKETS))
        for start in range(0, len(text), _STEP)
    ]
    counted = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts), dtype=np.int64)])
    if counted[-1] <= MOST_LEVELS:
        return False
    in_lines = counted[piece.ends // _WORD_BITS + 1] - counted[piece.starts // _WORD_BITS]
    return bool((in_lines > MOST_LEVELS).any())
