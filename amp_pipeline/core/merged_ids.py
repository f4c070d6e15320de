"""Merged ids: ``amplitude_id`` (the loser) was merged into ``merged_amplitude_id`` (the winner).

Rules: docs/rules.md, "Merged ids". The direction is easy to invert; it is that of amplitude-docs
``destination-catalog/en/snowflake.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from amp_pipeline.core.envelope import Bad, read_exactly

Pair = tuple[int, int]
"""Loser and winner."""


class Merge(msgspec.Struct, frozen=True):
    """One record of the hour's file, before repeats are removed."""

    made: bool
    """Made from an event; else it landed."""
    pair: Pair
    text: str

    @property
    def line(self) -> bytes:
        """The record as it stands in the file."""
        return self.text.encode()


def read_landed(line: bytes) -> Merge | Bad:
    """Return the record on a landed line that is not blank, or why it is none."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"byte {error.start + 1}")
    found = read_exactly(line)
    if isinstance(found, Bad):
        return found
    for field in ("scope", "merge_time", "merge_server_time"):
        if found.get(field) is not None and _integer(found, field) is None:
            return Bad("wrong_type", field)
    loser, winner = _integer(found, "amplitude_id"), _integer(found, "merged_amplitude_id")
    if loser is None or winner is None:
        return Bad("wrong_type", "amplitude_id" if loser is None else "merged_amplitude_id")
    return Merge(False, (loser, winner), line.decode())


def read_made(line: bytes) -> Merge:
    """Return a record that the pipeline made from an event."""
    found = json.loads(line)
    return Merge(True, (found["amplitude_id"], found["merged_amplitude_id"]), line.decode())


def drop_repeats(merges: Iterable[Merge], earlier: Iterable[Merge]) -> list[Merge]:
    """Return the records that are not repeats, in their order.

    A landed record is only ever a repeat of a landed one; a made one never replaces what landed.

    Example:
        >>> landed, made = Merge(False, (9, 8), "landed"), Merge(True, (9, 8), "made")
        >>> [merge.text for merge in drop_repeats([landed, made], [])]
        ['landed']
        >>> [merge.text for merge in drop_repeats([landed], [made])]
        ['landed']
    """
    seen: set[Pair] = set()
    landed: set[Pair] = set()
    for merge in earlier:
        seen.add(merge.pair)
        if not merge.made:
            landed.add(merge.pair)
    kept: list[Merge] = []
    for merge in merges:
        if merge.pair not in (seen if merge.made else landed):
            kept.append(merge)
        seen.add(merge.pair)
        if not merge.made:
            landed.add(merge.pair)
    return kept


def chains(pairs: Iterable[Pair]) -> int:
    """Return how many ids are both winner and loser: A into B, B into C."""
    known = set(pairs)
    return len({loser for loser, _ in known} & {winner for _, winner in known})


def cycles(pairs: Iterable[Pair]) -> list[list[int]]:
    """Return cycles, each from its smallest id on: ids that end in one another have no winner.

    Example:
        >>> cycles([(1, 2), (2, 3), (3, 2), (4, 4)])
        [[2, 3], [4]]
    """
    graph: dict[int, set[int]] = {}
    for loser, winner in pairs:
        graph.setdefault(loser, set()).add(winner)
    _prune(graph)
    found: list[list[int]] = []
    walked: set[int] = set()
    for start in sorted(graph):
        path: list[int] = []
        at = start
        while at not in walked and at not in path:
            path.append(at)
            at = min(graph[at])
        if at in path:
            cycle = path[path.index(at) :]
            first = cycle.index(min(cycle))
            found.append(cycle[first:] + cycle[:first])
        walked.update(path)
    return sorted(found)


def _prune(graph: dict[int, set[int]]) -> None:
    """Take away, again and again, ids that lead nowhere; what is left leads into cycles."""
    while True:
        ends = [loser for loser, winners in graph.items() if not winners & graph.keys()]
        if not ends:
            break
        for loser in ends:
            del graph[loser]
    for loser in graph:
        graph[loser] &= graph.keys()


def _integer(found: Mapping[str, Any], field: str) -> int | None:
    value = found.get(field)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
