"""Commands about buckets: trying them, and printing the policies that a delivery needs."""

import sys

import click

from amp_pipeline import access_report
from amp_pipeline.cli.asking import chosen, says_what_is_wrong


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option(
    "--delivery",
    "name",
    help="The delivery's name, also switched off; all enabled, workspace and source if not given.",
)
@says_what_is_wrong
def access(slug: str | None, name: str | None) -> None:
    """Try what deliveries do with their buckets, and sources.

    Sources are tried where hours are pulled from an API. Says which permission or setting is wrong; exit status 1
    for any.

    What it writes for that, below _amp_pipeline/probe of each url, it removes again.
    """
    # boto3 takes 0.2 s to import, which the other commands may not need.
    from amp_pipeline.source_access import probe_source
    from amp_pipeline.storage.probe import probe

    failed = 0
    for target in access_report.targets(chosen(slug), name):
        outcome = probe_source(target.source, target.project) if target.source else probe(target.url, target.s3)
        for line in access_report.told(target, outcome):
            click.echo(line)
        failed += not outcome.ok
    sys.exit(1 if failed else 0)


@click.command()
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.option("--delivery", "name", required=True, help="The delivery's name.")
@click.option("--principal", default="", help="ARN of the user or role that amp-pipeline runs as.")
@click.option("--account", default="", help="Account that owns the bucket; that of who writes if not given.")
@says_what_is_wrong
def policy(slug: str, name: str, principal: str, account: str) -> None:
    """Print the least policies that a delivery to a bucket needs.

    As JSON, and where each of them goes.
    """
    from amp_pipeline.storage.probe import place_of

    ((organization, project),) = chosen(slug)
    delivery = access_report.delivery_of(project, name)
    place = place_of(delivery.url, organization.s3_of(delivery))
    for line in access_report.printed(access_report.documents(place, principal, account)):
        click.echo(line)
