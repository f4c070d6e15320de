"""A project that runs by itself, without Dagster and with a clock of its own: ticks, and runs as Dagster makes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from amp_pipeline.config import Organization
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.ticks import Cursor, Request, Tick
from amp_pipeline.destinations.archive import By
from amp_pipeline.needs import TABLES
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.scheduling import Scheduler

Failures = dict[tuple[str, Hour], str]
"""What an hour failed with, by asset."""


@dataclass
class Run:
    """A run that was asked for."""

    request: Request
    done: bool = False
    failures: Failures = field(default_factory=Failures)


@dataclass
class Simulation:
    """Ticks of the hour sensors of an organization, and the runs that they ask for."""

    organization: Organization
    stores: OpenStore
    now: datetime
    runs: list[Run] = field(default_factory=list[Run])
    cursors: dict[str, Cursor] = field(default_factory=dict[str, Cursor])
    unreachable: set[str] = field(default_factory=set[str])

    def tick(self, slug: str = "") -> Tick:
        """One tick of a project's sensor; its requests become runs that are to be worked on."""
        project = next(one for one in self.organization.projects if slug in ("", one.slug))
        run = OrganizationRun(self.organization, self.stores, reads=False)
        scheduler = Scheduler(run, project, self.now, self._running(project.id), unreachable=self.unreachable)
        tick = scheduler.tick(self.cursors.get(project.slug, Cursor()))
        self.cursors[project.slug] = Cursor.decode(tick.cursor.encode())
        for request in tick.requests:
            assert not self.known(request.key), "a run was asked for twice"
            self.runs.append(Run(request))
        return tick

    def known(self, key: str) -> bool:
        return any(run.request.key == key for run in self.runs)

    def _running(self, project: int) -> "_Running":
        mine = [run for run in self.runs if not run.done and run.request.key.startswith(f"{project}-")]
        return _Running({hour for run in mine for hour in run.request.hours}, len(mine), self.known)

    def work(self, runs: Sequence[Run] | None = None) -> list[Run]:
        """Work on runs, all that are left if not told which; return them."""
        todo = [run for run in self.runs if not run.done] if runs is None else list(runs)
        for run in todo:
            run.failures = execute(self.organization, self.stores, run.request, self.now)
            run.done = True
        return todo

    def until_quiet(self, at_most: int = 50, every: timedelta = timedelta(minutes=1)) -> list[Run]:
        """Tick and work until nothing is asked for and nothing waits; return the runs."""
        made: list[Run] = []
        ticks: list[Tick] = []
        for _ in range(at_most):
            ticks = [self.tick(project.slug) for project in self.organization.projects]
            worked = self.work()
            made += worked
            if not worked and not any(tick.settled or tick.waiting or tick.cursor.pending for tick in ticks):
                return made
            self.now += every
        raise AssertionError(f"not quiet after {at_most} ticks: {ticks}")


@dataclass
class _Running:
    hours: set[Hour]
    requests: int
    knows: Callable[[str], bool]


def execute(organization: Organization, stores: OpenStore, request: Request, now: datetime) -> Failures:
    """Run a request as its Dagster run would: where an asset fails for an hour, what depends on it does not begin."""
    run = OrganizationRun(organization, stores)
    slug = next(one.slug for one in organization.projects if request.key.startswith(f"{one.id}-"))
    one = run.projects[slug]
    by = By(run=request.key, at=now.isoformat(), version="0")
    failures: Failures = {}
    stages = {"raw_events": one.raw.land, "deduped_events": one.deduped.dedupe, "merged_ids": run.merged.merge}
    for name, stage in stages.items():
        if name in request.what:
            _each(name, request.hours, partial(stage, force=request.forced), failures)
            if failures:
                return failures
    for delivery in one.project.deliveries:
        if delivery.name in request.what:
            archive = one.archive(delivery)
            deliver = partial(one.deliver, archive, delivery, by=by, force=request.forced)
            _each(delivery.name, request.hours, deliver, failures)
        if delivery.name + TABLES in request.what:
            tables = one.tables(delivery)
            write = partial(tables.write_hour, by=by, force=request.forced)
            if written := _each(delivery.name + TABLES, request.hours, write, failures):
                tables.finish(written, by, force=request.forced)
    return failures


def _each(name: str, hours: Sequence[Hour], work: Callable[[Hour], object], failures: Failures) -> list[Hour]:
    """Do the work of each hour; return those that did not fail."""
    done: list[Hour] = []
    for hour in hours:
        try:
            work(hour)
        except AmpError as error:
            failures[name, hour] = str(error)
        else:
            done.append(hour)
    return done
