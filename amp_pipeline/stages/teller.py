"""Telling blocks apart in processes of their own, where one hour is large: Python reads JSON on one core at a time.

A worker is this module, run: it reads blocks from its standard input, answers on its standard output, and ends when
the input does. So it knows nothing of the process that started it, Dagster's or another, and ends with it. Not forked:
numpy and polars have threads, and what those hold in a fork is held for ever.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import BinaryIO, cast

import msgspec

from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.lines import Block
from amp_pipeline.core.telling import Rules, Teller, Told

MOST_WORKERS = 8
"""One process unpacks for about so many."""

_LENGTH_BYTES = 8
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 32 << 20
_PIPE_BYTES = 1 << 20  # what any user may have
_Idle = SimpleQueue[tuple[BinaryIO, BinaryIO]]
_encode = msgspec.msgpack.Encoder().encode
_told = msgspec.msgpack.Decoder(Told).decode
_rules = msgspec.msgpack.Decoder(Rules).decode


class WorkerError(AmpError):
    """A worker process ended before its work was done."""


class Workers:
    """Worker processes, started when first needed, one for each core."""

    def __init__(self) -> None:
        """Begin without processes."""
        self._crew: _Crew | None = None

    def tell(self, blocks: Iterator[tuple[Block, Rules]]) -> Iterator[Told]:
        """Yield what the lines of each block are, in order.

        Raises:
            WorkerError: A worker ended, killed for want of memory perhaps.
        """
        if self._crew is None:
            self._crew = _Crew(min(MOST_WORKERS, _cores()))
        crew = self._crew
        waiting: list[Future[Told]] = []
        try:
            for block, rules in blocks:
                waiting.append(crew.threads.submit(_ask, crew.idle, block.text, rules))
                if len(waiting) > crew.count:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except WorkerError:
            self._crew = None
            raise
        finally:
            for future in waiting:
                future.cancel()


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Crew:
    """Some workers, and a thread for each that waits for its answers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="teller")
        self.idle: _Idle = SimpleQueue()
        workers = [_start() for _ in range(count)]
        for worker in workers:
            self.idle.put((cast(BinaryIO, worker.stdin), cast(BinaryIO, worker.stdout)))
        weakref.finalize(self, _stop, self.threads, workers)


def _start() -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(  # noqa: S603 - this module, by this Python
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    # Linux has it, and a user may have only so much of it; without it goes on a little slower.
    with suppress(OSError, AttributeError):
        fcntl.fcntl(cast(BinaryIO, worker.stdin), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return worker


def _ask(idle: _Idle, text: bytes, rules: Rules) -> Told:
    """Let the next idle worker tell a block apart. Knows nothing of the crew, which must not end in its own thread."""
    to, answers = pair = idle.get()
    try:
        _send(to, _encode(rules))
        _send(to, text)
        return _told(_receive(answers))
    except (BrokenPipeError, EOFError):
        raise WorkerError(
            "a worker process ended while it read lines; "
            "run the hour again, with more memory where it was killed for want of it"
        ) from None
    finally:
        # A broken one too: the next block must not wait for ever.
        idle.put(pair)


def _stop(threads: ThreadPoolExecutor, workers: list[subprocess.Popen[bytes]]) -> None:
    threads.shutdown(cancel_futures=True)
    for worker in workers:
        cast(BinaryIO, worker.stdin).close()
    for worker in workers:
        worker.wait()
        cast(BinaryIO, worker.stdout).close()


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


def _work(blocks: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there is no more to read."""
    # Nothing here makes cycles, and a million short-lived tuples would be looked through again and again.
    gc.disable()
    _keep_memory()
    teller = Teller()
    while True:
        try:
            rules = _rules(_receive(blocks))
        except EOFError:
            return
        _send(answers, _encode(teller.tell(Block(_receive(blocks)), rules)))


if __name__ == "__main__":
    with os.fdopen(0, "rb", buffering=0) as blocks, os.fdopen(1, "wb", buffering=0) as answers:
        _work(blocks, answers)
