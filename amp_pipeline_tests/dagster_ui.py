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

from amp_pipeline_tests.defs.shop import BIN, REPO

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
MOST_SECONDS_TO_START = 180

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
