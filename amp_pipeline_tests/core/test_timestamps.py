from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import timestamps
from amp_pipeline.core.timestamps import NO_TIME, parse, parse_many, write

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


USUAL = "2024-02-28 23:59:58.123456"
TIMES = st.datetimes().map(lambda at: write((at.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)))


CHANGES = [
    *((0, year) for year in ("0000", "0001", "1900", "2000", "2023", "2024", "9999", "+999", "-001")),
    *((5, day) for day in ("00-01", "01-00", "02-29", "02-30", "04-31", "12-31", "12-32", "13-01", "1-001")),
    *((10, between) for between in (" ", "T", "t", "U", "  ", "\n", "", "_", "\0")),
    *((11, time) for time in ("23:59:59", "24:00:00", "29:00:00", "30:00:00", "10:60:00", "10:00:60", "99:99:99")),
    *((19, rest) for rest in (".", ",", ".000000", ".00000Z", ".0000000", "Z", "", ".00000 ", ".00000\n", ".-00001")),
]
CHARACTERS = [*" T-:.Z/059;\n\0", "\u0661", "\u00e9", "\ud800", "\U0001f600"]


def changed(text: str, change: tuple[int, str]) -> str:
    start, part = change
    return text[:start] + part + text[start + len(part) :]


MUTATED = st.builds(
    changed,
    TIMES | st.just(USUAL),
    st.sampled_from(CHANGES) | st.tuples(st.integers(0, 26), st.sampled_from(CHARACTERS)),
)


def agree(texts: list[str | None]) -> bool:
    found = parse_many(texts)
    return found.dtype == np.int64 and found.tolist() == parse(texts).fill_null(NO_TIME).to_list()


@pytest.mark.parametrize("change", CHANGES)
def test_changed_time_is_parsed_alike_alone_and_among_others(change: tuple[int, str]):
    for text in (changed(USUAL, change), USUAL[: change[0]] + change[1]):
        for texts in ([text], [USUAL, text], [text, USUAL, USUAL]):
            assert agree([*texts])


@settings(deadline=None)
@given(st.lists(TIMES | MUTATED, max_size=4))
def test_many_times_are_parsed_as_each_is(texts: list[str]):
    assert agree([*texts])


@settings(deadline=None)
@given(st.lists(TIMES | MUTATED | st.none() | st.text(st.sampled_from("0123-:. TZ\n"), max_size=30), max_size=4))
def test_many_texts_are_parsed_as_each_is(texts: list[str | None]):
    assert agree(texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["2024-02-29 00:00:00.000000", "2023-02-29 00:00:00.000000"],
        ["1900-02-29 00:00:00.000000", "2000-02-29 00:00:00.000000"],
        # As long as two usual texts, in two and in three lines.
        [USUAL[:20], USUAL[20:] + USUAL],
        [USUAL[:-1], USUAL + "0"],
        [f"{USUAL}\n{USUAL}"],
        [f"{USUAL}\n{USUAL}", "", ""],
        [f"{USUAL}\n{USUAL[:-1]}", ""],
        [f"{USUAL}\n{USUAL}", USUAL[: 26 - 27]],
        ["", USUAL + USUAL],
        [f"{USUAL[:25]}\n", USUAL],
        [f"\n{USUAL[:25]}", USUAL],
        # As many bytes as a usual text, and fewer characters.
        ["2024-02-28 23:59:58.1234\u00e9"],
        ["\u0662024-02-28 23:59:58.12345"],
    ],
)
def test_texts_that_only_look_usual_together(texts: list[str | None]):
    assert agree(texts)


def test_many_usual_times_take_the_fast_way_whatever_stands_between_date_and_time(monkeypatch: pytest.MonkeyPatch):
    texts = [USUAL, USUAL.replace(" ", "T"), "0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"]
    expected = parse(texts).to_list()
    monkeypatch.setattr(timestamps, "parse", None)
    assert parse_many(texts).tolist() == expected


def test_no_times_at_all():
    assert parse_many([]).tolist() == []
    assert parse_many([None, None]).tolist() == [NO_TIME, NO_TIME]
