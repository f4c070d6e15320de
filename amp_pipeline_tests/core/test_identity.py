import json
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import identity as module
from amp_pipeline.core.envelope import Envelope, read_line
from amp_pipeline.core.identity import (
    COLUMNS,
    DIGEST_BYTES,
    KINDS,
    NOT_CONTENT,
    content_digest,
    digest,
    identity,
    many,
    members,
)
from amp_pipeline.core.timestamps import NO_TIME
from amp_pipeline_tests.oracle import content_of

WHOLE: dict[str, Any] = {"device_id": "d", "insert_id": "i", "event_id": 5, "uuid": "u"}
TEXTS = st.text(st.characters() | st.sampled_from("0123456789:@"), max_size=4)


def kind(client: int | None = 0, **changes: Any) -> str | None:
    found = identity(Envelope(**{**WHOLE, **changes}), client)
    return None if found is None else found[0]


def test_first_kind_that_applies_counts():
    assert list(KINDS) == ["i", "e", "u"]
    assert kind() == "i"
    assert kind(insert_id=None) == "e"
    assert kind(insert_id="") == "e"
    assert kind(insert_id="", event_id=None) == "u"
    assert kind(None, insert_id="") == "u"
    assert kind(device_id=None) == "u"
    assert kind(device_id="") == "u"
    assert kind(device_id="", uuid="") is None
    assert kind(device_id=None, uuid=None) is None


def test_zero_is_an_event_id_and_a_time():
    assert kind(0, insert_id=None, event_id=0) == "e"


@settings(deadline=None)
@given(*[st.builds(Envelope, device_id=TEXTS, insert_id=TEXTS, event_id=st.integers(0, 11), uuid=TEXTS)] * 2)
def test_different_identities_are_different_texts(one: Envelope, other: Envelope):
    def plainly(event: Envelope) -> Any:
        if event.device_id:
            return (
                ("i", event.device_id, event.insert_id) if event.insert_id else ("e", event.device_id, event.event_id)
            )
        return ("u", event.uuid) if event.uuid else None

    assert (identity(one, 1) == identity(other, 1)) == (plainly(one) == plainly(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"device_id": "1:2", "insert_id": "3"}, {"device_id": "1", "insert_id": ":23"}),
        ({"device_id": "ab", "insert_id": "c"}, {"device_id": "a", "insert_id": "bc"}),
        ({"device_id": "A", "insert_id": "c"}, {"device_id": "a", "insert_id": "c"}),
        ({"device_id": "e\u0301", "insert_id": "c"}, {"device_id": "\u00e9", "insert_id": "c"}),
        ({"device_id": "a", "insert_id": "1@0"}, {"device_id": "a", "insert_id": None, "event_id": 1}),
        ({"device_id": None, "uuid": "1:di"}, {"device_id": "d", "insert_id": "i"}),
        ({"insert_id": None, "event_id": 5}, {"insert_id": None, "event_id": 5.5}),
        ({"insert_id": None, "event_id": 2**53}, {"insert_id": None, "event_id": 2**53 + 1}),
    ],
)
def test_other_identity(one: dict[str, Any], other: dict[str, Any]):
    assert identity(Envelope(**{**WHOLE, **one}), 0) != identity(Envelope(**{**WHOLE, **other}), 0)


@pytest.mark.parametrize(("one", "other"), [(5, 5.0), (0, -0.0), (10**22, 1e22), (-7, -7.0)])
def test_numbers_compare_as_numbers(one: float, other: float):
    events = [Envelope(device_id="d", event_id=number) for number in (one, other)]
    assert identity(events[0], 0) == identity(events[1], 0)


def test_client_event_time_counts_to_the_microsecond():
    event = Envelope(device_id="d", event_id=5)
    assert identity(event, 1) != identity(event, 2)


def test_strings_compare_as_decoded():
    lines = [b'{"device_id":"\\u0061\\/","$insert_id":"i"}', b'{"$insert_id":"\\u0069","device_id":"a/"}']
    events = [event for event in map(read_line, lines) if isinstance(event, Envelope)]
    assert len(events) == 2
    assert identity(events[0], None) == identity(events[1], None)


def test_strings_with_lone_surrogates_and_many_events_at_once():
    events = [
        Envelope(device_id="d", insert_id="i"),
        Envelope(device_id="d", insert_id="\ud800"),
        Envelope(device_id="d", event_id=5),
        Envelope(device_id="d", event_id=5, uuid="u"),
        Envelope(insert_id="i"),
    ]
    times = [None, 0, -1, None, 0]
    texts = [identity(event, time) for event, time in zip(events, times, strict=True)]
    assert [text and text[0] for text in texts] == ["i", "i", "e", "u", None]
    found = many(events, np.array([NO_TIME if time is None else time for time in times], np.int64))
    assert found == [None if text is None else digest(text) for text in texts]


WHOLE_LINE = (
    b'{"event_type":"buy","app":7,"device_id":"d","$insert_id":"i","event_time":null,"amplitude_id":5.0,"new":[1, 2],'
    b'"city":"B\xc3\xa9ziers","data":{"path": "/"},"uuid":"u","client_event_time":"2024-05-06 10:00:00",'
    b'"\\u0061b":null}'
)


def test_digests_are_stable_for_ever():
    assert digest("i1:di").hex() == "3c623694127dfecd6c4467febfb874f4"
    assert len(digest("i1:d\ud800")) == DIGEST_BYTES
    assert content(b"{}") == 13672382374923819824
    assert content(b'{"b": [1, 2] ,"a":"x","uuid":"u"}') == 7004928746624115275
    assert content(WHOLE_LINE) == 17646357440808854534
    assert (
        content(b'{"device_id":"\\ud800","amplitude_id":18446744073709551616,"\\ud800":1e400}') == 10993623434036162387
    )


def test_known_columns_never_change():
    assert len(COLUMNS) == len(set(COLUMNS)) == 43
    assert xxhash.xxh3_64_intdigest(",".join(COLUMNS).encode()) == 9838559611770085835


def content(line: bytes) -> int:
    event = read_line(line)
    assert isinstance(event, Envelope)
    return content_digest(line, event)


def content_of_fields(fields: dict[str, Any]) -> int:
    return content(json.dumps(fields).encode())


CONTENT = {"event_type": "buy", "event_properties": {"b": 1, "a": [1.0, "\u00e9"]}, "app": 7, "new": "x"}
DECODED = ("device_id", "$insert_id", "event_type", "client_event_time", "event_time", "app", "amplitude_id")


def test_order_of_keys_and_white_space_between_them_is_no_content():
    text = json.dumps(CONTENT)
    turned = json.dumps(dict(reversed(CONTENT.items())))
    spaced = text.replace('"app": 7', '\t"app"  :  7 ').replace('"new": "x"', '"new"\r:"x" ')
    assert content(text.encode()) == content(turned.encode()) == content(spaced.encode())


@pytest.mark.parametrize("name", NOT_CONTENT)
def test_what_differs_between_two_deliveries_is_no_content(name: str):
    value = 5 if name == "event_id" else "x"
    plain = content_of_fields(CONTENT)
    assert content_of_fields({**CONTENT, name: value}) == plain
    assert content_of_fields({**CONTENT, "event_properties": {name: value}}) != plain


@pytest.mark.parametrize("name", DECODED)
def test_fields_of_the_envelope_are_content_as_decoded(name: str):
    plain, other = (b"7", b"8") if name in ("app", "amplitude_id") else (b'"a"', b'"b"')
    same = (b"7.0", b" 7 ", b"70e-1") if name in ("app", "amplitude_id") else (b'"\\u0061"', b' "a"\t')
    line = b'{"%s":%s,"x":1}'
    expected = content(line % (name.encode(), plain))
    assert {content(line % (name.encode(), value)) for value in same} == {expected}
    assert content(line % (name.encode(), other)) != expected
    assert content(line % (name.encode(), b"null")) == content(b'{"x":1}') != expected


def test_fields_of_the_envelope_are_not_taken_for_one_another():
    fields = [{name: "a"} for name in DECODED[:5]] + [{name: 1} for name in DECODED[5:]] + [{"city": "a"}, {"data": {}}]
    fields += [{"device_id": "null"}, {"device_id": "a", "$insert_id": "b"}, {"device_id": 'a","b'}, {"event_type": ""}]
    assert len({content_of_fields(event) for event in fields}) == len(fields)


@pytest.mark.parametrize("key", ["a", "city", "data_type"])
@pytest.mark.parametrize(
    "value", ["1.0", '"1"', "[1]", "null", '"\\u00e9"', '"\u00e9"', '"\\u0000"', '""', "1e0", "10"]
)
def test_bytes_of_other_values_are_content(key: str, value: str):
    assert content(f'{{"{key}":{value}}}'.encode()) not in (content(f'{{"{key}":1}}'.encode()), content(b"{}"))


def test_bytes_of_data_are_content():
    lines = [b'{"data":{"a":1}}', b'{"data":{"a": 1}}', b'{"data":{}}', b'{"data":null}', b"{}"]
    assert len(set(map(content, lines))) == len(lines)


@pytest.mark.parametrize(
    "others",
    [
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}, {"A": 1}, {"b": 2, "c": 1}, {"a": 1, "b": None}, {}),
        ({"1:a": 1}, {"a": 1}, {"": 1}, {"a\0": 1}, {"\0": 1}, {"a": "\0"}, {"3:a\x001": 1}),
        ({"city": 1}, {"country": 1}, {"City": 1}, {"c": 1}, {"city": 1, "country": 1}, {"city": "1"}),
        ({"\ud800": 1}, {"\udfff": 1}, {"?": 1}, {"\ud800": 2}, {"\ufffd": 1}),
    ],
)
def test_other_keys_are_content(others: tuple[dict[str, Any], ...]):
    assert len(set(map(content_of_fields, others))) == len(others)


def test_of_a_doubled_key_the_last_is_content():
    assert content(b'{"a":2,"b":3,"a":1}') == content(b'{"a":1,"b":3}')
    assert content(b'{"a":2,"\\u0061":1}') == content(b'{"a":1}')
    assert content(b'{"city":2,"c\\u0069ty":1}') == content(b'{"city":1}')
    assert content(b'{"app":2,"app":7}') == content(b'{"app":"x","app":7}') == content(b'{"app":7}')
    assert content(b'{"data":2,"data":{}}') == content(b'{"data":{}}')


SOME_KEYS = st.sampled_from([*DECODED, *NOT_CONTENT, "city", "data", "a", "b"])
SOME_TEXTS = st.sampled_from(["null", '"a"', '"\\u0061"', '"b"', "1", "1.0", "{}", "{ }", '"\\ud800"', "1e400"])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line with an envelope, out of few keys and values."""
    members = [f'"{key}":{draw(SOME_TEXTS)}' for key in draw(st.lists(SOME_KEYS, max_size=4))]
    return ("{" + draw(st.sampled_from([",", " ,\t"])).join(members) + "}").encode()


@settings(deadline=None, max_examples=80)
@given(st.lists(lines().filter(lambda line: isinstance(read_line(line), Envelope)), min_size=2, max_size=6))
def test_contents_are_equal_where_the_oracle_says_so(several: list[bytes]):
    for line in several[1:]:
        assert (content(line) == content(several[0])) == (content_of(line) == content_of(several[0]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5), st.booleans(), st.sampled_from([None, (" , ", " : ")]))
def test_exact_way_finds_the_members_that_the_fast_one_does(fields: dict[str, Any], escaped: bool, separators: Any):
    line = f" {json.dumps(fields, ensure_ascii=escaped, separators=separators)}\t".encode()
    assert {key: bytes(value) for key, value in members(line).items()} == module.members_exactly(line)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3).map(lambda key: f"_{key}"), VALUES, max_size=5), st.randoms())
def test_turned_keys_have_one_digest_by_the_exact_way_too(fields: dict[str, Any], random: Any):
    keys = [*fields, "only python reads this \ud800"]
    values = {**fields, keys[-1]: 1}
    random.shuffle(keys)
    line, turned = ({key: values[key] for key in order} for order in (keys, sorted(keys)))
    assert content_of_fields(line) == content_of_fields(turned)


def test_a_key_that_only_python_reads_does_not_change_how_the_others_count():
    line = b'{"device_id":"\\u0061","city":"\\u0061","new":1 , "app":5.0'
    other = b'{"app":5,"new":1,"device_id":"a","city":"\\u0061"'
    assert content(line + b"}") == content(other + b"}")
    assert content(line + b',"\\ud800":1}') == content(other + b',"\\ud800":1}')


def test_integers_of_any_length_and_lone_surrogates_are_content_as_decoded():
    big = 10**400 + 1
    assert content(b'{"amplitude_id":%d}' % 2**64) == content(b'{"amplitude_id":18446744073709551616.0}')
    assert content(b'{"amplitude_id":%d}' % big) != content(b'{"amplitude_id":%d}' % (big + 1))
    assert content(b'{"device_id":"\\ud800"}') == content(b'{"device_id":"\\uD800"}') != content(b'{"device_id":"?"}')
    assert content(b'{"device_id":"\\ud800","app":7.0}') == content(b'{"app":7,"device_id":"\\ud800"}')


def test_numbers_beyond_a_double_are_content_as_they_stand():
    texts = [b'{"a":1e400,"\\ud800":1}', b'{"a":1e401,"\\ud800":1}', b'{"\\ud800":1 , "a" : 1e400}']
    one, other, turned = map(content, texts)
    assert one != other
    assert one == turned
    big = b"9" * 5000
    assert content(b'{"a":%s,"\\ud800":1}' % big) != content(b'{"a":%s8,"\\ud800":1}' % big[1:])
