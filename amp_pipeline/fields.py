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
    if isinstance(value, int):
        return value
    match = _MEMORY.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("write an amount of memory like 512MiB or 2GiB")
    return int(match[1]) << (20 if match[2] == "MiB" else 30)


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
TimeOfDayField = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["03:30"])]
SlugField = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
