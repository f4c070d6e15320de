"""An organization's stages, wired to their stores: what one run sees of landing, workspace and buckets.

Made anew for each run, since listings and records are remembered while it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple, Protocol

from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import AmpError, DeliveryError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.destinations.archive import Archive, By, Receipt
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.fields import S3_SCHEME
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_export import ExportApi
from amp_pipeline.sources.amplitude_http import Http
from amp_pipeline.stages.deduped_events import DedupedEvents
from amp_pipeline.stages.merged_ids import MergedIds
from amp_pipeline.stages.pulling import Pulling
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.stages.teller import Workers
from amp_pipeline.storage.local_copies import LocalCopies
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.pulls import TroubleStore
from amp_pipeline.workspace.store import DeliveryStore, OrganizationStore, ProjectStore

_NEVER_RUN = "never run to its end"


class OpenStore(Protocol):
    """From a url to the store there."""

    def __call__(self, url: str, s3: S3 | None = None, /) -> ObjectStore:
        """Return the store at ``url``, a bucket being reached as ``s3`` says."""
        ...


class Stale(NamedTuple):
    """An hour that has to run again, and why."""

    hour: Hour
    why: str
    was_done: bool = True
    """Whether the hour had run before."""
    is_trouble: bool = False
    """Whether running again is not enough: something has to be mended first."""


class ProjectRun:
    """The stages of one project."""

    def __init__(self, of: OrganizationRun, project: Project) -> None:
        """Wire ``project`` to the stores of ``of``."""
        self._of = of
        self.project = project
        self.tell: Callable[[str], None] = lambda _: None
        """Is told what is asked of the source where that is an API; for the log of a run."""
        self.workspace = ProjectStore(of.workspace, of.organization.id, project.id)
        most_keys = of.organization.most_keys
        url = of.organization.landing_url(project)
        source = of.open_store(url, of.organization.s3_of(project.source))
        self.pulling = self._pulling(source)
        if url.startswith(S3_SCHEME):
            source = LocalCopies(source)
        self.raw = RawEvents(
            project, source, self.workspace, of.workers, most_keys, reads=of.reads, pulling=self.pulling
        )
        self.deduped = DedupedEvents(self.raw, most_keys)

    def _pulling(self, store: ObjectStore) -> Pulling | None:
        source = self.project.source
        if not isinstance(source, AmplitudeExport) or not self._of.reads:
            return None
        troubles = TroubleStore(self._of.workspace, self._of.organization.id, self.project.id)
        api = ExportApi(source, self.project.id, Http(source, tell=lambda text: self.tell(text)))
        return Pulling(
            self.project, source, store, troubles, api, self._now, lambda text: self.tell(text), asks=self._of.pulls
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._of.now(), UTC)

    def archive(self, delivery: Delivery) -> Archive:
        """Return a delivery of the project."""
        organization = self._of.organization
        store = self._of.open_store(delivery.url, organization.s3_of(delivery))
        return Archive(organization, self.project, delivery, self._of.workspace, store)

    def tables(self, delivery: Delivery) -> Tables:
        """Return the tables of a delivery."""
        organization = self._of.organization
        store = self._of.open_store(delivery.url, organization.s3_of(delivery))
        return Tables(organization, self.project, delivery, self._of.workspace, store)

    def has_old_tables(self, delivery: Delivery, hour: Hour) -> bool:
        """Tell whether tables that are kept have an hour as it was before."""
        tables = self.tables(delivery)
        return delivery.tables and tables.records.has_hour(hour) and not tables.is_current(hour)

    def deliver(self, archive: Archive, delivery: Delivery, hour: Hour, by: By, *, force: bool = False) -> Receipt:
        """Deliver ``hour`` as it is on record.

        Raises:
            DeliveryError: An asset that the delivery takes its files from has not run for the hour.
        """
        events = self.workspace.deduped(hour)
        merged = self._of.merged_workspace.merged(hour) if "merged_ids" in delivery.what else None
        if events is None:
            raise DeliveryError(
                f"hour {hour} is not deduplicated yet; materialize {self.project.slug}/deduped_events for it first"
            )
        if merged is None and "merged_ids" in delivery.what:
            raise DeliveryError(
                f"hour {hour} has no merged ids yet; materialize {self._of.organization.slug}/merged_ids for it first"
            )
        return archive.deliver(hour, events, merged, by, force=force)

    def stale(self, hours: Iterable[Hour]) -> Iterator[Stale]:
        """Yield the hours that have to run again.

        Those that never ran, that changed, that late data touches, or that are not delivered as they are on record.
        """
        landed = self._landed(hours)
        deliveries = [(self.archive(delivery), delivery) for delivery in self.project.deliveries if delivery.enabled]
        for hour, trouble in landed.items():
            if found := self._judged(hour, deliveries, trouble):
                yield found

    def stale_events(self, hours: Iterable[Hour]) -> Iterator[Stale]:
        """Yield the hours whose deduplicated events have to be made again, deliveries aside."""
        for hour, trouble in self._landed(hours).items():
            if found := self._judged(hour, [], trouble):
                yield found

    def _landed(self, hours: Iterable[Hour]) -> dict[Hour, str]:
        """Return ``hours``, and why the landing of one can't be used; "" where it can.

        All of them are landed before any is judged: each may hold strays of any other.
        """
        asked = dict.fromkeys(hours, "")
        for hour in asked:
            try:
                if self.raw.has_landed(hour):
                    self.raw.land(hour)
            except AmpError as error:
                asked[hour] = str(error)
        return asked

    def _judged(self, hour: Hour, deliveries: list[tuple[Archive, Delivery]], trouble: str) -> Stale | None:
        try:
            why = self._why_stale(hour, deliveries)
        except AmpError as error:
            return Stale(hour, str(error), is_trouble=True)
        if not why:
            return None
        return Stale(hour, trouble or why, was_done=why != _NEVER_RUN, is_trouble=bool(trouble))

    def _why_stale(self, hour: Hour, deliveries: list[tuple[Archive, Delivery]]) -> str:
        record = self.workspace.deduped(hour)
        if record is None:
            return _NEVER_RUN
        if why := self.deduped.is_stale(hour, record):
            return why
        for archive, delivery in deliveries:
            merged = self._of.merged_workspace.merged(hour) if "merged_ids" in delivery.what else None
            if "merged_ids" in delivery.what and (merged is None or self._of.merged.is_stale(hour, merged)):
                return "its merged ids changed"
            state = archive.state.state(hour)
            if state is None or state.fingerprint != archive.fingerprint(record, merged):
                return f"not delivered to {delivery.name} as it is now"
            if delivery.tables and not self.tables(delivery).is_current(hour):
                return f"not in the tables of {delivery.name} as it was delivered"
        return ""

    def deliveries_of(self, delivery: Delivery) -> DeliveryStore:
        """Return what the workspace says of a delivery; its bucket need not be there."""
        return DeliveryStore(self._of.workspace, self._of.organization.id, self.project.id, delivery.name)

    def is_delivered(self, archive: Archive, delivery: Delivery, hour: Hour) -> bool:
        """Tell whether ``hour`` was delivered as it is on record; the bucket is not looked at, nor is the landing."""
        record = self.workspace.deduped(hour)
        merged = self._of.merged_workspace.merged(hour) if "merged_ids" in delivery.what else None
        if record is None or (merged is None and "merged_ids" in delivery.what):
            return False
        state = archive.state.state(hour)
        return state is not None and state.fingerprint == archive.fingerprint(record, merged)


class OrganizationRun:
    """The stages of an organization."""

    def __init__(
        self,
        organization: Organization,
        open_store: OpenStore = open_store,
        *,
        reads: bool = True,
        pulls: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Wire ``organization`` to the stores at its urls.

        Args:
            organization: Whose stages.
            open_store: Opens stores.
            reads: Whether landings may be read, and hours pulled; else only what is on record of them counts.
            pulls: Whether hours may be pulled; else those that were pulled are what landed.
            now: Tells the time in seconds since 1970: which hours a source has that is pulled from.
        """
        self.reads = reads
        self.pulls = pulls
        self.now = now
        self.organization = organization
        self.open_store = open_store
        self.workspace = open_store(organization.workspace, organization.s3)
        self.workers = Workers(organization.memory)
        self.merged_workspace = OrganizationStore(self.workspace, organization.id)

    @cached_property
    def projects(self) -> dict[str, ProjectRun]:
        """The organization's projects by slug."""
        return {project.slug: ProjectRun(self, project) for project in self.organization.projects}

    @cached_property
    def merged(self) -> MergedIds:
        """The organization's merged ids."""
        return MergedIds(self.organization, [one.raw for one in self.projects.values()], self.merged_workspace)


def undelivered_hours(run: ProjectRun, delivery: Delivery) -> list[Hour]:
    """Return the hours that are deduplicated but were never delivered, oldest first.

    Two listings of the workspace, however many hours there are.
    """
    missing = run.workspace.hours("deduped") - run.deliveries_of(delivery).hours("state")
    return sorted(hour for hour in missing if run.project.holds(hour))


def waiting_hours(run: ProjectRun, delivery: Delivery) -> list[Hour]:
    """Return the hours that are deduplicated but not delivered as they are on record, oldest first.

    Reads the records of all hours, and neither landing nor bucket.
    """
    archive = run.archive(delivery)
    hours = sorted(hour for hour in run.workspace.hours("deduped") if run.project.holds(hour))
    return [hour for hour in hours if not run.is_delivered(archive, delivery, hour)]


def finished_hours(project: Project, first: Hour | None, last: Hour | None, now: datetime) -> list[Hour]:
    """Return the project's hours from ``first`` to ``last``, at most to the last that its source has ``now``."""
    newest = Hour.of(now) + -1
    while project.source.there_at(newest) > now:
        newest += -1
    end = min(hour for hour in (project.last_hour, last, newest) if hour is not None)
    return list(between(max(project.first_hour, first or project.first_hour), end))
