"""Sensors that tell people what goes wrong: they try each bucket, and look at runs that failed.

A sensor that raises tells nobody, so what is expected to go wrong is a value here: a bucket, a mail server, the
workspace itself.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import dagster as dg
import msgspec
from dagster import AssetRecordsFilter

from amp_pipeline import clock
from amp_pipeline.alerting import (
    Alerting,
    Memory,
    Send,
    Subject,
    anybody_is_told,
    dashboards,
    deliveries,
    failed_hour,
    tables,
    trouble_of,
)
from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core.access import Outcome
from amp_pipeline.core.alerts import FailedHour, State, Trouble
from amp_pipeline.core.errors import AmpError, StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs.checks import apart
from amp_pipeline.defs.hours import failed_hours, hours_of_tags
from amp_pipeline.notify import send
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.alerts import AlertStore

CHECK = "bucket_can_be_reached"

_TRY_SECONDS = 30.0
_TELL_SECONDS = 20.0
"""Dagster gives a tick 60 s, and forgets one that takes longer."""

_RETRIED_LATER = "dagster/will_retry"

_Result = TypeVar("_Result")
Probe = Callable[[str, S3 | None], Outcome]
_Late = dict[str, dict[str, FailedHour]]
"""By subject the hours that failed while the workspace could not take it down; a tick that fails has no second one."""


def _probe(url: str, s3: S3 | None) -> Outcome:
    # boto3 takes 0.2 s to import, which loading definitions need not.
    from amp_pipeline.storage.probe import probe

    return probe(url, s3)


def access_sensor_name(organization: Organization) -> str:
    """Return the name of the sensor that tries buckets."""
    return f"{organization.slug}_access_alerts"


def run_sensor_name(organization: Organization) -> str:
    """Return the name of the sensor that looks at runs that failed."""
    return f"{organization.slug}_run_alerts"


def bucket_checks(organization: Organization, *, probe: Probe = _probe) -> list[dg.AssetChecksDefinition]:
    """Return the check of each delivery's bucket, which a click in Dagster runs at once."""
    return [_bucket_check(organization, subject, probe) for subject in deliveries(organization)]


def _bucket_check(organization: Organization, subject: Subject, probe: Probe) -> dg.AssetChecksDefinition:
    def bucket_can_be_reached(_: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        outcome = _tried(organization, subject, probe)
        return dg.AssetCheckResult(passed=outcome.ok, description=outcome.summary, metadata=_metadata(outcome))

    return apart(
        _manifest_key(subject),
        CHECK,
        "The bucket can be listed, written, read and cleaned as a delivery needs it, tried with a small "
        "object. What is missing is named, with the statement to add to a policy.",
        bucket_can_be_reached,
    )


def alert_sensors(
    organization: Organization, *, probe: Probe = _probe, send: Send = send, now: clock.Now = clock.now
) -> list[dg.SensorDefinition]:
    """Return the sensors that tell people what goes wrong.

    They run by themselves where the organization names anybody to be told, so that nobody has to think of a second
    switch. Where it names nobody, the one that tries buckets waits to be switched on, as each try writes to them; the
    other one takes down why hours failed, for ``amp-pipeline status``.
    """
    late: _Late = {}
    return [
        _access_alerts(organization, probe, send, now, late),
        _run_alerts(organization, probe, send, now, late),
    ]


def _access_alerts(
    organization: Organization, probe: Probe, send: Send, now: clock.Now, late: _Late
) -> dg.SensorDefinition:
    every = organization.alerts.every
    running = dg.DefaultSensorStatus.RUNNING if anybody_is_told(organization) else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=access_sensor_name(organization),
        minimum_interval_seconds=int(every.total_seconds()),
        default_status=running,
        description="Tries the bucket of each delivery with a small object, and tells people when one can't be "
        "reached, still can't, or can again.",
    )
    def access_alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        workspace = Subject(organization, what="workspace")
        buckets = list(deliveries(organization))
        audits = [*(replace(one, audited=True) for one in buckets), *dashboards(organization)]
        outcomes = _tried_all(organization, [workspace, *buckets], probe)
        kept = Kept(context.cursor)

        def tell(subject: Subject) -> dict[str, str]:
            memory = kept if subject is workspace else _memory(organization)
            trouble = trouble_of(outcomes[subject]) if subject in outcomes else None
            alerting = Alerting(organization, memory, now(), send)
            if subject.audited:
                return alerting.send_again(subject)
            if hours := late.get(subject.key):
                missed = alerting.failed(subject, hours, lambda: trouble)
                late.pop(subject.key, None)
                return missed
            return alerting.saw(subject, trouble, lambda state: _done(context.instance, subject, state.failed))

        # Without the workspace nobody knows what was told before; that alone is told.
        others = [*_assets_before(organization), *tables(organization)]
        concerned = [workspace, *buckets, *audits, *others] if outcomes[workspace].ok else [workspace]
        for subject, missed in _each(tell, concerned, _TELL_SECONDS).items():
            _log(context, subject, missed)
        return dg.SensorResult(
            asset_events=[_evaluation(subject, outcomes[subject]) for subject in buckets],
            cursor=kept.cursor,
            skip_reason=_said(outcomes),
        )

    return access_alerts


def _tried_all(organization: Organization, subjects: list[Subject], probe: Probe) -> dict[Subject, Outcome]:
    found = _each(lambda subject: _tried(organization, subject, probe), subjects, _TRY_SECONDS)
    return {
        subject: outcome if isinstance(outcome, Outcome) else _silent(subject) for subject, outcome in found.items()
    }


def _silent(subject: Subject) -> Outcome:
    what = f"{subject.url} gave no answer within {_TRY_SECONDS:.0f} seconds"
    advice = "Check the network between this machine and the store, and timeouts under `s3`; the try goes on meanwhile."
    return Outcome(False, "", "network", "", "", "", what, advice, None, "", ())


def _each(work: Callable[[Subject], _Result], subjects: list[Subject], seconds: float) -> dict[Subject, _Result | str]:
    """Do ``work`` for all subjects side by side, so that one holds up no other.

    Returns:
        The results in the order of ``subjects``; for what went wrong, or took longer, what to say of it.
    """
    # A thread for each: of fewer, those that wait for long would hold up the rest.
    pool = ThreadPoolExecutor(len(subjects) or 1)
    futures = {one: pool.submit(work, one) for one in subjects}
    wait(futures.values(), timeout=seconds)
    pool.shutdown(wait=False)
    return {one: _result(future, seconds) for one, future in futures.items()}


def _result(future: Future[_Result], seconds: float) -> _Result | str:
    if not future.done():
        return f"not done after {seconds:.0f} seconds; it goes on"
    try:
        return future.result()
    except AmpError as error:
        return str(error)


def _run_alerts(
    organization: Organization, probe: Probe, send: Send, now: clock.Now, late: _Late
) -> dg.SensorDefinition:
    subjects = _by_op(organization)
    # Each try writes to a bucket: only where it is to be told whether that is why.
    tries = anybody_is_told(organization)

    @dg.run_failure_sensor(
        name=run_sensor_name(organization),
        default_status=dg.DefaultSensorStatus.RUNNING,
        # Runs of `amp-pipeline deliver` belong to no code location.
        monitor_all_code_locations=True,
        description="Tells people of hours that failed in a run, once for each delivery or asset until they are done, "
        "and `amp-pipeline status` why they did.",
    )
    def run_alerts(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        failed = _failed(context, subjects)
        if not failed:
            return dg.SkipReason(f"nothing of {organization.slug} failed in run {context.dagster_run.run_id}")
        # Read anew: Dagster writes down whether it will start a run again a moment after it has failed.
        run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
        if run.tags.get(_RETRIED_LATER) == "true":
            return dg.SkipReason(f"run {run.run_id} will be started again")
        left = {subject: _left(context, subject, hours) for subject, hours in failed.items()}

        def tell(subject: Subject) -> dict[str, str]:
            def tried() -> Trouble | None:
                return trouble_of(_tried(organization, subject, probe)) if subject.delivery and tries else None

            try:
                return Alerting(organization, _memory(organization), now(), send).failed(subject, left[subject], tried)
            except StoreError:
                # The other sensor tells of the workspace, where it stays away, and of these hours once it is back.
                late[subject.key] = late.get(subject.key, {}) | left[subject]
                raise

        for subject, missed in _each(tell, list(left), _TRY_SECONDS + _TELL_SECONDS).items():
            _log(context, subject, missed)
        return None

    return run_alerts


def _failed(context: dg.RunFailureSensorContext, subjects: Mapping[str, Subject]) -> dict[Subject, dict[Hour, str]]:
    """Return the hours that failed in a run and why, by what they are of."""
    found: dict[Subject, dict[Hour, str]] = {}
    all_hours = hours_of_tags(context.dagster_run.tags)
    events = context.get_step_failure_events()
    for event in events:
        subject = subjects.get(event.step_key or "")
        if subject is not None:
            data = event.step_failure_data
            what = data.error.cause or data.error if data.error else None
            # The text of a bug may quote an event; its name does not.
            name = what.cls_name if what and what.cls_name else "the step failed"
            found[subject] = failed_hours(data.user_failure_data) or dict.fromkeys(all_hours, f"{name}; see the run")
    if events:
        return found
    selected = {key.to_user_string() for key in context.dagster_run.asset_selection or ()}
    succeeded = {
        record.event_log_entry.dagster_event.step_key
        for record in context.instance.get_records_for_run(
            context.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
        ).records
        if record.event_log_entry.dagster_event is not None
    }
    # The process died or never began: what it would have done next stands for all that depends on it.
    left = [one for op, one in subjects.items() if one.asset in selected and op not in succeeded]
    return {one: dict.fromkeys(all_hours, "the run ended without saying why; see the run") for one in left[:1]}


def _left(context: dg.RunFailureSensorContext, subject: Subject, hours: Mapping[Hour, str]) -> dict[str, FailedHour]:
    """Return those of the hours that failed that no other run has done since."""
    run = context.dagster_run.run_id
    ended = context.instance.get_run_stats(run).end_time
    at = datetime.fromtimestamp(ended, UTC) if ended else clock.now()
    failed = {hour.key: failed_hour(at, run, what) for hour, what in hours.items()}
    done = _done(context.instance, subject, failed)
    return {key: hour for key, hour in failed.items() if key not in done}


def _done(instance: dg.DagsterInstance, subject: Subject, failed: Mapping[str, FailedHour]) -> set[str]:
    """Return the hours that failed and were materialized since, as the Dagster instance knows them."""
    if not failed:
        return set()
    records = instance.fetch_materializations(
        AssetRecordsFilter(
            dg.AssetKey(subject.asset.split("/")),
            asset_partitions=list(failed),
            after_timestamp=min(hour.at for hour in failed.values()).timestamp(),
        ),
        limit=10_000,
    ).records
    # An hour may have been done more than once, before it failed too.
    done = [(record.partition_key, record.timestamp) for record in records if record.partition_key is not None]
    return {key for key, at in done if key in failed and at > failed[key].at.timestamp()}


class Kept(Memory):
    """The state of the workspace, which can't be kept in the workspace: it is the cursor of the sensor."""

    def __init__(self, cursor: str | None) -> None:
        """Take up what the last tick left."""
        try:
            self._state = msgspec.json.decode(cursor, type=State) if cursor else State()
        except msgspec.MsgspecError:
            self._state = State()

    @property
    def cursor(self) -> str:
        """For the next tick."""
        return msgspec.json.encode(self._state).decode()

    def state(self, subject: str) -> State:
        """Return what is remembered."""
        return self._state

    def change(self, subject: str, change: Callable[[State], State]) -> State:
        """Remember what ``change`` makes of it, and return it."""
        self._state = change(self._state)
        return self._state


def _memory(organization: Organization) -> AlertStore:
    return AlertStore(open_store(organization.workspace, organization.s3), organization.id)


def _tried(organization: Organization, subject: Subject, probe: Probe) -> Outcome:
    settings = organization.s3_of(subject.delivery) if subject.delivery else organization.s3
    try:
        return probe(subject.url, settings)
    except Exception as error:
        # A bug in the try of one bucket must not keep the others from being tried; its text may hold anything.
        what = f"the try itself failed: {type(error).__name__}"
        return Outcome(False, "", "bug", "", "", "", what, "Please report it: a try says what is wrong.", None, "", ())


def _evaluation(subject: Subject, outcome: Outcome) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=_manifest_key(subject),
        check_name=CHECK,
        passed=outcome.ok,
        description=outcome.summary,
        metadata=_metadata(outcome),
    )


def _metadata(outcome: Outcome) -> dict[str, Any]:
    told = {
        name: getattr(outcome, name)
        for name in ("step", "kind", "action", "resource", "principal", "advice", "policy")
        if getattr(outcome, name)
    }
    statement = {"statement": dg.MetadataValue.json(outcome.statement)} if outcome.statement else {}
    return {**told, **statement, "passed_steps": ", ".join(outcome.passed) or "none"}


def _said(outcomes: Mapping[Subject, Outcome]) -> str:
    bad = [subject.name for subject, outcome in outcomes.items() if not outcome.ok]
    return f"not reached: {', '.join(bad)}" if bad else "all buckets and the workspace can be reached"


def _log(context: Any, subject: Subject, missed: Mapping[str, str] | str) -> None:
    if isinstance(missed, str):
        context.log.error(f"{subject.name}: {missed}")
        return
    for name, why in missed.items():
        context.log.error(f"{subject.name}: an alert did not reach {name}, and is tried again: {why}")


def _manifest_key(subject: Subject) -> dg.AssetKey:
    return dg.AssetKey(subject.asset.split("/"))


def _assets_before(organization: Organization) -> list[Subject]:
    """Return the assets that deliveries are made from, in the order in which they run."""
    found = [
        Subject(organization, project, what=noun)
        for noun in ("raw_events", "deduped_events")
        for project in organization.projects
    ]
    return [*found, Subject(organization, what="merged_ids")]


def _by_op(organization: Organization) -> dict[str, Subject]:
    """Return what the steps of a run are about, in the order in which they run."""
    found = {dg.AssetKey(one.asset.split("/")).to_python_identifier(): one for one in _assets_before(organization)}
    for one in deliveries(organization):
        if one.project is not None and one.delivery is not None:
            found[f"{one.project.slug}__{one.delivery.name}"] = one
    return found | {dg.AssetKey(one.asset.split("/")).to_python_identifier(): one for one in tables(organization)}
