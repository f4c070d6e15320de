"""Tests of the oracle itself, by landings made by hand."""

import gzip
import json
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard

from amp_pipeline_tests.oracle import (
    MergedLine,
    OracleProject,
    ProjectTruth,
    content_of,
    cut_parts,
    integer_of,
    object_order,
    read_organization,
    read_project,
    unpack,
)

PROJECT = OracleProject(id=7, first_hour=datetime(2024, 5, 1, tzinfo=UTC))
TEN = datetime(2024, 5, 6, 10, tzinfo=UTC)
ELEVEN = datetime(2024, 5, 6, 11, tzinfo=UTC)
TIME = "2024-05-06 10:00:00"
ZSTD = zstandard.ZstdCompressor()


def put(landing: Path, name: str, *lines: bytes | dict[str, Any]) -> str:
    """Puts an object whose name is 7_2024-05-06_{name}, each line with its line end."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return put_bytes(landing, name, b"".join(text + b"\n" for text in texts))


def put_bytes(landing: Path, name: str, data: bytes) -> str:
    path = landing / "7" / f"7_2024-05-06_{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return f"7/{path.name}"


def event(time: str = TIME, insert: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"server_upload_time": time, "device_id": "d", "$insert_id": insert, **fields}


def reasons(truth: ProjectTruth) -> list[str]:
    return [line.reason for line in truth.quarantined]


def repeats(truth: ProjectTruth) -> list[bool]:
    return [event.repeat for event in truth.events]


def held(landing: Path, *lines: bytes | dict[str, Any]) -> ProjectTruth:
    put(landing, "10#0.json", *lines)
    return read_project(landing, PROJECT)


# Objects and lines


def test_order_of_objects() -> None:
    names = ["a_10#2.json", "a_10#10.json", "a_10#-1.json", "a_9#0.json", "a_10#2.json.gz"]
    assert sorted(names, key=object_order) == [names[2], names[0], names[4], names[1], names[3]]


def test_only_objects_of_the_layout_count(tmp_path: Path) -> None:
    for name in ("10_complete", "10.json", "24#0.json", "10#x.json", "10#0.json.bz2"):
        put(tmp_path, name, event())
    for name in ("9#0.json", "09#0.json"):
        put(tmp_path, name, event())
    assert [one.object for one in read_project(tmp_path, PROJECT).events] == [
        "7/7_2024-05-06_09#0.json",
        "7/7_2024-05-06_9#0.json",
    ]


def test_no_folder(tmp_path: Path) -> None:
    assert read_project(tmp_path, PROJECT) == ProjectTruth([], [], [], 0)


@pytest.mark.parametrize("make", [bytes, gzip.compress, ZSTD.compress])
def test_compression_is_told_by_the_bytes(tmp_path: Path, make: Any) -> None:
    put_bytes(tmp_path, "10#0.json", make(json.dumps(event()).encode()))
    put_bytes(tmp_path, "10#1.json.gz", make(json.dumps(event()).encode()))
    put_bytes(tmp_path, "10#2.json.zst", make(json.dumps(event()).encode()))
    assert len(read_project(tmp_path, PROJECT).delivered(TEN)) == 3


def test_concatenated_members() -> None:
    member = gzip.compress(b"ab")
    frame = ZSTD.compress(b"ab")
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz"
    checked = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(b"cd")
    assert unpack("", member + gzip.compress(b"cd")) == (b"abcd", False)
    assert unpack("", member + b"\0" * 10) == (b"ab", False)
    assert unpack("", member + b"\0\0x") == (b"ab", True)
    assert unpack("", member + b"\x1f") == (b"ab", True)
    assert unpack("", member + frame) == (b"ab", True)
    assert unpack("", frame + ZSTD.compress(b"") + checked) == (b"abcd", False)
    assert unpack("", skippable + frame + skippable + checked) == (b"abcd", False)
    assert unpack("", skippable[:-1]) == (b"", True)
    assert unpack("", frame + checked[:-1]) == (b"abcd", True)
    assert unpack("", frame + checked[:-1] + bytes([checked[-1] ^ 1])) == (b"abcd", True)
    assert unpack("", frame + b"\0") == (b"ab", True)
    for cut in range(2, len(member)):
        assert unpack("", member[:cut])[1]
    for cut in range(4, len(checked)):
        assert unpack("", checked[:cut])[1]


def test_corrupt_checksum_gives_all_that_was_there() -> None:
    member = gzip.compress(b"line\n" * 1000)
    corrupt = member[:-8] + bytes([member[-8] ^ 1]) + member[-7:]
    assert unpack("", corrupt) == (b"line\n" * 1000, True)


def test_corrupt_in_the_middle_gives_what_stands_before_it() -> None:
    stream = zlib.compressobj(wbits=31)
    good = stream.compress(b"line\n") + stream.flush(zlib.Z_FULL_FLUSH)
    assert unpack("", good + b"\xff" * 20) == (b"line\n", True)


def test_empty_objects(tmp_path: Path) -> None:
    put_bytes(tmp_path, "10#0.json", b"")
    put_bytes(tmp_path, "11#0.json.gz", b"")
    name = put_bytes(tmp_path, "12#0.json.zst", b"")
    truth = read_project(tmp_path, PROJECT, frozenset({name}))
    assert truth.failed_hours == {ELEVEN}
    assert truth.counts(TEN) == {"landed": 0, "quarantined": 0, "repeats": 0, "deleted": 0, "deliverable": 0}
    assert truth.counts(TEN) == truth.counts(ELEVEN + timedelta(hours=1)) == truth.counts(TEN.replace(tzinfo=None))


def truncated(text: bytes) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH)


def test_truncated_object(tmp_path: Path) -> None:
    whole = json.dumps(event()).encode()
    name = put_bytes(tmp_path, "10#0.json.gz", truncated(whole + b"\r\n\n" + whole))
    put(tmp_path, "10#1.json", event())
    refused = read_project(tmp_path, PROJECT)
    assert [(one.hour, one.object) for one in refused.damaged] == [(TEN, name)]
    with pytest.raises(LookupError):
        refused.delivered(TEN)
    with pytest.raises(LookupError):
        refused.counts(TEN)

    truth = read_project(tmp_path, PROJECT, frozenset({name}))
    assert truth.damaged == []
    assert truth.delivered(TEN) == [whole, whole]
    assert [(bad.line, bad.reason, bad.text) for bad in truth.quarantined] == [(3, "truncated", whole)]


@pytest.mark.parametrize("rest", [b"", b" \t\r", b"\xef\xbb\xbf "])
def test_truncated_after_a_line_end(tmp_path: Path, rest: bytes) -> None:
    name = put_bytes(tmp_path, "10#0.json.gz", truncated(json.dumps(event()).encode() + b"\n" + rest))
    truth = read_project(tmp_path, PROJECT, frozenset({name}))
    assert truth.counts(TEN) == {"landed": 1, "quarantined": 0, "repeats": 0, "deleted": 0, "deliverable": 1}


def test_lines(tmp_path: Path) -> None:
    one, bom = json.dumps(event()).encode(), b"\xef\xbb\xbf"
    data = b"\n".join([bom + one + b"\r", b" \t\r\r", bom + b" ", b"", b" " + one + b"\r\r", bom + bom + one, one])
    put_bytes(tmp_path, "10#0.json", data)
    truth = read_project(tmp_path, PROJECT)
    assert [(event.line, event.text) for event in truth.events] == [(1, one), (5, b" " + one + b"\r"), (7, one)]
    assert [(bad.line, bad.reason, bad.text) for bad in truth.quarantined] == [(6, "not_json", bom + one)]
    assert truth.counts(TEN) == {"landed": 4, "quarantined": 1, "repeats": 0, "deleted": 0, "deliverable": 3}


# Rules


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{} {"a":"\xff"}', "not_utf8"),
        (b"\xed\xa0\x80", "not_utf8"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep"),
        (b"{} {}", "trailing_data"),
        (b"{}{}", "trailing_data"),
        (b"\t{} x", "trailing_data"),
        (b"{}\xc2\xa0", "trailing_data"),
        (b"1 NaN", "trailing_data"),
        (b"01", "trailing_data"),
        (b'{"a":01}', "not_json"),
        (b"\xc2\xa0{}", "not_json"),
        (b"\x0b", "not_json"),
        (b"NaN {}", "not_json"),
        (b'{"a":NaN}', "not_json"),
        (b'{"a":-Infinity}', "not_json"),
        (b'{"a":"\t"}', "not_json"),
        (b'{"a":1', "not_json"),
        (b"{'a':1}", "not_json"),
        (b'{"a":1,}', "not_json"),
        (b"[{}]", "not_an_object"),
        (b" null ", "not_an_object"),
        (b"5", "not_an_object"),
        (b"{}", "no_time"),
        (b'{"server_upload_time":null}', "no_time"),
        (b'{"server_upload_time":null,"event_time":"x"}', "no_time"),
        (b'{"Server_upload_time":"2024-05-06 10:00:00"}', "no_time"),
    ],
)
def test_rules_of_a_line(tmp_path: Path, line: bytes, reason: str) -> None:
    truth = held(tmp_path, line)
    assert [(bad.hour, bad.line, bad.reason, bad.text) for bad in truth.quarantined] == [(TEN, 1, reason, line)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("$insert_id", "5"),
        ("device_id", "5"),
        ("uuid", "[]"),
        ("event_type", "false"),
        ("server_upload_time", "5"),
        ("client_event_time", "{}"),
        ("event_time", "5"),
        ("event_id", '"5"'),
        ("event_id", "true"),
        ("event_id", "1e400"),
        ("event_id", "-1e400"),
        ("event_id", "1" + "0" * 400),
        ("app", '"7"'),
        ("app", "true"),
        ("app", "7.5"),
        ("amplitude_id", "5.5"),
        ("amplitude_id", "false"),
        ("data", "[]"),
        ("data", '"x"'),
        ("data", '{"merged_amplitude_id":"5"}'),
        ("data", '{"merged_amplitude_id":5.5}'),
        ("data", '{"merged_amplitude_id":true}'),
    ],
)
def test_wrong_type(tmp_path: Path, field: str, value: str) -> None:
    assert reasons(held(tmp_path, f'{{"{field}":{value}}}'.encode())) == ["wrong_type"]


@pytest.mark.parametrize(
    "more",
    [
        '"event_id":5.5',
        '"event_id":-0',
        '"app":7.0',
        '"app":null',
        '"amplitude_id":5.0',
        '"amplitude_id":' + "9" * 10_000,
        '"data":null',
        '"data":{"merged_amplitude_id":null}',
        '"data":{"merged_amplitude_id":5}',
        '"anything":1e400',
        '"anything":"\\ud800"',
        '"device_id":"\\ud800"',
        '"event_id":"x","event_id":5',
        '"uuid":null,"event_type":null,"event_time":null,"client_event_time":null',
    ],
)
def test_allowed(tmp_path: Path, more: str) -> None:
    line = f'{{"server_upload_time":"{TIME}",{more}}}'.encode()
    assert held(tmp_path, line).delivered(TEN) == [line]


@pytest.mark.parametrize(
    "time",
    [
        "2024-05-06 10:00:00.",
        "2024-05-06 10:00:00.1234567",
        "2024-05-06 24:00:00",
        "2024-05-06 10:60:00",
        "2024-05-06 10:00:60",
        "2024-02-30 10:00:00",
        "2024-05-06t10:00:00",
        "2024-05-06 10:00:00z",
        "2024-05-06 10:00:00+00:00",
        "2024-05-06  10:00:00",
        "2024-05-06 10:00:00\n",
        "\uff12024-05-06 10:00:00",
        "",
    ],
)
def test_bad_time(tmp_path: Path, time: str) -> None:
    truth = held(tmp_path, event(time), event(client_event_time=time), event(event_time=time))
    assert reasons(truth) == ["bad_time"] * 3


def test_known_times(tmp_path: Path) -> None:
    times = ("2024-05-06 10:00:00", "2024-05-06T10:00:00Z", "2024-05-06T10:00:00.1", "2024-05-06 10:00:00.000001Z")
    truth = held(tmp_path, *(event(time) for time in times))
    start = int(TEN.timestamp()) * 1_000_000
    assert [event.upload_time - start for event in truth.events] == [0, 0, 100_000, 1]


def test_other_and_outside_project(tmp_path: Path) -> None:
    project = OracleProject(7, TEN.replace(hour=9, tzinfo=None), ELEVEN.replace(tzinfo=None))
    times = ("08:59:59.999999", "09:00:00", "11:59:59.999999", "12:00:00")
    put(
        tmp_path,
        "10#0.json",
        *(event(f"2024-05-06 {time}") for time in times),
        event(app=8),
        event("2023-01-01 00:00:00", app=8),
    )
    truth = read_project(tmp_path, project)
    assert reasons(truth) == ["outside_project", "outside_project", "other_project", "other_project"]
    assert [event.hour.hour for event in truth.events] == [9, 11]


def test_strays(tmp_path: Path) -> None:
    put(tmp_path, "9#1.json", event(n=1), b"stray rubbish")
    put(tmp_path, "10#0.json", event(n=2), event("2024-05-06 11:00:00", n=3))
    put(tmp_path, "11#0.json", event(n=4), event("2024-05-06 11:00:00", n=5))
    truth = read_project(tmp_path, PROJECT)
    assert truth.strays == 3
    assert [json.loads(line)["n"] for line in truth.delivered(TEN)] == [2, 4, 1]  # "_10", "_11", "_9"
    assert [json.loads(line)["n"] for line in truth.delivered(ELEVEN)] == [3, 5]
    assert [bad.hour.hour for bad in truth.quarantined] == [9]


# Repeats


@pytest.mark.parametrize(("later", "repeat"), [("00.000005", True), ("00.000006", False)])
def test_the_window_is_included(tmp_path: Path, later: str, repeat: bool) -> None:
    put(tmp_path, "10#0.json", event("2024-05-06 10:00:00.000005", "i"), event(f"2024-05-13 10:00:{later}", "i"))
    truth = read_project(tmp_path, PROJECT)
    assert repeats(truth) == [False, repeat]
    assert truth.events[1].first_seen == (TEN if repeat else None)


def test_a_chain_of_repeats(tmp_path: Path) -> None:
    """The third is a repeat of the second, which is one itself. It is too late for the first."""
    days = ("06", "11", "16", "24")
    truth = held(tmp_path, *(event(f"2024-05-{day} 10:00:00", "i") for day in days))
    assert repeats(truth) == [False, True, True, False]
    assert [event.first_seen and event.first_seen.day for event in truth.events] == [None, 6, 11, None]


def test_first_seen_is_the_earliest_within_the_window(tmp_path: Path) -> None:
    truth = held(tmp_path, *(event(f"2024-05-{day} 10:00:00", "i") for day in ("06", "07", "12")))
    assert [event.first_seen and event.first_seen.day for event in truth.events] == [None, 6, 6]


def test_ties_and_later_times(tmp_path: Path) -> None:
    put(tmp_path, "10#10.json", event(insert="i", n=3))
    put(tmp_path, "10#2.json", event(insert="i", n=1), event(insert="i", n=2), event("2024-05-06 10:00:01", "j", n=4))
    put(tmp_path, "11#0.json", event("2024-05-06 10:00:00.5", "j", n=5))
    truth = read_project(tmp_path, PROJECT)
    assert [(event.fields["n"], event.repeat) for event in truth.events] == [
        (1, False),
        (2, True),
        (4, True),
        (3, True),
        (5, False),
    ]
    assert truth.counts(TEN) == {"landed": 5, "quarantined": 0, "repeats": 3, "deleted": 0, "deliverable": 2}
    assert truth.delivered(TEN, lambda fields: fields["n"] > 1) == [json.dumps(truth.events[4].fields).encode()]


CLIENT = "2024-05-06 09:00:00"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"$insert_id": "i"}, {"$insert_id": "i", "uuid": "u"}, True),
        ({"$insert_id": "i"}, {"$insert_id": "I"}, False),
        ({"$insert_id": "i"}, {"$insert_id": "i", "device_id": "e"}, False),
        ({"$insert_id": "i", "device_id": ""}, {"$insert_id": "i", "device_id": ""}, False),
        ({"$insert_id": "i", "uuid": "u"}, {"uuid": "u"}, False),
        ({"$insert_id": "", "uuid": "u"}, {"uuid": "u"}, True),
        ({"uuid": ""}, {"uuid": ""}, False),
        ({}, {}, False),
        ({"event_id": 5, "client_event_time": CLIENT}, {"event_id": 5.0, "client_event_time": CLIENT + ".000Z"}, True),
        ({"event_id": 0, "client_event_time": CLIENT}, {"event_id": -0.0, "client_event_time": CLIENT}, True),
        ({"event_id": 5.5, "client_event_time": CLIENT}, {"event_id": 5.5, "client_event_time": CLIENT}, True),
        ({"event_id": 5, "client_event_time": CLIENT}, {"event_id": 5.5, "client_event_time": CLIENT}, False),
        ({"event_id": 2**53 + 1, "client_event_time": CLIENT}, {"event_id": 2**53, "client_event_time": CLIENT}, False),
        ({"event_id": 5, "client_event_time": CLIENT}, {"event_id": 5, "client_event_time": CLIENT + ".000001"}, False),
        ({"event_id": 5}, {"event_id": 5}, False),
        ({"device_id": None, "uuid": "5"}, {"device_id": None, "uuid": "5"}, True),
    ],
)
def test_identity(tmp_path: Path, one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    truth = held(tmp_path, event() | one, event() | other)
    assert repeats(truth) == [False, same]


def test_strings_are_compared_as_decoded(tmp_path: Path) -> None:
    start = f'{{"server_upload_time":"{TIME}","device_id":'
    truth = held(
        tmp_path,
        (start + '"\u00e9\U0001f600","$insert_id":"i"}').encode(),
        (start + '"\\u00e9\\ud83d\\ude00","$insert_id":"x","$insert_\\u0069d":"\\u0069"}').encode(),
    )
    assert repeats(truth) == [False, True]
    assert not truth.events[1].conflict


def test_content() -> None:
    line = (
        '{ "a" : [1, {"b":"]}\\""}] ,"city":1,"City":"x\\\\","a":  {"é": [ ]} ,'
        '"event_id":5,"uuid":"u","server_received_time":"","processed_time":null,"server_upload_time":"","n":-1.5e3 }'
    )
    assert content_of(line.encode()) == {
        "a": '{"é": [ ]}'.encode(),
        "city": b"1",
        "City": b'"x\\\\"',
        "n": b"-1.5e3",
    }
    assert content_of(b" { } ") == {}
    line = (
        b'{"app":5.0,"device_id":"\\u0061","event_type":null,"data":{"a" :1},"event_time":"","event_time":"y","b":null}'
    )
    assert content_of(line) == {"app": 5, "device_id": "a", "data": b'{"a" :1}', "event_time": "y", "b": b"null"}


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ('"city":1,"b":2', '"b":2 , "city" : 1', False),
        ('"city":1', '"City":1', True),
        ('"city":5', '"city":5.0', True),
        ('"city":"a"', '"city":"\\u0061"', True),
        ('"city":{"a":1}', '"city":{"a": 1}', True),
        ('"city":1', '"city":2,"c\\u0069ty":1', False),
        ('"city":1', '"city":1,"b":null', True),
        ('"uuid":"a","event_id":1,"processed_time":1', '"uuid":"b","event_id":2,"server_received_time":1', False),
        ('"client_event_time":null', '"event_time":null', False),
        ('"event_type":"a"', '"event_type":"\\u0061"', False),
        ('"event_type":"a"', '"event_type":"A"', True),
        ('"event_type":""', '"event_type":null', True),
        ('"amplitude_id":5', '"amplitude_id":5.0', False),
        ('"amplitude_id":5', '"amplitude_id":6', True),
        ('"amplitude_id":9007199254740993', '"amplitude_id":9007199254740992.0', True),
        ('"event_time":"2024-05-06 10:00:00"', '"event_time":"2024-05-06T10:00:00"', True),
        ('"data":{"a":1}', '"data":{"a": 1}', True),
        ('"data":null', '"event_type":null', True),
        ('"event_type":"a","event_type":"b"', '"event_type":"b"', False),
    ],
)
def test_conflict(tmp_path: Path, one: str, other: str, conflict: bool) -> None:
    start = '{"device_id":"d","$insert_id":"i","server_upload_time":"2024-05-06 10:00:0'
    truth = held(tmp_path, f'{start}0",{one}}}'.encode(), f'{start}1",{other}}}'.encode())
    assert [(event.repeat, event.conflict) for event in truth.events] == [(False, False), (True, conflict)]


def test_many_of_one_identity(tmp_path: Path) -> None:
    truth = held(tmp_path, *(event(f"2024-05-06 10:{n // 60:02}:{n % 60:02}", "i") for n in range(3000)))
    assert sum(repeats(truth)) == 2999


# Parts


def test_parts() -> None:
    lines = [b"a", b"bb", b"ccc", b"dddddd", b"e"]
    assert cut_parts([], 1, 1) == []
    assert cut_parts(lines, None, None) == [lines]
    assert cut_parts(lines, 2, None) == [lines[:2], lines[2:4], lines[4:]]
    assert cut_parts(lines, None, 5) == [lines[:2], lines[2:3], lines[3:4], lines[4:]]
    assert cut_parts(lines, None, 4) == [[line] for line in lines]
    assert cut_parts(lines, 2, 9) == [lines[:2], lines[2:3], lines[3:]]
    assert cut_parts([line + b"\n" for line in lines[:3]], None, 5) == [[b"a\n", b"bb\n"], [b"ccc\n"]]


# Merged ids


def put_merged(landing: Path, name: str, *lines: bytes) -> None:
    path = landing / "-3" / f"-3_2024-05-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))


def pair(one: int, other: int) -> bytes:
    return f'{{"amplitude_id":{one},"merged_amplitude_id":{other}}}'.encode()


def landed(lines: list[MergedLine]) -> list[tuple[int, int, bool, bool]]:
    return [(line.hour.day, line.pair[0], line.made, line.repeat) for line in lines]


def test_landed_merged_ids(tmp_path: Path) -> None:
    put_merged(tmp_path, "06_9.json.gz", pair(1, 2), b"", b" " + pair(3, 2) + b"\r", pair(1, 2), pair(1, 3))
    put_merged(
        tmp_path,
        "06_10.json",
        b"{} {}",
        b'{"amplitude_id":1}',
        b'{"amplitude_id":1,"merged_amplitude_id":null}',
        b'{"amplitude_id":1.5,"merged_amplitude_id":1}',
        b'{"amplitude_id":1,"merged_amplitude_id":1,"scope":"x"}',
        b'{"amplitude_id":1.0,"merged_amplitude_id":2,"scope":7.0,"merge_time":null}',
    )
    truth = read_organization([tmp_path, tmp_path], 3, [(PROJECT, ProjectTruth([], [], [], 0))])
    nine = TEN - timedelta(hours=1)
    assert truth.merged_ids(nine) == [pair(1, 2), b" " + pair(3, 2), pair(1, 3)]
    assert truth.merged_ids(TEN) == []
    assert [line.reason for line in truth.quarantined] == ["trailing_data"] + ["wrong_type"] * 4


@pytest.mark.parametrize(
    ("window", "hour", "repeat"),
    [
        (timedelta(hours=2), "12", True),
        (timedelta(hours=2), "13", False),
        (timedelta(hours=2, microseconds=1), "13", True),
        (timedelta(hours=2, microseconds=1), "14", False),
    ],
)
def test_window_of_merged_ids(tmp_path: Path, window: timedelta, hour: str, repeat: bool) -> None:
    put_merged(tmp_path, "06_10.json", pair(1, 2))
    put_merged(tmp_path, f"06_{hour}.json", pair(1, 2))
    small = OracleProject(8, PROJECT.first_hour, window=timedelta(hours=1))
    large = OracleProject(7, PROJECT.first_hour, window=window)
    nothing = ProjectTruth([], [], [], 0)
    truth = read_organization([tmp_path], 3, [(large, nothing), (small, nothing)])
    assert [line.repeat for line in truth.merged] == [False, repeat]


def merge(time: str, one: Any, other: Any, **more: Any) -> dict[str, Any]:
    return {"server_upload_time": time, "amplitude_id": one, "data": {"merged_amplitude_id": other}, **more}


def test_made_merged_ids(tmp_path: Path) -> None:
    put_merged(tmp_path, "06_10.json", pair(1, 2))
    put_merged(tmp_path, "06_11.json", pair(5, 6))
    put(
        tmp_path,
        "10#0.json",
        merge(
            "2024-05-06 10:00:02", 5, 6.0, client_event_time="1970-01-01 00:00:03", device_id="d", **{"$insert_id": "i"}
        ),
        merge("2024-05-06 10:00:01.999999", 1, 2),
        merge(
            "2024-05-06 10:00:03", 5, 7, event_time="1970-01-01 00:00:01.0019", client_event_time="1970-01-01 00:00:03"
        ),
        merge("2024-05-06 10:00:04", 5, 7, device_id="d", **{"$insert_id": "i"}),
        merge("2024-05-06 10:00:05", 8, None),
        merge("2024-05-06 10:00:05", None, 8),
        {"server_upload_time": TIME, "amplitude_id": 8, "data": None},
        merge("2024-05-06 10:00:01", int("9" * 30), 9),
    )
    truth = read_project(tmp_path, PROJECT)
    assert sum(repeats(truth)) == 1
    organization = read_organization([tmp_path], 3, [(PROJECT, truth)])
    assert landed(organization.merged) == [
        (6, 1, False, False),
        (6, int("9" * 30), True, False),
        (6, 1, True, True),
        (6, 5, True, False),
        (6, 5, True, False),
        (6, 5, True, True),
        (6, 5, False, False),  # A landed line is no repeat of a made one.
    ]
    ten = int(TEN.timestamp()) * 1000
    assert organization.merged_ids(TEN)[1:] == [
        f'{{"scope":null,"merge_time":{ten + 1000},"merge_server_time":{ten + 1000},'
        f'"amplitude_id":{"9" * 30},"merged_amplitude_id":9}}'.encode(),
        f'{{"scope":null,"merge_time":3000,"merge_server_time":{ten + 2000},'
        '"amplitude_id":5,"merged_amplitude_id":6}'.encode(),
        f'{{"scope":null,"merge_time":1001,"merge_server_time":{ten + 3000},'
        '"amplitude_id":5,"merged_amplitude_id":7}'.encode(),
    ]


def test_made_in_order_of_project_id(tmp_path: Path) -> None:
    other = OracleProject(12, PROJECT.first_hour)
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "12_2024-05-06_10#0.json").write_text(json.dumps(merge("2024-05-06 10:00:00", 1, 2)))
    put(tmp_path, "10#0.json", merge("2024-05-06 10:30:00", 1, 2), merge("2024-05-06 11:30:00", 1, 2))
    projects = [(other, read_project(tmp_path, other)), (PROJECT, read_project(tmp_path, PROJECT))]
    merged = read_organization([], 3, projects).merged
    assert [(line.hour, line.repeat, b":1714991400000" in line.text) for line in merged] == [
        (TEN, False, True),
        (TEN, True, False),
        (ELEVEN, True, False),
    ]


def test_damaged_merged_ids(tmp_path: Path) -> None:
    put_merged(tmp_path, "06_10.json", pair(1, 2))
    path = tmp_path / "-3" / "-3_2024-05-06_10.json"
    path.write_bytes(truncated(pair(1, 2) + b"\n" + pair(3, 4)))
    with pytest.raises(LookupError):
        read_organization([tmp_path], 3, []).merged_ids(TEN)
    truth = read_organization([tmp_path], 3, [], frozenset({f"-3/{path.name}"}))
    assert truth.merged_ids(TEN) == [pair(1, 2)]
    assert [(bad.reason, bad.text) for bad in truth.quarantined] == [("truncated", pair(3, 4))]


def test_long_integers() -> None:
    assert integer_of("9" * 10_000) == 10**10_000 - 1
    assert integer_of("-" + "9" * 10_000) == 1 - 10**10_000
