import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from amp_pipeline.core import index
from amp_pipeline.core.errors import WorkspaceError

TIMES = st.integers(-(2**62), 2**62)
EVENTS = st.lists(
    st.tuples(TIMES, st.none() | TIMES, st.none() | st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
)
Event = tuple[int, int | None, bytes | None, int]


def built(events: list[Event]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return index.build(
        range(0, 2 * len(events), 2),
        [time for time, _, _, _ in events],
        [event_time for _, event_time, _, _ in events],
        [digest for _, _, digest, _ in events],
        [content for _, _, _, content in events],
    )


@settings(deadline=None)
@given(EVENTS)
def test_index_reads_back_as_it_was_written(events: list[Event]):
    keys, rows = built(events)
    assert_frame_equal(index.decode_keys(index.encode_keys(keys)), keys)
    assert_frame_equal(index.decode_rows(index.encode_rows(rows)), rows)
    assert rows["event_time"].to_list() == [event_time for _, event_time, _, _ in events]
    assert len(index.encode_keys(keys)) == 16 + 32 * len(keys)


@settings(deadline=None)
@given(EVENTS)
def test_events_are_found_again_by_their_rank(events: list[Event]):
    keys, rows = built(events)
    expected = [
        (2 * number, int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"), time, content)
        for number, (time, _, digest, content) in enumerate(events)
        if digest is not None
    ]
    assert index.events_of(rows, keys).rows() == expected
    assert keys.rows() == sorted((row[1:] for row in expected), key=lambda row: row[:3])


def test_key_index_is_little_endian_columns_behind_a_short_header():
    keys, _ = built([(1, None, bytes(15) + b"\x02", 3)])
    words = [0, 2, 1, 3]
    assert index.encode_keys(keys) == b"AMPKEYS1" + b"".join(word.to_bytes(8, "little") for word in [1, *words])


def test_hour_without_events_has_an_empty_index():
    keys, rows = built([])
    assert_frame_equal(keys, index.empty_keys())
    assert_frame_equal(rows, index.empty_rows())
    assert index.events_of(rows, keys).is_empty()


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:9]]
)
def test_index_that_is_not_whole_is_refused(damage):
    keys, rows = built([(1, 2, bytes(16), 3)])
    with pytest.raises(WorkspaceError, match="not a whole AMPKEYS1"):
        index.decode_keys(damage(index.encode_keys(keys)))
    with pytest.raises(WorkspaceError, match="not a whole AMPROWS1"):
        index.decode_rows(damage(index.encode_rows(rows)))


def test_rows_are_no_key_index():
    keys, rows = built([(1, 2, bytes(16), 3)])
    with pytest.raises(WorkspaceError, match="AMPKEYS1"):
        index.decode_keys(index.encode_rows(rows))
    with pytest.raises(WorkspaceError, match="AMPROWS1"):
        index.decode_rows(index.encode_keys(keys))
