"""Deleting users: finding the hours that hold something of them, cleaning the workspace, and the receipt.

Each step does only what is left to do, told from what lies there, so whoever is killed is followed by one who finishes.
Ids of users are in the suppression alone: nothing that is said here, or in a receipt, has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from amp_pipeline.config import Organization, Project
from amp_pipeline.core import timestamps
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.manifest import decode
from amp_pipeline.core.suppression import Suppression
from amp_pipeline.core.wording import counted
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun
from amp_pipeline.stages.traces import Kind, traces
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.dashboard import DashboardStore
from amp_pipeline.workspace.store import DeliveryStore
from amp_pipeline.workspace.suppressions import DeletionReceipt, Rewritten, SuppressionStore

_OF_PROJECT: dict[str, Kind] = {
    "deduped": "events",
    "repeats": "repeats",
    "quarantine": "quarantine",
    "strays": "strays",
    "made_merges": "merged_ids",
}
_OF_ORGANIZATION: dict[str, Kind] = {"pairs": "pairs", "merged_ids": "merged_ids", "merged_quarantine": "quarantine"}
"""What lies in the folders of the workspace."""

Progress = Callable[[int, int], None]
"""Takes how many hours are done, and of how many."""


@dataclass
class Concerned:
    """Hours in which there is something of deleted users."""

    events: set[Hour] = field(default_factory=set[Hour])
    merged: set[Hour] = field(default_factory=set[Hour])
    unreadable: dict[Hour, str] = field(default_factory=dict[Hour, str])
    """Hours of which nobody can say, and why."""


class UserDeletion:
    """One suppression, carried out."""

    def __init__(
        self, organization: Organization, project: Project, suppression: Suppression, open_store: OpenStore = open_store
    ) -> None:
        """Carry out ``suppression``, which is on the list of ``project``."""
        self._organization = organization
        self._project = project
        self._suppression = suppression
        self._open_store = open_store
        self.store = SuppressionStore(self._run().projects[project.slug].workspace)

    def search(self, progress: Progress) -> Concerned:
        """Read all recorded hours that the suppression reaches, and return those that hold something of the users.

        Of the others, it is noted that they were searched.
        """
        run = self._run()
        one = run.projects[self._project.slug]
        merged = self._reached(run.merged_workspace.hours("pairs") | run.merged_workspace.hours("merged_ids"))
        events = self._reached(one.workspace.hours("deduped"))
        found = Concerned()
        for done, hour in enumerate(sorted(events | merged)):
            progress(done, len(events | merged))
            try:
                record = one.workspace.deduped(hour) if hour in events else None
                if hour in events and record is None:
                    found.unreadable[hour] = "its record is of another version of amp_pipeline; run the hour again"
                if record is not None and one.deduped.holds_deleted(hour, record):
                    found.events.add(hour)
                if hour in merged and run.merged.holds_deleted(hour):
                    found.merged.add(hour)
            except AmpError as error:
                found.unreadable[hour] = str(error)
        return found

    def clean(self, concerned: Concerned, progress: Progress) -> dict[Hour, str]:
        """Take the users out of the workspace; return the hours that could not be cleaned, and why."""
        failed = dict(concerned.unreadable)
        run = self._run()
        one = run.projects[self._project.slug]
        # Files of strays of any hour may belong to one that is reached.
        raw = one.workspace.hours("raw")
        hours = sorted(raw | concerned.events | concerned.merged)
        for done, hour in enumerate(hours):
            progress(done, len(hours))
            try:
                if (record := one.workspace.raw(hour)) is not None:
                    one.raw.without_deleted(hour, record)
                if hour in concerned.events:
                    one.deduped.without_deleted(hour)
                if why := self._drop_pulled(one, hour):
                    failed[hour] = why
            except AmpError as error:
                failed[hour] = str(error)
        for hour in sorted(self._reached(run.merged_workspace.hours("pairs"))):
            try:
                run.merged.without_deleted(hour)
            except AmpError as error:
                failed[hour] = str(error)
        return failed

    def clean_dashboard(self) -> list[str]:
        """Take the users out of the members of cohorts in all snapshots; return what could not be cleaned, and why."""
        run = self._run()
        try:
            DashboardStore(run.workspace, self._organization.id, self._project.id).forget()
        except AmpError as error:
            return [f"snapshots of the dashboard may hold users: {error}"]
        return []

    def _drop_pulled(self, one: ProjectRun, hour: Hour) -> str:
        """Remove what was pulled of an hour where the users are in it; return why that can't be done, "" where it can.

        Its deduplicated events stay, so they have to be there, and made of all of it.
        """
        raw, record = one.workspace.raw(hour), one.workspace.deduped(hour)
        if raw is None or not one.raw.landed.pulled_objects(hour):
            return ""
        # One that is gone with objects still there is one whose removal was killed.
        stands = record is not None and one.raw.is_current(hour) and not one.deduped.is_stale(hour, record)
        if not stands and not one.raw.is_gone(hour, raw):
            here = one.raw.suppressed.at(hour)
            names = one.raw.landed.pulled_objects(hour)
            found = any(traces(one.raw.source, name, "events", here) for name in names)
            return "what was pulled of it is not deduplicated yet; run the hour, and this command again" * found
        one.raw.drop_deleted(hour, raw)
        return ""

    def to_deliver(self) -> dict[str, dict[str, list[Hour]]]:
        """Return the hours that were delivered, but not as they are on record now: by project and delivery.

        Deliveries that are switched off are among them.
        """
        run = self._run()
        found: dict[str, dict[str, list[Hour]]] = {}
        for slug, one in run.projects.items():
            for delivery in one.project.deliveries:
                if slug != self._project.slug and "merged_ids" not in delivery.what:
                    continue
                archive = one.archive(delivery)
                hours = sorted(self._reached(one.deliveries_of(delivery).hours("state")))
                outdated = [
                    hour
                    for hour in hours
                    if (
                        not one.is_delivered(archive, delivery, hour)
                        and not self._is_as_of_old_settings(run, one, delivery.name, hour)
                    )
                    or one.has_old_tables(delivery, hour)
                ]
                if hours and not outdated and delivery.tables and not one.tables(delivery).knows_dashboard():
                    # Any hour will do: with it, tables are made without members who are deleted.
                    outdated = hours[-1:]
                if outdated:
                    found.setdefault(slug, {})[delivery.name] = outdated
        return found

    def left(self, hours: Iterable[Hour]) -> list[str]:
        """Return what of ``hours`` still holds something of the users: objects of the workspace and of buckets."""
        run = self._run()
        one = run.projects[self._project.slug]
        found: list[str] = []
        for hour in sorted(hours):
            here = one.raw.suppressed.at(hour)
            try:
                for store, name, kind in self._objects(run, one, hour):
                    if count := traces(store, name, kind, here):
                        found.append(f"{store.uri(name)} still holds {count} lines of the users")
            except AmpError as error:
                found.append(f"hour {hour} can't be looked at: {error}")
        return found

    def unreached_buckets(self) -> list[str]:
        """Return which deliveries still have hours that are not as on record, and nobody can deliver."""
        found: list[str] = []
        outdated = self.to_deliver()
        for slug, by_delivery in outdated.items():
            project = next(project for project in self._organization.projects if project.slug == slug)
            for delivery in project.deliveries:
                if hours := by_delivery.get(delivery.name, []):
                    why = "is switched off" if not delivery.enabled else "could not be written"
                    found.append(
                        f"delivery {slug}.{delivery.name} {why}: {counted(len(hours), 'hour')} in {delivery.url} may "
                        f"hold events of the users, {_listed(hours)}"
                    )
        return [*found, *self._forgotten_tables(), *self._forgotten_deliveries()]

    def receipt(self, concerned: Concerned, left: list[str], at: str, version: str) -> DeletionReceipt:
        """Return the receipt as things are ``at`` a time, what earlier runs of the deletion did included."""
        run = self._run()
        one = run.projects[self._project.slug]
        before = self.store.receipt(self._suppression.id)
        hours = {Hour.parse(key) for key in before.hours} if before else set[Hour]()
        merged = {Hour.parse(key) for key in before.merged_hours} if before else set[Hour]()
        hours |= concerned.events
        merged |= concerned.merged
        counts: dict[str, int] = {}
        for hour in sorted(hours):
            record = one.workspace.deduped(hour)
            counts[hour.key] = record.deleted_by.get(self._suppression.id, 0) if record else 0
        up_to = self._suppression.up_to
        return DeletionReceipt(
            suppression=self._suppression.id,
            asked_at=self._suppression.asked_at,
            up_to=None if up_to is None else timestamps.write(up_to),
            note=self._suppression.note,
            finished_at=None if left else at,
            version=version,
            hours=counts,
            merged_hours=[hour.key for hour in sorted(merged)],
            rewritten=[] if not (hours or merged) else list(self._rewritten(run, hours, merged)),
            left=left,
        )

    def _run(self) -> OrganizationRun:
        return OrganizationRun(self._organization, self._open_store)

    def _reached(self, hours: set[Hour]) -> set[Hour]:
        return {hour for hour in hours if self._suppression.reaches(hour.start_us)}

    def _is_as_of_old_settings(self, run: OrganizationRun, one: ProjectRun, delivery: str, hour: Hour) -> bool:
        (found,) = [item for item in one.project.deliveries if item.name == delivery]
        record = one.workspace.deduped(hour)
        merged = run.merged_workspace.merged(hour) if "merged_ids" in found.what else None
        return record is not None and one.archive(found).only_settings_changed(hour, record, merged)

    def _objects(self, run: OrganizationRun, one: ProjectRun, hour: Hour) -> Iterator[tuple[ObjectStore, str, Kind]]:
        for workspace, kinds in ((one.workspace, _OF_PROJECT), (run.merged_workspace, _OF_ORGANIZATION)):
            for folder, kind in kinds.items():
                for info in run.workspace.find(workspace.path(folder, hour)):
                    if info.name.endswith(".gz"):
                        yield run.workspace, info.name, kind
        for name in one.raw.landed.pulled_objects(hour):
            yield one.raw.source, name, "events"
        yield from self._delivered_objects(run, one, hour)

    def _delivered_objects(
        self, run: OrganizationRun, one: ProjectRun, hour: Hour
    ) -> Iterator[tuple[ObjectStore, str, Kind]]:
        for project in run.projects.values():
            for delivery in project.project.deliveries:
                archive = project.archive(delivery)
                if delivery.enabled and archive.state.has_record("state", hour):
                    for file in decode(archive.store.get(archive.names.manifest(hour))).files:
                        if project is one or file.kind == "merged_ids":
                            yield archive.store, file.name, file.kind

    def _forgotten_tables(self) -> Iterator[str]:
        """Yield deliveries whose tables are kept no more, but lie there."""
        one = self._run().projects[self._project.slug]
        for delivery in self._project.deliveries:
            records = one.tables(delivery).records
            folder = f"{records.folder}/tables/"
            if not delivery.tables and records.store.find(folder):
                yield (
                    f"delivery {self._project.slug}.{delivery.name} has tables no more, but those from before may hold "
                    f"the users: remove {delivery.url}/tables/{self._project.id} and {records.store.uri(folder)}, or "
                    "set tables to true, and resume"
                )

    def _forgotten_deliveries(self) -> Iterator[str]:
        """Yield deliveries that are configured no more, but had hours that the suppression reaches."""
        run = self._run()
        one = run.projects[self._project.slug]
        folder = f"{one.workspace.folder}/deliveries/"
        known = {delivery.name for delivery in self._project.deliveries}
        names = {info.name.removeprefix(folder).partition("/")[0] for info in run.workspace.find(folder)}
        for name in sorted(names - known):
            delivered = DeliveryStore(run.workspace, self._organization.id, self._project.id, name).hours("state")
            deleted = [
                hour
                for hour in sorted(self._reached(delivered))
                if (record := one.workspace.deduped(hour)) is not None and self._suppression.id in record.deleted_by
            ]
            if deleted:
                yield (
                    f"delivery {self._project.slug}.{name} is configured no more: {counted(len(deleted), 'hour')} "
                    f"that it was given may hold events of the users, {_listed(deleted)}; clean its bucket, then "
                    f"delete {run.workspace.uri(folder + name)}"
                )

    def _rewritten(self, run: OrganizationRun, hours: set[Hour], merged: set[Hour]) -> Iterator[Rewritten]:
        for slug, one in run.projects.items():
            for delivery in one.project.deliveries:
                mine = (hours | merged) if slug == self._project.slug else merged
                if slug != self._project.slug and "merged_ids" not in delivery.what:
                    continue
                for hour in sorted(mine):
                    for entry in one.deliveries_of(delivery).log(hour):
                        if entry.at >= self._suppression.asked_at and entry.files_written:
                            yield Rewritten(
                                delivery=f"{slug}.{delivery.name}",
                                hour=hour.key,
                                at=entry.at,
                                run=entry.run,
                                written=entry.files_written,
                                deleted=entry.files_deleted,
                                manifest_sha256=entry.manifest_sha256,
                            )


def _listed(hours: list[Hour]) -> str:
    return str(hours[0]) if len(hours) == 1 else f"from {hours[0]} to {hours[-1]}"
