"""What Dagster shows of an hour: numbers under one name each, so that they plot over partitions, and small tables.

No event, no id and no property goes into metadata: events hold IP addresses and user ids, and Dagster's database
keeps metadata for ever.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from amp_pipeline.core.envelope import REASONS
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.merged_ids import chains, cycles
from amp_pipeline.core.schema import COLUMNS
from amp_pipeline.destinations.archive import Receipt
from amp_pipeline.stages.merged_ids import MergedIds
from amp_pipeline.workspace.records import DedupedRecord, MergedRecord, RawRecord

_ROWS_OF_A_TABLE = 20

COLUMN_SCHEMA = dg.TableSchema(
    columns=[dg.TableColumn(column.name, column.kind, description=column.meaning) for column in COLUMNS]
)
"""The event columns with their meanings, for definitions."""

_SHORT_COLUMN_SCHEMA = dg.TableSchema(columns=[dg.TableColumn(column.name, column.kind) for column in COLUMNS])

MERGED_IDS_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("scope", "integer", description="As landed; null in records made from events."),
        dg.TableColumn("merge_time", "integer", description="When the merge happened, ms since 1970."),
        dg.TableColumn("merge_server_time", "integer", description="When the server recorded it, ms since 1970."),
        dg.TableColumn("amplitude_id", "integer", description="The loser: the id that was merged away."),
        dg.TableColumn("merged_amplitude_id", "integer", description="The winner: the user's id from then on."),
    ]
)


def of_raw(record: RawRecord, uri: str) -> dict[str, Any]:
    """Describe what landed in an hour."""
    return {
        "dagster/row_count": record.events,
        "dagster/uri": uri,
        "landed": record.landed,
        "quarantined": record.quarantined,
        "objects": sum(not item.stray_file for item in record.inputs),
        "bytes": record.landed_bytes,
        "strays_in": record.strays_in,
        "strays_out": sum(record.strays_out.values()),
        **_table("event_types", "event_type", "events", record.event_types),
        **_table("quarantine_reasons", "reason", "lines", {f"{r}: {REASONS[r]}": n for r, n in record.reasons.items()}),
        **_table("strays_to", "hour", "lines", record.strays_out),
    }


def of_deduped(record: DedupedRecord, uri: str) -> dict[str, Any]:
    """Describe what is left of an hour without repeats."""
    return {
        "dagster/row_count": record.rows,
        "dagster/uri": uri,
        "bytes": sum(part.bytes for part in record.parts),
        "parts": len(record.parts),
        "repeats": record.repeats,
        "conflicts": record.conflicts,
        **_table("event_types", "event_type", "events", record.event_types),
        **_table("repeats_by_hour_first_seen", "hour", "events", record.first_seen),
        **({"unread_hours": ", ".join(record.missing)} if record.missing else {}),
    }


def of_archive(receipt: Receipt, uri: str) -> dict[str, Any]:
    """Describe the delivered events of an hour."""
    manifest = receipt.manifest
    files = [file for file in manifest.files if file.kind == "events"]
    return {
        "dagster/row_count": manifest.counts.delivered,
        "dagster/uri": uri,
        "dagster/column_schema": _SHORT_COLUMN_SCHEMA,
        "bytes": sum(file.bytes for file in files),
        "parts": len(files),
        "filtered": manifest.counts.filtered,
        **_table("event_types", "event_type", "events", receipt.event_types),
    }


def of_delivered_merged_ids(receipt: Receipt, uri: str) -> dict[str, Any]:
    """Describe the delivered merged ids of an hour."""
    files = [file for file in receipt.manifest.files if file.kind == "merged_ids"]
    return {
        "dagster/row_count": sum(file.rows for file in files),
        "dagster/uri": uri,
        "bytes": sum(file.bytes for file in files),
    }


def of_manifest(receipt: Receipt) -> dict[str, Any]:
    """Describe the proof of an hour."""
    counts = receipt.manifest.counts
    return {
        "dagster/uri": receipt.uri,
        "landed": counts.landed,
        "quarantined": counts.quarantined,
        "repeats": counts.repeats,
        "filtered": counts.filtered,
        "delivered": counts.delivered,
        "files": len(receipt.manifest.files),
        "bytes": sum(file.bytes for file in receipt.manifest.files),
        **({"deleted": counts.deleted} if counts.deleted else {}),
        "delivered_because": receipt.why or "nothing had changed, so nothing was written",
        **(
            {"lines_added": receipt.change.added, "lines_removed": receipt.change.removed}
            if receipt.change is not None
            else {}
        ),
    }


def of_merged(record: MergedRecord, merged: MergedIds, uri: str) -> dict[str, Any]:
    """Describe the merged ids of an hour, and the chains and cycles that it closes."""
    pairs = pairs_around(merged, record)
    return {
        "dagster/row_count": record.rows,
        "dagster/uri": uri,
        "landed": record.landed,
        "made_from_events": record.made,
        "quarantined": record.quarantined,
        "repeats": record.repeats,
        "bytes": record.part.bytes if record.part else 0,
        **({"unread_projects": ", ".join(map(str, record.missing))} if record.missing else {}),
        "chains_in_window": chains(pairs),
        "cycles_in_window": len(cycles(pairs)),
    }


def pairs_around(merged: MergedIds, record: MergedRecord) -> list[tuple[int, int]]:
    """Return loser and winner of all merges of the hour and its window."""
    here = merged.merges(Hour.parse(record.hour), record.pairs)
    return [merge.pair for merge in [*merged.earlier(record.window), *here]]


def _table(name: str, what: str, unit: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the largest counts as a table, or nothing where there are none."""
    if not counts:
        return {}
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_ROWS_OF_A_TABLE]
    return {
        name: dg.MetadataValue.table([dg.TableRecord({what: key or "(none)", unit: count}) for key, count in largest])
    }
