"""A tick of the hour sensor over ten years of hours and a hundred thousand landing objects, and over twice that.

    python benchmarks/tick.py OUT

Three ticks of each: one where all is settled, the same one minute later, and one of a project that nothing is known of
yet. Prints seconds and calls of the stores for each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

from amp_pipeline.buckets import S3
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.ticks import Cursor
from amp_pipeline.needs import Judge
from amp_pipeline.run import OrganizationRun
from amp_pipeline.scheduling import Scheduler
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Day, Entry, Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.laws.counting import ToldStore

HOURS, OBJECTS = 87_600, 100_000
FIRST = Hour.parse("2016-01-01-00:00")


class Counted:
    """Opens stores that count their calls."""

    def __init__(self) -> None:
        """Begin with none."""
        self.calls: Counter[str] = Counter()

    def __call__(self, url: str, s3: S3 | None = None) -> ObjectStore:
        """Open a store."""
        return ToldStore(open_store(url, s3), self._count)

    def _count(self, method: str, uri: str) -> None:
        del uri
        self.calls[method] += 1


class Nothing:
    """A Dagster that does nothing."""

    hours: tuple[Hour, ...] = ()
    requests = 0

    def knows(self, request: str, /) -> bool:
        """Know of all requests."""
        return bool(request)


def landed(folder: Path, hours: int, objects: int) -> None:
    """Let so many empty objects land, spread evenly, below a folder for each project as Amplitude names them."""
    (folder / "7").mkdir(parents=True)
    for number in range(objects):
        hour = FIRST + number * hours // objects
        (folder / builders.object_name(hour, number)).touch()


def settled(run: OrganizationRun, last: Hour) -> None:
    """Write a ledger in which all hours are settled."""
    project = run.organization.projects[0]
    judge = Judge(run, project.slug, Ledger(run.workspace, 9, 7).schedules()[0].deliveries, ())
    store = FolderStore(Path(run.organization.workspace), durable=False)
    days: dict[str, Day] = {}
    for hour in between(FIRST, last):
        entry = Entry(settled=judge.content(hour), keys="0" * 64, events=1, bytes=1, unpacked_bytes=1)
        days.setdefault(hour.day, Day()).hours[hour.key] = entry
    ledger = Ledger(store, 9, 7)
    for hour in between(FIRST, last):
        if hour.of_day == 0:
            ledger.save(hour.date, days[hour.day], None)


def measured(base: Path, hours: int, objects: int) -> dict[str, object]:
    """Tick, and return what that took."""
    shutil.rmtree(base, ignore_errors=True)
    landed(base / "landing", hours, objects)
    source = {"url": str(base / "landing"), "complete": None}
    last = FIRST + hours + -1
    project = {"first_hour": FIRST.key, "source": source, "deliveries": [builders.all_events(base / "all")]}
    organization = builders.organization(base, base / "landing", projects=[project])
    now = (last + 1).start + timedelta(minutes=5)
    found: dict[str, object] = {"hours": hours, "objects": objects}
    cursor = Cursor()

    def tick(name: str) -> None:
        nonlocal cursor
        counted = Counted()
        started = time.perf_counter()
        run = OrganizationRun(organization, counted, reads=False)
        result = Scheduler(run, organization.projects[0], now, Nothing()).tick(cursor)
        seconds = time.perf_counter() - started
        cursor = result.cursor
        found[name] = {"seconds": round(seconds, 3), "requests": len(result.requests), **counted.calls}

    tick("nothing known")
    shutil.rmtree(base / "workspace")
    cursor = Cursor()
    Scheduler(OrganizationRun(organization, reads=False), organization.projects[0], (FIRST + 1).start, Nothing()).tick(
        cursor
    )
    settled(OrganizationRun(organization, reads=False), last)
    tick("settled")
    tick("settled again")
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    for times in (1, 2):
        print(json.dumps(measured(out / str(times), times * HOURS, times * OBJECTS), indent=1))


if __name__ == "__main__":
    main()
