"""An archive, served, and pulled into a second project through whatever goes wrong on the way: the same lines come out.

Both sides are the commands that users run; what spoils requests is a proxy between them.
"""

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from amp_pipeline.core.hours import Hour, between
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.builders import EXAMPLE_LANDING, organization
from amp_pipeline_tests.defs.shop import REPO, dagster_home_in
from amp_pipeline_tests.export_server import KEYS, serving
from amp_pipeline_tests.laws.driver import run
from amp_pipeline_tests.proxy import Proxy, proxied
from amp_pipeline_tests.servers import Server
from amp_pipeline_tests.test_cli import amp, amp_process

FIRST, LAST = Hour.parse("2024-05-07-00:00"), Hour.parse("2024-05-08-11:00")
HOURS = list(between(FIRST, LAST))
QUIET = range(10, 14)
"""Hours of the first day without any event: the answer for them is 404."""


@contextmanager
def served(base: Path) -> Iterator[tuple[Proxy, str, Path]]:
    """Some of the example, delivered and served; a proxy before that, its address, and the bucket."""
    landing = base / "landing"
    for hour in HOURS:
        if hour.date != FIRST.date or hour.of_day not in QUIET:
            for file in (EXAMPLE_LANDING / "187520").glob(f"187520_{hour.day}_{hour.of_day}#*"):
                target = landing / "187520" / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file)
    bucket = base / "bucket"
    house = organization(
        base,
        landing,
        id=189524,
        projects=[
            {
                "id": 187520,
                "slug": "shop",
                "first_hour": FIRST.key,
                "last_hour": LAST.key,
                "deliveries": [{"name": "all", "url": str(bucket), "export_api": KEYS}],
            }
        ],
    )
    assert run(house, HOURS, open_store) == {}
    (project,) = house.projects
    with (
        serving((house, project, project.deliveries[0])) as server,
        proxied(Server("export", server.url, base)) as (proxy, before),
    ):
        yield proxy, before.endpoint, bucket


def puller(folder: Path, address: str, **source: Any) -> Path:
    project = {
        "id": 187520,
        "slug": "shop",
        "first_hour": FIRST.key,
        "last_hour": LAST.key,
        "source": {"type": "amplitude_export", "url": address, **KEYS, **source},
        "deliveries": [{"name": "all", "url": str(folder / "bucket")}],
    }
    told = {"id": 189524, "slug": "copy", "workspace": str(folder / "workspace"), "projects": [project]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": "amp_pipeline.Organization", "attributes": told}))
    return folder


def lines(bucket: Path) -> dict[str, tuple[int, str]]:
    """Count and digest of the lines of each hour, in their order, whatever files they are in."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(
        (bucket / "187520").glob("*.json.gz"), key=lambda path: int(path.name.split("#")[1].split(".")[0])
    ):
        found.setdefault(path.name.partition("#")[0], []).append(gzip.decompress(path.read_bytes()))
    joined = {hour: b"".join(parts) for hour, parts in found.items()}
    return {hour: (text.count(b"\n"), hashlib.sha256(text).hexdigest()) for hour, text in joined.items()}


def asked_hours(path: str) -> int:
    asked = parse_qs(urlsplit(path).query)
    if not asked:
        # Whether this is an Export API at all.
        return 0
    first, last = (asked[name][0] for name in ("start", "end"))
    return (int(last[6:8]) - int(first[6:8])) * 24 + int(last[9:]) - int(first[9:]) + 1


def test_an_archive_that_is_pulled_through_faults_and_a_kill_is_the_same(tmp_path: Path) -> None:
    with served(tmp_path / "one") as (proxy, address, bucket):
        proxy.fault = spoiling(random.Random(5), 0.5)
        folder, home = puller(tmp_path / "two", address), dagster_home_in(tmp_path / "home")
        assert kill_while_pulling(folder, home, proxy, after=4)
        result = amp_process(folder, "deliver", home=home)
        # What was given up goes on with the next command, as with the next tick of the sensor.
        for _ in range(5):
            if result.returncode:
                result = amp_process(folder, "deliver", home=home)
        assert result.returncode == 0, result.stdout
        assert {one.split()[0] for one in proxy.spoilt} >= {"400", "429", "504", "half", "reset"}
    copied = lines(tmp_path / "two" / "bucket")
    assert copied == lines(bucket)
    assert sum(count for count, _ in copied.values()) > 300
    assert not {f"187520_{FIRST.day}_{of_day}" for of_day in QUIET} & copied.keys()
    markers = {path.name for path in (tmp_path / "two" / "bucket" / "187520").glob("*_complete")}
    assert len(markers) == len(HOURS)
    audit = amp(folder, "audit")
    assert audit.exit_code == 0, audit.output
    secrets = [KEYS["api_key"], KEYS["secret_key"]]
    assert not any(key in result.stdout + audit.output for key in secrets)


def spoiling(chance: random.Random, share: float) -> Callable[[str, str, int], str]:
    """Spoil a share of the requests, each in one of the ways in which the API and networks do."""

    def fault(method: str, path: str, number: int) -> str:
        # Ranges of many hours are refused, each in turn; what is small enough is spoilt by chance.
        if asked_hours(path) > 6:
            return ("400", "504")[number % 2]
        if number < 12:
            return ("429", "half", "reset", "", "500", "other")[number % 6]
        return chance.choice(["429", "500", "503", "half", "reset"]) if chance.random() < share / 4 else ""

    return fault


def kill_while_pulling(folder: Path, home: Path, proxy: Proxy, after: int) -> bool:
    """Start a delivery and end it by SIGKILL at the ``after``-th request; tell whether it came to that."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "AMP_"))}
    environment |= {"AMP_PIPELINE_ORGANIZATIONS": str(folder), "DAGSTER_HOME": str(home)}
    command = [sys.executable, "-m", "amp_pipeline.cli", "deliver"]
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while len(proxy.seen) < after and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    return True


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_order_of_faults(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with served(tmp_path / "one") as (proxy, address, bucket):
        proxy.fault = spoiling(chance, 1.2)
        folder, home = puller(tmp_path / "two", address), dagster_home_in(tmp_path / "home")
        kills = 0
        while kill_while_pulling(folder, home, proxy, after=len(proxy.seen) + chance.randint(1, 6)):
            kills += 1
        assert kills >= 2
        result = amp_process(folder, "deliver", home=home)
        for _ in range(20):
            if result.returncode:
                result = amp_process(folder, "deliver", home=home)
        assert result.returncode == 0, result.stdout
    assert lines(tmp_path / "two" / "bucket") == lines(bucket)
    assert amp(folder, "audit").exit_code == 0
