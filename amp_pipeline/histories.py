"""Where the hours of a project begin that says only how far back to go: found out once, and remembered.

An hour that moved with the calendar would be another project every day: partitions, audits and gaps count from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from amp_pipeline.buckets import S3
from amp_pipeline.config import NOT_SAID, Organization, Project
from amp_pipeline.core.errors import ConfigError, StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store

Open = Callable[[str, S3 | None], ObjectStore]


def settled(organizations: Iterable[Organization], now: datetime, open_store: Open = open_store) -> list[Organization]:
    """Return the organizations with a first hour in each project.

    Args:
        organizations: As they are configured.
        now: The time, aware; the day from which a history is counted back that was never asked for before.
        open_store: Opens workspaces; only those of projects without a first hour.

    Raises:
        ConfigError: A workspace can't be read or written, or what is remembered there can't be read.
    """
    return [_settled(one, now, open_store) for one in organizations]


def _settled(organization: Organization, now: datetime, open_store: Open) -> Organization:
    if all(project.first_hour != NOT_SAID for project in organization.projects):
        return organization
    workspace = open_store(organization.workspace, organization.s3)
    projects = tuple(
        project
        if project.first_hour != NOT_SAID
        else project.model_copy(update={"first_hour": _first_hour(organization, project, workspace, now)})
        for project in organization.projects
    )
    return organization.model_copy(update={"projects": projects})


def _first_hour(organization: Organization, project: Project, workspace: ObjectStore, now: datetime) -> Hour:
    source = project.source
    if not isinstance(source, AmplitudeExport):
        raise ConfigError(f"project {project.slug} has no first_hour; write it")
    name = f"{organization.id}/{project.id}/first_hour"
    try:
        if workspace.head(name) is None:
            # Of two that look for the first time, one is first.
            workspace.put_if(name, source.began(now.date()).key.encode(), None)
        remembered = workspace.get(name).decode()
    except StoreError as error:
        raise ConfigError(
            f"project {project.slug} has no first_hour, and the workspace, where it is remembered, can't be used: "
            f"{error}; or write first_hour"
        ) from error
    try:
        return Hour.parse(remembered)
    except ValueError:
        raise ConfigError(
            f"{workspace.uri(name)} holds no hour; write first_hour in project {project.slug}, or delete that object"
        ) from None
