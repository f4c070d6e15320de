"""Asset checks: what holds of the hours of a run. The blocking ones stop what depends on wrong data.

What they report was verified where it was written, inside the commit and before the complete marker; a check never
finds
out first.
"""

from collections.abc import Callable, Iterator, Mapping

import dagster as dg

from amp_pipeline.core.hours import Hour, between, window
from amp_pipeline.core.manifest import broken_sum
from amp_pipeline.core.merged_ids import cycles
from amp_pipeline.defs.metadata import pairs_around
from amp_pipeline.destinations.archive import Archive, Receipt
from amp_pipeline.run import ProjectRun
from amp_pipeline.stages.merged_ids import MergedIds
from amp_pipeline.workspace.records import MergedRecord

_SHOWN = 20


def landing_is_ready(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check that the source has finished the hours."""
    return dg.AssetCheckSpec(
        "landing_is_ready",
        asset=asset,
        description="The landing has a complete marker for each hour of the run. What lands later heals by itself.",
    )


def no_identity_twice(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of the dedupe rule."""
    return dg.AssetCheckSpec(
        "no_identity_twice",
        asset=asset,
        blocking=True,
        description="No kept event has the identity of another event of the window before it, looked up in the key "
        "indexes by another way than the one that dropped the repeats.",
    )


def no_late_data_waits(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of other hours that have to run again."""
    return dg.AssetCheckSpec(
        "no_late_data_waits",
        asset=asset,
        description="What landed in the hours of the run changes no other hour that was deduplicated before. Hours "
        "named here have to run again: materialize them, or let `amp-pipeline deliver` do it.",
    )


def counts_add_up(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of law 2."""
    return dg.AssetCheckSpec(
        "counts_add_up",
        asset=asset,
        blocking=True,
        description="landed = quarantined + repeats + deleted + filtered + delivered, for each hour of the run.",
    )


def files_match_manifest(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of the bucket."""
    return dg.AssetCheckSpec(
        "files_match_manifest",
        asset=asset,
        blocking=True,
        description="The bucket holds the files that the manifests name, in their sizes, no other part of those hours, "
        "and the complete markers. Digests were held against what was read back before each marker was written.",
    )


def no_hour_is_missing(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of gaps."""
    return dg.AssetCheckSpec(
        "no_hour_is_missing",
        asset=asset,
        description="Every hour from the project's first to the run's last was delivered.",
    )


def rows_match_manifest(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check that tables hold what was delivered."""
    return dg.AssetCheckSpec(
        "rows_match_manifest",
        asset=asset,
        blocking=True,
        description="For each hour of the run, the rows of its file and the events that have the uuid of an earlier "
        "one of the hour are as many as its manifest says were delivered.",
    )


def keys_are_unique(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of the keys of tables."""
    return dg.AssetCheckSpec(
        "keys_are_unique",
        asset=asset,
        description="No two rows of a table have one key. Of `event`, the hours of the run are held against each other "
        "and, up to 20 million events, against the dedupe window before them; an event that Amplitude gave a uuid "
        "twice is named here.",
    )


def joins_hold(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of the joins of tables."""
    return dg.AssetCheckSpec(
        "joins_hold",
        asset=asset,
        description="Each user, group, type, category and cohort that a row names is a row of its table: of `event` "
        "for the hours of the run, of the other tables for all rows.",
    )


def no_cycles(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Describe the check of merged ids."""
    return dg.AssetCheckSpec(
        "no_cycles",
        asset=asset,
        description="No merged ids of an hour and its window end in one another: users in a cycle have no winner. "
        "They are delivered as they landed.",
    )


def apart(
    asset: dg.AssetKey,
    name: str,
    description: str,
    look: Callable[[dg.AssetCheckExecutionContext], dg.AssetCheckResult],
) -> dg.AssetChecksDefinition:
    """Return a check with times of its own: looked at where it alone is asked for, not in runs of its asset.

    Dagster adds every check of an asset to each run that materializes it; a backfill of a year would try the bucket and
    audit days 365 times.
    """

    @dg.multi_asset_check(
        name=f"{asset.to_python_identifier()}_{name}",
        specs=[dg.AssetCheckSpec(name, asset=asset, description=description)],
        # Or it would have to yield something.
        can_subset=True,
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if context.run.asset_selection:
            context.log.info(f"{name} is looked at by itself, not in runs that materialize its asset")
            return
        result = look(context)
        yield result._replace(asset_key=asset, check_name=name)

    return check


def report(name: str, findings: Mapping[str, str], hours: int, *, warn: bool = False) -> dg.AssetCheckResult:
    """Return the result of a check over the hours of a run.

    Args:
        name: Of the check.
        findings: What is wrong, by hour.
        hours: How many hours were looked at.
        warn: A finding is a warning, not an error.
    """
    records = [dg.TableRecord({"hour": hour, "what": what}) for hour, what in list(findings.items())[:_SHOWN]]
    return dg.AssetCheckResult(
        check_name=name,
        passed=not findings,
        severity=dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR,
        metadata={
            "hours": hours,
            "findings": len(findings),
            **({"first_findings": dg.MetadataValue.table(records)} if records else {}),
        },
    )


def unready(run: ProjectRun, hours: list[Hour]) -> dict[str, str]:
    """Return the hours without a complete marker in the landing."""
    return {hour.key: "has no complete marker" for hour in hours if not run.raw.is_complete(hour)}


def identities_twice(run: ProjectRun, hours: list[Hour]) -> dict[str, str]:
    """Return the hours with kept events that repeat others."""
    found = {hour.key: run.deduped.identities_seen_twice(hour) for hour in hours}
    return {key: f"{count} events were seen before" for key, count in found.items() if count}


def touched(run: ProjectRun, hours: list[Hour]) -> dict[str, str]:
    """Return the hours on record that what landed in ``hours`` changes: those of strays, and those of the window."""
    if not hours:
        return {}
    strays = [Hour.parse(key) for hour in hours for key in run.raw.land(hour).strays_out]
    first, _ = window(max(hours), run.project.dedupe.window)
    later = between(min(hours), max(hours) + (max(hours).number - first.number))
    recorded = run.workspace.hours("deduped") & {*strays, *later}
    return {found.hour.key: found.why for found in run.stale_events(sorted(recorded))}


def broken_sums(receipts: Mapping[Hour, Receipt]) -> dict[str, str]:
    """Return the hours whose counts don't add up."""
    found = {hour.key: broken_sum(receipt.manifest) for hour, receipt in receipts.items()}
    return {key: problem for key, problem in found.items() if problem}


def mismatches(archive: Archive, receipts: Mapping[Hour, Receipt]) -> dict[str, str]:
    """Return the hours that the bucket does not hold as their manifests say."""
    return {
        hour.key: "the bucket does not hold what the manifest says"
        for hour, receipt in receipts.items()
        if not archive.holds(hour, receipt.manifest)
    }


def gaps(run: ProjectRun, archive: Archive, last: Hour) -> dict[str, str]:
    """Return the hours up to ``last`` that were never delivered."""
    delivered = archive.delivered_hours()
    return {hour.key: "was never delivered" for hour in between(run.project.first_hour, last) if hour not in delivered}


def cycles_around(merged: MergedIds, records: Mapping[Hour, MergedRecord]) -> dict[str, str]:
    """Return the hours whose window holds cycles."""
    found = {hour.key: len(cycles(pairs_around(merged, record))) for hour, record in records.items()}
    return {key: f"{count} cycles in the window" for key, count in found.items() if count}
