"""What is delivered is what the oracle, written from docs/rules.md alone, says: on example days and generated ones."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS, FIRST_HOUR, HOUR_US, event, put, put_bytes
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.deleting import ask_all
from amp_pipeline_tests.laws.driver import Stores, run, run_all, settle
from amp_pipeline_tests.laws.soak import many, quick
from amp_pipeline_tests.laws.strategies import Case, cases
from amp_pipeline_tests.laws.truth import Truth


def test_the_example_days_are_as_the_oracle_says(example_range: Delivered) -> None:
    organization, stores, _ = example_range
    Truth(organization).assert_agrees(stores, EXAMPLE_HOURS)


def generated_days_are_as_the_oracle_says(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        case.land(base, frozenset(case.objects))
        organization = case.organization(base)
        stores = Stores(organization)
        run_all(organization, case.runs[: case.asked_after], stores)
        ask_all(organization, stores, case.suppressed)
        run_all(organization, case.runs[case.asked_after :], stores)
        settle(organization, case.hours, stores)
        Truth(organization, suppressed=case.suppressed).assert_agrees(stores, case.hours)


@settings(quick, max_examples=15)
@given(cases())
def test_generated_days_are_as_the_oracle_says(case: Case) -> None:
    generated_days_are_as_the_oracle_says(case)


@pytest.mark.soak
def test_many_generated_days_are_as_the_oracle_says() -> None:
    many(generated_days_are_as_the_oracle_says, cases())


def assert_first_hours_agree(base: Path, hours: int = 2, **project: Any) -> None:
    organization = builders.organization(base, base / "landing", projects=[project])
    stores = Stores(organization)
    some = [FIRST_HOUR + number for number in range(hours)]
    assert run(organization, some, stores) == {}
    settle(organization, some, stores)
    Truth(organization).assert_agrees(stores, some)


@pytest.mark.parametrize("parts", [{"events": 1}, {"events": 3}, {"bytes": 200}, {"events": 2, "bytes": 150}])
def test_parts_are_cut_where_the_oracle_cuts_them(tmp_path: Path, parts: dict[str, int]) -> None:
    types = ["purchase", "click"]
    lines = [event(number, event_type=types[number % 2], text="x" * (40 * (number % 5))) for number in range(20)]
    put(tmp_path / "landing", "7/7_2024-05-06_0#0.json", *lines)
    assert_first_hours_agree(tmp_path, parts=parts)


def test_a_delivery_may_cut_parts_of_its_own_size(tmp_path: Path) -> None:
    put(tmp_path / "landing", "7/7_2024-05-06_0#0.json", *[event(number) for number in range(7)])
    delivery = builders.all_events(tmp_path / "own", parts={"events": 3})
    assert_first_hours_agree(tmp_path, parts={"events": 2}, deliveries=[delivery])


@pytest.mark.parametrize("number", ["-1", "-10", "007", "12345678901"])
def test_the_number_of_an_object_is_any_integer(tmp_path: Path, number: str) -> None:
    put(tmp_path / "landing", "7/7_2024-05-06_0#0.json", event(5, uuid="same"))
    put(tmp_path / "landing", f"7/7_2024-05-06_0#{number}.json", event(5, uuid="same", city="Bonn"))
    assert_first_hours_agree(tmp_path)


def test_records_made_of_events_stand_in_order_of_arrival(tmp_path: Path) -> None:
    late = event(20, amplitude_id=1, data={"merged_amplitude_id": 2})
    early = event(10, amplitude_id=3, data={"merged_amplitude_id": 2})
    put(tmp_path / "landing", "7/7_2024-05-06_0#0.json", late, early)
    assert_first_hours_agree(tmp_path)


@pytest.mark.parametrize("digits", [20, 4300])
def test_ids_have_up_to_4300_digits(tmp_path: Path, digits: int) -> None:
    loser = b"1" * digits
    line = event()[:-1] + b',"amplitude_id":%s,"data":{"merged_amplitude_id":2}}' % loser
    put(tmp_path / "landing", "7/7_2024-05-06_0#0.json", line, event(1, uuid="a"))
    put(tmp_path / "landing", "-9/-9_2024-05-06_1.json", b'{"amplitude_id":%s,"merged_amplitude_id":2}' % loser)
    assert_first_hours_agree(tmp_path)


def test_zstd_frames_that_are_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    frame = builders.packed(event() + b"\n", "zstd")
    put_bytes(tmp_path / "landing", "7/7_2024-05-06_0#0.json.zst", skippable + frame)
    put_bytes(tmp_path / "landing", "7/7_2024-05-06_0#1.json.zst", frame + skippable + frame)
    assert_first_hours_agree(tmp_path)


def test_strays_of_several_objects_keep_their_place_in_the_order(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    put(landing, "7/7_2024-05-06_0#0.json", event(HOUR_US + 5, uuid="same"), event(0))
    put(landing, "7/7_2024-05-06_1#2.json", event(HOUR_US + 5, uuid="same"), event(HOUR_US + 4, uuid="other"))
    put(landing, "7/7_2024-05-06_1#10.json", event(HOUR_US + 4, uuid="other"), event(1, uuid="back"))
    put(landing, "7/7_2024-05-06_2#0.json", event(HOUR_US + 5, uuid="same", city="Bonn"), event(2, uuid="back"))
    assert_first_hours_agree(tmp_path, hours=3)
