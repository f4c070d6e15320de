"""Hypothesis strategies: small landings in which everything that docs/rules.md speaks of meets everything else.

Few devices, few ids and times at the edges of hours and windows, so that events do meet.
"""

import gzip
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import strategies as st

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US
from amp_pipeline_tests.oracle import Suppressed

WINDOWS = {"7d": timedelta(days=7), "90m": timedelta(minutes=90), "36h": timedelta(hours=36)}
ABSENT = object()

DEVICES = ["d", "D", "d1", "ß🛒", "\ud800", "", None, ABSENT]
INSERT_IDS = ["a", "A", "1a", "\u0000", "", None, ABSENT]
EVENT_IDS = [5, 5.0, 0, -0.0, 2**53 + 1, 2.0**53, 10**19, 1e19, 10**300, None, ABSENT]
CLIENT_TIMES = ["2024-05-05 23:59:59.5", "2024-05-05T23:59:59.500000Z", "2024-05-06 00:00:00", None, ABSENT]
UUIDS = ["u", "U", "", None, ABSENT]
EVENT_TYPES = ["purchase", "purchase", "Purchase", "click", "\udc00", None, ABSENT]
EVENT_TIMES = ["2024-05-01 10:00:00.123456", "2024-05-02T10:00:00", "0001-01-01 00:00:00", None, ABSENT]
CITIES = ["Köln", "Bonn", ABSENT, ABSENT]
AMPLITUDE_IDS = [1, 2, 3, 2.0, 10**30, None, ABSENT]
USER_IDS = ["u", "Ü", 'q"\\', "\ud800", "5", 5, 5.0, True, "", None, ABSENT]
DATA = [
    ABSENT,
    ABSENT,
    None,
    {},
    {"merged_amplitude_id": 2},
    {"merged_amplitude_id": 3.0},
    {"merged_amplitude_id": None},
]
APPS = [ABSENT, None, "own", "own as 7.0"]
TIME_FORMS = ["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%fZ"]

T = b'"server_upload_time":"2024-05-06 00:10:00"'
BAD_LINES = [
    b'{%s,"x":"\xff"}' % T,
    b"\xff",
    b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"{%s}{%s}" % (T, T),
    b"{%s} x" % T,
    b"1 2",
    b"{%s" % T,
    b'{%s,"x":NaN}' % T,
    b'{%s,"x":-Infinity}' % T,
    b'{%s,"x":01}' % T,
    b'{%s,"x":"\x01"}' % T,
    b'{%s,"x":"a\tb"}' % T,
    b"{%s,}" % T,
    b"\xef\xbb\xbf\xef\xbb\xbf{%s}" % T,
    b"\x0b",
    b"[%s]" % b"1",
    b"1e400",
    b'"text"',
    b"null",
    b'{%s,"event_id":true}' % T,
    b'{%s,"event_id":1e400}' % T,
    b'{%s,"event_id":"5"}' % T,
    b'{%s,"app":7.5}' % T,
    b'{%s,"amplitude_id":true}' % T,
    b'{%s,"data":[]}' % T,
    b'{%s,"data":{"merged_amplitude_id":"2"}}' % T,
    b'{%s,"device_id":5}' % T,
    b'{%s,"$insert_id":{}}' % T,
    b'{"server_upload_time":5}',
    b'{"event_type":"purchase"}',
    b'{"server_upload_time":null}',
    b'{"server_upload_time":""}',
    b'{"server_upload_time":"2024-05-06"}',
    b'{"server_upload_time":"2024-02-30 00:00:00"}',
    b'{"server_upload_time":"2024-05-06 24:00:00"}',
    b'{"server_upload_time":"2024-05-06 00:00:00.1234567"}',
    b'{"server_upload_time":"2024-05-06 00:00:00."}',
    b'{"server_upload_time":"2024-05-06 00:00:00+00:00"}',
    b'{%s,"client_event_time":"yesterday"}' % T,
    b'{%s,"event_time":"0000-01-01 00:00:00"}' % T,
    b'{%s,"app":99}' % T,
    b'{"server_upload_time":"2024-05-05 23:59:59.999999"}',
    b'{"server_upload_time":"2031-01-01 00:00:00"}',
    b'{"server_upload_time":"2031-01-01 00:00:00","user_id":"u"}',
    b'{"user_id":"u","amplitude_id":"2"}',
    b'{"amplitude_id":"2"}',
    b'{"user_id":"u", and no more',
    b'[{"amplitude_id": 2}]',
    b'{"user_id":"\\u00dc"}{}',
]
"""Lines that are quarantined, of each reason."""

LANDED_MERGES = [
    b'{"scope":null,"amplitude_id":1,"merged_amplitude_id":2}',
    b'{"amplitude_id":1.0,"merged_amplitude_id":2,"scope":5}',
    b'{ "merged_amplitude_id" : 3, "amplitude_id" : 2, "note" : "k\xc3\xb6ln" }',
    b'{"amplitude_id":2,"merged_amplitude_id":1}',
    b'{"amplitude_id":1000000000000000000000000000000,"merged_amplitude_id":3}',
    b'{"amplitude_id":null,"merged_amplitude_id":2}',
    b'{"amplitude_id":1,"merged_amplitude_id":2,"merge_time":"now"}',
    b'{"amplitude_id":1}',
    b"{}{}",
    b"\xff",
    b"",
]

LINE_ENDS = [b"\n", b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\r\n", b"\r\r\n", b"\n\xef\xbb\xbf"]


@dataclass(frozen=True)
class Case:
    """A generated landing, and in which runs its hours are delivered."""

    projects: list[dict[str, Any]]
    objects: dict[str, bytes]
    late: frozenset[str]
    """Names of objects that come after all hours have been delivered once."""
    runs: list[list[Hour]]
    suppressed: list[Suppressed]
    """Users of the first project who are deleted, each asked for after some of the runs."""
    asked_after: int
    """How many runs were made before."""

    @property
    def hours(self) -> list[Hour]:
        return sorted(hour for run in self.runs for hour in run)

    def organization(self, base: Path) -> Organization:
        return builders.organization(base, base / "landing", projects=self.projects)

    def land(self, base: Path, names: frozenset[str]) -> None:
        for name in names:
            builders.put_bytes(base / "landing", name, self.objects[name])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    windows = draw(st.lists(st.sampled_from(list(WINDOWS)), min_size=1, max_size=2))
    parts = draw(st.sampled_from([{}, {"parts": {"events": 3}}, {"parts": {"bytes": 300}}]))
    projects = [{"dedupe": {"window": window}, "last_hour": "2030-01-01-00:00", **parts} for window in windows]
    objects: dict[str, bytes] = {}
    hours = {FIRST_HOUR + 3}
    for number, window in enumerate(windows):
        _land_project(draw, 7 + number, WINDOWS[window] // timedelta(microseconds=1), objects, hours)
    _land_merges(draw, objects, hours)
    late = draw(st.frozensets(st.sampled_from(sorted(objects)))) if objects else frozenset[str]()
    order = draw(st.permutations(sorted(hours)))
    size = draw(st.sampled_from([1, 2, 100]))
    runs = [order[at : at + size] for at in range(0, len(order), size)]
    suppressed = draw(st.lists(_suppressions(), max_size=2))
    return Case(projects, objects, late, runs, suppressed, draw(st.integers(0, len(runs))))


@st.composite
def _suppressions(draw: st.DrawFn) -> Suppressed:
    up_to = draw(st.sampled_from([None, None, 0, HOUR_US // 2, 2 * HOUR_US]))
    return Suppressed(
        users=frozenset(draw(st.lists(st.sampled_from(["u", "Ü", 'q"\\', "5"]), max_size=2))),
        amplitude_ids=frozenset(draw(st.lists(st.sampled_from([1, 2, 10**30]), max_size=2))),
        up_to=None if up_to is None else FIRST_HOUR.start_us + up_to,
    )


def _land_project(draw: st.DrawFn, project: int, window: int, objects: dict[str, bytes], hours: set[Hour]) -> None:
    templates = draw(st.lists(_templates(), min_size=1, max_size=3))
    found: dict[tuple[int, int], list[bytes]] = {}
    for _ in range(draw(st.integers(1, 10))):
        us = draw(_times(window))
        of_file = max(0, us // HOUR_US + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 5])))
        line = draw(_lines(project, draw(st.sampled_from(templates)), us))
        found.setdefault((of_file, draw(st.sampled_from([0, 0, 2, 10]))), []).append(line)
        hours.update((FIRST_HOUR + of_file, FIRST_HOUR + us // HOUR_US))
    for bad in draw(st.lists(st.sampled_from(BAD_LINES), max_size=3)):
        found.setdefault(draw(st.sampled_from(sorted(found))), []).append(bad)
    for (of_file, number), lines in found.items():
        hour = FIRST_HOUR + of_file
        of_day = draw(st.sampled_from([f"{hour.of_day}", f"{hour.of_day:02d}"]))
        ending = draw(st.sampled_from([".json", ".json.gz", ".json.zst"]))
        name = f"{project}/{project}_{hour.day}_{of_day}#{number}{ending}"
        objects[name] = draw(_packed(draw(_text(lines))))


def _land_merges(draw: st.DrawFn, objects: dict[str, bytes], hours: set[Hour]) -> None:
    lines = st.lists(st.sampled_from(LANDED_MERGES), max_size=4)
    for hour in draw(st.lists(st.sampled_from(sorted(hours)), max_size=3, unique=True)):
        objects[builders.merged_name(hour)] = draw(_packed(draw(_text(draw(lines)))))


@st.composite
def _templates(draw: st.DrawFn) -> dict[str, Any]:
    """The fields by which events are told to be the same."""
    return {
        "device_id": draw(st.sampled_from(DEVICES)),
        "$insert_id": draw(st.sampled_from(INSERT_IDS)),
        "event_id": draw(st.sampled_from(EVENT_IDS)),
        "client_event_time": draw(st.sampled_from(CLIENT_TIMES)),
        "uuid": draw(st.sampled_from(UUIDS)),
    }


@st.composite
def _times(draw: st.DrawFn, window: int) -> int:
    """µs after the start of the first hour, at the edges of hours and of the window."""
    start = draw(st.sampled_from([0, 0, 1, HOUR_US // 2, HOUR_US - 1, HOUR_US, 3 * HOUR_US // 2]))
    return start + draw(st.sampled_from([0, 0, 0, 1, HOUR_US, window // 2, window - 1, window, window + 1, 2 * window]))


@st.composite
def _lines(draw: st.DrawFn, project: int, template: dict[str, Any], us: int) -> bytes:
    fields = {
        **template,
        "server_upload_time": builders.written_time(us, draw(st.sampled_from(TIME_FORMS))),
        "event_type": draw(st.sampled_from(EVENT_TYPES)),
        "city": draw(st.sampled_from(CITIES)),
    }
    for name, values in {
        "uuid": UUIDS,
        "event_id": EVENT_IDS,
        "event_time": EVENT_TIMES,
        "amplitude_id": AMPLITUDE_IDS,
        "user_id": USER_IDS,
        "data": DATA,
        "app": APPS,
    }.items():
        if draw(st.booleans()):
            fields[name] = draw(st.sampled_from(values))
    if isinstance(fields.get("app"), str):
        fields["app"] = project if fields["app"] == "own" else float(project)
    return _written({name: value for name, value in fields.items() if value is not ABSENT}, draw(st.integers(0, 6)))


def _written(fields: dict[str, Any], style: int) -> bytes:
    text = json.dumps(fields, separators=(", ", " : ") if style == 1 else (",", ":"))
    if style == 2:
        text = f" \t{text} "
    if style == 3:
        text = '{"device_id":"never","device_id":null,"server_upload_time":5,' + text[1:]
    if style == 4:
        text = text[:-1] + ',"other":[1e400,{"1":[]},"\\ud800"],"City":"K","city ":1.0}'
    if style == 5:
        raw = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        text = text if any("\ud800" <= one <= "\udfff" for one in raw) else raw
    return text.encode()


@st.composite
def _text(draw: st.DrawFn, lines: list[bytes]) -> bytes:
    text = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\n"]))
    text += b"".join(line + draw(st.sampled_from(LINE_ENDS)) for line in lines)
    return text.removesuffix(b"\n") if draw(st.integers(0, 3)) == 0 else text


@st.composite
def _packed(draw: st.DrawFn, text: bytes) -> bytes:
    how = draw(st.sampled_from(["plain", "gzip", "zstd", "members", "frames", "padded"]))
    middle = draw(st.integers(0, len(text)))
    if how in ("gzip", "zstd"):
        return builders.packed(text, how)
    if how == "members":
        return gzip.compress(text[:middle], mtime=0) + gzip.compress(text[middle:], mtime=0)
    if how == "frames":
        zstd = zstandard.ZstdCompressor()
        return zstd.compress(text[:middle]) + zstd.compress(text[middle:])
    if how == "padded":
        return gzip.compress(text, mtime=0) + bytes(middle)
    return text
