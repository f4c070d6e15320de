"""Holding the last days against the source again, each night: a job, a schedule, and a check that a click runs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import dagster as dg

from amp_pipeline import clock
from amp_pipeline.alerting import Alerting, Send, Subject
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs.assets import delivery_keys
from amp_pipeline.defs.checks import apart
from amp_pipeline.notify import send
from amp_pipeline.reconciliation import Looked, is_settled, recent_hours, reconcile, trouble_of
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.alerts import AlertStore

CHECK = "agrees_with_the_source"

_SHOWN = 200
_COLUMNS = [
    dg.TableColumn("hour", "string", description="UTC"),
    dg.TableColumn("state", "string", description="agrees, wrong, missing (never delivered), or waits"),
    dg.TableColumn("landed", "int", description="Lines that landed in the hour"),
    dg.TableColumn("delivered", "int", description="Events that belong into the bucket"),
    dg.TableColumn("what", "string", description="What is wrong, or what the hour waits for"),
]


def reconciliation_name(project: Project) -> str:
    """Return the name of the job, and of its schedule."""
    return f"{project.slug}_reconciliation"


def reconciliation_checks(
    organization: Organization, *, send: Send = send, now: clock.Now = clock.now
) -> list[dg.AssetChecksDefinition]:
    """Return the check of each delivery; a click in Dagster runs it at once, for that delivery alone."""
    return [
        _check(_Reconciling(organization, project, send, now), delivery)
        for project in _reconciled(organization)
        for delivery in _enabled(project)
    ]


def reconciliation_schedules(
    organization: Organization, *, send: Send = send, now: clock.Now = clock.now
) -> list[dg.ScheduleDefinition]:
    """Return the schedule of each project, with its job; they run by themselves where the project does."""
    return [_schedule(project, _Reconciling(organization, project, send, now)) for project in _reconciled(organization)]


def _reconciled(organization: Organization) -> list[Project]:
    return [project for project in organization.projects if project.reconcile.days and _enabled(project)]


def _enabled(project: Project) -> list[Delivery]:
    return [delivery for delivery in project.deliveries if delivery.enabled]


class _Reconciling:
    """Looks at the last days of a project, has repaired what is wrong, and tells people."""

    def __init__(self, organization: Organization, project: Project, send: Send, now: clock.Now) -> None:
        self.project = project
        self._organization = organization
        self._send = send
        self._now = now

    def look(self, context: Any, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """Return the outcome of the check by delivery, for those of ``names``."""
        try:
            found = self._looked(context, names)
        except AmpError as error:
            # Whoever tries the workspace tells people of it.
            context.log.error(f"nothing could be looked at: {error}")
            return dict.fromkeys(names, _nothing(str(error)))
        return {name: _outcome([one for one in found if one.delivery == name]) for name in names}

    def _looked(self, context: Any, names: Collection[str]) -> list[Looked]:
        memory = AlertStore(open_store(self._organization.workspace, self._organization.s3), self._organization.id)
        subjects = {
            delivery.name: Subject(self._organization, self.project, delivery, audited=True)
            for delivery in _enabled(self.project)
            if delivery.name in names
        }
        before = {name: _wrong_before(memory, subject) for name, subject in subjects.items()}
        now = self._now()
        # What was found wrong is looked at until it is right, however long ago that hour was.
        hours = recent_hours(self.project, now, (hour for some in before.values() for hour in some))
        found: list[Looked] = []
        for one in reconcile(self._organization, self.project, hours, now, deliveries=names):
            found.append(one)
            if one.is_wrong:
                context.log.warning(f"{one.delivery}, {one.hour}: {one.what}")
        for name, subject in subjects.items():
            mine = [one for one in found if one.delivery == name]
            trouble = trouble_of(mine, automatic=self.project.automatic, run=context.run.run_id)
            if trouble is not None or is_settled(mine, [hour.key for hour in before[name]]):
                missed = Alerting(self._organization, memory, now, self._send).saw(subject, trouble)
                for who, why in missed.items():
                    context.log.error(f"{subject.name}: an alert did not reach {who}, and is tried again: {why}")
        return found


def _wrong_before(memory: AlertStore, subject: Subject) -> list[Hour]:
    problem = memory.state(subject.key).problem
    return [Hour.parse(key) for key in problem.trouble.hours] if problem else []


def _schedule(project: Project, reconciling: _Reconciling) -> dg.ScheduleDefinition:
    name = reconciliation_name(project)
    manifests = {delivery.name: delivery_keys(project, delivery)["manifest"] for delivery in _enabled(project)}
    days = "day" if project.reconcile.days == 1 else f"{project.reconcile.days} days"
    description = (
        f"Reads the last {days} of {project.slug} again and holds every delivery against what landed. What is wrong is "
        "told, and delivered again by a run of the hour sensor."
    )

    @dg.op(name=f"{project.slug}__reconcile", description=description)
    def reconcile_days(context: dg.OpExecutionContext) -> None:
        for delivery, outcome in reconciling.look(context, list(manifests)).items():
            evaluation = dg.AssetCheckEvaluation(asset_key=manifests[delivery], check_name=CHECK, **outcome)
            # It takes them, but its annotation leaves them out (dagster 1.13.27).
            context.log_event(cast(Any, evaluation))

    @dg.job(name=name, description=description, executor_def=dg.in_process_executor)
    def reconciliation() -> None:
        reconcile_days()

    hour, minute = project.reconcile.at.split(":")
    running = dg.DefaultScheduleStatus.RUNNING if project.automatic else dg.DefaultScheduleStatus.STOPPED
    return dg.ScheduleDefinition(
        name=name,
        job=reconciliation,
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone="UTC",
        default_status=running,
        description=description,
    )


def _check(reconciling: _Reconciling, delivery: Delivery) -> dg.AssetChecksDefinition:
    def agrees_with_the_source(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**reconciling.look(context, [delivery.name])[delivery.name])

    return apart(
        delivery_keys(reconciling.project, delivery)["manifest"],
        CHECK,
        "The last days are in the bucket as what landed demands, every line of them, by all laws that "
        "`amp-pipeline audit` holds. Hours that wait for something are named, but not wrong.",
        agrees_with_the_source,
    )


def _nothing(why: str) -> Mapping[str, Any]:
    return {
        "passed": False,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": f"nothing could be looked at: {why}",
        "metadata": {},
    }


def _outcome(found: Sequence[Looked]) -> Mapping[str, Any]:
    counts = {state: sum(one.state == state for one in found) for state in ("agrees", "wrong", "missing", "waits")}
    wrong = counts["wrong"] + counts["missing"]
    if found and counts["waits"] == len(found):
        return {**_nothing(found[-1].what), "metadata": {**counts, "hours": _table(found)}}
    return {
        "passed": not wrong,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no finished hour",
        "metadata": {
            **counts,
            "landed": sum(one.landed for one in found),
            "delivered": sum(one.delivered for one in found),
            "hours": _table(found),
        },
    }


def _table(found: Sequence[Looked]) -> dg.TableMetadataValue:
    shown = found if len(found) <= _SHOWN else [one for one in found if one.state != "agrees"][-_SHOWN:]
    records = [
        dg.TableRecord(
            {
                "hour": one.hour.key,
                "state": one.state,
                "landed": one.landed,
                "delivered": one.delivered,
                "what": one.what,
            }
        )
        for one in shown
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(_COLUMNS))
