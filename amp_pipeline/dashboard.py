"""Taking a snapshot of what Amplitude's dashboard knows of a project.

Lists must be had, or there is no snapshot. Files of members are dear (Amplitude counts them by the month), so a cohort
is asked for only where it was computed anew, or its file was never had; one that can't be had keeps the members of the
snapshot before, and it is said why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from amp_pipeline.config import Organization, Project
from amp_pipeline.core.dashboard import COHORTS
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.sources.dashboard_api import AT_ONCE, DashboardApi
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.workspace.dashboard import DashboardStore, MembersRecord, Snapshot

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What a run found."""

    snapshot: Snapshot
    is_new: bool
    """False: it is what the snapshot before it holds, which stands."""
    files: int
    """Cohorts whose members were asked for."""
    members: int
    """Of all cohorts together."""
    event_types: int
    categories: int
    not_available: Mapping[str, str]
    """What Amplitude did not give, and why."""
    unread: int
    """Entries of lists and rows of files that had no key or id, and were left out."""

    @property
    def cohorts(self) -> int:
        """How many there are."""
        return self.snapshot.record.frames["cohorts"].rows


def is_taken(project: Project) -> bool:
    """Tell whether a project has a dashboard that is to be taken."""
    return project.dashboard is not None and isinstance(project.source, AmplitudeExport)


def take(
    organization: Organization,
    project: Project,
    workspace: ObjectStore,
    now: datetime,
    *,
    run: str,
    version: str,
    tell: Tell,
    api: DashboardApi | None = None,
) -> Taken:
    """Take a snapshot and keep it in the workspace, unless it is the same as the last.

    Args:
        organization: Of the project.
        project: Whose dashboard.
        workspace: Store of the workspace.
        now: The time, aware, UTC.
        run: Name of the run, for the record.
        version: Of amp_pipeline.
        tell: Is told what a person may want to know while it lasts; never keys nor ids of users.
        api: Of the project's Amplitude; made from its source if not given.

    Raises:
        ConfigError: The project has no dashboard.
        SourceError: A list could not be had, or the keys are wrong.
        AmpError: The workspace can't be read or written.
    """
    source = project.source
    if project.dashboard is None or not isinstance(source, AmplitudeExport):
        raise ConfigError(
            f"project {project.slug} has no dashboard; write `dashboard: {{}}` in it (its source must be of type "
            "amplitude_export)"
        )
    known = api or DashboardApi(Http(source, tell=tell))
    store = DashboardStore(workspace, organization.id, project.id)
    taking = _Taking(known, store, now, tell)
    event_types = known.event_types()
    categories, why = known.categories()
    taking.note("taxonomy", event_types.not_planned or why)
    taking.unread += event_types.parsed.unread + categories.unread
    cohorts, members = pl.DataFrame(schema=COHORTS), dict[str, MembersRecord]()
    if project.dashboard.cohorts:
        found = known.cohorts()
        taking.unread += found.unread
        cohorts, members = found.frame, taking.members(found.frame)
    else:
        taking.note("cohorts", "switched off (dashboard.cohorts is false)")
    saved = store.save(
        {"cohorts": cohorts, "event_types": event_types.parsed.frame, "categories": categories.frame},
        members,
        taking.not_available,
        at=now,
        run=run,
        version=version,
        refused=taking.refused,
    )
    return Taken(
        snapshot=saved.snapshot,
        is_new=saved.is_new,
        files=taking.files,
        members=sum(one.file.rows for one in members.values()),
        event_types=event_types.parsed.frame.height,
        categories=categories.frame.height,
        not_available=taking.not_available,
        unread=taking.unread,
    )


class _Taking:
    """The members of all cohorts: those that are asked for, and those of the snapshot before."""

    def __init__(self, api: DashboardApi, store: DashboardStore, now: datetime, tell: Tell) -> None:
        self._api = api
        self._store = store
        self._now = now
        self._tell = tell
        self.not_available: dict[str, str] = {}
        self.refused: list[str] = []
        self.files = 0
        self.unread = 0
        self._given_up = ""

    def note(self, what: str, why: str) -> None:
        if why:
            self.not_available[what] = why
            self._tell(f"{what}: not available: {why}")

    def members(self, cohorts: pl.DataFrame) -> dict[str, MembersRecord]:
        last = self._store.latest()
        before = dict(last.record.members) if last is not None else {}
        versions = {row["id"]: _version(row) for row in cohorts.iter_rows(named=True)}
        found = {cohort: before[cohort] for cohort in versions if cohort in before}
        changed = [cohort for cohort, version in versions.items() if not _is_as(found.get(cohort), version)]
        # Those that were never had first, then those that were had longest ago; what was refused the last time comes
        # after all, or it would use up what is left of the month day by day.
        refused = set(last.record.refused) if last is not None else set[str]()
        changed.sort(key=lambda cohort: (cohort in refused, found[cohort].taken_at if cohort in found else "", cohort))
        wanted = self._within_limit(changed, found)
        self.refused = sorted(refused & set(changed) - set(wanted))
        if wanted:
            self._tell(f"cohorts: members of {len(wanted)} are asked for, of {len(found)} there are some already")
        with scratch() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {
                cohort: pool.submit(self._one, cohort, versions[cohort], folder / f"{number}.csv")
                for number, cohort in enumerate(wanted)
            }
            try:
                for cohort, job in jobs.items():
                    record, unread = job.result()
                    self.files += 1
                    self.unread += unread
                    if isinstance(record, MembersRecord):
                        found[cohort] = record
                    else:
                        self.refused.append(cohort)
                        self.note(f"members of cohort {cohort}", f"{record}{_kept(cohort in found)}")
            finally:
                pool.shutdown(cancel_futures=True)
        return found

    def _one(self, cohort: str, version: str, file: Path) -> tuple[MembersRecord | str, int]:
        """Return the members of a cohort, or why they could not be had; and how many rows were left out."""
        if self._given_up:
            return self._given_up, 0
        try:
            parsed = self._api.members(cohort, file)
        except SourceError as error:
            if error.kind in ("network", "throttled"):
                # Asked patiently already; five hundred others would fare no better.
                self._given_up = f"not asked for, since: {error}"
            # Wrong keys are none of its reasons: the lists were had with them.
            return str(error), 0
        finally:
            file.unlink(missing_ok=True)
        return self._store.put_members(cohort, version, self._now, parsed.frame), parsed.unread

    def _within_limit(self, changed: list[str], found: Mapping[str, MembersRecord]) -> list[str]:
        """Return those that Amplitude's limit for the month still allows."""
        left = self._api.files_left() if changed else None
        if left is None or left >= len(changed):
            return changed
        for cohort in changed[left:]:
            self.note(
                f"members of cohort {cohort}",
                f"Amplitude's limit for this month allows {left} more files{_kept(cohort in found)}",
            )
        return changed[:left]


def _version(cohort: Mapping[str, Any]) -> str:
    """Return what changes when Amplitude computes a cohort anew; "" where it does not say when it did."""
    if cohort["last_computed"] is None:
        return ""
    told = (cohort["last_computed"], cohort["last_modified"], cohort["size"])
    return fingerprint(*[str(one) for one in told])


def _is_as(known: MembersRecord | None, version: str) -> bool:
    return known is not None and version != "" and known.version == version


def _kept(is_there: bool) -> str:
    return "; those of an earlier snapshot are kept" if is_there else ""
