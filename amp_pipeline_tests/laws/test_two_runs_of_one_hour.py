"""Law 5 where two runs write the same hour: one wins whole, the other says so, and readers are never lied to."""

from itertools import count
from pathlib import Path

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.run import OpenStore
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, event, merged, put
from amp_pipeline_tests.laws.counting import telling
from amp_pipeline_tests.laws.driver import Failures, Stores, buckets, differing, run, settle
from amp_pipeline_tests.laws.test_killed import assert_readers_are_not_lied_to
from amp_pipeline_tests.laws.truth import Truth

FIRST, SECOND, MERGES = "7/7_2024-05-06_0#0.json", "7/7_2024-05-06_0#1.json", "-9/-9_2024-05-06_0.json"
BEING_WRITTEN = "is being written by run"


def land(landing: Path) -> None:
    put(landing, FIRST, event(1, uuid="a", event_type="purchase"), event(2, uuid="b"))


def land_more(landing: Path) -> None:
    put(landing, SECOND, event(3, uuid="c", event_type="purchase"), event(4, uuid="d"), b"not JSON")
    put(landing, MERGES, merged(3, 4))


@pytest.mark.parametrize("delivered_before", [False, True])
def test_a_second_run_with_more_data_comes_between_any_two_steps_of_the_first(
    tmp_path: Path, delivered_before: bool
) -> None:
    refused = 0
    for at in count(1):
        base = tmp_path / str(at)
        organization = builders.organization(base, base / "landing")
        stores = Stores(organization)
        if delivered_before:
            put(base / "landing", FIRST, event(1, uuid="a"))
            assert run(organization, [FIRST_HOUR], stores, "before") == {}
        land(base / "landing")
        second, came_between = first_and_second(organization, stores, base / "landing", at)
        assert_readers_are_not_lied_to(organization, stores)
        assert all(BEING_WRITTEN in what for what in second.values()), f"between, at call {at}"
        refused += bool(second)
        settle(organization, [FIRST_HOUR], stores)
        assert_readers_are_not_lied_to(organization, stores)
        if came_between:
            Truth(organization).assert_agrees(stores, [FIRST_HOUR])
            assert [name for name in buckets(organization, stores) if name.endswith(".claim")] == []
        else:
            break
    assert refused > 5


def first_and_second(organization: Organization, stores: OpenStore, landing: Path, at: int) -> tuple[Failures, bool]:
    """Run the hour; at a call to a bucket let more land, and a second run go from beginning to end."""
    calls = count(1)
    second: list[Failures] = []

    def tell(method: str, uri: str) -> None:
        if "/workspace" not in uri and "/landing" not in uri and not second and next(calls) == at:
            land_more(landing)
            second.append({})
            second[0] |= run(organization, [FIRST_HOUR], stores, "second")
            assert_readers_are_not_lied_to(organization, stores)

    first = run(organization, [FIRST_HOUR], telling(stores, tell), "first")
    # Its reads of the landing were before more landed; nothing else may fail.
    assert {what for what in first.values() if "landing" not in what and BEING_WRITTEN not in what} == set()
    return (second or [{}])[0], bool(second)


def test_two_runs_of_the_same_hour_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    organization = builders.organization(tmp_path, tmp_path / "landing")
    land(tmp_path / "landing")
    land_more(tmp_path / "landing")
    alone, both = Stores(organization), Stores(organization)
    assert run(organization, [FIRST_HOUR], alone) == {}
    first_and_second(organization, both, tmp_path / "landing", 12)
    settle(organization, [FIRST_HOUR], both)
    assert differing(buckets(organization, alone), buckets(organization, both)) == []
