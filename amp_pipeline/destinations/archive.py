"""Delivery of an hour as an Amplitude archive: parts, merged ids, manifest, complete marker, in one commit.

The order of a commit is the whole promise to readers (law 5): the marker and the manifest go away when content will
change; then the data; then what was written is read back and held against its digests and counts; then the manifest;
then the marker. Killed at any instant, the hour is as it was before, or has no marker, and the next run finishes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.manifest import Manifest, broken_sum, encode
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.destinations.plan import Planner, Source
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import Change, DedupedRecord, DeliveryState, LogEntry, MergedRecord
from amp_pipeline.workspace.store import DeliveryStore, sha256

_UNSEEN = {"enabled", "s3", "owner", "alerts", "first_hour", "catch_up", "export_api", "tables"}
"""Fields of a delivery that decide about nothing that its readers see: a change of them writes no hour again."""


@dataclass(frozen=True)
class By:
    """Who delivers, for the delivery log."""

    run: str
    at: str
    """When, UTC, ISO-8601."""
    version: str
    asked_by: str = "hand"
    """hand, sensor or backfill."""


@dataclass(frozen=True)
class Receipt:
    """What a delivery of an hour came to."""

    uri: str
    """Of the manifest."""
    manifest: Manifest
    why: str
    """first, late data, deletion, settings, repair, forced, or "" where nothing had to be written."""
    event_types: dict[str, int]
    """Delivered events by type."""
    written: list[str] = field(default_factory=list[str])
    deleted: list[str] = field(default_factory=list[str])
    change: Change | None = None
    """What late data changed in the hour's events, where that is known."""


class Archive:
    """One delivery, as one run sees it."""

    def __init__(
        self,
        organization: Organization,
        project: Project,
        delivery: Delivery,
        workspace: ObjectStore,
        destination: ObjectStore,
    ) -> None:
        """Deliver from ``workspace`` to ``destination``."""
        self.names = ArchiveNames(
            organization.id, project.id, delivery.name, delivery.names.first_part, delivery.names.padded_hour
        )
        self.store = destination
        self._workspace = workspace
        self.state = DeliveryStore(workspace, organization.id, project.id, delivery.name)
        self._organization = organization
        self._project = project
        self._delivery = delivery
        self._planner = Planner(organization, project, delivery, self.names, workspace)
        self.settings = fingerprint(
            delivery.model_dump(mode="json", exclude=_UNSEEN),
            project.slug,
            organization.slug,
        )
        self._owned = False

    def only_settings_changed(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None) -> bool:
        """Tell whether a delivered hour is not as it is to be for nothing but the settings of the delivery."""
        state = self.state.state(hour)
        return (
            state is not None
            and state.settings != self.settings
            and state.fingerprint == self.fingerprint(events, merged, state.settings)
        )

    def fingerprint(self, events: DedupedRecord, merged: MergedRecord | None, settings: str = "") -> str:
        """Return the digest of all that decides about the bytes of an hour, by other ``settings`` where given."""
        return fingerprint(
            settings or self.settings,
            [(part.sha256, part.rows) for part in events.parts],
            events.landed,
            events.quarantined,
            events.repeats,
            events.event_time,
            events.server_upload_time,
            None if merged is None else [merged.fingerprint, merged.part and merged.part.sha256],
        )

    def deliver(
        self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, by: By, *, force: bool = False
    ) -> Receipt:
        """Deliver ``hour``, writing only where something has changed.

        Args:
            hour: The hour.
            events: Its deduplicated events.
            merged: Its merged ids, where the delivery has them.
            by: For the delivery log.
            force: Write it again even if nothing has changed.

        Raises:
            DeliveryError: The bucket belongs to another organization, or what was written is not what is read back;
                no marker was written.
        """
        decided = self.fingerprint(events, merged)
        state = self.state.state(hour)
        if state is not None and state.fingerprint == decided and not force:
            found = self._manifest_bytes(hour)
            if found is not None and sha256(found) == state.manifest_sha256 and self._stands(hour, state.files):
                manifest = msgspec.json.decode(found, type=Manifest)
                return Receipt(self.store.uri(self.names.manifest(hour)), manifest, "", state.event_types)
        return self._commit(hour, events, merged, by, decided, state, force)

    def holds(self, hour: Hour, manifest: Manifest) -> bool:
        """Tell whether the bucket holds what ``manifest`` says of ``hour``: files, sizes, marker, manifest."""
        return self._manifest_bytes(hour) == encode(manifest) and self._stands(
            hour, {file.name: file.bytes for file in manifest.files}
        )

    def delivered_hours(self) -> set[Hour]:
        """Return the hours that were delivered at least once."""
        return self.state.hours("state")

    def events_uri(self, hour: Hour) -> str:
        """Return where the hour's parts are, for people."""
        return self.store.uri(self.names.events_prefix(hour) + "*")

    def _commit(
        self,
        hour: Hour,
        events: DedupedRecord,
        merged: MergedRecord | None,
        by: By,
        decided: str,
        state: DeliveryState | None,
        force: bool,
    ) -> Receipt:
        plan = self._planner.plan(hour, events, merged)
        manifest = plan.manifest
        data = encode(manifest)
        if problem := broken_sum(manifest):
            raise DeliveryError(
                f"hour {hour} of {self._label} does not add up: {problem}; run deduped_events of the hour again, forced"
            )
        files = {source.file.name: source.file.bytes for source in plan.sources}
        why = self._why(hour, state, decided, force, events)
        written: list[str] = []
        deleted: list[str] = []
        claimed = self.names.claim(hour)
        # Where a run was killed just before it gave the hour back, nothing is left to do but that.
        if force or not self._is_as(hour, data, plan.sources) or self.store.head(claimed) is not None:
            self._own()
            what = f"hour {hour} of {self._label} in {self.store.url}"
            with Claim(self.store, claimed, what, by.run, by.at) as claim:
                # Another run may have written it until just now.
                if force or not self._is_as(hour, data, plan.sources):
                    if state is not None:
                        # From here on the hour is not as it was delivered; a run that is killed must not seem to have
                        # ended.
                        self.state.save("state", hour, msgspec.structs.replace(state, fingerprint=""))
                    written, deleted = self._write(hour, plan.sources, data, claim)
        rows = {
            "events": manifest.counts.delivered,
            "merged_ids": manifest.merged_ids.delivered if manifest.merged_ids else 0,
        }
        change = events.change if why in ("late data", "deletion") else None
        self.state.append(
            hour,
            LogEntry(
                project=self._project.id,
                delivery=self._delivery.name,
                hour=hour.key,
                at=by.at,
                run=by.run,
                version=by.version,
                why=why,
                asked_by=by.asked_by,
                before=state.rows if state else {},
                after=rows,
                lines_added=change.added if change else None,
                lines_removed=change.removed if change else None,
                manifest_sha256=sha256(data),
                files_written=written,
                files_deleted=deleted,
            ),
        )
        self.state.save(
            "state",
            hour,
            DeliveryState(
                format=FORMAT,
                hour=hour.key,
                fingerprint=decided,
                settings=self.settings,
                manifest_sha256=sha256(data),
                files=files,
                rows=rows,
                event_types=plan.event_types,
            ),
        )
        return Receipt(
            self.store.uri(self.names.manifest(hour)), manifest, why, plan.event_types, written, deleted, change
        )

    def _there(self, hour: Hour) -> dict[str, int]:
        """Return the files that the bucket holds of the hour, in any spelling of their names, and their sizes.

        A delivery without merged ids leaves a merged-id file alone: it may be another delivery's.
        """
        found = [info for prefix in self.names.events_prefixes(hour) for info in self.store.find(prefix)]
        heads = (self.store.head(name) for name in self._merged_ids_names(hour))
        found += [info for info in heads if info is not None]
        return {info.name: info.size for info in found}

    def _merged_ids_names(self, hour: Hour) -> list[str]:
        return self.names.merged_ids_spellings(hour) if "merged_ids" in self._delivery.what else []

    def _is_as(self, hour: Hour, manifest: bytes, sources: list[Source]) -> bool:
        """Tell whether the bucket holds the hour as it is to be, byte for byte."""
        files = {source.file.name: source.file.bytes for source in sources}
        return self._manifest_bytes(hour) == manifest and self._stands(hour, files) and self._matches(sources)

    def _write(self, hour: Hour, sources: list[Source], manifest: bytes, claim: Claim) -> tuple[list[str], list[str]]:
        """Put the hour in place of what is there; return the names of what was written, and of what is no more."""
        for name in self.names.hour_ends(hour):
            claim.renew()
            self.store.delete(name)
        for prefix in [*self.names.events_prefixes(hour), *self._merged_ids_names(hour)]:
            self.store.clear_unfinished(prefix)
        for source in sources:
            claim.renew()
            if not (source.stored and self.store.copy(self._workspace, source.stored, source.file.name)):
                self.store.put_chunks(source.file.name, claim.renewed(source.chunks()))
        obsolete = sorted(self._there(hour).keys() - {source.file.name for source in sources})
        for name in obsolete:
            claim.renew()
            self.store.delete(name)
        for source in sources:
            claim.renew()
            if _digest(claim.renewed(self.store.chunks(source.file.name))) != source.file.sha256:
                raise DeliveryError(
                    f"{self.store.uri(source.file.name)} was written, but other bytes are read back; "
                    f"the hour {hour} has no complete marker. "
                    "Check the store and run the hour again"
                )
        ends = [(self.names.manifest(hour), manifest)]
        if self._delivery.complete_markers:
            ends.append((self.names.complete_marker(hour), b""))
        for name, data in ends:
            claim.renew()
            self.store.put(name, data)
        return [*(source.file.name for source in sources), *(name for name, _ in ends)], obsolete

    def _own(self) -> None:
        """Refuse a bucket that another organization delivers to; claim one that is nobody's."""
        if self._owned:
            return
        name = self.names.owner()
        record = {
            "organization": {"id": self._organization.id, "slug": self._organization.slug},
            "written_by": "amp_pipeline",
        }
        try:
            # Only where there is none: of two that come at the same time, one is first.
            data = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
            if self.store.head(name) is None:
                self.store.put_if(name, data, None)
            owner = msgspec.json.decode(self.store.get(name)).get("organization", {}).get("id")
        except (msgspec.MsgspecError, AttributeError):
            owner = "nobody that can be read"
        if owner != self._organization.id:
            raise DeliveryError(
                f"{self.store.uri(name)} says that this bucket belongs to organization {owner}, "
                f"not {self._organization.id}; "
                "deliver to another url, or delete that record if the bucket has changed hands"
            )
        self._owned = True

    def _manifest_bytes(self, hour: Hour) -> bytes | None:
        try:
            return self.store.get(self.names.manifest(hour))
        except ObjectNotFoundError:
            return None

    def _stands(self, hour: Hour, files: dict[str, int]) -> bool:
        """Tell whether the bucket holds the hour's files in their sizes, no others, and the marker as it should be."""
        marked = self.store.head(self.names.complete_marker(hour)) is not None
        return self._there(hour) == files and marked == self._delivery.complete_markers

    def _matches(self, sources: list[Source]) -> bool:
        return all(_digest(self.store.chunks(source.file.name)) == source.file.sha256 for source in sources)

    def _why(self, hour: Hour, state: DeliveryState | None, decided: str, force: bool, events: DedupedRecord) -> str:
        if state is None:
            return "format change" if self.state.has_record("state", hour) else "first"
        if force:
            return "forced"
        if state.fingerprint == decided:
            return "repair"
        if state.settings != self.settings:
            return "settings"
        return "deletion" if events.change and events.change.deletion else "late data"

    @property
    def _label(self) -> str:
        return f"{self._project.slug}.{self._delivery.name}"


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
