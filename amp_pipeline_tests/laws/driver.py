"""Delivers hours as Dagster would, without Dagster: a run lands its hours, then dedupes, merges and delivers them."""

import copy
import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery, Organization
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import Archive, By, Receipt
from amp_pipeline.fields import S3_SCHEME
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun, Stale
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders

Failures = dict[tuple[str, Hour], str]
"""What an hour of a project (by slug) or of the organization (by its slug) failed with."""


class Stores:
    """Opens stores: landings are folders, workspace and buckets are in memory, quick to write and to copy.

    With ``pytest --over`` they are in a bucket of a server, each time below a path of its own.
    """

    def __init__(self, organization: Organization) -> None:
        self._landings = {project.source.url for project in organization.projects}
        self._stores: dict[str, ObjectStore] = {}
        self._path = uuid.uuid4().hex

    def __call__(self, url: str, s3: S3 | None = None) -> ObjectStore:
        if url in self._landings:
            return FolderStore(Path(url))
        if url not in self._stores:
            self._stores[url] = self._opened(url)
        return self._stores[url]

    def _opened(self, url: str) -> ObjectStore:
        if not url.startswith(S3_SCHEME):
            return MemoryStore(url)
        return open_store(f"{S3_SCHEME}{builders.BUCKET}/{self._path}/{url.removeprefix(S3_SCHEME)}", over_s3())

    def copy(self) -> "Stores":
        other = copy.copy(self)
        other._path = uuid.uuid4().hex
        other._stores = {}
        for url, store in self._stores.items():
            if isinstance(store, MemoryStore):
                other._stores[url] = copy.deepcopy(store)
            else:
                copy_objects(store, other(url))
        return other


def over_s3() -> S3 | None:
    """How the bucket of ``pytest --over`` is reached."""
    return S3.model_validate(builders.s3()) if builders.s3() else None


def copy_objects(source: ObjectStore, target: ObjectStore) -> None:
    for info in source.find(""):
        target.put(info.name, source.get(info.name))


class _Attempts:
    """Hours succeed and fail on their own: a later stage takes the hours that the earlier ones finished."""

    def __init__(self) -> None:
        self.failures: Failures = {}

    def of(self, slug: str, hours: Iterable[Hour], body: Callable[[Hour], object]) -> None:
        for hour in hours:
            if (slug, hour) in self.failures:
                continue
            try:
                body(hour)
            except AmpError as error:
                self.failures[slug, hour] = f"{type(error).__name__}: {error}"


def run(organization: Organization, hours: Sequence[Hour], stores: OpenStore, name: str = "run") -> Failures:
    """One run over ``hours``, in their order: land all, dedupe all, merge all, deliver all, with tables where wanted.

    Returns the hours that failed.
    """
    this = OrganizationRun(organization, stores)
    attempts = _Attempts()
    held = {slug: [hour for hour in hours if one.project.holds(hour)] for slug, one in this.projects.items()}
    for slug, one in this.projects.items():
        one.raw.landed.expect(held[slug])
        attempts.of(slug, held[slug], one.raw.land)
    for slug, one in this.projects.items():
        attempts.of(slug, held[slug], one.deduped.dedupe)
    attempts.of(organization.slug, hours, this.merged.merge)
    by = By(run=name, at="2024-06-01T00:00:00Z", version="0")
    for slug, one in this.projects.items():
        for delivery in [delivery for delivery in one.project.deliveries if delivery.enabled]:
            archive = one.archive(delivery)
            attempts.of(slug, held[slug], partial(_deliver, one, archive, delivery, by))
            if delivery.tables:
                _write_tables(one, delivery, held[slug], by, attempts)
    return attempts.failures


def _write_tables(one: ProjectRun, delivery: Delivery, hours: Sequence[Hour], by: By, attempts: _Attempts) -> None:
    tables = one.tables(delivery)
    written: list[Hour] = []

    def write(hour: Hour) -> None:
        tables.write_hour(hour, by)
        written.append(hour)

    attempts.of(one.project.slug, hours, write)
    if written:
        tables.finish(written, by)


def _deliver(one: ProjectRun, archive: Archive, delivery: Delivery, by: By, hour: Hour) -> Receipt:
    return one.deliver(archive, delivery, hour, by)


def with_tables(organization: Organization, *names: str) -> Organization:
    """The same, and its deliveries of these names have tables, all if not told which."""
    projects = tuple(
        project.model_copy(
            update={
                "deliveries": tuple(
                    one.model_copy(update={"tables": not names or one.name in names}) for one in project.deliveries
                )
            }
        )
        for project in organization.projects
    )
    return organization.model_copy(update={"projects": projects})


def stale(organization: Organization, hours: Sequence[Hour], stores: OpenStore) -> list[Stale]:
    """The hours of any project that have to run again, as a fresh run sees them."""
    this = OrganizationRun(organization, stores)
    return [
        found
        for one in this.projects.values()
        for found in one.stale(hour for hour in hours if one.project.holds(hour))
    ]


def settle(
    organization: Organization, hours: Sequence[Hour], stores: OpenStore, at_most: int = 6
) -> dict[Hour, list[str]]:
    """Run stale hours until there are none but those that fail.

    Returns the hours that ran again, each with the reasons.
    """
    again: dict[Hour, list[str]] = {}
    failed: set[Hour] = set()
    found: list[Stale] = []
    for _ in range(at_most):
        found = [one for one in stale(organization, hours, stores) if one.hour not in failed]
        if not found:
            return again
        for one in found:
            again.setdefault(one.hour, []).append(one.why)
        now = sorted({one.hour for one in found})
        failed |= {hour for _, hour in run(organization, now, stores, "settle")}
    raise AssertionError(f"after {at_most} rounds there are still stale hours: {found}")


def in_chunks(hours: Sequence[Hour], size: int) -> list[Sequence[Hour]]:
    return [hours[at : at + size] for at in range(0, len(hours), size)]


def run_all(organization: Organization, runs: Iterable[Sequence[Hour]], stores: OpenStore) -> None:
    """Make several runs, one after the other; no hour may fail."""
    for hours in runs:
        failures = run(organization, hours, stores)
        assert failures == {}


def buckets(organization: Organization, stores: OpenStore) -> dict[str, str]:
    """Digest of every object below the urls of the deliveries."""
    base = organization.workspace.rpartition("/")[0]
    found: dict[str, str] = {}
    for url in sorted({delivery.url for project in organization.projects for delivery in project.deliveries}):
        store = stores(url, organization.s3)
        for info in store.find(""):
            found[f"{url.removeprefix(base + '/')}/{info.name}"] = hashlib.sha256(store.get(info.name)).hexdigest()
    return found


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the objects that only one side has, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
