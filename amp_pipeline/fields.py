"""How a user writes hours, lengths of time, amounts of memory, places and short names in a ``defs.yaml``."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from amp_pipeline.core.hours import Hour

S3_SCHEME = "s3://"

_DURATION = re.compile(r"(\d+)\s*(d|h|m|s)")
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_LONGEST_SECONDS = 100 * 366 * 86_400
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MEMORY = re.compile(r"(\d+)\s*(MiB|GiB)")
_LEAST_MEMORY = 256 << 20
_TIME_OF_DAY = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
_SLUG = r"^[a-z][a-z0-9_]*$"
_LONGEST_SLUG = 60


def is_address(text: str) -> bool:
    """Tell whether ``text`` is the address of a web server, with nothing behind its path."""
    try:
        parts = urlsplit(text)
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and not parts.query
            and not parts.fragment
        )
    except ValueError:
        # A port that is no number, or too large, or half of the brackets.
        return False


def _hour(value: object) -> object:
    if isinstance(value, Hour):
        return value
    try:
        return Hour.parse(str(value))
    except ValueError:
        raise ValueError("write an hour in UTC like 2024-05-06-00:00") from None


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or not int(match[1]):
        raise ValueError("write a length of time like 7d, 36h or 90m")
    try:
        if int(match[1]) * _SECONDS[match[2]] > _LONGEST_SECONDS:
            raise OverflowError
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise ValueError("write a shorter length of time, like 7d, 36h or 90m") from None


def _memory(value: object) -> object:
    match = _MEMORY.fullmatch(str(value).strip())
    amount = value if isinstance(value, int) else match and int(match[1]) << (20 if match[2] == "MiB" else 30)
    if amount is None:
        raise ValueError("write an amount of memory like 512MiB or 2GiB")
    if amount < _LEAST_MEMORY:
        raise ValueError("write 256MiB or more")
    return amount


def _time_of_day(value: object) -> object:
    # YAML reads 14:30 without quotes as a number, 870.
    if not isinstance(value, str) or not re.fullmatch(_TIME_OF_DAY, value):
        raise ValueError('write a time of day, UTC, in quotes and with four digits, like "04:30"')
    return value


def _slug(value: str) -> str:
    if not re.fullmatch(_SLUG, value) or len(value) > _LONGEST_SLUG:
        raise ValueError(
            "write a short name of small letters, digits and _, which begins with a letter, like all_events; at most "
            f"{_LONGEST_SLUG} characters"
        )
    return value


def _url(value: str, info: ValidationInfo) -> str:
    if value.startswith(S3_SCHEME):
        bucket, _, path = value.removeprefix(S3_SCHEME).rstrip("/").partition("/")
        if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") for part in path.split("/") if path):
            raise ValueError("write a bucket like s3://my-bucket or s3://my-bucket/path")
        return f"{S3_SCHEME}{bucket}/{path}".rstrip("/")
    if "://" in value:
        raise ValueError("write s3://bucket/path, or the path of a folder, absolute or relative to this file")
    base = (info.context or {}).get("base", Path())
    return str((base / Path(value).expanduser()).resolve())


HourField = Annotated[
    Hour,
    BeforeValidator(_hour),
    PlainSerializer(lambda hour: hour.key, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["2024-05-06-00:00"]}),
]
DurationField = Annotated[
    timedelta, BeforeValidator(_duration), WithJsonSchema({"type": "string", "examples": ["7d", "36h", "90m"]})
]
UrlField = Annotated[str, Field(min_length=1), AfterValidator(_url)]
MemoryField = Annotated[
    int, BeforeValidator(_memory), WithJsonSchema({"type": "string", "examples": ["512MiB", "1GiB"]})
]
TimeOfDayField = Annotated[
    str,
    BeforeValidator(_time_of_day),
    WithJsonSchema({"type": "string", "pattern": _TIME_OF_DAY, "examples": ["03:30"]}),
]
SlugField = Annotated[
    str,
    AfterValidator(_slug),
    WithJsonSchema({"type": "string", "pattern": _SLUG, "maxLength": _LONGEST_SLUG}),
]
