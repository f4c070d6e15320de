from itertools import groupby
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core.dedupe import REPEATS, candidates, changed, find_repeats, matching, seen_twice, touches
from amp_pipeline.core.index import Keys, joined, no_keys

HOUR = 10
"""Length of an hour in these tests, in µs."""


class Event(NamedTuple):
    identity: int
    time: int
    content: int = 0


def keys(events: list[Event]) -> pl.DataFrame:
    """The key index of an hour, sorted as real ones are: by identity and time, then as they landed."""
    rows = [(0, event.identity, event.time, event.content) for event in sorted(events, key=lambda e: e[:2])]
    schema = {"high": pl.UInt64, "low": pl.UInt64, "time": pl.Int64, "content": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def landed(events: list[Event]) -> pl.DataFrame:
    """The events of the hour itself, in landing order."""
    rows = [(2 * row, 0, *event) for row, event in enumerate(events)]
    schema = {"row": pl.UInt64, "high": pl.UInt64, "low": pl.UInt64, "time": pl.Int64, "content": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def slow_obvious_loop(events: list[Event], earlier: list[list[Event]], window: int) -> list[tuple[int, int, bool]]:
    arrived = [
        (event.time, hour, row, event)
        for hour, hours in enumerate([*earlier, events])
        for row, event in enumerate(hours)
    ]
    arrived.sort(key=lambda item: item[:3])
    repeats: list[tuple[int, int, bool]] = []
    for at, (time, hour, row, event) in enumerate(arrived):
        if hour < len(earlier):
            continue
        before = [one for *_, one in arrived[:at] if one.identity == event.identity and time - one.time <= window]
        if before:
            repeats.append((2 * row, before[0].time, before[0].content != event.content))
    return sorted(repeats)


@st.composite
def hours(draw: st.DrawFn, count: int = 3) -> list[list[Event]]:
    """Events of several hours, the last of which is the one to deduplicate."""
    return [
        draw(
            st.lists(
                st.builds(
                    Event, st.integers(1, 3), st.integers(number * HOUR, number * HOUR + HOUR - 1), st.integers(0, 1)
                ),
                max_size=6,
            )
        )
        for number in range(count)
    ]


@settings(deadline=None)
@given(hours(), st.integers(1, 2 * HOUR))
def test_repeats_are_those_of_a_slow_obvious_loop(several: list[list[Event]], window: int):
    *earlier, own = several
    expected = slow_obvious_loop(own, earlier, window)
    assert find_repeats(landed(own), map(keys, earlier), window).rows() == expected
    together = keys([event for hour in earlier for event in hour])
    assert find_repeats(landed(own), [together], window).rows() == expected


def as_index(frame: pl.DataFrame) -> Keys:
    """The same keys in the order of a key index, which is that of the frame or, of landed events, not."""
    sorted_ = frame.sort("high", "low", "time", maintain_order=True)
    return Keys(*(sorted_[name].to_numpy() for name in ("high", "low", "time", "content")))


def halved(frame: pl.DataFrame) -> pl.DataFrame:
    """Identities that share halves with one another."""
    return frame.with_columns(high=pl.col("low") // 2, low=pl.col("low") % 2)


@settings(deadline=None)
@given(hours(), st.integers(1, 2 * HOUR))
def test_repeats_among_candidates_are_all_there_are(several: list[list[Event]], window: int):
    *earlier, own = several
    events = halved(landed(own))
    before = [halved(keys(hour)) for hour in earlier]
    of_hour = events.sort("high", "low", "time", maintain_order=True)
    # As in the pipeline: of the hours before, only keys with a `high` of the hour are there.
    met = [frame.filter(pl.col("high").is_in(events["high"].implode())) for frame in before]
    chosen = candidates(as_index(events), joined([as_index(frame) for frame in met]))
    some = of_hour.filter(pl.Series(chosen, dtype=pl.Boolean)).sort("row")
    found = find_repeats(some, met, window)
    assert found.equals(find_repeats(events, before, window))
    assert found.rows() == slow_obvious_loop(own, earlier, window)


def test_candidates_are_few():
    highs = [1, 2, 2, 3, 4, 4, 5]
    lows = [0, 0, 0, 0, 0, 1, 0]
    own = Keys(np.array(highs, np.uint64), np.array(lows, np.uint64), np.zeros(7, np.int64), np.zeros(7, np.uint64))
    assert candidates(own, no_keys()).tolist() == [False, True, True, False, False, False, False]
    assert candidates(own, own.where(np.array([3]))).tolist() == [False, True, True, True, False, False, False]
    assert candidates(no_keys(), own).tolist() == candidates(no_keys(), no_keys()).tolist() == []


def test_many_ties_keep_landing_order():
    earlier = [Event(identity, 1, content) for content in range(100) for identity in range(20)]
    own = [Event(identity, 11, content) for identity in range(20) for content in (0, 1)]
    assert find_repeats(landed(own), [keys(earlier)], HOUR).rows() == slow_obvious_loop(own, [earlier], HOUR)


def repeats(*events: Event, earlier: list[Event] | None = None, window: int = 7) -> list[tuple[int, int, bool]]:
    return [
        (row // 2, seen, differs)
        for row, seen, differs in find_repeats(landed(list(events)), [keys(earlier or [])], window).rows()
    ]


def test_repeat_exactly_a_window_later_is_one_and_a_microsecond_later_is_none():
    assert repeats(Event(1, 17), earlier=[Event(1, 10)]) == [(0, 10, False)]
    assert repeats(Event(1, 18), earlier=[Event(1, 10)]) == []


def test_repeat_of_a_repeat_counts():
    assert repeats(Event(1, 10), Event(1, 16), Event(1, 22)) == [(1, 10, False), (2, 16, False)]


def test_of_a_tie_the_first_that_landed_stays():
    assert repeats(Event(1, 10), Event(1, 10)) == [(1, 10, False)]


def test_earlier_time_goes_before_earlier_line():
    assert repeats(Event(1, 12), Event(1, 10)) == [(0, 10, False)]


def test_repeat_with_other_content_is_a_conflict_with_the_first_seen():
    assert repeats(Event(1, 12, 5), Event(1, 13, 6), Event(1, 14, 5)) == [(1, 12, True), (2, 12, False)]
    assert repeats(Event(1, 12, 6), earlier=[Event(1, 8, 5), Event(1, 9, 6)]) == [(0, 8, True)]


def test_both_halves_of_an_identity_count():
    own = landed([Event(1, 10), Event(1, 10)]).with_columns(high=pl.Series([1, 2], dtype=pl.UInt64))
    assert find_repeats(own, [], 7).is_empty()


def test_hour_without_events_has_no_repeats():
    found = find_repeats(landed([]), [keys([Event(1, 1)])], 7)
    assert found.is_empty()
    assert dict(found.schema) == REPEATS
    assert dict(find_repeats(landed([Event(1, 1)]), [], 7).schema) == REPEATS


def test_matching_keys_stay_in_order():
    index = keys([Event(1, 1), Event(2, 2), Event(1, 3), Event(3, 4)])
    assert matching(index, landed([Event(3, 20), Event(1, 20)]))["time"].to_list() == [1, 3, 4]


@settings(deadline=None)
@given(hours(), st.integers(1, 2 * HOUR))
def test_nothing_is_seen_twice_once_repeats_are_dropped(several: list[list[Event]], window: int):
    *earlier, own = several
    events = landed(own)
    dropped = find_repeats(events, map(keys, earlier), window)["row"]
    kept = events.filter(~pl.col("row").is_in(dropped.implode()))
    assert seen_twice(kept, map(keys, earlier), window) == 0
    assert (seen_twice(events, map(keys, earlier), window) > 0) == (len(dropped) > 0)


def placed(events: list[Event]) -> set[tuple[Event, int]]:
    """Entries of a key index, each with its place among those of the same identity and time."""
    ties = groupby(sorted(events, key=lambda event: event[:2]), key=lambda event: event[:2])
    return {(event, place) for _, tie in ties for place, event in enumerate(tie)}


@settings(deadline=None)
@given(hours(2))
def test_changed_entries_are_those_that_only_one_version_has(two: list[list[Event]]):
    old, new = two[0], [Event(event.identity, event.time - HOUR, event.content) for event in two[1]]
    found = [Event(*row[1:]) for row in changed(keys(old), keys(new)).rows()]
    assert set(found) == {event for event, _ in placed(old) ^ placed(new)}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("second", [[], [Event(1, 1)], [Event(1, 1), Event(1, 1), Event(1, 1)]])
def test_doubled_entry_that_is_there_another_number_of_times_has_changed(second: list[Event]):
    assert changed(keys([Event(1, 1), Event(1, 1)]), keys(second)).rows() == [(0, 1, 1, 0)]


@settings(deadline=None)
@given(hours(), st.data(), st.integers(1, 2 * HOUR))
def test_change_that_changes_a_repeat_touches_the_hour(several: list[list[Event]], data: st.DataObject, window: int):
    *earlier, own = several
    later = [list(hour) for hour in earlier]
    at = data.draw(st.integers(0, len(earlier) - 1))
    later[at] = data.draw(st.permutations(later[at]).map(lambda events: events[:3]))
    later[at] += [Event(event.identity, event.time + (at - 1) * HOUR) for event in data.draw(hours(2))[1][:3]]
    events = landed(own)
    before = find_repeats(events, map(keys, earlier), window)
    after = find_repeats(events, map(keys, later), window)
    if not before.equals(after):
        assert touches(changed(keys(earlier[at]), keys(later[at])), events, window)


def test_other_content_of_the_first_seen_touches_the_hour():
    assert touches(changed(keys([Event(1, 19, 0)]), keys([Event(1, 19, 1)])), landed([Event(1, 20)]), 7)


def test_tie_that_landed_the_other_way_round_touches_the_hour():
    old, new = [Event(1, 19, 0), Event(1, 19, 1)], [Event(1, 19, 1), Event(1, 19, 0)]
    assert repeats(Event(1, 20), earlier=old) != repeats(Event(1, 20), earlier=new)
    assert touches(changed(keys(old), keys(new)), landed([Event(1, 20)]), 7)


def test_change_of_another_identity_or_beyond_the_window_leaves_the_hour_alone():
    own = landed([Event(1, 20)])
    assert not touches(keys([Event(2, 19)]), own, 7)
    assert not touches(keys([Event(1, 12)]), own, 7)
    assert touches(keys([Event(1, 13)]), own, 7)
    assert not touches(keys([]), own, 7)
    assert not touches(keys([Event(1, 13)]), landed([]), 7)
