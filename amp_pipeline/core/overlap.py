"""Two things at once inside one process: reading ahead of who needs it, and writing behind who made it.

Threads are enough for that: unpacking, packing, digests and files release Python's lock. Small work is done on
the spot, since a thread costs more than it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar, cast

from typing_extensions import override

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_How = ParamSpec("_How")

_PATIENCE_SECONDS = 0.1


class _End:
    """The last thing in the queue; carries what was raised."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[_Item], most: int = 3) -> Iterator[_Item]:
    """Yield ``items``, made in a thread of their own, at most ``most`` of them before they are asked for."""
    maker = _Maker(items, most)
    maker.start()
    try:
        while not isinstance(item := maker.queue.get(), _End):
            yield cast(_Item, item)
        if item.error is not None:
            raise item.error
    finally:
        maker.give_up()


class _Maker(Thread):
    """Makes items until they are all made, or nobody wants them any more."""

    def __init__(self, items: Iterable[object], most: int) -> None:
        super().__init__(name="ahead", daemon=True)
        self.queue: Queue[object] = Queue(most)
        self._items = iter(items)
        self._given_up = Event()

    @override
    def run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
            # A generator holds files open until it is closed; one that failed is closed.
            getattr(self._items, "close", _nothing)()
        except BaseException as raised:
            # Raised again where the items are asked for.
            error = raised
        self._put(_End(error))

    def give_up(self) -> None:
        """Stop, and wait until that is done."""
        self._given_up.set()
        self.join()

    def _put(self, item: object) -> bool:
        while not self._given_up.is_set():
            try:
                self.queue.put(item, timeout=_PATIENCE_SECONDS)
            except Full:
                continue
            return True
        return False


def _nothing() -> None:
    pass


class Behind(Generic[_Result]):
    """Does one thing after the other while the caller goes on, at most ``most`` waiting; results in order.

    Leaving the ``with`` block waits for all of it, and raises what was raised first.
    """

    def __init__(self, most: int = 2, *, at_once: bool = False) -> None:
        """Begin with nothing to do.

        Args:
            most: How many may wait; the next one makes the caller wait.
            at_once: Do each on the spot, without a thread.
        """
        self._most = most
        self._thread = None if at_once else ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting: list[Future[_Result]] = []
        self._failed = Event()
        self.results: list[_Result] = []

    def __enter__(self) -> Behind[_Result]:
        """Return itself."""
        return self

    def do(self, what: Callable[_How, _Result], *args: _How.args, **how: _How.kwargs) -> None:
        """Do ``what`` after all that waits.

        Raises:
            Exception: What an earlier call raised.
        """
        if self._thread is None:
            self.results.append(what(*args, **how))
            return
        while len(self._waiting) >= self._most:
            self._take()
        self._waiting.append(self._thread.submit(self._unless_failed, what, *args, **how))

    def finish(self) -> list[_Result]:
        """Wait for all that waits and return all results."""
        while self._waiting:
            self._take()
        return self.results

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, or drop what waits where the block failed."""
        try:
            if error is None:
                self.finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)

    def _unless_failed(self, what: Callable[_How, _Result], *args: _How.args, **how: _How.kwargs) -> _Result:
        if self._failed.is_set():
            raise CancelledError
        try:
            return what(*args, **how)
        except BaseException:
            self._failed.set()
            raise

    def _take(self) -> None:
        self.results.append(self._waiting.pop(0).result())
