"""The real ``dg dev``, as ``make ui`` starts it, driven by the GraphQL requests that its buttons send."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amp_pipeline import config_files
from amp_pipeline.cli import main
from amp_pipeline.core.hours import between
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests.defs.shop import BIN, REPO, dagster_home_in, shop_in

ASSETS = [
    ["shop", "raw_events"],
    ["shop", "deduped_events"],
    ["shop_org", "merged_ids"],
    ["shop", "all_events", "archive"],
    ["shop", "all_events", "merged_ids"],
    ["shop", "all_events", "manifest"],
    ["shop", "purchases", "archive"],
    ["shop", "purchases", "manifest"],
]
HOURS = 216
MOST_SECONDS_TO_START = 180
MOST_SECONDS_OF_AN_HOUR = 180
MOST_SECONDS_OF_THE_BACKFILL = 600

DAGSTERS_OWN = (
    # The Makefile explains it.
    "Found a dagster instance configuration value (dagster.yaml) in the current folder",
    "EventLogConsumerDaemon - WARNING - No cursor for event type",
)

# A shell that starts a job in the background has it ignore SIGINT, and children inherit that.
_OBEYING_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Ui:
    """A running ``dg dev``."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log

    def ask(self, query: str, **variables: Any) -> Any:
        """Send a GraphQL request and return the one thing it asks for."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            pytest.fail(f"{error}: {error.read().decode(errors='replace')}")
        assert not answer.get("errors"), answer
        (found,) = answer["data"].values()
        return found

    def location(self) -> str:
        """How the code location loaded: ``RepositoryLocation``, or what went wrong."""
        found = self.ask(
            "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {"
            " __typename ... on PythonError { message } } } } } }"
        )
        return " ".join(
            f"{entry['name']}: {entry['locationOrLoadError']['__typename']}" for entry in found["locationEntries"]
        )

    def launch(self, hour: str) -> str:
        """Press "Materialize" for one hour of all assets; return the run's id."""
        found = self.ask(
            "mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {"
            " __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            params={
                "selector": {
                    "repositoryName": "__repository__",
                    "repositoryLocationName": "amp_pipeline",
                    "pipelineName": "__ASSET_JOB",
                    "assetSelection": [{"path": key} for key in ASSETS],
                },
                "mode": "default",
                "runConfigData": "{}",
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": hour}]},
            },
        )
        assert found["__typename"] == "LaunchRunSuccess", found
        return found["run"]["runId"]

    def status(self, run: str) -> str:
        """Return the status of a run."""
        return self.ask("query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", run=run)["status"]

    def backfill(self, hours: list[str]) -> str:
        """Press "Launch backfill" for ``hours`` of all assets; return the backfill's id."""
        found = self.ask(
            "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {"
            " __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            params={"assetSelection": [{"path": key} for key in ASSETS], "partitionNames": hours},
        )
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return found["backfillId"]

    def backfill_status(self, backfill: str) -> str:
        """Return the status of a backfill."""
        return self.ask(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }",
            id=backfill,
        )["status"]

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs with their steps."""
        return self.ask(
            "{ runsOrError { ... on Runs { results { runId status startTime endTime"
            " stepStats { stepKey startTime endTime } } } } }"
        )["results"]

    def materialized(self) -> dict[str, int]:
        """Return how many hours of each asset are materialized."""
        found = self.ask(
            "query($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) {"
            " assetKey { path } partitionStats { numMaterialized numFailed } } }",
            keys=[{"path": key} for key in ASSETS],
        )
        return {"/".join(node["assetKey"]["path"]): node["partitionStats"]["numMaterialized"] for node in found}

    def warnings(self) -> list[str]:
        """Return the lines of the log that warn, but for those of Dagster that stand at every first start."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace")).splitlines()
        return [
            line
            for line in lines
            if re.search(r"WARNING|ERROR|Warning:|Traceback", line) and not any(known in line for known in DAGSTERS_OWN)
        ]


@contextmanager
def running(home: Path, organizations: Path, log: Path) -> Iterator[Ui]:
    """Start ``dg dev`` as ``make ui`` does, and stop it with Ctrl-C."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "PYTEST_"))}
    environment |= {
        "DAGSTER_HOME": str(home),
        "AMP_PIPELINE_ORGANIZATIONS": str(organizations),
        "VIRTUAL_ENV": str(BIN.parent),
    }
    port = _free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", _OBEYING_CTRL_C, str(BIN / "dg"), "dev", "--host", "127.0.0.1", "--port", str(port)],
            cwd=REPO,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ui = Ui(port, log)
        _wait_until_it_answers(ui, process)
        yield ui
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_until_it_answers(ui: Ui, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + MOST_SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        try:
            if ui.location() == "amp_pipeline: RepositoryLocation":
                return
        except OSError:
            pass
        time.sleep(0.3)
    pytest.fail(f"dg dev does not answer:\n{ui.log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C to all of the process group; whatever is left after half a minute is killed."""
    for number, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + seconds
        while time.monotonic() < end and _group_lives(process):
            time.sleep(0.1)
    process.wait(10)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(status: Any, *ends: str, within: float) -> str:
    """Ask for a status until it is one of ``ends``; return it, or the last one when time is up."""
    end = time.monotonic() + within
    while (found := status()) not in ends and time.monotonic() < end:
        time.sleep(0.2)
    return found


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
