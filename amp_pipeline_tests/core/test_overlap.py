import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from amp_pipeline.core.overlap import Behind, ahead

PATIENCE_SECONDS = 10


def no_thread_is_left(name: str) -> bool:
    """Whether threads of that name end soon."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(thread.name.startswith(name) for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def numbers(count: int, noted: list[object], error: BaseException | None = None) -> Iterator[int]:
    """Numbers from 0 on; what was made, and that it was closed, is noted."""
    try:
        for number in range(count):
            noted.append(number)
            yield number
        if error is not None:
            raise error
    finally:
        noted.append("closed")


@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_items_come_in_order(count: int, most: int):
    noted: list[object] = []
    assert list(ahead(numbers(count, noted), most)) == list(range(count))
    assert noted == [*range(count), "closed"]
    assert no_thread_is_left("ahead")


def test_none_is_an_item():
    assert list(ahead([None, None])) == [None, None]


@pytest.mark.parametrize("error", [OSError("x"), KeyboardInterrupt(), StopAsyncIteration()])
def test_error_comes_behind_the_items_before_it(error: BaseException):
    found: list[int] = []

    def take() -> None:
        for item in ahead(numbers(5, [], error)):
            found.append(item)

    with pytest.raises(type(error)) as raised:
        take()
    assert raised.value is error
    assert found == [0, 1, 2, 3, 4]
    assert no_thread_is_left("ahead")


def test_no_more_than_wanted_is_made_ahead():
    noted: list[object] = []
    found = ahead(numbers(100, noted), 3)
    assert noted == []
    assert next(found) == 0
    time.sleep(0.05)
    # One is in hand, three wait, and one more is made that has no room.
    assert len(noted) <= 5
    del found


@pytest.mark.parametrize("taken", [1, 3])
def test_giving_up_closes_the_generator_and_leaves_no_thread(taken: int):
    noted: list[object] = []
    found = ahead(numbers(1000, noted), 1)
    for _ in range(taken):
        next(found)
    # The last reference to it.
    del found
    assert noted[-1] == "closed"
    assert len(noted) < taken + 5
    assert no_thread_is_left("ahead")


def test_failing_with_an_item_in_hand_gives_up():
    noted: list[object] = []

    def take() -> None:
        for item in ahead(numbers(1000, noted)):
            raise LookupError(item)

    with pytest.raises(LookupError):
        take()
    assert noted[-1] == "closed"
    assert no_thread_is_left("ahead")


def test_items_never_asked_for_start_nothing():
    noted: list[object] = []
    found = ahead(numbers(3, noted))
    assert no_thread_is_left("ahead")
    del found
    assert noted == []


def test_ahead_of_ahead():
    noted: list[object] = []
    found = ahead(ahead(numbers(100, noted), 1), 1)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    del found
    assert no_thread_is_left("ahead")
    assert noted[-1] == "closed"
    assert list(ahead(ahead(range(20)))) == list(range(20))


def test_items_that_fail_when_closed_keep_nobody_waiting():
    class Failing:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise StopIteration

        def close(self) -> None:
            raise OSError("closing")

    ended: list[object] = []

    def take() -> None:
        with pytest.raises(OSError, match="closing"):
            list(ahead(Failing()))
        ended.append("ended")

    # Not in a thread pool: a thread there that waits for ever would keep the interpreter from ending.
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(1)
    assert ended == ["ended"]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("most", [1, 3])
def test_results_come_in_order(most: int, at_once: bool):
    with Behind[int](most, at_once=at_once) as behind:
        for number in range(20):
            behind.do(pow, number, exp=2)
    assert behind.results == [number**2 for number in range(20)]
    assert no_thread_is_left("behind")


def test_finish_waits_and_more_may_follow():
    with Behind[int]() as behind:
        behind.do(int, "1")
        assert behind.finish() == [1]
        behind.do(int, "2")
    assert behind.results == [1, 2]
    assert behind.finish() == [1, 2]


def test_at_once_is_in_the_thread_of_the_caller_and_otherwise_in_one_other():
    with Behind[str](at_once=True) as here, Behind[str]() as behind:
        for _ in range(5):
            here.do(lambda: threading.current_thread().name)
            behind.do(lambda: threading.current_thread().name)
    assert {*here.results} == {threading.current_thread().name}
    assert len({*behind.results}) == 1
    assert here.results[0] != behind.results[0]


def test_no_more_than_wanted_waits():
    go, done = threading.Event(), list[int]()

    def work(number: int) -> None:
        go.wait(PATIENCE_SECONDS)
        done.append(number)

    submitted: list[int] = []

    def submit() -> None:
        with Behind[None](2) as behind:
            for number in range(4):
                behind.do(work, number)
                submitted.append(number)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(submit)
        time.sleep(0.05)
        assert (submitted, done) == ([0, 1], [])
        go.set()
        running.result(PATIENCE_SECONDS)
    assert done == [0, 1, 2, 3]


def fail() -> None:
    raise OSError("disk full")


@pytest.mark.parametrize("at_once", [False, True])
def test_error_comes_through_at_the_latest_when_the_block_is_left(at_once: bool):
    with pytest.raises(OSError, match="disk full"), Behind[None](at_once=at_once) as behind:
        behind.do(fail)
    assert no_thread_is_left("behind")


def test_error_comes_through_while_more_is_given():
    given: list[int] = []

    def give() -> None:
        with Behind[None]() as behind:
            for number in range(10):
                behind.do(fail)
                given.append(number)

    with pytest.raises(OSError, match="disk full"):
        give()
    assert len(given) <= 2
    assert no_thread_is_left("behind")


def test_error_that_was_raised_first_comes_through():
    def give() -> None:
        with Behind[object](5) as behind:
            behind.do(fail)
            behind.do(int, "x")

    with pytest.raises(OSError, match="disk full"):
        give()


@pytest.mark.parametrize("at_once", [False, True])
def test_nothing_is_done_behind_what_failed(at_once: bool):
    done: list[int] = []
    go = threading.Event()

    def wait_and_fail() -> None:
        assert at_once or go.wait(PATIENCE_SECONDS)
        fail()

    def give() -> None:
        with Behind[None](3, at_once=at_once) as behind:
            behind.do(wait_and_fail)
            behind.do(done.append, 1)
            behind.do(done.append, 2)
            go.set()
            time.sleep(0.1)

    with pytest.raises(OSError, match="disk full"):
        give()
    assert done == []


def test_what_waits_is_dropped_where_the_block_fails():
    done: list[int] = []
    go, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait(PATIENCE_SECONDS)
        done.append(0)

    timer = threading.Timer(0.1, go.set)

    def give() -> None:
        with Behind[None](5) as behind:
            behind.do(work)
            for number in range(1, 5):
                behind.do(done.append, number)
            assert started.wait(PATIENCE_SECONDS)
            timer.start()
            raise LookupError

    with pytest.raises(LookupError):
        give()
    timer.join()
    # The one under way was waited for.
    assert done == [0]
    assert no_thread_is_left("behind")


def test_error_of_the_block_goes_before_those_behind_it():
    def give() -> None:
        with Behind[None]() as behind:
            behind.do(fail)
            raise LookupError

    with pytest.raises(LookupError):
        give()


def test_behind_without_work_starts_no_thread():
    with Behind[None]() as behind:
        assert no_thread_is_left("behind")
    assert behind.results == []
