"""Where a project's events come from, and who may read them through our Export API: what a user writes about it."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from amp_pipeline.buckets import S3
from amp_pipeline.core import layout
from amp_pipeline.core.hours import Hour
from amp_pipeline.fields import DurationField, UrlField, is_address

_HOSTS = {"US": "https://amplitude.com", "EU": "https://analytics.eu.amplitude.com"}
"""amplitude-docs ``api/en/export.md``."""

_HISTORY = re.compile(r"all|(\d{1,3}) (months|days)")

_API = re.compile(r"/api(/2(/export)?)?/*$")

AVAILABLE_AFTER = timedelta(hours=2)
"""How long after its end Amplitude has all of an hour; amplitude-docs ``api/en/export.md``."""

EARLIEST = Hour.parse("2012-01-01-00:00")
"""Where "all" of the history begins: Amplitude has no events from before 2012."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Landing(_Model):
    """Where raw files of an hour arrive. An Amplitude S3 export, or an unzipped Export API answer, fits as it is."""

    type: Literal["landing"] = Field(default="landing", description="Kind of source.")
    url: UrlField = Field(
        description="What the names of objects are relative to: s3://bucket/path, or a folder, absolute or relative to "
        "this file."
    )
    s3: S3 | None = Field(
        default=None, description="How the landing's bucket is reached; as the organization says if not given."
    )
    events: str = Field(
        default=layout.EVENTS,
        description="Names of event objects, with {project} {yyyy} {MM} {dd} {H}, and {n} {ext} {any} where they vary.",
    )
    complete: str | None = Field(
        default=layout.EVENTS_COMPLETE,
        description="Name of the object that says an hour is complete; null where the source has none.",
    )
    merged_ids: str = Field(
        default=layout.MERGED_IDS, description="Names of merged-id objects, with {org} for the organization."
    )
    grace: DurationField | None = Field(
        default=None,
        description="How long after its end an hour without a complete marker is delivered with what has landed; 1h "
        "where the source has no markers, 24h where it has, if not given. What lands later heals by itself.",
    )

    @property
    def address(self) -> str:
        """Where the events come from, for people."""
        return self.url

    @property
    def patience(self) -> timedelta:
        """How long after its end an hour without a complete marker is waited for."""
        return self.grace or timedelta(hours=1 if self.complete is None else 24)

    def ready_at(self, hour: Hour) -> datetime:
        """Return when an hour that nothing is known of is delivered with what there is."""
        return (hour + 1).start + self.patience

    def there_at(self, hour: Hour) -> datetime:
        """Return when an hour can be delivered by hand."""
        return (hour + 1).start

    @field_validator("events", "complete", "merged_ids")
    @classmethod
    def _patterns(cls, value: str | None) -> str | None:
        if value is not None:
            layout.Pattern(value, project=0, organization=0)
        return value


class Keys(_Model):
    """What opens an Export API: sent as user name and password of HTTP Basic authentication."""

    api_key: SecretStr = Field(min_length=1, description="API key; write {{ env.NAME }}.")
    secret_key: SecretStr = Field(
        min_length=1, description="Secret key; write {{ env.NAME }}, never the secret itself."
    )

    @field_validator("api_key", "secret_key")
    @classmethod
    def _is_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        text = value.get_secret_value()
        if text != text.strip() or not text.isprintable():
            raise ValueError(
                "it begins or ends with white space, or has a line end in it: a file that it was read from?"
            )
        if info.field_name == "api_key" and ":" in text:
            raise ValueError("it has a colon, which ends the user name of HTTP Basic authentication")
        return value


class AmplitudeExport(Keys):
    """Amplitude's Export API, or one like it: hours are pulled, and kept in the workspace as a landing."""

    type: Literal["amplitude_export"] = Field(description="Kind of source.")
    region: Literal["US", "EU"] | None = Field(
        default=None, description="Where Amplitude keeps the project: US or EU; US if not given."
    )
    url: str | None = Field(
        default=None,
        description="Address of another server with the same API, up to its /api; in place of region.",
    )
    history: str = Field(
        default="3 months",
        description="How far back to begin where the project has no first_hour: like 3 months or 30 days before the "
        "day on which it is first run, or all, which is since 2012-01-01.",
    )
    every: DurationField = Field(
        default=timedelta(hours=1),
        description="How often new hours are pulled, together: 30m to 24h, counted from midnight UTC. Amplitude has an "
        "hour two hours after its end.",
    )
    attempts: int = Field(
        default=5, ge=1, le=20, description="How often a request is tried in all, waiting longer each time."
    )
    connect_timeout: float = Field(default=10, gt=0, le=600, description="Seconds to wait for a connection.")
    read_timeout: float = Field(
        default=300, gt=0, le=3600, description="Seconds to wait for an answer, and in it; large hours begin late."
    )

    events: ClassVar[str] = layout.EVENTS
    """Names of what was pulled: those that Amplitude gives the members of its answers."""
    complete: ClassVar[str] = layout.EVENTS_COMPLETE
    """Is written once an hour was pulled, and holds the receipt."""
    merged_ids: ClassVar[str] = layout.MERGED_IDS
    s3: ClassVar[None] = None

    @property
    def base(self) -> str:
        """Address of the server, up to its /api."""
        return self.url or _HOSTS[self.region or "US"]

    @property
    def address(self) -> str:
        """Where the events come from, for people."""
        return f"{self.base}/api/2/export"

    @property
    def patience(self) -> timedelta:
        """How long after its end an hour is there at the latest."""
        return AVAILABLE_AFTER + self.every

    def ready_at(self, hour: Hour) -> datetime:
        """Return when an hour is pulled by itself.

        Example:
            >>> keys = {"api_key": "k", "secret_key": "s"}
            >>> source = AmplitudeExport(type="amplitude_export", every="6h", **keys)
            >>> source.ready_at(Hour.parse("2026-11-20-17:00")).isoformat()
            '2026-11-21T00:00:00+00:00'
        """
        there = self.there_at(hour)
        midnight = datetime(there.year, there.month, there.day, tzinfo=UTC)
        pulls = -(-(there - midnight) // self.every)
        return min(midnight + pulls * self.every, midnight + timedelta(days=1))

    def there_at(self, hour: Hour) -> datetime:
        """Return when Amplitude has all of an hour."""
        return (hour + 1).start + AVAILABLE_AFTER

    def began(self, today: date) -> Hour:
        """Return the first hour of the history where it is first looked at ``today``."""
        match = _HISTORY.fullmatch(self.history)
        if match is None or match[1] is None:
            return EARLIEST
        count = int(match[1])
        if match[2] == "days":
            first = today - timedelta(days=count)
        else:
            months = today.year * 12 + today.month - 1 - count
            year, month = months // 12, months % 12 + 1
            first = date(year, month, min(today.day, monthrange(year, month)[1]))
        return max(EARLIEST, Hour.parse(f"{first.isoformat()}-00:00"))

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not is_address(value) or "@" in value:
            raise ValueError("write the address of a server, like https://amplitude.example.com, without keys in it")
        if _API.search(value):
            raise ValueError("write the address up to the server's /api, without /api and what comes after it")
        return value.rstrip("/")

    @field_validator("history")
    @classmethod
    def _is_history(cls, value: str) -> str:
        text = " ".join(value.split())
        text = {"1 month": "1 months", "1 day": "1 days"}.get(text, text)
        if not _HISTORY.fullmatch(text):
            raise ValueError("write 3 months, 30 days or all; or write the project's first_hour instead")
        return text

    @field_validator("every")
    @classmethod
    def _often_enough(cls, value: timedelta) -> timedelta:
        if not timedelta(minutes=30) <= value <= timedelta(hours=24):
            raise ValueError("write 30m to 24h")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> AmplitudeExport:
        if self.region is not None and self.url is not None:
            raise ValueError("region and url both say where to pull from; remove one of them")
        return self


def _source_tag(value: Any) -> str:
    kind = value.get("type", "landing") if isinstance(value, dict) else getattr(value, "type", "landing")
    return str(kind)


SourceField = Annotated[
    Annotated[Landing, Tag("landing")] | Annotated[AmplitudeExport, Tag("amplitude_export")],
    Discriminator(
        _source_tag,
        custom_error_type="unknown_source",
        custom_error_message="type: write landing or amplitude_export",
    ),
]
