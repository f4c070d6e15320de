"""Blocks of delivered lines, to rows of the table ``event``. Rules: docs/tables.md, "event".

Lines of one source have mostly the same keys and the values that Amplitude documents, and msgspec reads those in one
go. So the keys seen so far make the type that the next lines are read with. What can't be read that way, a new key or
a value of another type say, is read member by member, and what fits no column is kept as it stands.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec.structs import astuple

from amp_pipeline.core import timestamps
from amp_pipeline.core.columns import MOST_KEYS, PIECE_BYTES
from amp_pipeline.core.envelope import exact_decoder
from amp_pipeline.core.identity import members, members_exactly
from amp_pipeline.core.lines import Block
from amp_pipeline.core.schema import COLUMNS, KINDS, Kind
from amp_pipeline.core.tables import EVENT
from amp_pipeline.core.timestamps import NO_TIME
from amp_pipeline.core.user_keys import UserKeys

_INT64 = range(-(2**63), 2**63)
_Whole: Any = Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])]
_TYPES: dict[Kind, Any] = {
    "string": str | None,
    "integer": _Whole | None,
    "number": float | None,
    "boolean": bool | Literal["true", "false"] | None,
    "time": str | None,
    "json": msgspec.Raw,
}
_NULL = msgspec.Raw(b"null")
_TIMES = tuple(position for position, column in enumerate(COLUMNS) if column.kind == "time")
_AT = {column.name: position for position, column in enumerate(COLUMNS)}
_UUID_BYTES = 16
_CASTS: dict[Any, Any] = {
    name: dtype for name, dtype in EVENT.schema.items() if name == "others" or KINDS.get(name) in ("json", "time")
}

Row = tuple[Any, ...]
"""Values of :data:`COLUMNS`: decoded, times and JSON as their text."""


class _Shape(NamedTuple):
    """How lines with some keys are read."""

    decode_lines: Callable[[bytes], list[Any]]
    decode: Callable[[bytes], Any]
    others: tuple[str, ...]
    """Keys that are no columns; their values stand behind those of the columns."""


class EventRows:
    """Reads the delivered lines of one hour, in their order."""

    def __init__(self) -> None:
        """Begin without keys."""
        self._others: dict[str, None] = {}
        self._shape = _shape(())
        self._keys = UserKeys()
        self._alike: Counter[bytes] = Counter()
        """Lines without uuid, by digest."""

    def read(self, block: Block) -> pl.DataFrame:
        """Return a row of :data:`amp_pipeline.core.tables.EVENT` for each line of ``block``, all of them events."""
        rows: list[Row] = []
        others: list[bytes | None] = []
        for piece in block.pieces(PIECE_BYTES):
            more_rows, more_others = self._rows(piece)
            rows += more_rows
            others += more_others
        return self._frame(block, rows, others) if rows else EVENT.empty()

    def _frame(self, block: Block, rows: list[Row], others: list[bytes | None]) -> pl.DataFrame:
        columns = list(zip(*rows, strict=True))
        times: dict[int, Any] = {}
        for position in _TIMES:
            times[position], bad = _parsed(columns[position])
            for at in bad:
                # Read again, so that its text is kept.
                rows[at], others[at] = _exactly(block.line(at))
            if bad:
                columns = list(zip(*rows, strict=True))
        return self._as_frame(block, columns, times, others)

    def _rows(self, piece: Block) -> tuple[list[Row], list[bytes | None]]:
        """Return the values of the columns of each line, and what fits none of them."""
        try:
            events = self._shape.decode_lines(piece.text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._one_by_one(piece)
        return self._split(list(map(astuple, events)), self._shape)

    def _one_by_one(self, piece: Block) -> tuple[list[Row], list[bytes | None]]:
        rows: list[Row] = []
        others: list[bytes | None] = []
        for line in piece.lines:
            try:
                event = self._decoded(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                row, other = _exactly(line)
                rows.append(row)
                others.append(other)
            else:
                one, other_of_one = self._split([astuple(event)], self._shape)
                rows += one
                others += other_of_one
        return rows, others

    def _decoded(self, line: bytes) -> Any:
        """Return the event on a line, learning its keys.

        Raises:
            msgspec.DecodeError: A value is of another type than its column, or only Python's parser reads the line.
        """
        try:
            return self._shape.decode(line)
        except msgspec.ValidationError:
            new = [key for key in members(line) if key not in KINDS and key not in self._others]
            if not new or len(self._others) + len(new) > MOST_KEYS or not all(map(_may_be_a_field, new)):
                raise
            self._others |= dict.fromkeys(new)
            self._shape = _shape(tuple(self._others))
            return self._shape.decode(line)

    def _split(self, events: list[Row], shape: _Shape) -> tuple[list[Row], list[bytes | None]]:
        if not shape.others:
            return events, [None] * len(events)
        width = len(COLUMNS)
        rows = [event[:width] for event in events]
        return rows, [_object(zip(shape.others, event[width:], strict=True)) for event in events]

    def _as_frame(
        self, block: Block, columns: list[Row], times: Mapping[int, Any], others: list[bytes | None]
    ) -> pl.DataFrame:
        ids = zip(columns[_AT["user_id"]], columns[_AT["amplitude_id"]], columns[_AT["device_id"]], strict=True)
        found = {
            column.name.removeprefix("$"): _series(column.name.removeprefix("$"), column.kind, columns, times, position)
            for position, column in enumerate(COLUMNS)
        }
        found["uuid"] = pl.Series("uuid", self._uuids(block, columns[_AT["uuid"]]), dtype=pl.String)
        found["user_key"] = pl.Series("user_key", self._keys.many(ids), dtype=pl.String)
        found["others"] = pl.Series("others", others, dtype=pl.Binary)
        return pl.DataFrame([found[name] for name in EVENT.schema]).cast(_CASTS)

    def _uuids(self, block: Block, uuids: Sequence[str | None]) -> Sequence[str | None]:
        """Return the uuids, made up where there is none."""
        if all(uuids):
            return uuids
        return [uuid or self._made_up(block.line(at)) for at, uuid in enumerate(uuids)]

    def _made_up(self, line: bytes) -> str:
        digest = blake2b(line, digest_size=_UUID_BYTES).digest()
        self._alike[digest] += 1
        numbered = blake2b(digest + b"%d" % self._alike[digest], digest_size=_UUID_BYTES).digest()
        # Version 8: made in a way of one's own (RFC 9562, 5.8).
        number = int.from_bytes(numbered) & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return str(UUID(int=number))


@lru_cache(maxsize=256)
def _shape(others: tuple[str, ...]) -> _Shape:
    fields = [
        (f"value_{position}", _TYPES[column.kind], msgspec.field(name=column.name, default=_default(column.kind)))
        for position, column in enumerate(COLUMNS)
    ]
    fields += [
        (f"other_{position}", msgspec.Raw, msgspec.field(name=key, default=msgspec.Raw(b"")))
        for position, key in enumerate(others)
    ]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, forbid_unknown_fields=True, gc=False))
    return _Shape(decoder.decode_lines, decoder.decode, others)


def _default(kind: Kind) -> Any:
    return _NULL if kind == "json" else None


def _may_be_a_field(key: str) -> bool:
    # What msgspec takes for no field's name.
    return not any(one in '"\\' or one < " " or "\ud800" <= one <= "\udfff" for one in key)


def _series(name: str, kind: Kind, columns: list[Row], times: Mapping[int, Any], position: int) -> pl.Series:
    values = columns[position]
    if kind == "time":
        # What is no time in int64 is none in datetime64 either.
        return pl.Series(name, times[position].view("datetime64[us]"))
    if kind == "json":
        texts = [None if value == _NULL else bytes(value) for value in values]
        return pl.Series(name, texts, dtype=pl.Binary)
    if kind == "boolean" and not {True, False, None}.issuperset(values):
        values = [value == "true" if isinstance(value, str) else value for value in values]
    dtype = {"string": pl.String, "integer": pl.Int64, "number": pl.Float64, "boolean": pl.Boolean}[kind]
    return pl.Series(name, values, dtype=dtype)


def _parsed(texts: Sequence[str | None]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Return times as µs since 1970, and which of the texts have no known form."""
    there = [text for text in texts if text is not None]
    parsed = timestamps.parse_many(there) if there else np.empty(0, np.int64)
    if len(there) == len(texts):
        times = parsed
    else:
        times = np.full(len(texts), NO_TIME)
        times[[text is not None for text in texts]] = parsed
    if not (parsed == NO_TIME).any():
        return times, []
    return times, [at for at in np.flatnonzero(times == NO_TIME).tolist() if texts[at] is not None]


def _object(found: Iterable[tuple[str, Any]]) -> bytes | None:
    """Return keys with the bytes of their values as a JSON object, keys in order; None where there are none."""
    there = sorted((key, bytes(value)) for key, value in found if value)
    return b"{%s}" % b",".join([b"%s:%s" % (_quoted(key), value) for key, value in there]) if there else None


def _quoted(key: str) -> bytes:
    try:
        return msgspec.json.encode(key)
    except UnicodeEncodeError:
        # A lone surrogate.
        return json.dumps(key).encode()


def _exactly(line: bytes) -> tuple[Row, bytes | None]:
    """Return the values of the columns of an event and what fits none of them, member by member."""
    row: list[Any] = [_default(column.kind) for column in COLUMNS]
    others: list[tuple[str, bytes]] = []
    for key, value in members_exactly(line).items():
        kind = KINDS.get(key)
        fitting = None if kind is None else _fitting(kind, value)
        if fitting is not None:
            row[_AT[key]] = fitting[0]
        else:
            others.append((key, value))
    return tuple(row), _object(others)


def _fitting(kind: Kind, text: bytes) -> tuple[Any] | None:
    """Return what a column of ``kind`` has of a JSON value; None where it does not fit."""
    if kind == "json":
        return (msgspec.Raw(text),)
    value: Any = exact_decoder.decode(text.decode())
    if value is None:
        return (None,)
    if isinstance(value, bool):
        return (value,) if kind == "boolean" else None
    if isinstance(value, str):
        return _fitting_string(kind, value)
    if isinstance(value, (int, float)):
        return _fitting_number(kind, value)
    return None


def _fitting_string(kind: Kind, value: str) -> tuple[Any] | None:
    if kind == "boolean":
        return (value == "true",) if value in ("true", "false") else None
    if kind == "time":
        return (value,) if timestamps.parse([value])[0] is not None else None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return (value,) if kind == "string" else None


def _fitting_number(kind: Kind, value: int | float) -> tuple[Any] | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    if number in (float("inf"), float("-inf")):
        return None
    if kind == "number":
        return (number,)
    whole = int(value) if isinstance(value, int) or value.is_integer() else None
    return (whole,) if kind == "integer" and whole is not None and whole in _INT64 else None
