"""All side-by-side runs behind the numbers in the docs: `make bench`.

    python benchmarks/run.py [--works a,b,c,d,e,f] [--events 500000] [--runs 5] [--peers limit,duckdb,pandas,pyspark]

* a: one hour, landed json.gz to archive json.gz without repeats, amp_pipeline beside its peers
* b: the same hour with the key indexes of a full week behind it
* c: growth: 10 thousand to 5 million events in the hour
* d: compress once: ten deliveries of the hour, and a filtered one, beside a single one
* e: the example's 216 small hours as one range, with Dagster and without
* f: the hour delivered to an S3 server on this machine, beside a folder

Runners take turns on the same files, one whole round after the other. What they kept is compared after each round,
before any time is printed. Writes results.json and the tables of RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import amp
import compare
import events
from isal import igzip
from measure import measure

HERE = Path(__file__).parent
PEERS = ("limit", "duckdb", "pandas", "pyspark")
GROWTH = (10_000, 100_000, 1_000_000, 5_000_000)
_PACKAGES = ("amp-pipeline", "polars", "isal", "zlib-ng", "msgspec", "numpy", "duckdb", "pandas", "pyspark")
_DELIVERIES = 10
_MIB = 1 << 20

Samples = dict[str, list[dict[str, Any]]]
"""What was measured, by runner, a round after the other."""


class Bench:
    """Where the files are, and how often everything runs."""

    def __init__(self, folder: Path, hour: events.Hour, runs: int, peers: list[str], keys: int = 0) -> None:
        """Keep data and outputs in `folder`; `keys` is how many an hour of the week has, 0: as many as the hour."""
        self.folder = folder
        self.hour = hour
        self.runs = runs
        self.peers = peers
        self.keys = keys or hour.events

    def landing(self, hour: events.Hour) -> Path:
        """Return the landing of an hour, made where it is missing."""
        folder = self.folder / f"landing-{hour.events}-{hour.seed}"
        if not events.is_written(hour, folder):
            _say(f"making {hour.events:,} events")
            shutil.rmtree(folder, ignore_errors=True)
            events.write(hour, folder)
        return folder

    def out(self, name: str) -> Path:
        """Return an empty folder for a runner."""
        folder = self.folder / "out" / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def rounds(
        self,
        commands: dict[str, list[str]],
        outputs: dict[str, Path] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> Samples:
        """Run all programs in turn, again and again, each after `before`, and hold their outputs against each other."""
        samples: Samples = {name: [] for name in commands}
        for number in range(self.runs):
            for name, command in commands.items():
                before()
                _settle()
                _say(f"round {number + 1} of {self.runs}: {name}")
                samples[name].append(measure([sys.executable, *command]))
            if outputs and (problems := compare.differences(outputs)):
                raise SystemExit("\n".join(["the runners don't keep the same:", *problems]))
        return samples


def work_a(bench: Bench) -> dict[str, Any]:
    """One hour, beside the peers."""
    landing = bench.landing(bench.hour)
    outs = {name: bench.out(name) for name in ("amp_pipeline", *bench.peers)}
    commands = {"amp_pipeline": _amp(landing, outs["amp_pipeline"])}
    commands |= {name: [str(_program(name)), str(landing), str(outs[name])] for name in bench.peers}
    kept = {name: out / "buckets" if name == "amp_pipeline" else out for name, out in outs.items() if name != "limit"}
    return {"samples": bench.rounds(commands, kept), "made": _made(landing)}


def work_b(bench: Bench) -> dict[str, Any]:
    """The hour with a week behind it, and without."""
    landing = bench.landing(bench.hour)
    keys = bench.keys
    week = bench.folder / f"week-{bench.hour.events}-{bench.hour.seed}-{keys}"
    if not (week / "week.json").exists():
        _say(f"making the key indexes of {events.HOURS_OF_WEEK} hours of {keys:,} keys")
        _program_runs([str(HERE / "amp.py"), "week", str(landing), str(week), "--keys", str(keys)])
    commands = {
        "work (a)": _amp(landing, bench.out("alone")),
        "with the week": [*_amp(landing, bench.out("with-week")), "--week", str(week)],
    }
    if "duckdb" in bench.peers:
        commands["duckdb, keys only"] = [str(HERE / "peers" / "duckdb_week.py"), str(week), str(bench.out("week"))]
    samples = bench.rounds(commands)
    answers = {
        name: {sample["result"]["digest_of_week"] for sample in found}
        for name, found in samples.items()
        if name != "work (a)"
    }
    if len(set.union(*answers.values())) != 1:
        raise SystemExit(f"not the same repeats of the week: {answers}")
    return {"samples": samples, "made": _made(landing), "keys": keys * events.HOURS_OF_WEEK}


def work_c(bench: Bench, counts: list[int]) -> dict[str, Any]:
    """Hours of more and more events."""
    samples: Samples = {}
    smaller: dict[str, float] = {}
    landings = {count: bench.landing(events.Hour(events=count, seed=bench.hour.seed)) for count in counts}
    outs = {count: bench.out(f"growth-{count}") for count in counts}
    samples = bench.rounds({f"{count} events": _amp(landings[count], outs[count]) for count in counts})
    for count in counts:
        smaller[f"{count} events"] = _larger_than_zlib(outs[count] / "buckets" / "all_events")
    return {"samples": samples, "made": {str(count): _made(landings[count]) for count in counts}, "size": smaller}


def work_d(bench: Bench) -> dict[str, Any]:
    """One delivery, ten, and a filtered one."""
    landing = bench.landing(bench.hour)
    many = [*_amp(landing, bench.out("many")), "--deliveries", str(_DELIVERIES)]
    commands = {
        "1 delivery": _amp(landing, bench.out("one")),
        f"{_DELIVERIES} deliveries": many,
        "1 and a filtered one": [*_amp(landing, bench.out("filtered")), "--filtered"],
    }
    return {"samples": bench.rounds(commands), "made": _made(landing)}


def work_e(bench: Bench) -> dict[str, Any]:
    """Many small hours, of which Dagster takes most of the time."""
    command = [str(HERE / "example.py"), str(bench.out("example"))]
    return {"samples": bench.rounds({"example": command})}


def work_f(bench: Bench) -> dict[str, Any]:
    """A folder and a bucket."""
    landing = bench.landing(bench.hour)
    with _server(bench.folder) as endpoint:
        commands = {
            "to a folder": _amp(landing, bench.out("folder")),
            "to S3": [*_amp(landing, bench.out("s3")), "--endpoint", endpoint],
        }
        # Each time into an empty bucket, as into an empty folder.
        samples = bench.rounds(commands, before=lambda: _empty_bucket(endpoint))
    return {"samples": samples, "made": _made(landing)}


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Run moto's S3 server, which keeps objects in memory, and give its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [str(HERE.parent / ".venv-servers" / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:  # noqa: S603 - a program that make has installed
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)) and server.poll() is None:
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _empty_bucket(endpoint: str) -> None:
    for method, path in (("POST", "/moto-api/reset"), ("PUT", f"/{amp.BUCKET}")):
        urllib.request.urlopen(urllib.request.Request(endpoint + path, method=method)).close()  # noqa: S310 - http to the server above


def _amp(landing: Path, out: Path) -> list[str]:
    return [str(HERE / "amp.py"), "run", str(landing), str(out)]


def _program(peer: str) -> Path:
    return HERE / "limit.py" if peer == "limit" else HERE / "peers" / f"{peer}_dedupe.py"


def _program_runs(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], check=True)  # noqa: S603 - our own programs


def _made(landing: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((landing / "made.json").read_bytes())
    return made


def _larger_than_zlib(folder: Path) -> float:
    """Return how many times the first part is as large as zlib level 6 makes it."""
    part = compare.files(folder)[0]
    packer, size = zlib.compressobj(6, wbits=31), 0
    with igzip.open(part) as file:
        while block := file.read(_MIB):
            size += len(packer.compress(block))
    return round(part.stat().st_size / (size + len(packer.flush())), 4)


def _settle() -> None:
    """Let what the program before has written reach the disk, so that the next one doesn't pay for it."""
    os.sync()
    time.sleep(1)


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


# Tables. ------------------------------------------------------------------------------------------------------------


def _median(found: list[dict[str, Any]], key: str) -> float:
    return statistics.median(sample[key] for sample in found)


def _wall(sample: dict[str, Any]) -> float:
    """Return the seconds a program took; Spark's without start and warm-up."""
    result = sample["result"]
    return result["work_seconds"] if "warm_up_seconds" in result else sample["wall_seconds"]


def _row(name: str, found: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[str]:
    walls, base_wall = [_wall(sample) for sample in found], statistics.median(map(_wall, base))
    warm = " (warm)" if "warm_up_seconds" in found[0]["result"] else ""
    cpu, wall = _median(found, "cpu_seconds"), statistics.median(walls)
    return [
        name,
        f"{cpu:.2f} ({_span([sample['cpu_seconds'] for sample in found])})",
        f"{wall:.2f}{warm} ({_span(walls)})",
        f"{_median(found, 'peak_bytes') / _MIB:,.0f} MiB",
        f"{cpu / _median(base, 'cpu_seconds'):.2f}",
        f"{wall / base_wall:.2f}",
    ]


def _span(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _compared(done: dict[str, Any], base: str) -> str:
    samples: Samples = done["samples"]
    head = ["", "CPU seconds", "wall seconds", "peak memory", f"CPU / {base}", f"wall / {base}"]
    return _table(head, [_row(name, found, samples[base]) for name, found in samples.items()])


def _table_a(done: dict[str, Any]) -> str:
    table = _compared(done, "amp_pipeline")
    samples = done["samples"]
    if "limit" in samples:
        ratio = _median(samples["amp_pipeline"], "cpu_seconds") / _median(samples["limit"], "cpu_seconds")
        table += f"\n\namp_pipeline takes {ratio:.2f} times the CPU of the limit."
    if "pyspark" in samples:
        table += " pyspark's wall is that of the work once it is warm; its CPU counts start and warm-up too."
    return f"{table}\n\n{_stages(samples['amp_pipeline'])}"


def _stages(found: list[dict[str, Any]]) -> str:
    names = list(found[0]["result"]["stages"])
    middle = {
        kind: [statistics.median(sample["result"]["stages"][name][kind] for sample in found) for name in names]
        for kind in ("cpu", "wall")
    }
    rows = [[kind, *[f"{seconds:.2f}" for seconds in values]] for kind, values in middle.items()]
    return _table(["seconds of", *names], rows)


def _table_b(done: dict[str, Any]) -> str:
    return f"{_compared(done, 'work (a)')}\n\n{done['keys']:,} keys in the week."


def _table_c(done: dict[str, Any]) -> str:
    rows = []
    for name, found in done["samples"].items():
        count = int(name.split()[0])
        cpu, peak = _median(found, "cpu_seconds"), _median(found, "peak_bytes")
        rows.append(
            [
                f"{count:,}",
                f"{cpu:.2f}",
                f"{cpu / count * 1e6:.2f}",
                f"{statistics.median(map(_wall, found)):.2f}",
                f"{peak / _MIB:,.0f} MiB",
                f"{done['size'][name]:.3f}",
            ]
        )
    head = ["events", "CPU seconds", "CPU µs an event", "wall seconds", "peak memory", "bytes / zlib level 6"]
    return _table(head, rows)


def _table_d(done: dict[str, Any]) -> str:
    table = _compared(done, "1 delivery")
    found = done["samples"]["1 and a filtered one"]
    cpu = statistics.median(sample["result"]["stages"]["filtered"]["cpu"] for sample in found)
    return f"{table}\n\nThe filtered delivery alone: {cpu:.2f} CPU seconds."


def _table_e(done: dict[str, Any]) -> str:
    found = [sample["result"] for sample in done["samples"]["example"]]
    middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
    hours = middle["hours"]
    rows = [
        [
            "all, by amp-pipeline deliver",
            f"{middle['dagster_seconds']:.1f}",
            f"{middle['dagster_seconds'] / hours:.3f}",
        ],
        ["of it amp_pipeline's own", f"{middle['ours_seconds']:.1f}", f"{middle['ours_seconds'] / hours:.3f}"],
    ]
    table = _table([f"{hours:.0f} hours", "wall seconds", "an hour"], rows)
    return (
        f"{table}\n\nWithout Dagster an hour takes {middle['other_hour_ms']:.1f} ms, one of the "
        f"{middle['empty_hours']:.0f} empty ones {middle['empty_hour_ms']:.1f} ms, with two deliveries and all checks; "
        f"{middle['empty_hour_in_memory_ms']:.1f} ms where the files are in memory and nothing waits for a disk."
    )


def _table_f(done: dict[str, Any]) -> str:
    return _compared(done, "to a folder")


_WORKS = {
    "a": ("(a) One hour, deduplicated", _table_a),
    "b": ("(b) The same with a week of key indexes behind it", _table_b),
    "c": ("(c) Growth", _table_c),
    "d": ("(d) Compress once", _table_d),
    "e": ("(e) Many small hours", _table_e),
    "f": ("(f) Delivered to S3", _table_f),
}


def machine() -> dict[str, Any]:
    """Return what the runs ran on."""
    model = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _read("/proc/meminfo") if line.startswith("MemTotal")]
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[0] if model else platform.machine(),
        "memory_gib": round(memory[0] / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def _read(name: str) -> list[str]:
    try:
        return Path(name).read_text().splitlines()
    except OSError:
        return []


def report(results: dict[str, Any]) -> str:
    """Return RESULTS.md."""
    text = ["# Results", "", "Written by `make bench`; the numbers of each run are in results.json.", ""]
    for letter, (title, table) in _WORKS.items():
        if letter not in results["works"]:
            continue
        done = results["works"][letter]
        on = done["machine"]
        packages = ", ".join(f"{name} {version}" for name, version in on["packages"].items())
        text += [
            f"## {title}",
            "",
            f"{on['processor']}, {on['cores']} cores, {on['memory_gib']} GiB, Python {on['python']}; {packages}.",
            f"Medians (and extent) of {done['runs']} runs, in turn. {_told_of(done.get('made'))}".rstrip(),
            "",
            table(done),
            "",
        ]
    return "\n".join(text)


def _told_of(made: dict[str, Any] | None) -> str:
    """Return what the events of a work are."""
    if made is None:
        return ""
    made = made if "events" in made else list(made.values())[-1]
    return (
        f"Seed {made['seed']}, {made['events']:,} events, {made['unpacked_bytes'] / 1e6:,.0f} MB of JSON, "
        f"{made['packed_bytes'] / 1e6:,.0f} MB landed, {made['repeats']:.0%} repeats."
    )


def main() -> None:
    """Run the works asked for, then print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default="a,b,c,d,e,f")
    parser.add_argument("--events", type=int, default=500_000, help="in the hour of works a, b and d")
    parser.add_argument("--growth", default=",".join(map(str, GROWTH)), help="events in the hours of work c")
    parser.add_argument("--keys", type=int, default=0, help="in each hour of work b's week; 0: as many as events")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".bench", help="for data and outputs")
    parser.add_argument("--results", type=Path, default=HERE, help="folder for results.json and RESULTS.md")
    options = parser.parse_args()
    hour = events.Hour(events=options.events, seed=options.seed)
    bench = Bench(options.folder, hour, options.runs, [name for name in options.peers.split(",") if name], options.keys)
    works = {
        "a": lambda: work_a(bench),
        "b": lambda: work_b(bench),
        "c": lambda: work_c(bench, [int(count) for count in options.growth.split(",")]),
        "d": lambda: work_d(bench),
        "e": lambda: work_e(bench),
        "f": lambda: work_f(bench),
    }
    file = options.results / "results.json"
    # Works that are not run now stay as they were: ratios hold within a work.
    results: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {"works": {}}
    for letter in options.works.split(","):
        title, table = _WORKS[letter]
        _say(title)
        done = works[letter]() | {"runs": options.runs, "machine": machine()}
        print(f"\n{title}\n\n{table(done)}\n", flush=True)
        results["works"][letter] = done
        options.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (options.results / "RESULTS.md").write_text(report(results))
    shutil.rmtree(options.folder / "out", ignore_errors=True)


if __name__ == "__main__":
    main()
