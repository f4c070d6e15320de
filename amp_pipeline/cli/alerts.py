"""Commands about alerts: sending a try, and watching Dagster from outside."""

import sys
from datetime import datetime

import click

from amp_pipeline import clock
from amp_pipeline.alert_settings import Told
from amp_pipeline.alerting import Alerting, Subject, deliveries, unsent
from amp_pipeline.cli.asking import chosen, need_dagster_home, says_what_is_wrong
from amp_pipeline.config import Organization
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.errors import AmpError, ConfigError
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.alerts import AlertStore


@click.command()
@click.option("--test", is_flag=True, required=True, help="Send a try: a message that nothing is wrong.")
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option("--delivery", "name", help="The delivery's name; all deliveries if not given.")
@says_what_is_wrong
def alert(test: bool, slug: str | None, name: str | None) -> None:
    """Send a try to all who are told when something goes wrong.

    Each gets it once. Exit status 1 where it did not arrive.
    """
    if not test:
        raise click.UsageError("only --test can be sent by hand")
    missed = reached = 0
    sent: set[tuple[str, str]] = set()
    for subject in _subjects(slug, name):
        new = [one for one in subject.everybody() if _recipient(one) not in sent]
        sent |= {_recipient(one) for one in new}
        organization = subject.organization
        alerting = Alerting(organization, _alert_store(organization), clock.now())
        for recipient, why in alerting.try_out(subject, new).items():
            click.echo(f"{subject.name}  {recipient}  {f'did not arrive: {why}' if why else 'accepted'}")
            missed += bool(why)
            reached += not why
    if not missed and not reached:
        click.echo("nobody is told; name channels under alerts, or a mail server for the addresses that are named")
    sys.exit(1 if missed or not reached else 0)


@click.command()
@says_what_is_wrong
def watch() -> None:
    """Tell people where Dagster itself is not at work. Run it by cron, beside Dagster, each 15 minutes or so.

    Looks at the Dagster instance at DAGSTER_HOME: signs of life of its daemons, sensors that are stopped, fail, or do
    not run; and at alerts that did not reach anybody. Exit status 1 where something is wrong.
    """
    need_dagster_home()
    import dagster as dg

    from amp_pipeline.definitions import defs
    from amp_pipeline.defs.watching import trouble_of_dagster

    now, wrong = clock.now(), 0
    organizations = list({organization.id: organization for organization, _ in chosen(None)}.values())
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
    projects = chosen(slug)
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
        names = [subject.delivery.name for one in organizations for subject in deliveries(one) if subject.delivery]
        raise ConfigError(f"there is no delivery {name} that is switched on; known are {', '.join(names)}")
    all_of_them = slug is None and name is None
    return [*(Subject(one, what="everything") for one in organizations if all_of_them), *found]
