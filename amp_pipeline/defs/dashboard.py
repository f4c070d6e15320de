"""What Amplitude's dashboard knows, taken once a day: an asset of no hours, its check and its schedule."""

from typing import Any

import dagster as dg

from amp_pipeline import __version__, clock
from amp_pipeline.alerting import Alerting, Send, Subject, dashboards
from amp_pipeline.config import Organization, Project
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.errors import AmpError
from amp_pipeline.notify import send
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.alerts import AlertStore
from amp_pipeline.workspace.pulls import TroubleStore

CHECK = "nothing_was_refused"

_SWITCHED_OFF = "cohorts"
_LONGEST_SUMMARY = 500
_SHOWN = 100


def dashboard_key(project: Project) -> dg.AssetKey:
    """Return the asset key of a project's dashboard."""
    return dg.AssetKey([project.slug, "dashboard"])


def dashboard_assets(
    organization: Organization, *, send: Send = send, now: clock.Now = clock.now
) -> list[dg.AssetsDefinition]:
    """Return the asset of each project that has a dashboard."""
    return [_asset(organization, subject, send, now) for subject in dashboards(organization)]


def dashboard_schedules(organization: Organization) -> list[dg.ScheduleDefinition]:
    """Return the schedule of each dashboard, daily; they run by themselves where the project does."""
    return [_schedule(project) for project in organization.projects if project.dashboard is not None]


def _asset(organization: Organization, subject: Subject, send: Send, now: clock.Now) -> dg.AssetsDefinition:
    project = subject.project
    if project is None:
        raise ValueError("a dashboard is of a project")
    key = dashboard_key(project)
    spec = dg.AssetSpec(
        key,
        kinds={"parquet", "polars"},
        description=(
            f"What Amplitude's dashboard knows of project {project.id}: cohorts and their members, event types and "
            "categories, as a snapshot in the workspace.\n\n"
            "The last 30 that differ are kept. Members are asked for only where a cohort was computed anew, since "
            "Amplitude counts such requests by the month. Deleted users are left out."
        ),
        group_name=project.slug,
        owners=list(organization.owners),
        tags={"organization": str(organization.id), "project": str(project.id)},
        metadata={"source": project.source.address},
    )
    check = dg.AssetCheckSpec(
        CHECK,
        asset=key,
        description="Amplitude gave all that was asked for: the plan has a Taxonomy API, and the members of each "
        "cohort could be had. What it refused is named; of cohorts, earlier members stand.",
    )

    @dg.multi_asset(name=key.to_python_identifier(), specs=[spec], check_specs=[check])
    def dashboard(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        # polars and requests take 0.4 s to import, which loading definitions need not.
        from amp_pipeline.dashboard import take

        run = context.run.run_id
        try:
            workspace = open_store(organization.workspace, organization.s3)
            taken = take(organization, project, workspace, now(), run=run, version=__version__, tell=context.log.info)
        except AmpError as error:
            trouble = Trouble(
                source="dashboard",
                kind=getattr(error, "kind", type(error).__name__),
                summary=str(error)[:_LONGEST_SUMMARY],
                run=run,
            )
            if not _is_told_of_source(organization, project, trouble):
                _tell(context, organization, subject, trouble, send, now)
            raise dg.Failure(description=str(error)) from error
        _tell(context, organization, subject, None, send, now)
        refused = {what: why for what, why in taken.not_available.items() if what != _SWITCHED_OFF}
        metadata: dict[str, Any] = {
            "dagster/uri": workspace.uri(f"{organization.id}/{project.id}/dashboard/{taken.snapshot.stamp}"),
            "cohorts": taken.cohorts,
            "members": taken.members,
            "cohorts_asked_for": taken.files,
            "event_types": taken.event_types,
            "categories": taken.categories,
            "entries_left_out": taken.unread,
            "is_new": taken.is_new,
            "refused": len(refused),
            **_table(refused),
        }
        result = dg.AssetCheckResult(
            check_name=CHECK,
            passed=not refused,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(refused)[:_LONGEST_SUMMARY] if refused else "all that was asked for was given",
            metadata=_table(refused),
        )
        return dg.MaterializeResult(metadata=metadata, check_results=[result])

    return dashboard


def _schedule(project: Project) -> dg.ScheduleDefinition:
    if project.dashboard is None:
        raise ValueError(f"project {project.slug} has no dashboard")
    hour, minute = project.dashboard.at.split(":")
    return dg.ScheduleDefinition(
        name=f"{project.slug}_dashboard",
        target=dg.AssetSelection.assets(dashboard_key(project)),
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone="UTC",
        default_status=(dg.DefaultScheduleStatus.RUNNING if project.automatic else dg.DefaultScheduleStatus.STOPPED),
        description=f"Takes what Amplitude's dashboard knows of {project.slug}: cohorts, event types, categories.",
    )


def _tell(
    context: dg.AssetExecutionContext,
    organization: Organization,
    subject: Subject,
    trouble: Trouble | None,
    send: Send,
    now: clock.Now,
) -> None:
    try:
        memory = AlertStore(open_store(organization.workspace, organization.s3), organization.id)
        missed = Alerting(organization, memory, now(), send).saw(subject, trouble)
    except AmpError as error:
        # Of a workspace that is away others tell.
        context.log.error(f"nobody could be told: {error}")
        return
    for who, why in missed.items():
        context.log.error(f"{subject.name}: an alert did not reach {who}, and is tried again: {why}")


def _is_told_of_source(organization: Organization, project: Project, trouble: Trouble) -> bool:
    """Tell whether whoever pulls has found the keys wrong already, and people are told so: it is one trouble."""
    if trouble.kind != "credentials":
        return False
    try:
        known = TroubleStore(open_store(organization.workspace, organization.s3), organization.id, project.id).load()
    except AmpError:
        return False
    return known is not None and known.kind == trouble.kind


def _table(refused: dict[str, str]) -> dict[str, Any]:
    if not refused:
        return {}
    shown = list(refused.items())[:_SHOWN]
    return {"what_was_refused": dg.MetadataValue.table([dg.TableRecord({"what": w, "why": y}) for w, y in shown])}
