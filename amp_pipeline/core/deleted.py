"""What stays of an event that was deleted where it waited for its hour: all that others depend on, and nothing it said.

Whether other events are repeats depends on the key of a deleted one, so its digests stay. They are those of the key
index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np

from amp_pipeline.core.identity import DIGEST_BYTES
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.telling import Merging, Rules, Teller, Told


class DeletedEvent(msgspec.Struct, frozen=True, array_like=True):
    """A deleted event of another hour than that of its object."""

    by: str
    """Id of the suppression."""
    upload: int
    """µs, like the next."""
    event_time: int
    digest: str
    """Of its identity, hexadecimal; empty where it has none."""
    content: int
    event_type: str
    made: str = ""
    """The merged id that it makes, where that is not deleted."""
    made_deleted: bool = False
    """It makes one that is deleted."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(DeletedEvent).decode


def deleted_event(teller: Teller, line: bytes, by: str, rules: Rules) -> DeletedEvent:
    """Return what stays of the event on ``line``, which belongs to the hour of ``rules``."""
    told = teller.tell(block_of([line]), rules)
    (event_type,) = told.event_types
    return DeletedEvent(
        by=by,
        upload=int(np.frombuffer(told.times, np.int64)[0]),
        event_time=int(np.frombuffer(told.event_times, np.int64)[0]),
        digest="" if told.without_identity else told.digests.hex(),
        content=int(np.frombuffer(told.contents, np.uint64)[0]),
        event_type=event_type,
        made=told.merging[0].record.decode() if told.merging else "",
    )


def with_deleted(told: Told, deleted: Mapping[int, DeletedEvent]) -> Told:
    """Return ``told`` of a block with the events that once stood at some positions, blank now."""
    events = list(deleted.values())
    positions = np.concatenate([np.frombuffer(told.positions, np.int64), np.array(list(deleted), np.int64)])
    order = np.argsort(positions, kind="stable")
    digests = told.digests + b"".join(bytes.fromhex(event.digest) or bytes(DIGEST_BYTES) for event in events)
    without = np.zeros(len(positions), np.bool_)
    without[told.without_identity] = True
    without[len(positions) - len(events) :] = [not event.digest for event in events]

    def column(before: bytes, kind: type[np.int64] | type[np.uint64], values: list[int]) -> bytes:
        return np.concatenate([np.frombuffer(before, kind), np.array(values, kind)])[order].tobytes()

    made = [Merging(event.upload, at, event.made.encode()) for at, event in deleted.items() if event.made]
    return msgspec.structs.replace(
        told,
        positions=positions[order].tobytes(),
        times=column(told.times, np.int64, [event.upload for event in events]),
        event_times=column(told.event_times, np.int64, [event.event_time for event in events]),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)[order].tobytes(),
        without_identity=np.flatnonzero(without[order]).tolist(),
        contents=column(told.contents, np.uint64, [event.content for event in events]),
        event_types=dict(Counter(told.event_types) + Counter(event.event_type for event in events)),
        merging=[*told.merging, *made],
    )
