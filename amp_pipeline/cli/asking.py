"""What the commands have in common: which projects and hours are meant, and how errors are told."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from amp_pipeline import clock, config_files, histories, organizations
from amp_pipeline.config import Organization, Project
from amp_pipeline.core.errors import AmpError, ConfigError
from amp_pipeline.core.hours import Hour


def says_what_is_wrong(command: Callable[..., None]) -> Callable[..., None]:
    """Print expected trouble as one message, with exit status 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AmpError as error:
            raise click.ClickException(str(error)) from None

    return wrapped


class _HourParameter(click.ParamType):
    """An hour, or a day, which stands for one of its hours."""

    name = "hour"

    def __init__(self, of_day: str) -> None:
        self._of_day = of_day

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Hour:
        if isinstance(value, Hour):
            return value
        for text in (value, f"{value}:00", f"{value}-{self._of_day}:00"):
            try:
                return Hour.parse(text)
            except ValueError:
                continue
        raise click.BadParameter(f"{value!r} is no hour; write 2024-05-06-10:00, or a day, 2024-05-06", ctx, param)


def hours_range(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a project and a range of hours."""
    first = "First hour, UTC, like 2024-05-06-10:00, or a day; the project's first hour if not given."
    last = "Last hour, UTC, or the last day, all of it; the last finished hour if not given."
    for option in (
        click.option("--to", "last", type=_HourParameter("23"), help=last),
        click.option("--from", "first", type=_HourParameter("00"), help=first),
        click.option("--project", "slug", help="The project's slug; all projects if not given."),
    ):
        command = option(command)
    return command


def has_dagster_home() -> bool:
    """Tell whether there is a Dagster instance to be asked."""
    return bool(os.environ.get("DAGSTER_HOME"))


def need_dagster_home() -> None:
    """Refuse to go on without a Dagster instance.

    Raises:
        ConfigError: DAGSTER_HOME is not set, or names no folder.
    """
    if not has_dagster_home():
        raise ConfigError(
            "DAGSTER_HOME is not set; set it to the folder of your Dagster instance "
            "(`make ui` uses .dagster_home of the repo)"
        )
    home = Path(os.environ["DAGSTER_HOME"])
    if not home.is_absolute() or not home.is_dir():
        raise ConfigError(f"DAGSTER_HOME is {home}, which is no folder with an absolute path; make it, or name another")


def chosen(slug: str | None, *, filters: bool = True) -> list[tuple[Organization, Project]]:
    """Return the project ``slug``, or all, each with its organization.

    Args:
        slug: Of the project; None for all.
        filters: Look whether filters are right, for which polars is imported.

    Raises:
        ConfigError: There is no such project, or a ``defs.yaml`` is wrong.
    """
    read = [
        one for file in organizations.files(os.environ) for one in config_files.read(file, os.environ, filters=filters)
    ]
    read = histories.settled(read, clock.now())
    config_files.check_together(read)
    known = [(organization, project) for organization in read for project in organization.projects]
    if not known:
        raise ConfigError(f"no defs.yaml describes an organization; write `type: {config_files.COMPONENT}` in it")
    found = [(organization, project) for organization, project in known if slug in (None, project.slug)]
    if not found:
        raise ConfigError(f"there is no project {slug}; known are {', '.join(project.slug for _, project in known)}")
    return found


def finished(project: Project, first: Hour | None, last: Hour | None) -> list[Hour]:
    """Return the finished hours of ``project`` in a range.

    Raises:
        ConfigError: There is none, or it ends before it begins.
    """
    # Brings in all that happens to an hour: 40 MB, which the commands that serve have no use for.
    from amp_pipeline.run import finished_hours

    if first is not None and last is not None and last < first:
        raise ConfigError(f"--from {first} is later than --to {last}; the earlier one belongs to --from")
    now = clock.now()
    hours = finished_hours(project, first, last, now)
    if not hours:
        known = finished_hours(project, None, None, now)
        extent = f"go from {known[0]} to {known[-1]}" if known else f"begin at {project.first_hour}"
        raise ConfigError(f"{project.slug} has no finished hour in that range; its hours {extent}")
    return hours
