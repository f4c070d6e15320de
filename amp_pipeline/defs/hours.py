"""A run over hours: each on its own, the good ones recorded, then one failure that names the bad ones (law 8)."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import dagster as dg

from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour, between

_Done = TypeVar("_Done")

PROGRESS_SECONDS = 5.0
"""A long range says how far it is this often; each line in Dagster's log costs about 15 ms on SQLite."""

_FAILED = "failed_hours"

REQUEST = "amp_pipeline/request"
"""Tag of a run that the hour sensor asked for, with the key of its request."""

_BACKFILL = "dagster/backfill"

_PARTITION, _FIRST, _LAST = (
    "dagster/partition",
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)


class HourOptions(dg.Config):
    """Choices for one run."""

    force: bool = False
    """Do the work again even for hours in which nothing has changed."""


def each_hour(
    context: dg.AssetExecutionContext,
    work: Callable[[Hour], _Done],
    describe: Callable[[_Done], Mapping[dg.AssetKey, Mapping[str, Any]]],
) -> dict[Hour, _Done]:
    """Do ``work`` for each hour of the run and record what ``describe`` says of it on the hour's partition.

    Args:
        context: Of the run.
        work: The work of one hour; expected trouble is an :class:`~amp_pipeline.core.errors.AmpError`.
        describe: Metadata of a finished hour, by asset.

    Raises:
        dagster.Failure: Some hours could not be done; all others are materialized.
    """
    hours = [Hour.parse(key) for key in context.partition_keys]
    done: dict[Hour, _Done] = {}
    failed: dict[Hour, str] = {}
    started = said = time.monotonic()
    for number, hour in enumerate(hours):
        try:
            done[hour] = work(hour)
        except AmpError as error:
            failed[hour] = str(error)
            context.log.error(f"{hour}: {error}")
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            left = (said - started) / (number + 1) * (len(hours) - number - 1)
            context.log.info(f"{number + 1} of {len(hours)} hours done, now at {hour}, about {left:.0f} s left")
    if failed:
        for hour, result in done.items():
            for key, metadata in describe(result).items():
                context.log_event(dg.AssetMaterialization(key, partition=hour.key, metadata=metadata))
        raise failure(failed, len(hours))
    for hour, result in done.items():
        for key, metadata in describe(result).items():
            context.add_asset_metadata(metadata, asset_key=key, partition_key=hour.key)
    return done


def failure(failed: Mapping[Hour, str], total: int) -> dg.Failure:
    """Return the failure of a run in which some of ``total`` hours failed, and why each did."""
    hour, what = next(iter(failed.items()))
    records = [dg.TableRecord({"hour": hour.key, "what": what}) for hour, what in failed.items()]
    return dg.Failure(
        description=f"{len(failed)} of {total} hours failed; the others are done. {hour}: {what}",
        metadata={_FAILED: dg.MetadataValue.table(records)},
        # What failed says what to mend; trying again at once would fail in the same way.
        allow_retries=False,
    )


def failed_hours(failure: Any) -> dict[Hour, str]:
    """Return the hours that a failure of :func:`each_hour` names, and why; none where something else failed."""
    table = failure.metadata.get(_FAILED) if failure is not None else None
    if not isinstance(table, dg.TableMetadataValue):
        return {}
    return {Hour.parse(str(record.data["hour"])): str(record.data["what"]) for record in table.records}


def asked_by(tags: Mapping[str, str]) -> str:
    """Return who asked for a run, as its tags tell: the hour sensor, a backfill of Dagster's, or a hand."""
    return "sensor" if REQUEST in tags else "backfill" if _BACKFILL in tags else "hand"


def hours_of_tags(tags: Mapping[str, str]) -> list[Hour]:
    """Return the hours of a run, as its tags tell them; none where its partitions are no hours."""
    with suppress(ValueError):
        if _PARTITION in tags:
            return [Hour.parse(tags[_PARTITION])]
        if _FIRST in tags and _LAST in tags:
            return list(between(Hour.parse(tags[_FIRST]), Hour.parse(tags[_LAST])))
    return []
