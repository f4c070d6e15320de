from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.hours import MICROSECONDS, Hour, between, ranges, window

HOURS = st.datetimes().map(Hour.of)


@given(HOURS)
def test_key_parses_back_to_the_hour(hour: Hour):
    assert Hour.parse(hour.key) == hour
    assert len(hour.key) == len("2024-05-06-10:00")


@given(HOURS, HOURS)
def test_keys_sort_as_their_hours_do(one: Hour, other: Hour):
    assert (one.key < other.key) == (one < other)


@pytest.mark.parametrize(
    "key", ["", "2024-05-06", "2024-05-06-10:30", "2024-05-06-24:00", "2024-02-30-10:00", "2024-05-06 10:00"]
)
def test_what_is_no_whole_hour_is_refused(key: str):
    with pytest.raises(ValueError, match=r"hour|time data|day is out of range|unconverted"):
        Hour.parse(key)


def test_an_hour_holds_its_first_and_last_microsecond():
    ten = Hour.parse("2024-05-06-10:00")
    assert Hour.of(ten.start) == ten
    assert Hour.of(ten.start + timedelta(hours=1, microseconds=-1)) == ten
    assert Hour.of(ten.start + timedelta(hours=1)) == ten + 1
    assert Hour(ten.start_us // MICROSECONDS) == ten


def test_a_time_of_another_zone_is_read_as_the_instant_it_is():
    berlin = timezone(timedelta(hours=2))
    assert Hour.of(datetime(2024, 5, 6, 1, 30, tzinfo=berlin)).key == "2024-05-05-23:00"
    assert Hour.of(datetime(2024, 5, 6, 1, 30, tzinfo=UTC).replace(tzinfo=None)) == Hour.of(
        datetime(2024, 5, 6, 1, 30, tzinfo=UTC)
    )


def test_parts_of_an_hour_are_utc():
    hour = Hour.parse("2024-05-06-05:00")
    assert (hour.date, hour.day, hour.of_day, str(hour)) == (date(2024, 5, 6), "2024-05-06", 5, "2024-05-06-05:00")


def test_between_holds_both_ends():
    first = Hour.parse("2024-05-06-22:00")
    hours = list(between(first, first + 4))
    assert [hour.key[-8:] for hour in hours] == ["06-22:00", "06-23:00", "07-00:00", "07-01:00", "07-02:00"]
    assert list(between(first, first + -1)) == []


@pytest.mark.parametrize(
    ("length", "hours"), [(timedelta(minutes=1), 1), (timedelta(hours=1), 1), (timedelta(minutes=61), 2)]
)
def test_window_reaches_every_hour_that_can_hold_an_earlier_event(length: timedelta, hours: int):
    assert window(Hour(100), length) == (Hour(100 - hours), Hour(99))


@given(st.integers(0, 10**6), st.integers(1, 10**13))
def test_first_hour_of_a_window_is_that_of_the_earliest_event_in_reach(number: int, length_us: int):
    hour = Hour(number)
    first, last = window(hour, timedelta(microseconds=length_us))
    assert first.start_us <= hour.start_us - length_us < (first + 1).start_us
    assert last == hour + -1


def test_hours_are_told_as_ranges():
    hours = [Hour(5), Hour(1), Hour(2), Hour(3), Hour(9), Hour(2)]
    assert ranges(hours) == [(Hour(1), Hour(3)), (Hour(5), Hour(5)), (Hour(9), Hour(9))]
    assert ranges([]) == []
