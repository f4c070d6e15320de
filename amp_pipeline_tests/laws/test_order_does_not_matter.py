"""Laws 3 and 4: in whatever order, however often, beside whatever else hours run, every object gets the same bytes.

And once it has them, nothing is written any more.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.store import DeliveryStore
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS, EXAMPLE_LANDING, FIRST_HOUR, HOUR_US, event, merged, put
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.counting import telling
from amp_pipeline_tests.laws.driver import (
    Stores,
    buckets,
    differing,
    in_chunks,
    run,
    run_all,
    settle,
    stale,
)
from amp_pipeline_tests.laws.soak import many, new_seed, quick, say
from amp_pipeline_tests.laws.strategies import Case, cases
from amp_pipeline_tests.laws.truth import Truth

LATE_FILE = "187520/187520_2024-05-09_3#1.json"
TOUCHED_BY_LATE_FILE = {
    "2024-05-07-04:00": "what landed in it changed, or its settings did",
    "2024-05-07-12:00": "what landed in it changed, or its settings did",
    "2024-05-07-15:00": "late data in hour 2024-05-07-12:00",
}
"""Eight strays of 4 h and 12 h; one is the first of a pair whose second stands in 15 h (examples/shop/README.md)."""


def assert_same(delivered: Delivered, organization: Organization, stores: OpenStore) -> None:
    assert differing(buckets(organization, stores), delivered.buckets) == []


def shuffled(number: int) -> list[Hour]:
    return random.Random(number).sample(EXAMPLE_HOURS, len(EXAMPLE_HOURS))


def only_reason(again: dict[Hour, list[str]]) -> dict[str, str]:
    """Each hour that ran again, and why; every hour ran again only once."""
    assert all(len(reasons) == 1 for reasons in again.values()), again
    return {hour.key: reasons[0] for hour, reasons in again.items()}


@pytest.mark.soak
def test_forwards_hour_by_hour_only_the_hours_that_the_late_file_touches_run_again(
    tmp_path: Path, example_range: Delivered
) -> None:
    organization = builders.example(tmp_path)
    stores = Stores(organization)
    run_all(organization, in_chunks(EXAMPLE_HOURS, 1), stores)
    assert only_reason(settle(organization, EXAMPLE_HOURS, stores)) == TOUCHED_BY_LATE_FILE
    assert_same(example_range, organization, stores)


@pytest.mark.soak
def test_backwards_day_by_day_no_hour_runs_again(tmp_path: Path, example_range: Delivered) -> None:
    # Whoever comes first to an hour of the week before indexes it, so a later hour already knows what it needs to know.
    organization = builders.example(tmp_path)
    stores = Stores(organization)
    run_all(organization, in_chunks(EXAMPLE_HOURS[::-1], 24), stores)
    assert settle(organization, EXAMPLE_HOURS, stores) == {}
    assert_same(example_range, organization, stores)


def test_shuffled_in_runs_of_24_hours(tmp_path: Path, example_range: Delivered) -> None:
    organization = builders.example(tmp_path)
    stores = Stores(organization)
    run_all(organization, in_chunks(shuffled(1), 24), stores)
    assert set(only_reason(settle(organization, EXAMPLE_HOURS, stores))) <= TOUCHED_BY_LATE_FILE.keys()
    assert_same(example_range, organization, stores)


@pytest.mark.soak
def test_backwards_hour_by_hour(tmp_path: Path, example_range: Delivered) -> None:
    organization = builders.example(tmp_path)
    stores = Stores(organization)
    run_all(organization, in_chunks(EXAMPLE_HOURS[::-1], 1), stores)
    assert settle(organization, EXAMPLE_HOURS, stores) == {}
    assert_same(example_range, organization, stores)


@pytest.mark.soak
def test_shuffled_in_many_ways(tmp_path: Path, example_range: Delivered) -> None:
    first = new_seed()
    say(f"20 orders, LAWS_SEED={first}")
    for number in range(first, first + 20):
        size = random.Random(number).choice([1, 7, 24, 100])
        organization = builders.example(tmp_path / str(number))
        stores = Stores(organization)
        run_all(organization, in_chunks(shuffled(number), size), stores)
        assert settle(organization, EXAMPLE_HOURS, stores).keys() <= {Hour.parse(key) for key in TOUCHED_BY_LATE_FILE}
        assert_same(example_range, organization, stores)


FOUR_DAYS = EXAMPLE_HOURS[: 4 * 24]
"""With the late file and all hours that it touches."""


STALE_AS_ANOTHER_PROCESS_SEES_IT = """
import sys
from pathlib import Path
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.laws.driver import stale
base = Path(sys.argv[1])
organization = builders.organization(base, base / "landing")
sys.stdout.write(str(stale(organization, [builders.FIRST_HOUR], open_store)))
"""


@pytest.mark.parametrize("hash_seed", ["0", "2"])
def test_another_process_finds_nothing_stale(tmp_path: Path, hash_seed: str) -> None:
    """Python orders sets anew in every process."""
    put(tmp_path / "landing", builders.object_name(FIRST_HOUR), event(1, uuid="a"))
    organization = builders.organization(tmp_path, tmp_path / "landing")
    assert run(organization, [FIRST_HOUR], open_store) == {}
    found = subprocess.run(
        [sys.executable, "-c", STALE_AS_ANOTHER_PROCESS_SEES_IT, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "[]"


def run_in_folders(base: Path, hours: list[Hour]) -> dict[tuple[str, Hour], str]:
    return run(builders.example(base), hours, open_store)


def test_two_processes_beside_each_other(tmp_path: Path, example_range: Delivered) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        halves = [FOUR_DAYS[0::2], FOUR_DAYS[1::2]]
        assert list(pool.map(run_in_folders, [tmp_path] * 2, halves)) == [{}, {}]
    assert_folders_settle(tmp_path, example_range)


@pytest.mark.parametrize("threads", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_threads_beside_each_other(tmp_path: Path, example_range: Delivered, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        shares = [FOUR_DAYS[number::threads] for number in range(threads)]
        assert list(pool.map(run_in_folders, [tmp_path] * threads, shares)) == [{}] * threads
    assert_folders_settle(tmp_path, example_range)


def assert_folders_settle(base: Path, example_range: Delivered) -> None:
    organization = builders.example(base)
    again = settle(organization, FOUR_DAYS, open_store)
    assert {hour.key: why for hour, why in again.items() if hour.key not in TOUCHED_BY_LATE_FILE} == {}
    days = {hour.day for hour in FOUR_DAYS}
    expected = {name: digest for name, digest in example_range.buckets.items() if any(day in name for day in days)}
    found = buckets(organization, open_store)
    assert differing({name: found[name] for name in found if "owner.json" not in name}, expected) == []
    assert [path for folder in base.rglob(".incoming") for path in folder.iterdir()] == []


def writes_of(organization: Organization, stores: OpenStore, work: Callable[[OpenStore], Any]) -> list[str]:
    """What ``work`` puts and deletes."""
    told: list[str] = []

    def tell(method: str, uri: str) -> None:
        if method in ("put", "delete"):
            told.append(f"{method} {uri}")

    work(telling(stores, tell))
    return told


def test_running_again_writes_nothing(example_range: Delivered) -> None:
    organization, stores, _ = example_range
    assert writes_of(organization, stores, lambda told: run(organization, EXAMPLE_HOURS, told)) == []
    assert writes_of(organization, stores, lambda told: stale(organization, EXAMPLE_HOURS, told)) == []


def test_a_forced_run_writes_the_same_bytes(example_range: Delivered) -> None:
    organization, stores = example_range.organization, example_range.stores.copy()
    this = OrganizationRun(organization, stores)
    project = this.projects["shop"]
    hours = EXAMPLE_HOURS[8:20]
    for hour in hours:
        project.raw.land(hour, force=True)
        project.deduped.dedupe(hour, force=True)
        this.merged.merge(hour, force=True)
        for delivery in project.project.deliveries:
            receipt = project.deliver(project.archive(delivery), delivery, hour, builders.BY, force=True)
            assert receipt.why == "forced"
    assert settle(organization, EXAMPLE_HOURS, stores) == {}
    assert_same(example_range, organization, stores)


def log_of(organization: Organization, stores: OpenStore, delivery: str) -> dict[str, list[str]]:
    """Why each hour was delivered, oldest first."""
    project = organization.projects[0]
    store = DeliveryStore(stores(organization.workspace), organization.id, project.id, delivery)
    return {hour.key: [entry.why for entry in store.log(hour)] for hour in EXAMPLE_HOURS}


@pytest.mark.soak
def test_a_late_file_changes_the_touched_hours_and_no_other(tmp_path: Path, example_range: Delivered) -> None:
    landing = tmp_path / "landing"
    shutil.copytree(EXAMPLE_LANDING, landing)
    late = (landing / LATE_FILE).read_bytes()
    (landing / LATE_FILE).unlink()
    organization = builders.example(tmp_path, landing)
    stores = Stores(organization)
    assert run(organization, EXAMPLE_HOURS, stores) == {}
    assert settle(organization, EXAMPLE_HOURS, stores) == {}
    before = buckets(organization, stores)

    builders.put_bytes(landing, LATE_FILE, late)
    again = settle(organization, EXAMPLE_HOURS, stores)
    # The late file's own hour has nothing but strays: it may be looked at again, but stays as it is.
    reasons = only_reason(again)
    reasons.pop("2024-05-09-03:00", None)
    assert reasons == TOUCHED_BY_LATE_FILE
    assert_same(example_range, organization, stores)
    for delivery in ("all", "purchases"):
        log = log_of(organization, stores, delivery)
        assert {key for key, why in log.items() if len(why) > 1} <= TOUCHED_BY_LATE_FILE.keys()
    assert [log_of(organization, stores, "all")[key] for key in TOUCHED_BY_LATE_FILE] == [["first", "late data"]] * 3
    changed = differing(before, buckets(organization, stores))
    assert {name for name in changed if "_amp_pipeline" not in name} == {
        "shop/all/187520/187520_2024-05-07_4#0.json.gz",
        "shop/all/187520/187520_2024-05-07_12#0.json.gz",
        "shop/all/187520/187520_2024-05-07_15#0.json.gz",
    } | {name for name in changed if "purchases/187520" in name}


# Landings that change. A and B are hours; "before" is delivered and settled, then the landing becomes "after".

A, B = FIRST_HOUR, FIRST_HOUR + 1
A0, A1, B0 = "7/7_2024-05-06_0#0.json", "7/7_2024-05-06_0#1.json", "7/7_2024-05-06_1#0.json"
MERGED_A = "-9/-9_2024-05-06_0.json"
IN_B = HOUR_US
Objects = dict[str, list[bytes]]


def merging(us: int, **fields: Any) -> bytes:
    return event(us, amplitude_id=1, data={"merged_amplitude_id": 2}, **fields)


CHANGES: dict[str, tuple[Objects, Objects, list[Hour]]] = {
    "a second part with an event that a later one repeats": (
        {A0: [event(1, uuid="a")], B0: [event(IN_B, uuid="b"), event(IN_B, uuid="c")]},
        {A0: [event(1, uuid="a")], A1: [event(2, uuid="b")], B0: [event(IN_B, uuid="b"), event(IN_B, uuid="c")]},
        [A, B],
    ),
    "a second part with nothing that any other hour has": (
        {A0: [event(1, uuid="a")], B0: [event(IN_B, uuid="b")]},
        {A0: [event(1, uuid="a")], A1: [event(2, uuid="z")], B0: [event(IN_B, uuid="b")]},
        [A],
    ),
    "a second part with an event without identity": (
        {A0: [event(1, uuid="a")]},
        {A0: [event(1, uuid="a")], A1: [event(2)]},
        [A],
    ),
    "a second part of an hour that had none, without identity": (
        {B0: [event(IN_B)]},
        {A0: [event(1)], B0: [event(IN_B)]},
        [A],
    ),
    "a second part with a line for the quarantine": (
        {A0: [event(1, uuid="a")]},
        {A0: [event(1, uuid="a")], A1: [b"not JSON"]},
        [A],
    ),
    "an object replaced by one with another uuid, which is no part of the identity": (
        {A0: [event(1, device_id="d", **{"$insert_id": "i"}, uuid="old")]},
        {A0: [event(1, device_id="d", **{"$insert_id": "i"}, uuid="new")]},
        [A],
    ),
    "an object replaced by one whose keys stand in another order": (
        {A0: [b'{"uuid":"a","server_upload_time":"2024-05-06 00:00:00"}']},
        {A0: [b'{"server_upload_time":"2024-05-06 00:00:00","uuid":"a"}']},
        [A],
    ),
    "an object replaced by one whose lines stand in another order": (
        {A0: [event(1, uuid="a"), event(2, uuid="b")]},
        {A0: [event(2, uuid="b"), event(1, uuid="a")]},
        [A],
    ),
    "an object replaced by one that a later hour no longer repeats": (
        {A0: [event(1, uuid="a")], B0: [event(IN_B, uuid="a")]},
        {A0: [event(1, uuid="x")], B0: [event(IN_B, uuid="a")]},
        [A, B],
    ),
    "an object replaced by one that says something else, so that the repeat is a conflict": (
        {A0: [event(1, uuid="a", city="Bonn")], B0: [event(IN_B, uuid="a", city="Bonn")]},
        {A0: [event(1, uuid="a", city="Rome")], B0: [event(IN_B, uuid="a", city="Bonn")]},
        [A, B],
    ),
    "an object replaced by one whose strays go elsewhere": (
        {A0: [event(1, uuid="a"), event(IN_B, uuid="s")], B0: [event(IN_B + 5, uuid="s")]},
        {A0: [event(1, uuid="a"), event(2 * IN_B, uuid="s")], B0: [event(IN_B + 5, uuid="s")]},
        [A, B, FIRST_HOUR + 2],
    ),
    "strays without identity": (
        {A0: [event(1, uuid="a")], B0: [event(IN_B, uuid="b")]},
        {A0: [event(1, uuid="a")], A1: [event(IN_B)], B0: [event(IN_B, uuid="b")]},
        [A, B],
    ),
    "fewer lines, so fewer parts": (
        {A0: [event(number) for number in range(7)]},
        {A0: [event(number) for number in range(2)]},
        [A],
    ),
    "a merged-id file that comes late": (
        {A0: [event(1, uuid="a")], B0: [merging(IN_B)]},
        {A0: [event(1, uuid="a")], B0: [merging(IN_B)], MERGED_A: [merged(1, 2)]},
        [A, B],
    ),
    "a merging event whose pair landed already": (
        {A0: [event(1, uuid="a")], MERGED_A: [merged(1, 2)]},
        {A0: [event(1, uuid="a")], A1: [merging(2)], MERGED_A: [merged(1, 2)]},
        [A],
    ),
    "a merged-id file with nothing but lines for the quarantine": (
        {A0: [event(1)]},
        {A0: [event(1)], MERGED_A: [b"not JSON"]},
        [A],
    ),
    "a landed pair that landed already": (
        {A0: [event(1)], MERGED_A: [merged(1, 2)]},
        {A0: [event(1)], MERGED_A: [merged(1, 2), merged(1, 2)]},
        [A],
    ),
}


def land(landing: Path, objects: Objects) -> None:
    for path in landing.rglob("*.json"):
        if str(path.relative_to(landing)) not in objects:
            path.unlink()
    for name, lines in objects.items():
        put(landing, name, *lines)


def made_of(organization: Organization, hours: list[Hour]) -> dict[str, str]:
    """What the buckets hold when everything is there from the start."""
    stores = Stores(organization)
    assert run(organization, hours, stores) == {}
    assert settle(organization, hours, stores) == {}
    return buckets(organization, stores)


@pytest.mark.parametrize("what", CHANGES)
def test_a_landing_that_changes_ends_as_if_it_had_been_so_from_the_start(tmp_path: Path, what: str) -> None:
    before, after, _ = CHANGES[what]
    hours = [FIRST_HOUR + number for number in range(3)]
    organization = builders.organization(tmp_path, tmp_path / "landing", projects=[{"parts": {"events": 3}}])
    stores = Stores(organization)
    land(tmp_path / "landing", before)
    run_all(organization, [hours], stores)
    land(tmp_path / "landing", after)
    settle(organization, hours, stores)
    Truth(organization).assert_agrees(stores, hours)
    assert differing(buckets(organization, stores), made_of(organization, hours)) == []


@pytest.mark.parametrize("what", CHANGES)
def test_only_touched_hours_run_again(tmp_path: Path, what: str) -> None:
    before, after, touched = CHANGES[what]
    hours = [FIRST_HOUR + number for number in range(5)]
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    land(tmp_path / "landing", before)
    run_all(organization, [hours], stores)
    land(tmp_path / "landing", after)
    assert sorted(settle(organization, hours, stores)) == touched


def test_a_part_that_had_strays_and_is_gone_for_good_takes_them_with_it(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    hours = [A, B]
    organization = builders.organization(tmp_path, landing)
    stores = Stores(organization)
    own = {A0: [event(1, uuid="a")], B0: [event(IN_B + 5, uuid="s"), event(IN_B + 6, uuid="b")]}
    land(landing, {**own, A1: [event(IN_B, uuid="s"), event(2, uuid="c")]})
    run_all(organization, [hours], stores)
    land(landing, own)
    assert all("has vanished" in one.why for one in stale(organization, [A], stores))

    workspace = OrganizationRun(organization, stores).projects["shop7"].workspace
    workspace.store.put(workspace.acceptance(A1, ""), b"{}")
    assert sorted(settle(organization, hours, stores)) == hours
    Truth(organization).assert_agrees(stores, hours)
    assert differing(buckets(organization, stores), made_of(organization, hours)) == []


def test_hours_whose_landing_is_gone_stay_as_they_are(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    hours = [A, B]
    organization = builders.organization(tmp_path, landing)
    stores = Stores(organization)
    land(landing, {A0: [event(1, uuid="a")], B0: [event(IN_B, uuid="a"), event(IN_B, uuid="b")]})
    run_all(organization, [hours], stores)
    before = buckets(organization, stores)
    land(landing, {})
    assert stale(organization, hours, stores) == []
    assert writes_of(organization, stores, lambda told: run(organization, hours, told)) == []
    assert buckets(organization, stores) == before


def test_late_data_for_an_hour_whose_landing_is_gone_is_refused(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    hours = [A, B]
    organization = builders.organization(tmp_path, landing)
    stores = Stores(organization)
    land(landing, {B0: [event(IN_B, uuid="a")]})
    run_all(organization, [hours], stores)
    before = buckets(organization, stores)
    land(landing, {A0: [event(1, uuid="a")]})
    failures = run(organization, hours, stores)
    assert {key: message.split(":")[0] for key, message in failures.items()} == {("shop7", B): "FrozenHourError"}
    after = buckets(organization, stores)
    assert [name for name in differing(before, after) if "05-06_1" in name or "01.json" in name] == []


@pytest.mark.parametrize("setting", ["first_hour", "last_hour"])
def test_bounds_of_a_project_may_be_set_anew(tmp_path: Path, setting: str) -> None:
    """Lines that were outside of the project become events, or the other way round."""
    narrow = {setting: {"first_hour": B.key, "last_hour": B.key}[setting]}
    lines = [event(1, uuid="a"), event(IN_B, uuid="b"), event(2 * IN_B, uuid="c"), event(IN_B + 1)]
    put(tmp_path / "landing", B0, *lines)
    hours = [FIRST_HOUR + number for number in range(3)]
    for name, steps in {"wider": [narrow, {}], "narrower": [{}, narrow]}.items():
        base = tmp_path / name
        organizations = [builders.organization(base, tmp_path / "landing", projects=[step]) for step in steps]
        stores = Stores(organizations[0])
        for organization in organizations:
            run(organization, hours, stores)
            settle(organization, hours, stores)
            held = [hour for hour in hours if organization.projects[0].holds(hour)]
            Truth(organization).assert_agrees(stores, held)


def late_objects_end_as_if_they_had_been_there_from_the_start(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        organization = case.organization(base)
        stores = Stores(organization)
        case.land(base, frozenset(case.objects) - case.late)
        run_all(organization, case.runs, stores)
        case.land(base, case.late)
        settle(organization, case.hours, stores)
        Truth(organization).assert_agrees(stores, case.hours)
        from_the_start = Stores(organization)
        run_all(organization, [case.hours], from_the_start)
        settle(organization, case.hours, from_the_start)
        assert differing(buckets(organization, stores), buckets(organization, from_the_start)) == []


@settings(quick, max_examples=12)
@given(cases())
def test_late_objects_end_as_if_they_had_been_there_from_the_start(case: Case) -> None:
    late_objects_end_as_if_they_had_been_there_from_the_start(case)


@pytest.mark.soak
def test_many_late_objects_end_as_if_they_had_been_there_from_the_start() -> None:
    many(late_objects_end_as_if_they_had_been_there_from_the_start, cases())
