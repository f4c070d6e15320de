"""Finding the lines of deleted users: however an id is written, and whatever stands beside it."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.suppression import Suppressed, Suppression

NOON = Hour.parse("2024-05-06-12:00")


def listed(*users: str, amplitude_ids: tuple[str, ...] = (), up_to: int | None = None, name: str = "s1") -> Suppression:
    return Suppression(
        id=name, project=7, user_ids=[*users], amplitude_ids=[*amplitude_ids], asked_at="2024", up_to=up_to
    )


def found(suppressed: Suppressed, *lines: bytes) -> list[int]:
    return sorted(suppressed.find(block_of(lines)))


@pytest.mark.parametrize(
    "line",
    [
        b'{"user_id":"a/b"}',
        b'{"user_id" : "a/b"}',
        b'{"user_id":"a\\/b"}',
        b'{"user_id":"\\u0061/b"}',
        b'{"user\\u005fid":"a/b"}',
        b'{"\\u0075ser_id":"\\u0061\\/\\u0062"}',
        b'{"user_id":"other","user_id":"a/b"}',
        b'{"amplitude_id":50}',
        b'{"amplitude_id":50.0}',
        b'{"amplitude_id":5e1}',
        b'{"amplitude_id":5E+1}',
        b'{"amplitude_id":500e-1}',
        b'{"amplitude_id":"50"}',
        b'{"amplitude_id":"050"}',
        b'{"amplitude\\u005fid":50}',
    ],
)
def test_an_id_is_found_however_it_is_written(line: bytes) -> None:
    suppressed = Suppressed([listed("a/b", amplitude_ids=("50",))])
    assert found(suppressed, b'{"user_id":"A/b"}', line, b"{}") == [1]


@pytest.mark.parametrize(
    "line",
    [
        b'{"user_id":"a/b","user_id":null}',
        b'{"event_properties":{"user_id":"a/b","amplitude_id":50}}',
        b'{"city":"a/b"}',
        b'{"user_id":"a/bc"}',
        b'{"user_id":["a/b"]}',
        b'{"amplitude_id":500}',
        b'{"amplitude_id":50.5}',
        b'{"data":{"merged_amplitude_id":50}}',
    ],
)
def test_what_only_looks_like_an_id_is_nobodys(line: bytes) -> None:
    assert found(Suppressed([listed("a/b", amplitude_ids=("50",))]), line) == []


def test_a_number_as_user_id_counts_as_its_digits() -> None:
    assert found(Suppressed([listed("5")]), b'{"user_id":5}', b'{"user_id":5.0}', b'{"user_id":55}') == [0]


def test_an_entry_reaches_up_to_its_time_and_no_further() -> None:
    suppressed = Suppressed([listed("u", up_to=NOON.start_us + 5)])
    lines = [b'{"user_id":"u","server_upload_time":"2024-05-06 12:00:00.00000%d"}' % decimal for decimal in (4, 5, 6)]
    assert found(suppressed, *lines) == [0, 1]
    assert suppressed.at(NOON)
    assert not suppressed.at(NOON + 1)
    assert suppressed.at(NOON + 1).fingerprint == ""


def test_the_fingerprint_tells_lists_apart_but_not_their_order() -> None:
    one, other = listed("a"), listed("b", name="s2")
    assert Suppressed([one, other]).fingerprint == Suppressed([other, one]).fingerprint
    assert Suppressed([one]).fingerprint != Suppressed([one, other]).fingerprint
    assert Suppressed([]).fingerprint == ""


def test_a_line_that_is_no_json_is_of_whoever_is_quoted_in_it() -> None:
    suppressed = Suppressed([listed("Ü", amplitude_ids=("50",))])
    for line in ('{"x":"Ü"', '["\\u00dc"', '{"amplitude_id": "50", no', '[{"amplitude_id":50}]'):
        assert suppressed.of_bad_line(line.encode()) == "s1"
    assert suppressed.of_bad_line(b'\xff "amplitude_id":50 \xff') == "s1"
    for line in ('{"x":"Ü"}', "Ü", '"amplitude_id":501'):
        assert suppressed.of_bad_line(line.encode()) is None


VALUES: Any = st.one_of(
    st.sampled_from(["u", "ü", 'q"\\/', "5", 5, 5.0, 50, -3, True, None, [], {"user_id": "u"}]), st.text(max_size=3)
)


# The first draw may be slow where the machine is.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["user_id", "amplitude_id", "x", "\\"]), VALUES), st.booleans()),
        max_size=6,
    )
)
def test_the_search_finds_what_reading_every_line_finds(events: list[tuple[dict[str, Any], bool]]) -> None:
    suppressed = Suppressed([listed("u", "ü", 'q"\\/', "5", amplitude_ids=("5", "-3"))])
    lines = [json.dumps(event, ensure_ascii=ascii_only).encode() for event, ascii_only in events]
    expected = [at for at, line in enumerate(lines) if suppressed.of_event(line) is not None]
    assert found(suppressed, *lines) == expected
