"""Airbyte's connector to Amplitude and our own pull, side by side: when things go wrong, and what it costs.

    unshare --map-root-user --net --mount .venv/bin/python benchmarks/beside_airbyte.py FOLDER
        [--part faults,lines,cost] [--only NAME] [--events 100000,500000] [--runs 2]

The connector runs as it comes from the package index (`make .venv-clients/.installed`), and it knows no other host than
amplitude.com over https. So all of this runs in a network of its own, as root of it: there the name is this
machine, and a certificate made on the spot is trusted. Both sides ask that same name with that same certificate.

* faults: three days, 60 events an hour, no repeats, served by a stand-in of the Export API that spoils answers. Each
  side syncs twice; the second time nothing is wrong. Airbyte's sync is incremental, with its default window of 24
  hours, and goes on from the last STATE that it printed. Ours is what the hour sensor has run: days of 24 hours, hours
  that failed again. What came out is held against what the stand-in had, event by event.
* cost: one hour, delivered by us, served by `amp-pipeline serve export` (`benchmarks/export.py` makes it). Airbyte's
  messages go to a file. Ours is measured twice: the pull alone, and pulled, indexed, deduplicated and delivered.

* lines: what becomes of lines whose numbers, escapes or keys are odd.

Prints a line of JSON for each case, and a table of cost. Figures hold for the machine they were measured on; ratios
hold within a run. The environment variable CONNECTOR names another version of the connector.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import shlex
import shutil
import ssl
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import events
import export
import yaml
from measure import measure

from amp_pipeline import config_files
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests import as_amplitude
from amp_pipeline_tests.export_stand_in import KEYS, Fault, Packed, StandIn, stand_in
from amp_pipeline_tests.services.test_real_clients import as_instants
from amp_pipeline_tests.test_cli_serve import own_certificate

REPO = Path(__file__).resolve().parents[1]
CONNECTOR = shlex.split(os.environ.get("CONNECTOR", str(REPO / ".venv-clients" / "bin" / "source-amplitude")))
"""Its command, which may have options behind."""

PROJECT = 187520
AN_HOUR = 60
_BY = By("benchmark", "2025-07-08T11:00:00.000000+00:00", "0")
_MIB = 1 << 20


# What both sides ask. -----------------------------------------------------------------------------------------------


@contextmanager
def amplitude_is_here(folder: Path) -> Iterator[ssl.SSLContext]:
    """Let amplitude.com be this machine, and trust a new certificate for it; yield what to serve with."""
    certificate, key = own_certificate(folder, "amplitude.com")
    (bundle,) = Path(CONNECTOR[0]).parents[1].glob("lib/python*/site-packages/certifi/cacert.pem")
    as_amplitude._start_loopback()
    as_amplitude._put_over(Path("/etc/hosts"), folder / "hosts", "127.0.0.1 localhost amplitude.com\n")
    as_amplitude._put_over(bundle, folder / "bundle.pem", bundle.read_text() + certificate.read_text())
    os.environ["REQUESTS_CA_BUNDLE"] = str(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    yield context


@contextmanager
def over_tls(context: ssl.SSLContext, port: int) -> Iterator[None]:
    """Listen at port 443 and pass on what comes to a port without TLS."""
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # One side has gone: the other is told by closing it.
        finally:
            writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, to_behind), pump(behind, writer))

    server = loop.run_until_complete(asyncio.start_server(pass_on, "127.0.0.1", 443, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def close() -> None:
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


# Airbyte's side. ----------------------------------------------------------------------------------------------------


def connector_command(folder: Path, config: dict[str, Any], state: list[dict[str, Any]]) -> list[str]:
    """Write what the connector reads; return the command."""
    stream = {"name": "events", "json_schema": {}, "supported_sync_modes": ["full_refresh", "incremental"]}
    configured = {"stream": stream, "sync_mode": "incremental", "destination_sync_mode": "append"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "catalog.json").write_text(json.dumps({"streams": [configured]}))
    command = [CONNECTOR[0], "read", "--config", str(folder / "config.json"), "--catalog", str(folder / "catalog.json")]
    command += CONNECTOR[1:]
    if state:
        (folder / "state.json").write_text(json.dumps(state))
        command += ["--state", str(folder / "state.json")]
    return command


class Airbyte:
    """The connector, and what has come out of it."""

    def __init__(self, folder: Path, first: Hour) -> None:
        """Begin with nothing read."""
        self._folder = folder
        self._state: list[dict[str, Any]] = []
        self._cursor = "none"
        api_key, secret_key = KEYS
        self._config = {"api_key": api_key, "secret_key": secret_key, "start_date": f"{first.start:%Y-%m-%dT%H:00:00Z}"}
        self._got: list[dict[str, Any]] = []

    def got(self) -> list[dict[str, Any]]:
        """Return each record that came, as often as it came."""
        return self._got

    def sync(self) -> str:
        """Read what is new by its state; return how it ended, and up to where its state says that it has read."""
        command = connector_command(self._folder, self._config, self._state)
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the connector
        (self._folder / "sync.log").write_text(done.stdout + done.stderr)
        for line in done.stdout.splitlines():
            message = json.loads(line) if line.startswith("{") else {"type": ""}
            if message["type"] == "RECORD":
                self._got.append(message["record"]["data"])
            elif message["type"] == "STATE":
                self._state = [message["state"]]
                self._cursor = message["state"]["stream"]["stream_state"].get("server_upload_time", "none")
        return f"exit {done.returncode}, state {self._cursor[:16]}"


# Our side. ----------------------------------------------------------------------------------------------------------


class Ours:
    """A project that pulls from amplitude.com, without Dagster: what the asset bodies do."""

    def __init__(self, folder: Path, hours: list[Hour]) -> None:
        """Begin with an empty workspace and bucket."""
        self._bucket, self._hours = folder / "bucket", hours
        api_key, secret_key = KEYS
        project = {
            "id": PROJECT,
            "slug": "bench",
            "first_hour": hours[0].key,
            "source": {"type": "amplitude_export", "api_key": api_key, "secret_key": secret_key},
            "deliveries": [{"name": "all", "url": "bucket"}],
        }
        told = {"id": 9, "slug": "house", "workspace": "workspace", "projects": [project]}
        (folder / "defs.yaml").write_text(yaml.safe_dump({"type": config_files.COMPONENT, "attributes": told}))
        (self._organization,) = config_files.read(folder / "defs.yaml", {})
        self._delivered: set[Hour] = set()

    def sync(self, now: datetime | None = None, *, again: bool = False) -> str:
        """Run hours that are not delivered, day by day; with ``again`` ask for all of them once more."""
        failed: dict[Hour, str] = {}
        todo = [hour for hour in self._hours if again or hour not in self._delivered]
        too_early = 0
        for day in sorted({hour.day for hour in todo}):
            run = OrganizationRun(self._organization, now=lambda: (now or datetime.now(UTC)).timestamp()).projects[
                "bench"
            ]
            of_day = [hour for hour in todo if hour.day == day]
            run.raw.landed.expect(of_day)
            for hour in of_day:
                try:
                    run.raw.land(hour, force=again)
                    run.deduped.dedupe(hour)
                    (delivery,) = run.project.deliveries
                    run.deliver(run.archive(delivery), delivery, hour, _BY)
                    self._delivered.add(hour)
                except AmpError as error:
                    too_early += "UTC on" in str(error)
                    failed[hour] = str(error)
        kinds = Counter(" ".join(message.split())[:90] for message in failed.values())
        if len(failed) > too_early:
            print(f"    ours: {kinds.most_common(1)[0]}", flush=True)
        if too_early == len(failed):
            return f"{too_early} hours not asked for yet" if too_early else "all delivered"
        return f"{len(failed)} hours failed"

    def lines(self) -> list[bytes]:
        """Return what was delivered."""
        paths = sorted(self._bucket.rglob("*.json.gz"))
        return [line for path in paths for line in gzip.decompress(path.read_bytes()).splitlines()]

    def got(self) -> list[dict[str, Any]]:
        """Return each event that was delivered."""
        return [json.loads(line) for line in self.lines()]


# Faults. ------------------------------------------------------------------------------------------------------------


def lines_of(hour: Hour, count: int = AN_HOUR, repeats: float = 0.0) -> list[bytes]:
    """Return events of an hour."""
    shape = events.Hour(
        events=count, seed=hour.number, project=PROJECT, hour=f"{hour.start:%Y-%m-%d-%H}", repeats=repeats
    )
    return [line.rstrip(b"\n") for line in events.Events(shape).lines()]


def member(hour: Hour, lines: Iterable[bytes], number: int = 0) -> Packed:
    """Return a file of an answer."""
    data = gzip.compress(b"".join(line + b"\n" for line in lines))
    return Packed(f"{PROJECT}/{PROJECT}_{hour.day}_{hour.of_day}#{number}.json.gz", data)


@dataclass
class Case:
    """Something that goes wrong, and what happens between the two syncs."""

    name: str
    fault: Callable[[Hour], Fault] = lambda _: lambda *_: None
    before: Callable[[StandIn, list[Hour]], None] = lambda *_: None
    between: Callable[[StandIn, list[Hour]], None] = lambda *_: None
    early: bool = False
    """Whether the first sync is right after the end of the last hour, when Amplitude does not have it yet."""
    again: bool = False
    """Whether our second run is one that asks for all hours again, as the nightly reconciliation does."""


def once(kind: int | str, times: int = 1) -> Callable[[Hour], Fault]:
    """Spoil the first answers that hold the hour."""

    def of(hour: Hour) -> Fault:
        left = [times]

        def fault(first: Hour, last: Hour, _: int) -> int | str | None:
            if first <= hour <= last and left[0]:
                left[0] -= 1
                return kind
            return None

        return fault

    return of


def too_large(status: int) -> Callable[[Hour], Fault]:
    """Refuse more than six hours of the day that the hour is of."""
    return lambda hour: (
        lambda first, last, _: status if last.number - first.number >= 6 and first <= hour <= last else None
    )


def _halved(server: StandIn, hours: list[Hour]) -> None:
    """Only every second event of the last hour is there yet."""
    server.hours[hours[-1]] = [member(hours[-1], lines_of(hours[-1])[::2])]


def _whole(server: StandIn, hours: list[Hour]) -> None:
    server.hours[hours[-1]].append(member(hours[-1], lines_of(hours[-1])[1::2], 1))


def _without(server: StandIn, hours: list[Hour]) -> None:
    del server.hours[hours[-2]]


def _with(server: StandIn, hours: list[Hour]) -> None:
    server.hours[hours[-2]] = [member(hours[-2], lines_of(hours[-2]))]


def _bad_line(server: StandIn, hours: list[Hour]) -> None:
    lines = lines_of(hours[30])
    server.hours[hours[30]] = [member(hours[30], [*lines[:9], lines[9][:500], *lines[10:]])]


def _no_time(server: StandIn, hours: list[Hour]) -> None:
    lines = lines_of(hours[30])
    server.hours[hours[30]] = [member(hours[30], [*lines[:9], b'{"event_type":"x","uuid":"?"}', *lines[10:]])]


def _repeated(server: StandIn, hours: list[Hour]) -> None:
    """The events of an hour come again in the next one, with the time of that, as when a client sends them again."""
    for hour in hours[30:40]:
        old, new = f"{hour.start:%Y-%m-%d %H:}", f"{(hour + 1).start:%Y-%m-%d %H:}"
        told = f'"server_upload_time":"{old}'.encode()
        lines = [one.replace(told, told.replace(old.encode(), new.encode())) for one in lines_of(hour)[:6]]
        server.hours[hour + 1].append(member(hour + 1, lines, 1))


def _by_name(server: StandIn, hours: list[Hour]) -> None:
    """The files of the second day are in order of their names, hour 10 before hour 2, and that of hour 2 is damaged."""
    day = hours[24:48]
    packed = server.hours[day[2]][0]
    middle = len(packed.data) // 2
    damaged = packed.data[:middle] + bytes([packed.data[middle] ^ 1]) + packed.data[middle + 1 :]
    server.hours[day[2]] = [Packed(packed.name, damaged)]
    server.hours[day[0]] = sorted((one for hour in day for one in server.hours.pop(hour)), key=lambda one: one.name)


def _mended(server: StandIn, hours: list[Hour]) -> None:
    server.hours |= {hour: [member(hour, lines_of(hour))] for hour in hours[24:48]}


CASES = [
    Case("nothing"),
    Case("zip cut short, its length told as if whole", once("short")),
    Case("connection ends in the middle", once("half")),
    Case("connection reset", once("reset")),
    Case("one bit of the answer flipped", once("flipped")),
    Case("one damaged file, files by name (10 before 2)", before=_by_name, between=_mended),
    Case("429 twice", once(429, 2)),
    Case("503 twice", once(503, 2)),
    Case("400 for more than six hours", too_large(400)),
    Case("504 for more than six hours", too_large(504)),
    Case("403 once", once(403)),
    Case("newest hour half there, whole at the next sync", before=_halved, between=_whole, early=True),
    Case("newest hour there before the one before it", before=_without, between=_with, early=True),
    Case("an hour grows after it was read", before=_halved, between=_whole, again=True),
    Case("one line is cut short", before=_bad_line),
    Case("one event has no server_upload_time", before=_no_time),
    Case("60 events sent twice by a client", before=_repeated),
]


def run_case(case: Case, folder: Path, server: StandIn) -> dict[str, Any]:
    """Let both sides sync twice; return what came of it."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = Hour.of(midnight - timedelta(days=3))
    hours = list(between(first, first + 71))
    found: dict[str, Any] = {"case": case.name}
    for side in ("airbyte", "ours"):
        server.hours = {hour: [member(hour, lines_of(hour))] for hour in hours}
        case.before(server, hours)
        server.fault, server.asked = case.fault(hours[30]), []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        one: Airbyte | Ours = Airbyte(folder, first) if side == "airbyte" else Ours(folder, hours)
        # Airbyte's connector has the clock of the machine; the stand-in has no more than there was at that time.
        early = midnight + timedelta(minutes=5) if case.early else None
        syncs = [one.sync(early) if isinstance(one, Ours) else one.sync()]
        case.between(server, hours)
        syncs.append(one.sync(again=case.again) if isinstance(one, Ours) else one.sync())
        had = {line.get("uuid", "") for line in all_of(server)}
        texts = {_text(line) for line in all_of(server)}
        got = Counter(str(line.get("uuid")) for line in one.got())
        found[side] = {
            "syncs": syncs,
            "had": len(had),
            "lost": len(had - got.keys()),
            "twice": sum(got.values()) - len(got),
            "changed": len({_text(line) for line in one.got()} - texts),
            "requests": len(server.asked),
        }
        if isinstance(one, Ours):
            bytes_had = {
                line for ms in server.hours.values() for p in ms for line in gzip.decompress(p.data).split(b"\n")
            }
            found[side]["same_bytes"] = sum(line in bytes_had for line in one.lines())
        print(json.dumps({"case": case.name, side: found[side]}), flush=True)
    return found


def all_of(server: StandIn) -> list[dict[str, Any]]:
    """Return all events that the stand-in has."""
    packed = [one.data for members in server.hours.values() for one in members]
    found = []
    for line in (line for data in packed for line in gzip.decompress(data).splitlines()):
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _text(line: dict[str, Any]) -> str:
    """Return what an event says, whatever the form of its times; a null says nothing."""
    return json.dumps({key: value for key, value in as_instants(line).items() if value is not None}, sort_keys=True)


LINES = {
    "1.0 and 1e2": b'"a":1.0,"b":1e2',
    "an integer of 30 digits": b'"a":123456789012345678901234567890',
    "0.1234567890123456789": b'"a":0.1234567890123456789',
    "1e400": b'"a":1e400',
    "an escape": rb'"a":"\u00e9\/"',
    "a lone surrogate": rb'"a":"\ud800"',
    "a key twice": b'"a":1,"a":2',
    "key order, white space": b'"b": 1,"a":  2',
    "a time": b'"event_time":"2025-07-01 16:34:54.837000"',
}


def run_lines(folder: Path, server: StandIn) -> None:
    """Print what becomes of odd lines."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hour = Hour.of(midnight - timedelta(hours=5))
    server.fault = lambda *_: None
    for name, piece in LINES.items():
        line = b'{"uuid":"u","server_upload_time":"%s.000000",%s}' % (f"{hour.start:%Y-%m-%d %H:%M:%S}".encode(), piece)
        server.hours = {hour: [member(hour, [line])]}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        airbyte = Airbyte(folder, hour)
        ended = airbyte.sync()
        raw = [text for text in (folder / "sync.log").read_text().splitlines() if '"type":"RECORD"' in text]
        data = raw[0].partition('"data":')[2].partition(',"emitted_at"')[0] if raw else ended
        ours = Ours(folder, [hour])
        ours.sync()
        print(
            json.dumps({"line": name, "had": line.decode(), "airbyte": data, "ours_same_bytes": ours.lines() == [line]})
        )


# Cost. --------------------------------------------------------------------------------------------------------------


def make(folder: Path, count: int) -> Path:
    """Deliver the hour that is served, once; return its folder."""
    place = folder / str(count)
    command = [
        sys.executable,
        str(REPO / "benchmarks" / "export.py"),
        str(place),
        "--events",
        str(count),
        "--runs",
        "0",
    ]
    subprocess.run(command, check=True)  # noqa: S603 - our own program
    return place


def cost(place: Path, count: int, runs: int, context: ssl.SSLContext) -> None:
    """Measure the three, in turn, and print medians."""
    hour = events.Hour(events=count)
    config = {**export.KEYS, "start_date": f"{hour.start:%Y-%m-%dT%H:00:00Z}", "request_time_range": 8760}
    read = connector_command(place, config, [])
    out = place / "messages.jsonl"
    pull = [sys.executable, str(REPO / "benchmarks" / "export.py"), str(place), "--url", "https://amplitude.com"]
    pull += ["--events", str(count), "--part"]
    commands = {
        "airbyte": ["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", str(out), *read],
        "our pull": [*pull, "pull"],
        "our whole way": [*pull, "all"],
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with export._serving(place / "one") as (url, _), over_tls(context, int(url.rpartition(":")[2])):
        for _ in range(runs):
            for name, command in commands.items():
                one = measure(command)
                if name == "airbyte":
                    with out.open("rb") as file:
                        one["result"] = {"records": sum(b'"type":"RECORD"' in line for line in file)}
                    one["result"]["bytes"] = out.stat().st_size
                    out.unlink()
                found[name].append(one)
                print(json.dumps({"events": count, name: one}), flush=True)
    base = found["airbyte"]
    for name, ones in found.items():
        cells = [name]
        for key, unit in (("cpu_seconds", 1), ("wall_seconds", 1), ("peak_bytes", _MIB)):
            middle = statistics.median(one[key] for one in ones)
            ratio = statistics.median(one[key] / other[key] for one, other in zip(ones, base, strict=True))
            cells.append(f"{middle / unit:.1f} ({ratio:.2f})")
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="faults,lines,cost")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--events", default="100000,500000,1150000")
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = options.part.split(",")
    counts = [int(count) for count in options.events.split(",")] if "cost" in parts else []
    places = {count: make(folder, count) for count in counts}
    with amplitude_is_here(folder) as context:
        if parts != ["cost"]:
            with stand_in() as server, over_tls(context, server.server_address[1]):
                for case in CASES if "faults" in parts else []:
                    if case.name.startswith(options.only):
                        run_case(case, folder / "faults", server)
                if "lines" in parts:
                    run_lines(folder / "lines", server)
        for count, place in places.items():
            cost(place, count, options.runs, context)


if __name__ == "__main__":
    main()
