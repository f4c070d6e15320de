"""The command that takes away what the workspace holds but nothing needs any more."""

from collections import Counter
from collections.abc import Iterable

import click

from amp_pipeline import clock
from amp_pipeline.cli.asking import chosen, says_what_is_wrong
from amp_pipeline.core.wording import counted
from amp_pipeline.retention import Removal, plan, remove
from amp_pipeline.storage.urls import open_store


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, name by name, and delete nothing.")
@says_what_is_wrong
def tidy(dry_run: bool) -> None:
    """Take away what workspaces hold but nothing needs any more.

    Superseded versions, and old entries of logs. How long they are kept is set under retention. What a law needs is
    never taken away.
    """
    for organization in {organization.id: organization for organization, _ in chosen(None)}.values():
        workspace = open_store(organization.workspace, organization.s3)
        planned = plan(organization, workspace, clock.now())
        if dry_run:
            found = list(planned)
            for one in found:
                click.echo(f"{one.name}  {one.bytes:,} bytes: {one.why}")
            _say(organization.slug, "would go", found)
        else:
            _say(organization.slug, "gone", remove(workspace, planned))


def _say(slug: str, what: str, removals: Iterable[Removal]) -> None:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in removals:
        counts[one.kind] += 1
        sizes[one.kind] += one.bytes
    for kind in sorted(counts):
        click.echo(f"{slug}  {kind:11}  {counts[kind]:>9,} objects  {sizes[kind]:>15,} bytes")
    click.echo(f"{slug}  {what}: {counted(counts.total(), 'object')}, {counted(sizes.total(), 'byte')}")
