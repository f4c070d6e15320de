import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core.errors import FilterError
from amp_pipeline.core.filters import Filter

EVENTS = {
    "empty": b"{}",
    "nulls": b'{"event_type":null,"event_properties":null,"paying":null,"event_time":null,"event_id":null}',
    "buy": b'{"event_type":"buy","event_id":5,"$insert_id":"i","paying":true,"event_time":"2024-05-06T10:00:00Z",'
    b'"event_properties":{"price":2.5,"Kind":"free","tags":["a"],"ok":true,"to":{"city":"Oslo"}}}',
    "view": b'{"event_type":"View","event_id":6.0,"paying":"true","event_time":"2024-05-07 00:00:00.000001",'
    b'"event_properties":{"price":"2.5","ok":"true","to":"Oslo"}}',
    "odd": b'{"event_type":"\\ud800","paying":0,"event_time":"yesterday","event_properties":[]}',
}


def kept(condition: str) -> list[str]:
    return [name for name, keep in zip(EVENTS, Filter(condition).keeps(list(EVENTS.values())), strict=True) if keep]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("event_type = 'buy'", "buy"),
        ("event_type = 'Buy'", ""),
        ("lower(event_type) = 'view'", "view"),
        ("event_type <> 'buy'", "view odd"),
        ("NOT event_type = 'buy'", "view odd"),
        ("event_type IN ('buy', 'View')", "buy view"),
        ("event_type NOT IN ('buy')", "view odd"),
        ("event_type LIKE 'b%'", "buy"),
        ("event_type IS NULL", "empty nulls"),
        ("event_type IS NOT NULL", "buy view odd"),
        ("event_type = NULL", ""),
        ("event_type = 'buy' OR event_type IS NULL", "empty nulls buy"),
        ("\"$insert_id\" = 'i'", "buy"),
        ("event_id = 5", "buy"),
        ("event_id >= 6", "view"),
        ("event_id BETWEEN 5 AND 6", "buy view"),
        ("event_id + 1 = 6", "buy"),
        ("paying", "buy"),
        ("paying IS TRUE", "buy"),
        ("NOT paying", ""),
        ("event_properties.price > 2", "buy"),
        ("event_properties.price = '2.5'", "view"),
        ("event_properties.price IS NULL", "empty nulls odd"),
        ("event_properties.\"Kind\" = 'free'", "buy"),
        ("event_properties.Kind = 'free'", "buy"),
        ("event_properties.kind = 'free'", ""),
        ("event_properties.ok", "buy"),
        ("event_properties.ok = TRUE", "buy"),
        ("event_properties.ok = 'true'", "view"),
        ("event_properties.tags IS NOT NULL", "buy"),
        ("event_properties.tags = 'a'", ""),
        ("event_properties.to.city = 'Oslo'", "buy"),
        ("event_properties.to = 'Oslo'", "view"),
        ("event_properties IS NULL", "empty nulls"),
        ("coalesce(event_properties.price, 0) = 0", "empty nulls view odd"),
        ("event_time >= '2024-05-06'", "buy view"),
        ("event_time > '2024-05-07 00:00:00'", "view"),
        ("event_time = '2024-05-06 10:00:00'", "buy"),
        ("event_time IS NULL", "empty nulls odd"),
        ("event_time < '2024-05-07T00:00:00Z'", "buy"),
        ("event_type = 'buy' AND event_properties.price > 2", "buy"),
        ("TRUE", "empty nulls buy view odd"),
        ("1 = 2", ""),
    ],
)
def test_condition_keeps(condition: str, expected: str):
    assert kept(condition) == expected.split()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "is no SQL condition: it is empty; remove it to keep all events"),
        ("event_type = ", "is no SQL condition: something is missing after 'event_type ='"),
        ("event_type = 'a'\nAND ((", "is no SQL condition: something is missing after \"event_type = 'a' AND ((\""),
        ("(event_id = 1", "is no SQL condition: expecting ) after '(event_id = 1'"),
        ("event_type = 'a' AND ()", "can't be evaluated: unable to parse 'event_type = 'a' AND ()' as Expr"),
        ("event_type = 'buy", "is no SQL condition"),
        ("evnt_type = 'buy'", "names evnt_type, which is no event column; did you mean event_type?"),
        ("price > 2", "names price, which is no event column; paths begin with event_properties or user_properties"),
        ("event_type", "is a value, not a condition"),
        ("event_id + 1", "is a value, not a condition"),
        ("event_properties > 2", "name a path in it, like event_properties.name"),
        ("event_type.name = 'x'", "looks into event_type, which is no object"),
        ("event_type = 5", "can't be evaluated"),
        ("nonsense(event_type)", "can't be evaluated"),
        ("event_time > 'yesterday'", "'yesterday' is no time; write it like '2024-05-06 10:00:00'"),
        ("SELECT 1", "uses SELECT 1"),
        ("event_type = (SELECT 'buy')", "uses"),
        ("count(*) > 1", "uses"),
        ("event_properties.tags[0] = 'a'", "uses"),
        ("event_type = 'a'; DROP TABLE x", "filter"),
    ],
)
def test_what_is_no_condition_is_refused(condition: str, message: str):
    with pytest.raises(FilterError, match=re.escape(message)):
        Filter(condition)


@pytest.mark.parametrize("condition", ["event_time < now()", "event_time < current_timestamp"])
def test_condition_that_depends_on_the_clock_is_refused(condition: str):
    with pytest.raises(FilterError):
        Filter(condition)


def test_numbers_of_any_size_are_read():
    lines = [
        b'{"event_properties":{"n":%s}}' % number for number in (b"1e400", b"1" + b"0" * 400, b"9" * 5000, b"-0.0")
    ]
    assert Filter("event_properties.n >= 0").keeps(lines) == [True, False, True, True]
    assert Filter("app = 1").keeps([b'{"app":1}', b'{"app":1.0}']) == [True, True]


@pytest.mark.parametrize("number", ["1.5", "1e400", "9" * 30])
def test_event_id_that_fits_no_integer_column_is_null(number: str):
    assert Filter("event_id IS NULL").keeps([f'{{"event_id":{number}}}'.encode()]) == [True]


def test_of_a_doubled_key_the_last_counts():
    lines = [b'{"event_type":"a","event_type":"b"}', b'{"event_type":"b","event_type":"a"}']
    assert Filter("event_type = 'b'").keeps(lines) == [True, False]


def test_no_lines_are_kept_of_none():
    assert Filter("event_type = 'a'").keeps([]) == []


CONDITIONS = [
    Filter(condition)
    for condition in (
        "event_type LIKE 'a%' OR event_properties.a > 1 OR event_properties.b = 'x'",
        "event_properties.a / event_properties.b > 1 AND event_id % 2 = 0",
        "paying OR event_properties.a OR event_time > '2024-05-06'",
        "length(event_properties.a) > 1 OR event_properties.a.b IS NULL",
        "event_properties.a = event_properties.b OR event_id IN (1, 2)",
        "user_properties.a BETWEEN 1 AND 2 OR coalesce(event_type, city) = 'x'",
    )
]
NAMES = st.sampled_from(
    ["event_type", "event_id", "event_time", "paying", "city", "event_properties", "user_properties", "a", "b"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=3)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=4))
def test_no_object_makes_a_filter_fail_and_its_neighbours_change_nothing(objects: list[dict[str, Any]]):
    lines = [json.dumps(item).encode() for item in objects]
    for condition in CONDITIONS:
        found = condition.keeps(lines)
        assert found == [condition.keeps([line])[0] for line in lines]
        assert all(isinstance(keep, bool) for keep in found)
