import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import columns, identity, timestamps
from amp_pipeline.core.envelope import Bad, Envelope, printable, read_line
from amp_pipeline.core.hours import MICROSECONDS
from amp_pipeline.core.lines import Block, block_of
from amp_pipeline.core.telling import BadLine, Merging, Rules, Stray, Teller, Told
from amp_pipeline.core.timestamps import NO_TIME
from amp_pipeline_tests.core.strategies import blocks

HOUR = 476386
START = HOUR * MICROSECONDS
RULES = Rules(project=7, hour=HOUR, first_us=START - MICROSECONDS, end_us=None)
HERE, NEXT, BEFORE = "2024-05-06 10:00:00.000001", "2024-05-06 11:00:00", "2024-05-06T09:59:59.999999Z"
# The hour is always one of the project's.
ALL_RULES = st.builds(
    lambda project, hour, before, after: Rules(
        project=project,
        hour=hour,
        first_us=(hour - before) * MICROSECONDS,
        end_us=None if after is None else (hour + 1 + after) * MICROSECONDS,
    ),
    st.sampled_from([7, 7, 0]),
    st.sampled_from([HOUR - 1, HOUR, HOUR, HOUR + 1]),
    st.integers(0, 2),
    st.none() | st.integers(0, 2),
)


def us(text: str | None) -> int | None:
    return timestamps.parse([text]).item()


def refusal(event: Envelope, rules: Rules) -> Bad | None:
    """Rules 7 to 10, one after the other."""
    if event.server_upload_time is None:
        return Bad("no_time", "")
    for name in ("server_upload_time", "client_event_time", "event_time"):
        if getattr(event, name) is not None and us(getattr(event, name)) is None:
            return Bad("bad_time", name)
    if event.app not in (None, rules.project):
        return Bad("other_project", "app")
    upload = us(event.server_upload_time) or 0
    if upload < rules.first_us or (rules.end_us is not None and upload >= rules.end_us):
        return Bad("outside_project", "server_upload_time")
    return None


def merging(event: Envelope, upload: int, position: int) -> list[Merging]:
    if event.data is None or event.data.merged_amplitude_id is None or event.amplitude_id is None:
        return []
    time = us(event.event_time or event.client_event_time or event.server_upload_time) or 0
    record = b'{"scope":null,"merge_time":%d,"merge_server_time":%d,"amplitude_id":%d,"merged_amplitude_id":%d}'
    ids = event.amplitude_id, event.data.merged_amplitude_id
    return [Merging(upload, position, record % (time // 1000, upload // 1000, *ids))]


def line_by_line(lines: list[bytes], rules: Rules) -> dict[str, Any]:
    told: dict[str, Any] = {"lines": len(lines), "unpacked_bytes": 0, "merging": [], "bad": [], "strays": []}
    events: list[tuple[int, int, int, bytes | None, int]] = []
    types: dict[str, int] = {}
    for position, line in enumerate(lines):
        event = read_line(line)
        if event is None:
            continue
        bad = refusal(event, rules) if isinstance(event, Envelope) else event
        if not isinstance(event, Envelope) or bad is not None:
            told["bad"].append(BadLine(position, *(bad or ()), line=line))
            continue
        upload = us(event.server_upload_time) or 0
        if upload // MICROSECONDS != rules.hour:
            told["strays"].append(Stray(position, upload // MICROSECONDS, line))
            continue
        text = identity.identity(event, us(event.client_event_time))
        time = us(event.event_time)
        digest = None if text is None else identity.digest(text)
        events.append(
            (position, upload, NO_TIME if time is None else time, digest, identity.content_digest(line, event))
        )
        kind = printable(event.event_type)
        types[kind] = types.get(kind, 0) + 1
        told["unpacked_bytes"] += len(line) + 1
        told["merging"] += merging(event, upload, position)
    return told | {"events": events, "event_types": types}


def as_told(told: Told) -> dict[str, Any]:
    digests = [told.digests[at : at + 16] for at in range(0, len(told.digests), 16)]
    for at in told.without_identity:
        assert digests[at] == bytes(16)
    columns = [np.frombuffer(column, np.int64).tolist() for column in (told.positions, told.times, told.event_times)]
    found = [None if at in told.without_identity else digest for at, digest in enumerate(digests)]
    contents = np.frombuffer(told.contents, np.uint64).tolist()
    plain = ("lines", "unpacked_bytes", "merging", "bad", "strays", "event_types")
    events = list(zip(*columns, found, contents, strict=True))
    return {name: getattr(told, name) for name in plain} | {"events": events}


@settings(deadline=None, max_examples=60)
@given(blocks(), ALL_RULES, st.sampled_from([40, columns.PIECE_BYTES]))
def test_blocks_are_told_apart_as_their_lines_are(several: list[list[bytes]], rules: Rules, piece_bytes: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "PIECE_BYTES", piece_bytes)
        teller = Teller()
        for lines in several:
            assert as_told(teller.tell(block_of(lines), rules)) == line_by_line(lines, rules)


EVENT = {
    **dict.fromkeys(("server_upload_time", "client_event_time", "event_time"), HERE),
    "device_id": "d",
    "$insert_id": "i",
    "event_type": "a",
    "app": 7,
}


@st.composite
def near_events(draw: st.DrawFn) -> bytes:
    """An event of the hour, or what hardly is none."""
    times = st.sampled_from(
        [HERE, HERE, NEXT, BEFORE, None, "nonsense", "2024-05-06 10:59:59.999999", "2024-05-06 10:00:00"]
    )
    changes: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("server_upload_time", "client_event_time", "event_time"), times),
        "app": st.sampled_from([7, None, 8]),
        "device_id": st.sampled_from(["d", "", None, "\ud800"]),
        "event_type": st.sampled_from(["b", None, "\ud800", "?", ""]),
        "event_id": st.integers(0, 2),
        "uuid": st.sampled_from(["u", ""]),
        "amplitude_id": st.sampled_from([1, 2**70]),
        "data": st.sampled_from([{"merged_amplitude_id": 2}, {"merged_amplitude_id": None}, None]),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(changes)), max_size=4, unique=True))
    return json.dumps({**EVENT, **{name: draw(changes[name]) for name in chosen}}).encode()


@settings(deadline=None, max_examples=60)
@given(st.lists(near_events() | st.sampled_from([b"", b"bad", b"{}"]), max_size=6).filter(bool), ALL_RULES)
def test_events_are_told_apart_by_all_rules(lines: list[bytes], rules: Rules):
    assert as_told(Teller().tell(block_of(lines), rules)) == line_by_line(lines, rules)


def tell(*lines: bytes) -> dict[str, Any]:
    return as_told(Teller().tell(block_of(lines), RULES))


def line(**changes: Any) -> bytes:
    return json.dumps({**EVENT, **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server_upload_time": None, "app": 8}, Bad("no_time", "")),
        ({"server_upload_time": "x", "app": 8}, Bad("bad_time", "server_upload_time")),
        ({"server_upload_time": NEXT, "client_event_time": "x"}, Bad("bad_time", "client_event_time")),
        ({"app": 8}, Bad("other_project", "app")),
        ({"event_time": "", "app": 8}, Bad("bad_time", "event_time")),
        ({"server_upload_time": "2024-05-06 08:00:00", "app": 8}, Bad("other_project", "app")),
        ({"server_upload_time": "2024-05-06 08:59:59.999999"}, Bad("outside_project", "server_upload_time")),
    ],
)
def test_first_rule_that_applies_gives_the_reason(changes: dict[str, Any], reason: Bad):
    assert tell(line(), line(**changes))["bad"] == [BadLine(1, *reason, line=line(**changes))]


def test_event_of_another_hour_is_a_stray_and_counts_nowhere_else():
    found = tell(line(server_upload_time=BEFORE, data={"merged_amplitude_id": 1}, amplitude_id=2), b"", line())
    assert found["strays"] == [
        Stray(0, HOUR - 1, line(server_upload_time=BEFORE, data={"merged_amplitude_id": 1}, amplitude_id=2))
    ]
    assert (found["lines"], found["unpacked_bytes"], found["event_types"]) == (3, len(line()) + 1, {"a": 1})
    assert (found["merging"], found["bad"], [event[0] for event in found["events"]]) == ([], [], [2])


def test_types_that_are_written_alike_are_counted_together():
    assert tell(line(event_type="\ud800"), line(event_type="?"), line(event_type=None))["event_types"] == {
        "?": 2,
        "": 1,
    }


def test_made_merge_has_the_first_time_that_there_is():
    ids: dict[str, Any] = {"amplitude_id": 5, "data": {"merged_amplitude_id": 6}}
    times = {"event_time": "1970-01-01 00:00:01", "client_event_time": "1969-12-31 23:59:59.999999"}
    none = dict.fromkeys(times)
    found = tell(line(**ids, **none), line(**ids, **{**times, "event_time": None}), line(**ids, **times))
    written = [json.loads(made.record)["merge_time"] for made in found["merging"]]
    assert written == [START // 1000, -1, 1000]
    assert [made.position for made in found["merging"]] == [0, 1, 2]


def test_no_lines():
    assert as_told(Teller().tell(Block(b""), RULES)) == line_by_line([], RULES)


def test_what_is_told_goes_through_msgpack():
    told = Teller().tell(block_of([line(), b"bad", line(server_upload_time=NEXT), line(device_id=None)]), RULES)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Told) == told
