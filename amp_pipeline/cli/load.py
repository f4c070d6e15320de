"""The command that loads the tables of a delivery into a database."""

import sys
from importlib.util import find_spec
from pathlib import Path

import click
from click.core import ParameterSource

from amp_pipeline.cli.asking import chosen, says_what_is_wrong
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.tables import TABLES
from amp_pipeline.core.wording import counted, ranged
from amp_pipeline.loading.database import Database
from amp_pipeline.loading.load import load as load_tables
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.storage.urls import open_store

_SHOWN = 5


@click.command()
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.option("--delivery", "name", required=True, help="The delivery, which has tables: true.")
@click.option(
    "--duckdb", "file", type=click.Path(dir_okay=False, path_type=Path), help="A DuckDB file; made where there is none."
)
@click.option(
    "--postgres",
    "address",
    envvar="AMP_PIPELINE_POSTGRES",
    help="A PostgreSQL database, like postgresql://user@host/database. A password belongs into the environment: "
    "PGPASSWORD, a file named by PGPASSFILE, or all of the address in AMP_PIPELINE_POSTGRES.",
)
@click.option("--schema", default="amp_pipeline", show_default=True, help="Schema of the tables.")
@click.option("--partial", is_flag=True, help="Be content with what there are tables of: exit status 0 even so.")
@click.option("--verbose", is_flag=True, help="Say each hour that was loaded.")
@says_what_is_wrong
def load(
    slug: str, name: str, file: Path | None, address: str | None, schema: str, *, partial: bool, verbose: bool
) -> None:
    """Load tables of a delivery into DuckDB or PostgreSQL.

    What has changed since the last time is loaded. Killed at any time, or run again: the database is as before, or
    as the next run makes it. Exit status 1 where the tables are not yet made of all that was delivered; what there
    is is loaded even so.
    """
    ((organization, project),) = chosen(slug)
    deliveries = {delivery.name: delivery for delivery in project.deliveries}
    if name not in deliveries:
        raise ConfigError(f"project {slug} has no delivery {name}; it has {', '.join(deliveries) or 'none'}")
    delivery = deliveries[name]
    source = click.get_current_context().get_parameter_source("address")
    if file is not None and source is ParameterSource.COMMANDLINE:
        raise ConfigError("--duckdb and --postgres are two databases; load into one, then into the other")
    with scratch() as folder:
        database = _opened(file, address, schema, organization.memory, folder)
        try:
            done = load_tables(
                organization,
                project,
                delivery,
                open_store(organization.workspace, organization.s3),
                open_store(delivery.url, organization.s3_of(delivery)),
                database,
                folder,
                tell=click.echo if verbose else lambda _: None,
            )
            counts = {table: database.count(table) for table in TABLES}
            repeats = database.count("event_repeat")
        finally:
            database.close()
    hours = f"{counted(done.hours, 'hour')} loaded, {done.removed:,} removed, {done.same:,} as they were"
    click.echo(f"{slug}.{name}: {hours}; {len(done.tables)} of 7 tables changed")
    click.echo("  " + ", ".join(f"{table} {count:,}" for table, count in counts.items()))
    if repeats:
        has = counted(
            repeats, "row has a uuid of an earlier hour and is", "rows have a uuid of an earlier hour and are"
        )
        click.echo(f"  {has} in event_repeat alone")
    if done.unready:
        shown = ", ".join(done.unready[:_SHOWN]) + (", …" if len(done.unready) > _SHOWN else "")
        click.echo(f"  not ready, load again later: {shown}")
    if done.without:
        have = counted(len(done.without), "delivered hour has", "delivered hours have")
        click.echo(f"  {have} no tables yet, load again once they are made: {ranged(done.without, _SHOWN)}")
    sys.exit(1 if (done.unready or done.without) and not partial else 0)


def _opened(file: Path | None, address: str | None, schema: str, memory: int, folder: Path) -> Database:
    if file is not None:
        # A file that is named on the command line goes before an address in the environment.
        if find_spec("duckdb") is None:
            raise ConfigError("DuckDB is not installed; run pip install 'duckdb>=2.0'")
        from amp_pipeline.loading.duckdb import DuckDB

        return DuckDB(file, schema, memory, folder)
    if address:
        if find_spec("psycopg") is None:
            raise ConfigError("the client of PostgreSQL is not installed; run pip install 'psycopg[binary]>=3.2'")
        from amp_pipeline.loading.postgres import Postgres

        return Postgres(address, schema)
    raise ConfigError("say where to load: --duckdb FILE, or --postgres ADDRESS")
