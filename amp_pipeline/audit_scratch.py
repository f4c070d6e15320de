"""The other side of an audit: hours made anew from their landing, in scratch space, without touching what is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour, window
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.layered import Layered
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import PairsRecord


def made_anew(
    real: OrganizationRun, folder: Path, project: Project, hours: Sequence[Hour], *, alone: bool
) -> OrganizationRun:
    """Return the stages of an organization over scratch space, with ``hours`` landed there.

    Args:
        real: As it is.
        folder: Empty, on local disk.
        project: Whose hours.
        hours: Ascending.
        alone: Read the landing of ``hours`` alone, and take all others as they are on record.
    """
    organization = real.organization
    stores = _scratch_stores(organization, folder, real.open_store)
    if alone:
        layered = _over_what_is_there(stores, organization.workspace, real.workspace)
        again = OrganizationRun(organization, layered, pulls=False)
        _land_anew(again.projects[project.slug], hours)
        return again
    again = OrganizationRun(organization, stores, pulls=False)
    _copy_inputs(real, again)
    _copy_frozen(real, again)
    _land_around(again.projects[project.slug], hours)
    return again


def tables_made_anew(real: OrganizationRun, again: OrganizationRun, project: Project, delivery: Delivery) -> Tables:
    """Return the tables of a delivery over scratch space, which have what is on record of all that is not made anew."""
    workspace = Layered(real.workspace, again.workspace)
    return Tables(real.organization, project, delivery, workspace, again.projects[project.slug].archive(delivery).store)


def _scratch_stores(organization: Organization, folder: Path, open_store: OpenStore) -> OpenStore:
    """Return a way to open stores in which workspace and buckets are scratch, and landings are what they are."""
    urls = [
        organization.workspace,
        *(delivery.url for project in organization.projects for delivery in project.deliveries),
    ]
    written = {url: FolderStore(folder / str(number), durable=False) for number, url in enumerate(dict.fromkeys(urls))}

    def opened(url: str, s3: S3 | None = None) -> ObjectStore:
        return written[url] if url in written else open_store(url, s3)

    return opened


def _over_what_is_there(stores: OpenStore, url: str, workspace: ObjectStore) -> OpenStore:
    layered = Layered(workspace, stores(url))
    return lambda asked, s3=None: layered if asked == url else stores(asked, s3)


def _land_anew(run: ProjectRun, hours: Sequence[Hour]) -> None:
    """Read the hours again, all of them before any is judged: each may hold strays of the others."""
    for hour in hours:
        # An hour whose landing can't be used is judged as such.
        with suppress(AmpError):
            run.raw.land(hour, force=True)


def _copy_inputs(real: OrganizationRun, again: OrganizationRun) -> None:
    """Take over what people said of the landing: what of it they accept, and whom they deleted."""
    for run in real.projects.values():
        for kind in ("accepted", "suppressions"):
            for found in real.workspace.find(f"{run.workspace.folder}/{kind}/"):
                again.workspace.put(found.name, real.workspace.get(found.name))


def _copy_frozen(real: OrganizationRun, again: OrganizationRun) -> None:
    """Take over what is on record of hours whose landing is gone or unreadable: later hours are held against it."""
    for slug, run in real.projects.items():
        to = again.projects[slug].workspace
        for hour in sorted(run.workspace.hours("raw")):
            record = run.raw.recorded(hour)
            if record is None or not (run.raw.is_gone(hour, record) or _cannot_land(again.projects[slug], hour)):
                continue
            for kind, digest, ending in (
                ("keys", record.keys, ".keys"),
                ("rows", record.rows, ".rows"),
                ("made_merges", record.made_merges, ".json.gz"),
            ):
                if digest:
                    to.put_data(kind, hour, run.workspace.data(kind, hour, digest, ending), ending)
            to.save("raw", hour, record)
            for file in run.workspace.strays_from(hour):
                to.store.put(file, run.workspace.store.get(file))
    for hour in sorted(real.merged_workspace.hours("pairs")):
        pairs = real.merged_workspace.load("pairs", hour, PairsRecord)
        if pairs is not None and pairs.inputs and not real.merged.has_objects(hour):
            if pairs.pairs:
                data = real.merged_workspace.data("pairs", hour, pairs.pairs, ".jsonl.gz")
                again.merged_workspace.put_data("pairs", hour, data, ".jsonl.gz")
            again.merged_workspace.save("pairs", hour, pairs)


def _cannot_land(run: ProjectRun, hour: Hour) -> bool:
    try:
        run.raw.land(hour)
    except AmpError:
        return True
    return False


def _land_around(run: ProjectRun, hours: Sequence[Hour]) -> None:
    """Land the hours, those in the window before them, and all later ones: any file may hold strays of ours."""
    first, _ = window(hours[0], run.project.dedupe.window)
    for hour in run.raw.landed_hours():
        if hour >= first and run.project.holds(hour):
            try:
                run.raw.land(hour)
            except AmpError:
                continue
