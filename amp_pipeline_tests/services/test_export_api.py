"""The Export API over delivered archives: a real server over HTTP, and real folders."""

import base64
import gzip
import hashlib
import io
import random
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from msgspec.structs import replace

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import manifest
from amp_pipeline.core.manifest import File
from amp_pipeline.services import listening
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.export_server import AUTH, KEYS, ExportServer, exported, keys, serving, serving_archives
from amp_pipeline_tests.laws import driver
from amp_pipeline_tests.servers import Server, free_port

EMPTY = 2
"""Of the six hours of :func:`shop`, the one without events."""


@dataclass
class Shop:
    """A project whose hours are delivered to a folder."""

    organization: Organization
    bucket: Path

    @property
    def one(self) -> tuple[Organization, Project, Delivery]:
        project = self.organization.projects[0]
        return self.organization, project, project.deliveries[0]

    def part(self, hour: int, number: int = 0) -> Path:
        return self.bucket / f"7/7_{FIRST_HOUR.day}_{hour}#{number}.json.gz"

    def manifest(self, hour: int, day: str = FIRST_HOUR.day) -> Path:
        return self.bucket / f"_amp_pipeline/7/all/{day}/{hour:02d}.json"

    def set(self, **delivery: Any) -> None:
        """Change settings of the delivery."""
        organization, project, one = self.one
        project = project.model_copy(update={"deliveries": (one.model_copy(update=delivery),)})
        self.organization = organization.model_copy(update={"projects": (project,)})

    def add_large_part(self, hour: int, size: int) -> None:
        """List one more part in an hour's manifest: more bytes than sockets hold."""
        found = manifest.decode(self.manifest(hour).read_bytes())
        path = self.part(hour, len(found.files))
        path.write_bytes(random.Random(hour).randbytes(size))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(self.bucket))
        large = File(name=name, kind="events", rows=1, bytes=size, unpacked_bytes=size, sha256=digest)
        self.manifest(hour).write_bytes(manifest.encode(replace(found, files=[*found.files, large])))


def deliver(base: Path, hours: int = 6, **delivery: Any) -> Shop:
    """Deliver some hours of two parts each."""
    landing, bucket = base / "landing", base / "bucket"
    for hour in range(hours):
        lines = [event(hour * HOUR_US + number, uuid=f"{hour}-{number}") for number in range(3)]
        builders.put(landing, object_name(FIRST_HOUR + hour), *([] if hour == EMPTY else lines))
        builders.put_bytes(landing, builders.merged_name(FIRST_HOUR + hour), builders.merged(1, 2 + hour) + b"\n")
    given = {"name": "all", "url": str(bucket), "parts": {"events": 2}, "export_api": KEYS, **delivery}
    organization = builders.organization(base, landing, projects=[{"deliveries": [given]}])
    driver.run(organization, [FIRST_HOUR + hour for hour in range(hours)], open_store)
    return Shop(organization, bucket)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return deliver(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(delivered: Shop, tmp_path: Path) -> Shop:
    """A shop of the test's own, to be broken."""
    shutil.copytree(delivered.bucket, tmp_path / "bucket")
    project = delivered.organization.projects[0]
    delivery = project.deliveries[0].model_copy(update={"url": str(tmp_path / "bucket")})
    organization = delivered.organization.model_copy(
        update={"projects": (project.model_copy(update={"deliveries": (delivery,)}),)}
    )
    return Shop(organization, tmp_path / "bucket")


@pytest.fixture
def its_server(shop: Shop) -> Iterator[ExportServer]:
    with serving(shop.one) as server:
        yield server


@pytest.fixture(scope="module")
def server(delivered: Shop) -> Iterator[ExportServer]:
    """For tests that break nothing."""
    with serving(delivered.one) as server:
        yield server


def stamp(hour: int) -> str:
    at = FIRST_HOUR + hour
    return f"{at.day.replace('-', '')}T{at.of_day:02d}"


def ask(server: ExportServer, first: int, last: int, **more: Any) -> requests.Response:
    params = {"start": stamp(first), "end": stamp(last)}
    given: dict[str, Any] = {"auth": AUTH, "timeout": 30, **more}
    return requests.get(server.export, params=params, **given)


def opened(answer: requests.Response) -> zipfile.ZipFile:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip"), answer.text
    found = zipfile.ZipFile(io.BytesIO(answer.content))
    assert found.testzip() is None
    return found


def test_hours_are_given_as_amplitude_does(shop: Shop, its_server: ExportServer):
    found = opened(ask(its_server, 0, 1))
    parts = [f"7/7_2024-05-06_{hour}#{number}.json.gz" for hour in (0, 1) for number in (0, 1)]
    assert found.namelist() == ["7/", *parts]
    for name in parts:
        assert found.read(name) == (shop.bucket / name).read_bytes()
    assert gzip.decompress(found.read(parts[3])) == event(HOUR_US + 2, uuid="1-2") + b"\n"


def events_of(answer: requests.Response) -> list[bytes]:
    found = opened(answer)
    return [line for name in found.namelist()[1:] for line in gzip.decompress(found.read(name)).splitlines()]


def hours_of(answer: requests.Response) -> list[int]:
    return sorted({int(name.rpartition("_")[2].partition("#")[0]) for name in opened(answer).namelist()[1:]})


@pytest.mark.parametrize(("first", "last", "hours"), [(0, 0, [0]), (1, 3, [1, 3]), (0, 5, [0, 1, 3, 4, 5])])
def test_first_and_last_hour_are_included(server: ExportServer, first: int, last: int, hours: list[int]):
    assert hours_of(ask(server, first, last)) == hours


def test_every_event_comes_once_and_merged_ids_never(tmp_path: Path):
    shop = deliver(tmp_path, what=["events", "merged_ids"])
    assert list((shop.bucket / "-9").iterdir())
    with serving(shop.one) as server:
        answer = ask(server, 0, 5)
    expected = [event(h * HOUR_US + n, uuid=f"{h}-{n}") for h in range(6) if h != EMPTY for n in range(3)]
    assert events_of(answer) == expected


def test_members_are_named_as_the_delivery_names_them(tmp_path: Path):
    shop = deliver(tmp_path, 1, names={"first_part": 1, "padded_hour": True})
    with serving(shop.one) as server:
        names = opened(ask(server, 0, 0)).namelist()
    assert names == ["7/", "7/7_2024-05-06_00#1.json.gz", "7/7_2024-05-06_00#2.json.gz"]


def test_empty_hour_has_no_events(server: ExportServer):
    answer = ask(server, EMPTY, EMPTY)
    assert (answer.status_code, answer.text) == (404, "There are no events in this range.\n")
    assert "amp-pipeline-not-yet" not in answer.headers


def test_hours_after_the_newest_are_not_there_yet(server: ExportServer):
    answer = ask(server, 6, 9)
    assert (answer.status_code, answer.headers["amp-pipeline-not-yet"]) == (404, "20240506T06")
    answer = ask(server, 5, 9)
    assert (hours_of(answer), answer.headers["amp-pipeline-not-yet"]) == ([5], "20240506T06")


def test_hours_outside_the_project_are_empty(shop: Shop):
    shop.set(first_hour=FIRST_HOUR + 3)
    shop.manifest(1).unlink()
    with serving(shop.one) as server:
        assert ask(server, -48, -1).status_code == 404
        # Delivered by hand from before the delivery's first hour.
        assert hours_of(ask(server, -48, 5)) == [0, 3, 4, 5]


def test_nothing_comes_after_the_last_hour(shop: Shop):
    project = shop.organization.projects[0].model_copy(update={"last_hour": FIRST_HOUR + 5})
    shop.organization = shop.organization.model_copy(update={"projects": (project,)})
    with serving(shop.one) as server:
        answer = ask(server, 6, 9)
    assert (answer.status_code, answer.headers.get("amp-pipeline-not-yet")) == (404, None)


@pytest.mark.parametrize(("first", "last"), [(3, 3), (2, 4), (0, 5), (0, 24 * 300)])
def test_missing_hour_before_others_is_told(shop: Shop, its_server: ExportServer, first: int, last: int):
    shop.manifest(3).unlink()
    answer = ask(its_server, first, last)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "2024-05-06-03:00" in answer.text


def test_missing_hour_is_told_where_the_next_one_comes_years_later(shop: Shop, its_server: ExportServer):
    late = shop.manifest(0, "2026-02-03")
    late.parent.mkdir()
    shutil.copy(shop.manifest(0), late)
    assert ask(its_server, 6, 6).status_code == 503


def test_newest_hour_that_is_written_again_is_not_called_empty(shop: Shop, its_server: ExportServer):
    assert hours_of(ask(its_server, 5, 5)) == [5]
    shop.manifest(5).unlink()
    # It was there before.
    assert ask(its_server, 5, 5).status_code == 503
    shop.manifest(5).with_suffix(".claim").write_bytes(b"{}")
    with serving(shop.one) as another:
        answer = ask(another, 5, 5)
    assert (answer.status_code, "2024-05-06-05:00 is being written" in answer.text) == (503, True)


@pytest.mark.parametrize("first", [-24 * 300, 0])
def test_range_of_a_year_is_answered(server: ExportServer, first: int):
    assert hours_of(ask(server, first, first + 365 * 24 - 1)) == [0, 1, 3, 4, 5]
    answer = ask(server, first, first + 365 * 24)
    assert (answer.status_code, "365 days" in answer.text) == (400, True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Bearer abc",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    ],
)
def test_who_sends_no_keys_is_told_how(server: ExportServer, header: str | None):
    headers = {} if header is None else {"authorization": header}
    answer = ask(server, 0, 0, auth=lambda request: request, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Basic")


@pytest.mark.parametrize(
    "auth",
    [
        ("x", AUTH[1]),
        (AUTH[0], "x"),
        ("", ""),
        (AUTH[1], AUTH[0]),
        (AUTH[0], AUTH[1] + ":"),
        (AUTH[0].upper(), AUTH[1]),
    ],
)
def test_wrong_keys_are_refused(server: ExportServer, auth: tuple[str, str]):
    assert ask(server, 0, 0, auth=auth).status_code == 403
    assert not any(secret in line for line in server.lines for secret in AUTH)


def test_keys_open_their_own_delivery_and_no_other(shop: Shop, tmp_path: Path):
    other = deliver(tmp_path / "other", 1)
    archives = [(keys(1), exported(*shop.one)), (keys(2), exported(*other.one))]
    one, two = ([f"{key}-{number}" for key in AUTH] for number in (1, 2))
    with serving_archives(archives) as server:
        assert hours_of(ask(server, 0, 5, auth=tuple(two))) == [0]
        assert hours_of(ask(server, 0, 5, auth=tuple(one))) == [0, 1, 3, 4, 5]
        assert ask(server, 0, 5, auth=(one[0], two[1])).status_code == 403


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_get_is_answered(server: ExportServer, method: str):
    answer = requests.request(method, server.export, auth=AUTH, timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("path", "auth", "status"),
    [
        ("/", None, 404),
        ("/api/2/export/", AUTH, 404),
        ("/api/2/users", AUTH, 404),
        ("/api/2/users", None, 401),
        ("/api/2/users", ("x", "y"), 403),
    ],
)
def test_other_paths_are_not_there(server: ExportServer, path: str, auth: tuple[str, str] | None, status: int):
    assert requests.get(server.url + path, auth=auth, timeout=30).status_code == status


@pytest.mark.parametrize(
    "query",
    [
        "",
        "start=20240506T00",
        "end=20240506T00",
        "start=20240506T00&end=",
        "start=20240506T00&start=20240506T00&end=20240506T00",
        "start=20240506&end=20240506",
        "start=2024-05-06T00&end=2024-05-06T00",
        "start=20240506T24&end=20240506T24",
        "start=20240230T00&end=20240230T00",
        "start=00000101T00&end=00000101T00",
        "start=20240506T01&end=20240506T00",
        "start=20240506T00%0a&end=20240506T00",
        "start=20240506T0%D9%A0&end=20240506T00",
        "start=%D9%A2%D9%A0240506T00&end=20240506T00",
        "start=\xff",
    ],
)
def test_what_is_no_range_of_hours_is_refused(server: ExportServer, query: str):
    answer = requests.get(f"{server.export}?{query}", auth=AUTH, timeout=30)
    assert (answer.status_code, len(answer.text) > 10) == (400, True)
    assert "\n" not in server.line()


@pytest.mark.parametrize("hours", ["99991231T22&end=99991231T23", "00010101T00&end=00010101T05"])
def test_first_and_last_hours_of_all_have_no_events(server: ExportServer, hours: str):
    assert requests.get(f"{server.export}?start={hours}", auth=AUTH, timeout=30).status_code == 404


def test_hour_with_one_digit_is_taken(server: ExportServer):
    answer = requests.get(f"{server.export}?start=20240506T1&end=20240506T1", auth=AUTH, timeout=30)
    assert hours_of(answer) == [1]


def test_answer_over_the_limit_is_refused_as_amplitude_does(shop: Shop):
    size = sum(shop.part(hour, number).stat().st_size for hour in (0, 1) for number in (0, 1))
    with serving(shop.one, limit_bytes=size) as server:
        assert ask(server, 0, 1).status_code == 200
        answer = ask(server, 0, 3)
    assert answer.status_code == 400
    assert "file size of the exported data is too large. Shorten the time ranges and try again" in answer.text


CUT = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)


@pytest.mark.parametrize("change", ["other bytes", "shorter", "longer", "gone"])
def test_answer_is_cut_where_a_part_is_not_what_its_manifest_says(shop: Shop, its_server: ExportServer, change: str):
    shop.add_large_part(0, 1 << 20)
    part = shop.part(1)
    data = part.read_bytes()
    part.unlink()
    if change != "gone":
        changed = bytes([data[0] ^ 1]) + data[1:]
        part.write_bytes({"other bytes": changed, "shorter": data[:-1], "longer": data + b"x"}[change])
    with pytest.raises(CUT):
        ask(its_server, 0, 3)
    assert "cut off" in its_server.line()
    assert str(part) in its_server.line()
    # And the others are as they were.
    assert hours_of(ask(its_server, 3, 5)) == [3, 4, 5]


def test_part_that_is_gone_from_the_start_is_an_error(shop: Shop, its_server: ExportServer):
    shop.part(1).unlink()
    answer = ask(its_server, 1, 1)
    assert (answer.status_code, str(shop.bucket) in answer.text) == (502, False)
    assert str(shop.part(1)) in its_server.line()


@pytest.mark.parametrize(
    "damage",
    [b"{}", b"no JSON", b'{"version": 2, "hour": "2024-05-06-01:00", "files": []}', "other hour", "way out"],
)
def test_manifest_that_cannot_be_believed_is_an_error(shop: Shop, its_server: ExportServer, damage: bytes | str):
    path = shop.manifest(1)
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "other hour":
        shutil.copy(shop.manifest(3), path)
    else:
        path.write_bytes(path.read_bytes().replace(b"7/7_2024-05-06_1#0", b"../../etc/passwd"))
    assert ask(its_server, 0, 3).status_code == 502
    assert str(path) in its_server.line()


def test_broken_bucket_is_told_without_its_insides(shop: Shop):
    secret = "s3-secret"
    settings = {"endpoint": f"http://127.0.0.1:{free_port()}", "region": "us-east-1", "attempts": 1}
    s3 = {**settings, "access_key_id": "key-of-s3", "secret_access_key": secret}
    organization = shop.organization.model_validate({**shop.organization.model_dump(exclude={"alerts"}), "s3": s3})
    shop.organization = organization
    shop.set(url="s3://events/a")
    with serving(shop.one) as server:
        answer = ask(server, 0, 3)
        line = server.line()
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "30")
    assert not any(word in answer.text for word in ("s3", "events/a", "127.0.0.1"))
    assert "s3://events/a" in line
    assert secret not in line


def test_line_tells_of_each_request(its_server: ExportServer):
    size = len(ask(its_server, 0, 1).content)
    status, who, hours, sent, *_ = its_server.line(0).split()
    assert (status, who, hours, int(sent)) == ("200", "shop7.all", "20240506T00-20240506T01", size)
    ask(its_server, EMPTY, EMPTY)
    assert its_server.line(1).endswith(" s")


def test_several_are_answered_at_once(shop: Shop, its_server: ExportServer):
    shop.add_large_part(0, 4 << 20)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(its_server, 0, 5).content, range(8)))
    assert len(set(answers)) == 1
    assert hours_of(ask(its_server, 0, 5)) == [0, 1, 3, 4, 5]


def connected(server: ExportServer, seconds: float = 30) -> socket.socket:
    """A client that has not asked yet, and waits no longer than some seconds for anything."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def reading(server: ExportServer) -> socket.socket:
    """A client that has asked, and reads nothing."""
    client = connected(server)
    login = base64.b64encode(":".join(AUTH).encode()).decode()
    request = (
        f"GET /api/2/export?start={stamp(0)}&end={stamp(0)} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n"
    )
    client.sendall(request.encode())
    assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return client


def test_who_comes_when_all_places_are_taken_is_asked_to_come_back(shop: Shop):
    shop.add_large_part(0, 32 << 20)
    with serving(shop.one, at_once=1) as server:
        with reading(server):
            answer = ask(server, 1, 1)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
        # It has gone without reading to the end, and its place is free.
        assert "the client has gone" in server.line(1)
        assert ask(server, 1, 1).status_code == 200


def test_client_that_reads_nothing_is_given_up(shop: Shop):
    shop.add_large_part(0, 32 << 20)
    with serving(shop.one, stalled_seconds=0.3) as server, reading(server):
        assert "read nothing for 0.3 s" in server.line(0)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api/2/export HTTP/1.1\r\nHost: x\r\n",
        b"GET /api/2/export HTTP/1.1\r\nHost: x\r\n\r\nGET /api",
        b"POST /api/2/export HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    ],
    ids=["nothing", "half a request", "half a second one", "half a body"],
)
def test_connection_that_asks_for_nothing_is_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch, sent: bytes):
    monkeypatch.setattr(listening, "_REQUEST_SECONDS", 0.3)
    with serving(shop.one) as server, connected(server, seconds=4) as client:
        client.sendall(sent)
        said = bytearray()
        with suppress(ConnectionResetError):
            while piece := client.recv(4096):
                said += piece
        assert said.count(b"HTTP/1.1") == sent.count(b"\r\n\r\n")


def test_slow_answers_are_not_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """What is left in the server when it has given all takes the client longer than a request may."""
    monkeypatch.setattr(listening, "_REQUEST_SECONDS", 0.2)
    shop.add_large_part(0, 12 << 20)
    with serving(shop.one) as server:
        answer = ask(server, 0, 0, stream=True)
        got = bytearray()
        while piece := answer.raw.read(256 << 10):
            got += piece
            time.sleep(0.04)
    assert zipfile.ZipFile(io.BytesIO(got)).testzip() is None


def test_head_without_end_is_not_kept(server: ExportServer):
    head = b"GET /api/2/export HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(20_000))
    with connected(server, seconds=10) as client, pytest.raises(ConnectionError):
        client.sendall(head)


def test_slow_client_gets_all(shop: Shop):
    shop.add_large_part(0, 16 << 20)
    with serving(shop.one, stalled_seconds=5) as server:
        answer = ask(server, 0, 0, stream=True)
        got = bytearray()
        for number, piece in enumerate(answer.iter_content(1 << 20)):
            got += piece
            time.sleep(0.05 if number < 8 else 0)
    assert zipfile.ZipFile(io.BytesIO(got)).testzip() is None


def test_answers_come_from_a_bucket_as_from_a_folder(shop: Shop, its_server: ExportServer, moto_server: Server):
    bucket = new_bucket(moto_server)
    shop.add_large_part(0, 3 << 20)
    client = moto_server.client()
    for path in shop.bucket.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"a/{path.relative_to(shop.bucket)}", Body=path.read_bytes())
    expected = ask(its_server, 0, 5).content
    store = open_store(f"s3://{bucket}/a", moto_server.settings())
    with serving_archives([(keys(), exported(*shop.one, store=store))]) as over_s3:
        assert ask(over_s3, 0, 5).content == expected
        assert ask(over_s3, EMPTY, EMPTY).status_code == 404
        client.delete_object(Bucket=bucket, Key=f"a/{shop.manifest(3).relative_to(shop.bucket)}")
        assert ask(over_s3, 0, 5).status_code == 503
