import gzip
import json
import zlib

import pytest

from amp_pipeline.core.errors import FrozenHourError, LandingError
from amp_pipeline_tests.builders import HOUR_US, event, object_name
from amp_pipeline_tests.stages.trial import ONE, TWO, ZERO, Trial

FIRST, SECOND = object_name(ZERO), object_name(ZERO, 1)


def landed(*lines: bytes) -> Trial:
    trial = Trial()
    trial.land(FIRST, *lines)
    return trial


def test_lines_are_told_apart_and_counted():
    trial = landed(event(0), b"", event(1, event_type="buy"), b"nonsense", b"{}", event(HOUR_US))
    record = trial.raw(ZERO)
    assert (record.landed, record.events, record.quarantined) == (4, 2, 2)
    assert record.event_types == {"buy": 1, "click": 1}
    assert record.reasons == {"no_time": 1, "not_json": 1}
    assert record.strays_out == {ONE.key: 1}
    assert record.lines == 6
    assert record.landed_bytes == len(event(0)) + len(event(1, event_type="buy")) + 2


def test_a_landing_of_something_else_is_refused_and_nothing_is_delivered_as_empty():
    trial = Trial()
    trial.landing.put("7_2024-05-06_0#0.json", event(0))
    for _ in range(2):
        with pytest.raises(LandingError, match="has nothing of project 7: it holds 7_2024-05-06_0#0.json"):
            trial.raw(ZERO)
    with pytest.raises(LandingError, match="correct the source's url, or its events"):
        trial.project().raw.list(ONE)
    trial.land(object_name(TWO), event(2 * HOUR_US))
    assert trial.raw(ZERO).landed == 0


@pytest.mark.parametrize("name", [object_name(TWO), "7/7_2024-05-06_0_complete", "-9/-9_2024-05-06_3.json"])
def test_an_hour_without_objects_is_empty_where_anything_of_the_project_lies(name: str):
    trial = Trial()
    trial.landing.put("other/file", b"x")
    trial.landing.put(name, b"")
    assert trial.raw(ZERO).landed == 0


def test_an_empty_landing_has_empty_hours_and_one_that_was_taken_away_too():
    assert Trial().raw(ZERO).landed == 0
    trial = landed(event(0))
    trial.raw(ZERO)
    trial.landing.delete(FIRST)
    trial.landing.put("other/file", b"x")
    assert trial.raw(ZERO).landed == 1
    assert trial.raw(ONE).landed == 0


def test_quarantined_line_is_kept_with_its_origin_and_reason():
    trial = landed(b"", b"nonsense", b"\xff")
    trial.raw(ZERO)
    text, binary = trial.quarantine(ZERO)
    assert text == {"object": FIRST, "line": 2, "reason": "not_json", "detail": "character 1", "text": "nonsense"}
    assert (binary["line"], binary["reason"], binary["base64"]) == (3, "not_utf8", "/w==")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (event(0, server_upload_time=None), "no_time"),
        (event(0, server_upload_time=None, event_time="nonsense"), "no_time"),
        (event(0, server_upload_time="2024-05-06"), "bad_time"),
        (event(0, client_event_time="2024-05-06"), "bad_time"),
        (event(0, event_time=""), "bad_time"),
        (event(0, event_time="\ud800"), "bad_time"),
        (event(0, app=8), "other_project"),
        (event(0, app=8, event_time=""), "bad_time"),
        (event(0, app=10**30), "other_project"),
        (event(-1), "outside_project"),
        (event(-1, app=8), "other_project"),
        (event(3 * HOUR_US), "outside_project"),
    ],
)
def test_event_that_is_not_the_projects_is_quarantined(line: bytes, reason: str):
    trial = Trial({"last_hour": TWO.key})
    trial.land(FIRST, line, event(0, app=7.0, event_time=None))
    assert trial.raw(ZERO).reasons == {reason: 1}
    assert trial.raw(ZERO).events == 1


def test_event_whose_type_only_python_decodes_is_an_event():
    trial = landed(event(0, event_type="\ud800"), event(1))
    assert trial.raw(ZERO).events == 2


def test_empty_hour_lands_nothing():
    record = Trial().raw(ZERO)
    assert (record.landed, record.events, record.keys, record.rows) == (0, 0, "", "")


def test_unchanged_hour_is_not_read_again():
    trial = landed(event(0))
    first = trial.raw(ZERO)
    for store in (trial.landing, trial.workspace):
        store.forget_notes()
    assert trial.raw(ZERO) == first
    assert (trial.landing.read, trial.workspace.written) == ([], [])
    assert trial.raw(ZERO, force=True) == first
    assert trial.landing.read == [FIRST]


def test_changed_object_and_new_one_are_read():
    trial = landed(event(0))
    trial.raw(ZERO)
    trial.land(FIRST, event(1), event(2))
    assert trial.raw(ZERO).events == 2
    trial.land(SECOND, event(3))
    assert trial.raw(ZERO).events == 3


def test_hour_is_judged_again_when_the_bounds_of_the_project_are_set_anew():
    trial = landed(event(-1), event(0))
    assert trial.raw(ZERO).reasons == {"outside_project": 1}
    trial.set({"first_hour": (ZERO + -1).key})
    assert trial.raw(ZERO).reasons == {}
    assert trial.raw(ZERO + -1).events == 1


WHOLE = gzip.compress(b"".join(event(at) + b"\n" for at in range(100)), mtime=0)
DAMAGED = {
    "truncated": WHOLE[:-20],
    "corrupt": WHOLE[:-8] + bytes(8),
    "empty": b"",
    "followed by junk": WHOLE + b"junk",
}
PACKED = object_name(ZERO, 0, ".json.gz")


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_object_fails_its_hour_and_says_what_to_do(damage: str):
    trial = Trial()
    trial.landing.put(PACKED, DAMAGED[damage])
    with pytest.raises(LandingError) as found:
        trial.raw(ZERO)
    assert f"/trial/landing/{PACKED}" in str(found.value)
    assert f"amp-pipeline accept --project shop7 '{PACKED}'" in str(found.value)
    assert trial.raw(ONE).landed == 0


def test_damaged_object_counts_once_a_whole_copy_is_in_its_place():
    trial = Trial()
    trial.landing.put(PACKED, DAMAGED["truncated"])
    with pytest.raises(LandingError):
        trial.raw(ZERO)
    trial.landing.put(PACKED, WHOLE)
    assert trial.raw(ZERO).events == 100


@pytest.mark.parametrize("damage", DAMAGED)
def test_accepted_object_counts_its_lines_before_the_damage(damage: str):
    trial = Trial()
    data = DAMAGED[damage]
    try:
        before = zlib.decompressobj(31).decompress(data if damage != "corrupt" else data[:-8])
    except zlib.error:
        before = b""
    trial.landing.put(PACKED, data)
    trial.accept(PACKED, data)
    record = trial.raw(ZERO)
    *lines, rest = before.split(b"\n")
    assert record.events == len(lines)
    assert record.reasons == ({"truncated": 1} if rest else {})
    if rest:
        (entry,) = trial.quarantine(ZERO)
        assert (entry["line"], entry["text"], entry["object"]) == (len(lines) + 1, rest.decode(), PACKED)
    assert record.inputs[0].damaged
    assert len(trial.kept(ZERO)) == len(lines)


def test_acceptance_is_for_these_bytes_only():
    trial = Trial()
    trial.accept(PACKED, DAMAGED["truncated"])
    trial.landing.put(PACKED, DAMAGED["truncated"][:-1])
    with pytest.raises(LandingError):
        trial.raw(ZERO)


def test_vanished_object_fails_the_hour_until_it_is_accepted():
    trial = landed(event(0))
    trial.land(SECOND, event(1))
    trial.raw(ZERO)
    trial.landing.delete(SECOND)
    with pytest.raises(LandingError, match=rf"{SECOND} has vanished .*amp-pipeline accept --project shop7 '{SECOND}'"):
        trial.raw(ZERO)
    trial.accept(SECOND, None)
    assert trial.raw(ZERO).events == 1


def test_hour_whose_landing_is_gone_stands():
    trial = landed(event(0))
    before = trial.raw(ZERO)
    trial.landing.delete(FIRST)
    assert trial.raw(ZERO) == before
    assert trial.raw(ZERO, force=True) == before


def test_stray_to_an_hour_whose_landing_is_gone_is_refused():
    trial = landed(event(0))
    trial.raw(ZERO)
    trial.landing.delete(FIRST)
    trial.land(object_name(ONE), event(1))
    trial.raw(ONE)
    with pytest.raises(FrozenHourError, match="late events came in"):
        trial.raw(ZERO)


def test_stray_lands_in_its_own_hour_with_its_origin():
    trial = landed(event(0), event(HOUR_US), b"", event(HOUR_US + 1, event_time="nonsense"), event(HOUR_US + 2))
    trial.land(object_name(ONE), event(HOUR_US + 3))
    assert trial.raw(ZERO).landed == 2
    record = trial.raw(ONE)
    assert (record.landed, record.strays_in) == (3, 2)
    lines = [(name, list(numbers), found.lines) for name, numbers, found in trial.project().raw.lines(record)]
    strays = [item for item in lines if item[0] == FIRST and item[1]]
    assert strays == [(FIRST, [2, 5], [event(HOUR_US), event(HOUR_US + 2)])]


def test_stray_is_found_by_an_hour_that_ran_before():
    trial = landed(event(0), event(HOUR_US))
    assert trial.raw(ONE).landed == 0
    trial.raw(ZERO)
    assert trial.raw(ONE).landed == 1


def test_strays_are_taken_back_when_their_object_changes():
    trial = landed(event(0), event(HOUR_US), event(2 * HOUR_US))
    trial.raw(ZERO)
    assert (trial.raw(ONE).landed, trial.raw(TWO).landed) == (1, 1)
    trial.land(FIRST, event(0), event(2 * HOUR_US), event(2 * HOUR_US))
    trial.raw(ZERO)
    assert (trial.raw(ONE).landed, trial.raw(TWO).landed) == (0, 2)


def test_object_that_changes_while_it_is_read_fails_the_hour():
    trial = landed(event(0))
    raw = trial.project().raw
    record = raw.land(ZERO)
    trial.land(FIRST, event(1))
    with pytest.raises(LandingError, match="changed while hour"):
        list(raw.lines(record))


def test_merged_ids_are_made_from_events():
    times = {"client_event_time": "2024-05-05 23:00:00", "event_time": "2024-05-05 23:00:00.001999"}
    trial = landed(
        event(0, amplitude_id=9, data={"merged_amplitude_id": 8}, **times),
        event(1500, amplitude_id=7, data={"merged_amplitude_id": 6}),
        event(2, amplitude_id=7, data={"merged_amplitude_id": None}),
        event(3, data={"merged_amplitude_id": 6}),
    )
    record = trial.raw(ZERO)
    made = trial.project().workspace.data("made_merges", ZERO, record.made_merges, ".json.gz")
    first, second = map(json.loads, gzip.decompress(made).splitlines())
    start = ZERO.start_us // 1000
    assert first == {
        "scope": None,
        "merge_time": start - 3_600_000 + 1,
        "merge_server_time": start,
        "amplitude_id": 9,
        "merged_amplitude_id": 8,
    }
    assert (second["merge_time"], second["merge_server_time"]) == (start + 1, start + 1)
