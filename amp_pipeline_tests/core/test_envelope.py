import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import envelope
from amp_pipeline.core.envelope import REASONS, Bad, Data, Envelope, read_line

READ = ["$insert_id", "device_id", "uuid", "event_type", "server_upload_time", "client_event_time", "event_time"]
FIELDS = [*READ, "event_id", "app", "amplitude_id", "data", "merged_amplitude_id", "City", "city", "\ud800"]

NUMBERS = st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters(), max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=2), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)


@st.composite
def lines(draw: st.DrawFn, values: st.SearchStrategy[Any] = OBJECTS | VALUES) -> bytes:
    """A value written as JSON in one of several ways, now and then with something behind it."""
    text = json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\t", "\r: ")])),
        sort_keys=draw(st.booleans()),
    )
    before, after = draw(st.sampled_from([("", ""), (" ", "\t"), ("", " x"), ("", "{}"), ("", "")]))
    return (before + text + after).encode("utf-8", "backslashreplace")


def slow(line: bytes) -> Envelope | Bad:
    found = envelope.read_exactly(line)
    return found if isinstance(found, Bad) else envelope._envelope_of(found)


@settings(deadline=None)
@given(lines())
def test_fast_and_exact_way_agree(line: bytes):
    assert read_line(line) == slow(line)


@settings(deadline=None)
@given(lines(VALUES))
def test_what_python_reads_is_json(line: bytes):
    found = read_line(line)
    try:
        json.loads(line)
    except ValueError:
        assert isinstance(found, Bad)
    else:
        assert not isinstance(found, Bad) or found.reason in ("not_an_object", "wrong_type")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":"\xff"}', "not_utf8"),
        (b"\xff not json", "not_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "not_utf8"),
        (b'{"a":' + b"[" * 100_000, "too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b"{}{}", "trailing_data"),
        (b'{"a":1} x', "trailing_data"),
        (b"1 2", "trailing_data"),
        (b'{"a":1},', "trailing_data"),
        (b"{} \xc2\xa0", "trailing_data"),
        (b"01", "trailing_data"),
        (b"nonsense", "not_json"),
        (b"{", "not_json"),
        (b'{"a":NaN}', "not_json"),
        (b'{"a":Infinity}', "not_json"),
        (b'{"a":-Infinity}', "not_json"),
        (b'{"a":01}', "not_json"),
        (b'{"a":1.}', "not_json"),
        (b'{"a":.5}', "not_json"),
        (b'{"a":+1}', "not_json"),
        (b'{"a":"tab\tin it"}', "not_json"),
        (b'{"a":"\\x"}', "not_json"),
        (b"{'a':1}", "not_json"),
        (b'{"a":1,}', "not_json"),
        (b'\xc2\xa0{"a":1}', "not_json"),
        (b"\0", "not_json"),
        (b"[]", "not_an_object"),
        (b"5", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"{}"', "not_an_object"),
    ],
)
def test_line_that_is_no_object_is_quarantined(line: bytes, reason: str):
    found = read_line(line)
    assert isinstance(found, Bad)
    assert found.reason == reason


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("value", ["1", "true", "[]", "{}", "1.5"])
def test_text_field_that_is_no_string_is_of_wrong_type(name: str, value: str):
    assert read_line(f'{{"{name}":{value}}}'.encode()) == Bad("wrong_type", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_id", '"5"'),
        ("event_id", "true"),
        ("event_id", "1e400"),
        ("event_id", "1" + "0" * 400),
        ("event_id", "1" + "0" * 5000),
        ("app", "true"),
        ("app", '"7"'),
        ("app", "5.5"),
        ("app", "1e400"),
        ("amplitude_id", "-0.1"),
        ("amplitude_id", "false"),
        ("data", "[]"),
        ("data", '"{}"'),
        ("data", "0"),
    ],
)
def test_field_of_an_impossible_type_is_of_wrong_type(name: str, value: str):
    assert read_line(f'{{"{name}":{value}}}'.encode()) == Bad("wrong_type", name)


@pytest.mark.parametrize("value", ["true", '"1"', "1.5", "[]"])
def test_wrong_type_within_data_is_named(value: str):
    found = read_line(f'{{"data":{{"merged_amplitude_id":{value}}}}}'.encode())
    assert found == Bad("wrong_type", "data.merged_amplitude_id")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{}", Envelope()),
        (b' \t{"app":null,"data":null,"event_id":null}\r', Envelope()),
        (b'{"device_id":"a","device_id":"b"}', Envelope(device_id="b")),
        (b'{"device_id":5,"device_id":"b"}', Envelope(device_id="b")),
        (b'{"device_id":"a","device_id":null}', Envelope()),
        (b'{"Device_Id":5,"APP":"x"}', Envelope()),
        (b'{"device_\\u0069d":"a"}', Envelope(device_id="a")),
        (b'{"device_id":"\\ud800"}', Envelope(device_id="\ud800")),
        (b'{"device_id":"\\ud83d\\ude00"}', Envelope(device_id="\U0001f600")),
        (b'{"x":"\\ud800","device_id":"a"}', Envelope(device_id="a")),
        (b'{"x":1e400,"app":5.0}', Envelope(app=5)),
        (b'{"x":' + b"9" * 5000 + b',"app":7}', Envelope(app=7)),
        (b'{"app":5e0,"amplitude_id":-0.0}', Envelope(app=5, amplitude_id=0)),
        (b'{"amplitude_id":' + b"9" * 30 + b"}", Envelope(amplitude_id=10**30 - 1)),
        (b'{"event_id":5}', Envelope(event_id=5)),
        (b'{"event_id":1.5}', Envelope(event_id=1.5)),
        (b'{"event_id":9223372036854775808}', Envelope(event_id=2**63)),
        (b'{"event_id":1' + b"0" * 300 + b"}", Envelope(event_id=10**300)),
        (b'{"data":{"merged_amplitude_id":3.0,"x":[]}}', Envelope(data=Data(3))),
        (b'{"data":{"merged_amplitude_id":null}}', Envelope(data=Data())),
        (b'{"data":5,"data":{}}', Envelope(data=Data())),
    ],
)
def test_object_is_read(line: bytes, expected: Envelope):
    assert read_line(line) == expected
    assert slow(line) == expected


@pytest.mark.parametrize("sign", ["", "-"])
def test_integer_may_have_as_many_digits_as_python_converts(sign: str):
    digits = "9" * envelope.MOST_DIGITS
    expected = Envelope(amplitude_id=int(sign + digits))
    assert read_line(f'{{"amplitude_id":{sign}{digits}}}'.encode()) == expected
    assert read_line(f'{{"amplitude_id":{sign}{digits}9}}'.encode()) == Bad("wrong_type", "amplitude_id")


def test_large_number_is_read_without_loss():
    assert read_line(b'{"event_id":9007199254740993}') == Envelope(event_id=9007199254740993)


def test_bad_field_does_not_hide_that_the_line_is_no_json():
    for line, reason in ((b'{"device_id":5,', "not_json"), (b'{"device_id":5}{}', "trailing_data")):
        found = read_line(line)
        assert isinstance(found, Bad)
        assert found.reason == reason


def test_blank_line_is_nothing():
    assert [read_line(line) for line in (b"", b" \t\r", b"{}")] == [None, None, Envelope()]


def test_details_hold_no_value_of_the_line():
    for line in (
        b'{"device_id":5,"secret":"x"}',
        b'{"secret"',
        b'{"secret":1}secret',
        b'"secret"',
        b'{"secret":"\xff"}',
    ):
        found = read_line(line)
        assert isinstance(found, Bad)
        assert "secret" not in found.detail
        assert found.reason in REASONS


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_200_levels_are_read_and_201_are_too_deep_whatever_the_stack(opening: str):
    closing = {"[": "]", '{"a":': "}"}[opening]

    def line(levels: int) -> bytes:
        return f'{{"x":{opening * (levels - 1)}1{closing * (levels - 1)}}}'.encode()

    assert isinstance(read_line(line(200)), Envelope)
    assert read_line(line(201)) == Bad("too_deep", "")


def test_brackets_in_strings_are_no_levels():
    assert isinstance(read_line(b'{"x":"' + b"[{" * 500 + b'\\"[[["}'), Envelope)
