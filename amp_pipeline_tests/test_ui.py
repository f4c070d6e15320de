"""What people do in the UI, done in the real one."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amp_pipeline import config_files
from amp_pipeline.cli import main
from amp_pipeline.core.hours import between
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests.dagster_ui import ASSETS, Ui, running, wait_for
from amp_pipeline_tests.defs.shop import BIN, REPO, dagster_home_in, shop_in

HOURS = 216
MOST_SECONDS_OF_AN_HOUR = 180
MOST_SECONDS_OF_THE_BACKFILL = 600


def test_an_hour_of_all_assets_launched_in_the_ui_succeeds(tmp_path: Path) -> None:
    folder = shop_in(tmp_path / "shop")
    with running(dagster_home_in(tmp_path / "home"), folder, tmp_path / "log") as ui:
        click = time.monotonic()
        run = ui.launch("2024-05-09-15:00")
        status = wait_for(lambda: ui.status(run), "SUCCESS", "FAILURE", "CANCELED", within=MOST_SECONDS_OF_AN_HOUR)
        sys.stdout.write(f"\nfrom click to done: {time.monotonic() - click:.1f} s\n")
        assert status == "SUCCESS", ui.log.read_text(errors="replace")
        assert ui.materialized() == {"/".join(key): 1 for key in ASSETS}
    assert (folder / "buckets" / "all_events" / "187520" / "187520_2024-05-09_15_complete").exists()
    assert (folder / "buckets" / "purchases" / "187520" / "187520_2024-05-09_15_complete").exists()
    assert ui.warnings() == []


def test_make_ui_starts_nothing_where_the_port_is_taken() -> None:
    # What it would make first is taken as made.
    made = ("-o", ".venv/.installed", "-o", ".dagster_home/dagster.yaml")
    # Where make itself runs the tests, it would tell which folder it is in.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            ["make", *made, "ui", f"PORT={port}", f"BIN={BIN}"],
            cwd=REPO,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Port {port} is taken.")
    assert f"make ui PORT={port + 1}\n" in done.stderr
    assert done.stdout == ""


@pytest.mark.soak
def test_a_backfill_of_all_hours_succeeds_and_is_remembered(tmp_path: Path) -> None:
    folder = shop_in(tmp_path / "shop")
    home = dagster_home_in(tmp_path / "home")
    ((organization),) = config_files.read(folder / "defs.yaml", {})
    (project,) = organization.projects
    assert project.last_hour is not None
    hours = [hour.key for hour in between(project.first_hour, project.last_hour)]
    assert len(hours) == HOURS
    everything = {"/".join(key): HOURS for key in ASSETS}
    with running(home, folder, tmp_path / "log") as ui:
        click = time.monotonic()
        backfill_and_wait(ui, hours)
        wall, runs = time.monotonic() - click, ui.runs()
        assert ui.materialized() == everything
        # Late data of a later day touched hours that had run: Dagster has no word for it, `stale` has.
        touched = re.findall(r"^shop  (\S+)  ", amp("stale", folder).output, re.MULTILINE)
        assert set(touched) <= set(hours)
        if touched:
            backfill_and_wait(ui, touched)
        after = ui.runs()
        assert {run["status"] for run in after} == {"SUCCESS"}
        assert ui.warnings() == []
    print_times(wall, runs, touched, seconds_of_our_work(tmp_path))
    assert amp("stale", folder).output == ""
    audit = amp("audit", folder)
    assert audit.exit_code == 0, audit.output
    assert "every law holds" in audit.output
    with running(home, folder, tmp_path / "second log") as ui:
        assert ui.materialized() == everything
        assert len(ui.runs()) == len(after)


def backfill_and_wait(ui: Ui, hours: list[str]) -> None:
    backfill = ui.backfill(hours)
    status = wait_for(
        lambda: ui.backfill_status(backfill),
        "COMPLETED_SUCCESS",
        "COMPLETED_FAILED",
        "COMPLETED",
        "FAILED",
        "CANCELED",
        within=MOST_SECONDS_OF_THE_BACKFILL,
    )
    assert status == "COMPLETED_SUCCESS", ui.log.read_text(errors="replace")


def amp(command: str, folder: Path) -> Result:
    return CliRunner().invoke(main, [command], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})


def seconds_of_our_work(tmp_path: Path) -> float:
    """Return how long the same hours take without Dagster."""
    ((organization),) = config_files.read(shop_in(tmp_path / "again") / "defs.yaml", {})
    began = time.monotonic()
    run = OrganizationRun(organization)
    project = run.projects["shop"]
    assert project.project.last_hour is not None
    archives = [(project.archive(delivery), delivery) for delivery in project.project.deliveries]
    for hour in between(project.project.first_hour, project.project.last_hour):
        project.raw.land(hour)
        project.deduped.dedupe(hour)
        run.merged.merge(hour)
        for archive, delivery in archives:
            project.deliver(archive, delivery, hour, By("test", "2026-01-01T00:00:00", "0"))
    return time.monotonic() - began


def print_times(wall: float, runs: list[dict[str, Any]], touched: list[str], work: float) -> None:
    steps = sum(step["endTime"] - step["startTime"] for run in runs for step in run["stepStats"])
    in_runs = sum(run["endTime"] - run["startTime"] for run in runs)
    first = min(run["startTime"] for run in runs)
    last = max(run["endTime"] for run in runs)
    sys.stdout.write(
        f"\n{HOURS} hours in {len(runs)} runs: {wall:.1f} s from click to done, {wall / HOURS:.3f} s an hour"
        f"\nfrom the first run's start to the last one's end: {last - first:.1f} s"
        f"\nsum over runs: {in_runs:.1f} s, of it in steps: {steps:.1f} s"
        f"\nthe same work without Dagster: {work:.1f} s, {work / HOURS:.3f} s an hour"
        f"\nDagster's own: {(wall - work) / HOURS:.3f} s an hour of wall time, "
        f"{(steps - work) / HOURS:.3f} s an hour inside steps"
        f"\nhours that late data touched, run again after that: {', '.join(touched)}\n"
    )
