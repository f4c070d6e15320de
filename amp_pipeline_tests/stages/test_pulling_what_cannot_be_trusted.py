"""Answers of servers that are broken, or mean ill: no hour is delivered with less than it has, and nothing goes on for
ever or fills the disk."""

import gzip
import resource
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from amp_pipeline.source_access import probe_source
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources import amplitude_export, answer_zip
from amp_pipeline_tests.export_server import KEYS as KEYS_OF_OURS
from amp_pipeline_tests.export_server import serving
from amp_pipeline_tests.export_stand_in import Packed, StandIn
from amp_pipeline_tests.services.test_export_api import deliver
from amp_pipeline_tests.stages.test_pulling import DAY, Trial, full, line, name, packed


@pytest.fixture
def trial(tmp_path: Path, server: StandIn) -> Trial:
    return Trial(tmp_path, server, attempts=1)


def directory(body: bytes) -> int:
    """Where the directory of a zip begins."""
    (at,) = struct.unpack_from("<I", body, body.rindex(b"PK\x05\x06") + 16)
    return at


def name_of_second(body: bytes) -> int:
    """Where the directory has the name of the last file."""
    return body.rindex(b"7/7_2024", directory(body))


def as_folder(body: bytes) -> bytes:
    at = name_of_second(body) + len(name(DAY[5])) - 1
    return body[:at] + b"/" + body[at + 1 :]


def without_last(body: bytes) -> bytes:
    """The directory ends before the last file, and says so."""
    begin, end = directory(body), body.rindex(b"PK\x05\x06")
    last = body.rindex(b"PK\x01\x02", 0, end)
    kept = body[:last] + body[end:]
    count, size = 2, last - begin
    at = kept.rindex(b"PK\x05\x06")
    return kept[: at + 8] + struct.pack("<HHI", count, count, size) + kept[at + 16 :]


def other_bytes_of_name(body: bytes) -> bytes:
    """A name that says it is UTF-8, and is not."""
    at = name_of_second(body)
    entry = body.rindex(b"PK\x01\x02", 0, at)
    flags = struct.pack("<H", 0x800)
    return body[: entry + 8] + flags + body[entry + 10 : at + 3] + b"\xff" + body[at + 4 :]


def out_of_the_file(body: bytes) -> bytes:
    """The directory is said to be larger than all that is there."""
    at = body.rindex(b"PK\x05\x06")
    return body[: at + 12] + struct.pack("<I", len(body) * 2) + body[at + 16 :]


@pytest.mark.parametrize("changed", [as_folder, without_last, other_bytes_of_name, out_of_the_file])
def test_a_directory_that_hides_files_is_no_whole_answer(trial: Trial, server: StandIn, changed: Any):
    server.hours[DAY[5]] = [Packed(name(DAY[5], number), packed(line(DAY[5], number))) for number in (0, 1)]
    server.changed = changed
    (count,) = trial.counts([DAY[5]])
    assert "no whole zip" in str(count)
    server.changed = lambda body: body
    assert trial.counts([DAY[5]]) == [2]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_whose_memory_has_no_bound_is_refused(trial: Trial, server: StandIn, method: int):
    server.hours[DAY[5]] = [Packed(name(DAY[5]), packed(line(DAY[5])), method)]
    assert f"packed by method {method}" in str(trial.counts([DAY[5]])[0])


def test_names_with_numbers_without_end_are_no_names_of_events(trial: Trial, server: StandIn):
    server.hours[DAY[5]] = [Packed(f"7/7_2024-05-06_5#{'9' * 5000}.json.gz", packed(line(DAY[5])))]
    assert "is no name of events" in str(trial.counts([DAY[5]])[0])


def test_an_answer_that_is_too_long_is_asked_for_in_halves(
    trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    full(server)
    monkeypatch.setattr(amplitude_export, "MOST_BYTES", 1500)
    assert trial.counts() == [3] * 24
    assert max(last.number - first.number for first, last in server.asked[1:]) < 23
    server.hours[DAY[0]] = [Packed(name(DAY[0]), gzip.compress(bytes(range(256)) * 8, 0))]
    assert "can't give the hour 2024-05-06-00:00 (an answer of more than 1,500 bytes)" in str(
        trial.counts(DAY[:1], force=True)[0]
    )


def test_files_that_are_too_long_are_refused_before_they_are_unpacked(
    trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(amplitude_export, "MOST_BYTES", 100_000)
    server.hours[DAY[5]] = [Packed("7/7_2024-05-06_5#0.json", bytes(200_000), zipfile.ZIP_DEFLATED)]
    assert "files of more than 100,000 bytes" in str(trial.counts([DAY[5]])[0])


def test_what_unpacks_to_more_than_events_do_fails_its_hour_alone(
    trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer_zip, "_ALWAYS_UNPACKED_BYTES", 1 << 20)
    full(server)
    server.hours[DAY[5]] = [Packed(name(DAY[5]), gzip.compress(bytes(16 << 20)))]
    counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert "no events do" in str(counts[5])


def test_an_answer_that_trickles_is_given_up(tmp_path: Path, server: StandIn):
    full(server, DAY[:1])
    server.fault = lambda *_: "slow"
    trial = Trial(tmp_path, server, attempts=1, read_timeout=0.5)
    assert "the answer comes too slowly" in str(trial.counts(DAY[:1])[0])
    assert trial.trouble() == "network"


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """Let no file grow larger than ``size``, as a disk does that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_the_disk_has_no_room_for_a_day_it_may_have_for_hours(trial: Trial, server: StandIn):
    full(server)
    server.hours[DAY[7]] = [Packed(name(DAY[7]), gzip.compress(b"".join(line(DAY[7], n) for n in range(999)), 0))]
    with little_room(4096):
        counts = trial.counts()
    assert counts[:7] + counts[8:] == [3] * 23
    assert "there is no room for the answer" in str(counts[7])
    assert "TMPDIR" in str(counts[7])


def test_a_header_that_names_no_hour_is_no_whole_answer(trial: Trial, server: StandIn):
    full(server, DAY[:1])
    server.headers = {"amp-pipeline-not-yet": "soon"}
    assert "names no hour" in str(trial.counts(DAY[:1])[0])


@pytest.mark.parametrize("path", ["/api", "/api/2/export", "/somewhere"])
def test_a_wrong_address_has_no_empty_hours(tmp_path: Path, path: str):
    """Our own server answers 404 in plain text to paths that it has not."""
    shop = deliver(tmp_path / "served", 2)
    with serving(shop.one) as ours:

        class Elsewhere:
            def source(self, **settings: Any) -> dict[str, Any]:
                # As it could be written before addresses were looked at, and as a proxy may lead astray.
                return {"type": "amplitude_export", "url": f"{ours.url}{path}", **KEYS_OF_OURS, **settings}

        if path != "/somewhere":
            with pytest.raises(ValueError, match="without /api"):
                Trial(tmp_path, cast(StandIn, Elsewhere()))
            return
        counts = Trial(tmp_path, cast(StandIn, Elsewhere())).counts(DAY[:2])
    assert all("is no Export API: it answers 404 whatever it is asked" in str(count) for count in counts)


def test_a_page_in_place_of_a_zip_is_told_as_such(trial: Trial, server: StandIn):
    server.fault = lambda *_: "login"
    assert "answers 200 with a page of HTML in place of a zip" in str(trial.counts(DAY[:1])[0])
    assert trial.trouble() == "network"
    source = trial.organization.projects[0].source
    assert isinstance(source, AmplitudeExport)
    outcome = probe_source(source, 7)
    assert (outcome.ok, "in place of a zip" in outcome.summary) == (False, True)


def test_keys_of_another_project_deliver_no_empty_hours(trial: Trial, server: StandIn):
    server.hours[DAY[3]] = [Packed("8/8_2024-05-06_3#0.json.gz", packed(b"{}"))]
    assert all("the keys are of that project" in str(count) for count in trial.counts(DAY[:6]))
    # Of the others that project has no events, which says nothing of ours: nor to a run that asks for them alone.
    assert all("the keys are of that project" in str(count) for count in trial.counts(DAY[6:]))
    assert trial.trouble() == "credentials"
    full(server)
    assert trial.counts(DAY[6:]) == [3] * 18
    assert trial.trouble() is None
    assert trial.counts() == [3] * 24
