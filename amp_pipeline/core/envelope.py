"""A line, to the few fields that decide about it, or to the reason why it is quarantined.

Rules: docs/rules.md, "From a line to an event".

Line by line; :mod:`columns` reads blocks, and comes here for what it can't read.

msgspec reads a line in one go, validates all of it, and fails on that line alone. What it refuses (lone surrogate
escapes, ``5.0`` for an integer, numbers beyond a double) goes to Python's exact parser before it is quarantined. The
only thing msgspec does not check is the UTF-8 of strings that it skips, so that is checked first.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, NamedTuple, TypeGuard

import msgspec

from amp_pipeline.core.lines import is_blank, left_out

MOST_DIGITS = 4300
"""Digits of an integer that can be read: Python's own limit (docs: "Integer string conversion length limitation")."""

MOST_LEVELS = 200
"""Brackets that may be open at once. How deep parsers go depends on the stack below them, which no rule may; Amplitude
stops at 40 (amplitude-docs, "Limits")."""

REASONS = {
    "too_long": "more than 128 MiB; the report keeps the beginning, the landing all of it",
    "not_utf8": "bytes that are not UTF-8",
    "too_deep": "nested more than 200 levels deep",
    "trailing_data": "more than one JSON value on the line",
    "not_json": "not JSON (RFC 8259)",
    "not_an_object": "JSON, but no object",
    "wrong_type": "a field has a value of an impossible type",
    "no_time": "no server_upload_time",
    "bad_time": "a time in no known form",
    "other_project": "an event of another project",
    "outside_project": "before the project's first hour, or after its last",
    "truncated": "the rest of a damaged object that was accepted by hand",
}
"""Reasons of quarantine, as they stand in reports, and what they mean."""


class Data(msgspec.Struct, gc=False):
    """What is read of the event's ``data``."""

    merged_amplitude_id: int | None = None


class Envelope(msgspec.Struct, gc=False):
    """The fields of an event that decide about it, decoded; null and absent are both None."""

    device_id: str | None = None
    insert_id: str | None = msgspec.field(name="$insert_id", default=None)
    uuid: str | None = None
    # Integers beyond 64 bits take the exact way, which knows a double's range.
    event_id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | None = None
    event_type: str | None = None
    server_upload_time: str | None = None
    client_event_time: str | None = None
    event_time: str | None = None
    app: int | None = None
    amplitude_id: int | None = None
    data: Data | None = None


def printable(text: str | None) -> str:
    """Return ``text`` as it can be written down: lone surrogates as question marks, nothing for None."""
    return "" if text is None else text.encode("utf-8", "replace").decode()


class Bad(NamedTuple):
    """Why a line is no event: a key of :data:`REASONS`, and a detail without any value of the line."""

    reason: str
    detail: str


_decode = msgspec.json.Decoder(Envelope).decode


def read_line(line: bytes) -> Envelope | Bad | None:
    """Return the envelope of one line, or why it is none, or None where it is blank."""
    if is_blank(line):
        return None
    if more := left_out(line):
        return Bad("too_long", f"{more} bytes more than are kept here")
    try:
        line.decode()
        if not _is_too_deep(line):
            return _decode(line)
        return Bad("too_deep", "")
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"byte {error.start + 1}")
    except msgspec.DecodeError:
        found = read_exactly(line)
        return found if isinstance(found, Bad) else _envelope_of(found)


def read_exactly(line: bytes) -> dict[str, Any] | Bad:
    """Return the object on ``line`` (UTF-8) as Python reads it, numbers of any size included, or why there is none."""
    if _is_too_deep(line):
        return Bad("too_deep", "")
    text = line.decode()
    start = len(text) - len(text.lstrip(" \t\r"))
    try:
        value, end = exact_decoder.raw_decode(text, start)
    except ValueError as error:
        position = getattr(error, "pos", None)
        return Bad("not_json", "" if position is None else f"character {position + 1}")
    if text[end:].strip(" \t\r"):
        return Bad("trailing_data", f"character {end + 1}")
    return value if is_object(value) else Bad("not_an_object", "")


def _has_many_brackets(line: bytes) -> bool:
    return line.count(b"{") + line.count(b"[") > MOST_LEVELS


def _is_too_deep(line: bytes) -> bool:
    if not _has_many_brackets(line):
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_LEVELS:
            return True
    return False


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _any_integer(digits: str) -> int | float:
    # Beyond that, Python refuses to convert; as a float such a number is infinite, which no field accepts.
    return int(digits) if len(digits.lstrip("-")) <= MOST_DIGITS else float(digits)


exact_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_any_integer)
"""Python's parser held to RFC 8259; the slow, exact way."""


def _envelope_of(found: dict[str, Any]) -> Envelope | Bad:
    try:
        data = found.get("data")
        if data is not None and not is_object(data):
            raise _WrongTypeError("data")
        return Envelope(
            device_id=_string(found, "device_id"),
            insert_id=_string(found, "$insert_id"),
            uuid=_string(found, "uuid"),
            event_id=_number(found, "event_id"),
            event_type=_string(found, "event_type"),
            server_upload_time=_string(found, "server_upload_time"),
            client_event_time=_string(found, "client_event_time"),
            event_time=_string(found, "event_time"),
            app=_integer(found, "app"),
            amplitude_id=_integer(found, "amplitude_id"),
            data=None if data is None else Data(_integer(data, "merged_amplitude_id", "data.")),
        )
    except _WrongTypeError as error:
        return Bad("wrong_type", str(error))


class _WrongTypeError(Exception):
    """Carries the name of the field."""


def _string(found: dict[str, Any], name: str) -> str | None:
    value = found.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _WrongTypeError(name)


def _number(found: dict[str, Any], name: str) -> int | float | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _WrongTypeError(name)
    try:
        finite = math.isfinite(float(value))
    except OverflowError:
        finite = False
    if not finite:
        raise _WrongTypeError(name)
    return value


def _integer(found: dict[str, Any], name: str, path: str = "") -> int | None:
    value = found.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _WrongTypeError(path + name)
