import fcntl
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from amp_pipeline.core.lines import Block, block_of
from amp_pipeline.core.telling import Rules, Teller, Told
from amp_pipeline.stages import teller as module
from amp_pipeline.stages.teller import Workers
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event
from amp_pipeline_tests.core.strategies import ODD_LINES

PATIENCE_SECONDS = 10
RULES = Rules(project=7, hour=FIRST_HOUR.number, first_us=FIRST_HOUR.start_us, end_us=None)
LATER = Rules(project=7, hour=FIRST_HOUR.number + 1, first_us=FIRST_HOUR.start_us, end_us=None)
EVENTS = [
    event(number, device_id="d", **{"$insert_id": str(number), f"key {number % 3}": number}) for number in range(50)
]
BLOCKS = [
    block_of(EVENTS),
    block_of(ODD_LINES),
    block_of([event(HOUR_US), b"bad", event(5, amplitude_id=2**70, data={"merged_amplitude_id": 6})]),
    block_of([event(number, x="y" * 1000) for number in range(5000)]),
    block_of([event(event_type="\ud800"), b"", event(device_id=None)]),
] * 2


@pytest.fixture(params=[2])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many workers there are beside this process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(request.param + 1)))
    return request.param


def told(workers: Workers, blocks: list[Block]) -> list[Told]:
    return list(workers.tell((block, rules) for block in blocks for rules in (RULES, LATER)))


@cache
def here() -> list[Told]:
    """What is told of the blocks in this process."""
    teller = Teller()
    return [teller.tell(block, rules) for block in BLOCKS for rules in (RULES, LATER)]


def status(process: int) -> tuple[str, int] | None:
    """Its state and its parent; None where there is none."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def running() -> set[int]:
    """The worker processes below this one."""
    parents = {int(path.name): status(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    family, found = {os.getpid()}, set[int]()
    while new := {one for one, known in parents.items() if known and known[1] in family} - found:
        found |= new
        family |= new
    return {process for process in found if module.__name__.encode() in command(process)}


def command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ended(processes: set[int]) -> bool:
    # One whose parent is gone waits for process 1, which may not care.
    me = os.getpid()
    return all(found is None or (found[0] == "Z" and found[1] != me) for found in map(status, processes))


def started(workers: Workers, count: int) -> set[int]:
    """The processes of workers that have worked already."""
    before = running()
    assert told(workers, BLOCKS[:1]) == here()[:2]
    assert soon(lambda: len(running() - before) == count)
    return running() - before


def send(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


@pytest.mark.parametrize("count", [1, 3], indirect=True)
def test_workers_tell_what_is_told_in_this_process(count: int):
    workers = Workers(1 << 30)
    assert told(workers, BLOCKS) == here()
    assert told(workers, []) == []
    assert told(workers, BLOCKS[:1]) == here()[:2]


def test_workers_are_kept_from_call_to_call(count: int):
    workers = Workers(1 << 30)
    before = started(workers, count) | running()
    told(workers, BLOCKS)
    assert running() <= before


def test_no_process_and_no_file_is_left_when_the_workers_are_gone(count: int):
    files = set(Path("/proc/self/fd").iterdir())
    workers = Workers(1 << 30)
    processes = started(workers, count)
    del workers
    gc.collect()
    assert soon(lambda: ended(processes))
    assert len(set(Path("/proc/self/fd").iterdir()) - files) <= 1


def test_workers_never_asked_start_nothing():
    before = running()
    Workers(1 << 30)
    assert running() <= before


@pytest.mark.parametrize(
    ("memory", "processes"),
    [(256 << 20, 0), (600 << 20, 1), (1 << 30, 3), pytest.param(8 << 30, 7, marks=pytest.mark.soak)],
)
def test_memory_bounds_the_workers(memory: int, processes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    before = running()
    workers = Workers(memory)
    assert told(workers, BLOCKS) == here()
    assert len(running() - before) == processes


@pytest.mark.parametrize(("limit", "processes"), [("150000 100000", 1), ("10000 100000", 0), ("max 100000", 3)])
def test_a_container_s_share_of_time_bounds_the_workers(
    limit: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(module, "_CPU_MAX", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(limit + "\n")
    before = running()
    workers = Workers(1 << 30)
    assert told(workers, BLOCKS) == here()
    assert len(running() - before) == processes


def test_killed_worker_is_told_of_and_the_next_call_has_a_new_one(count: int, caplog: pytest.LogCaptureFixture):
    workers = Workers(1 << 30)
    processes = started(workers, count)
    send(processes, signal.SIGKILL)
    assert soon(lambda: all((status(process) or "Z")[0] == "Z" for process in processes))
    assert told(workers, BLOCKS) == here()
    assert "a worker process ended" in caplog.text
    assert told(workers, BLOCKS) == here()
    assert not running() & processes
    processes |= running()
    del workers
    gc.collect()
    assert soon(lambda: ended(processes))


@pytest.mark.parametrize("which", [min, max])
def test_what_a_worker_killed_at_work_leaves_is_done_here(count: int, which: Callable[[set[int]], int]):
    workers = Workers(1 << 30)
    processes = started(workers, count)
    send(processes, signal.SIGSTOP)

    def blocks() -> Iterator[tuple[Block, Rules]]:
        for number in range(2 * count):
            if number == count:
                # All of them have a block.
                time.sleep(0.1)
                send({which(processes)}, signal.SIGKILL)
                send(processes - {which(processes)}, signal.SIGCONT)
            yield BLOCKS[number], RULES

    assert list(workers.tell(blocks())) == here()[: 4 * count : 2]
    assert told(workers, BLOCKS) == here()
    processes |= running()
    del workers
    gc.collect()
    assert soon(lambda: ended(processes))


def test_what_is_raised_where_blocks_come_from_comes_through(count: int):
    workers = Workers(1 << 30)

    def blocks() -> Iterator[tuple[Block, Rules]]:
        yield BLOCKS[0], RULES
        raise LookupError

    with pytest.raises(LookupError):
        list(workers.tell(blocks()))
    assert told(workers, BLOCKS) == here()


def test_giving_up_leaves_workers_that_work(count: int):
    workers = Workers(1 << 30)
    for _ in range(3):
        giving_up = workers.tell((block, RULES) for block in BLOCKS)
        assert next(giving_up) == here()[0]
        del giving_up
    assert told(workers, BLOCKS) == here()


def test_pipes_that_may_not_be_larger_do_as_they_are(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert told(Workers(1 << 30), BLOCKS) == here()


def test_no_process_is_left_when_the_workers_go_while_they_work(count: int):
    workers = Workers(1 << 30)
    processes = started(workers, count)
    send(processes, signal.SIGSTOP)

    def blocks() -> Iterator[tuple[Block, Rules]]:
        for _ in range(count):
            yield BLOCKS[0], RULES
        # All of them have a block.
        time.sleep(0.2)
        raise LookupError

    telling = workers.tell(blocks())
    with pytest.raises(LookupError):
        next(telling)
    del telling
    # They go on once the object is gone, whether that waits for them or not.
    going_on = threading.Timer(0.5, send, (processes, signal.SIGCONT))
    going_on.start()
    del workers
    gc.collect()
    going_on.join()
    assert soon(lambda: ended(processes))
