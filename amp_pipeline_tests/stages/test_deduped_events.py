import pytest

from amp_pipeline.core.errors import FrozenHourError, LandingError
from amp_pipeline_tests.builders import HOUR_US, event, object_name
from amp_pipeline_tests.stages.trial import ONE, TWO, ZERO, Trial

WINDOW = {"dedupe": {"window": "1h"}}


def click(us: int, insert_id: str = "a", **fields: object) -> bytes:
    return event(us, device_id="d", **{"$insert_id": insert_id}, **fields)


def test_repeat_in_the_same_hour_is_dropped_and_the_order_of_landing_stays():
    trial = Trial()
    trial.land(object_name(ZERO), click(5), click(4, "b"), click(6), event(3))
    assert trial.kept(ZERO) == [click(5), click(4, "b"), event(3)]
    record = trial.deduped(ZERO)
    assert (record.landed, record.rows, record.repeats, record.conflicts) == (4, 3, 1, 0)
    assert record.event_types == {"click": 3}


def test_repeat_in_the_next_hour_is_dropped():
    trial = Trial()
    trial.land(object_name(ZERO), click(0))
    trial.land(object_name(ONE), click(HOUR_US), click(HOUR_US, "b"))
    assert trial.kept(ONE) == [click(HOUR_US, "b")]
    assert trial.deduped(ONE).first_seen == {ZERO.key: 1}
    assert trial.kept(ZERO) == [click(0)]


def test_repeat_a_microsecond_after_the_window_is_kept():
    trial = Trial(WINDOW)
    trial.land(object_name(ZERO), click(5), click(6, "b"))
    trial.land(object_name(ONE), click(HOUR_US + 6), click(HOUR_US + 6, "b"))
    assert trial.kept(ONE) == [click(HOUR_US + 6)]


def test_repeat_is_reported_with_where_it_stood_and_whether_it_says_something_else():
    trial = Trial()
    trial.land(object_name(ZERO), click(0, event_type="x"))
    trial.land(object_name(ONE), b"", click(HOUR_US, event_type="y", uuid="u"), click(HOUR_US + 1, event_type="x"))
    assert trial.deduped(ONE).conflicts == 1
    conflict, same = trial.repeats(ONE)
    assert conflict == {
        "row": 1,
        "object": object_name(ONE),
        "line": 2,
        "identity": "device_id and $insert_id",
        "uuid": "u",
        "first_seen": ZERO.key,
        "conflict": True,
        "text": click(HOUR_US, event_type="y", uuid="u").decode(),
    }
    assert (same["line"], same["conflict"]) == (3, False)


def test_empty_hour_has_no_parts():
    record = Trial().deduped(ZERO)
    assert (record.parts, record.rows, record.landed, record.event_time) == ([], 0, 0, None)


def test_parts_are_cut_where_the_project_says():
    trial = Trial({"parts": {"events": 2}})
    trial.land(object_name(ZERO), *[event(at) for at in range(5)])
    assert [part.rows for part in trial.deduped(ZERO).parts] == [2, 2, 1]
    trial.set({"parts": {"events": 3}})
    assert [part.rows for part in trial.deduped(ZERO).parts] == [3, 2]


def test_parts_of_the_record_before_stay_for_who_reads_them_and_older_ones_go():
    trial = Trial()
    parts: list[list[str]] = []
    for events in (2, 3, 4):
        trial.set({"parts": {"events": events}})
        trial.land(object_name(ZERO), *[event(at) for at in range(5)])
        parts.append([part.name for part in trial.deduped(ZERO).parts])
    assert trial.workspace.names("9/7/deduped/2024-05-06/00-") == sorted({*parts[1], *parts[2]})


def test_unchanged_hour_writes_nothing_and_a_forced_one_the_same_bytes():
    trial = Trial()
    trial.land(object_name(ZERO), click(0), click(1))
    first = trial.deduped(ZERO)
    trial.workspace.forget_notes()
    assert trial.deduped(ZERO) == first
    assert trial.workspace.written == []
    assert trial.deduped(ZERO, force=True) == first
    assert trial.workspace.written != []


def test_hours_may_run_in_any_order():
    def trial() -> Trial:
        one = Trial()
        one.land(object_name(ZERO), click(0), click(HOUR_US + 2), click(3, "b"))
        one.land(object_name(ONE), click(HOUR_US + 5), click(HOUR_US + 1, "b"))
        one.land(object_name(TWO), click(2 * HOUR_US, "b"), click(2 * HOUR_US, "c"))
        return one

    forward, backward = trial(), trial()
    for hour in (ZERO, ONE, TWO):
        forward.deduped(hour)
    for hour in (TWO, ONE, ZERO, ONE, TWO):
        backward.deduped(hour)
    for hour in (ZERO, ONE, TWO):
        assert forward.kept(hour) == backward.kept(hour)
        assert forward.repeats(hour) == backward.repeats(hour)
        assert forward.deduped(hour) == backward.deduped(hour)
        assert forward.project().deduped.identities_seen_twice(hour) == 0


def staleness(trial: Trial) -> str:
    deduped = trial.project().deduped
    record = deduped.workspace.deduped(ONE)
    assert record is not None
    return deduped.is_stale(ONE, record)


def delivered_hour() -> Trial:
    trial = Trial(WINDOW)
    trial.land(object_name(ZERO), click(5, "x"))
    trial.land(object_name(ONE), click(HOUR_US + 3), click(HOUR_US + 4, "b"))
    trial.deduped(ONE)
    return trial


def test_hour_that_nothing_touched_stands():
    trial = delivered_hour()
    assert staleness(trial) == ""
    trial.land(object_name(ZERO, 1), click(6, "other"))
    assert staleness(trial) == ""


def test_late_event_with_a_shared_identity_makes_the_hour_stale_until_it_runs():
    trial = delivered_hour()
    trial.land(object_name(ZERO, 1), click(6))
    assert staleness(trial) == f"late data in hour {ZERO.key}"
    assert trial.kept(ONE) == [click(HOUR_US + 4, "b")]
    assert staleness(trial) == ""


def test_late_event_beyond_the_window_leaves_the_hour_alone():
    trial = delivered_hour()
    trial.land(object_name(ZERO, 1), click(2))
    assert staleness(trial) == ""


def test_removed_event_makes_the_hour_stale():
    trial = delivered_hour()
    trial.land(object_name(ZERO), click(5))
    assert len(trial.kept(ONE)) == 1
    trial.land(object_name(ZERO), click(5, "x"))
    assert staleness(trial) == f"late data in hour {ZERO.key}"
    assert len(trial.kept(ONE)) == 2


def test_hour_with_events_of_its_own_that_changed_is_stale():
    trial = delivered_hour()
    trial.land(object_name(ONE, 1), click(HOUR_US + 5, "c"))
    assert "changed" in staleness(trial)


def test_events_without_identity_that_changed_make_the_hour_stale():
    trial = delivered_hour()
    trial.land(object_name(ONE, 1), event(HOUR_US + 5))
    assert "changed" in staleness(trial)


@pytest.mark.parametrize("settings", [{"dedupe": {"window": "2h"}}, {**WINDOW, "parts": {"events": 1}}])
def test_hour_is_stale_when_settings_that_decide_about_it_change(settings: dict[str, object]):
    trial = delivered_hour()
    trial.set(settings)
    assert "changed" in staleness(trial)
    trial.deduped(ONE)
    assert staleness(trial) == ""


def test_earlier_hour_that_cannot_be_read_is_missing_and_the_hour_goes_on():
    trial = delivered_hour()
    damaged = object_name(ZERO, 1, ".json.gz")
    trial.landing.put(damaged, b"")
    record = trial.deduped(ONE)
    assert record.missing == [ZERO.key]
    trial.landing.delete(damaged)
    trial.land(object_name(ZERO, 1), click(6))
    assert staleness(trial) == f"late data in hour {ZERO.key}"


def test_hour_whose_landing_is_gone_refuses_late_data_that_would_change_it():
    trial = delivered_hour()
    trial.landing.delete(object_name(ONE))
    trial.land(object_name(ZERO, 1), click(7, "other"))
    assert trial.deduped(ONE).rows == 2
    trial.land(object_name(ZERO, 2), click(6))
    with pytest.raises(FrozenHourError, match="landing objects are gone"):
        trial.deduped(ONE)
    record = trial.project().workspace.deduped(ONE)
    assert record is not None
    assert record.rows == 2


def test_damaged_landing_fails_the_hour():
    trial = Trial()
    trial.landing.put(object_name(ZERO, 0, ".json.gz"), b"")
    with pytest.raises(LandingError):
        trial.deduped(ZERO)


def test_ranges_are_those_of_the_events_that_are_kept():
    trial = Trial()
    trial.land(
        object_name(ZERO), click(5, event_time="2024-05-01 00:00:00"), click(9, event_time="2024-06-01 00:00:00")
    )
    record = trial.deduped(ZERO)
    assert record.server_upload_time is not None
    assert record.event_time is not None
    assert record.server_upload_time.first == record.server_upload_time.last == ZERO.start_us + 5
    assert record.event_time.first == record.event_time.last


def test_a_record_tells_what_late_data_added_and_removed():
    trial = Trial()
    trial.land(object_name(ZERO), click(10), click(20, "b"))
    assert trial.deduped(ZERO).change is None
    first = trial.deduped(ZERO).fingerprint
    # Its 10 comes earlier now, so the old line with this identity is a repeat, and one more is new.
    trial.land(object_name(ZERO, 1), click(5), click(30, "c"))
    change = trial.deduped(ZERO).change
    assert change is not None
    assert (change.before, change.added, change.removed) == (first, 2, 1)
    assert trial.deduped(ZERO, force=True).change == change
