"""Delivering ranges of hours through Dagster from the command line, and running again what late data touches.

The runs are recorded in the Dagster instance like those that its UI starts: the hours show as materialized, with logs
and checks.
"""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from datetime import datetime
from itertools import groupby

import dagster as dg

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.wording import ranged
from amp_pipeline.defs.assets import (
    HOURS_A_RUN,
    deduped_events_key,
    delivery_keys,
    hours_of,
    merged_ids_key,
    raw_events_key,
)
from amp_pipeline.defs.dead_runs import this_process
from amp_pipeline.defs.hours import failed_hours
from amp_pipeline.defs.tables import tables_keys
from amp_pipeline.run import OrganizationRun, Stale

MOST_ROUNDS = 10
"""How often hours that late data touched may touch others before we stop and say so."""

_SHOWN = 6
"""Ranges of hours in a line of progress."""

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Delivering:
    """Delivers hours of one organization through a Dagster instance."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        organization: Organization,
        say: Callable[[str], None],
    ) -> None:
        """Run assets of ``definitions`` on ``instance``; ``say`` takes lines of progress."""
        self._definitions = definitions
        self._job = definitions.resolve_implicit_global_asset_job_def()
        self._instance = instance
        self._organization = organization
        self._say = say

    def deliver(self, project: Project, hours: Sequence[Hour], *, force: bool = False) -> dict[Hour, str]:
        """Deliver ``hours`` and whatever late data in them touches; return the hours that failed, and why.

        Args:
            project: Of the organization.
            hours: Ascending.
            force: Do everything again even if nothing has changed.
        """
        failed = self._run(project, hours, force=force)
        for _ in range(MOST_ROUNDS):
            again = self._to_do(project, hours, failed)
            if not again:
                return failed
            for why, hours_again in _by_reason({found.hour: found.why for found in again}).items():
                self._say(f"  again, {why}: {ranged(hours_again, _SHOWN)}")
            failed |= self._run(project, [found.hour for found in again])
        left = {
            found.hour: f"{found.why}, still after {MOST_ROUNDS} rounds"
            for found in self._to_do(project, hours, failed)
        }
        for why, hours_left in _by_reason(left).items():
            self._say(f"  left, {why}: {ranged(hours_left, _SHOWN)}")
        return failed | left

    def again(
        self,
        project: Project,
        events: Collection[Hour],
        merged: Collection[Hour],
        deliveries: Mapping[str, Collection[Hour]],
    ) -> dict[Hour, str]:
        """Run the assets of some hours again, and of no others; return the hours that were not delivered, and why.

        An hour whose events or merged ids fail, as its landing is damaged perhaps, is delivered as it is on record.

        Args:
            project: Of the organization.
            events: Hours whose events are deduplicated again.
            merged: Hours whose merged ids are made again.
            deliveries: Hours that are delivered again, by the name of the delivery.
        """
        stages = [
            ("events", [raw_events_key(project), deduped_events_key(project)], events),
            ("merged ids", [merged_ids_key(self._organization)], merged),
        ]
        for what, keys, hours in stages:
            for group in _together(sorted(hours)):
                for why, bad in _by_reason(self._run_assets(keys, group, force=False)).items():
                    self._say(f"  {what} of {ranged(bad, _SHOWN)} stand as they are on record: {why}")
        failed: dict[Hour, str] = {}
        for delivery in project.deliveries:
            hours = sorted(deliveries.get(delivery.name, ()))
            for group in _together(hours):
                bad = self._run_assets(_delivery_keys(project, delivery), group, force=False)
                failed |= {hour: f"{delivery.name}: {why}" for hour, why in bad.items()}
                outcome = f"{len(bad)} failed in some asset" if bad else "delivered"
                self._say(f"  {delivery.name}: {group[0]} to {group[-1]}  {outcome}")
        return failed

    def _to_do(self, project: Project, hours: Sequence[Hour], failed: Container[Hour]) -> list[Stale]:
        """Return the hours to run again: of ``hours`` all that are not done, of others those that late data touched."""
        stale = [found for found in self.stale(project) if found.hour not in failed]
        wanted = set(hours)
        return [found for found in stale if found.hour in wanted or found.was_done]

    def stale(self, project: Project) -> list[Stale]:
        """Return the hours of ``project`` on record that have to run again, and those that a run left undone."""
        run = OrganizationRun(self._organization).projects[project.slug]
        return list(run.stale(hour for hour in sorted(run.workspace.hours("raw")) if project.holds(hour)))

    def _run(self, project: Project, hours: Sequence[Hour], *, force: bool = False) -> dict[Hour, str]:
        failed: dict[Hour, str] = {}
        done = 0
        for group in _together(hours):
            bad: dict[Hour, str] = {}
            for keys in self._phases(project):
                bad |= self._run_assets(keys, group, force=force)
            done += len(group)
            failed |= bad
            outcome = f"{len(bad)} failed in some asset" if bad else "delivered"
            self._say(f"  {group[0]} to {group[-1]}  {outcome}  ({done} of {len(hours)} hours)")
            for what, hours_bad in _by_reason(bad).items():
                self._say(f"    {ranged(hours_bad)}: {what}")
        return failed

    def _run_assets(self, keys: Sequence[dg.AssetKey], hours: Sequence[Hour], *, force: bool) -> dict[Hour, str]:
        """Materialize assets for consecutive hours in one run; return the hours that failed, and why."""
        tags = {
            "dagster/asset_partition_range_start": hours[0].key,
            "dagster/asset_partition_range_end": hours[-1].key,
            **this_process(),
        }
        ops = (
            {self._definitions.get_assets_def(key).op.name: {"config": {"force": True}} for key in keys}
            if force
            else {}
        )
        result = self._job.execute_in_process(
            instance=self._instance,
            asset_selection=list(keys),
            tags=tags,
            run_config={**_QUIET, "ops": ops},
            raise_on_error=False,
        )
        if result.success:
            return {}
        failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        failed = {hour: what for failure in failures for hour, what in failed_hours(failure.user_failure_data).items()}
        return failed or dict.fromkeys(hours, f"run {result.run_id} failed; see it in Dagster")

    def _phases(self, project: Project) -> list[list[dg.AssetKey]]:
        """Return the assets in runs: all at once where they have the same hours."""
        first = [raw_events_key(project), deduped_events_key(project)]
        merged = [merged_ids_key(self._organization)]
        last = [key for delivery in project.deliveries if delivery.enabled for key in _delivery_keys(project, delivery)]
        same = hours_of(project.first_hour, project.last_hour) == hours_of(
            self._organization.first_hour, self._organization.last_hour
        )
        phases = [[*first, *merged, *last]] if same else [first, merged, last]
        return [phase for phase in phases if phase]


def runs_in_progress(instance: dg.DagsterInstance) -> list[datetime]:
    """Return when the runs that are going on, or about to, were asked for."""
    statuses = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    return [record.create_timestamp for record in instance.get_run_records(dg.RunsFilter(statuses=statuses))]


def _delivery_keys(project: Project, delivery: Delivery) -> list[dg.AssetKey]:
    return [*delivery_keys(project, delivery).values(), *tables_keys(project, delivery)]


def _by_reason(reasons: Mapping[Hour, str]) -> dict[str, list[Hour]]:
    by_reason: dict[str, list[Hour]] = {}
    for hour, why in reasons.items():
        by_reason.setdefault(why, []).append(hour)
    return by_reason


def _together(hours: Sequence[Hour]) -> list[list[Hour]]:
    """Return runs of consecutive hours, each at most :data:`HOURS_A_RUN` long."""
    groups: list[list[Hour]] = []
    for _, consecutive in groupby(enumerate(hours), key=lambda item: item[1].number - item[0]):
        run = [hour for _, hour in consecutive]
        groups += [run[start : start + HOURS_A_RUN] for start in range(0, len(run), HOURS_A_RUN)]
    return groups
