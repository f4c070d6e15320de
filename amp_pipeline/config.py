"""What a user writes about an organization: one ``defs.yaml``, read top-down as people think.

Plain pydantic models, used by the Dagster component and by ``amp-pipeline``. What is wrong is refused with the file,
the field and what would be right; nothing here opens a store or reads the environment.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from amp_pipeline.alert_settings import Alerts, AlertsField, OwnerField, Recipients, RecipientsField, missing_mail
from amp_pipeline.buckets import S3
from amp_pipeline.core import layout
from amp_pipeline.core.codec import Compression, PartSize
from amp_pipeline.core.errors import FilterError
from amp_pipeline.core.hours import Hour
from amp_pipeline.fields import S3_SCHEME, DurationField, HourField, MemoryField, SlugField, TimeOfDayField, UrlField
from amp_pipeline.source_settings import AmplitudeExport, Keys, Landing, SourceField

NOT_SAID = Hour(0)
"""The first hour of a project that leaves it to how far back its source goes; :mod:`amp_pipeline.histories` knows."""

_RESERVED = ("raw_events", "deduped_events", "merged_ids")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Parts(_Model):
    """Where the files of an hour are cut: before the line that would make one larger than either bound."""

    events: int | None = Field(default=250_000, ge=1, description="Most events in a file; null for no bound.")
    bytes: int | None = Field(
        default=256 << 20, ge=1, description="Most bytes in a file before compression; null for no bound."
    )
    compression: Compression = Field(
        default="balanced",
        description="How small files are made: balanced (18 % larger than zlib level 6 at a fifth of its time), "
        "fast (24 % larger, half of that time), small (3 % smaller, twice that time).",
    )

    @property
    def size(self) -> PartSize:
        """The same for the codec."""
        return PartSize(self.events, self.bytes)


class Dedupe(_Model):
    """When an event counts as a repeat of an earlier one."""

    window: DurationField = Field(
        default=timedelta(days=7), description="How long after an event a repeat of it is recognised, like 7d or 36h."
    )


class Names(_Model):
    """How delivered files are named, for readers that expect other than Amplitude's real names."""

    first_part: int = Field(default=0, ge=0, le=1, description="Number of the first file of an hour.")
    padded_hour: bool = Field(default=False, description="Write the hour with two digits (05 instead of 5).")


class Reconcile(_Model):
    """When the last days are held against the source again."""

    days: int = Field(
        default=2,
        ge=0,
        le=366,
        description="How many days are looked at each time; 0 for none. Every line of them is read and delivered to "
        "scratch space. Where hours are pulled from an API, they are asked for again first.",
    )
    at: TimeOfDayField = Field(default="03:30", description="When, each day, UTC.")


class Dashboard(_Model):
    """When what only Amplitude's dashboard knows is taken: cohorts and their members, event types, categories."""

    at: TimeOfDayField = Field(default="04:30", description="When, each day, UTC.")
    cohorts: bool = Field(
        default=True,
        description="Take cohorts and their members; each costs Amplitude some minutes, and its limits are per month.",
    )


class Delivery(_Model):
    """One project's data going to one destination; its hours succeed and fail on their own."""

    name: SlugField = Field(description="Short name, part of asset keys.")
    url: UrlField = Field(
        description="Where to deliver to: s3://bucket/path, or a folder, absolute or relative to this file."
    )
    s3: S3 | None = Field(
        default=None,
        description="How the bucket is reached and written; as the organization says if not given. A change of it "
        "writes no hour again.",
    )
    what: Annotated[frozenset[Literal["events", "merged_ids"]], PlainSerializer(sorted)] = Field(
        default=frozenset({"events"}), min_length=1, description="What to deliver: events, merged_ids, or both."
    )
    filter: str | None = Field(
        default=None,
        description="Condition in SQL over event columns and paths such as event_properties.price; "
        "what is not true is left out.",
    )
    parts: Parts | None = Field(
        default=None, description="File size of this delivery; a size of its own costs compressing again."
    )
    names: Names = Field(default=Names(), description="How files are named.")
    complete_markers: bool = Field(default=True, description="Write a complete marker after each finished hour.")
    enabled: bool = Field(
        default=True, description="Switch off to stop delivering; nothing that was delivered is touched."
    )
    first_hour: HourField | None = Field(
        default=None,
        description="First hour to deliver by itself; the project's first hour if not given. Earlier hours can be "
        "backfilled by hand.",
    )
    catch_up: DurationField = Field(
        default=timedelta(hours=24),
        description="Switched on again, it delivers by itself the hours that it missed in this time; earlier ones are "
        "named as a backfill.",
    )
    owner: OwnerField | None = Field(default=None, description="Who made it: e-mail address, or team:name.")
    alerts: RecipientsField = Recipients()
    export_api: Keys | None = Field(
        default=None,
        description="Keys with which `amp-pipeline serve export` gives this archive to whoever speaks Amplitude's "
        "Export API.",
    )
    tables: bool = Field(
        default=False,
        description="Keep tables of events, users, groups and cohorts as Parquet beside the archive.",
    )

    @field_validator("filter")
    @classmethod
    def _filter_compiles(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (info.context or {}).get("filters", True):
            # Brings in polars and sqlglot: 35 MB, for nothing where there is no filter.
            from amp_pipeline.core.filters import Filter

            try:
                Filter(value)
            except FilterError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value in _RESERVED:
            raise ValueError(f"{value} is the name of an asset; choose another")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Delivery:
        if self.s3 is not None and not self.url.startswith(S3_SCHEME):
            raise ValueError("s3 says how a bucket is reached, but url is a folder; remove one of them")
        for name in ("export_api", "tables"):
            if getattr(self, name) and "events" not in self.what:
                raise ValueError(f"{name} is about events, but what has no events; add events or remove {name}")
        if self.filter is not None and "events" not in self.what:
            raise ValueError("a filter chooses events, but what has no events; add events or remove the filter")
        return self


class Project(_Model):
    """One event stream of an organization."""

    id: int = Field(ge=1, description="Project (app) id, as in the events' app column.")
    slug: SlugField = Field(description="Short name: asset key prefix and group in the UI.")
    first_hour: HourField = Field(
        description="First hour of the project, UTC; earlier events are quarantined. May be left out where the source "
        "is amplitude_export: it is then remembered in the workspace, as far back as its history says."
    )
    last_hour: HourField | None = Field(
        default=None, description="Last hour, where the project has ended; later events are quarantined."
    )
    source: SourceField = Field(description="Where the events come from.")
    dedupe: Dedupe = Field(default=Dedupe(), description="When an event is a repeat.")
    parts: Parts = Field(
        default=Parts(), description="Where files are cut; a delivery without its own size copies these files."
    )
    deliveries: tuple[Delivery, ...] = Field(default=(), description="Where the events go.")
    automatic: bool = Field(
        default=True,
        description="Deliver hours by themselves once they are ready, and again when late data changes them; switch "
        "off to deliver by hand alone.",
    )
    every: DurationField = Field(
        default=timedelta(minutes=1), description="How often to look for hours to deliver, like 1m; at least 10s."
    )
    reconcile: Reconcile = Field(
        default=Reconcile(), description="When the last days are held against the source again."
    )
    dashboard: Dashboard | None = Field(
        default=None,
        description="Take cohorts, event types and categories from Amplitude as well, for the tables; the keys are "
        "those of the source.",
    )
    alerts: RecipientsField = Recipients()

    @model_validator(mode="before")
    @classmethod
    def _first_hour_may_be_left_out(cls, value: Any) -> Any:
        source = value.get("source") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(source, dict) or source.get("type") != "amplitude_export":
            return value
        if value.get("first_hour") is None:
            return {**value, "first_hour": NOT_SAID}
        if "history" in source:
            raise ValueError("first_hour and the source's history both say where to begin; remove one of them")
        return value

    @field_validator("every")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=10):
            raise ValueError("write 10s or more; each look lists some days of the landing")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Project:
        _unique("deliveries", "name", [delivery.name for delivery in self.deliveries])
        _unique("deliveries", "url", [delivery.url for delivery in self.deliveries])
        if self.dashboard is not None and not isinstance(self.source, AmplitudeExport):
            raise ValueError("dashboard is taken with the keys of a source of type amplitude_export; remove it")
        if self.last_hour is not None and self.last_hour < self.first_hour:
            raise ValueError(f"last_hour {self.last_hour} lies before first_hour {self.first_hour}")
        return self

    @property
    def events_pattern(self) -> layout.Pattern:
        """Names of the landing's event objects."""
        return layout.Pattern(self.source.events, project=self.id)

    def holds(self, hour: Hour) -> bool:
        """Tell whether ``hour`` is one of the project's hours."""
        return self.first_hour <= hour and (self.last_hour is None or hour <= self.last_hour)


class Retention(_Model):
    """How long the workspace keeps what nothing needs any more. What a law needs is kept for ever."""

    superseded: DurationField = Field(
        default=timedelta(days=7),
        description="How long versions of key indexes, rows, files and merged ids are kept that no record names any "
        "more, like 7d; at least 24h, since runs may still be reading them.",
    )
    logs: DurationField | None = Field(
        default=None,
        description="How long entries of the delivery log are kept; for ever if not given. The last one of each hour "
        "and those of deletions always are.",
    )

    @field_validator("superseded", "logs")
    @classmethod
    def _outlives_runs(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(hours=24):
            raise ValueError("write 24h or more; runs may still be reading what is younger")
        return value


class Organization(_Model):
    """An organization: its projects, their sources and where their hours are delivered."""

    id: int = Field(ge=1, description="Organization id.")
    slug: SlugField = Field(description="Short name: asset key prefix of the merged ids.")
    workspace: UrlField = Field(
        description="Folder or s3://bucket/path for the pipeline's own store (key indexes, deduplicated events, "
        "reports, delivery log). Keep it: it is the durable record."
    )
    s3: S3 | None = Field(
        default=None, description="How buckets are reached, where a source or delivery does not say it itself."
    )
    memory: MemoryField = Field(
        default=1 << 30,
        description="About how much memory the keys of an hour may take, like 512MiB or 2GiB; hours with more of them "
        "are sorted in shares on local disk.",
    )
    owners: tuple[OwnerField, ...] = Field(
        default=(), description="Who answers for the data: e-mail addresses, or team:name."
    )
    alerts: AlertsField = Alerts()
    retention: Retention = Field(
        default=Retention(), description="How long the workspace keeps what nothing needs any more."
    )
    projects: tuple[Project, ...] = Field(min_length=1, description="The organization's projects.")

    @model_validator(mode="after")
    def _fits_together(self) -> Organization:
        _unique("projects", "id", [project.id for project in self.projects])
        _unique(
            "slugs of the organization and its projects",
            "slug",
            [self.slug, *(project.slug for project in self.projects)],
        )
        merged = [
            (f"{project.slug}.{d.name}", d.url)
            for project in self.projects
            for d in project.deliveries
            if "merged_ids" in d.what
        ]
        for position, (name, url) in enumerate(merged):
            for other, other_url in merged[:position]:
                if url == other_url:
                    raise ValueError(
                        f"deliveries {other} and {name} both write the organization's merged ids to {url}; "
                        "leave merged_ids to one of them"
                    )
        self._keeps_folders_apart()
        if same := same_key(self.export_keys):
            raise ValueError(same)
        return self

    def _keeps_folders_apart(self) -> None:
        places = [("workspace", self.workspace)]
        places += [(f"source of {p.slug}", p.source.url) for p in self.projects if isinstance(p.source, Landing)]
        for project in self.projects:
            for delivery in project.deliveries:
                for what, url in places:
                    if overlap(delivery.url, url):
                        raise ValueError(
                            f"delivery {project.slug}.{delivery.name} writes to {delivery.url}, "
                            f"which overlaps with the {what} ({url})"
                        )
        for what, url in places[1:]:
            if overlap(self.workspace, url):
                raise ValueError(f"the workspace {self.workspace} overlaps with the {what} ({url})")

    @model_validator(mode="after")
    def _mail_can_be_sent(self) -> Organization:
        places = [(f"alerts of {p.slug}", p.alerts) for p in self.projects]
        places += [(f"alerts of {p.slug}.{d.name}", d.alerts) for p in self.projects for d in p.deliveries]
        if wrong := missing_mail(self.alerts, places):
            raise ValueError(wrong)
        return self

    def s3_of(self, place: Landing | AmplitudeExport | Delivery) -> S3 | None:
        """Return how the bucket of a source or delivery is reached and written."""
        return place.s3 or self.s3

    def landing_url(self, project: Project) -> str:
        """Return where the raw files of a project are: in its landing, or where the workspace keeps what was pulled."""
        if isinstance(project.source, Landing):
            return project.source.url
        return f"{self.workspace}/{self.id}/{project.id}/pulled"

    @property
    def export_keys(self) -> list[tuple[str, str]]:
        """The deliveries that are served by the Export API, each with its API key."""
        return [
            (f"{project.slug}.{delivery.name}", delivery.export_api.api_key.get_secret_value())
            for project in self.projects
            for delivery in project.deliveries
            if delivery.export_api is not None
        ]

    @property
    def most_keys(self) -> int:
        """How many keys of events a run may have in memory: what is done with one takes up to 512 bytes."""
        return self.memory // 512

    @property
    def merged_ids_window(self) -> timedelta:
        """Window in which a merged id is a repeat: the largest of the projects, in whole hours."""
        longest = max(project.dedupe.window for project in self.projects)
        return timedelta(hours=-(-longest // timedelta(hours=1)))

    @property
    def first_hour(self) -> Hour:
        """First hour of any project."""
        return min(project.first_hour for project in self.projects)

    @property
    def last_hour(self) -> Hour | None:
        """Last hour of the last project to end; None while one goes on."""
        last = [project.last_hour for project in self.projects]
        return max((hour for hour in last if hour is not None), default=None) if None not in last else None


def overlap(one: str, other: str) -> bool:
    """Tell whether one of two urls lies in the other."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def same_key(deliveries: list[tuple[str, str]]) -> str:
    """Return what is wrong where two deliveries have the same API key, without the key; "" where none have."""
    for position, (name, key) in enumerate(deliveries):
        for other, other_key in deliveries[:position]:
            if key == other_key:
                return f"deliveries {other} and {name} have the same api_key in export_api; give each its own"
    return ""


def _unique(what: str, field: str, values: list[Any]) -> None:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"{what}: two have the {field} {value}; each needs its own")
