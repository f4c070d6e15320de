"""The asset of a delivery's tables: each hour's events, and once a run the tables that are one object."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from amp_pipeline import __version__, clock
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.tables import EVENT
from amp_pipeline.defs import checks, descriptions
from amp_pipeline.defs.assets import HOURS_A_RUN, belonging, delivery_keys, hours_of
from amp_pipeline.defs.hours import HourOptions, asked_by, each_hour, failure
from amp_pipeline.destinations.archive import By
from amp_pipeline.destinations.table_checks import broken_joins, keys_twice, window_of, without_rows
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.run import OrganizationRun
from amp_pipeline.workspace.tables import HourTables, WholeTables

_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn(
            column.name,
            column.kind,
            description=column.meaning,
            constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=column.name in EVENT.key),
        )
        for column in EVENT.columns
    ]
)


def tables_keys(project: Project, delivery: Delivery) -> list[dg.AssetKey]:
    """Return the asset key of a delivery's tables, in a list; an empty one where it has none."""
    return [dg.AssetKey([project.slug, delivery.name, "tables"])] if delivery.tables else []


def tables_assets(organization: Organization) -> list[dg.AssetsDefinition]:
    """Return the assets of all tables of an organization."""
    return [
        _tables(organization, project, delivery, key)
        for project in organization.projects
        for delivery in project.deliveries
        if delivery.enabled
        for key in tables_keys(project, delivery)
    ]


def _tables(organization: Organization, project: Project, delivery: Delivery, key: dg.AssetKey) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        key,
        deps=[delivery_keys(project, delivery)["manifest"]],
        kinds={"parquet"},
        metadata={"dagster/column_schema": _SCHEMA, "bucket": delivery.url},
        description=descriptions.tables(project, delivery),
        **belonging(organization, project, delivery),
    )

    @dg.multi_asset(
        name=key.to_python_identifier(),
        specs=[spec],
        check_specs=[
            checks.rows_match_manifest(key),
            checks.keys_are_unique(key),
            checks.joins_hold(key),
        ],
        partitions_def=hours_of(project.first_hour, project.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
    )
    def tables(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        written = OrganizationRun(organization).projects[project.slug].tables(delivery)
        at = clock.now().isoformat(timespec="microseconds")
        by = By(context.run.run_id, at, __version__, asked_by(context.run.tags))
        done, whole = _write(context, written, by, key, force=config.force)
        hours = sorted(done)
        window = window_of(hours, project.dedupe.window // timedelta(hours=1) + 1)
        try:
            results = [
                checks.report("rows_match_manifest", without_rows(written, done), len(done)),
                checks.report("keys_are_unique", keys_twice(written, hours, window), len(done), warn=True),
                checks.report("joins_hold", broken_joins(written, hours), len(done)),
            ]
        except AmpError as error:
            raise failure(dict.fromkeys(done, str(error)), len(done)) from error
        rows = {f"rows_of_{name}": file.rows for name, file in whole.files.items()}
        context.add_asset_metadata(rows, asset_key=key, partition_key=hours[-1].key)
        return dg.MaterializeResult(check_results=results)

    return tables


def _write(
    context: dg.AssetExecutionContext, tables: Tables, by: By, key: dg.AssetKey, *, force: bool
) -> tuple[dict[Hour, HourTables], WholeTables]:
    """Write the hours of a run, then the tables that are one object, also where some of the hours failed."""
    written: dict[Hour, HourTables] = {}

    def work(hour: Hour) -> HourTables:
        written[hour] = tables.write_hour(hour, by, force=force)
        return written[hour]

    try:
        done = each_hour(context, work, lambda record: {key: _described(tables, record)})
    except dg.Failure:
        if written:
            _finish(tables, written, by, force=force)
        raise
    return done, _finish(tables, written, by, force=force)


def _finish(tables: Tables, written: Mapping[Hour, HourTables], by: By, *, force: bool) -> WholeTables:
    try:
        return tables.finish(written, by, force=force)
    except AmpError as error:
        raise failure(dict.fromkeys(written, str(error)), len(written)) from error


def _described(tables: Tables, record: HourTables) -> dict[str, Any]:
    """Describe the rows of an hour."""
    return {
        "dagster/row_count": record.rows,
        "dagster/uri": tables.store.uri(tables.names.event_table(Hour.parse(record.hour))),
        "bytes": record.event.bytes if record.event else 0,
        "delivered": record.delivered,
        "same_uuid": record.same_uuid,
    }
