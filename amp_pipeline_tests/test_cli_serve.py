"""``amp-pipeline serve export`` as a process: what it prints, how it stops, how much memory it takes."""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from amp_pipeline.cli import main
from amp_pipeline.core import manifest
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.manifest import Counts, File, Manifest, Owner
from amp_pipeline_tests.builders import FIRST_HOUR
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.export_server import AUTH, KEYS, running, write_defs
from amp_pipeline_tests.servers import Server

MIB = 1 << 20
MOST_MEMORY = 128 * MIB
RANGE = {"start": "20240506T00", "end": "20240506T01"}


def house(base: Path, *deliveries: dict[str, Any]) -> Path:
    """Write the ``defs.yaml`` of a project with deliveries, each with a filter that would bring in polars."""
    given = [{"filter": "event_type = 'purchase'", "export_api": KEYS, **one} for one in deliveries]
    project = {"id": 7, "slug": "shop", "first_hour": FIRST_HOUR.key, "source": {"url": "landing"}, "deliveries": given}
    write_defs(base, {"id": 9, "slug": "house", "workspace": "workspace", "projects": [project]})
    return base


def deliver_any(bucket: Path, hour: Hour, sizes: list[int]) -> list[str]:
    """Write an hour of parts that hold anything, as a delivery would; return their digests."""
    return write_hour(bucket, hour, [os.urandom(size) for size in sizes])


def write_hour(bucket: Path, hour: Hour, parts: list[bytes]) -> list[str]:
    names = ArchiveNames(9, 7, "all")
    files: list[File] = []
    for number, data in enumerate(parts):
        name = names.part(hour, number)
        path = bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        size = len(data)
        files.append(File(name=name, kind="events", rows=1, bytes=size, unpacked_bytes=size, sha256=digest))
    count = len(files)
    found = Manifest(
        version=1,
        organization=Owner(id=9, slug="house"),
        project=Owner(id=7, slug="shop"),
        delivery="all",
        filter=None,
        hour=hour.key,
        complete_marker=None,
        files=files,
        counts=Counts(landed=count, quarantined=0, repeats=0, deleted=0, filtered=0, delivered=count),
        merged_ids=None,
        event_time=None,
        server_upload_time=None,
        schema=[],
    )
    path = bucket / names.manifest(hour)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest.encode(found))
    return [file.sha256 for file in files]


def serve(folder: Path, *arguments: str) -> Result:
    """The command in this process, where it does not get as far as serving."""
    return CliRunner().invoke(main, ["serve", "export", *arguments], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})


def most_memory(process: "subprocess.Popen[str]") -> int:
    """The most bytes that a process has held in memory."""
    line = next(one for one in Path(f"/proc/{process.pid}/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_it_says_what_it_serves_and_where(tmp_path: Path):
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    with running(folder) as (url, process):
        assert requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=30).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    printed = (tmp_path / "serve.out").read_text()
    assert printed == f"serving shop.all: {tmp_path}/bucket\nlistening at {url}\n"
    told = (tmp_path / "serve.err").read_text()
    assert " 404 shop.all 20240506T00-20240506T01 0 bytes " in told
    assert not any(secret in printed + told for secret in AUTH)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_ends_what_it_has_begun(tmp_path: Path, number: signal.Signals):
    (digest,) = deliver_any(tmp_path / "bucket", FIRST_HOUR, [24 * MIB])
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    with running(folder) as (url, process):
        answer = requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=30, stream=True)
        pieces = answer.iter_content(MIB)
        got = next(pieces)
        process.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{url}/", timeout=5)
        got += b"".join(pieces)
        assert process.wait(20) == 0
    assert len(got) == int(answer.headers["content-length"])
    assert unpacked_digests(got) == [digest]


def unpacked_digests(data: bytes) -> list[str]:

    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return [hashlib.sha256(found.read(name)).hexdigest() for name in found.namelist()[1:]]


def test_memory_does_not_grow_with_the_hour(tmp_path: Path):
    sizes = [40 * MIB] * 2
    digests = deliver_any(tmp_path / "bucket", FIRST_HOUR, sizes)
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    with running(folder) as (url, process):
        answer = requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=60)
        assert most_memory(process) < MOST_MEMORY
    assert unpacked_digests(answer.content) == digests


LINE = {
    "event_type": "purchase",
    "event_properties": {"price": 12.5, "currency": "EUR", "path": "/a/b/c"},
    "user_properties": {"plan": "pro", "city": "Paris", "City": "Paris"},
    "server_upload_time": "2024-05-06 00:00:00.000000",
}


def deliver_events(bucket: Path, hour: Hour, parts: int, unpacked: int) -> int:
    """Deliver an hour of events, each part of so many bytes before packing; return its size packed."""
    # The same part again and again, each under its own name.
    with TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        size = 0
        with part.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, compresslevel=1) as zipped:
            while size < unpacked:
                fields = {"device_id": os.urandom(16).hex(), "$insert_id": os.urandom(16).hex()}
                size += zipped.write(json.dumps({**fields, **LINE}).encode() + b"\n")
        data = part.read_bytes()
    write_hour(bucket, hour, [data] * parts)
    return len(data) * parts


@pytest.mark.soak
@pytest.mark.parametrize("place", ["folder", "S3"])
def test_hour_of_two_gigabytes_is_served_in_little_memory(
    tmp_path: Path, moto_server: Server, place: str, capsys: pytest.CaptureFixture[str]
):
    """To eight readers at once as well."""
    packed = deliver_events(tmp_path / "bucket", FIRST_HOUR, 8, 256 * MIB)
    delivery: dict[str, Any] = {"name": "all", "url": "bucket"}
    if place == "S3":
        bucket = new_bucket(moto_server)
        for path in (one for one in (tmp_path / "bucket").rglob("*") if one.is_file()):
            moto_server.client().upload_file(str(path), bucket, f"a/{path.relative_to(tmp_path / 'bucket')}")
        s3 = moto_server.settings().model_dump(mode="json", exclude_defaults=True, exclude={"secret_access_key"})
        delivery = {"name": "all", "url": f"s3://{bucket}/a", "s3": {**s3, "secret_access_key": "test"}}
    with running(house(tmp_path, delivery)) as (url, process):
        idle, cpu, began = most_memory(process), cpu_seconds(process), time.monotonic()
        zipped = tmp_path / "hour.zip"
        fetch(url, zipped)
        seconds, used = time.monotonic() - began, cpu_seconds(process) - cpu
        alone = most_memory(process)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: fetch(url, tmp_path / f"{number}.zip"), range(8)))
        together = most_memory(process)
    with zipfile.ZipFile(zipped) as found:
        assert found.testzip() is None
        unpacked = sum(unpacked_size(found, name) for name in found.namelist()[1:])
    limit = rezipped(zipped, tmp_path / "again.zip")
    with capsys.disabled():
        print(  # noqa: T201 - figures for the docs
            f"\n{place}: {unpacked / 1e9:.2f} GB unpacked, {packed / 1e6:.0f} MB packed: {seconds:.2f} s, "
            f"{used:.2f} s of CPU (unzip and rezip: {limit:.2f} s); memory {idle >> 20} MiB idle, "
            f"{alone >> 20} MiB serving, {together >> 20} MiB serving eight"
        )
    assert unpacked >= 2 << 30
    assert max(alone, together) < MOST_MEMORY
    assert len({(tmp_path / f"{number}.zip").stat().st_size for number in range(8)}) == 1


def fetch(url: str, path: Path) -> None:
    with (
        requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=300, stream=True) as answer,
        path.open("wb") as file,
    ):
        answer.raise_for_status()
        for piece in answer.iter_content(MIB):
            file.write(piece)
    assert path.stat().st_size == int(answer.headers["content-length"])


def cpu_seconds(process: "subprocess.Popen[str]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def unpacked_size(found: zipfile.ZipFile, name: str) -> int:
    with found.open(name) as part, gzip.open(part) as lines:
        return sum(len(chunk) for chunk in iter(lambda: lines.read(MIB), b""))


def rezipped(source: Path, target: Path) -> float:
    """Take the members of a zip into another, as they are; return the CPU seconds."""
    began = time.process_time()
    with zipfile.ZipFile(source) as found, zipfile.ZipFile(target, "w") as made:
        for name in found.namelist():
            with found.open(name) as member, made.open(name, "w") as copy:
                shutil.copyfileobj(member, copy, MIB)
    return time.process_time() - began


def test_behind_a_certificate_of_its_own(tmp_path: Path):
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    certificate, key = own_certificate(tmp_path, "localhost")
    with running(folder, "--certificate", str(certificate), "--key", str(key), "--host", "localhost") as (url, _):
        assert url.startswith("https://localhost:")
        answer = requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=30, verify=str(certificate))
        assert answer.status_code == 404


def own_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-days", "1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


def test_one_delivery_is_served_alone(tmp_path: Path):
    two = {"name": "two", "url": "two", "export_api": {"api_key": "other", "secret_key": "secret"}}
    folder = house(tmp_path, {"name": "all", "url": "bucket"}, two)
    with running(folder, "--project", "shop", "--delivery", "two") as (url, _):
        assert requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=30).status_code == 403
    assert (tmp_path / "serve.out").read_text().startswith("serving shop.two: ")


def test_without_a_delivery_to_serve_it_does_not_start(tmp_path: Path):
    folder = house(tmp_path, {"name": "all", "url": "bucket", "export_api": None})
    for arguments, said in [
        ([], "no delivery has export_api; give it the keys that readers have to send"),
        (["--project", "shop"], "no delivery of shop has export_api; give it"),
        (["--delivery", "all"], "delivery all has no export_api; give it"),
        (["--delivery", "none"], "there is no delivery none; known are all"),
    ]:
        found = serve(folder, *arguments)
        assert found.exit_code == 1
        assert found.output.startswith(f"Error: {said}")


def test_what_it_cannot_listen_with_is_told(tmp_path: Path):
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = serve(folder, "--port", str(port))
    assert (found.exit_code, f"can't listen at 127.0.0.1:{port}: " in found.output) == (1, True)
    certificate, key = own_certificate(tmp_path, "localhost")
    found = serve(folder, "--certificate", str(certificate))
    assert (found.exit_code, "belong together" in found.output) == (1, True)
    found = serve(folder, "--certificate", str(key), "--key", str(key))
    assert (found.exit_code, "can't be used" in found.output) == (1, True)


def test_limit_can_be_set(tmp_path: Path):
    deliver_any(tmp_path / "bucket", FIRST_HOUR, [1000])
    folder = house(tmp_path, {"name": "all", "url": "bucket"})
    with running(folder, "--limit", "999") as (url, _):
        answer = requests.get(f"{url}/api/2/export", params=RANGE, auth=AUTH, timeout=30)
    assert (answer.status_code, "999 bytes" in answer.text) == (400, True)
