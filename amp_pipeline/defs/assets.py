"""The assets of an organization, made from its configuration: bodies of a few statements over the stages.

Hours map to themselves between assets. The seven days before an hour are read from the workspace by the library, never
by a partition mapping: picking six hours in the UI would become 173 (design, "How Dagster's order meets law 3").
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from amp_pipeline import __version__, clock
from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.access import Outcome
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs import checks, descriptions, metadata
from amp_pipeline.defs.hours import HourOptions, asked_by, each_hour
from amp_pipeline.destinations.archive import Archive, By, Receipt
from amp_pipeline.first_use import first_use
from amp_pipeline.run import OrganizationRun

HOURS_A_RUN = 24
"""Hours that a backfill puts into one run. A run of its own costs an hour 4 s and more of Dagster's time, a share of a
run over a day 0.35 s (dagster 1.13.27, SQLite, 2 cores)."""


def raw_events_key(project: Project) -> dg.AssetKey:
    """Return the asset key of what landed."""
    return dg.AssetKey([project.slug, "raw_events"])


def deduped_events_key(project: Project) -> dg.AssetKey:
    """Return the asset key of the deduplicated events."""
    return dg.AssetKey([project.slug, "deduped_events"])


def merged_ids_key(organization: Organization) -> dg.AssetKey:
    """Return the asset key of the organization's merged ids."""
    return dg.AssetKey([organization.slug, "merged_ids"])


def delivery_keys(project: Project, delivery: Delivery) -> dict[str, dg.AssetKey]:
    """Return the asset keys of a delivery by their noun: archive and merged_ids as configured, and manifest."""
    nouns = [noun for noun, what in (("archive", "events"), ("merged_ids", "merged_ids")) if what in delivery.what]
    return {noun: dg.AssetKey([project.slug, delivery.name, noun]) for noun in (*nouns, "manifest")}


def hours_of(first: Hour, last: Hour | None) -> dg.HourlyPartitionsDefinition:
    """Return the partitions of hours in UTC, up to now or to ``last``."""
    end = None if last is None else (last + 1).key
    return dg.HourlyPartitionsDefinition(start_date=first.key, end_date=end, timezone="UTC")


def organization_assets(organization: Organization) -> list[dg.AssetsDefinition]:
    """Return all assets of an organization."""
    assets = [_merged_ids(organization)]
    for project in organization.projects:
        assets += [_raw_events(organization, project), _deduped_events(organization, project)]
        assets += [_delivery(organization, project, delivery) for delivery in project.deliveries if delivery.enabled]
    return assets


def _raw_events(organization: Organization, project: Project) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        raw_events_key(project),
        kinds={"json", "polars"},
        metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA, "source": project.source.address},
        description=descriptions.raw_events(project),
        **belonging(organization, project),
    )

    @_hourly_asset(spec, project.first_hour, project.last_hour, [checks.landing_is_ready(spec.key)])
    def raw_events(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        run = OrganizationRun(organization).projects[project.slug]
        run.tell = context.log.info
        run.raw.landed.expect(Hour.parse(key) for key in context.partition_keys)
        done = each_hour(
            context,
            lambda hour: run.raw.land(hour, force=config.force),
            lambda record: {spec.key: metadata.of_raw(record, run.raw.uri(Hour.parse(record.hour)))},
        )
        unready = checks.unready(run, list(done))
        return dg.MaterializeResult(check_results=[checks.report("landing_is_ready", unready, len(done), warn=True)])

    return raw_events


def _deduped_events(organization: Organization, project: Project) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        deduped_events_key(project),
        deps=[raw_events_key(project)],
        kinds={"json", "gzip", "polars"},
        metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA},
        description=descriptions.deduped_events(project),
        **belonging(organization, project),
    )

    @_hourly_asset(
        spec,
        project.first_hour,
        project.last_hour,
        [checks.no_identity_twice(spec.key), checks.no_late_data_waits(spec.key)],
    )
    def deduped_events(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        run = OrganizationRun(organization).projects[project.slug]
        done = each_hour(
            context,
            lambda hour: run.deduped.dedupe(hour, force=config.force),
            lambda record: {spec.key: metadata.of_deduped(record, run.deduped.uri(Hour.parse(record.hour)))},
        )
        results = [
            checks.report("no_identity_twice", checks.identities_twice(run, list(done)), len(done)),
            checks.report("no_late_data_waits", checks.touched(run, list(done)), len(done), warn=True),
        ]
        return dg.MaterializeResult(check_results=results)

    return deduped_events


def _merged_ids(organization: Organization) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        merged_ids_key(organization),
        deps=[raw_events_key(project) for project in organization.projects],
        kinds={"json", "gzip"},
        metadata={"dagster/column_schema": metadata.MERGED_IDS_SCHEMA},
        description=descriptions.merged_ids(organization),
        group_name=organization.slug,
        owners=list(organization.owners),
        tags={"organization": str(organization.id)},
    )

    @_hourly_asset(spec, organization.first_hour, organization.last_hour, [checks.no_cycles(spec.key)])
    def merged_ids(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        merged = OrganizationRun(organization).merged
        done = each_hour(
            context,
            lambda hour: merged.merge(hour, force=config.force),
            lambda record: {spec.key: metadata.of_merged(record, merged, merged.uri(Hour.parse(record.hour)))},
        )
        cycles = checks.cycles_around(merged, done)
        return dg.MaterializeResult(check_results=[checks.report("no_cycles", cycles, len(done), warn=True)])

    return merged_ids


def _hourly_asset(spec: dg.AssetSpec, first: Hour, last: Hour | None, check_specs: Sequence[dg.AssetCheckSpec]) -> Any:
    """Return the decorator of an asset of one hour after the other."""
    return dg.multi_asset(
        name=spec.key.to_python_identifier(),
        specs=[spec],
        check_specs=check_specs,
        partitions_def=hours_of(first, last),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
    )


def _delivery(organization: Organization, project: Project, delivery: Delivery) -> dg.AssetsDefinition:
    keys = delivery_keys(project, delivery)
    manifest = keys["manifest"]

    @dg.multi_asset(
        # One commit: archive, manifest and marker can't be run in part.
        can_subset=False,
        name=f"{project.slug}__{delivery.name}",
        specs=_delivery_specs(organization, project, delivery),
        check_specs=[
            checks.counts_add_up(manifest),
            checks.files_match_manifest(manifest),
            checks.no_hour_is_missing(manifest),
        ],
        partitions_def=hours_of(project.first_hour, project.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
    )
    def deliver(context: dg.AssetExecutionContext, config: HourOptions) -> Iterator[dg.MaterializeResult]:
        run = OrganizationRun(organization).projects[project.slug]
        archive = run.archive(delivery)
        at = clock.now().isoformat(timespec="microseconds")
        by = By(context.run.run_id, at, __version__, asked_by(context.run.tags))
        first = first_use(run, delivery, organization.s3_of(delivery), _probe)
        if first.said:
            context.log.info(first.said)

        def work(hour: Hour) -> Receipt:
            first.refuse()
            return run.deliver(archive, delivery, hour, by, force=config.force)

        done = each_hour(
            context,
            work,
            lambda receipt: _described(archive, receipt, keys),
        )
        results = [
            checks.report("counts_add_up", checks.broken_sums(done), len(done)),
            checks.report("files_match_manifest", checks.mismatches(archive, done), len(done)),
            checks.report("no_hour_is_missing", checks.gaps(run, archive, max(done)), len(done), warn=True),
        ]
        for noun, key in keys.items():
            yield dg.MaterializeResult(asset_key=key, check_results=results if noun == "manifest" else [])

    return deliver


def _probe(url: str, s3: S3 | None) -> Outcome:
    # boto3 takes 0.2 s to import, which loading definitions need not.
    from amp_pipeline.storage.probe import probe

    return probe(url, s3)


def _delivery_specs(organization: Organization, project: Project, delivery: Delivery) -> list[dg.AssetSpec]:
    """Return the assets of a delivery: one commit, so each depends on all that goes into it, and on no other of them.

    Dagster 1.13 refuses a backfill of assets that run together where their upstream assets differ: it compares their
    hours by ``!=``, and ``TimeWindowPartitionsSubset``, without ``__ne__``, then compares how they were put together.
    """
    placed = belonging(organization, project, delivery)
    keys = delivery_keys(project, delivery)
    inputs = [deduped_events_key(project), *([merged_ids_key(organization)] if "merged_ids" in keys else [])]
    specs: list[dg.AssetSpec] = []
    if "archive" in keys:
        specs.append(
            dg.AssetSpec(
                keys["archive"],
                deps=inputs,
                kinds={"json", "gzip"},
                metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA, "bucket": delivery.url},
                description=descriptions.archive(project, delivery),
                **placed,
            )
        )
    if "merged_ids" in keys:
        specs.append(
            dg.AssetSpec(
                keys["merged_ids"],
                deps=inputs,
                kinds={"json", "gzip"},
                metadata={"dagster/column_schema": metadata.MERGED_IDS_SCHEMA, "bucket": delivery.url},
                description=descriptions.delivered_merged_ids(organization, delivery),
                **placed,
            )
        )
    specs.append(
        dg.AssetSpec(
            keys["manifest"],
            deps=inputs,
            kinds={"json"},
            metadata={"bucket": delivery.url},
            description=descriptions.manifest(project, delivery),
            **placed,
        )
    )
    return specs


def _described(archive: Archive, receipt: Receipt, keys: dict[str, dg.AssetKey]) -> dict[dg.AssetKey, dict[str, Any]]:
    hour = Hour.parse(receipt.manifest.hour)
    described = {
        "archive": lambda: metadata.of_archive(receipt, archive.events_uri(hour)),
        "merged_ids": lambda: metadata.of_delivered_merged_ids(
            receipt, archive.store.uri(archive.names.merged_ids(hour))
        ),
        "manifest": lambda: metadata.of_manifest(receipt),
    }
    return {key: described[noun]() for noun, key in keys.items()}


def belonging(organization: Organization, project: Project, delivery: Delivery | None = None) -> dict[str, Any]:
    """Return what places an asset in the UI: group, owners and tags."""
    tags = {"organization": str(organization.id), "project": str(project.id)}
    return {
        "group_name": project.slug,
        "owners": list(organization.owners),
        "tags": tags if delivery is None else {**tags, "delivery": delivery.name},
    }
