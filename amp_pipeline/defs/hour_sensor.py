"""The sensor that asks for hours: one for each project. What it decides is in :mod:`amp_pipeline.scheduling`.

A sensor that raises tells nobody, so a landing or a workspace that can't be reached is a message here, and an alert.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from amp_pipeline import clock
from amp_pipeline.alerting import LANDING, LATE_DATA, Alerting, Send, Subject
from amp_pipeline.config import Organization, Project
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.ticks import Cursor, Request, Tick
from amp_pipeline.defs.assets import HOURS_A_RUN, deduped_events_key, delivery_keys, merged_ids_key, raw_events_key
from amp_pipeline.defs.hours import REQUEST, hours_of_tags
from amp_pipeline.defs.tables import tables_keys
from amp_pipeline.needs import DEDUPED_EVENTS, MERGED_IDS, RAW_EVENTS, TABLES
from amp_pipeline.notify import send
from amp_pipeline.run import OrganizationRun
from amp_pipeline.scheduling import MANY_LATE, Scheduler
from amp_pipeline.source_access import still_troubled
from amp_pipeline.workspace.alerts import AlertStore
from amp_pipeline.workspace.pulls import Trouble as SourceTrouble

WHY, BACKLOG = "amp_pipeline/why", "amp_pipeline/backlog"
"""Tags of the runs that are asked for. dagster.yaml bounds how many runs of a backlog there are at a time."""

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FORGOTTEN_AFTER = timedelta(hours=12)
"""Dagster never ends the run of a command that was killed. Where one does take longer, its hours are asked for beside
it, which their claims make harmless."""

_PRIORITY_LIVE, _PRIORITY_LATE, _PRIORITY_REST = "10", "5", "-5"
"""Runs that people start have 0."""


class Jobs:
    """The jobs that the runs of a project's hours belong to, and how a request is put to Dagster."""

    def __init__(self, organization: Organization, project: Project, assets: Sequence[dg.AssetsDefinition]) -> None:
        """Ask for some of ``assets``, which are all of the organization."""
        self.project = project
        self._keys = {
            RAW_EVENTS: [raw_events_key(project)],
            DEDUPED_EVENTS: [deduped_events_key(project)],
            MERGED_IDS: [merged_ids_key(organization)],
            **{
                delivery.name: list(delivery_keys(project, delivery).values())
                for delivery in project.deliveries
                if delivery.enabled
            },
            **{
                delivery.name + TABLES: tables_keys(project, delivery)
                for delivery in project.deliveries
                if delivery.enabled and delivery.tables
            },
        }
        self._definitions = {key: one for one in assets for key in one.keys}
        merged = self._definitions[merged_ids_key(organization)]
        self._in_one_run = merged.partitions_def == self._definitions[raw_events_key(project)].partitions_def
        self._merged_job = f"{organization.slug}_merged_ids_hours"

    @property
    def name(self) -> str:
        """Of the job of the project's own assets."""
        return f"{self.project.slug}_hours"

    def keys(self, what: Iterable[str] | None = None) -> list[dg.AssetKey]:
        """Return the keys of assets by what an hour needs; all if not given."""
        return [key for name in (self._keys if what is None else what) for key in self._keys[name]]

    def definitions(self) -> dict[str, Any]:
        """Return the jobs by name. Only assets that have the same hours can be in one."""
        own = self.keys() if self._in_one_run else self.keys(name for name in self._keys if name != MERGED_IDS)
        selections = {self.name: own} | ({} if self._in_one_run else {self._merged_job: self.keys([MERGED_IDS])})
        about = "Hours that the sensor of the project asks for, or that you launch by hand."
        return {
            name: dg.define_asset_job(name, dg.AssetSelection.assets(*keys), description=about)
            for name, keys in selections.items()
        }

    def run_request(self, request: Request) -> dg.RunRequest:
        """Return a request as Dagster takes it."""
        keys = self.keys(request.what)
        definitions = {self._definitions[key].op.name: self._definitions[key] for key in keys}
        first, last = request.hours[0], request.hours[-1]
        tags = {REQUEST: request.key, WHY: request.why, "dagster/priority": _priority(request)}
        if not request.live:
            tags[BACKLOG] = self.project.slug
        if first != last:
            tags |= {"dagster/asset_partition_range_start": first.key, "dagster/asset_partition_range_end": last.key}
        of_merged_ids = request.what == (MERGED_IDS,) and not self._in_one_run
        return dg.RunRequest(
            run_key=request.key,
            job_name=self._merged_job if of_merged_ids else self.name,
            partition_key=first.key if first == last else None,
            tags=tags,
            asset_selection=keys,
            # The checks that assets make themselves; others, like that of the bucket, have times of their own.
            asset_check_keys=[key for one in definitions.values() for key in one.check_keys],
            run_config={"ops": {name: {"config": {"force": True}} for name in definitions}} if request.forced else {},
        )


def hour_sensors(
    organization: Organization,
    assets: Sequence[dg.AssetsDefinition],
    *,
    send: Send = send,
    now: clock.Now = clock.now,
) -> tuple[list[dg.SensorDefinition], list[Any]]:
    """Return the sensors that ask for the hours of each project, and the jobs whose runs they ask for."""
    of_projects = [Jobs(organization, project, assets) for project in organization.projects]
    # One job of merged ids for all projects: Dagster wants one object of it.
    jobs = {name: job for one in of_projects for name, job in one.definitions().items()}
    sensors = [
        _hour_sensor(organization, one, [jobs[name] for name in one.definitions()], send, now) for one in of_projects
    ]
    return sensors, list(jobs.values())


def _hour_sensor(
    organization: Organization, jobs: Jobs, definitions: list[Any], send: Send, now: Callable[[], datetime]
) -> dg.SensorDefinition:
    project = jobs.project

    @dg.sensor(
        name=jobs.name,
        jobs=definitions,
        minimum_interval_seconds=int(project.every.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING if project.automatic else dg.DefaultSensorStatus.STOPPED,
        description="Asks for each hour once it is ready, again when late data changes it, and for those that wait "
        "for a bucket once it is back. What an hour needs is told from landing and workspace, so any hour may also be "
        "run by hand at any time.",
    )
    def hours(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            run = OrganizationRun(organization, reads=False)
            unreachable = set(_unreachable(organization, project, run))
            running = Running(context.instance, jobs, now())
            source = still_troubled(run, project, now())
            scheduler = Scheduler(
                run,
                project,
                now(),
                running,
                unreachable=unreachable,
                source_trouble=source.summary if source else "",
                hours_a_run=HOURS_A_RUN,
            )
            tick = scheduler.tick(Cursor.decode(context.cursor))
            missed = _told(organization, project, run, tick, source, now(), send)
        except AmpError as error:
            # A workspace that can't be reached is told of by the sensor that tries buckets.
            context.log.error(str(error))
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        for name, why in missed.items():
            context.log.error(f"an alert did not reach {name}, and is tried again: {why}")
        return dg.SensorResult(
            run_requests=[jobs.run_request(request) for request in tick.requests],
            skip_reason=None if tick.requests else tick.said,
            cursor=tick.cursor.encode(),
        )

    return hours


class Running:
    """What Dagster is doing for a project."""

    def __init__(self, instance: dg.DagsterInstance, jobs: Jobs, now: datetime) -> None:
        """Ask ``instance`` for runs that are not done."""
        self._instance = instance
        self.hours: set[Hour] = set()
        self.requests = 0
        merged = set(jobs.keys([MERGED_IDS]))
        own = set(jobs.keys()) - merged
        # Jobs that make all of it where nothing was selected; others may have the same hours, or days.
        whole = {*jobs.definitions(), "__ASSET_JOB"}
        for record in instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED)):
            run = record.dagster_run
            made = run.asset_selection
            # A run of another project makes merged ids as well, and is nothing to wait for.
            ours = made & own or made <= merged if made else run.job_name in whole
            # One that is queued is begun some time, however long that takes.
            queued = run.status is dg.DagsterRunStatus.QUEUED
            if ours and (queued or now - record.update_timestamp < _FORGOTTEN_AFTER):
                self.hours |= set(hours_of_tags(run.tags))
                self.requests += run.tags.get(REQUEST, "").startswith(f"{jobs.project.id}-")

    def knows(self, request: str, /) -> bool:
        """Tell whether there is, or was, a run of a request."""
        return bool(self._instance.get_run_ids(dg.RunsFilter(tags={REQUEST: request}), limit=1))


def _priority(request: Request) -> str:
    return _PRIORITY_LIVE if request.live else _PRIORITY_LATE if request.late else _PRIORITY_REST


def _unreachable(organization: Organization, project: Project, run: OrganizationRun) -> Iterator[str]:
    """Yield the deliveries whose bucket the other sensor found out of reach; nothing of them is asked for meanwhile."""
    store = AlertStore(run.workspace, organization.id)
    for delivery in project.deliveries:
        problem = store.state(Subject(organization, project, delivery).key).problem
        if problem is not None and problem.trouble.source == "access" and problem.told and not problem.fine_since:
            yield delivery.name


def _told(
    organization: Organization,
    project: Project,
    run: OrganizationRun,
    tick: Tick,
    source: SourceTrouble | None,
    now: datetime,
    send: Send,
) -> Mapping[str, str]:
    """Tell people of a source that gives nothing, and of a flood of late data; return whom that did not reach."""
    alerting = Alerting(organization, AlertStore(run.workspace, organization.id), now, send)
    landing = flood = None
    if source is not None:
        landing = Trouble(
            source="access",
            kind=source.kind,
            summary=source.summary,
            advice=source.advice,
            resource=project.source.address,
        )
    elif tick.trouble:
        landing = Trouble(
            source="access",
            kind="landing",
            summary=tick.trouble,
            advice="No hour of the project is delivered while this lasts; nothing is lost, all are caught up then.",
        )
    if tick.late >= MANY_LATE:
        flood = Trouble(
            source="late data",
            kind="late data",
            summary=f"late data changes {tick.late} hours that were delivered before",
            advice="They are delivered again, a few runs at a time, after hours that have just ended. If the source "
            "was not meant to send it, switch off the sensor of the project's hours and look at the landing.",
        )
    return {
        **alerting.saw(Subject(organization, project, what=LANDING), landing),
        **alerting.saw(Subject(organization, project, what=LATE_DATA), flood),
    }
