"""The Export API over delivered archives: a real server over HTTP, and real folders."""

import gzip
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name
from amp_pipeline_tests.export_server import AUTH, KEYS, ExportServer, serving
from amp_pipeline_tests.laws import driver

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

    def manifest(self, hour: int) -> Path:
        return self.bucket / f"_amp_pipeline/7/all/{FIRST_HOUR.day}/{hour:02d}.json"


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
def server(shop: Shop) -> Iterator[ExportServer]:
    with serving(shop.one) as server:
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


def test_hours_are_given_as_amplitude_does(shop: Shop, server: ExportServer):
    found = opened(ask(server, 0, 1))
    parts = [f"7/7_2024-05-06_{hour}#{number}.json.gz" for hour in (0, 1) for number in (0, 1)]
    assert found.namelist() == ["7/", *parts]
    for name in parts:
        assert found.read(name) == (shop.bucket / name).read_bytes()
    assert gzip.decompress(found.read(parts[3])) == event(HOUR_US + 2, uuid="1-2") + b"\n"
