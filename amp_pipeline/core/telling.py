"""Telling the lines of an hour's objects apart: events of the hour, strays, quarantine. Rules: docs/rules.md.

A block at a time, and what is told of it is small, so that blocks can be looked at in other processes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from amp_pipeline.core import envelope, identity, timestamps
from amp_pipeline.core.columns import Columns, Reader
from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.hours import MICROSECONDS
from amp_pipeline.core.lines import Block
from amp_pipeline.core.timestamps import NO_TIME


class Rules(msgspec.Struct, frozen=True):
    """What an event has to be."""

    project: int
    hour: int
    """Number of the hour; an event with another one is a stray."""
    first_us: int
    """First instant of the project."""
    end_us: int | None
    """The instant behind its last hour, where it has ended."""


class BadLine(msgspec.Struct, frozen=True, array_like=True):
    """A line for the quarantine."""

    position: int
    """In the block."""
    reason: str
    detail: str
    line: bytes


class Stray(msgspec.Struct, frozen=True, array_like=True):
    """An event of another hour."""

    position: int
    """In the block."""
    hour: int
    """Number of its own hour."""
    line: bytes


class Merging(msgspec.Struct, frozen=True, array_like=True):
    """An event that makes a merged id: when it was uploaded (µs), where it stands in the block, and the record."""

    upload: int
    position: int
    record: bytes


class Told(msgspec.Struct, frozen=True):
    """What the lines of a block are. Columns are bytes of 64-bit numbers, parallel, one for each event of the hour."""

    lines: int
    unpacked_bytes: int
    """Of the events, line ends included."""
    positions: bytes
    times: bytes
    event_times: bytes
    digests: bytes
    """16 bytes of identity each."""
    without_identity: list[int]
    """Which of the events have none; their digest is zeros."""
    contents: bytes
    event_types: dict[str, int]
    merging: list[Merging]
    bad: list[BadLine]
    strays: list[Stray]


class Teller:
    """Tells the blocks of one source apart."""

    def __init__(self) -> None:
        """Begin without known keys."""
        self._reader = Reader()

    def tell(self, block: Block, rules: Rules) -> Told:
        """Return what the lines of ``block`` are."""
        columns = self._reader.read(block)
        events = columns.events
        uploads = timestamps.parse_many([event.server_upload_time for event in events])
        clients = timestamps.parse_many([event.client_event_time for event in events])
        times = timestamps.parse_many([event.event_time for event in events])
        here = uploads // MICROSECONDS == rules.hour
        bad: list[BadLine] = []
        strays: list[Stray] = []
        for position in _doubtful(columns, here, clients, times, rules):
            why = columns.refused.get(position, _UNTOLD)
            if why is _UNTOLD:
                instants = int(uploads[position]), int(clients[position]), int(times[position])
                why = _refusal(events[position], *instants, rules)
                if why is None and here[position]:
                    continue
                if why is None:
                    hour = int(uploads[position]) // MICROSECONDS
                    strays.append(Stray(position, hour, block.line(position)))
            here[position] = False
            if why is not None:
                bad.append(BadLine(position, why.reason, why.detail, block.line(position)))
        positions = np.flatnonzero(here)
        all_of_them = len(positions) == len(events)
        chosen = events if all_of_them else [events[position] for position in positions]
        contents = np.array(columns.contents, np.uint64)
        digests = identity.many(chosen, clients[positions])
        return Told(
            lines=len(block),
            unpacked_bytes=len(block.text)
            if all_of_them
            else int((block.ends[positions] - block.starts[positions] + 1).sum()),
            positions=positions.tobytes(),
            times=uploads[positions].tobytes(),
            event_times=times[positions].tobytes(),
            digests=b"".join([digest or _NO_DIGEST for digest in digests]),
            without_identity=[at for at, digest in enumerate(digests) if digest is None] if None in digests else [],
            contents=contents[positions].tobytes(),
            event_types=_types(chosen),
            merging=_merging(chosen, columns, positions, uploads, clients, times),
            bad=bad,
            strays=strays,
        )


_UNTOLD = Bad("", "")
_NO_DIGEST = bytes(identity.DIGEST_BYTES)


def _doubtful(
    columns: Columns,
    here: npt.NDArray[np.bool_],
    clients: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    rules: Rules,
) -> list[int]:
    """Return the lines that may be no events of the hour, in order."""
    doubtful = ~here | (clients == NO_TIME) | (times == NO_TIME)
    doubtful[list(columns.refused)] = True
    apps = {event.app for event in columns.events}
    if not apps <= {None, rules.project}:
        doubtful |= [event.app not in (None, rules.project) for event in columns.events]
    return np.flatnonzero(doubtful).tolist()


def _refusal(event: Any, upload: int, client: int, time: int, rules: Rules) -> Bad | None:
    if event.server_upload_time is None:
        return Bad("no_time", "")
    for field, text, parsed in (
        ("server_upload_time", event.server_upload_time, upload),
        ("client_event_time", event.client_event_time, client),
        ("event_time", event.event_time, time),
    ):
        if text is not None and parsed == NO_TIME:
            return Bad("bad_time", field)
    if event.app is not None and event.app != rules.project:
        return Bad("other_project", "app")
    if upload < rules.first_us or (rules.end_us is not None and upload >= rules.end_us):
        return Bad("outside_project", "server_upload_time")
    return None


def _types(events: list[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for kind, count in Counter([event.event_type for event in events]).items():
        name = envelope.printable(kind)
        found[name] = found.get(name, 0) + count
    return found


def _merging(
    events: list[Any],
    columns: Columns,
    positions: npt.NDArray[np.int64],
    uploads: npt.NDArray[np.int64],
    clients: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
) -> list[Merging]:
    found: list[Merging] = []
    winners: list[int | None] = columns.merged
    if winners.count(None) == len(winners):
        return found
    where: list[int] = positions.tolist()
    for event, position in zip(events, where, strict=True):
        winner = winners[position]
        if winner is not None and event.amplitude_id is not None:
            upload, client, time = int(uploads[position]), int(clients[position]), int(times[position])
            made = _made_merge(event.amplitude_id, winner, client if time == NO_TIME else time, upload)
            found.append(Merging(upload, position, made))
    return found


def _made_merge(loser: int, winner: int, time: int, upload: int) -> bytes:
    merge_time = (upload if time == NO_TIME else time) // 1000
    return (
        f'{{"scope":null,"merge_time":{merge_time},"merge_server_time":{upload // 1000},'
        f'"amplitude_id":{loser},"merged_amplitude_id":{winner}}}'
    ).encode()
