"""Run a program and say what it cost: CPU seconds, wall, peak memory, all of its processes counted.

    python benchmarks/measure.py PROGRAM ARGUMENTS...

Prints one JSON line; `result` in it is the last line that the program printed, where that is JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_PERIOD = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


def measure(command: list[str]) -> dict[str, Any]:
    """Run `command` in a measuring process of its own, so that no other child is counted."""
    done = subprocess.run(  # noqa: S603 - our own programs
        [sys.executable, __file__, *command], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _run(command: list[str]) -> dict[str, Any]:
    # Processes that outlive their parent (a JVM does) come to us, so that their time is counted too.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own programs
    memory = _Memory(process.pid)
    memory.start()
    assert process.stdout is not None  # noqa: S101 - it was asked for
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    memory.stop()
    seconds = usage.ru_utime + usage.ru_stime
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        seconds += usage.ru_utime + usage.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.stderr.buffer.write(output)
        raise SystemExit(process.returncode)
    return {
        "cpu_seconds": round(seconds, 3),
        "wall_seconds": round(wall, 3),
        "peak_bytes": memory.peak,
        "result": _last_line(output),
    }


class _Memory(threading.Thread):
    """Samples the memory of a process and all below it.

    Several processes share pages, so theirs is summed proportionally (PSS). That is dear to ask for, so it is asked
    for only where the plain sum (RSS) reaches a new height.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._plain_peak = 0
        self._pid = pid
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(_PERIOD):
            pids = _tree(self._pid)
            plain = sum(map(_resident, pids))
            if plain > self._plain_peak * 1.02:
                self._plain_peak = plain
                self.peak = max(self.peak, plain if len(pids) == 1 else sum(map(_proportional, pids)))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def _last_line(output: bytes) -> Any:
    lines = output.decode().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return lines[-1]


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1:])))
