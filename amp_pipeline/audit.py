"""The audit: is what lies in the buckets what the landing demands, by every law that can be held after the fact?

It trusts neither manifests nor workspace. The landing is read again into a scratch workspace, the hours are
deduplicated and delivered to scratch buckets, and what is
really there is held against that, line by line. Hours whose landing is gone are held against the workspace's own
record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from amp_pipeline.audit_scratch import made_anew, tables_made_anew
from amp_pipeline.audit_tables import TablesAudit
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import codec
from amp_pipeline.core.errors import AmpError, DamagedObjectError, ObjectNotFoundError, StoreError, WorkspaceError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import split_stored
from amp_pipeline.core.manifest import File, Manifest, broken_sum, decode
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.destinations.archive import Archive, By
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun
from amp_pipeline.stages.traces import Kind, traces
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.storage.urls import open_store

CARRIED = "law 1, lines are carried"
NOTHING_LOST = "law 2, nothing is lost"
ORDER = "law 3, the order of runs does not matter"
STABLE = "law 4, running again changes nothing"
NOT_LIED_TO = "law 5, readers are never lied to"
EMPTY = "law 6, an empty hour is a delivered hour"
LANDING, BUCKET, WORKSPACE = "landing", "bucket", "workspace"
"""Not laws, but what kept an hour from being held against them."""

DELETED = "deletion, who was deleted does not come back"
OWNERSHIP = "ownership, a bucket belongs to one organization"
TABLES = "tables, they hold what was delivered"
TABLES_BEHIND = "tables, behind"
"""Not wrong, but to come: the hour sensor asks for it, and ``amp-pipeline deliver`` does."""


@dataclass(frozen=True)
class Finding:
    """A law that is broken, and where."""

    law: str
    what: str


@dataclass
class HourAudit:
    """What the audit found in one hour of one delivery."""

    hour: Hour
    delivery: str
    landed: int = 0
    quarantined: int = 0
    repeats: int = 0
    deleted: int = 0
    filtered: int = 0
    delivered: int = 0
    parts: int = 0
    bytes: int = 0
    state: str = "ok"
    """ok, broken, missing (never delivered), failed (its landing can't be read), frozen (ok, its landing is gone)."""
    findings: list[Finding] = field(default_factory=list[Finding])

    def add(self, law: str, what: str) -> None:
        """Note a broken law."""
        self.findings.append(Finding(law, what))
        self.state = "broken"


def audit(
    organization: Organization,
    project: Project,
    hours: Sequence[Hour],
    open_store: OpenStore = open_store,
    *,
    alone: bool = False,
) -> Iterator[HourAudit]:
    """Yield what is found in each of ``hours`` for each delivery of ``project``, hour by hour.

    Args:
        organization: Whose project.
        project: Whose hours; deliveries that it does not name are left out.
        hours: Ascending.
        open_store: Opens stores.
        alone: Read the landing of ``hours`` alone and take all others as they are on record, so that a look at a few
            hours of a long history costs no more than they do.
    """
    with scratch() as folder:
        real = OrganizationRun(organization, open_store)
        again = made_anew(real, folder, project, hours, alone=alone)
        checker = _Checker(real, again, project)
        for hour in hours:
            yield from checker.hour(hour, hours)


class _Checker:
    """Holds the hours of a project against what they would be if they were made anew."""

    def __init__(self, real: OrganizationRun, again: OrganizationRun, project: Project) -> None:
        self._organization = real.organization
        self._real = real.projects[project.slug]
        self._again = again.projects[project.slug]
        self._merged = again.merged
        self._suppressed = real.merged.suppressed
        self._project = project
        self._deliveries = [
            (delivery, self._real.archive(delivery), self._again.archive(delivery))
            for delivery in project.deliveries
            if delivery.enabled
        ]
        self._tables = {
            delivery.name: TablesAudit(self._real.tables(delivery), tables_made_anew(real, again, project, delivery))
            for delivery, _, _ in self._deliveries
            if delivery.tables
        }
        self._owned: dict[str, list[Finding]] = {}

    def hour(self, hour: Hour, of: Sequence[Hour]) -> Iterator[HourAudit]:
        """Yield the findings of one hour, by delivery; with the last one ``of`` several, of tables of all hours."""
        try:
            frozen = self._is_frozen(hour)
            workspace = [] if frozen else self._workspace(hour)
        except AmpError as error:
            for delivery, archive, _ in self._deliveries:
                finding = Finding(_place(error, archive), str(error))
                yield HourAudit(hour, delivery.name, state="failed", findings=[finding])
            return
        for delivery, archive, archive_again in self._deliveries:
            found = HourAudit(hour, delivery.name)
            try:
                if archive.state.state(hour) is None and not archive.store.head(archive.names.manifest(hour)):
                    found.state = "missing"
                    found.findings.append(Finding(NOTHING_LOST, "the hour was never delivered; deliver it"))
                elif frozen:
                    self._frozen(hour, archive, found)
                else:
                    for finding in workspace:
                        found.add(finding.law, finding.what)
                    self._delivery(hour, delivery, archive, archive_again, found)
                self._deletion(hour, delivery, archive, found)
                if delivery.tables and found.state != "missing":
                    self._hold_tables(hour, self._tables[delivery.name], of, found, frozen=frozen)
                for finding in self._owner(delivery, archive):
                    found.add(finding.law, finding.what)
            except AmpError as error:
                # A bucket that can't be reached holds up no other.
                found.findings.append(Finding(_place(error, archive), str(error)))
                found.state = "failed"
            yield found

    def _is_frozen(self, hour: Hour) -> bool:
        record = self._real.workspace.raw(hour)
        return record is not None and self._real.raw.is_gone(hour, record)

    def _workspace(self, hour: Hour) -> list[Finding]:
        """Return what is wrong in the workspace: index, quarantine, repeats, deduplicated parts."""
        expected = self._again.raw.land(hour)
        self._again.deduped.dedupe(hour, force=True)
        found: list[Finding] = []
        record = self._real.workspace.raw(hour)
        if record is None:
            return found
        try:
            if record.keys:
                self._real.workspace.keys(hour, record.keys).all()
            if record.rows:
                self._real.workspace.rows(hour, record.rows)
            if record.keys != expected.keys:
                found.append(
                    Finding(ORDER, "the key index is not what landed; materialize raw_events of the hour again, forced")
                )
        except AmpError as error:
            found.append(Finding(ORDER, f"the key index can't be used: {error}"))
        for report, law in (("quarantine", NOTHING_LOST), ("repeats", NOTHING_LOST)):
            if self._report(self._real, report, hour) != self._report(self._again, report, hour):
                found.append(
                    Finding(
                        law,
                        f"the {report} report does not hold the lines that landed; materialize the hour again, forced",
                    )
                )
        return found

    @staticmethod
    def _report(run: ProjectRun, kind: str, hour: Hour) -> list[str] | None:
        try:
            return [json.dumps(entry, sort_keys=True) for entry in run.workspace.report(kind, hour)]
        except (DamagedObjectError, msgspec.MsgspecError):
            return None

    def _delivery(self, hour: Hour, delivery: Delivery, archive: Archive, again: Archive, found: HourAudit) -> None:
        if "merged_ids" in delivery.what:
            self._merged.merge(hour, force=True)
        self._again.deliver(again, delivery, hour, By("audit", "", ""))
        expected = decode(again.store.get(again.names.manifest(hour)))
        self._count(expected, found)
        actual = self._manifest(archive, hour, found)
        raw = self._again.raw.land(hour)
        landed = _LandedLines(lambda: [line for _, _, block in self._again.raw.lines(raw) for line in block.lines])
        for kind in ("events", "merged_ids"):
            wanted = [file for file in expected.files if file.kind == kind]
            _Files(archive, hour, kind, found).hold(wanted, again.store, landed, actual)
        if actual is not None:
            _hold_manifest(actual, expected, found)
        self._marker(archive, hour, delivery, expected, found)

    def _frozen(self, hour: Hour, archive: Archive, found: HourAudit) -> None:
        found.state = "frozen"
        actual = self._manifest(archive, hour, found)
        if actual is None:
            return
        self._count(actual, found)
        if not archive.holds(hour, actual):
            found.add(NOT_LIED_TO, "the bucket does not hold what the manifest says")
        for file in actual.files:
            if archive.store.digest(file.name) != file.sha256:
                found.add(NOT_LIED_TO, f"{file.name} is not what the manifest says")

    def _deletion(self, hour: Hour, delivery: Delivery, archive: Archive, found: HourAudit) -> None:
        listed: dict[Kind, Suppressed] = {"events": self._real.raw.suppressed}
        if "merged_ids" in delivery.what:
            listed["merged_ids"] = self._suppressed
        for kind, suppressed in listed.items():
            if here := suppressed.at(hour):
                # A file that can't be unpacked is a finding of its own.
                with suppress(DamagedObjectError):
                    if count := _Files(archive, hour, kind, found).traces(kind, here):
                        found.add(DELETED, f"{count} lines of deleted users are delivered; delete them again")

    @staticmethod
    def _hold_tables(hour: Hour, tables: TablesAudit, of: Sequence[Hour], found: HourAudit, *, frozen: bool) -> None:
        if tables.is_behind(hour):
            found.add(TABLES_BEHIND, "the hour is not in the tables as it was delivered; materialize tables of it")
            return
        for what in tables.frozen(hour) if frozen else tables.hour(hour):
            found.add(TABLES, what)
        if hour == of[-1]:
            for what in tables.whole(of):
                found.add(TABLES, what)

    def _count(self, manifest: Manifest, found: HourAudit) -> None:
        counts = manifest.counts
        found.landed, found.quarantined, found.repeats = counts.landed, counts.quarantined, counts.repeats
        found.deleted, found.filtered, found.delivered = counts.deleted, counts.filtered, counts.delivered
        found.parts = sum(file.kind == "events" for file in manifest.files)
        found.bytes = sum(file.bytes for file in manifest.files)

    def _manifest(self, archive: Archive, hour: Hour, found: HourAudit) -> Manifest | None:
        name = archive.names.manifest(hour)
        try:
            manifest = decode(archive.store.get(name))
        except ObjectNotFoundError:
            found.add(NOT_LIED_TO, f"{name} is missing")
            return None
        except msgspec.MsgspecError as error:
            found.add(NOT_LIED_TO, f"{name} is no manifest: {error}")
            return None
        if problem := broken_sum(manifest):
            found.add(NOTHING_LOST, f"{name} does not add up: {problem}")
        return manifest

    def _marker(self, archive: Archive, hour: Hour, delivery: Delivery, expected: Manifest, found: HourAudit) -> None:
        name = archive.names.complete_marker(hour)
        there = archive.store.head(name) is not None
        if delivery.complete_markers and not there:
            found.add(NOT_LIED_TO if expected.counts.delivered else EMPTY, f"{name} is missing")
        if there and not delivery.complete_markers:
            found.add(NOT_LIED_TO, f"{name} is there, but complete markers are switched off")

    def _owner(self, delivery: Delivery, archive: Archive) -> list[Finding]:
        if delivery.name not in self._owned:
            name = archive.names.owner()
            try:
                owner = msgspec.json.decode(archive.store.get(name))["organization"]["id"]
            except (ObjectNotFoundError, msgspec.MsgspecError, KeyError, TypeError):
                owner = None
            if owner == self._organization.id:
                self._owned[delivery.name] = []
            else:
                what = f"{archive.store.uri(name)} names organization {owner}, not {self._organization.id}"
                self._owned[delivery.name] = [Finding(OWNERSHIP, what)]
        return self._owned[delivery.name]


def _place(error: AmpError, archive: Archive) -> str:
    """Return what kept an hour from being looked at."""
    if isinstance(error, WorkspaceError):
        return WORKSPACE
    return BUCKET if isinstance(error, StoreError) and archive.store.url in str(error) else LANDING


class _LandedLines:
    """The lines that landed in an hour, counted when first asked for."""

    def __init__(self, read: Callable[[], list[bytes]]) -> None:
        self._read = read
        self._known: Counter[bytes] | None = None

    def __contains__(self, line: bytes) -> bool:
        if self._known is None:
            self._known = Counter(self._read())
        return line in self._known


class _Files:
    """The files of one kind that a bucket holds of an hour."""

    def __init__(self, archive: Archive, hour: Hour, kind: str, found: HourAudit) -> None:
        self._archive = archive
        self._kind = kind
        self._found = found
        names = archive.names
        if kind == "events":
            there = [info.name for prefix in names.events_prefixes(hour) for info in archive.store.find(prefix)]
            self._names = sorted(there, key=lambda name: (len(name), name))
        else:
            self._names = [names.merged_ids(hour)] if archive.store.head(names.merged_ids(hour)) else []

    def traces(self, kind: Kind, here: Suppressed) -> int:
        """Return how many lines are of users whom ``here`` deletes."""
        return sum(traces(self._archive.store, name, kind, here) for name in self._names)

    def hold(self, wanted: list[File], there: ObjectStore, landed: _LandedLines, manifest: Manifest | None) -> None:
        """Hold the files against those they must be as, which are ``there``, and against what the manifest says."""
        named = {file.name: file for file in manifest.files if file.kind == self._kind} if manifest else {}
        if self._kind == "merged_ids" and manifest is not None and manifest.merged_ids is None:
            return
        digests = {name: self._archive.store.digest(name) for name in self._names}
        # Files of other bytes may hold the same lines: another version of the packer wrote them.
        if digests != {file.name: file.sha256 for file in wanted}:
            lines: list[bytes] = []
            for name in self._names:
                try:
                    lines += _lines(self._archive.store, name)
                except DamagedObjectError as error:
                    self._found.add(NOT_LIED_TO, f"{error}")
                    return
            self._compare(lines, [line for file in wanted for line in _lines(there, file.name)], landed)
        for name in sorted({*self._names, *named} if manifest else ()):
            self._hold_file(name, digests.get(name), named.get(name))

    def _compare(self, lines: list[bytes], wanted: list[bytes], landed: _LandedLines) -> None:
        if lines == wanted:
            return
        extra, lacking = Counter(lines) - Counter(wanted), Counter(wanted) - Counter(lines)
        changed = [line for line in extra if line not in landed] if self._kind == "events" else []
        if changed:
            self._found.add(CARRIED, f"{len(changed)} delivered lines never landed like that")
        if lacking.total() > len(changed):
            self._found.add(NOTHING_LOST, f"{lacking.total()} lines that should be delivered are not")
        if extra.total() > len(changed):
            self._found.add(
                NOTHING_LOST, f"{extra.total() - len(changed)} lines are delivered that should not be, or twice"
            )
        if not extra and not lacking:
            self._found.add(STABLE, "the lines are not in landing order")

    def _hold_file(self, name: str, digest: str | None, said: File | None) -> None:
        if said is None:
            self._found.add(NOT_LIED_TO, f"{name} is in no manifest")
        elif name not in self._names:
            self._found.add(NOT_LIED_TO, f"{name} is in the manifest, but not in the bucket")
        elif digest != said.sha256:
            self._found.add(NOT_LIED_TO, f"{name} has other bytes than its manifest says")


def _hold_manifest(actual: Manifest, expected: Manifest, found: HourAudit) -> None:
    """Hold all a manifest says against what it should say.

    Packed sizes and digests may differ by version of the packer and are held against the files.
    """
    if actual.counts != expected.counts or actual.merged_ids != expected.merged_ids:
        found.add(NOTHING_LOST, "the manifest's counts are not those of the landing")
        return

    def content(manifest: Manifest) -> Manifest:
        files = [msgspec.structs.replace(file, bytes=0, sha256="") for file in manifest.files]
        return msgspec.structs.replace(manifest, files=files)

    if content(actual) != content(expected):
        found.add(NOT_LIED_TO, "the manifest does not describe the hour as it landed")


def _lines(store: ObjectStore, name: str) -> list[bytes]:
    return [line for block in split_stored(codec.unpack(store.chunks(name), name)) for line in block.lines]
