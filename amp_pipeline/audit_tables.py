"""The audit of tables: do they hold the rows of what was delivered, and nothing else?

Hours are written again from what an audit delivered to scratch space, the other tables from their summaries and, for
hours that are not looked at, from those on record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from amp_pipeline.core.hours import Hour
from amp_pipeline.core.tables import TABLES
from amp_pipeline.destinations.archive import By
from amp_pipeline.destinations.table_checks import batches
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.tables import day_of, month_of

_BY = By("audit", "", "")


class TablesAudit:
    """Holds the tables of one delivery against those made anew."""

    def __init__(self, real: Tables, again: Tables) -> None:
        """Compare ``real`` with ``again``, which is over scratch space."""
        self._real = real
        self._again = again

    def is_behind(self, hour: Hour) -> bool:
        """Tell whether an hour is not in the tables as it was delivered; its sensor asks for it then."""
        return not self._real.is_current(hour)

    def hour(self, hour: Hour) -> Iterator[str]:
        """Yield what is wrong with the rows of ``event`` of an hour that scratch space has as it must be delivered."""
        self._again.write_hour(hour, _BY, force=True)
        yield from self._hold(self._real.names.event_table(hour))

    def frozen(self, hour: Hour) -> Iterator[str]:
        """Yield what is wrong with the rows of ``event`` of an hour that can't be made anew."""
        record = self._real.records.hour(hour)
        if record is not None:
            yield from self._as_recorded(self._real.names.event_table(hour), record.event and record.event.sha256)

    def whole(self, hours: Sequence[Hour]) -> Iterator[str]:
        """Yield what is wrong with the tables that are not of one hour, after ``hours`` were looked at."""
        if not self._real.has_all(hours):
            # A run is at it, or comes to it.
            return
        # Summaries that they were merged into are what is looked at.
        for day in {day_of(hour) for hour in hours}:
            self._again.records.forget_merged("days", day)
            self._again.records.forget_merged("months", month_of(day))
        self._again.finish(hours, _BY, force=True)
        for name in TABLES:
            if name != "event":
                yield from self._hold(self._real.names.table(name))

    def _hold(self, name: str) -> Iterator[str]:
        if not _is_same(self._real.store, self._again.store, name):
            yield f"{self._real.store.uri(name)} does not hold the rows of what was delivered; {_TO_DO}"

    def _as_recorded(self, name: str, digest: str | None) -> Iterator[str]:
        if self._real.store.digest(name) != digest:
            yield f"{self._real.store.uri(name)} is not what was written; {_TO_DO}"


_TO_DO = "materialize tables of the hour again, forced"


def _is_same(real: ObjectStore, again: ObjectStore, name: str) -> bool:
    """Tell whether both stores have the same rows in an object, or both have none."""
    found, wanted = real.digest(name), again.digest(name)
    if found == wanted:
        return True
    if found is None or wanted is None:
        return False
    # Another version of the packer writes other bytes.
    try:
        pairs = zip(batches(real, name), batches(again, name), strict=True)
        return all(one.equals(other) for one, other in pairs)
    except (pa.ArrowException, OSError, ValueError):
        return False
