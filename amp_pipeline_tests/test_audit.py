"""Each planted corruption makes ``amp-pipeline audit`` end with exit status 1 and name the law that is broken."""

import gzip
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amp_pipeline import config_files
from amp_pipeline.audit import audit
from amp_pipeline.cli import main
from amp_pipeline.core.hours import between
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put
from amp_pipeline_tests.laws import driver

EXAMPLE = Path(__file__).parent.parent / "examples" / "shop" / "landing"
DEFS = """
type: amp_pipeline.Organization
attributes:
  id: 189524
  slug: shop_org
  workspace: workspace
  projects:
    - id: 187520
      slug: shop
      first_hour: 2024-05-09-08:00
      last_hour: 2024-05-09-19:00
      source: {url: landing}
      deliveries:
        - {name: all_events, url: bucket, what: [events, merged_ids]}
"""
BROKEN_LINES = "187520/187520_2024-05-09_9#7.json"
PART = "187520/187520_2024-05-09_15#0.json.gz"
MANIFEST = "_amp_pipeline/187520/all_events/2024-05-09/15.json"
MARKER = "187520/187520_2024-05-09_15_complete"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an organization whose hours are all delivered."""
    folder = tmp_path_factory.mktemp("delivered")
    for found in EXAMPLE.rglob("*_2024-05-09_*"):
        target = folder / "landing" / found.relative_to(EXAMPLE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, target)
    (folder / "landing" / BROKEN_LINES).write_text('{"no": "time"}\nnot json\n')
    (folder / "defs.yaml").write_text(DEFS)
    ((organization),) = config_files.read(folder / "defs.yaml", {})
    run = OrganizationRun(organization)
    project = run.projects["shop"]
    archive = project.archive(project.project.deliveries[0])
    last = project.project.last_hour
    assert last is not None
    for hour in between(project.project.first_hour, last):
        project.deduped.dedupe(hour)
        run.merged.merge(hour)
        project.deliver(archive, project.project.deliveries[0], hour, By("test", "2026-01-01T00:00:00", "0"))
    return folder


@pytest.fixture
def folder(delivered: Path, tmp_path: Path) -> Path:
    """A copy of it, to be corrupted."""
    return Path(shutil.copytree(delivered, tmp_path / "copy"))


def run_audit(folder: Path) -> Result:
    return CliRunner().invoke(main, ["audit"], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})


def lines_of(part: Path) -> list[bytes]:
    return gzip.decompress(part.read_bytes()).splitlines(keepends=True)


def rewrite(folder: Path, change: Callable[[list[bytes]], list[bytes]], *, and_manifest: bool = False) -> None:
    """Change the lines of a part; also what the manifest says of it, where the corruption is to look consistent."""
    part = folder / "bucket" / PART
    lines = change(lines_of(part))
    part.write_bytes(gzip.compress(b"".join(lines), mtime=0))
    if and_manifest:

        def says_so(manifest: dict[str, Any]) -> None:
            file = manifest["files"][0]
            file |= {"rows": len(lines), "bytes": part.stat().st_size, "unpacked_bytes": len(b"".join(lines))}
            file["sha256"] = sha256(part.read_bytes()).hexdigest()
            manifest["counts"]["delivered"] = len(lines)

        edit_manifest(folder, says_so)


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "bucket" / MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def a_line_changed(folder: Path) -> None:
    rewrite(folder, lambda lines: [lines[0].replace(b'"city":"', b'"city":"X'), *lines[1:]])


def a_line_changed_and_the_manifest_with_it(folder: Path) -> None:
    rewrite(folder, lambda lines: [lines[0].replace(b'"city":"', b'"city":"X'), *lines[1:]], and_manifest=True)


def a_line_dropped(folder: Path) -> None:
    rewrite(folder, lambda lines: lines[1:])


def a_line_dropped_and_the_manifest_with_it(folder: Path) -> None:
    rewrite(folder, lambda lines: lines[1:], and_manifest=True)


def a_line_doubled(folder: Path) -> None:
    rewrite(folder, lambda lines: [lines[0], *lines])


def lines_moved(folder: Path) -> None:
    rewrite(folder, lambda lines: [lines[1], lines[0], *lines[2:]], and_manifest=True)


def a_byte_flipped(folder: Path) -> None:
    part = folder / "bucket" / PART
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def a_count_changed(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["counts"].update(landed=manifest["counts"]["landed"] + 1))


def two_counts_changed_so_that_they_add_up(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["counts"]["landed"] += 1
        manifest["counts"]["repeats"] += 1

    edit_manifest(folder, edit)


def a_part_removed(folder: Path) -> None:
    (folder / "bucket" / PART).unlink()


def a_part_added(folder: Path) -> None:
    shutil.copy(folder / "bucket" / PART, folder / "bucket" / PART.replace("#0", "#1"))


def a_marker_removed(folder: Path) -> None:
    (folder / "bucket" / MARKER).unlink()


def the_marker_of_an_empty_hour_removed(folder: Path) -> None:
    empty = [
        marker
        for marker in (folder / "bucket" / "187520").glob("*_complete")
        if not marker.with_name(marker.name.replace("_complete", "#0.json.gz")).exists()
    ]
    empty[0].unlink()


def a_manifest_removed(folder: Path) -> None:
    (folder / "bucket" / MANIFEST).unlink()


def a_manifest_cut_off(folder: Path) -> None:
    path = folder / "bucket" / MANIFEST
    path.write_bytes(path.read_bytes()[:100])


def a_manifest_of_another_hour(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(hour="2024-05-09-16:00"))


def an_index_changed(folder: Path) -> None:
    keys = next((folder / "workspace" / "189524" / "187520" / "keys" / "2024-05-09").glob("15-*.keys"))
    data = bytearray(keys.read_bytes())
    data[-1] ^= 1
    keys.write_bytes(data)


def an_owner_record_changed(folder: Path) -> None:
    (folder / "bucket" / "_amp_pipeline" / "owner.json").write_text('{"organization": {"id": 7}}')


def a_quarantined_line_dropped(folder: Path) -> None:
    report = folder / "workspace" / "189524" / "187520" / "quarantine" / "2024-05-09" / "09.jsonl.gz"
    report.write_bytes(gzip.compress(b"".join(lines_of(report)[1:])))


def the_quarantine_removed(folder: Path) -> None:
    (folder / "workspace" / "189524" / "187520" / "quarantine" / "2024-05-09" / "09.jsonl.gz").unlink()


def a_merged_id_dropped(folder: Path) -> None:
    file = next((folder / "bucket" / "-189524").glob("*_2024-05-09_15.json.gz"))
    file.write_bytes(gzip.compress(b"".join(lines_of(file)[1:]), mtime=0))


def test_the_audit_of_what_was_delivered_passes(folder: Path) -> None:
    result = run_audit(folder)
    assert result.exit_code == 0, result.output
    assert "every law holds" in result.output
    assert "12 hours" in result.output


@pytest.mark.parametrize(
    ("corrupt", "law"),
    [
        (a_line_changed, "law 1"),
        (a_line_changed_and_the_manifest_with_it, "law 1"),
        (a_line_dropped, "law 2"),
        (a_line_dropped_and_the_manifest_with_it, "law 2"),
        (a_line_doubled, "law 2"),
        (lines_moved, "law 4"),
        (a_byte_flipped, "law 5"),
        (a_count_changed, "law 2"),
        (two_counts_changed_so_that_they_add_up, "law 2"),
        (a_part_removed, "law 5"),
        (a_part_added, "law 5"),
        (a_marker_removed, "law 5"),
        (the_marker_of_an_empty_hour_removed, "law 6"),
        (a_manifest_removed, "law 5"),
        (a_manifest_cut_off, "law 5"),
        (a_manifest_of_another_hour, "law 5"),
        (an_index_changed, "law 3"),
        (an_owner_record_changed, "ownership"),
        (a_quarantined_line_dropped, "law 2"),
        (the_quarantine_removed, "law 2"),
        (a_merged_id_dropped, "law 2"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.replace(" ", "_"),
)
def test_a_corruption_ends_in_exit_1_and_names_the_law(folder: Path, corrupt: Callable[[Path], None], law: str) -> None:
    corrupt(folder)
    result = run_audit(folder)
    assert result.exit_code == 1, result.output
    summary = result.output.splitlines()[-1]
    assert law in summary, result.output


def test_an_hour_that_was_never_delivered_is_named(folder: Path) -> None:
    (folder / "bucket" / MANIFEST).unlink()
    (
        folder / "workspace" / "189524" / "187520" / "deliveries" / "all_events" / "state" / "2024-05-09" / "15.json"
    ).unlink()
    result = run_audit(folder)
    assert result.exit_code == 1
    assert "never delivered" in result.output


def test_an_hour_whose_landing_is_gone_is_held_against_its_manifest(folder: Path) -> None:
    for found in (folder / "landing" / "187520").glob("*_15#*"):
        found.unlink()
    result = run_audit(folder)
    assert result.exit_code == 0, result.output
    assert "frozen" in result.output
    a_byte_flipped(folder)
    assert run_audit(folder).exit_code == 1


def test_a_foreign_part_with_an_odd_number_is_named_by_law_5(folder: Path) -> None:
    shutil.copy(folder / "bucket" / PART, folder / "bucket" / PART.replace("#0", "#x"))
    result = run_audit(folder)
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == 1, result.output
    assert "law 5" in result.output.splitlines()[-1], result.output


MERGING: dict[str, Any] = {"amplitude_id": 5, "data": {"merged_amplitude_id": 6}}
GONE_BEFORE: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {
    "with repeats of it": (
        {object_name(FIRST_HOUR): event(1, uuid="a")},
        {object_name(FIRST_HOUR + 1): event(HOUR_US, uuid="a")},
    ),
    "with a stray from it": (
        {object_name(FIRST_HOUR): event(1, uuid="a") + b"\n" + event(HOUR_US, uuid="s")},
        {object_name(FIRST_HOUR + 1): event(HOUR_US + 1, uuid="s")},
    ),
    "with a merge that it made": (
        {object_name(FIRST_HOUR): event(1, uuid="a", **MERGING)},
        {object_name(FIRST_HOUR + 1): event(HOUR_US, uuid="b", **MERGING)},
    ),
    "with a merged id that it landed": (
        {object_name(FIRST_HOUR): event(1, uuid="a"), merged_name(FIRST_HOUR): merged(5, 6)},
        {object_name(FIRST_HOUR + 1): event(HOUR_US, uuid="b"), merged_name(FIRST_HOUR + 1): merged(5, 6)},
    ),
}


@pytest.mark.parametrize("how", GONE_BEFORE)
def test_the_audit_of_an_hour_after_one_whose_landing_is_gone_passes(tmp_path: Path, how: str) -> None:
    gone, there = GONE_BEFORE[how]
    landing = tmp_path / "landing"
    organization = builders.organization(tmp_path, landing)
    stores = driver.Stores(organization)
    hours = [FIRST_HOUR, FIRST_HOUR + 1]
    for name, lines in {**gone, **there}.items():
        put(landing, name, lines)
    driver.run_all(organization, [hours], stores)
    driver.settle(organization, hours, stores)

    def states(*asked: int) -> list[str]:
        found = list(audit(organization, organization.projects[0], [hours[at] for at in asked], stores))
        assert [finding for one in found for finding in one.findings] == []
        return [one.state for one in found if one.delivery == "all"]

    assert states(0, 1) == ["ok", "ok"]
    for name in gone:
        (landing / name).unlink()
    assert states(0, 1) == ["frozen", "ok"]
    assert states(1) == ["ok"]


def test_the_audit_of_an_hour_after_one_that_cannot_be_read_passes(tmp_path: Path) -> None:
    first, second = FIRST_HOUR, FIRST_HOUR + 1
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = driver.Stores(organization)
    put(tmp_path / "landing", object_name(first), event(1, uuid="a"))
    put(tmp_path / "landing", object_name(second), event(HOUR_US, uuid="a"))
    driver.run_all(organization, [[first, second]], stores)
    put(tmp_path / "landing", object_name(first, 1, ".json.gz"))
    found = list(audit(organization, organization.projects[0], [first, second], stores))
    assert [(one.hour, one.state) for one in found if one.delivery == "all"] == [(first, "failed"), (second, "ok")]


def test_the_audit_goes_on_after_an_hour_whose_merged_ids_are_damaged(tmp_path: Path) -> None:
    first, second = FIRST_HOUR, FIRST_HOUR + 1
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = driver.Stores(organization)
    put(tmp_path / "landing", object_name(first), event(1, uuid="a"))
    put(tmp_path / "landing", object_name(second), event(HOUR_US, uuid="b"))
    driver.run_all(organization, [[first, second]], stores)
    put(tmp_path / "landing", merged_name(first, ".json.gz"))
    found = list(audit(organization, organization.projects[0], [first, second], stores))
    assert [(one.hour, one.state) for one in found if one.delivery == "all"] == [(first, "failed"), (second, "ok")]
