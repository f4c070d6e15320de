"""The assets of an organization, made from its configuration: bodies of a few statements over the stages.

Hours map to themselves between assets. The seven days before an hour are read from the workspace by the library, never by a partition mapping: picking six
hours in the UI would become 173 (design, "How Dagster's order meets law 3").
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from amp_pipeline import __version__
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs import checks, metadata
from amp_pipeline.defs.hours import HourOptions, each_hour
from amp_pipeline.destinations.archive import Archive, By, Receipt
from amp_pipeline.run import OrganizationRun

HOURS_A_RUN = 24
"""Hours that a backfill puts into one run: 0.35 s of Dagster's own time an hour instead of 4 and more (reference: dagster.md, 2)."""


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
    nouns = [
        *(["archive"] if "events" in delivery.what else []),
        *(["merged_ids"] if "merged_ids" in delivery.what else []),
        "manifest",
    ]
    return {noun: dg.AssetKey([project.slug, delivery.name, noun]) for noun in nouns}


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
    key = raw_events_key(project)

    @dg.asset(
        key=key,
        group_name=project.slug,
        kinds={"json", "polars"},
        owners=list(organization.owners),
        tags=_tags(organization, project),
        partitions_def=hours_of(project.first_hour, project.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=[checks.landing_is_ready(key)],
        metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA, "source": project.source.url},
        description=f"""What landed in an hour of project {project.id}: its lines told apart into events, strays and quarantine, and the key index of its events.

An hour is one UTC hour of `server_upload_time`. Lines stay in the landing (`{project.source.url}`) as they are; the workspace records which objects were
read, with size and digest, so that a changed or late file is noticed. Lines that are no events are kept in the quarantine with reason, object and line number. Events of
another hour (strays) are handed to their own hour. An hour in which nothing landed has zeros.""",
    )
    def raw_events(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        run = OrganizationRun(organization).projects[project.slug]
        done = each_hour(
            context,
            lambda hour: run.raw.land(hour, force=config.force),
            lambda record: {key: metadata.of_raw(record, run.raw.uri(Hour.parse(record.hour)))},
        )
        unready = checks.unready(run, list(done))
        return dg.MaterializeResult(check_results=[checks.report("landing_is_ready", unready, len(done), warn=True)])

    return raw_events


def _deduped_events(organization: Organization, project: Project) -> dg.AssetsDefinition:
    key = deduped_events_key(project)

    @dg.asset(
        key=key,
        deps=[raw_events_key(project)],
        group_name=project.slug,
        kinds={"json", "gzip", "polars"},
        owners=list(organization.owners),
        tags=_tags(organization, project),
        partitions_def=hours_of(project.first_hour, project.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=[checks.no_identity_twice(key)],
        metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA},
        description=f"""The events of an hour that are not repeats, as gzip parts in the workspace: the pipeline's own durable record, from which every delivery is made.

An event is a repeat when an event with the same identity (`device_id` and `$insert_id`; else `device_id`, `event_id` and `client_event_time`; else `uuid`) arrived before it, at most
{_length(project.dedupe.window)} earlier. The first one stays. Repeats are reported beside the parts, with their text, the hour first seen, and whether the content differs. Which hour runs first makes no difference.""",
    )
    def deduped_events(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        run = OrganizationRun(organization).projects[project.slug]
        done = each_hour(
            context,
            lambda hour: run.deduped.dedupe(hour, force=config.force),
            lambda record: {key: metadata.of_deduped(record, run.deduped.uri(Hour.parse(record.hour)))},
        )
        twice = checks.identities_twice(run, list(done))
        return dg.MaterializeResult(check_results=[checks.report("no_identity_twice", twice, len(done))])

    return deduped_events


def _merged_ids(organization: Organization) -> dg.AssetsDefinition:
    key = merged_ids_key(organization)

    @dg.asset(
        key=key,
        deps=[raw_events_key(project) for project in organization.projects],
        group_name=organization.slug,
        kinds={"json", "gzip"},
        owners=list(organization.owners),
        tags={"organization": str(organization.id)},
        partitions_def=hours_of(organization.first_hour, organization.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=[checks.no_cycles(key)],
        metadata={"dagster/column_schema": metadata.MERGED_IDS_SCHEMA},
        description=f"""The merged ids of an hour of organization {organization.id}: `amplitude_id` (the loser) was merged into `merged_amplitude_id` (the winner).

From landed merged-id files, as they stand, and from events with `data.merged_amplitude_id` (those have a null `scope`). A pair that stood in the {_length(organization.merged_ids_window)} before is left out. Chains and cycles
are counted, not resolved.""",
    )
    def merged_ids(context: dg.AssetExecutionContext, config: HourOptions) -> dg.MaterializeResult:
        merged = OrganizationRun(organization).merged
        done = each_hour(
            context,
            lambda hour: merged.merge(hour, force=config.force),
            lambda record: {key: metadata.of_merged(record, merged, merged.uri(Hour.parse(record.hour)))},
        )
        cycles = checks.cycles_around(merged, done)
        return dg.MaterializeResult(check_results=[checks.report("no_cycles", cycles, len(done), warn=True)])

    return merged_ids


def _delivery(organization: Organization, project: Project, delivery: Delivery) -> dg.AssetsDefinition:
    keys = delivery_keys(project, delivery)
    manifest = keys["manifest"]

    @dg.multi_asset(
        name=f"{project.slug}__{delivery.name}",
        specs=_delivery_specs(organization, project, delivery),
        check_specs=[
            checks.counts_add_up(manifest),
            checks.files_match_manifest(manifest),
            checks.no_hour_is_missing(manifest),
        ],
        partitions_def=hours_of(project.first_hour, project.last_hour),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        # One commit: archive, manifest and marker can't be run in part.
        can_subset=False,
    )
    def deliver(context: dg.AssetExecutionContext, config: HourOptions) -> Iterator[dg.MaterializeResult]:
        run = OrganizationRun(organization).projects[project.slug]
        archive = run.archive(delivery)
        by = By(context.run_id, datetime.now(UTC).isoformat(timespec="microseconds"), __version__)
        done = each_hour(
            context,
            lambda hour: run.deliver(archive, delivery, hour, by, force=config.force),
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


def _delivery_specs(organization: Organization, project: Project, delivery: Delivery) -> list[dg.AssetSpec]:
    chosen = f"Events for which `{delivery.filter}` is true." if delivery.filter else "All events."
    common: dict[str, Any] = {
        "group_name": project.slug,
        "owners": list(organization.owners),
        "tags": {**_tags(organization, project), "delivery": delivery.name},
    }
    keys = delivery_keys(project, delivery)
    specs: list[dg.AssetSpec] = []
    if "events" in delivery.what:
        specs.append(
            dg.AssetSpec(
                keys["archive"],
                deps=[deduped_events_key(project)],
                kinds={"json", "gzip"},
                metadata={"dagster/column_schema": metadata.COLUMN_SCHEMA, "bucket": delivery.url},
                description=f"""The delivered events of an hour in `{delivery.url}`, in Amplitude's own layout: `{project.id}/{project.id}_yyyy-MM-dd_H#n.json.gz`, one event as JSON on each line, byte for byte as it landed.

{chosen} An hour without events has no files, a manifest with zeros, and a complete marker.""",
                **common,
            )
        )
    if "merged_ids" in delivery.what:
        specs.append(
            dg.AssetSpec(
                keys["merged_ids"],
                deps=[merged_ids_key(organization)],
                kinds={"json", "gzip"},
                metadata={"dagster/column_schema": metadata.MERGED_IDS_SCHEMA, "bucket": delivery.url},
                description=f"The delivered merged ids of an hour, `-{organization.id}/-{organization.id}_yyyy-MM-dd_H.json.gz` in `{delivery.url}`. An hour without any has no file.",
                **common,
            )
        )
    specs.append(
        dg.AssetSpec(
            keys["manifest"],
            # The counts of a delivery of merged ids alone still come from the hour's events.
            deps=[spec.key for spec in specs]
            if "events" in delivery.what
            else [*(spec.key for spec in specs), deduped_events_key(project)],
            kinds={"json"},
            metadata={"bucket": delivery.url},
            description=f"""The proof of a delivered hour: files with rows, bytes and SHA-256, and the counts that account for every landed line. `_amp_pipeline/{project.id}/{delivery.name}/yyyy-MM-dd/HH.json` in `{delivery.url}`.

Written after the files were read back and held against it; {"the complete marker follows" if delivery.complete_markers else "complete markers are switched off, so readers wait for the manifest"}. It holds nothing that two runs would write
differently; when and why an hour was delivered is in the delivery log in the workspace.""",
            **common,
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


def _tags(organization: Organization, project: Project) -> dict[str, str]:
    return {"organization": str(organization.id), "project": str(project.id)}


def _length(window: timedelta) -> str:
    return f"{window.days} days" if window == timedelta(days=window.days) else str(window)
