"""The laws hold on the way of large hours too: worker processes, threads, keys in shares on disk, tiny blocks."""

import gzip
import importlib
import json
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
from hypothesis import given, settings

from amp_pipeline.config import Organization
from amp_pipeline.core import codec, columns
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations import plan
from amp_pipeline.sources import landing
from amp_pipeline.stages import deduped_events, raw_events
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.driver import Stores, buckets, differing, in_chunks, run, run_all, settle
from amp_pipeline_tests.laws.soak import many, new_seed, quick, say
from amp_pipeline_tests.laws.strategies import Case, cases
from amp_pipeline_tests.laws.truth import Truth

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def as_if_large(keys: int = 5, block_bytes: int = 700) -> Iterator[None]:
    """Take every hour for a large one, and memory for so small that few keys fit."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(raw_events, "LARGE_BYTES", 1))
        stack.enter_context(patch.object(deduped_events, "LARGE_BYTES", 0))
        for module in (plan, landing):
            stack.enter_context(patch.object(module, "_LARGE_BYTES", 0))
        stack.enter_context(patch.object(codec, "BLOCK_BYTES", block_bytes))
        stack.enter_context(patch.object(columns, "PIECE_BYTES", 300))
        stack.enter_context(patch.object(Organization, "most_keys", PropertyMock(return_value=keys)))
        yield


def everything(stores: Stores, organization: Organization) -> dict[str, bytes]:
    """All objects of workspace and buckets; the delivery log says when, which is not compared."""
    urls = {organization.workspace, *(d.url for project in organization.projects for d in project.deliveries)}
    return {
        f"{url}/{info.name}": stores(url).get(info.name)
        for url in urls
        for info in stores(url).find("")
        if "/log/" not in info.name
    }


@pytest.mark.soak
def test_every_object_has_the_same_bytes_on_either_way(example_range: Delivered) -> None:
    organization, expected, _ = example_range
    stores = Stores(organization)
    with as_if_large():
        assert run(organization, EXAMPLE_HOURS, stores) == {}
    found, wanted = everything(stores, organization), everything(expected, organization)
    assert sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)) == []


@pytest.mark.soak
def test_the_order_of_runs_does_not_matter(example_range: Delivered) -> None:
    organization, _, expected = example_range
    stores = Stores(organization)
    chunks = in_chunks(EXAMPLE_HOURS, 54)
    random.Random(2).shuffle(chunks)
    with as_if_large(keys=40):
        run_all(organization, chunks, stores)
        settle(organization, EXAMPLE_HOURS, stores)
    assert differing(buckets(organization, stores), expected) == []


def generated_days_are_as_the_oracle_says(case: Case, base: Path) -> None:
    case.land(base, frozenset(case.objects))
    organization = case.organization(base)
    stores = Stores(organization)
    with as_if_large():
        run_all(organization, case.runs, stores)
        settle(organization, case.hours, stores)
        Truth(organization).assert_agrees(stores, case.hours)


def test_generated_days_are_as_the_oracle_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(quick, max_examples=3)
    @given(cases())
    def check(case: Case) -> None:
        generated_days_are_as_the_oracle_says(case, tmp_path_factory.mktemp("case"))

    check()


@pytest.mark.soak
def test_many_generated_days_are_as_the_oracle_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    many(lambda case: generated_days_are_as_the_oracle_says(case, tmp_path_factory.mktemp("case")), cases())


@pytest.mark.soak
def test_a_really_large_hour_is_as_a_plain_loop_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    events = importlib.import_module("events")
    seed = new_seed() % 1000
    hour = events.Hour(events=150_000, seed=seed)
    say(f"150,000 events, seed {seed}")
    events.write(hour, tmp_path / "landing")
    landed = sorted((tmp_path / "landing").rglob("*.gz"), key=lambda file: int(file.name.split("#")[1].split(".")[0]))
    assert sum(file.stat().st_size for file in landed) > raw_events.LARGE_BYTES
    project = {"id": hour.project, "first_hour": hour.key, "last_hour": hour.key}
    organization = builders.organization(tmp_path, tmp_path / "landing", projects=[project])
    ways: list[dict[str, bytes]] = []
    for keys, large in ((50_000, raw_events.LARGE_BYTES), (1_000_000, sys.maxsize)):
        stores = Stores(organization)
        with (
            patch.object(Organization, "most_keys", PropertyMock(return_value=keys)),
            patch.object(raw_events, "LARGE_BYTES", large),
        ):
            assert run(organization, [Hour.parse(hour.key)], stores) == {}
        ways.append(everything(stores, organization))
    assert ways[0] == ways[1]
    parts = sorted(name for name in ways[0] if "#" in name)
    delivered = [line for name in parts for line in gzip.decompress(ways[0][name]).splitlines()]
    expected = kept_of(line for file in landed for line in gzip.decompress(file.read_bytes()).splitlines())
    # Compared as a whole: pytest would take minutes to tell the difference of such lists.
    same = delivered == expected
    assert same, (len(delivered), len(expected), sum(a != b for a, b in zip(delivered, expected, strict=False)))


def kept_of(lines: Iterable[bytes]) -> list[bytes]:
    """The lines that are first of their identity, in their order; all of one hour."""
    found = [(line, json.loads(line)) for line in lines]
    first: dict[Any, tuple[str, int]] = {}
    for number, (_, event) in enumerate(found):
        place = (event["server_upload_time"], number)
        first[identity_of(event)] = min(place, first.get(identity_of(event), place))
    firsts = {number for _, number in first.values()}
    return [line for number, (line, _) in enumerate(found) if number in firsts]


def identity_of(event: dict[str, Any]) -> Any:
    if event["device_id"] and event["$insert_id"]:
        return event["device_id"], event["$insert_id"]
    if event["device_id"] and event["event_id"] is not None and event["client_event_time"] is not None:
        return event["device_id"], event["event_id"], event["client_event_time"]
    return event["uuid"]
