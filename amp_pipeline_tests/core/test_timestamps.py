from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.timestamps import parse, write

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(year: int, month: int, day: int, *rest: int) -> int:
    return (datetime(year, month, day, *rest, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06 10:00:00.123456", us(2024, 5, 6, 10, 0, 0, 123456)),
        ("2024-05-06T10:00:00.123456", us(2024, 5, 6, 10, 0, 0, 123456)),
        ("2024-05-06T10:00:00.123456Z", us(2024, 5, 6, 10, 0, 0, 123456)),
        ("2024-05-06 10:00:00", us(2024, 5, 6, 10)),
        ("2024-05-06 10:00:00Z", us(2024, 5, 6, 10)),
        ("2024-05-06 10:00:00.1", us(2024, 5, 6, 10, 0, 0, 100000)),
        ("2024-05-06 10:00:00.001", us(2024, 5, 6, 10, 0, 0, 1000)),
        ("2024-02-29 23:59:59.999999", us(2024, 2, 29, 23, 59, 59, 999999)),
        ("1969-12-31 23:59:59.999999", -1),
        ("0001-01-01 00:00:00", us(1, 1, 1)),
        ("9999-12-31 23:59:59", us(9999, 12, 31, 23, 59, 59)),
    ],
)
def test_good_form(text: str, expected: int):
    assert parse([text]).to_list() == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-05-06",
        "2024-05-06 10:00",
        "2024-05-06 10:00:00.",
        "2024-05-06 10:00:00.1234567",
        "2024-05-06 10:00:00+00:00",
        "2024-05-06 10:00:00z",
        "2024-05-06t10:00:00",
        "2024-05-06  10:00:00",
        " 2024-05-06 10:00:00",
        "2024-05-06 10:00:00 ",
        "2024-05-06 10:00:00\n",
        "2024-05-06 24:00:00",
        "2024-05-06 29:00:00",
        "2024-05-06 10:60:00",
        "2024-05-06 10:00:60",
        "2023-02-29 10:00:00",
        "2024-13-01 10:00:00",
        "2024-00-01 10:00:00",
        "2024-05-00 10:00:00",
        "0000-01-01 00:00:00",
        "24-05-06 10:00:00",
        "2024-5-6 10:00:00",
        "2024/05/06 10:00:00",
        "2024-05-06 10:00:00,5",
        "+2024-05-06 10:00:00",
        "٢٠٢٤-05-06 10:00:00",
        "\ud800",
        "2024-05-06 10:00:00\ud800",
    ],
)
def test_bad_form_is_null(text: str):
    assert parse([text]).to_list() == [None]


def test_bad_form_does_not_spoil_its_neighbours():
    assert parse(["1970-01-01 00:00:00", "nonsense", None, "1970-01-01T00:00:01"]).to_list() == [0, None, None, 10**6]


def test_no_times_are_a_series_of_none():
    assert parse([]).to_list() == []
    assert parse([None, None]).to_list() == [None, None]


@given(st.datetimes())
def test_what_is_written_parses_back(at: datetime):
    time = (at.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    assert parse([write(time)]).to_list() == [time]
