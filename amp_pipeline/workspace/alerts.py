"""What is remembered about alerts, in the workspace: one record for each delivery or asset that may fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from amp_pipeline.core.alerts import FORMAT, State
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.storage.objects import ObjectStore

_MOST_TRIES = 20


class AlertStore:
    """An organization's alerts."""

    def __init__(self, store: ObjectStore, organization: int) -> None:
        """Use the folder ``{organization}/alerts`` of ``store``."""
        self._store = store
        self._folder = f"{organization}/alerts/"

    def name(self, subject: str) -> str:
        """Return the name of a record."""
        return f"{self._folder}{subject}.json"

    def state(self, subject: str) -> State:
        """Return what is remembered of ``subject``."""
        try:
            return _decoded(self._store.get(self.name(subject)))
        except ObjectNotFoundError:
            return State()

    def change(self, subject: str, change: Callable[[State], State]) -> State:
        """Write what ``change`` makes of the state, which nobody else has changed meanwhile; return it.

        Raises:
            WorkspaceError: Others change it all the time.
        """
        name = self.name(subject)
        for _ in range(_MOST_TRIES):
            found = self._store.head(name)
            before = self.state(subject)
            after = change(before)
            if after == before:
                return after
            data = msgspec.json.encode(after, order="deterministic")
            if self._store.put_if(name, data, found.version if found else None) is not None:
                return after
        raise WorkspaceError(f"{self._store.uri(name)} is being changed by others all the time; check who they are")

    def subjects(self) -> Iterator[str]:
        """Yield the subjects that something is remembered of."""
        pattern = re.compile(re.escape(self._folder) + r"([^/]+)\.json")
        for info in self._store.find(self._folder):
            if match := pattern.fullmatch(info.name):
                yield match[1]


def _decoded(data: bytes) -> State:
    try:
        state = msgspec.json.decode(data, type=State)
    except msgspec.MsgspecError:
        # What is lost is when somebody was told last: they are told once more.
        return State()
    return state if state.format == FORMAT else State()
