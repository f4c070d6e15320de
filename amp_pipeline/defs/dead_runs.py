"""Runs whose process has died without a word: killed with the machine, or by it.

Dagster's own run monitoring asks the run launcher, and the default one, which starts processes on this machine, can't
say: such a run would stay "started" for ever, hold a slot of the queue, and its hours would never be asked for again.
A run that is ended here is started again by ``run_retries`` of dagster.yaml, like any other whose process crashed.
"""

import os
import re
import socket
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher

from amp_pipeline.config import Organization
from amp_pipeline.processes import is_gone, started

_GRPC = ".dagster/grpc_info"
"""Tag of a run that the code server began, in whose process, or on whose machine, a sensor is evaluated."""

_PROCESS, _HOST = "amp_pipeline/process", "amp_pipeline/host"

_STARTED = re.compile(r"Started process for run \(pid: (\d+)\)")
_SLACK_SECONDS = 5.0
_EVERY_SECONDS = 60


def dead_runs_sensor(organization: Organization, assets: Sequence[dg.AssetsDefinition]) -> dg.SensorDefinition:
    """Return the sensor that ends runs of ``assets`` whose process has died."""
    keys = {key for one in assets for key in one.keys}

    @dg.sensor(
        name=f"{organization.slug}_dead_runs",
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process is gone, so that they don't hold a place in the queue for "
        "ever; Dagster then starts them again, as run_retries in dagster.yaml says.",
    )
    def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        records = context.instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        here = context.code_location_origin.location_name if context.code_location_origin else None
        ended = end_dead_runs(context.instance, [one for one in records if is_ours(one.dagster_run, keys, here)])
        for run in ended:
            context.log.warning(f"the process of run {run} is gone; the run is marked as failed")
        return dg.SkipReason(f"ended runs whose process is gone: {', '.join(ended)}" if ended else "all runs are alive")

    return dead_runs


def is_ours(run: dg.DagsterRun, keys: Collection[dg.AssetKey], location: str | None) -> bool:
    """Tell whether a run makes any of ``keys``, or is of no assets and of this code location.

    That of another location may be on another machine, where numbers of processes mean others.
    """
    if run.asset_selection:
        return not run.asset_selection.isdisjoint(keys)
    origin = run.remote_job_origin
    return origin is None or origin.repository_origin.code_location_origin.location_name == location


def end_dead_runs(instance: dg.DagsterInstance, records: Iterable[dg.RunRecord]) -> list[str]:
    """Mark runs as failed whose process is known to be gone; return their ids.

    Args:
        instance: That the runs are of.
        records: Runs that have begun and not ended.
    """
    # Other launchers are asked by Dagster's run monitoring.
    by_code_server = isinstance(instance.run_launcher, DefaultRunLauncher)
    dead = [
        run
        for run in (one.dagster_run for one in records)
        if _of_a_command_that_is_gone(run) or (by_code_server and _GRPC in run.tags and _is_dead(instance, run))
    ]
    for run in dead:
        instance.report_run_failed(run, "The process of this run is gone: it was killed, or the machine was restarted.")
    return [run.run_id for run in dead]


def this_process() -> dict[str, str]:
    """Return the tags by which the run of a command tells its process."""
    return {_PROCESS: f"{os.getpid()} {started(os.getpid())}", _HOST: socket.gethostname()}


def _of_a_command_that_is_gone(run: dg.DagsterRun) -> bool:
    if _PROCESS not in run.tags or _HOST not in run.tags:
        return False
    process, _, began = run.tags[_PROCESS].partition(" ")
    return is_gone(run.tags[_HOST], int(process), began)


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        match = _STARTED.match(event.dagster_event.message or "") if event.dagster_event else None
        if match:
            return _is_gone(int(match[1]), event.timestamp)
    return False


def _is_gone(process: int, at: float) -> bool:
    """Tell whether there is no process of a number that ran ``at`` a time, in seconds since 1970."""
    proc = Path("/proc")
    try:
        booted = float(re.findall(r"^btime (\d+)$", (proc / "stat").read_text(), re.MULTILINE)[0])
    except (OSError, IndexError):
        # A system that does not tell.
        return False
    try:
        # Fields 3 and 22 of proc(5); the name before them may hold spaces and brackets.
        state, *fields = (proc / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    began = booted + int(fields[18]) / os.sysconf("SC_CLK_TCK")
    # Another process may have the number by now.
    return state == "Z" or began > at + _SLACK_SECONDS
