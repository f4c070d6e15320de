from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import index
from amp_pipeline.core.index import KeyIndex, Rows
from amp_pipeline.workspace.keys import KeysWriter
from amp_pipeline_tests.core.key_files import NO_TIME, Event, keys_file, plain, ranked, reading, rows_file

TOP = 2**64 - 1
SHARE = 1 << 58
HIGHS = st.sampled_from([0, 1, SHARE - 1, SHARE, 2**63, TOP]) | st.integers(0, TOP)
BATCHES = st.lists(
    st.lists(
        st.builds(
            Event,
            row=st.just(0),
            time=st.integers(-1, 1) | st.integers(-(2**62), 2**62),
            event_time=st.none() | st.integers(-5, 5),
            identity=st.none() | st.tuples(HIGHS, st.sampled_from([0, 1, TOP])),
            content=st.integers(0, TOP),
        ),
        max_size=6,
    ),
    max_size=5,
)


def add(writer: KeysWriter, events: list[Event]) -> None:
    times = [NO_TIME if event.event_time is None else event.event_time for event in events]
    writer.add(
        np.array([event.row for event in events], np.int64),
        np.array([event.time for event in events], np.int64),
        np.array(times, np.int64),
        b"".join(
            high.to_bytes(8, "big") + low.to_bytes(8, "big") for high, low in (e.identity or (7, 7) for e in events)
        ),
        np.array([event.content for event in events], np.uint64),
        [at for at, event in enumerate(events) if event.identity is None],
    )


def written(batches: list[list[Event]], most: int) -> tuple[bytes, bytes, list[str]]:
    """The key index, the rows, and the names of all files."""
    with TemporaryDirectory() as folder:
        writer = KeysWriter(Path(folder), most)
        try:
            for events in batches:
                add(writer, events)
            keys, rows = writer.write()
        finally:
            writer.close()
        names = sorted(path.name for path in Path(folder).iterdir())
        return keys.read_bytes(), rows.read_bytes(), names


def numbered(batches: list[list[Event]]) -> list[list[Event]]:
    """With ascending rows."""
    rows = iter(range(0, 1000, 3))
    return [[event._replace(row=next(rows)) for event in events] for events in batches]


@settings(deadline=None)
@given(BATCHES.map(numbered), st.sampled_from([0, 1, 2, 3, 7, 100]), st.sampled_from([1, 2, 4096]))
def test_same_bytes_however_few_keys_fit_into_memory(batches: list[list[Event]], most: int, block: int):
    events = [event for batch in batches for event in batch]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "KEYS_A_BLOCK", block)
        keys, rows, names = written(batches, most)
        assert keys == keys_file(events)
        assert rows == rows_file(events)
    assert names == ["events", "keys", "rows"]


@given(BATCHES.map(numbered))
def test_writer_counts(batches: list[list[Event]]):
    events = [event for batch in batches for event in batch]
    with TemporaryDirectory() as folder:
        writer = KeysWriter(Path(folder), 2)
        for batch in batches:
            add(writer, batch)
        assert (writer.events, writer.keys) == (len(events), len(ranked(events)))
        writer.close()


@pytest.mark.parametrize("most", [1, 1000, 1 << 20])
def test_many_keys_some_with_one_digest(most: int):
    spread = [(number * 0x9E3779B97F4A7C15) & TOP for number in range(2 * index.KEYS_A_BLOCK)]
    events = [Event(row, -row % 3, None, (high if row % 3 else 2**62, row % 2), row) for row, high in enumerate(spread)]
    keys, rows, _ = written([events[at : at + 500] for at in range(0, len(events), 500)], most)
    assert (keys, rows) == (keys_file(events), rows_file(events))


def test_ties_keep_landing_order_through_shares():
    events = [Event(row, 0, None, (5, 5), TOP - row) for row in range(40)]
    for most in (0, 1, 7, 100):
        keys, rows, _ = written([events[at : at + 3] for at in range(0, 40, 3)], most)
        assert plain(KeyIndex(reading(keys), len(keys), "keys").all()) == [(5, 5, 0, TOP - row) for row in range(40)]
        assert Rows(reading(rows), len(rows), "rows").of_ranks(0, 40).tolist() == list(range(40))


def test_hour_without_events_and_one_without_identities():
    assert written([], 1)[:2] == (keys_file([]), rows_file([]))
    events = [Event(3, 1, 2, None), Event(4, 1, None, None)]
    for most in (0, 1, 100):
        assert written([events, []], most)[:2] == (keys_file(events), rows_file(events))


def test_writer_given_up_leaves_nothing_open(tmp_path: Path):
    writer = KeysWriter(tmp_path, 1)
    add(writer, [Event(0, 1), Event(1, 2)])
    writer.close()
    writer.close()
