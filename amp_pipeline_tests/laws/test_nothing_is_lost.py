"""Laws 2, 6 and 8: every landed line is accounted for, empty hours are delivered, and damaged ones stop no other."""

from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.workspace.store import sha256
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import (
    EXAMPLE_HOURS,
    EXAMPLE_LANDING,
    FIRST_HOUR,
    HOUR_US,
    event,
    packed,
    put,
    put_bytes,
)
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.driver import Stores, buckets, run, settle, stale
from amp_pipeline_tests.laws.truth import Truth, delivered_parts, read_manifest
from amp_pipeline_tests.oracle import lines_of, objects_of


def manifests(organization: Organization, stores: OpenStore, delivery: int) -> list[dict[str, Any]]:
    project = organization.projects[0]
    one = project.deliveries[delivery]
    return [read_manifest(stores(one.url), project, one, hour) for hour in EXAMPLE_HOURS]


@pytest.mark.parametrize("delivery", [0, 1])
def test_in_every_hour_what_landed_is_what_is_accounted_for(example_range: Delivered, delivery: int) -> None:
    organization, stores, _ = example_range
    store = stores(organization.projects[0].deliveries[delivery].url)
    for manifest in manifests(organization, stores, delivery):
        counts = manifest["counts"]
        assert counts["landed"] == sum(counts.values()) - counts["landed"]
        assert counts["delivered"] == sum(map(len, delivered_parts(store, manifest, "events")))
        merged = manifest["merged_ids"]
        if merged is not None:
            assert merged["landed"] + merged["made"] == merged["quarantined"] + merged["repeats"] + merged["delivered"]
            assert merged["delivered"] == sum(map(len, delivered_parts(store, manifest, "merged_ids")))


@pytest.mark.parametrize("delivery", [0, 1])
def test_in_sum_the_hours_hold_every_line_of_the_landing(example_range: Delivered, delivery: int) -> None:
    organization, stores, _ = example_range
    names = [name for _, name in objects_of(EXAMPLE_LANDING, organization.projects[0].id, "#[0-9]+")]
    lines = sum(len(lines_of(EXAMPLE_LANDING, name, frozenset()).lines) for name in names)
    counts = [manifest["counts"] for manifest in manifests(organization, stores, delivery)]
    total = {name: sum(one[name] for one in counts) for name in counts[0]}
    # examples/shop/README.md: "2852 landed lines = 8 quarantined + 152 repeats … + 2692 delivered without a filter".
    assert lines == 2852
    assert (total["landed"], total["quarantined"], total["repeats"], total["deleted"]) == (2852, 8, 152, 0)
    assert total["filtered"] + total["delivered"] == 2692
    assert (total["filtered"] == 0) == (delivery == 0)


def test_every_file_in_the_bucket_is_in_a_manifest_with_its_size_and_digest(example_range: Delivered) -> None:
    organization, stores, _ = example_range
    project = organization.projects[0]
    for number, delivery in enumerate(project.deliveries):
        store = stores(delivery.url)
        files = {file["name"]: file for one in manifests(organization, stores, number) for file in one["files"]}
        data = {info.name: info.size for info in store.find("") if info.name.endswith(".json.gz")}
        assert data == {name: file["bytes"] for name, file in files.items()}
        assert all(sha256(store.get(name)) == file["sha256"] for name, file in files.items())


def test_an_empty_hour_is_a_delivered_hour(example_range: Delivered) -> None:
    organization, stores, _ = example_range
    empty = [one for one in manifests(organization, stores, 0) if not one["files"]]
    assert len(empty) > 50
    for manifest in empty:
        assert manifest["counts"]["delivered"] == 0
        assert manifest["complete_marker"] is not None


def test_an_hour_of_which_nothing_landed_is_delivered_with_zeros(tmp_path: Path) -> None:
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    assert run(organization, [FIRST_HOUR], stores) == {}
    project = organization.projects[0]
    for delivery in project.deliveries:
        manifest = read_manifest(stores(delivery.url), project, delivery, FIRST_HOUR)
        assert manifest["files"] == []
        assert set(manifest["counts"].values()) == {0}
    assert stale(organization, [FIRST_HOUR], stores) == []


HOURS = [FIRST_HOUR + number for number in range(4)]
DAMAGED = HOURS[1]
WHOLE = b"".join(event(HOUR_US + number, uuid=f"u{number}") + b"\n" for number in range(20))


def land_four_hours_of_which_one_is_damaged(landing: Path, damaged: bytes) -> str:
    put(landing, builders.object_name(HOURS[0]), event(0, uuid="a"))
    put(landing, builders.object_name(HOURS[2]), event(2 * HOUR_US, uuid="a"), event(2 * HOUR_US, uuid="u0"))
    put(landing, builders.object_name(HOURS[3]), event(3 * HOUR_US, uuid="u1"))
    name = builders.object_name(DAMAGED, ending=".json.gz")
    put_bytes(landing, name, damaged)
    return name


def finished(organization: Organization, stores: OpenStore) -> list[Hour]:
    store = stores(organization.projects[0].deliveries[0].url)
    return [hour for hour in HOURS if store.head(f"7/7_{hour.day}_{hour.of_day}_complete") is not None]


@pytest.mark.parametrize("damaged", [b"", packed(WHOLE, "gzip")[:-20], b"\x1f\x8b\x08garbage"])
@pytest.mark.parametrize("one_run", [True, False])
def test_the_neighbours_of_a_damaged_hour_are_delivered(tmp_path: Path, damaged: bytes, one_run: bool) -> None:
    name = land_four_hours_of_which_one_is_damaged(tmp_path / "landing", damaged)
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    failures: dict[tuple[str, Hour], str] = {}
    for hours in [HOURS] if one_run else [[hour] for hour in HOURS]:
        failures.update(run(organization, hours, stores))
    assert {hour for _, hour in failures} == {DAMAGED}
    assert all(name in message for message in failures.values())
    assert finished(organization, stores) == [hour for hour in HOURS if hour != DAMAGED]
    Truth(organization).assert_agrees(stores, [HOURS[0], HOURS[2], HOURS[3]])


def test_a_damaged_object_that_is_replaced_heals_the_hours_after_it(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    name = land_four_hours_of_which_one_is_damaged(landing, packed(WHOLE, "gzip")[:-20])
    organization = builders.organization(tmp_path, landing)
    stores = Stores(organization)
    run(organization, HOURS, stores)
    put_bytes(landing, name, packed(WHOLE, "gzip"))
    again = settle(organization, HOURS, stores)
    assert sorted(again) == HOURS[1:]
    Truth(organization).assert_agrees(stores, HOURS)
    never_damaged = Stores(organization)
    assert run(organization, HOURS, never_damaged) == {}
    assert buckets(organization, stores) == buckets(organization, never_damaged)


@pytest.mark.parametrize("cut", [1, 8, 20, 40])
def test_the_lines_before_the_damage_of_an_accepted_object_count(tmp_path: Path, cut: int) -> None:
    landing = tmp_path / "landing"
    data = packed(WHOLE, "gzip")[:-cut]
    name = land_four_hours_of_which_one_is_damaged(landing, data)
    organization = builders.organization(tmp_path, landing)
    stores = Stores(organization)
    run(organization, HOURS, stores)
    workspace = OrganizationRun(organization, stores).projects["shop7"].workspace
    workspace.store.put(workspace.acceptance(name, sha256(data)), b"{}")
    settle(organization, HOURS, stores)
    assert finished(organization, stores) == HOURS
    Truth(organization, frozenset({name})).assert_agrees(stores, HOURS)
