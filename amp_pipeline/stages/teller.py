"""Telling blocks apart in processes of their own, where one hour is large: Python reads JSON on one core at a time.

The workers are this module, run, and forked before it does anything, since importing costs half a second of CPU.
They read blocks from pipes, answer through pipes, and end when those do. So they know nothing of the process that
started them, Dagster's or another, and end with it.
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
from typing import BinaryIO

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
            self._crew = _Crew(min(MOST_WORKERS, len(os.sched_getaffinity(0))))
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


class _Crew:
    """Some workers, and a thread for each that waits for its answers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="teller")
        self.idle: _Idle = SimpleQueue()
        theirs: list[int] = []
        pipes: list[BinaryIO] = []
        for _ in range(count):
            (blocks, to), (source, answers) = os.pipe(), os.pipe()
            # A user may have only so much of it; then it goes on a little slower.
            with suppress(OSError):
                fcntl.fcntl(to, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            theirs += [blocks, answers]
            pair = os.fdopen(to, "wb", buffering=0), os.fdopen(source, "rb", buffering=0)
            self.idle.put(pair)
            pipes += pair
        process = subprocess.Popen(  # noqa: S603 - this module, by this Python
            [sys.executable, "-m", __name__, *map(str, theirs)], stdin=subprocess.DEVNULL, pass_fds=theirs
        )
        for descriptor in theirs:
            os.close(descriptor)
        weakref.finalize(self, _stop, self.threads, pipes, process)


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


def _stop(threads: ThreadPoolExecutor, pipes: list[BinaryIO], process: subprocess.Popen[bytes]) -> None:
    threads.shutdown(cancel_futures=True)
    for pipe in pipes:
        pipe.close()
    process.wait()


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
    teller = Teller()
    while True:
        try:
            rules = _rules(_receive(blocks))
        except EOFError:
            return
        _send(answers, _encode(teller.tell(Block(_receive(blocks)), rules)))


def _main(descriptors: list[int]) -> None:
    """Be one worker, and fork the others; pairs of file descriptors are where each reads and answers."""
    _keep_memory()
    pairs = list(zip(descriptors[::2], descriptors[1::2], strict=True))
    mine, children = pairs[0], list[int]()
    for pair in pairs[1:]:
        child = os.fork()
        if not child:
            mine, children = pair, []
            break
        children.append(child)
    # Held open by another, a pipe would not end with its worker.
    for descriptor in {*descriptors} - {*mine}:
        os.close(descriptor)
    with os.fdopen(mine[0], "rb", buffering=0) as blocks, os.fdopen(mine[1], "wb", buffering=0) as answers:
        _work(blocks, answers)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    _main([int(descriptor) for descriptor in sys.argv[1:]])
