import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import identity as module
from amp_pipeline.core.envelope import Envelope, read_line
from amp_pipeline.core.identity import DIGEST_BYTES, KINDS, NOT_CONTENT, content_digest, digest, identity

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


def test_digests_are_stable_for_ever():
    assert digest("i1:di").hex() == "3c623694127dfecd6c4467febfb874f4"
    assert len(digest("i1:d\ud800")) == DIGEST_BYTES
    assert content_digest(b'{"b": [1, 2] ,"a":"x","uuid":"u"}') == 3863931432377905713


CONTENT = {"event_type": "buy", "event_properties": {"b": 1, "a": [1.0, "\u00e9"]}, "app": 7}


def test_order_of_keys_and_white_space_between_them_is_no_content():
    text = json.dumps(CONTENT)
    turned = json.dumps(dict(reversed(CONTENT.items())))
    spaced = text.replace('"app": 7', '\t"app"  :  7 ')
    assert content_digest(text.encode()) == content_digest(turned.encode()) == content_digest(spaced.encode())


@pytest.mark.parametrize("name", NOT_CONTENT)
def test_what_differs_between_two_deliveries_is_no_content(name: str):
    plain = content_digest(json.dumps(CONTENT).encode())
    assert content_digest(json.dumps({**CONTENT, name: "x"}).encode()) == plain
    assert content_digest(json.dumps({**CONTENT, "event_properties": {name: "x"}}).encode()) != plain


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1.0}',
        b'{"a":"1"}',
        b'{"A":1}',
        b'{"a":[1]}',
        b'{"a":1,"b":null}',
        b'{"a":2,"a":[1, 2]}',
        b"{}",
        b'{"a":"\\u00e9"}',
        b'{"a":"\xc3\xa9"}',
    ],
)
def test_bytes_of_values_are_content(line: bytes):
    assert content_digest(line) != content_digest(b'{"a":1}')


def test_of_a_doubled_key_the_last_is_content():
    assert content_digest(b'{"a":2,"b":3,"a":1}') == content_digest(b'{"a":1,"b":3}')
    assert content_digest(b'{"a":2,"\\u0061":1}') == content_digest(b'{"a":1}')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5), st.booleans(), st.sampled_from([None, (" , ", " : ")]))
def test_exact_way_finds_the_members_that_the_fast_one_does(members: dict[str, Any], escaped: bool, separators: Any):
    line = f" {json.dumps(members, ensure_ascii=escaped, separators=separators)}\t".encode()
    assert {key: bytes(value) for key, value in module._members(line).items()} == module._members_exactly(line)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5), st.randoms())
def test_turned_keys_have_one_digest_by_the_exact_way_too(members: dict[str, Any], random: Any):
    keys = [*members, "only python reads this \ud800"]
    values = {**members, keys[-1]: 1}
    random.shuffle(keys)
    line, turned = (json.dumps({key: values[key] for key in order}).encode() for order in (keys, sorted(keys)))
    assert content_digest(line) == content_digest(turned)


def test_numbers_beyond_a_double_are_content_as_they_stand():
    lines = [b'{"a":1e400,"\\ud800":1}', b'{"a":1e401,"\\ud800":1}', b'{"\\ud800":1 , "a" : 1e400}']
    one, other, turned = map(content_digest, lines)
    assert one != other
    assert one == turned
    big = b"9" * 5000
    assert content_digest(b'{"a":%s,"\\ud800":1}' % big) != content_digest(b'{"a":%s8,"\\ud800":1}' % big[1:])
