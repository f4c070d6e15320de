"""Commands about hours: delivering them, naming those that have to run again or wait, auditing them."""

import sys

import click
import msgspec

from amp_pipeline import clock
from amp_pipeline.audit import HourAudit, audit
from amp_pipeline.cli.asking import chosen, finished, hours_range, need_dagster_home, says_what_is_wrong
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.hours import Hour, ranges
from amp_pipeline.core.wording import counted, span
from amp_pipeline.reconciliation import looked, mark
from amp_pipeline.run import OrganizationRun, ProjectRun, waiting_hours
from amp_pipeline.sources.landing import ObjectReader
from amp_pipeline.storage.urls import open_store


@click.command()
@hours_range
@click.option("--force", is_flag=True, help="Do everything again, even for hours in which nothing has changed.")
@says_what_is_wrong
def deliver(slug: str | None, first: Hour | None, last: Hour | None, force: bool) -> None:
    """Deliver hours through Dagster, and whatever they touch.

    Hours that late data in them changes are delivered again. The runs are kept in the Dagster instance at
    DAGSTER_HOME, as if its UI had started them. Exit status 1 where hours failed.
    """
    need_dagster_home()
    # Dagster takes 2 s to import, which the other commands don't need.
    import dagster as dg

    from amp_pipeline.definitions import defs
    from amp_pipeline.defs.delivering import Delivering

    failed = 0
    with dg.DagsterInstance.get() as instance:
        for organization, project in chosen(slug):
            hours = finished(project, first, last)
            names = ", ".join(delivery.name for delivery in project.deliveries if delivery.enabled)
            click.echo(f"{project.slug}: {counted(len(hours), 'hour')} to {names}")
            failed += len(Delivering(defs, instance, organization, click.echo).deliver(project, hours, force=force))
    sys.exit(1 if failed else 0)


@click.command()
@hours_range
@says_what_is_wrong
def stale(slug: str | None, first: Hour | None, last: Hour | None) -> None:
    """Name the hours that have to run again, and why.

    Late data, changed settings, something to be mended, or they never ran. Hours that follow each other for the
    same reason are one line. First comes what has to be mended, last what never ran.
    """
    for organization, project in chosen(slug):
        run = OrganizationRun(organization).projects[project.slug]
        by_reason: dict[tuple[bool, bool, str], list[Hour]] = {}
        for found in run.stale(finished(project, first, last)):
            by_reason.setdefault((not found.is_trouble, not found.was_done, found.why), []).append(found.hour)
        lines = [(rank, hours, why) for (*rank, why), every in by_reason.items() for hours in ranges(every)]
        for _, hours, why in sorted(lines):
            click.echo(f"{project.slug}  {span(*hours)}  {why}")


@click.command(name="audit")
@hours_range
@click.option("--all-hours", is_flag=True, help="Print every hour, also those with no line and nothing wrong.")
@click.option("--repair", is_flag=True, help="Let the hour sensor deliver again, forced, what is broken or missing.")
@says_what_is_wrong
def audit_command(slug: str | None, first: Hour | None, last: Hour | None, all_hours: bool, repair: bool) -> None:
    """Read everything again and hold every law against it.

    Landing, workspace, buckets and tables are read; exit status 1 where a law is broken. Manifests are not trusted:
    the hours are made anew in scratch space and held against what is there, line by line.
    """
    broken = 0
    for organization, project in chosen(slug):
        hours = finished(project, first, last)
        click.echo(f"{project.slug}: audit of {counted(len(hours), 'hour')}")
        found = list(audit(organization, project, hours))
        broken += _print_audit(found, all_hours=all_hours)
        if repair:
            mark(organization, project, open_store, map(looked, found))
    sys.exit(1 if broken else 0)


@click.command()
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.argument("landing_object")
@says_what_is_wrong
def accept(slug: str, landing_object: str) -> None:
    """Accept a LANDING_OBJECT that is damaged or has vanished.

    Of a damaged one, the good lines count then. The acceptance holds for these very bytes: another damaged copy has
    to be accepted anew. Its hour is delivered again by the hour sensor, or by amp-pipeline deliver.
    """
    ((organization, project),) = chosen(slug)
    run = OrganizationRun(organization).projects[project.slug]
    digest = _digest_of(run, landing_object)
    name = run.workspace.acceptance(landing_object, digest)
    run.workspace.store.put(
        name, msgspec.json.encode({"object": landing_object, "sha256": digest, "at": clock.now().isoformat()})
    )
    then = "the hour sensor delivers its hour again" if project.automatic else "deliver its hour again"
    click.echo(f"accepted {run.raw.source.uri(landing_object)} {'as it is' if digest else 'as gone'}; {then}")


def _digest_of(run: ProjectRun, name: str) -> str:
    """Return the digest of a damaged landing object; "" of one that has vanished.

    Raises:
        ConfigError: It is neither.
    """
    source = run.raw.source
    hour = run.project.events_pattern.hour_of(name)
    if hour is None:
        raise ConfigError(
            f"{name!r} is no name of an event object of {run.project.slug}; name it relative to {source.url}"
        )
    if source.head(name) is not None:
        reader = ObjectReader(source, name)
        for _ in reader.blocks():
            pass
        if reader.damage is None:
            raise ConfigError(f"{source.uri(name)} is not damaged; there is nothing to accept")
        return reader.sha256
    missing = run.raw.landed.missing(hour)
    if name not in missing and not run.workspace.accepted(name, ""):
        shown = ", ".join(map(source.uri, missing))
        raise ConfigError(
            f"{source.uri(name)} is not there, and was never read in hour {hour}; "
            + (f"missing of it: {shown}" if shown else "nothing that was read in it is missing")
        )
    return ""


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@says_what_is_wrong
def waiting(slug: str | None) -> None:
    """Name the hours that are deduplicated but not delivered.

    As they are on record, by delivery; landings are not read. Exit status 1 where any wait.
    """
    waits = 0
    for organization, project in chosen(slug):
        run = OrganizationRun(organization).projects[project.slug]
        for delivery in project.deliveries:
            if delivery.enabled:
                hours = waiting_hours(run, delivery)
                waits += len(hours)
                click.echo(f"{project.slug}  {delivery.name}  {counted(len(hours), 'hour waits', 'hours wait')}")
                for spanned in ranges(hours):
                    click.echo(f"  {span(*spanned)}")
    sys.exit(1 if waits else 0)


_COLUMNS = ("landed", "quarantined", "repeats", "deleted", "filtered", "delivered", "parts", "bytes")


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
        click.echo(f"{'all hours':16}  {delivery:{width}}  {totals}  {counted(len(mine), 'hour')}")
    if quiet and not all_hours:
        click.echo(
            f"{counted(quiet, 'empty hour of deliveries is', 'empty hours of deliveries are')} as they should be and "
            "not shown (--all-hours shows them)"
        )
    laws = sorted({finding.law for item in bad for finding in item.findings})
    click.echo(
        f"{counted(len(bad), 'hour is', 'hours are')} not as they should be; broken: {'; '.join(laws)}"
        if bad
        else "every law holds"
    )
    return len(bad)
