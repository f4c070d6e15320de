"""An hour served by the Export API, and pulled from there: time and memory, beside what can't be done without.

    python benchmarks/export.py FOLDER [--events 1150000] [--runs 3]

* serve: `amp-pipeline serve export`, its answer read and thrown away. Beside it: the same files zipped to nowhere.
* pull: the hour's zip fetched, every file checked (CRC, gzip, lines, digests), put into the workspace. Beside it: the
  zip fetched, unpacked to the last byte and packed again with ISA-L.
* all: pulled, indexed, deduplicated and delivered.

1,150,000 events are 2 GB unpacked. Prints a table; the process of the server is measured by itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import events
import yaml
from isal import isal_zlib
from measure import measure

from amp_pipeline import config_files
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun

KEYS = {"api_key": "benchmark", "secret_key": "benchmark"}
_BLOCK = 4 << 20
_BY = By("benchmark", datetime.now(UTC).isoformat(), "0")
_MIB = 1 << 20


def main() -> None:
    """Measure, or do one part of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=1_150_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=["read", "zip", "pull", "repack", "all"])
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    folder, hour = options.folder.resolve(), events.Hour(events=options.events)
    if options.part:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "read": lambda: {"bytes": _fetch(options.url, hour, None)},
            "zip": lambda: _zip(folder),
            "pull": lambda: _pull(folder, options.url, hour, deliver=False),
            "repack": lambda: _repack(folder, options.url, hour),
            "all": lambda: _pull(folder, options.url, hour, deliver=True),
        }
        print(json.dumps(parts[options.part]()))
        return
    _measure(folder, hour, options.runs)


def _measure(folder: Path, hour: events.Hour, runs: int) -> None:
    made = _archive(folder, hour)
    print(json.dumps(made))
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(runs):
        for part in ("zip", "read", "repack", "pull", "all"):
            with _serving(folder / "one") as (url, process):
                one = measure(
                    [sys.executable, __file__, str(folder), "--part", part, "--url", url, "--events", str(hour.events)]
                )
                found.setdefault(part, []).append(one)
                if part == "read":
                    found.setdefault("serve", []).append({**_of_process(process), "wall_seconds": one["wall_seconds"]})
    for part, ones in found.items():
        cpu, wall = (statistics.median(one[name] for one in ones) for name in ("cpu_seconds", "wall_seconds"))
        peak = max(one["peak_bytes"] for one in ones)
        print(f"{part:8} {cpu:7.2f} s CPU {wall:7.2f} s wall {peak / _MIB:6.0f} MiB  {ones[-1].get('result', '')}")


def _archive(folder: Path, hour: events.Hour) -> dict[str, Any]:
    """Deliver the hour once, as the archive that is served."""
    one = folder / "one"
    if not (one / "made.json").exists():
        made = events.write(hour, one / "landing")
        organization = _organization(one, hour, {"url": str(one / "landing"), "complete": None}, serve=True)
        _deliver(OrganizationRun(organization), hour)
        (one / "made.json").write_text(json.dumps(made))
    return json.loads((one / "made.json").read_text())


def _organization(folder: Path, hour: events.Hour, source: dict[str, Any], *, serve: bool) -> Organization:
    project = {
        "id": hour.project,
        "slug": "bench",
        "first_hour": hour.key,
        "last_hour": hour.key,
        "source": source,
        "deliveries": [{"name": "all", "url": "bucket", **({"export_api": KEYS} if serve else {})}],
    }
    told = {"id": 9, "slug": "house", "workspace": "workspace", "projects": [project]}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "defs.yaml"
    file.write_text(yaml.safe_dump({"type": config_files.COMPONENT, "attributes": told}))
    (organization,) = config_files.read(file, {})
    return organization


def _deliver(run: OrganizationRun, hour: events.Hour) -> int:
    one = run.projects["bench"]
    (delivery,) = one.project.deliveries
    key = Hour.parse(hour.key)
    one.raw.land(key)
    one.deduped.dedupe(key)
    return one.deliver(one.archive(delivery), delivery, key, _BY).manifest.counts.delivered


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "amp_pipeline.cli", "serve", "export", "--port", "0"]
    environment = {**os.environ, "AMP_PIPELINE_ORGANIZATIONS": str(folder)}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            if line.startswith("listening at "):
                yield line.split()[-1], process
                break
        process.send_signal(signal.SIGTERM)
        process.wait()


def _of_process(process: subprocess.Popen[str]) -> dict[str, Any]:
    """CPU seconds and the highest memory of a process that still runs."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"cpu_seconds": (int(fields[11]) + int(fields[12])) / ticks, "peak_bytes": peak << 10}


def _fetch(url: str, hour: events.Hour, target: Path | None) -> int:
    stamp = f"{hour.start:%Y%m%dT%H}"
    keys = b64encode(f"{KEYS['api_key']}:{KEYS['secret_key']}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/api/2/export?start={stamp}&end={stamp}", headers={"Authorization": f"Basic {keys}"}
    )
    size = 0
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own server
        file = target.open("wb") if target else None
        while block := answer.read(1 << 20):
            size += len(block)
            if file:
                file.write(block)
        if file:
            file.close()
    return size


def _zip(folder: Path) -> dict[str, Any]:
    """Read the files and write them into a zip, stored, that goes nowhere."""
    with Path(os.devnull).open("wb") as nowhere, zipfile.ZipFile(nowhere, "w") as made:
        for path in sorted((folder / "one" / "bucket").rglob("*.json.gz")):
            with path.open("rb") as file, made.open(path.name, "w") as member:
                shutil.copyfileobj(file, member, 1 << 20)
    return {}


def _repack(folder: Path, url: str, hour: events.Hour) -> dict[str, Any]:
    """Fetch the zip, unpack every file, pack it again."""
    folder = _anew(folder / "repack")
    _fetch(url, hour, folder / "answer.zip")
    rows = 0
    with zipfile.ZipFile(folder / "answer.zip") as answer:
        for info in answer.infolist():
            if info.is_dir():
                continue
            inflater = isal_zlib.decompressobj(31)
            deflater = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
            with answer.open(info) as source, (folder / Path(info.filename).name).open("wb") as target:
                data = source.read(_BLOCK)
                while data:
                    block = inflater.decompress(data, _BLOCK)
                    rows += block.count(b"\n")
                    target.write(deflater.compress(block))
                    data = inflater.unconsumed_tail or source.read(_BLOCK)
                target.write(deflater.flush())
    return {"rows": rows}


def _pull(folder: Path, url: str, hour: events.Hour, *, deliver: bool) -> dict[str, Any]:
    folder = _anew(folder / "two")
    source = {"type": "amplitude_export", "url": url, **KEYS}
    organization = _organization(folder, hour, source, serve=False)
    run = OrganizationRun(organization)
    pulling = run.projects["bench"].pulling
    key = Hour.parse(hour.key)
    started = time.perf_counter()
    if pulling is None or not pulling.pull(key):
        raise SystemExit("nothing was pulled")
    receipt = pulling.hours.receipt(key)
    result: dict[str, Any] = {
        "pull_seconds": round(time.perf_counter() - started, 2),
        "lines": sum(one.lines for one in receipt.objects) if receipt else 0,
    }
    if deliver:
        result["delivered"] = _deliver(run, hour)
        result["same"] = _digests(folder / "bucket") == _digests(folder.parent / "one" / "bucket")
    result["own_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return result


def _digests(bucket: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(bucket.rglob("*.json.gz"))}


def _anew(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
