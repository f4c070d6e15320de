"""Hours whose landing is gone or unusable: what is on record stands, others go on, and nothing fails in silence."""

import gzip
import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.config_files import check_together
from amp_pipeline.core import timestamps
from amp_pipeline.core.errors import AmpError, ConfigError, StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations import claim
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put, put_bytes
from amp_pipeline_tests.laws.counting import telling
from amp_pipeline_tests.laws.driver import (
    Failures,
    Stores,
    buckets,
    differing,
    run,
    run_all,
    settle,
    stale,
)

A, B, C, D = (FIRST_HOUR + number for number in range(4))
A0, A1, B0, C0, D0 = object_name(A), object_name(A, 1), object_name(B), object_name(C), object_name(D)
IN_B, IN_C, IN_D = HOUR_US, 2 * HOUR_US, 3 * HOUR_US
TRUNCATED = gzip.compress(b"{}" * 1000, mtime=0)[:12]
SECOND_TRUNCATED = object_name(A, 7, ".json.gz")


class House:
    """An organization over one landing folder; workspace and buckets in memory."""

    def __init__(self, base: Path, *projects: dict[str, Any]) -> None:
        self.base = base
        self.landing = base / "landing"
        self.landing.mkdir(parents=True, exist_ok=True)
        self.organization = builders.organization(base, self.landing, projects=projects or ({},))
        self.stores = Stores(self.organization)

    def put(self, name: str, *lines: bytes) -> None:
        put(self.landing, name, *lines)

    def truncated(self, name: str) -> None:
        put_bytes(self.landing, name, TRUNCATED)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.landing / name).unlink()

    def deliver(self, *hours: Hour) -> None:
        run_all(self.organization, [hours], self.stores)

    def run(self, *hours: Hour) -> Failures:
        return run(self.organization, hours, self.stores, "again")

    def stale(self, *hours: Hour) -> list[Hour]:
        return sorted({one.hour for one in stale(self.organization, hours, self.stores)})

    def buckets(self) -> dict[str, str]:
        return buckets(self.organization, self.stores)

    def project(self, slug: str = "shop7") -> ProjectRun:
        return OrganizationRun(self.organization, self.stores).projects[slug]

    def kept(self, hour: Hour) -> list[bytes]:
        deduped = self.project().deduped
        return [line for block in deduped.open_parts(deduped.dedupe(hour)) for line in block.lines]

    def force(self, hour: Hour, stores: OpenStore | None = None) -> None:
        """Make and deliver an hour again, whether or not anything changed."""
        this = OrganizationRun(self.organization, stores or self.stores)
        for project in this.projects.values():
            project.deduped.dedupe(hour, force=True)
        this.merged.merge(hour, force=True)
        for project in this.projects.values():
            for delivery in project.project.deliveries:
                project.deliver(project.archive(delivery), delivery, hour, BY, force=True)

    def raw_record(self, hour: Hour) -> tuple[ObjectStore, str]:
        workspace = self.project().workspace
        return workspace.store, workspace.path("raw", hour, ".json")


def is_of(hour: Hour, name: str) -> bool:
    """Whether an object of a bucket belongs to ``hour``."""
    return bool(re.search(rf"_{hour.day}_{hour.of_day}[#_.]|/{hour.day}/{hour.of_day:02d}\.json$", name))


def markers(found: dict[str, str], hour: Hour) -> list[str]:
    return [name for name in found if name.endswith("_complete") and is_of(hour, name)]


def failing(failures: Failures) -> list[Hour]:
    return sorted({hour for _, hour in failures})


# An hour on record whose landing can't be used


def a_truncated_object_appears(house: House) -> None:
    house.truncated(SECOND_TRUNCATED)


def an_object_vanishes(house: House) -> None:
    house.remove(A1)


def a_stray_comes_in_after_its_landing_is_gone(house: House) -> None:
    house.remove(A0, A1)
    house.put(D0, event(3, uuid="late"))
    assert house.project().raw.land(D).strays_out == {A.key: 1}


UNUSABLE = [a_truncated_object_appears, an_object_vanishes, a_stray_comes_in_after_its_landing_is_gone]


@pytest.fixture
def repeating(tmp_path: Path) -> House:
    """B repeats two events of A."""
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"))
    house.put(A1, event(2, uuid="b"))
    house.put(B0, event(IN_B, uuid="a"), event(IN_B + 1, uuid="b"), event(IN_B + 2, uuid="c"))
    house.deliver(A, B)
    return house


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_a_recorded_hour_that_cannot_be_used_is_stale_and_fails_and_makes_no_later_hour_stale(
    repeating: House, spoil: Callable[[House], None]
) -> None:
    before = repeating.buckets()
    spoil(repeating)
    assert repeating.stale(A, B) == [A]
    assert repeating.stale(B) == []
    assert failing(repeating.run(A, B)) == [A]
    assert repeating.buckets() == before
    assert repeating.stale(A, B) == [A]


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_repeats_of_a_recorded_hour_that_cannot_be_used_are_dropped_by_later_hours(
    repeating: House, spoil: Callable[[House], None]
) -> None:
    before = repeating.buckets()
    spoil(repeating)
    repeating.force(B)
    assert repeating.buckets() == before
    repeating.put(C0, event(IN_C, uuid="b"), event(IN_C + 1, uuid="d"))
    assert repeating.run(C) == {}
    assert repeating.kept(B) == [event(IN_B + 2, uuid="c")]
    assert repeating.kept(C) == [event(IN_C + 1, uuid="d")]


# Merged ids


def test_merged_ids_of_an_hour_whose_whole_landing_is_gone_stand(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a", amplitude_id=5, data={"merged_amplitude_id": 6}))
    house.put(merged_name(A), merged(1, 2), merged(3, 4))
    house.put(B0, event(IN_B, uuid="b", amplitude_id=5, data={"merged_amplitude_id": 6}))
    house.put(merged_name(B), merged(3, 4), merged(7, 8))
    house.deliver(A, B)
    before = house.buckets()
    house.remove(A0, merged_name(A))
    assert house.stale(A, B) == []
    assert house.run(A, B) == {}
    assert house.buckets() == before
    house.force(B)
    assert house.buckets() == before
    assert house.stale(A, B) == []


def test_one_of_two_merged_id_objects_that_vanished_fails_its_hour_and_is_named(tmp_path: Path) -> None:
    house = House(tmp_path)
    first, second = merged_name(A), merged_name(A, ".json.gz")
    house.put(A0, event(1, uuid="a"))
    house.put(B0, event(IN_B, uuid="b"))
    house.put(first, merged(1, 2))
    put_bytes(house.landing, second, gzip.compress(merged(3, 4) + b"\n", mtime=0))
    house.put(merged_name(B), merged(3, 4))
    house.deliver(A, B)
    before = house.buckets()
    house.remove(second)
    assert house.stale(A, B) == [A]
    failures = house.run(A, B)
    assert failing(failures) == [A]
    assert second in failures["house", A]
    assert house.buckets() == before


def test_made_merges_of_a_project_whose_hour_cannot_be_read_stay_in_the_merged_ids(tmp_path: Path) -> None:
    house = House(tmp_path, {}, {})
    for project, loser in ((7, 1), (8, 3)):
        made = event(1, uuid="a", amplitude_id=loser, data={"merged_amplitude_id": loser + 1})
        house.put(object_name(A, project=project), made)
    house.deliver(A)
    before = house.buckets()
    house.truncated(object_name(A, 1, ".json.gz", project=8))
    assert [slug for slug, _ in house.run(A) if slug != "shop8"] == []
    assert house.buckets() == before
    merges = OrganizationRun(house.organization, house.stores).merged.merge(A, force=True)
    assert (merges.made, merges.rows) == (2, 2)


# A raw record that is lost


def record_deleted(house: House, hour: Hour) -> None:
    store, name = house.raw_record(hour)
    store.delete(name)


def record_of_another_format(house: House, hour: Hour) -> None:
    store, name = house.raw_record(hour)
    store.put(name, json.dumps({**json.loads(store.get(name)), "format": 99}).encode())


LOST = [record_deleted, record_of_another_format]


@pytest.mark.parametrize("lose", LOST)
def test_an_hour_without_raw_record_and_without_landing_is_frozen_and_not_delivered_as_empty(
    tmp_path: Path, lose: Callable[[House, Hour], None]
) -> None:
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"))
    house.put(B0, event(IN_B, uuid="b"))
    house.deliver(A, B)
    before = house.buckets()
    house.remove(A0)
    lose(house, A)
    for _ in range(2):
        failures = house.run(A, B)
        assert failing(failures) == [A]
        assert failures["shop7", A].startswith("FrozenHourError")
        assert house.buckets() == before
    assert house.stale(A, B) == [A]


@pytest.mark.parametrize("lose", LOST)
def test_an_hour_without_raw_record_that_never_had_lines_is_empty(
    tmp_path: Path, lose: Callable[[House, Hour], None]
) -> None:
    house = House(tmp_path)
    house.put(B0, event(IN_B, uuid="b"))
    house.deliver(A, B)
    before = house.buckets()
    lose(house, A)
    assert house.run(A, B) == {}
    assert house.buckets() == before
    assert house.stale(A, B) == []


@pytest.mark.parametrize("lose", LOST)
def test_a_lost_raw_record_is_made_anew_where_the_landing_is_there(
    repeating: House, lose: Callable[[House, Hour], None]
) -> None:
    before = repeating.buckets()
    lose(repeating, A)
    assert repeating.run(A, B) == {}
    assert repeating.buckets() == before
    assert repeating.stale(A, B) == []


@pytest.mark.parametrize("lose", LOST)
def test_hours_after_one_without_raw_record_and_without_landing_do_not_deliver_its_repeats(
    tmp_path: Path, lose: Callable[[House, Hour], None]
) -> None:
    house = House(tmp_path)
    made: dict[str, Any] = {"amplitude_id": 5, "data": {"merged_amplitude_id": 6}}
    house.put(A0, event(1, uuid="a", **made))
    house.put(B0, event(IN_B, uuid="a"), event(IN_B + 1, uuid="b", **made))
    house.deliver(A, B)
    before = house.buckets()
    house.remove(A0)
    lose(house, A)
    house.run(A, B)
    assert differing(house.buckets(), before) == []


@pytest.mark.parametrize("lose", LOST)
def test_an_hour_of_strays_alone_without_raw_record_is_made_anew_where_their_object_is_there(
    tmp_path: Path, lose: Callable[[House, Hour], None]
) -> None:
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"), event(IN_B, uuid="s"))
    house.deliver(A, B)
    before = house.buckets()
    lose(house, B)
    assert house.run(A, B) == {}
    assert house.buckets() == before
    assert house.stale(A, B) == []


# A landing that does not exist


def test_a_landing_folder_that_does_not_exist_is_named_and_nothing_is_delivered(tmp_path: Path) -> None:
    folder = tmp_path / "landing_typo"
    organization = builders.organization(tmp_path, folder)
    folder.rmdir()
    for hour in (A, B):
        with pytest.raises(AmpError, match=re.escape(str(folder))):
            OrganizationRun(organization, open_store).projects["shop7"].raw.land(hour)
    failures = run(organization, [A, B], open_store)
    assert {hour for slug, hour in failures if slug == "shop7"} == {A, B}
    assert list(tmp_path.rglob("*_complete")) == []


# Strays


@pytest.mark.parametrize("then", [[event(3, uuid="s"), event(4, uuid="t")], [event(3, uuid="other")]])
def test_strays_of_a_frozen_hour_that_change_make_it_stale_and_fail_it(tmp_path: Path, then: list[bytes]) -> None:
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"))
    house.put(B0, event(3, uuid="s"), event(IN_B, uuid="b"))
    house.deliver(A, B)
    settle(house.organization, [A, B], house.stores)
    assert house.kept(A) == [event(1, uuid="a"), event(3, uuid="s")]
    before = house.buckets()
    house.remove(A0)
    assert house.stale(A, B) == []
    house.put(B0, *then, event(IN_B, uuid="b"))
    assert A in house.stale(A, B)
    failures = house.run(A, B)
    assert failing(failures) == [A]
    assert failures["shop7", A].startswith("FrozenHourError")
    assert [name for name in differing(before, house.buckets()) if is_of(A, name)] == []
    assert house.stale(A, B) == [A]


def test_strays_of_objects_that_are_outside_of_the_project_now_count_no_longer(tmp_path: Path) -> None:
    hours = [B, C]
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"), event(IN_B + 1, uuid="s"), event(IN_C, uuid="x"))
    house.put(B0, event(IN_B + 2, uuid="s"), event(IN_B + 3, uuid="b"))
    house.put(C0, event(IN_C + 1, uuid="b"), event(IN_C + 2, uuid="c"), event(IN_C + 3, uuid="x"))
    house.deliver(A, *hours)
    settle(house.organization, [A, *hours], house.stores)
    wide = house.buckets()

    later = House(tmp_path, {"first_hour": B.key})
    settle(later.organization, hours, house.stores)
    assert stale(later.organization, hours, house.stores) == []
    later.deliver(*hours)
    found = buckets(later.organization, house.stores)
    assert [name for name in differing(found, later.buckets()) if not is_of(A, name)] == []

    settle(house.organization, [A, *hours], house.stores)
    assert differing(house.buckets(), wide) == []


def test_a_stray_that_landing_the_window_brings_in_is_deduplicated_at_once(tmp_path: Path) -> None:
    house = House(tmp_path)
    stray, own = event(IN_B + 1, uuid="s"), event(IN_B + 3, uuid="x")
    house.put(A0, stray)
    house.put(B0, event(IN_B + 2, uuid="s"), own)
    house.project().raw.land(B)
    this = house.project()
    record = this.deduped.dedupe(B)
    assert [line for block in this.deduped.open_parts(record) for line in block.lines] == [stray, own]
    assert this.deduped.identities_seen_twice(B) == 0
    assert list(house.project().stale_events([B])) == []


def test_a_stray_that_its_own_landing_sends_back_into_the_window_counts_at_once(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(B0, event(1, uuid="s"), event(IN_B, uuid="s"), event(IN_B + 1, uuid="b"))
    this = house.project()
    assert this.deduped.dedupe(B).repeats == 1
    assert this.deduped.identities_seen_twice(B) == 0
    assert list(house.project().stale_events([B])) == []


def test_a_stray_that_a_later_hour_of_the_window_sends_back_into_it_counts_at_once(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(A0, event(1, uuid="a"))
    house.put(B0, event(2, uuid="s"))
    house.put(C0, event(IN_C, uuid="s"), event(IN_C + 1, uuid="c"))
    house.project().raw.land(A)
    this = house.project()
    assert this.deduped.dedupe(C).repeats == 1
    assert this.deduped.identities_seen_twice(C) == 0
    assert list(house.project().stale_events([C])) == []


# A commit that is killed


class Killed(BaseException):
    """The process ends here."""


def killing(stores: OpenStore, before_write: int) -> OpenStore:
    """Stores that end the process before one of their writes, counted from 1."""
    writes = count(1)

    def tell(method: str, uri: str) -> None:
        if method in ("put", "delete") and next(writes) == before_write:
            raise Killed

    return telling(stores, tell)


def test_a_forced_run_that_is_killed_leaves_a_stale_hour_and_the_next_run_restores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This process stands for the one that was killed, and for the next.
    monkeypatch.setattr(claim, "is_gone", lambda *_: True)
    bucket = [builders.all_events(tmp_path / "bucket")]
    house = House(tmp_path, {"deliveries": bucket})
    house.put(A0, event(1, uuid="a"))
    house.put(merged_name(A), merged(1, 2))
    house.deliver(A)
    before, whole = house.buckets(), house.stores
    unmarked = 0
    for at in count(1):
        house.stores = whole.copy()
        try:
            house.force(A, killing(house.stores, at))
        except Killed:
            pass
        else:
            break
        left = house.buckets()
        if left != before:
            unmarked += not markers(left, A)
            assert house.stale(A) == [A], f"killed before write {at}"
        assert house.run(A) == {}
        assert differing(house.buckets(), before) == [], f"killed before write {at}"
        assert house.stale(A) == []
    assert unmarked > 0


# A store that refuses


def refusing(stores: OpenStore, name: str) -> OpenStore:
    """Stores that can't read one object."""

    def tell(method: str, uri: str) -> None:
        if method in ("chunks", "get") and uri.endswith("/" + name):
            raise StoreError(f"{uri} can't be read: no permission")

    return telling(stores, tell)


@pytest.mark.parametrize("name", [B0, merged_name(B)])
@pytest.mark.parametrize("delivered_before", [False, True])
def test_an_object_that_cannot_be_read_fails_its_own_hour_only(
    tmp_path: Path, name: str, delivered_before: bool
) -> None:
    house = three_hours(tmp_path, delivered_before)
    house.put(name, *(merged(7, 8) if name.startswith("-") else event(IN_B + 9, uuid="n"),) * 2)
    assert_only_b_fails(house, refusing(house.stores, name), delivered_before)


@pytest.mark.parametrize("delivered_before", [False, True])
def test_a_damaged_merged_id_object_fails_its_own_hour_only(tmp_path: Path, delivered_before: bool) -> None:
    house = three_hours(tmp_path, delivered_before)
    house.truncated(merged_name(B, ".json.gz"))
    assert_only_b_fails(house, house.stores, delivered_before)


def three_hours(base: Path, delivered_before: bool) -> House:
    house = House(base)
    for number, hour in enumerate((A, B, C)):
        house.put(object_name(hour), event(number * HOUR_US, uuid=str(number)))
        house.put(merged_name(hour), merged(number, 100 + number))
    if delivered_before:
        house.deliver(A, B, C)
    return house


def assert_only_b_fails(house: House, stores: OpenStore, delivered_before: bool) -> None:
    hours = [A, B, C]
    before = house.buckets()
    assert B in {one.hour for one in stale(house.organization, hours, stores)}
    failures = run(house.organization, hours, stores)
    assert failing(failures) == [B]
    after = house.buckets()
    assert markers(after, A)
    assert markers(after, C)
    if delivered_before:
        assert differing(before, after) == []
    assert {one.hour for one in stale(house.organization, hours, stores)} == {B}


# Many repeats


def test_twenty_thousand_repeats_in_an_hour_are_not_parsed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    time = builders.written_time(0)
    house.put(A0, *(b'{"server_upload_time":"%b","uuid":"u","n":%d}' % (time.encode(), n) for n in range(20_001)))
    this = house.project()
    parse, calls = timestamps.parse, count()

    def counted(*given: Any, **named: Any) -> Any:
        next(calls)
        return parse(*given, **named)

    monkeypatch.setattr(timestamps, "parse", counted)
    assert this.deduped.dedupe(A).repeats == 20_000
    assert next(calls) < 1000


# Organizations side by side


def other_organization(base: Path, **changes: str) -> Organization:
    places = {name: str(base / "other" / name) for name in ("workspace", "landing", "bucket")} | changes
    return Organization.model_validate(
        {
            "id": 4,
            "slug": "other",
            "workspace": places["workspace"],
            "projects": [
                {
                    "id": 20,
                    "slug": "blog",
                    "first_hour": FIRST_HOUR.key,
                    "source": {"url": places["landing"]},
                    "deliveries": [{"name": "all", "url": places["bucket"]}],
                }
            ],
        }
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("place", ["landing", "landing/below", "workspace", "workspace/9"])
def test_a_bucket_that_overlaps_with_another_organizations_landing_or_workspace_is_refused(
    tmp_path: Path, place: str, turned: bool
) -> None:
    house = builders.organization(tmp_path, tmp_path / "landing")
    bucket = str(tmp_path / place) if place.startswith("landing") else builders.place(tmp_path / place)
    together = [house, other_organization(tmp_path, bucket=bucket)]
    with pytest.raises(ConfigError, match="house") as refused:
        check_together(together[::-1] if turned else together)
    assert bucket in str(refused.value)


def test_organizations_may_share_a_landing(tmp_path: Path) -> None:
    house = builders.organization(tmp_path, tmp_path / "landing")
    check_together([house, other_organization(tmp_path, landing=str(tmp_path / "landing"))])
