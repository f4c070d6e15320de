"""What Amplitude's dashboard knows of a project, as frames: cohorts, their members, event types, categories.

Sources of the fields are in docs/export-api.md, "Dashboard". A field that is not there is null. A field that is not
known, or not of the type that it is known by, is kept as JSON text in ``other``, so that nothing is lost and nothing
fails. Entries that have no key at all are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import polars as pl

_TIME = pl.Datetime("us", "UTC")

COHORTS: dict[str, pl.DataType] = {
    "id": pl.String(),
    "name": pl.String(),
    "description": pl.String(),
    "app_id": pl.Int64(),
    "type": pl.String(),
    "size": pl.Int64(),
    "archived": pl.Boolean(),
    "finished": pl.Boolean(),
    "hidden": pl.Boolean(),
    "published": pl.Boolean(),
    "is_predictive": pl.Boolean(),
    "is_official_content": pl.Boolean(),
    "created_at": _TIME,
    "last_modified": _TIME,
    "last_computed": _TIME,
    "last_viewed": _TIME,
    "view_count": pl.Int64(),
    "popularity": pl.Int64(),
    "chart_id": pl.String(),
    "edit_id": pl.String(),
    "location_id": pl.String(),
    "owners": pl.String(),
    "viewers": pl.String(),
    "shortcut_ids": pl.String(),
    "metadata": pl.String(),
    "definition": pl.String(),
    "other": pl.String(),
}
"""Key: id. From ``owners`` to ``definition`` JSON text, as ``other``, which is null where nothing is left over."""

MEMBERS: dict[str, pl.DataType] = {"cohort_id": pl.String(), "amplitude_id": pl.Int64(), "user_id": pl.String()}
"""Key: all three, of which one of the last two may be null. Sorted by it."""

EVENT_TYPES: dict[str, pl.DataType] = {
    "name": pl.String(),
    "id": pl.Int64(),
    "display": pl.String(),
    "totals": pl.Int64(),
    "totals_delta": pl.Float64(),
    "hidden": pl.Boolean(),
    "deleted": pl.Boolean(),
    "non_active": pl.Boolean(),
    "flow_hidden": pl.Boolean(),
    "timeline_hidden": pl.Boolean(),
    "autohidden": pl.Boolean(),
    "in_waitroom": pl.Boolean(),
    "waitroom_approved": pl.Boolean(),
    "category": pl.String(),
    "description": pl.String(),
    "listed": pl.Boolean(),
    "planned": pl.Boolean(),
    "other": pl.String(),
}
"""Key: name, which is ``event_type`` of events. ``totals`` is of the current week. ``listed``: Amplitude has events of
it; ``planned``: it stands in the project's plan, whence ``category`` (a name) and ``description``."""

CATEGORIES: dict[str, pl.DataType] = {"id": pl.Int64(), "name": pl.String(), "other": pl.String()}
"""Key: name; the id is null where Amplitude gives none."""

_NAMES_OF_COHORT_FIELDS = {
    "appId": "app_id",
    "createdAt": "created_at",
    "lastMod": "last_modified",
    "lastComputed": "last_computed",
}
_JSON_OF_COHORT = ("owners", "viewers", "shortcut_ids", "metadata", "definition")
_SECONDS_OR_MILLISECONDS = 100_000_000_000
"""As seconds the year 5138, as milliseconds 1973: Amplitude's examples have seconds, other clients saw milliseconds."""


class Parsed(NamedTuple):
    """A frame, and how many entries of the answer were left out because they had no key or were no objects."""

    frame: pl.DataFrame
    unread: int


def entries(answer: object, key: str) -> list[Any] | None:
    """Return the list below ``key`` of an answer, or None where it is no such answer."""
    if not isinstance(answer, Mapping):
        return None
    found: object = cast(Mapping[str, object], answer).get(key)
    return cast(list[Any], found) if isinstance(found, list) else None


def cohorts(found: Sequence[Any]) -> Parsed:
    """Return the cohorts of ``/api/3/cohorts``, sorted by id."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in found:
        row = _row(entry, "id", COHORTS, {name: name for name in COHORTS} | _NAMES_OF_COHORT_FIELDS, _JSON_OF_COHORT)
        if row is not None:
            rows.setdefault(row["id"], row)
    return Parsed(_frame(rows, COHORTS), sum(not _has_key(entry, "id") for entry in found))


def event_types(listed: Sequence[Any], planned: Sequence[Any]) -> Parsed:
    """Return the event types of ``/api/2/events/list`` and of ``/api/2/taxonomy/event``, sorted by name."""
    rows: dict[str, dict[str, Any]] = {}
    others: dict[str, dict[str, Any]] = {}
    of_list = {name: name for name in EVENT_TYPES if name not in ("name", "category", "description")}
    for entry in listed:
        # `name`, where it is given, is another name for people.
        row = _row(entry, "value", EVENT_TYPES, {**of_list, "value": "name"})
        if row is not None and row["name"] not in rows:
            rows[row["name"]] = {**row, "listed": True, "planned": False}
            others[row["name"]] = {"events_list": row["other"]}
    seen: set[str] = set()
    for entry in planned:
        row = _row(_with_category(entry), "event_type", EVENT_TYPES, _OF_PLAN)
        if row is not None and row["name"] not in seen:
            name = row["name"]
            seen.add(name)
            before = rows.setdefault(name, {**dict.fromkeys(EVENT_TYPES), "name": name, "listed": False})
            rows[name] = {
                **before,
                "category": row["category"],
                "description": row["description"],
                "display": before["display"] if before["display"] is not None else row["display"],
                "planned": True,
            }
            others.setdefault(name, {})["taxonomy"] = row["other"]
    for name, row in rows.items():
        kept = {place: json.loads(text) for place, text in others[name].items() if text is not None}
        row["other"] = _json(kept) if kept else None
    unread = sum(not _has_key(entry, "value") for entry in listed)
    unread += sum(not _has_key(entry, "event_type") for entry in planned)
    return Parsed(_frame(rows, EVENT_TYPES), unread)


_OF_PLAN = {
    "event_type": "name",
    "category": "category",
    "description": "description",
    "display_name": "display",
}


def categories(found: Sequence[Any]) -> Parsed:
    """Return the categories of ``/api/2/taxonomy/category``, sorted by name."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in found:
        row = _row(entry, "name", CATEGORIES, {"id": "id", "name": "name"})
        if row is not None:
            rows.setdefault(row["name"], row)
    return Parsed(_frame(rows, CATEGORIES), sum(not _has_key(entry, "name") for entry in found))


def members(cohort_id: str, raw: pl.DataFrame) -> Parsed:
    """Return the members of a cohort from its file, each once and sorted; rows without any id are left out and counted.

    Args:
        cohort_id: Of the cohort.
        raw: The columns of its CSV as text, of which ``amplitude_id`` and ``user_id`` count; one may be missing.
    """
    columns = [pl.lit(cohort_id).alias("cohort_id")]
    for name in ("amplitude_id", "user_id"):
        text = pl.col(name) if name in raw.columns else pl.lit(None, pl.String)
        text = pl.when(text != "").then(text)
        columns.append((text.cast(pl.Int64, strict=False) if name == "amplitude_id" else text).alias(name))
    found = raw.select(columns) if raw.height else pl.DataFrame(schema=MEMBERS)
    kept = found.filter(pl.col("amplitude_id").is_not_null() | pl.col("user_id").is_not_null())
    return Parsed(kept.unique().sort("amplitude_id", "user_id", nulls_last=True), found.height - kept.height)


def without(frame: pl.DataFrame, user_ids: set[str], amplitude_ids: set[int]) -> pl.DataFrame:
    """Return members without those that have one of these ids."""
    if not user_ids and not amplitude_ids:
        return frame
    users = pl.Series(sorted(user_ids), dtype=pl.String)
    # Larger ones are no ids that a member can have.
    numbers = pl.Series(sorted(one for one in amplitude_ids if -(1 << 63) <= one < 1 << 63), dtype=pl.Int64)
    is_listed = pl.col("user_id").is_in(users.implode()) | pl.col("amplitude_id").is_in(numbers.implode())
    return frame.filter(~is_listed.fill_null(False))


def _row(
    entry: object, key: str, schema: Mapping[str, pl.DataType], names: Mapping[str, str], as_json: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Return the row of an entry, or None where it has no key.

    Args:
        entry: Of an answer.
        key: Its field that must be there.
        schema: Of the frame.
        names: Columns by field.
        as_json: Columns that are kept as JSON text.
    """
    if not _has_key(entry, key):
        return None
    row: dict[str, Any] = dict.fromkeys(schema)
    other: dict[str, Any] = {}
    for field, value in cast(Mapping[str, Any], entry).items():
        column = names.get(field)
        if column is None or column == "other":
            other[field] = value
        elif column in as_json:
            row[column] = None if value is None else _json(value)
        else:
            row[column] = read = None if value is None else _READ[schema[column]](value)
            if read is None and value is not None:
                other[field] = value
    row["other"] = _json(other) if other else None
    return row


def _has_key(entry: object, key: str) -> bool:
    if not isinstance(entry, Mapping):
        return False
    value: object = cast(Mapping[str, object], entry).get(key)
    return isinstance(value, str) and bool(value)


def _with_category(entry: object) -> object:
    """Return a planned event type with the name of its category in place of ``{"name": …}``."""
    if not isinstance(entry, Mapping):
        return entry
    known = cast(Mapping[str, Any], entry)
    category: Any = known.get("category")
    if not isinstance(category, Mapping):
        return known
    named = cast(Mapping[str, Any], category)
    as_given: dict[str, Any] = {} if set(named) <= {"name"} else {"category_as_given": dict(named)}
    return {**known, "category": named.get("name"), **as_given}


def _frame(rows: Mapping[str, Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([rows[key] for key in sorted(rows)], schema=dict(schema), orient="row")


def _json(value: object) -> str:
    return _text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)) or ""


def _text(value: object) -> str | None:
    # Half of a surrogate pair, which JSON can spell, is no text.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(1 << 63) <= value < 1 << 63 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        # JSON has integers without end.
        return None


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _time(value: object) -> datetime | None:
    """Return a time given as seconds or milliseconds since 1970, or as ISO 8601; UTC where it names no zone."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        number = _number(value)
        if number is None:
            return None
        return datetime.fromtimestamp(number / 1000 if abs(number) >= _SECONDS_OR_MILLISECONDS else number, UTC)
    except (ValueError, OverflowError, OSError):
        return None


_READ: dict[pl.DataType, Callable[[object], Any]] = {
    pl.String(): _text,
    pl.Int64(): _integer,
    pl.Float64(): _number,
    pl.Boolean(): _boolean,
    _TIME: _time,
}
