"""Other people's pullers, as they come from the package index, read exactly what was delivered."""

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.export_server import AUTH, KEYS, serving, write_defs
from amp_pipeline_tests.laws import driver
from amp_pipeline_tests.test_cli_serve import own_certificate

REPO = Path(__file__).parents[2]
CLIENTS = REPO / ".venv-clients" / "bin"
AIRBYTE = CLIENTS / "source-amplitude"
DAY = "2024-05-08"
"""Of the example."""

EMPTY = (3, 4, 15, 23)
"""Hours of that day whose landing is taken away."""

EXPORT = """
import json, sys
from amplitude import AmplitudeExport
AmplitudeExport.URL, *keys = sys.argv[1:4]
json.dump(AmplitudeExport(*keys).export(*sys.argv[4:6]), sys.stdout)
"""


def shop(base: Path, day: str) -> tuple[dict[str, Any], list[Hour]]:
    """The example's day, moved to ``day``, some hours of it empty: what a user writes, and the hours."""
    landing = base / "landing" / "187520"
    landing.mkdir(parents=True)
    for path in sorted((builders.EXAMPLE_LANDING / "187520").glob(f"187520_{DAY}_*")):
        of_day = int(path.name.split("_")[2].partition("#")[0])
        if of_day not in EMPTY and "#" in path.name:
            lines = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            moved = lines.replace(DAY.encode(), day.encode())
            name = path.name.replace(DAY, day)
            (landing / name).write_bytes(gzip.compress(moved) if path.suffix == ".gz" else moved)
    hours = [Hour.parse(f"{day}-{of_day:02d}:00") for of_day in range(24)]
    delivery = {"name": "all", "url": str(base / "bucket"), "what": ["events"], "export_api": KEYS}
    source = {"url": str(base / "landing"), "complete": None}
    project = {
        "id": 187520,
        "slug": "shop",
        "first_hour": hours[0].key,
        "source": source,
        "deliveries": [delivery],
        "parts": {"events": 20},
    }
    organization = {"id": 189524, "slug": "house", "workspace": str(base / "workspace"), "projects": [project]}
    failures = driver.run(Organization.model_validate(organization), hours, open_store)
    assert failures == {}
    return organization, hours


def delivered(base: Path) -> list[dict[str, Any]]:
    """The events in the bucket."""
    return [
        json.loads(line)
        for path in sorted((base / "bucket").rglob("*.json.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]


def digest(records: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """How many records there are, and a digest of all that is in them, whatever their order."""
    texts = sorted(json.dumps(record, sort_keys=True) for record in records)
    return len(texts), hashlib.sha256("\n".join(texts).encode()).hexdigest()


def test_python_amplitude_export_reads_all(tmp_path: Path):
    attributes, hours = shop(tmp_path, DAY)
    organization = Organization.model_validate(attributes)
    project = organization.projects[0]
    first, last = ("".join(f"{hour.day}T{hour.of_day:02d}".split("-")) for hour in (hours[0], hours[-1]))
    with serving((organization, project, project.deliveries[0])) as server:
        found = subprocess.run(
            [CLIENTS / "python", "-c", EXPORT, server.export, *AUTH, first, last], capture_output=True, check=True
        )
    expected = delivered(tmp_path)
    assert len(expected) > 200
    assert digest(json.loads(found.stdout)) == digest(expected)


def messages(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


TIMES = (
    "event_time",
    "client_event_time",
    "client_upload_time",
    "server_upload_time",
    "server_received_time",
    "processed_time",
    "user_creation_time",
)


def as_instants(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` with times as Python reads them: Airbyte's connector writes them in another form."""
    found = {name: datetime.fromisoformat(record[name]) for name in TIMES if record.get(name)}
    return {**record, **{name: str(at if at.tzinfo else at.replace(tzinfo=UTC)) for name, at in found.items()}}


@pytest.mark.soak
@pytest.mark.skipif(not AIRBYTE.exists(), reason="Airbyte's connector needs Python 3.11")
@pytest.mark.parametrize("hours_at_once", [1, 24])
def test_airbyte_reads_all(tmp_path: Path, hours_at_once: int):
    """The connector asks amplitude.com over https for every hour from its start until now."""
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    attributes, _ = shop(tmp_path, yesterday)
    write_defs(tmp_path, attributes)
    certificate, key = own_certificate(tmp_path, "amplitude.com")
    (bundle,) = CLIENTS.parent.glob("lib/python*/site-packages/certifi/cacert.pem")
    settings = {
        **KEYS,
        "start_date": f"{yesterday}T00:00:00Z",
        "data_region": "Standard Server",
        "request_time_range": hours_at_once,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    stream = {"name": "events", "json_schema": {}, "supported_sync_modes": ["full_refresh", "incremental"]}
    configured = {"stream": stream, "sync_mode": "full_refresh", "destination_sync_mode": "overwrite"}
    (tmp_path / "catalog.json").write_text(json.dumps({"streams": [configured]}))

    def run(*arguments: str) -> list[dict[str, Any]]:
        alone = ["unshare", "--map-root-user", "--net", "--mount", sys.executable]
        served = ["-m", "amp_pipeline_tests.as_amplitude", *map(str, (tmp_path, certificate, key, bundle))]
        command = [*alone, *served, str(AIRBYTE), *arguments, "--config", str(tmp_path / "config.json")]
        found = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{found.stdout[-3000:]}{found.stderr[-3000:]}"
        return list(messages(found.stdout))

    checked = [one["connectionStatus"] for one in run("check") if one["type"] == "CONNECTION_STATUS"]
    assert [one["status"] for one in checked] == ["SUCCEEDED"]
    read = run("read", "--catalog", str(tmp_path / "catalog.json"))
    expected = delivered(tmp_path)
    records = [one["record"]["data"] for one in read if one["type"] == "RECORD"]
    assert len(expected) > 200
    assert digest(map(as_instants, records)) == digest(map(as_instants, expected))
    told = (tmp_path / "serve.err").read_text()
    assert told.count(" 404 shop.all ") >= (len(EMPTY) if hours_at_once == 1 else 0)

    settings["secret_key"] = "wrong"
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (failed,) = [one["connectionStatus"] for one in run("check") if one["type"] == "CONNECTION_STATUS"]
    assert (failed["status"], "Access denied" in failed["message"]) == ("FAILED", True)
