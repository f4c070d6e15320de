"""A delivery's filter: a condition in SQL over event columns and over paths into their objects.

``event_type = 'purchase' AND event_properties.price > 10``: names keep their case (quote those with spaces or ``$``:
``"$insert_id"``), a missing or mistyped
value is NULL, and what is not true is filtered. sqlglot reads the condition and tells which values it needs; polars
evaluates it.
A path has no type of its own: each mention takes the type of what it is compared with, so ``event_properties.price >
10`` asks for
numbers and ``event_properties.price = 'free'`` for strings.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from amp_pipeline.core import timestamps
from amp_pipeline.core.envelope import exact_decoder, is_object
from amp_pipeline.core.errors import FilterError
from amp_pipeline.core.schema import KINDS, Kind

_DTYPES: dict[Kind, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "time": pl.Datetime("us"),
    "json": pl.Boolean(),
}
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.NullSafeEQ, exp.NullSafeNEQ)
_STRING_USES = (
    exp.Like,
    exp.ILike,
    exp.RegexpLike,
    exp.RegexpILike,
    exp.Lower,
    exp.Upper,
    exp.Length,
    exp.StartsWith,
    exp.Trim,
)
_NUMBER_USES = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Abs, exp.Round)
_LOGIC = (exp.And, exp.Or, exp.Not)
_NOT_STABLE = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.CurrentDatetime, exp.Rand, exp.Uuid)
_REFUSED = (*_NOT_STABLE, exp.Query, exp.Cast, exp.Bracket, exp.Window, exp.AggFunc, exp.Star, exp.Dot)
_QUOTED = 40
"""Most characters of a filter that are shown before what is wrong in it."""
_INT64 = range(-(2**63), 2**63)


class _Value(NamedTuple):
    """A value that the condition mentions: where it is in the event, and as what it is read."""

    path: tuple[str, ...]
    kind: Kind

    @property
    def column(self) -> str:
        return json.dumps([*self.path, self.kind], separators=(",", ":")).replace('"', "'")


class Filter:
    """A condition, compiled."""

    def __init__(self, condition: str) -> None:
        """Compile ``condition``.

        Raises:
            FilterError: It is no condition over event columns; the message says what would be.

        Example:
            >>> Filter("event_type = 'buy' AND event_properties.price > 1").keeps([
            ...     b'{"event_type":"buy","event_properties":{"price":2.5}}',
            ...     b'{"event_type":"buy","event_properties":{"price":"2.5"}}'])
            [True, False]
        """
        self.condition = condition
        if not condition.strip():
            raise FilterError(
                f"the filter {condition!r} is no SQL condition: it is empty; remove it to keep all events"
            )
        try:
            tree = sqlglot.parse_one(condition, read="postgres")
        except SqlglotError as error:
            raise FilterError(f"the filter {condition!r} is no SQL condition: {_said(error, condition)}") from None
        for node in tree.find_all(*_REFUSED):
            if isinstance(node, exp.Dot):
                raise FilterError(f"the filter {condition!r} has a path of more than four names, {node.sql()}")
            raise FilterError(f"the filter {condition!r} uses {node.sql()}, which a condition over one event can't")
        self._values: dict[str, _Value] = {}
        self._sql = tree.transform(self._bound).sql(dialect="postgres")
        self._condition = self._compiled()
        self._roots = list(dict.fromkeys(value.path[0] for value in self._values.values()))
        self._decode = msgspec.json.Decoder(self._needed_fields()).decode

    def keeps(self, lines: Sequence[bytes]) -> list[bool]:
        """Return for each line whether the condition is true of it.

        Args:
            lines: Lines that have an envelope.
        """
        if not lines:
            return []
        objects = [self._read(line) for line in lines]
        columns = [_series(name, value, objects) for name, value in self._values.items()]
        frame = pl.DataFrame(columns) if columns else pl.DataFrame({"": [None] * len(lines)})
        kept = frame.select(self._condition.fill_null(False).alias("keep")).to_series()
        return kept.to_list() if len(kept) == len(lines) else kept.to_list() * len(lines)

    def _bound(self, node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        value = _Value(path := tuple(part.name for part in node.parts), self._kind(path, node))
        if value.kind == "time":
            _read_literals_as_times(node)
        self._values[value.column] = value
        bound = exp.column(exp.to_identifier(value.column, quoted=True))
        if value.kind == "json":
            return exp.Case(ifs=[exp.If(this=bound, true=exp.Boolean(this=True))])
        return bound

    def _kind(self, path: tuple[str, ...], node: exp.Expr) -> Kind:
        root = path[0]
        if root not in KINDS:
            close = difflib.get_close_matches(root, KINDS, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; paths begin with event_properties or user_properties"
            raise FilterError(f"the filter {self.condition!r} names {root}, which is no event column{hint}")
        if len(path) == 1:
            kind = KINDS[root]
            if kind == "json" and not isinstance(node.parent, exp.Is):
                raise FilterError(
                    f"the filter {self.condition!r} uses {root} as a value; name a path in it, like {root}.name"
                )
            return kind
        if KINDS[root] != "json":
            raise FilterError(f"the filter {self.condition!r} looks into {root}, which is no object")
        return _kind_by_use(node)

    def _compiled(self) -> pl.Expr:
        schema = {name: _DTYPES[value.kind] for name, value in self._values.items()}
        try:
            condition = pl.sql_expr(self._sql)
            dtype = pl.DataFrame(schema=schema or {"": pl.Null()}).lazy().select(condition).collect().dtypes[0]
        except (pl.exceptions.PolarsError, TypeError) as error:
            said = str(error).splitlines()[0]
            for name, value in self._values.items():
                said = said.replace(f'"{name}"', ".".join(value.path))
            raise FilterError(f"the filter {self.condition!r} can't be evaluated: {said}") from None
        if dtype != pl.Boolean:
            raise FilterError(f"the filter {self.condition!r} is a value, not a condition")
        return condition

    def _needed_fields(self) -> type[msgspec.Struct]:
        fields = [(f"field_{number}", Any, None) for number in range(len(self._roots))]
        names = {f"field_{number}": root for number, root in enumerate(self._roots)}
        return msgspec.defstruct("Needed", fields, rename=names, gc=False)

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            needed = self._decode(line)
        except msgspec.DecodeError:
            return exact_decoder.decode(line.decode())
        return dict(zip(self._roots, msgspec.structs.astuple(needed), strict=True))


def _said(error: SqlglotError, condition: str) -> str:
    """Return what sqlglot says is wrong, without the names of its classes."""
    if not isinstance(error, ParseError) or not error.errors:
        return str(error).splitlines()[0]
    first = error.errors[0]
    lines = condition.splitlines()[: first["line"]]
    before = " ".join([*lines[:-1], lines[-1][: first["col"]]])[-_QUOTED:].strip()
    if "<class" in first["description"]:
        return f"something is missing after {before!r}"
    what = first["description"].rstrip(".")
    return f"{what[:1].lower()}{what[1:]} after {before!r}"


def _kind_by_use(node: exp.Expr) -> Kind:
    """Return as what a path is read, from the expression it stands in."""
    parent = node.parent
    while isinstance(parent, (exp.Paren, exp.Coalesce)):
        if kind := _literal_kind(parent, node):
            return kind
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Is):
        return "json" if isinstance(parent.expression, exp.Null) else "boolean"
    if isinstance(parent, _COMPARISONS):
        return _literal_kind(parent, node) or "string"
    if parent is None or isinstance(parent, _LOGIC):
        return "boolean"
    return "number" if isinstance(parent, _NUMBER_USES) else "string"


def _literal_kind(parent: exp.Expr, beside: exp.Expr) -> Kind | None:
    for child in parent.iter_expressions():
        if child is beside:
            continue
        if isinstance(child, exp.Boolean):
            return "boolean"
        if isinstance(child, exp.Literal):
            return "string" if child.is_string else "number"
        if isinstance(child, (*_NUMBER_USES, exp.Paren)):
            return "number"
        if isinstance(child, exp.Column) and len(child.parts) == 1:
            return KINDS.get(child.name)
    return None


def _read_literals_as_times(node: exp.Expr) -> None:
    parent = node.parent
    if not isinstance(parent, _COMPARISONS):
        return
    for literal in list(parent.iter_expressions()):
        if isinstance(literal, exp.Literal) and literal.is_string:
            text = literal.name if len(literal.name) > 10 else f"{literal.name} 00:00:00"
            if timestamps.parse([text])[0] is None:
                raise FilterError(f"{literal.name!r} is no time; write it like '2024-05-06 10:00:00'")
            literal.replace(exp.cast(exp.Literal.string(text.replace("T", " ").removesuffix("Z")), "timestamp"))


def _series(name: str, value: _Value, objects: list[dict[str, Any]]) -> pl.Series:
    found = [_at(value.path, item) for item in objects]
    if value.kind == "time":
        texts = [_coerced(item, "string") for item in found]
        return timestamps.parse(texts).cast(pl.Datetime("us")).alias(name)
    return pl.Series(name, [_coerced(item, value.kind) for item in found], dtype=_DTYPES[value.kind])


def _at(path: tuple[str, ...], item: Any) -> Any:
    for key in path:
        item = item.get(key) if is_object(item) else None
    return item


def _coerced(value: Any, kind: Kind) -> Any:
    """Return ``value`` if it is of ``kind``, else None."""
    if kind == "json":
        return None if value is None else True
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if kind == "string" else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or kind == "string":
        return None
    if kind == "number":
        return _float(value)
    whole = int(value) if isinstance(value, int) or value.is_integer() else None
    return whole if whole is not None and whole in _INT64 else None


def _float(value: int | float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
