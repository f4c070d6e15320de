import random
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core import summaries
from amp_pipeline.core.event_rows import EventRows
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.summaries import Summary, Summing, groups_of, merged, summary
from amp_pipeline_tests.builders import HOUR_US, event
from amp_pipeline_tests.laws.soak import quick

FIELDS = [
    {"user_id": "a", "groups": {"t": ["x", "y"]}, "event_type": "b"},
    {"user_id": "a", "amplitude_id": 5, "group_properties": {"n": 1}, "groups": {"t": "x"}},
    {"device_id": "d", "event_time": "2024-01-01 00:00:00", "city": "Köln"},
    {"device_id": "d", "event_type": None, "user_properties": {"a": None}},
]


@st.composite
def hours(draw: st.DrawFn) -> list[Summary]:
    """Summaries of some hours."""
    found: list[Summary] = []
    for hour in range(draw(st.integers(1, 4))):
        some = draw(st.lists(st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from(FIELDS)), max_size=6))
        lines = [event(hour * HOUR_US + us, language=f"{hour} {at}", **one) for at, (us, one) in enumerate(some)]
        found.append(summary_of(lines))
    return found


def summary_of(lines: Sequence[bytes]) -> Summary:
    return summary(EventRows().read(block_of(lines)), pl.Series(range(len(lines)), dtype=pl.Int64))


@quick
@given(hours(), st.randoms(use_true_random=False))
def test_in_any_order_and_grouping_the_bytes_are_the_same(several: list[Summary], chosen: random.Random):
    expected = summaries.encode(merged(several))
    chosen.shuffle(several)
    cut = chosen.randint(0, len(several))
    halves = [summaries.decode(summaries.encode(merged(half))) for half in (several[:cut], several[cut:])]
    assert summaries.encode(merged(halves)) == expected


def test_of_the_last_event_counts_time_then_row():
    lines = [event(5, city="late"), event(1, city="early"), event(5, city="later")]
    (row,) = summary_of(lines).users.iter_rows(named=True)
    assert (row["city"], row["events"], row["row"]) == ("later", 3, 2)


def test_a_null_of_the_last_event_is_null():
    (row,) = summary_of([event(1, city="Köln"), event(2)]).users.iter_rows(named=True)
    assert row["city"] is None


def test_a_stream_sums_to_what_all_at_once_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(summaries, "_FEW_ROWS", 3)
    lines = [event(number % 7, **FIELDS[number % 4]) for number in range(40)]
    rows = EventRows().read(block_of(lines))
    summing = Summing()
    for start in range(0, 40, 9):
        part = rows[start : start + 9]
        summing.add(part, pl.Series(range(start, start + len(part)), dtype=pl.Int64))
    assert summaries.encode(summing.finish()) == summaries.encode(summary_of(lines))


def test_long_texts_of_groups_are_not_remembered():
    groups_of.cache_clear()
    found = summary_of([event(number, groups={"t": f"{number}" + "x" * 3000 * (number % 2)}) for number in range(10)])
    assert len(found.groups) == 10
    assert groups_of.cache_info().currsize == 5


def test_what_is_no_summary_is_told():
    with pytest.raises(ValueError, match="it holds no summary"):
        summaries.decode(b"\x91\x01")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ('{"t":["b","a","a",1,null,["x"]],"s":"","u":5,"v":{}}', (("s", ""), ("t", "a"), ("t", "b"))),
        ('["t"]', ()),
        ('"t"', ()),
        ('{"t":"\\ud800"}', ()),
        ('{"t":1e400,"s":"x"}', (("s", "x"),)),
    ],
)
def test_groups_are_strings(text: str, groups: tuple[tuple[str, str], ...]):
    assert groups_of(text) == groups
