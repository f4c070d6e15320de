"""Runs whose process is gone are ended; those that go on are left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from amp_pipeline.defs.dead_runs import end_dead_runs, is_ours
from amp_pipeline_tests.defs.shop import dagster_home_in, shop_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return dagster_home_in(tmp_path / "home")


def begun(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    return list(instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])))


def test_the_run_of_a_command_that_was_killed_is_ended_and_one_that_goes_on_is_not(tmp_path: Path, home: Path):
    folder = shop_in(tmp_path / "shop")
    environment = os.environ | {"DAGSTER_HOME": str(home), "AMP_PIPELINE_ORGANIZATIONS": str(folder)}
    command = subprocess.Popen(
        [sys.executable, "-m", "amp_pipeline.cli", "deliver"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            end = time.monotonic() + 60
            while not (records := begun(instance)) and time.monotonic() < end:
                time.sleep(0.05)
            assert end_dead_runs(instance, records) == []
            command.send_signal(signal.SIGKILL)
            command.wait()
            (record,) = begun(instance)
            assert end_dead_runs(instance, [record]) == [record.dagster_run.run_id]
            assert instance.get_run_by_id(record.dagster_run.run_id).status is dg.DagsterRunStatus.FAILURE  # pyright: ignore[reportOptionalMemberAccess] - it was there a moment ago
    finally:
        command.kill()
        command.wait()


@pytest.mark.parametrize("number", ["its own", "another's", "nobody's"])
def test_a_run_of_the_code_server_is_ended_where_its_process_is_gone(home: Path, number: str):
    process = {"its own": os.getpid(), "another's": 1, "nobody's": 2**22 + 1}[number]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.create_run_for_job(_job, tags={".dagster/grpc_info": "{}"})
        instance.report_engine_event(f"Started process for run (pid: {process}).", run)
        record = instance.get_run_record_by_id(run.run_id)
        assert record is not None
        gone = end_dead_runs(instance, [record])
        assert gone == ([run.run_id] if number == "nobody's" else [])


@pytest.mark.parametrize(("location", "ours"), [("here", True), ("there", False)])
def test_a_run_of_no_assets_belongs_to_its_own_code_location(location: str, ours: bool):
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "it"), "job")
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(_job, remote_job_origin=origin)
    assert is_ours(run, {dg.AssetKey("events")}, "here") is ours


@dg.job
def _job() -> None:
    pass
