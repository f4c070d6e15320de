"""The hour with amp_pipeline, as in production: what the asset bodies of `amp_pipeline.defs.assets` do, checks too.

    python benchmarks/amp.py run LANDING OUT [--deliveries 10] [--filtered] [--week WEEK] [--endpoint URL]
    python benchmarks/amp.py week LANDING WEEK [--keys 1000000]

`run` prints what each stage took. `week` writes what the 168 hours before have left in a workspace: key indexes and
records. Of their events only those land that come again in the hour. The same keys go into Parquet files for DuckDB.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import events
import msgspec
import numpy as np
import polars as pl
from peers.hour import done

from amp_pipeline import config, config_files
from amp_pipeline.core import index
from amp_pipeline.core.hours import MICROSECONDS, Hour
from amp_pipeline.core.manifest import broken_sum
from amp_pipeline.core.merged_ids import cycles
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun, ProjectRun, Stale
from amp_pipeline.stages.merged_ids import MergedIds
from amp_pipeline.workspace.records import MergedRecord

SLUG = "bench"
BUCKET = "bench"
FILTER = "platform = 'iOS' AND event_properties.quantity >= 2"
_BY = By("benchmark", "2025-07-08T11:00:00.000000+00:00", "0")
_Result = TypeVar("_Result")


class Stages:
    """What each stage took, by name: seconds of wall and CPU."""

    def __init__(self) -> None:
        """Begin with none."""
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: {"wall": 0.0, "cpu": 0.0})

    def __call__(self, stage: str, work: Callable[[], _Result]) -> _Result:
        """Do a piece of `stage`."""
        wall, cpu = time.perf_counter(), _cpu()
        result = work()
        self.seconds[stage]["wall"] += round(time.perf_counter() - wall, 4)
        self.seconds[stage]["cpu"] += round(_cpu() - cpu, 4)
        return result


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def organization(
    landing: Path,
    out: Path,
    hour: events.Hour,
    first_hour: Hour,
    deliveries: list[tuple[str, str | None]],
    endpoint: str = "",
) -> config.Organization:
    """Write a `defs.yaml` (JSON is YAML) into `out` and read it; with `endpoint` it delivers to that S3 server."""
    buckets = f"s3://{BUCKET}" if endpoint else "buckets"
    project = {
        "id": hour.project,
        "slug": SLUG,
        "first_hour": first_hour.key,
        "source": {"url": str(landing.resolve())},
        "deliveries": [
            {"name": name, "url": f"{buckets}/{name}", **({"filter": condition} if condition else {})}
            for name, condition in deliveries
        ],
    }
    attributes: dict[str, Any] = {"id": 1, "slug": "bench_org", "workspace": "workspace", "projects": [project]}
    if endpoint:
        server = {"endpoint": endpoint, "region": "us-east-1", "addressing": "path"}
        attributes["s3"] = {**server, "access_key_id": "test", "secret_access_key": "test"}
    file = out / "defs.yaml"
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"type": config_files.COMPONENT, "attributes": attributes}, indent=2))
    return config_files.read(file, {})[0]


def produce(organization: config.Organization, hours: Sequence[Hour], stages: Callable[[Hour], Stages]) -> None:
    """Do hours as Dagster does in a run: each asset with stores of its own, hour by hour, and its checks."""
    slug = organization.projects[0].slug
    raw = OrganizationRun(organization).projects[slug].raw
    for hour in hours:
        stages(hour)("raw_events", partial(raw.land, hour))
        stages(hour)("raw_events", partial(raw.is_complete, hour))  # it warns only

    run = OrganizationRun(organization).projects[slug]
    for hour in hours:
        stages(hour)("deduped_events", partial(run.deduped.dedupe, hour))
    for hour in hours:
        twice = stages(hour)("no_identity_twice", partial(run.deduped.identities_seen_twice, hour))
        _holds(not twice, "no_identity_twice")
    stages(hours[-1])("no_late_data_waits", partial(_waiting, run, hours[0]))  # it warns only

    merged = OrganizationRun(organization).merged
    for hour in hours:
        record = stages(hour)("merged_ids", partial(merged.merge, hour))
        around = stages(hour)("merged_ids", partial(_around, merged, hour, record))
        stages(hour)("merged_ids", partial(cycles, around))

    for delivery in organization.projects[0].deliveries:
        run = OrganizationRun(organization).projects[slug]
        archive = run.archive(delivery)
        for hour in hours:
            receipt = stages(hour)(delivery.name, partial(run.deliver, archive, delivery, hour, _BY))
            _holds(not broken_sum(receipt.manifest), "counts_add_up")
            holds = stages(hour)(delivery.name, partial(archive.holds, hour, receipt.manifest))
            _holds(holds, "files_match_manifest")
        stages(hours[-1])(delivery.name, archive.delivered_hours)


def _around(merged: MergedIds, hour: Hour, record: MergedRecord) -> list[tuple[int, int]]:
    """Return the pairs of an hour and its window."""
    return [merge.pair for merge in (*merged.earlier(record.window), *merged.merges(hour, record.pairs))]


def _waiting(run: ProjectRun, hour: Hour) -> list[Stale]:
    """Return the later hours on record that what landed in `hour` changes."""
    return list(run.stale_events(sorted(found for found in run.workspace.hours("deduped") if found >= hour)))


def _holds(passed: bool, check: str) -> None:
    if not passed:
        raise SystemExit(f"the check {check} fails")


def run(landing: Path, out: Path, deliveries: int, filtered: bool, week: Path | None, endpoint: str) -> None:
    """Deduplicate and deliver the landing's hour."""
    made = made_of(landing)
    hour = Hour.parse(made.key)
    if out.exists():
        shutil.rmtree(out)
    if week is not None:
        # Links: the pipeline replaces files, it never writes into one.
        shutil.copytree(week / "workspace", out / "workspace", copy_function=os.link)
    wanted: list[tuple[str, str | None]] = [
        ("all_events" if not number else f"all_events_{number + 1}", None) for number in range(deliveries)
    ]
    wanted += [("filtered", FILTER)] if filtered else []
    first_hour = hour if week is None else hour + -events.HOURS_OF_WEEK
    started = time.perf_counter()
    stages = Stages()
    configured = organization(landing, out, made, first_hour, wanted, endpoint)
    produce(configured, [hour], lambda _: stages)
    seconds = time.perf_counter() - started
    project = OrganizationRun(configured).projects[SLUG]
    record = project.workspace.deduped(hour)
    if record is None:
        raise SystemExit("the hour has no record")
    # Only where it is compared: it is no part of the work.
    reported = () if week is None else project.workspace.report("repeats", hour)
    first_seen = [(entry["row"], entry["first_seen"]) for entry in reported if entry["first_seen"] != hour.key]
    done(
        seconds,
        record.rows,
        repeats=record.repeats,
        bytes=sum(part.bytes for part in record.parts),
        unpacked_bytes=sum(part.unpacked_bytes for part in record.parts),
        repeats_of_week=len(first_seen),
        digest_of_week=hashlib.sha256(",".join(str(row) for row, _ in sorted(first_seen)).encode()).hexdigest(),
        stages=stages.seconds,
    )


def made_of(landing: Path) -> events.Hour:
    """Return what the landing's hour is made of."""
    made = json.loads((landing / "made.json").read_bytes())
    return events.Hour(**{key: made[key] for key in events.Hour.__dataclass_fields__})


# The week behind the hour. ------------------------------------------------------------------------------------------


def write_week(landing: Path, week: Path, keys_an_hour: int) -> None:
    """Write the workspace that the 168 hours before the landing's hour have left, and the same keys for DuckDB.

    The events that come again land as they would; the other keys of an hour are invented.
    """
    made = made_of(landing)
    hour = Hour.parse(made.key)
    if week.exists():
        shutil.rmtree(week)
    (week / "parquet").mkdir(parents=True)
    shutil.copytree(landing, week / "landing", copy_function=os.link)
    lines: dict[int, list[bytes]] = defaultdict(list)
    for back, line in events.Events(made).of_week():
        lines[back].append(line)
    for back in range(1, events.HOURS_OF_WEEK + 1):
        earlier = hour + -back
        name = f"{made.project}/{made.project}_{earlier.day}_{earlier.of_day}#0.json.gz"
        (week / "landing" / name).write_bytes(gzip.compress(b"".join(lines[back]), mtime=0))
    configured = organization(week / "landing", week, made, hour + -events.HOURS_OF_WEEK, [])
    run = OrganizationRun(configured).projects[SLUG]
    random = np.random.default_rng(made.seed)
    for back in range(1, events.HOURS_OF_WEEK + 1):
        keys = _add_keys(run, hour + -back, keys_an_hour, random)
        # Without compression: digests have nothing to compress.
        frame = pl.DataFrame({"high": keys.high, "low": keys.low, "time": keys.time})
        frame.write_parquet(week / "parquet" / f"{back:03}.parquet", compression="uncompressed")
    merged = OrganizationRun(configured).merged
    for back in range(1, events.HOURS_OF_WEEK + 1):
        merged.collect(hour + -back)
    _keys_of_hour(landing, week, made, hour)
    (week / "week.json").write_text(json.dumps({"keys_an_hour": keys_an_hour}))


def _add_keys(run: ProjectRun, hour: Hour, count: int, random: np.random.Generator) -> index.Keys:
    """Land `hour`, fill its key index up to `count` keys, and put it on record; return its keys."""
    record = run.raw.land(hour)
    landed = run.workspace.keys(hour, record.keys).all() if record.keys else index.no_keys()
    more, top = max(0, count - landed.count), 2**64 - 1
    invented = index.Keys(
        random.integers(0, top, more, np.uint64, endpoint=True),
        random.integers(0, top, more, np.uint64, endpoint=True),
        random.integers(hour.start_us, hour.start_us + MICROSECONDS, more, np.int64),
        random.integers(0, top, more, np.uint64, endpoint=True),
    )
    keys = index.joined([landed, invented])
    keys = keys.where(index.order(keys))
    digest = run.workspace.put_data("keys", hour, _key_index(keys), ".keys")
    filled = msgspec.structs.replace(record, keys=digest, landed=record.landed + more, events=record.events + more)
    run.workspace.save("raw", hour, filled)
    return keys


def _key_index(keys: index.Keys) -> bytes:
    """Return the bytes of a key index."""
    rest = np.empty(keys.count, index.REST)
    rest["low"], rest["time"], rest["content"] = keys.low, keys.time, keys.content
    body = keys.high.tobytes() + rest.tobytes()
    start = index.high_start(keys.count)
    entries = index.directory(keys.count, lambda at, length: body[at - start : at - start + length])
    return index.keys_header(keys.count, entries) + entries + body


def _keys_of_hour(landing: Path, week: Path, made: events.Hour, hour: Hour) -> None:
    """Write the keys of the hour itself and the rows they belong to, for DuckDB."""
    scratch = week / "scratch"
    run = OrganizationRun(organization(landing, scratch, made, hour, [])).projects[SLUG]
    record = run.raw.land(hour)
    keys = run.workspace.keys(hour, record.keys).all()
    rows = run.workspace.rows(hour, record.rows).of_ranks(0, keys.count)
    frame = pl.DataFrame({"row": rows, "high": keys.high, "low": keys.low, "time": keys.time})
    frame.write_parquet(week / "hour.parquet", compression="uncompressed")
    shutil.rmtree(scratch)


def main() -> None:
    """Run the hour, or write the week."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("landing", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--deliveries", type=int, default=1, help="unfiltered ones")
    running.add_argument("--filtered", action="store_true", help="and a filtered one")
    running.add_argument("--endpoint", default="", help="S3 server with a bucket `bench` to deliver to")
    running.add_argument("--week", type=Path, help="folder that the command week has written")
    weekly = commands.add_parser("week")
    weekly.add_argument("landing", type=Path)
    weekly.add_argument("out", type=Path)
    weekly.add_argument("--keys", type=int, help="keys an hour; as many as the hour has events")
    options = parser.parse_args()
    if options.command == "week":
        write_week(options.landing, options.out, options.keys or made_of(options.landing).events)
    else:
        landing = options.landing if options.week is None else options.week / "landing"
        run(landing, options.out, options.deliveries, options.filtered, options.week, options.endpoint)


if __name__ == "__main__":
    main()
