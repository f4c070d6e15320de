"""What some events say of users, groups and event types, and merging that.

Counts are added, first and last times are the least and the greatest, and what is of the last event is of the greatest
time and row: so summaries of hours, days and months merge to the same in any order and any grouping.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import msgspec
import polars as pl

from amp_pipeline.core.envelope import exact_decoder, is_object
from amp_pipeline.core.tables import GROUP, LATEST, TYPE_SUMS, USER, USER_GROUP, Name, Table

_ROW = "row"
_LAST = "last"
_NO_GROUPS = "{}"
_SUMS = {
    "first_seen": pl.col("first_seen").min(),
    "last_seen": pl.col("last_seen").max(),
    "first_event_time": pl.col("first_event_time").min(),
    "last_event_time": pl.col("last_event_time").max(),
    "events": pl.col("events").sum(),
}
_FEW_ROWS = 200_000
_ROW_GROUP = 1 << 18
_REMEMBERED_CHARACTERS = 2000
"""Most of a text of groups that is remembered with what it names; those are many at once."""

Group = tuple[str, str]
"""Type and name."""


class _Form(NamedTuple):
    """A part of a summary: the table that it becomes, and what its rows have of their last event."""

    table: Table
    latest: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {**self.table.schema, **({_ROW: pl.Int64()} if self.latest else {})}


_FORMS = (
    _Form(USER, ("user_id", "amplitude_id", "device_id", *[column.name for column in LATEST])),
    _Form(GROUP, ("group_properties",)),
    _Form(USER_GROUP),
    _Form(TYPE_SUMS),
)


class Summary(NamedTuple):
    """Rows of four tables, made of some events, each in the order of its key.

    Where a table has something of the last event, ``row`` says which of its hour that is.
    """

    users: pl.DataFrame
    groups: pl.DataFrame
    user_groups: pl.DataFrame
    event_types: pl.DataFrame


def summary(events: pl.DataFrame, rows: pl.Series) -> Summary:
    """Return the summary of ``events``, rows of the table ``event``.

    Args:
        events: Of one hour.
        rows: Int64: where each stands among the delivered events of the hour.
    """
    seen = events.with_columns(
        rows.alias(_ROW),
        first_seen="server_upload_time",
        last_seen="server_upload_time",
        first_event_time="event_time",
        last_event_time="event_time",
        events=pl.lit(1, pl.Int64),
    )
    in_groups = _in_groups(seen)
    types = seen.filter(pl.col("event_type").is_not_null()).with_columns(name="event_type")
    found = (seen, in_groups, in_groups, types)
    return Summary(*[_merged(one.select(*form.schema), form) for one, form in zip(found, _FORMS, strict=True)])


def merged(summaries: Iterable[Summary]) -> Summary:
    """Return the summary of all events that ``summaries`` were made of; no event may be in two."""
    several = list(summaries)
    if len(several) == 1:
        return several[0]
    found: list[pl.DataFrame] = []
    for position, form in enumerate(_FORMS):
        frames = [one[position] for one in several]
        found.append(_merged(pl.concat(frames) if frames else pl.DataFrame(schema=form.schema), form))
    return Summary(*found)


class Summing:
    """The summary of a stream of events, in memory that grows with users and groups, not with events."""

    def __init__(self) -> None:
        """Begin without events."""
        self._done: list[Summary] = []
        self._waiting = 0

    def add(self, events: pl.DataFrame, rows: pl.Series) -> None:
        """Add some more events of the hour, as :func:`summary` takes them."""
        self._done.append(summary(events, rows))
        self._waiting += _length(self._done[-1])
        if self._waiting > max(_FEW_ROWS, 2 * _length(self._done[0])):
            self.finish()

    def finish(self) -> Summary:
        """Return the summary of all events so far."""
        self._done = [merged(self._done)]
        self._waiting = 0
        return self._done[0]


def table_rows(summed: Summary) -> dict[Name, pl.DataFrame]:
    """Return the rows of the tables user, group, user_group and event_type, by table."""
    return {form.table.name: frame.select(*form.table.schema) for frame, form in zip(summed, _FORMS, strict=True)}


def encode(summed: Summary) -> bytes:
    """Return a summary as bytes, the same for the same summary."""
    return msgspec.msgpack.encode([_parquet(frame) for frame in summed])


def decode(data: bytes) -> Summary:
    """Return the summary that ``data`` holds.

    Raises:
        ValueError: It holds none.
    """
    try:
        frames = msgspec.msgpack.decode(data, type=tuple[bytes, bytes, bytes, bytes])
        return Summary(*[pl.read_parquet(io.BytesIO(frame)) for frame in frames])
    except (msgspec.MsgspecError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"it holds no summary: {error}") from None


def _parquet(frame: pl.DataFrame) -> bytes:
    # Arrow's own form also has what happens to stand where values are null, which differs between equal frames.
    stream = io.BytesIO()
    frame.rechunk().write_parquet(stream, compression="zstd", statistics=False, row_group_size=_ROW_GROUP)
    return stream.getvalue()


def _length(summed: Summary) -> int:
    return sum(map(len, summed))


def _merged(rows: pl.DataFrame, form: _Form) -> pl.DataFrame:
    """Return one row for each key, in the order of keys."""
    key = list(form.table.key)
    sums = {name: how for name, how in _SUMS.items() if name in form.schema}
    if not form.latest:
        return rows.group_by(key).agg(**sums).sort(key).select(*form.schema)
    places = rows.select(*key, *sums, _ROW).with_row_index(_LAST).sort("last_seen", _ROW)
    found = places.group_by(key).agg(**sums, **{_LAST: pl.col(_LAST).last()}).sort(key)
    # Only of one event a user the wide columns are fetched.
    latest = rows.select(*form.latest, _ROW)[found[_LAST]]
    return found.drop(_LAST).hstack(latest).select(*form.schema)


def _in_groups(seen: pl.DataFrame) -> pl.DataFrame:
    """Return the events that name groups, once for each group."""
    named = seen.filter(pl.col("groups").is_not_null() & (pl.col("groups") != _NO_GROUPS))
    at: list[int] = []
    types: list[str] = []
    names: list[str] = []
    for position, text in enumerate(named["groups"]):
        read = groups_of if len(text) <= _REMEMBERED_CHARACTERS else groups_of.__wrapped__
        for group_type, group_name in read(text):
            at.append(position)
            types.append(group_type)
            names.append(group_name)
    where = pl.Series(at, dtype=pl.UInt32)
    return named[where].with_columns(
        pl.Series("group_type", types, dtype=pl.String), pl.Series("group_name", names, dtype=pl.String)
    )


@lru_cache(maxsize=10_000)
def groups_of(text: str) -> tuple[Group, ...]:
    """Return the groups that the ``groups`` of an event names, each once, in order.

    Example:
        >>> groups_of('{"plan": "free", "team": ["b", "a", "b", 5], "x": null}')
        (('plan', 'free'), ('team', 'a'), ('team', 'b'))
    """
    found: Any = exact_decoder.decode(text)
    if not is_object(found):
        return ()
    groups: set[Group] = set()
    for group_type, names in found.items():
        groups |= {(group_type, name) for name in _as_list(names) if isinstance(name, str)}
    return tuple(sorted(group for group in groups if all(map(_is_text, group))))


def _as_list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # A lone surrogate is none.
        return False
    return True
