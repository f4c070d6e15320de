"""Which hours are asked for, when, and when again."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.errors import StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.ticks import Cursor
from amp_pipeline.reconciliation import recent_hours, reconcile
from amp_pipeline.run import OrganizationRun
from amp_pipeline.workspace.ledger import Day, Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.laws.driver import Stores, buckets, run_all
from amp_pipeline_tests.simulation import Run, Simulation

ZERO, ONE, TWO = FIRST_HOUR, FIRST_HOUR + 1, FIRST_HOUR + 2
MINUTE = timedelta(minutes=1)


def click(us: int, device: str = "a", insert_id: str = "", **fields: Any) -> bytes:
    return event(us, device_id=device, **{"$insert_id": insert_id or f"{device}{us}"}, **fields)


class Trial(Simulation):
    """A project that lands in a folder; the clock stands at the end of its third hour."""

    def __init__(self, base: Path, *projects: dict[str, Any], markers: bool = False) -> None:
        self.landing = base / "landing"
        self.base = base
        source = {"url": str(self.landing), "complete": None, "grace": "30m"}
        source = {"url": str(self.landing)} if markers else source
        given = [{"source": source, **one} for one in projects or ({},)]
        organization = builders.organization(base, self.landing, projects=given)
        super().__init__(organization, Stores(organization), TWO.start + timedelta(hours=1))

    def land(self, hour: Hour, *lines: bytes, number: int = 0, project: int = 7) -> None:
        put(self.landing, object_name(hour, number, project=project), *lines)

    def complete(self, hour: Hour) -> None:
        put(self.landing, f"7/7_{hour.day}_{hour.of_day}_complete")

    def again(self, **changed: Any) -> None:
        """Change the settings of the only project, as a new defs.yaml would."""
        project = self.organization.projects[0].model_copy(update=changed)
        self.organization = self.organization.model_copy(update={"projects": (project,)})

    def clean_run(self) -> dict[str, str]:
        """What a run in order over all that landed puts into the buckets."""
        stores = Stores(self.organization)
        last = max(hour for run in self.runs for hour in run.request.hours)
        hours = [Hour(number) for number in range(ZERO.number, last.number + 1)]
        run_all(self.organization, [hours], stores)
        return buckets(self.organization, stores)


def asked(runs: list[Run]) -> list[tuple[int, str]]:
    return [(hour.number - ZERO.number, run.request.why) for run in runs for hour in run.request.hours]


def test_an_hour_is_asked_for_once_its_grace_is_over_and_never_again(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + 29 * MINUTE
    assert trial.tick().requests == []
    trial.now += MINUTE
    (request,) = trial.tick().requests
    assert request.hours == (ZERO,)
    assert request.what == ("raw_events", "deduped_events", "merged_ids", "all", "purchases")
    assert (request.live, request.why) == (True, "first")
    trial.now += MINUTE
    assert trial.tick().requests == []
    assert trial.tick().said == "1 hour is running"
    trial.work()
    assert trial.until_quiet() == []
    assert trial.tick().said == "every ready hour is delivered"


def test_a_complete_marker_makes_an_hour_ready_at_its_end(tmp_path: Path):
    trial = Trial(tmp_path, markers=True)
    trial.land(ZERO, click(1))
    trial.complete(ZERO)
    trial.now = ONE.start - MINUTE
    assert trial.tick().requests == []
    trial.now = ONE.start
    assert asked(trial.until_quiet()) == [(0, "first")]


def test_an_hour_whose_marker_never_comes_is_delivered_after_a_day(tmp_path: Path):
    trial = Trial(tmp_path, markers=True)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + timedelta(hours=23, minutes=59)
    assert trial.tick().requests == []
    trial.now += MINUTE
    assert asked(trial.until_quiet()) == [(0, "first")]


def test_empty_hours_are_asked_for_as_well(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(TWO, click(2 * HOUR_US))
    trial.now += timedelta(hours=1)
    assert asked(trial.until_quiet()) == [(0, "first"), (1, "first"), (2, "first")]


def test_late_data_is_asked_for_with_the_hours_that_it_touches_and_no_others(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.land(ONE, click(HOUR_US, "b"))
    trial.land(TWO, click(2 * HOUR_US, "c", "x"))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    # An event of hour 0 that makes the one of hour 2 a repeat; hour 1 has nothing of it.
    trial.land(ZERO, click(5, "c", "x"), number=1)
    assert asked(trial.until_quiet()) == [(0, "late data"), (2, "late data")]
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


def test_late_data_that_is_taken_away_before_it_was_seen_delivered_is_not_taken_for_done(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(FIRST_HOUR, click(1, "a"))
    trial.now = (FIRST_HOUR + 1).start + timedelta(hours=1)
    trial.until_quiet()
    trial.land(FIRST_HOUR, click(2, "b"), number=1)
    trial.tick()
    assert [run.failures for run in trial.work()] == [{}]
    (tmp_path / "landing" / object_name(FIRST_HOUR, 1)).unlink()
    trial.now += timedelta(minutes=1)
    trial.tick()
    (failures,) = [run.failures for run in trial.work()]
    assert "has vanished" in failures["raw_events", FIRST_HOUR]


def test_strays_are_asked_for_with_the_hour_that_they_belong_to(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.land(TWO, click(2 * HOUR_US))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    trial.land(TWO, click(7, "late"), number=1)
    again = dict(asked(trial.until_quiet()))
    assert set(again) == {0, 2}
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


def test_late_data_of_long_ago_is_found_by_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amp_pipeline.scheduling.RECENT_DAYS", 2)
    monkeypatch.setattr("amp_pipeline.scheduling.SWEEP_DAYS", 1)
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ZERO.start + timedelta(days=8)
    trial.until_quiet()
    trial.land(ONE, click(HOUR_US), number=1)
    found = [tick.requests for tick in (trial.tick() for _ in range(7)) if tick.requests]
    assert [request.hours for requests in found for request in requests] == [(ONE,)]


def test_a_request_that_was_lost_with_its_tick_is_made_again(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + timedelta(minutes=30)
    assert len(trial.tick().requests) == 1
    # The daemon died before it began the run.
    trial.runs.clear()
    trial.now += MINUTE
    assert trial.tick().requests == []
    trial.now += MINUTE
    assert len(trial.tick().requests) == 1


def test_of_two_daemons_that_tick_at_the_same_time_one_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + timedelta(minutes=30)
    other = Simulation(trial.organization, trial.stores, trial.now)
    save, others = Ledger.save, list[Any]()

    def between_reading_and_writing(self: Ledger, day: date, known: Day, version: str | None) -> bool:
        monkeypatch.setattr(Ledger, "save", save)
        others.extend(other.tick().requests)
        return save(self, day, known, version)

    monkeypatch.setattr(Ledger, "save", between_reading_and_writing)
    mine = trial.tick().requests
    assert (len(mine), len(others)) == (0, 1)


def test_a_failed_hour_is_tried_again_after_longer_and_longer_waits_and_then_given_up(tmp_path: Path):
    trial = Trial(tmp_path)
    builders.put_bytes(trial.landing, object_name(ZERO, ending=".json.gz"), b"\x1f\x8b damaged")
    trial.now = ONE.start + timedelta(minutes=30)
    trial.again(last_hour=ZERO)
    began, at = trial.now, []
    for _ in range(4 * 60):
        if trial.tick().requests:
            at.append((trial.now - began) // MINUTE)
        trial.work()
        trial.now += MINUTE
    assert at == [0, 1, 3, 7, 15, 31, 63, 123]
    assert trial.tick().given_up == [ZERO]
    trial.now = began + timedelta(days=2)
    assert len(trial.tick().requests) == 1
    trial.work()
    trial.now += timedelta(hours=2)
    assert trial.tick().given_up == [ZERO]
    # What lands anew is a new try.
    (trial.landing / object_name(ZERO, ending=".json.gz")).unlink()
    trial.land(ZERO, click(1))
    assert [run.failures for run in trial.until_quiet()] == [{}]


def test_a_bad_hour_does_not_hold_up_the_hours_beside_it(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    builders.put_bytes(trial.landing, object_name(ONE, ending=".json.gz"), b"\x1f\x8b damaged")
    trial.land(TWO, click(2 * HOUR_US))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    for _ in range(5):
        trial.tick()
        trial.work()
        trial.now += MINUTE
    delivered = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    for delivery in delivered.project.deliveries:
        assert delivered.deliveries_of(delivery).hours("state") == {ZERO, TWO}


def test_what_waits_for_a_bucket_is_asked_for_when_it_is_back_and_others_go_on(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + timedelta(minutes=30)
    trial.unreachable = {"purchases"}
    trial.again(last_hour=ZERO)
    (request,) = trial.tick().requests
    assert "all" in request.what
    assert "purchases" not in request.what
    trial.work()
    trial.now += MINUTE
    assert trial.tick().requests == []
    assert trial.tick().said == "1 hour waits"
    trial.unreachable = set()
    (request,) = trial.tick().requests
    assert request.what == ("purchases",)
    trial.work()
    assert trial.until_quiet() == []


def test_a_delivery_that_was_off_catches_up_a_day_and_names_the_rest(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.now = ONE.start + timedelta(minutes=30)
    trial.until_quiet()
    both = trial.organization.projects[0].deliveries
    trial.again(deliveries=(both[0], both[1].model_copy(update={"enabled": False})))
    for _ in range(60):
        trial.now += timedelta(hours=1)
        trial.until_quiet()
    trial.again(deliveries=both)
    trial.until_quiet()
    one = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    have = one.deliveries_of(both[1]).hours("state")
    missing = [Hour(n) for n in range(ZERO.number, max(have).number) if Hour(n) not in have]
    schedule = Ledger(one.workspace.store, 9, 7).schedules()[0].deliveries["purchases"]
    assert schedule.missed == ((missing[0].key, missing[-1].key),)
    assert max(have).number - missing[-1].number >= 24
    # By hand they can be had, and late data reaches them from then on.
    archive = one.archive(both[1])
    one.deliver(archive, both[1], missing[0], builders.BY)
    trial.land(missing[0], click((missing[0].number - ZERO.number) * HOUR_US), number=4)
    again = trial.until_quiet()
    assert {name for run in again for name in run.request.what} >= {"all", "purchases"}


def test_a_delivery_with_a_first_hour_begins_there(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.now += timedelta(hours=1)
    deliveries = trial.organization.projects[0].deliveries
    trial.again(deliveries=(deliveries[0], deliveries[1].model_copy(update={"first_hour": TWO})))
    trial.until_quiet()
    one = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    assert one.deliveries_of(deliveries[0]).hours("state") == {ZERO, ONE, TWO}
    assert one.deliveries_of(deliveries[1]).hours("state") == {TWO}


def test_a_new_delivery_is_delivered_from_the_workspace_though_the_landing_is_gone(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    (trial.landing / object_name(ZERO)).unlink()
    new = builders.all_events(builders.place(tmp_path / "new"), name="new")
    project = trial.organization.projects[0]
    settings = trial.organization.model_dump()
    settings["projects"][0]["deliveries"] += ({**new, "what": ["events"]},)
    trial.organization = Organization.model_validate(settings)
    runs = trial.until_quiet()
    assert {run.request.what for run in runs} == {("new",)}
    assert len(project.deliveries) == 2


@pytest.mark.parametrize("change", [{"filter": "event_type = 'click'"}, {"parts": {"events": 1}}])
def test_changed_settings_write_no_history_again_by_themselves(tmp_path: Path, change: dict[str, Any]):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1), click(2))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    settings = trial.organization.model_dump()
    settings["projects"][0]["deliveries"][1].update(change)
    trial.organization = Organization.model_validate(settings)
    assert trial.until_quiet() == []
    # What lands from now on is written as the settings are now.
    trial.land(ZERO, click(3), number=1)
    assert asked(trial.until_quiet()) == [(0, "late data")]


def test_a_landing_that_cannot_be_listed_is_a_message_and_nothing_is_asked_for(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.landing.rmdir()
    tick = trial.tick()
    assert tick.requests == []
    assert "is not there" in tick.trouble
    trial.landing.mkdir()
    trial.now += timedelta(hours=1)
    assert len(trial.until_quiet()) == 1


def test_a_workspace_that_cannot_be_reached_raises_what_a_sensor_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trial = Trial(tmp_path)

    def fails(*_: Any) -> Any:
        raise StoreError("no network")

    monkeypatch.setattr(Ledger, "schedules", fails)
    with pytest.raises(StoreError):
        trial.tick()


def test_a_clock_that_goes_back_asks_for_nothing_and_one_that_comes_forward_goes_on(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now = ONE.start + timedelta(minutes=30)
    trial.until_quiet()
    now = trial.now
    trial.now = ZERO.start - timedelta(days=400)
    assert trial.tick().requests == []
    trial.now = now
    assert trial.until_quiet() == []


def test_projects_with_other_first_hours_than_their_organization_go_in_steps(tmp_path: Path):
    trial = Trial(tmp_path, {}, {"first_hour": ONE.key})
    trial.land(ZERO, click(1))
    trial.land(ONE, click(HOUR_US), project=8)
    trial.now += timedelta(minutes=30)
    runs = trial.until_quiet()
    assert ("raw_events", "deduped_events") in {run.request.what for run in runs if run.request.key.startswith("8-")}
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


def test_what_a_reconciliation_finds_is_made_again_by_the_sensor_once(tmp_path: Path):
    trial = Trial(tmp_path)
    for number, hour in enumerate((ZERO, ONE, TWO)):
        trial.land(hour, click(number * HOUR_US))
    trial.now += timedelta(hours=6)
    trial.until_quiet()
    before = buckets(trial.organization, trial.stores)
    project = trial.organization.projects[0]
    bucket = trial.stores(project.deliveries[0].url)
    bucket.delete(next(info.name for info in bucket.find("") if info.name.endswith("_1#0.json.gz")))

    def wrong() -> list[Hour]:
        hours = [hour for hour in recent_hours(project, trial.now) if hour <= TWO]
        found = reconcile(trial.organization, project, hours, trial.now, trial.stores)
        return [one.hour for one in found if one.is_wrong]

    assert wrong() == [ONE]
    runs = trial.until_quiet()
    assert buckets(trial.organization, trial.stores) == before
    assert wrong() == []
    assert len(runs) == 1


def test_an_hour_that_was_given_up_does_not_keep_others_from_being_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("amp_pipeline.scheduling.RECENT_DAYS", 2)
    monkeypatch.setattr("amp_pipeline.scheduling.PENDING_DAYS", 1)
    monkeypatch.setattr("amp_pipeline.scheduling.SWEEP_DAYS", 1)
    trial = Trial(tmp_path)
    builders.put_bytes(trial.landing, object_name(ZERO, ending=".json.gz"), b"\x1f\x8b damaged")
    trial.now = ZERO.start + timedelta(days=6)
    trial.again(last_hour=ZERO + 6 * 24)
    for _ in range(40):
        trial.tick()
        trial.work()
        trial.now += timedelta(minutes=10)
    assert trial.cursors["shop7"].pending == ()
    late = ZERO + 50
    trial.land(late, click(50 * HOUR_US))
    found = [request.hours for _ in range(6) for request in trial.tick().requests]
    assert found == [(late,)]


def test_a_record_that_cannot_be_read_holds_up_its_own_hour_alone(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    trial.until_quiet()
    store = trial.stores(trial.organization.workspace)
    store.put("9/7/deduped/2024-05-06/00.json", b"damaged")
    trial.land(ZERO, click(2), number=1)
    trial.land(ONE, click(HOUR_US), number=1)
    for _ in range(3):
        trial.tick()
        trial.work()
        trial.now += MINUTE
    assert [run.failures for run in trial.runs if run.request.hours == (ONE,)] == [{}]
    assert any("damaged" in what for run in trial.runs for what in run.failures.values())


def test_merged_ids_of_a_project_that_is_behind_reach_what_the_other_delivered(tmp_path: Path):
    trial = Trial(tmp_path, {}, {})
    trial.land(ZERO, click(1))
    trial.land(TWO, click(2 * HOUR_US, amplitude_id=1, amplitude_merged=2))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    trial.land(ONE, click(HOUR_US, user_id="u"), project=8)
    put(trial.landing, builders.merged_name(ONE), builders.merged(5, 6))
    trial.until_quiet()
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


def test_a_cursor_that_cannot_be_read_begins_anew():
    assert Cursor.decode("nonsense") == Cursor.decode(None) == Cursor()
    assert Cursor.decode('{"format":1,"sweep":"2024-13-01","pending":[]}') == Cursor()
    assert Cursor.decode(Cursor(sweep="2024-05-06").encode()) == Cursor(sweep="2024-05-06")


def test_hours_of_a_backlog_are_asked_for_a_day_at_a_time_and_only_so_many(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.now = ZERO.start + timedelta(days=40)
    first = trial.tick()
    assert len(first.requests) == 4
    assert {len(request.hours) for request in first.requests if not request.live} == {24}
    assert sum(request.live for request in first.requests) >= 1
    assert trial.tick().requests == []


def test_the_clock_of_utc_is_meant(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.now = datetime(2024, 5, 6, 1, 30, tzinfo=UTC)
    assert asked(trial.until_quiet()) == [(0, "first")]
