"""``amp-pipeline``: what is done outside the Dagster UI.

With ``definitions`` the only place that reads the environment and the clock.
"""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click
import msgspec

from amp_pipeline import __version__, access_report, config
from amp_pipeline.alert_settings import Told
from amp_pipeline.alerting import Alerting, Subject, deliveries, unsent
from amp_pipeline.audit import HourAudit, audit
from amp_pipeline.config import Organization, Project
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.errors import AmpError, ConfigError
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OrganizationRun, ProjectRun, finished_hours, waiting_hours
from amp_pipeline.sources.landing import ObjectReader
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.alerts import AlertStore


def _says_what_is_wrong(command: Callable[..., None]) -> Callable[..., None]:
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


def _range(command: Callable[..., None]) -> Callable[..., None]:
    first = "First hour, UTC, like 2024-05-06-10:00, or a day; the project's first hour if not given."
    last = "Last hour, UTC, or the last day, all of it; the last finished hour if not given."
    for option in (
        click.option("--to", "last", type=_HourParameter("23"), help=last),
        click.option("--from", "first", type=_HourParameter("00"), help=first),
        click.option("--project", "slug", help="The project's slug; all projects if not given."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="amp-pipeline")
def main() -> None:
    """Every event, once, every hour, in a bucket you own. The organizations are those that Dagster shows."""


@main.command()
@_range
@click.option("--force", is_flag=True, help="Do everything again, even for hours in which nothing has changed.")
@_says_what_is_wrong
def deliver(slug: str | None, first: Hour | None, last: Hour | None, force: bool) -> None:
    """Deliver hours through Dagster, and whatever late data in them touches.

    The runs are kept in the Dagster instance at DAGSTER_HOME, as if its UI had started them. Exit status 1 where
    hours failed.
    """
    _need_dagster_home()
    # Dagster takes 2 s to import, which the other commands don't need.
    import dagster as dg

    from amp_pipeline.definitions import defs
    from amp_pipeline.defs.delivering import Delivering

    failed = 0
    with dg.DagsterInstance.get() as instance:
        for organization, project in _projects(slug):
            hours = _hours(project, first, last)
            click.echo(
                f"{project.slug}: {len(hours)} hours to {', '.join(d.name for d in project.deliveries if d.enabled)}"
            )
            failed += len(Delivering(defs, instance, organization, click.echo).deliver(project, hours, force=force))
    sys.exit(1 if failed else 0)


@main.command()
@_range
@_says_what_is_wrong
def stale(slug: str | None, first: Hour | None, last: Hour | None) -> None:
    """Name the hours that have to run again, and why: late data, changed settings, never run."""
    for organization, project in _projects(slug):
        run = OrganizationRun(organization).projects[project.slug]
        for hour, why in run.stale(_hours(project, first, last)):
            click.echo(f"{project.slug}  {hour}  {why}")


@main.command(name="audit")
@_range
@click.option("--all-hours", is_flag=True, help="Print every hour, also those with no line and nothing wrong.")
@_says_what_is_wrong
def audit_command(slug: str | None, first: Hour | None, last: Hour | None, all_hours: bool) -> None:
    """Read landing, workspace and buckets again and hold every law that can be held. Exit status 1 where one is broken.

    Manifests are not trusted: the hours are made anew in scratch space and held against what is there, line by line.
    """
    broken = 0
    for organization, project in _projects(slug):
        hours = _hours(project, first, last)
        click.echo(f"{project.slug}: audit of {len(hours)} hours")
        broken += _print_audit(list(audit(organization, project, hours)), all_hours=all_hours)
    sys.exit(1 if broken else 0)


@main.command()
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.argument("landing_object")
@_says_what_is_wrong
def accept(slug: str, landing_object: str) -> None:
    """Accept a damaged LANDING_OBJECT as it is, so that its good lines count, or that a vanished one is gone.

    The acceptance holds for these very bytes: another damaged copy has to be accepted anew. Deliver the hour
    afterwards.
    """
    ((organization, project),) = _projects(slug)
    run = OrganizationRun(organization).projects[project.slug]
    digest = _digest_of(run, landing_object)
    name = run.workspace.acceptance(landing_object, digest)
    run.workspace.store.put(
        name, msgspec.json.encode({"object": landing_object, "sha256": digest, "at": datetime.now(UTC).isoformat()})
    )
    click.echo(
        f"accepted {run.raw.source.uri(landing_object)} {'as it is' if digest else 'as gone'}; deliver its hour again"
    )


@main.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option(
    "--delivery", "name", help="The delivery's name, also switched off; all enabled and the workspace if not given."
)
@_says_what_is_wrong
def access(slug: str | None, name: str | None) -> None:
    """Try what deliveries do with their buckets, and say which permission or setting is wrong. Exit status 1 for any.

    What it writes for that, below _amp_pipeline/probe of each url, it removes again.
    """
    # boto3 takes 0.2 s to import, which the other commands may not need.
    from amp_pipeline.storage.probe import probe

    failed = 0
    for target in access_report.targets(_projects(slug), name):
        outcome = probe(target.url, target.s3)
        for line in access_report.told(target, outcome):
            click.echo(line)
        failed += not outcome.ok
    sys.exit(1 if failed else 0)


@main.command()
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.option("--delivery", "name", required=True, help="The delivery's name.")
@click.option("--principal", default="", help="ARN of the user or role that amp-pipeline runs as.")
@click.option("--account", default="", help="Account that owns the bucket; that of who writes if not given.")
@_says_what_is_wrong
def policy(slug: str, name: str, principal: str, account: str) -> None:
    """Print the least policies for a delivery to a bucket, as JSON, and where each of them goes."""
    from amp_pipeline.storage.probe import place_of

    ((organization, project),) = _projects(slug)
    delivery = access_report.delivery_of(project, name)
    place = place_of(delivery.url, organization.s3_of(delivery))
    for line in access_report.printed(access_report.documents(place, principal, account)):
        click.echo(line)


@main.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@_says_what_is_wrong
def waiting(slug: str | None) -> None:
    """Name the hours that are deduplicated but not delivered as they are on record, by delivery. Landings are not read.

    Exit status 1 where any wait.
    """
    waits = 0
    for organization, project in _projects(slug):
        run = OrganizationRun(organization).projects[project.slug]
        for delivery in project.deliveries:
            if delivery.enabled:
                hours = waiting_hours(run, delivery)
                waits += len(hours)
                click.echo(f"{project.slug}  {delivery.name}  {len(hours)} hours wait")
                for hour in hours:
                    click.echo(f"  {hour}")
    sys.exit(1 if waits else 0)


@main.command()
@click.option("--test", is_flag=True, required=True, help="Send a try: a message that nothing is wrong.")
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option("--delivery", "name", help="The delivery's name; all deliveries if not given.")
@_says_what_is_wrong
def alert(test: bool, slug: str | None, name: str | None) -> None:
    """Send a try to all who are told when something goes wrong, each once. Exit status 1 where it did not arrive."""
    if not test:
        raise click.UsageError("only --test can be sent by hand")
    missed = reached = 0
    sent: set[tuple[str, str]] = set()
    for subject in _subjects(slug, name):
        new = [one for one in subject.everybody() if _recipient(one) not in sent]
        sent |= {_recipient(one) for one in new}
        organization = subject.organization
        alerting = Alerting(organization, _alert_store(organization), datetime.now(UTC))
        for recipient, why in alerting.try_out(subject, new).items():
            click.echo(f"{subject.name}  {recipient}  {f'did not arrive: {why}' if why else 'accepted'}")
            missed += bool(why)
            reached += not why
    if not missed and not reached:
        click.echo("nobody is told; name somebody under alerts in the defs.yaml")
    sys.exit(1 if missed or not reached else 0)


@main.command()
@_says_what_is_wrong
def watch() -> None:
    """Tell people where Dagster itself is not at work. Run it by cron, beside Dagster, each 15 minutes or so.

    Looks at the Dagster instance at DAGSTER_HOME: signs of life of its daemons, sensors that are stopped, fail, or do
    not run; and at alerts that did not reach anybody. Exit status 1 where something is wrong.
    """
    _need_dagster_home()
    import dagster as dg

    from amp_pipeline.definitions import defs
    from amp_pipeline.defs.watching import trouble_of_dagster

    now, wrong = datetime.now(UTC), 0
    organizations = list({organization.id: organization for organization, _ in _projects(None)}.values())
    with dg.DagsterInstance.get() as instance:
        for one in organizations:
            others = [other for other in organizations if other.id != one.id]
            trouble = trouble_of_dagster(defs, instance, one, others, now)
            click.echo(f"{one.slug}: {trouble.summary if trouble else 'Dagster is at work'}")
            wrong += trouble is not None
            wrong += _tell(one, trouble, now)
    sys.exit(1 if wrong else 0)


def _tell(organization: Organization, trouble: Trouble | None, now: datetime) -> int:
    """Tell people of ``trouble`` with Dagster; return how many alerts, also of others, did not arrive."""
    store = _alert_store(organization)
    try:
        missed = Alerting(organization, store, now).saw(Subject(organization, what="dagster"), trouble)
        states = [(subject, store.state(subject)) for subject in store.subjects()]
        left = list(unsent(states, now, organization.alerts.remind))
    except AmpError as error:
        click.echo(f"{organization.slug}: nobody could be told: {error}")
        return 1
    for name, why in missed.items():
        click.echo(f"{organization.slug}: an alert did not reach {name}: {why}")
    for subject, message, names in left:
        told = f"{organization.slug}: an alert of {message.at:%Y-%m-%d %H:%M} UTC about {subject}"
        click.echo(f"{told} has not reached {', '.join(names)} yet")
    return len(missed) + len(left)


def _alert_store(organization: Organization) -> AlertStore:
    return AlertStore(open_store(organization.workspace, organization.s3), organization.id)


def _recipient(one: Told) -> tuple[str, str]:
    return one.address, one.channel.get_secret_value() if one.channel else ""


def _subjects(slug: str | None, name: str | None) -> list[Subject]:
    projects = _projects(slug)
    organizations = {organization.id: organization for organization, _ in projects}.values()
    wanted = {project.id for _, project in projects}
    found = [
        subject
        for organization in organizations
        for subject in deliveries(organization)
        if subject.project and subject.project.id in wanted
        if subject.delivery and name in (None, subject.delivery.name)
    ]
    if not found and name is not None:
        raise ConfigError(f"there is no delivery {name} that is switched on")
    all_of_them = slug is None and name is None
    return [*(Subject(one, what="everything") for one in organizations if all_of_them), *found]


def _digest_of(run: ProjectRun, name: str) -> str:
    if run.project.events_pattern.hour_of(name) is None:
        raise ConfigError(
            f"{name!r} is no name of an event object of {run.project.slug}; "
            f"name it relative to {run.project.source.url}"
        )
    if run.raw.source.head(name) is None:
        return ""
    reader = ObjectReader(run.raw.source, name)
    for _ in reader.blocks():
        pass
    return reader.sha256


def _need_dagster_home() -> None:
    if "DAGSTER_HOME" not in os.environ:
        raise ConfigError(
            "DAGSTER_HOME is not set; set it to the folder of your Dagster instance "
            "(`make ui` uses .dagster_home of the repo)"
        )


def _projects(slug: str | None) -> list[tuple[Organization, Project]]:
    from amp_pipeline.organizations import files

    organizations = [one for file in files(os.environ) for one in config.read(file, os.environ)]
    config.check_together(organizations)
    known = [(organization, project) for organization in organizations for project in organization.projects]
    chosen = [(organization, project) for organization, project in known if slug in (None, project.slug)]
    if not chosen:
        raise ConfigError(f"there is no project {slug}; known are {', '.join(project.slug for _, project in known)}")
    return chosen


def _hours(project: Project, first: Hour | None, last: Hour | None) -> list[Hour]:
    hours = finished_hours(project, first, last, _now())
    if not hours:
        known = finished_hours(project, None, None, _now())
        extent = f"go from {known[0]} to {known[-1]}" if known else f"begin at {project.first_hour}"
        raise ConfigError(f"{project.slug} has no finished hour in that range; its hours {extent}")
    return hours


def _now() -> Hour:
    return Hour.of(datetime.now(UTC))


_COLUMNS = ("landed", "quarantined", "repeats", "filtered", "delivered", "parts", "bytes")


def _print_audit(found: list[HourAudit], *, all_hours: bool) -> int:
    """Print a table by hour and a line for each broken law; return how many hours are not as they should be."""
    width = max([len(item.delivery) for item in found] + [8])
    click.echo(f"{'hour':16}  {'delivery':{width}}  " + "  ".join(f"{name:>11}" for name in _COLUMNS) + "  state")
    for item in found:
        if all_hours or item.landed or item.findings:
            numbers = "  ".join(f"{getattr(item, name):>11,}" for name in _COLUMNS)
            click.echo(f"{item.hour.key:16}  {item.delivery:{width}}  {numbers}  {item.state}")
        for finding in item.findings:
            click.echo(f"{'':16}  {finding.law}: {finding.what}")
    bad = [item for item in found if item.findings]
    quiet = sum(not item.landed and not item.findings for item in found)
    deliveries = {item.delivery for item in found}
    for delivery in sorted(deliveries):
        mine = [item for item in found if item.delivery == delivery]
        totals = "  ".join(f"{sum(getattr(item, name) for item in mine):>11,}" for name in _COLUMNS)
        click.echo(f"{'all hours':16}  {delivery:{width}}  {totals}  {len(mine)} hours")
    if quiet and not all_hours:
        click.echo(
            f"{quiet} empty hours of deliveries are as they should be and are not shown (--all-hours shows them)"
        )
    laws = sorted({finding.law for item in bad for finding in item.findings})
    click.echo(
        "every law holds" if not bad else f"{len(bad)} hours are not as they should be; broken: {'; '.join(laws)}"
    )
    return len(bad)


if __name__ == "__main__":
    main()
