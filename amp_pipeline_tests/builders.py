"""Plain factories of what tests land: events, lines, objects, and organizations over a temporary folder."""

import gzip
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import zstandard

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.destinations.archive import By

EXAMPLE_LANDING = Path(__file__).parents[1] / "examples" / "shop" / "landing"
EXAMPLE_HOURS = list(between(Hour.parse("2024-05-06-00:00"), Hour.parse("2024-05-14-23:00")))

FIRST_HOUR = Hour.parse("2024-05-06-00:00")
HOUR_US = 3_600_000_000
OVER = "LAWS_OVER"
"""Environment variable with the endpoint of the S3 server that the laws are held over."""

BUCKET = "laws"
BY = By(run="test", at="2024-06-01T00:00:00Z", version="0")
PURCHASES = "event_type = 'purchase'"


def organization(
    base: Path,
    landing: Path,
    *,
    id: int = 9,  # noqa: A002 - the word that a user writes
    projects: Sequence[dict[str, Any]] = ({},),
) -> Organization:
    """An organization of projects 7, 8 … that land in ``landing``; workspace and buckets are below ``base``."""
    landing.mkdir(parents=True, exist_ok=True)
    return Organization.model_validate(
        {
            "id": id,
            "slug": "house",
            "workspace": place(base / "workspace"),
            "s3": s3(),
            "projects": [_project(base, landing, 7 + number, given) for number, given in enumerate(projects)],
        }
    )


def _project(base: Path, landing: Path, number: int, given: dict[str, Any]) -> dict[str, Any]:
    slug = given.get("slug", f"shop{number}")
    return {
        "id": number,
        "slug": slug,
        "first_hour": FIRST_HOUR.key,
        "source": {"url": str(landing)},
        "deliveries": [all_events(place(base / slug / "all")), purchases(place(base / slug / "purchases"))],
        **given,
    }


def place(path: Path) -> str:
    """Where tests keep what the pipeline writes: a folder, or with ``pytest --over`` the same path in a bucket."""
    return f"s3://{BUCKET}{path}" if OVER in os.environ else str(path)


def s3() -> dict[str, Any] | None:
    """How that bucket is reached."""
    if OVER not in os.environ:
        return None
    return {
        "endpoint": os.environ[OVER],
        "region": "us-east-1",
        "addressing": "path",
        "access_key_id": "test",
        "secret_access_key": "test",
    }


def all_events(bucket: Path | str, **settings: Any) -> dict[str, Any]:
    return {"name": "all", "url": str(bucket), "what": ["events", "merged_ids"], **settings}


def purchases(bucket: Path | str, **settings: Any) -> dict[str, Any]:
    return {"name": "purchases", "url": str(bucket), "filter": PURCHASES, **settings}


def example(base: Path, landing: Path = EXAMPLE_LANDING) -> Organization:
    """The organization of examples/shop."""
    return organization(
        base,
        landing,
        id=189524,
        projects=[{"id": 187520, "slug": "shop", "last_hour": EXAMPLE_HOURS[-1].key}],
    )


def written_time(us: int, form: str = "%Y-%m-%d %H:%M:%S.%f") -> str:
    """A time so many µs after the start of FIRST_HOUR."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=FIRST_HOUR.start_us + us)).strftime(form)


def event(us: int = 0, **fields: Any) -> bytes:
    """The line of an event that was uploaded so many µs after the start of FIRST_HOUR."""
    known = {"event_type": "click", "server_upload_time": written_time(us), **fields}
    return json.dumps(known, separators=(",", ":")).encode()


def object_name(hour: Hour, number: int = 0, ending: str = ".json", project: int = 7) -> str:
    return f"{project}/{project}_{hour.day}_{hour.of_day}#{number}{ending}"


def merged_name(hour: Hour, ending: str = ".json", owner: int = 9) -> str:
    return f"-{owner}/-{owner}_{hour.day}_{hour.of_day}{ending}"


def merged(loser: int, winner: int) -> bytes:
    return b'{"scope":null,"amplitude_id":%d,"merged_amplitude_id":%d}' % (loser, winner)


def put(landing: Path, name: str, *lines: bytes) -> None:
    """Write an object of lines, each with its line end."""
    put_bytes(landing, name, b"".join(line + b"\n" for line in lines))


def put_bytes(landing: Path, name: str, data: bytes) -> None:
    path = landing / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written anew, not over the old bytes: another file, as in a bucket, however coarse the clock of the disk is.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def packed(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if how == "zstd" else data
