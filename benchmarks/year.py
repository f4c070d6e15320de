"""A year of small hours as one backfill of the real UI, stopped half-way, started again, and what all of it took.

    python benchmarks/year.py OUT [--hours 8760] [--stop-after 0.5]

Stopping is killing Dagster with everything that runs; it is started again, and the backfill goes on by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from amp_pipeline.core.hours import Hour, between
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import HOUR_US, event, object_name, put
from amp_pipeline_tests.dagster_ui import Ui, running
from amp_pipeline_tests.defs.shop import dagster_home_in

FIRST = builders.FIRST_HOUR
ORGANIZATION = """
type: amp_pipeline.Organization
attributes:
  id: 9
  slug: house
  workspace: workspace
  projects:
    - id: 7
      slug: shop
      first_hour: {first}
      last_hour: {last}
      automatic: false
      reconcile: {{days: 0}}
      source: {{url: landing, complete: null}}
      deliveries:
        - {{name: all, url: buckets/all}}
"""
KEYS = [["shop", "raw_events"], ["shop", "deduped_events"], ["shop", "all", "archive"], ["shop", "all", "manifest"]]


def land(folder: Path, hours: list[Hour]) -> None:
    """Let a few events land in each hour, one of twelve a repeat."""
    chance = random.Random(1)  # noqa: S311 - the same events each time
    for hour in hours:
        start = (hour.number - FIRST.number) * HOUR_US
        lines = [
            event(start + us, device_id=f"d{chance.randrange(1000)}", **{"$insert_id": str(chance.randrange(12))})
            for us in sorted(chance.randrange(HOUR_US) for _ in range(chance.randrange(12)))
        ]
        put(folder / "landing", object_name(hour), *lines)


def backfill(ui: Ui, hours: list[Hour]) -> str:
    """Press "Launch backfill" and return its id."""
    found = ui.ask(
        "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {"
        " __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
        params={"assetSelection": [{"path": key} for key in KEYS], "partitionNames": [hour.key for hour in hours]},
    )
    return found["backfillId"]


def delivered(folder: Path) -> int:
    """Count the hours with a complete marker."""
    return sum(1 for _ in (folder / "buckets" / "all" / "7").glob("*_complete"))


def steps(home: Path) -> dict[str, float]:
    """Sum what Dagster's runs took, and the steps in them, seconds."""
    with sqlite3.connect(home / "history" / "runs.db") as runs:
        rows = runs.execute("select start_time, end_time, status from runs").fetchall()
    done = [(start, end) for start, end, _ in rows if start and end]
    return {"runs": len(rows), "seconds_in_runs": sum(end - start for start, end in done)}


def wait(ui: Ui, folder: Path, backfills: str, enough: int) -> None:
    """Wait until so many hours are delivered and, for all of them, the backfill is done."""
    while True:
        status = ui.backfill_status(backfills)
        count = delivered(folder)
        print(f"{time.strftime('%H:%M:%S')} {count} hours, {status}", flush=True)
        if count >= enough and (enough < _all(folder) or status.startswith("COMPLETED")):
            return
        if status.startswith(("COMPLETED", "FAILED", "CANCELED")):
            raise SystemExit(f"the backfill ended: {status}")
        time.sleep(5)


def _all(folder: Path) -> int:
    return int((folder / "hours").read_text())


def ours(folder: Path, hours: list[Hour]) -> float:
    """Do the same without Dagster; return seconds."""
    from amp_pipeline import config_files

    (organization,) = config_files.read(folder / "defs.yaml", {})
    started = time.perf_counter()
    for at in range(0, len(hours), 24):
        run = OrganizationRun(organization)
        one = run.projects["shop"]
        (delivery,) = one.project.deliveries
        archive = one.archive(delivery)
        for hour in hours[at : at + 24]:
            one.raw.land(hour)
            one.deduped.dedupe(hour)
            one.deliver(archive, delivery, hour, builders.BY)
    return time.perf_counter() - started


def prepared(folder: Path, hours: list[Hour]) -> Path:
    """Write the landing and a defs.yaml into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    land(folder, hours)
    (folder / "hours").write_text(str(len(hours)))
    (folder / "defs.yaml").write_text(ORGANIZATION.format(first=hours[0].key, last=hours[-1].key))
    return folder


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=int, default=8760)
    parser.add_argument("--stop-after", type=float, default=0.5, help="share of the hours; 1 for not at all")
    given = parser.parse_args()
    hours = list(between(FIRST, FIRST + given.hours + -1))
    folder = prepared(given.out / "year", hours)
    home = dagster_home_in(given.out / "home")
    found: dict[str, Any] = {"hours": len(hours)}
    started = time.perf_counter()
    before: set[str] = set()
    number = ""
    if given.stop_after < 1:
        with running(home, folder, given.out / "log 1") as ui:
            clicked = time.perf_counter()
            number = backfill(ui, hours)
            wait(ui, folder, number, int(len(hours) * given.stop_after))
            found["first_seconds"] = time.perf_counter() - clicked
            _kill_all(home)
        found["delivered_at_the_stop"] = delivered(folder)
        before = {path.name for path in (folder / "buckets" / "all" / "7").glob("*")}
        found["runs_at_the_stop"] = steps(home)["runs"]
    log = folder / "workspace" / "9" / "7" / "deliveries" / "all" / "log"
    logged = set(log.rglob("*.json")) if log.is_dir() else set()
    with running(home, folder, given.out / "log 2") as ui:
        clicked = time.perf_counter()
        number = number or backfill(ui, hours)
        wait(ui, folder, number, len(hours))
        found["second_seconds"] = time.perf_counter() - clicked
    entries = [json.loads(path.read_text()) for path in log.rglob("*.json") if path not in logged]
    found["hours_written_after_the_stop"] = len(entries)
    found["of_them_written_before"] = sum(
        f"7_{entry['hour'][:10]}_{int(entry['hour'][11:13])}_complete" in before for entry in entries
    )
    found["all_seconds"] = time.perf_counter() - started
    found |= steps(home)
    found["ours_seconds"] = ours(prepared(given.out / "ours", hours), hours)
    found["megabytes_of_dagster"] = round(sum(p.stat().st_size for p in home.rglob("*") if p.is_file()) / 1e6)
    print(json.dumps(found, indent=2))


def _kill_all(home: Path) -> None:
    """Kill every process of this Dagster, the runs first."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout  # noqa: S607 - as found in PATH
    mine = [line.split(None, 1) for line in listed.splitlines()[1:]]
    for pid, _ in mine:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"DAGSTER_HOME={home}".encode() in environment and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
