"""The right to write an hour of a delivery, which one run has at a time (law 5, when two run the same hour).

A small object beside the manifest, made only where there is none (a conditional write), renewed while the hour is
written, and gone afterwards. What a killed run leaves is taken over at once where its process is known to be gone, and
else once it was not renewed for :data:`LEASE_SECONDS`, by the clock of the store.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType

import msgspec

from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError, StoreError
from amp_pipeline.processes import is_gone, started
from amp_pipeline.storage.objects import ObjectStore

LEASE_SECONDS = 15 * 60
"""More than a request may take with all its tries, so that a writer that is slow is not taken for one that is gone."""

_RENEW_AFTER_SECONDS = 60
_PAUSE_SECONDS = 0.2


class _Record(msgspec.Struct):
    """Who writes."""

    run: str
    at: str
    host: str
    process: int
    started: str
    token: str


class Claim:
    """An hour is this run's to write while the ``with`` block lasts."""

    def __init__(self, store: ObjectStore, name: str, what: str, run: str, at: str) -> None:
        """Prepare to claim.

        Args:
            store: Where the hour is delivered to.
            name: Of the object that says who writes.
            what: Is written, for messages.
            run: Who writes.
            at: When, for people.
        """
        self._store = store
        self._name = name
        self._what = what
        self._record = _Record(run, at, socket.gethostname(), os.getpid(), started(os.getpid()), uuid.uuid4().hex)
        self._version = ""
        self._renewed = 0.0

    def __enter__(self) -> Claim:
        """Claim the hour.

        Raises:
            DeliveryError: Another run is writing it.
        """
        data = msgspec.json.encode(self._record)
        version = self._store.put_if(self._name, data, None)
        if version is None:
            version = self._taken_over(data)
        self._version, self._renewed = version, _now()
        return self

    @contextmanager
    def waited_for(self, seconds: float) -> Iterator[Claim]:
        """Claim as by ``with``, waiting up to ``seconds`` for who has it.

        Raises:
            DeliveryError: Another run still has it.
        """
        until = time.monotonic() + seconds
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self)
                    break
                except DeliveryError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(_PAUSE_SECONDS)
            yield self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the hour back, unless another run has it now."""
        # Where that fails the claim runs out by itself, and why the hour failed matters more.
        with suppress(StoreError):
            found = self._store.head(self._name)
            if found is not None and found.version == self._version:
                self._store.delete(self._name)

    def renew(self) -> None:
        """Say that the hour is still being written; called before each step.

        Raises:
            DeliveryError: Another run has taken the hour over, since this one stood still for too long.
        """
        if _now() - self._renewed < _RENEW_AFTER_SECONDS:
            return
        version = self._store.put_if(self._name, msgspec.json.encode(self._record), self._version)
        if version is None:
            # The answer to the first try may have been lost: then it is renewed.
            found = self._store.head(self._name)
            other = self._other() if found is not None else None
            version = found.version if found and other and other.token == self._record.token else None
        if version is None:
            raise DeliveryError(
                f"{self._what} was taken over by another run, since this one stood still for more than "
                f"{LEASE_SECONDS // 60} minutes; this run writes nothing more of it"
            )
        self._version, self._renewed = version, _now()

    def renewed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield ``chunks``, renewing on the way."""
        for chunk in chunks:
            self.renew()
            yield chunk

    def _taken_over(self, data: bytes) -> str:
        found = self._store.head(self._name)
        other = self._other() if found is not None else None
        if found is None or other is None:
            # Given back this instant.
            version = self._store.put_if(self._name, data, None)
        elif other.token == self._record.token:
            # Ours: the answer to the first try was lost.
            return found.version
        elif is_gone(other.host, other.process, other.started) or (self._store.age(self._name) or 0) > LEASE_SECONDS:
            version = self._store.put_if(self._name, data, found.version)
        else:
            version = None
        if version is None:
            who = f"run {other.run} (on {other.host}, since {other.at})" if other else "another run"
            raise DeliveryError(
                f"{self._what} is being written by {who}; this run has written nothing of it. "
                f"Wait for that run; where it was killed, the hour is free after {LEASE_SECONDS // 60} minutes"
            )
        return version

    def _other(self) -> _Record | None:
        try:
            return msgspec.json.decode(self._store.get(self._name), type=_Record)
        except ObjectNotFoundError:
            return None
        except msgspec.DecodeError:
            return _Record("that can't be read", "an unknown time", "", 0, "", "")


def _now() -> float:
    """Return seconds by a clock that, unlike ``time.monotonic``, goes on while a machine sleeps; where there is one."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
