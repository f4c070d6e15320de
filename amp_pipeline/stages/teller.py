"""Telling blocks apart in processes of their own, where one hour is large: Python reads JSON on one core at a time.

A worker is this module, running :func:`main`: it reads blocks from its standard input, answers on its standard
output, and ends when the input does. So it knows nothing of the process that started it, Dagster's or another, and
ends with it. Not forked: numpy and polars have threads, and what those hold in a fork is held for ever.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, cast

import msgspec

from amp_pipeline.core.lines import Block
from amp_pipeline.core.telling import Rules, Teller, Told

MOST_WORKERS = 8
"""One process unpacks for about so many."""

MEMORY_BYTES = 256 << 20
"""A process of the crew takes about half of it: modules, a block, and what is made of the block."""

_log = logging.getLogger(__name__)
_PATIENCE_SECONDS = 10
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as a container sees its own
_LENGTH_BYTES = 8
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 32 << 20
_PIPE_BYTES = 1 << 20  # what any user may have
_Idle = SimpleQueue[subprocess.Popen[bytes] | None]
_encode = msgspec.msgpack.Encoder().encode
_told = msgspec.msgpack.Decoder(Told).decode
_rules = msgspec.msgpack.Decoder(Rules).decode


class Workers:
    """This process and a worker process for each other core, started when first needed."""

    def __init__(self, memory: int) -> None:
        """Begin without processes; with at most one for each :data:`MEMORY_BYTES` of ``memory``."""
        self._most = min(MOST_WORKERS, _cores(), memory // MEMORY_BYTES) - 1
        self._crew: _Crew | None = None
        self._teller = Teller()

    def tell(self, blocks: Iterator[tuple[Block, Rules]]) -> Iterator[Told]:
        """Yield what the lines of each block are, in order; what a worker leaves undone is done here."""
        crew = self._crew = self._crew or _Crew(self._most)
        waiting: list[tuple[Future[Told], Block, Rules]] = []
        try:
            for block, rules in blocks:
                busy = sum(not future.done() for future, _, _ in waiting)
                if self._crew is None or busy > crew.count:
                    future: Future[Told] = Future()
                    future.set_result(self._teller.tell(block, rules))
                else:
                    future = crew.threads.submit(_ask, crew.idle, block.text, rules)
                waiting.append((future, block, rules))
                while waiting and (waiting[0][0].done() or len(waiting) > 2 * crew.count + 2):
                    yield self._told(*waiting.pop(0))
            while waiting:
                yield self._told(*waiting.pop(0))
        finally:
            for future, _, _ in waiting:
                future.cancel()

    def _told(self, future: Future[Told], block: Block, rules: Rules) -> Told:
        try:
            return future.result()
        except _WorkerEndedError as error:
            # Killed for want of memory, perhaps; with one process less there is more of it.
            _log.warning("%s; its lines are read by the process that started it", str(error))
            self._crew = None
            return self._teller.tell(block, rules)


class _WorkerEndedError(Exception):
    """A worker process ended before its work was done."""


def _cores() -> int:
    """Return how many cores this process may use, a container's share of time counted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_MAX.read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        # No control group, or one without a bound ("max").
        return cores


class _Crew:
    """Some workers, and a thread for each that waits for its answers."""

    def __init__(self, count: int) -> None:
        self.threads = ThreadPoolExecutor(max(1, count), thread_name_prefix="teller")
        self.idle: _Idle = SimpleQueue()
        workers: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _stop, self.threads, workers)
        for _ in range(count):
            try:
                workers.append(_start())
            except OSError as error:
                _log.warning("no worker process can be started (%s); all lines are read by one process", str(error))
                break
            self.idle.put(workers[-1])
        self.count = len(workers) or -1


def _start() -> subprocess.Popen[bytes]:
    # The same modules from the same places, whatever the working folder holds. No algebra is done there, and the
    # threads of OpenBLAS cost a quarter of the start.
    program = (
        "import os, sys; os.putenv('OPENBLAS_NUM_THREADS', '1'); "
        f"sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
    )
    worker = subprocess.Popen(  # noqa: S603 - this module, by this Python
        [sys.executable, "-P", "-c", program, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    # Linux has it, and a user may have only so much of it; without it goes on a little slower.
    with suppress(OSError, AttributeError):
        fcntl.fcntl(cast(BinaryIO, worker.stdin), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return worker


def _ask(idle: _Idle, text: bytes, rules: Rules) -> Told:
    """Let the next idle worker tell a block apart. Knows nothing of the crew, which must not end in its own thread."""
    worker = idle.get()
    if worker is None:
        idle.put(None)
        raise _WorkerEndedError("a worker process ended")
    answered = False
    try:
        to, answers = cast(BinaryIO, worker.stdin), cast(BinaryIO, worker.stdout)
        _send(to, _encode(rules))
        _send(to, text)
        answer = _receive(answers)
        answered = True
    except (BrokenPipeError, EOFError):
        raise _WorkerEndedError(f"a worker process ended with {worker.wait()}") from None
    finally:
        # Out of step it is of no use any more; and the next block must not wait for ever.
        if not answered:
            worker.kill()
        idle.put(worker if answered else None)
    return _told(answer)


def _stop(threads: ThreadPoolExecutor, workers: list[subprocess.Popen[bytes]]) -> None:
    threads.shutdown(cancel_futures=True)
    for worker in workers:
        cast(BinaryIO, worker.stdin).close()
        cast(BinaryIO, worker.stdout).close()
    for worker in workers:
        try:
            worker.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _send(to: BinaryIO, data: bytes) -> None:
    to.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    view = memoryview(data)
    while view:
        view = view[to.write(view) :]


def _receive(source: BinaryIO) -> bytes:
    return _exactly(source, int.from_bytes(_exactly(source, _LENGTH_BYTES), "little"))


def _exactly(source: BinaryIO, length: int) -> bytes:
    """Return so many bytes.

    Raises:
        EOFError: There are fewer.
    """
    data = source.read(length)
    if len(data) == length:
        return data
    pieces = [data]
    while length := length - len(data):
        data = source.read(length)
        if not data:
            raise EOFError
        pieces.append(data)
    return b"".join(pieces)


def _keep_memory() -> None:
    """Keep memory that was freed for the next block: to give it back and get it again costs a tenth of the work."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # No glibc; it goes on a little slower.
        return
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)


def main() -> None:
    """Be a worker: answer until there is no more to read."""
    # Who started it ends it; and Ctrl-C is not for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever is printed must not come between the answers.
    os.dup2(2, 1)
    # Nothing here makes cycles, and a million short-lived tuples would be looked through again and again.
    gc.disable()
    _keep_memory()
    teller = Teller()
    with os.fdopen(0, "rb", buffering=0, closefd=False) as blocks, suppress(EOFError, BrokenPipeError):
        while True:
            rules = _rules(_receive(blocks))
            _send(answers, _encode(teller.tell(Block(_receive(blocks)), rules)))
