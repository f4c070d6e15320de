from bisect import bisect_left
from collections.abc import Callable
from struct import pack
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import index
from amp_pipeline.core.errors import WorkspaceError
from amp_pipeline.core.index import KeyIndex, Keys, Rows
from amp_pipeline_tests.core.key_files import NO_TIME, Event, keys_file, plain, ranked, reading, rows_file

TOP = 2**64 - 1
HIGHS = st.sampled_from([0, 1, 2, 2**58, 2**63, TOP - 1, TOP])
EVENTS = st.lists(
    st.builds(
        Event,
        row=st.just(0),
        time=st.integers(-2, 2) | st.integers(-(2**62), 2**62),
        event_time=st.none() | st.integers(-5, 5),
        identity=st.none() | st.tuples(HIGHS, st.sampled_from([0, 1, TOP])),
        content=st.sampled_from([0, 1, TOP]),
    ),
    max_size=16,
).map(lambda events: [event._replace(row=2 * row) for row, event in enumerate(events)])
BLOCKS = st.sampled_from([1, 2, 3, 4096])


def opened(data: bytes) -> KeyIndex:
    return KeyIndex(reading(data), len(data), "keys of an hour")


def keys_of(keys: list[tuple[int, ...]]) -> Keys:
    high, low, time, content = ([key[at] for key in keys] for at in range(4))
    u64 = np.uint64
    return Keys(np.array(high, u64), np.array(low, u64), np.array(time, np.int64), np.array(content, u64))


def wanted_of(highs: set[int]) -> Any:
    return np.array(sorted(highs), np.uint64)


@settings(deadline=None)
@given(EVENTS, BLOCKS)
def test_index_reads_back_as_it_was_written(events: list[Event], block: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "KEYS_A_BLOCK", block)
        data = keys_file(events)
        assert plain(opened(data).all()) == [key[:4] for key in ranked(events)]
        assert opened(data).count == len(ranked(events))


@settings(deadline=None)
@given(EVENTS, BLOCKS, HIGHS, HIGHS)
def test_keys_between_are_those_of_a_slow_obvious_loop(events: list[Event], block: int, one: int, other: int):
    first, last = sorted((one, other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "KEYS_A_BLOCK", block)
        rank, found = opened(keys_file(events)).between(first, last)
    keys = [key[:4] for key in ranked(events)]
    assert plain(found) == [key for key in keys if first <= key[0] <= last]
    assert rank == bisect_left([key[0] for key in keys], first)


@settings(deadline=None)
@given(EVENTS, BLOCKS, st.sets(HIGHS))
def test_keys_searched_are_those_of_a_slow_obvious_loop(events: list[Event], block: int, wanted: set[int]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "KEYS_A_BLOCK", block)
        found = opened(keys_file(events)).search(wanted_of(wanted))
    assert plain(found) == [key[:4] for key in ranked(events) if key[0] in wanted]


def many(count: int = 3 * index.KEYS_A_BLOCK + 7) -> list[Event]:
    """Of two keys in three the digest is spread, the others have one of two digests, and more than a block of each."""
    spread = [(number * 0x9E3779B97F4A7C15) & TOP for number in range(count)]
    highs = [high if number % 3 else (2**62, TOP)[number % 2] for number, high in enumerate(spread)]
    return [Event(row, row % 7, None, (high, row % 5), row) for row, high in enumerate(highs)]


def test_many_keys_are_found_one_by_one_and_all_together():
    events = many()
    keys = [key[:4] for key in ranked(events)]
    found = opened(keys_file(events))
    assert plain(found.all()) == keys
    highs = {key[0] for key in keys}
    for some in ({2**62}, {TOP}, {0, TOP}, {keys[0][0], keys[-1][0]}, {keys[index.KEYS_A_BLOCK][0]}, highs, {5}):
        assert plain(found.search(wanted_of(some))) == [key for key in keys if key[0] in some]
    firsts = [key[0] for key in keys[:: index.KEYS_A_BLOCK // 2]]
    for first, last in zip(firsts, [*firsts[1:], TOP], strict=True):
        rank, between = found.between(first, last)
        assert plain(between) == [key for key in keys if first <= key[0] <= last]
        assert rank == bisect_left(keys, (first,))


def test_little_is_read_of_a_large_index():
    data = keys_file([Event(row, 0, None, (row << 40, 0), 0) for row in range(20 * index.KEYS_A_BLOCK)])
    read: list[int] = []

    def noted(start: int, length: int) -> bytes:
        read.append(length)
        return data[start : start + length]

    found = KeyIndex(noted, len(data), "keys")
    read.clear()
    assert found.between(5000 << 40, 5001 << 40)[1].count == 2
    assert found.search(wanted_of({7000 << 40, 7001 << 40})).count == 2
    assert sum(read) <= 4 * 32 * index.KEYS_A_BLOCK


def test_key_index_is_little_endian_columns_behind_header_and_directory():
    keys = [Event(0, -1, None, (3, 4), 5), Event(1, 7, None, (1, 2), TOP)]
    data = keys_file(keys)
    assert data[:16] == b"AMPKEYS2" + pack("<Q", 2)
    assert data[24:32] == bytes(8)
    assert data[32:40] == pack("<Q", 1)
    assert data[56:] == pack("<QQ", 1, 3) + pack("<QqQ", 2, 7, TOP) + pack("<QqQ", 4, -1, 5)
    directory = index.directory(2, reading(data))
    assert index.keys_header(2, directory) + directory == data[:56]


def test_hour_without_events_has_an_empty_index():
    data = keys_file([])
    assert len(data) == index.HEADER_BYTES
    found = opened(data)
    assert plain(found.all()) == plain(found.search(wanted_of({0, TOP}))) == plain(index.no_keys()) == []
    rank, between = found.between(5, 9)
    assert (rank, between.count) == (0, 0)
    assert plain(opened(keys_file([Event(0, 0)])).search(wanted_of(set()))) == []


@pytest.mark.parametrize("last", [0, 1, 5])
def test_flipped_byte_is_noticed_wherever_it_is(monkeypatch: pytest.MonkeyPatch, last: int):
    monkeypatch.setattr(index, "KEYS_A_BLOCK", 2)
    events = [Event(row, row, None, (row, row), row) for row in range(last)]
    whole = keys_file(events)
    everything = wanted_of(set(range(last)))
    ways: list[Callable[[KeyIndex], object]] = [
        lambda found: found.all(),
        lambda found: found.between(0, TOP),
        lambda found: found.search(everything),
    ]
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        for way in ways:
            with pytest.raises(WorkspaceError, match="keys of an hour"):
                way(opened(bytes(damaged)))


def test_flipped_byte_never_shows_in_what_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "KEYS_A_BLOCK", 2)
    events = [Event(row, row, None, (row // 2, row), row) for row in range(7)]
    whole = keys_file(events)
    keys = [key[:4] for key in ranked(events)]
    noticed = 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        for first in range(4):
            try:
                found = opened(bytes(damaged))
                between, searched = found.between(first, first + 1)[1], found.search(wanted_of({first, first + 1}))
            except WorkspaceError:
                noticed += 1
            else:
                assert plain(between) == plain(searched) == [key for key in keys if key[0] in (first, first + 1)]
    assert noticed > len(whole)


@pytest.mark.parametrize("events", [[], [Event(0, 1)], many(5000)], ids=len)
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:9]]
)
def test_file_that_is_not_whole_is_refused(events: list[Event], damage: Callable[[bytes], bytes]):
    with pytest.raises(WorkspaceError, match="keys of an hour is not a whole AMPKEYS2"):
        opened(damage(keys_file(events)))
    data = damage(rows_file(events))
    with pytest.raises(WorkspaceError, match="rows of an hour is not a whole AMPROWS2"):
        Rows(reading(data), len(data), "rows of an hour")


def test_file_cut_off_anywhere_is_refused():
    keys, rows = keys_file([Event(0, 1), Event(1, 2)]), rows_file([Event(0, 1), Event(1, 2)])
    for end in range(len(keys)):
        with pytest.raises(WorkspaceError, match="not a whole AMPKEYS2"):
            opened(keys[:end])
    for end in range(len(rows)):
        with pytest.raises(WorkspaceError, match="not a whole AMPROWS2"):
            Rows(reading(rows[:end]), end, "rows")


def test_rows_are_no_key_index():
    events = [Event(0, 1)]
    with pytest.raises(WorkspaceError, match="AMPKEYS2"):
        opened(rows_file(events))
    with pytest.raises(WorkspaceError, match="AMPROWS2"):
        Rows(reading(keys_file(events)), len(keys_file(events)), "rows")


@settings(deadline=None)
@given(EVENTS, st.integers(1, 5), st.data())
def test_rows_read_back_as_they_were_written(events: list[Event], chunk: int, data: st.DataObject):
    written = rows_file(events)
    rows = Rows(reading(written), len(written), "rows")
    keys = ranked(events)
    assert (rows.events, rows.keys) == (len(events), len(keys))
    expected = [(row, time, NO_TIME if other is None else other) for row, time, other, _, _ in events]
    assert [record for found in rows.chunks(chunk) for record in found.tolist()] == expected
    assert all(0 < len(found) <= chunk for found in rows.chunks(chunk))
    first = data.draw(st.integers(0, len(keys)))
    count = data.draw(st.integers(0, len(keys) - first))
    assert rows.of_ranks(first, count).tolist() == [key[4] for key in keys[first : first + count]]


@given(EVENTS, EVENTS)
def test_order_is_that_of_an_index(one: list[Event], other: list[Event]):
    events = [event for event in one + other if event.identity is not None]
    unsorted = [(*(event.identity or (0, 0)), event.time, place) for place, event in enumerate(events)]
    found = index.order(keys_of(unsorted)).tolist()
    assert found == [key[3] for key in sorted(unsorted)]


def test_order_of_many_keys_with_one_digest():
    events = many(20_000)
    unsorted = [(*(event.identity or (0, 0)), event.time, place) for place, event in enumerate(events)]
    assert index.order(keys_of(unsorted)).tolist() == [key[3] for key in sorted(unsorted)]


@given(st.integers(0, 10**12), st.integers(1, 10**10))
def test_ranges_cover_all_digests_once(keys: int, most: int):
    keys = min(keys, 1000 * most)
    found = list(index.ranges(keys, most))
    assert (found[0][0], found[-1][1]) == (0, TOP)
    assert all(first <= last for first, last in found)
    assert all(one[1] + 1 == other[0] for one, other in zip(found[:-1], found[1:], strict=True))
    assert len(found) == max(1, -(-keys // most))
    widths = [last - first for first, last in found]
    assert max(widths) - min(widths) <= 1


@given(st.lists(HIGHS).map(sorted), st.sets(HIGHS))
def test_in_both_is_a_slow_obvious_loop(keys: list[int], wanted: set[int]):
    assert index.in_both(np.array(keys, np.uint64), wanted_of(wanted)).tolist() == [key in wanted for key in keys]


@given(EVENTS, st.data())
def test_keys_are_columns_chosen_joined_and_framed(events: list[Event], data: st.DataObject):
    plainly = [key[:4] for key in ranked(events)]
    keys = keys_of(plainly)
    mask = data.draw(st.lists(st.booleans(), min_size=keys.count, max_size=keys.count))
    some, others = keys.where(np.array(mask, np.bool_)), keys.where(np.flatnonzero(~np.array(mask, np.bool_)))
    assert plain(some) == [key for key, chosen in zip(plainly, mask, strict=True) if chosen]
    assert plain(index.joined([some, others, index.no_keys()])) == plain(some) + plain(others)
    assert keys.frame().rows() == plainly
    same = [at > 0 and plainly[at][:2] == plainly[at - 1][:2] for at in range(keys.count)]
    assert keys.same_as_before().tolist() == same
