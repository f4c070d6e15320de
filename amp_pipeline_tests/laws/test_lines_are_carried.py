"""Law 1: the bytes of an event's JSON in a bucket are the bytes that landed, whatever way the line takes."""

import gzip
from pathlib import Path

import pytest

from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, packed, put_bytes
from amp_pipeline_tests.laws.driver import Stores, run, settle
from amp_pipeline_tests.laws.truth import delivered_parts, read_manifest

HEAD = b'"event_type":"purchase","server_upload_time":"2024-05-06 00:10:00"'
MEGABYTE = 1 << 20

HOSTILE = {
    "a number beyond a double": b'{%s,"x":1e400,"y":-1E-400}' % HEAD,
    "decimals that say nothing": b'{%s,"x":1.0,"y":1.50,"z":-0,"e":1E+2}' % HEAD,
    "an integer of 20 digits": b'{%s,"x":12345678901234567890}' % HEAD,
    "an integer of 5,000 digits": b'{%s,"x":%s}' % (HEAD, b"7" * 5000),
    "an event_id of 20 digits": b'{%s,"event_id":12345678901234567890,"device_id":"d"}' % HEAD,
    "an escaped NUL": b'{%s,"x\\u0000":"\\u0000"}' % HEAD,
    "lone surrogates": b'{%s,"x":"\\ud800","\\udfff":1}' % HEAD,
    "lone surrogates in an identity": b'{%s,"device_id":"\\ud800","$insert_id":"\\udc00","uuid":"\\ud800"}' % HEAD,
    "a lone surrogate in the event type": b'{"server_upload_time":"2024-05-06 00:10:00","event_type":"\\ud800"}',
    "escaped tabs and backslashes": b'{%s,"a\\tb":"c\\td\\\\e\\/f\\"g\\u0009\\u005c","\\\\":"\\n\\r\\b\\f"}' % HEAD,
    "an escaped key that is read": b'{"event_type":"purchase","server\\u005fupload_time":"2024-05-06 00:10:00"}',
    "doubled keys": b'{"server_upload_time":5,"x":1,"x":2,%s,"device_id":"a","device_id":"b"}' % HEAD,
    "spaces between tokens": b'{ "a" :\t[ 1 ,2 ,  3 ] , %s , "b" : { } }' % HEAD,
    "spaces around the object": b" \t {%s} \t " % HEAD,
    "a carriage return after the object": b"{%s}\r" % HEAD,
    "two carriage returns after the object": b"{%s} \r\r" % HEAD,
    "nested 100 deep": b'{%s,"x":%s1%s}' % (HEAD, b'{"a":[' * 50, b"]}" * 50),
    "characters of four bytes": '{%s,"x":"🛒𐍈","🛒":"é"}'.encode() % HEAD,
    "separators of other tongues": '{%s,"x":"a\u2028b\u2029c\u0085d"}'.encode() % HEAD,
    "a byte-order mark in a string": b'{%s,"x":"\xef\xbb\xbf"}' % HEAD,
    "city beside City": b'{%s,"City":"A","city":"a","CITY":null}' % HEAD,
    "a line of 1 MB": b'{%s,"x":"%s"}' % (HEAD, b"0123456789abcdef" * (MEGABYTE // 16)),
    "a line larger than a block": b'{%s,"x":"%s"}' % (HEAD, b"fedcba9876543210" * (6 * MEGABYTE // 16)),
    "an empty key": b'{%s,"":{"":""}}' % HEAD,
}
LINES = list(HOSTILE.values())


def delivered(
    base: Path, name: str = "7/7_2024-05-06_0#0.json.gz", how: str = "gzip", end: bytes = b"\n"
) -> dict[str, list[bytes]]:
    """Land the hostile lines in one object; return what each delivery of the first hour has of them."""
    text = b"".join(line + end for line in LINES)
    put_bytes(base / "landing", name, packed(text, how))
    organization = builders.organization(base, base / "landing")
    stores = Stores(organization)
    hours = [FIRST_HOUR, FIRST_HOUR + 1]
    assert run(organization, hours, stores) == {}
    settle(organization, hours, stores)
    project = organization.projects[0]
    return {
        delivery.name: [
            line
            for part in delivered_parts(
                stores(delivery.url), read_manifest(stores(delivery.url), project, delivery, FIRST_HOUR), "events"
            )
            for line in part
        ]
        for delivery in project.deliveries
    }


def different(found: list[bytes], expected: list[bytes]) -> list[str]:
    """What the hostile lines are called that are not among those found."""
    return [name for name, line in HOSTILE.items() if line in expected and line not in found]


def assert_carried(found: list[bytes], expected: list[bytes]) -> None:
    assert different(found, expected) == []
    # Without comparing in the assertion itself: a difference of megabytes takes pytest minutes to print.
    same = found == expected
    assert same, f"{len(found)} lines instead of {len(expected)}, or in another order"


def purchases() -> list[bytes]:
    return [line for line in LINES if b'"purchase"' in line]


@pytest.mark.parametrize(
    ("how", "ending", "end"), [("gzip", ".json.gz", b"\n"), ("zstd", ".json.zst", b"\r\n"), ("plain", ".json", b"\n")]
)
def test_every_hostile_line_is_delivered_byte_for_byte(tmp_path: Path, how: str, ending: str, end: bytes) -> None:
    # One carriage return before the line end is part of the line end, so "…}\r" needs another one to be carried.
    expected = [line.removesuffix(b"\r") if end == b"\n" else line for line in LINES]
    found = delivered(tmp_path, f"7/7_2024-05-06_0#0{ending}", how, end)
    same = found["all"] == expected
    assert same, different(found["all"], expected)


def test_lines_that_pass_a_filter_are_carried_too(tmp_path: Path) -> None:
    assert_carried(delivered(tmp_path, end=b"\r\n")["purchases"], purchases())


def test_strays_are_carried_too(tmp_path: Path) -> None:
    found = delivered(tmp_path, "7/7_2024-05-06_1#0.json.gz", end=b"\r\n")
    assert_carried(found["all"], LINES)
    assert_carried(found["purchases"], purchases())


def test_a_carriage_return_at_the_end_of_an_object_without_line_end_is_carried(tmp_path: Path) -> None:
    line = b"{%s}\r" % HEAD
    put_bytes(tmp_path / "landing", "7/7_2024-05-06_0#0.json", line)
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    assert run(organization, [FIRST_HOUR], stores) == {}
    project = organization.projects[0]
    for delivery in project.deliveries:
        store = stores(delivery.url)
        manifest = read_manifest(store, project, delivery, FIRST_HOUR)
        assert delivered_parts(store, manifest, "events") == [[line]]


def test_landed_merged_ids_are_carried(tmp_path: Path) -> None:
    line = b' {"amplitude_id" : 1.0,"x":1e400, "merged_amplitude_id":20000000000000000000,"y":"\\ud800\xc3\xb6"}\t\r'
    put_bytes(tmp_path / "landing", "-9/-9_2024-05-06_0.json.gz", gzip.compress(line + b"\r\n"))
    organization = builders.organization(tmp_path, tmp_path / "landing")
    stores = Stores(organization)
    assert run(organization, [FIRST_HOUR], stores) == {}
    project = organization.projects[0]
    store = stores(project.deliveries[0].url)
    manifest = read_manifest(store, project, project.deliveries[0], FIRST_HOUR)
    assert delivered_parts(store, manifest, "merged_ids") == [[line]]
