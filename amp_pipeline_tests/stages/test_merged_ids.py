import json

import pytest

from amp_pipeline.core.errors import LandingError
from amp_pipeline_tests.builders import HOUR_US, event, merged, merged_name, object_name
from amp_pipeline_tests.stages.trial import ONE, TWO, ZERO, Trial


def merging(us: int, loser: int, winner: int, **fields: object) -> bytes:
    return event(us, amplitude_id=loser, data={"merged_amplitude_id": winner}, **fields)


def pairs(lines: list[bytes]) -> list[tuple[int, int]]:
    found = [json.loads(line) for line in lines]
    return [(one["amplitude_id"], one["merged_amplitude_id"]) for one in found]


def test_landed_lines_stand_first_as_they_are_then_made_ones_by_project():
    trial = Trial({}, {"deliveries": []})
    trial.land(merged_name(ZERO), b'{"amplitude_id": 2.0,"merged_amplitude_id":1,"x":"\\ud800"}')
    trial.land(object_name(ZERO, project=8), merging(1, 6, 5))
    trial.land(object_name(ZERO), merging(2, 4, 3), merging(1, 14, 13))
    lines = trial.merged_lines(ZERO)
    assert lines[0] == b'{"amplitude_id": 2.0,"merged_amplitude_id":1,"x":"\\ud800"}'
    assert len(lines) == 4
    assert pairs(lines)[0] == (2, 1)
    assert pairs(lines)[-1] == (6, 5)


def test_made_records_of_a_project_stand_in_order_of_arrival():
    trial = Trial()
    trial.land(object_name(ZERO), merging(2, 4, 3), merging(1, 14, 13))
    assert pairs(trial.merged_lines(ZERO)) == [(14, 13), (4, 3)]


def test_event_that_is_a_repeat_makes_a_record_too():
    trial = Trial()
    trial.land(object_name(ZERO), merging(0, 2, 1, uuid="u"), merging(1, 4, 3, uuid="u"))
    assert pairs(trial.merged_lines(ZERO)) == [(2, 1), (4, 3)]


def test_counts_add_up():
    trial = Trial()
    trial.land(merged_name(ZERO), merged(2, 1), merged(2, 1), b"", b"nonsense", b'{"amplitude_id":1}')
    trial.land(object_name(ZERO), merging(0, 2, 1), merging(1, 4, 3))
    record = trial.merged(ZERO)
    assert (record.landed, record.made, record.quarantined, record.repeats, record.rows) == (4, 2, 2, 2, 2)
    assert record.landed + record.made == record.quarantined + record.repeats + record.rows
    assert record.reasons == {"not_json": 1, "wrong_type": 1}
    bad, worse = trial.run().merged_workspace.report("merged_quarantine", ZERO)
    assert (bad["line"], worse["line"], bad["object"]) == (4, 5, merged_name(ZERO))


def test_landed_record_of_an_earlier_hour_makes_both_kinds_repeats():
    trial = Trial()
    trial.land(merged_name(ZERO), merged(2, 1))
    trial.land(merged_name(ONE), merged(2, 1))
    trial.land(object_name(ONE), merging(HOUR_US, 2, 1))
    assert trial.merged_lines(ONE) == []


def test_made_record_of_an_earlier_hour_never_replaces_a_landed_one():
    trial = Trial()
    trial.land(object_name(ZERO), merging(0, 2, 1))
    trial.land(object_name(ONE), merging(HOUR_US, 2, 1))
    trial.land(merged_name(ONE), merged(2, 1))
    assert trial.merged_lines(ONE) == [merged(2, 1)]


def test_window_is_counted_in_whole_hours():
    trial = Trial({"dedupe": {"window": "1h"}})
    trial.land(merged_name(ZERO), merged(2, 1))
    trial.land(merged_name(ONE), merged(4, 3))
    trial.land(merged_name(TWO), merged(2, 1), merged(4, 3))
    assert pairs(trial.merged_lines(TWO)) == [(2, 1)]
    trial.set({"dedupe": {"window": "61m"}})
    assert trial.merged_lines(TWO) == []


def test_hour_without_merged_ids_has_no_file():
    record = Trial().merged(ZERO)
    assert (record.part, record.rows) == (None, 0)


def test_unchanged_hour_writes_nothing():
    trial = Trial()
    trial.land(object_name(ZERO), merging(0, 2, 1))
    first = trial.merged(ZERO)
    trial.workspace.forget_notes()
    assert trial.merged(ZERO) == first
    assert trial.workspace.written == []


def staleness(trial: Trial) -> bool:
    run = trial.run()
    record = run.merged_workspace.merged(ONE)
    assert record is not None
    return run.merged.is_stale(ONE, record)


def test_late_pair_makes_only_hours_that_have_it_stale():
    trial = Trial()
    trial.land(merged_name(ONE), merged(2, 1))
    trial.merged(ONE)
    trial.land(merged_name(ZERO), merged(4, 3))
    assert not staleness(trial)
    trial.land(merged_name(ZERO), merged(2, 1))
    assert staleness(trial)
    assert trial.merged_lines(ONE) == []
    assert not staleness(trial)


def test_project_that_comes_late_makes_the_hour_stale():
    trial = Trial({}, {"deliveries": []})
    trial.land(object_name(ONE), merging(HOUR_US, 2, 1))
    damaged = object_name(ONE, 0, ".json.gz", project=8)
    trial.landing.put(damaged, b"")
    assert trial.merged(ONE).missing == [8]
    trial.landing.put(damaged, merging(HOUR_US, 4, 3))
    assert staleness(trial)
    assert pairs(trial.merged_lines(ONE)) == [(2, 1), (4, 3)]


def test_damaged_merged_id_file_fails_the_hour():
    trial = Trial()
    trial.landing.put(merged_name(ZERO, ".json.gz"), b"")
    with pytest.raises(LandingError, match=merged_name(ZERO, ".json.gz")):
        trial.merged(ZERO)


def test_ids_of_any_size_are_carried():
    trial = Trial()
    trial.land(merged_name(ZERO), merged(10**30, 1))
    trial.land(object_name(ZERO), merging(0, 10**31, 1))
    assert pairs(trial.merged_lines(ZERO)) == [(10**30, 1), (10**31, 1)]
