"""The command that takes a snapshot of what Amplitude's dashboard knows."""

import click

from amp_pipeline import __version__, clock
from amp_pipeline.cli.asking import chosen, says_what_is_wrong
from amp_pipeline.config import Organization, Project
from amp_pipeline.core.errors import AmpError, ConfigError
from amp_pipeline.core.wording import counted
from amp_pipeline.dashboard import is_taken, take
from amp_pipeline.storage.urls import open_store


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects with a dashboard if not given.")
@says_what_is_wrong
def dashboard(slug: str | None) -> None:
    """Take cohorts, event types and categories from Amplitude.

    Cohorts with their members. Dagster does the same once a day. A snapshot that is the same as the last is not
    kept twice.
    """
    found = [(organization, project) for organization, project in chosen(slug) if slug or is_taken(project)]
    if not found:
        raise ConfigError("no project has a dashboard; write `dashboard: {}` in one whose source is amplitude_export")
    failed: list[str] = []
    for organization, project in found:
        try:
            _take(organization, project)
        except AmpError as error:
            # The others' Amplitude may answer.
            failed.append(f"{project.slug}: {error}")
    if failed:
        raise AmpError("\n".join(failed))


def _take(organization: Organization, project: Project) -> None:
    taken = take(
        organization,
        project,
        open_store(organization.workspace, organization.s3),
        clock.now(),
        run="amp-pipeline dashboard",
        version=__version__,
        tell=lambda line: click.echo(f"  {line}"),
    )
    click.echo(
        f"{project.slug}: {counted(taken.cohorts, 'cohort')} with {counted(taken.members, 'member')}, "
        f"{counted(taken.event_types, 'event type')}, {counted(taken.categories, 'category', 'categories')}"
    )
    if taken.unread:
        click.echo(f"  {counted(taken.unread, 'entry', 'entries')} had no name or id, left out")
    if not taken.is_new:
        click.echo(f"  the same as the snapshot of {taken.snapshot.record.at}, which stands")
