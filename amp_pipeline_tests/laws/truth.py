"""Holds what the pipeline wrote against the oracle: every line, every count, every report."""

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline_tests.oracle import (
    Event,
    Fields,
    MergedLine,
    OracleProject,
    OrganizationTruth,
    ProjectTruth,
    Suppressed,
    cut_parts,
    keep_all,
    microseconds_of,
    read_organization,
    read_project,
)


class Truth:
    """What the oracle says of an organization's landings as they are now."""

    def __init__(
        self,
        organization: Organization,
        accepted: frozenset[str] = frozenset(),
        suppressed: Sequence[Suppressed] = (),
    ) -> None:
        """Suppressions are those of the first project."""
        self.organization = organization
        landings = [Path(organization.landing_url(project)) for project in organization.projects]
        known = [_oracle_project(project) for project in organization.projects]
        self.projects: dict[str, ProjectTruth] = {
            project.slug: read_project(landing, one, accepted, () if number else suppressed)
            for number, (project, landing, one) in enumerate(zip(organization.projects, landings, known, strict=True))
        }
        self.merged: OrganizationTruth = read_organization(
            landings, organization.id, list(zip(known, self.projects.values(), strict=True)), accepted, suppressed
        )

    def assert_agrees(self, open_store: OpenStore, hours: Sequence[Hour]) -> None:
        """Every delivered line of every hour, the counts and the reports are the oracle's."""
        run = OrganizationRun(self.organization, open_store)
        for project in self.organization.projects:
            for hour in hours:
                if project.holds(hour):
                    self._assert_reports_agree(run, project, hour)
                    for delivery in project.deliveries:
                        self._assert_delivery_agrees(
                            open_store(delivery.url, self.organization.s3), project, delivery, hour
                        )

    def _assert_reports_agree(self, run: OrganizationRun, project: Project, hour: Hour) -> None:
        truth = self.projects[project.slug]
        workspace = run.projects[project.slug].workspace
        found = [
            (entry["object"], entry["line"], entry["reason"], _text_of(entry))
            for entry in workspace.report("quarantine", hour)
        ]
        quarantined = [bad for bad in truth.quarantined if bad.hour == hour.start and not bad.deleted]
        expected = [(bad.object, bad.line, bad.reason, bad.text) for bad in quarantined]
        assert found == expected, f"quarantine of {hour}"
        reported = [
            (entry["object"], entry["line"], entry["first_seen"], entry["conflict"], _text_of(entry))
            for entry in workspace.report("repeats", hour)
        ]
        repeats = [_reported(one) for one in truth.events_of(hour.start) if one.repeat]
        assert reported == repeats, f"repeats of {hour}"

    def _assert_delivery_agrees(self, store: ObjectStore, project: Project, delivery: Delivery, hour: Hour) -> None:
        truth = self.projects[project.slug]
        manifest = read_manifest(store, project, delivery, hour)
        keep = keep_all if delivery.filter is None else _is_purchase
        lines = truth.delivered(hour.start, keep)
        size = delivery.parts or project.parts
        parts = cut_parts(lines, size.events, size.bytes)
        assert delivered_parts(store, manifest, "events") == parts, f"lines of {hour}"
        counts = truth.counts(hour.start)
        assert manifest["counts"] == {
            "landed": counts["landed"],
            "quarantined": counts["quarantined"],
            "repeats": counts["repeats"],
            "deleted": counts["deleted"],
            "filtered": counts["deliverable"] - len(lines),
            "delivered": len(lines),
        }, f"counts of {hour}"
        events = [one for one in truth.events_of(hour.start) if not one.repeat and not one.deleted and keep(one.fields)]
        for field in ("event_time", "server_upload_time"):
            assert _range_of(manifest[field]) == _expected_range(events, field), f"{field} of {hour}"
        if "merged_ids" in delivery.what:
            self._assert_merged_agrees(store, manifest, hour)

    def _assert_merged_agrees(self, store: ObjectStore, manifest: dict[str, Any], hour: Hour) -> None:
        lines = [line for part in delivered_parts(store, manifest, "merged_ids") for line in part]
        assert lines == self.merged.merged_ids(hour.start), f"merged ids of {hour}"
        here = [line for line in self.merged.merged if line.hour == hour.start]
        quarantined = sum(bad.hour == hour.start for bad in self.merged.quarantined)
        assert manifest["merged_ids"] == _merged_counts(here, quarantined), f"counts of merged ids of {hour}"


def _oracle_project(project: Project) -> OracleProject:
    return OracleProject(
        id=project.id,
        first_hour=project.first_hour.start,
        last_hour=project.last_hour.start if project.last_hour else None,
        window=project.dedupe.window,
    )


def _is_purchase(fields: Fields) -> bool:
    return fields.get("event_type") == "purchase"


def _reported(event: Event) -> tuple[str, int, str, bool, bytes]:
    assert event.first_seen is not None
    text = b"" if event.deleted else event.text
    return event.object, event.line, Hour.of(event.first_seen).key, event.conflict, text


def _text_of(entry: dict[str, Any]) -> bytes:
    if entry.get("deleted"):
        assert entry.keys() == {"row", "object", "line", "first_seen", "conflict", "deleted"}
        return b""
    return entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])


def _merged_counts(here: list[MergedLine], quarantined: int) -> dict[str, int]:
    made = sum(line.made for line in here)
    repeats = sum(line.repeat for line in here)
    deleted = sum(line.deleted for line in here)
    return {
        "landed": len(here) - made + quarantined,
        "made": made,
        "quarantined": quarantined,
        "repeats": repeats,
        "delivered": len(here) - repeats - deleted,
        # Left out where there are none.
        **({"deleted": deleted} if deleted else {}),
    }


def _expected_range(events: list[Event], field: str) -> tuple[int, int] | None:
    times = [microseconds_of(one.fields[field]) for one in events if one.fields.get(field) is not None]
    return (min(times), max(times)) if times else None


def _range_of(found: dict[str, str] | None) -> tuple[int, int] | None:
    return None if found is None else (microseconds_of(found["first"]), microseconds_of(found["last"]))


def marker_name(project: Project, hour: Hour) -> str:
    return f"{project.id}/{project.id}_{hour.day}_{hour.of_day}_complete"


def manifest_name(project: Project, delivery: Delivery, hour: Hour) -> str:
    return f"_amp_pipeline/{project.id}/{delivery.name}/{hour.day}/{hour.of_day:02d}.json"


def read_manifest(store: ObjectStore, project: Project, delivery: Delivery, hour: Hour) -> dict[str, Any]:
    """The manifest of a finished hour; its complete marker stands, and there are no parts but those it names."""
    assert store.head(marker_name(project, hour)) is not None, f"{hour} has no complete marker"
    manifest: dict[str, Any] = json.loads(store.get(manifest_name(project, delivery, hour)))
    there = [info.name for info in store.find(f"{project.id}/{project.id}_{hour.day}_{hour.of_day}#")]
    assert there == sorted(file["name"] for file in manifest["files"] if file["kind"] == "events")
    return manifest


def delivered_parts(store: ObjectStore, manifest: dict[str, Any], kind: str) -> list[list[bytes]]:
    """The lines of the hour's files of a kind, as they stand there between line ends."""
    parts: list[list[bytes]] = []
    for file in manifest["files"]:
        if file["kind"] == kind:
            data = gzip.decompress(store.get(file["name"]))
            assert data.endswith(b"\n")
            parts.append(data[:-1].split(b"\n"))
    return parts
