"""Users whose events are deleted, and finding their lines. Rules: docs/rules.md, "Deletion".

A block is searched for the values of two keys, and only lines that may hold an id of the list are read exactly: an
hour in which nobody is deleted costs little more than unpacking it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from amp_pipeline.core import envelope, timestamps
from amp_pipeline.core.envelope import MOST_DIGITS, Bad
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block

_USER_ID = re.compile(rb'"user_id"[ \t\r]*:[ \t\r]*(?:"((?:[^"\\]|\\.)*)"|(-?[0-9]+))')
_AMPLITUDE_ID = re.compile(rb'"amplitude_id"[ \t\r]*:[ \t\r]*"?(-?[0-9]+)([.eE]?)')
# Up to the last escape of a key: those that spell a letter all begin so.
_ESCAPED_KEY = re.compile(rb'\\u[^"\\]*"[ \t\r]*:')
_DIGITS = re.compile(r"-?[0-9]+")


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """Users of a project whose events are deleted, and never delivered again."""

    id: str
    """Says nothing about the users: it stands in logs, records and receipts, and their ids don't."""
    project: int
    user_ids: list[str]
    amplitude_ids: list[str]
    """As digits: they have any number of them."""
    asked_at: str
    """When, UTC, ISO-8601."""
    up_to: int | None
    """Last ``server_upload_time`` that is deleted, µs since 1970; None: whatever comes, too."""
    note: str = ""

    def reaches(self, us: int) -> bool:
        """Tell whether what was uploaded at ``us`` is deleted."""
        return self.up_to is None or us <= self.up_to


class Suppressed:
    """A list of suppressions, to look lines up in."""

    def __init__(self, suppressions: Iterable[Suppression] = ()) -> None:
        """Look for the users of ``suppressions``."""
        self.all = sorted(suppressions, key=lambda one: (one.asked_at, one.id))
        self._users: dict[str, list[Suppression]] = {}
        self._amplitude_ids: dict[int, list[Suppression]] = {}
        for one in self.all:
            for user in one.user_ids:
                self._users.setdefault(user, []).append(one)
            for digits in one.amplitude_ids:
                self._amplitude_ids.setdefault(int(digits), []).append(one)
        self._user_bytes = {user.encode("utf-8", "surrogatepass") for user in self._users}
        self._digits = {str(number).encode() for number in self._amplitude_ids}
        self._at: dict[Hour, Suppressed] = {}

    def __bool__(self) -> bool:
        """Tell whether anybody is on the list."""
        return bool(self.all)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the list; "" where nobody is on it."""
        listed = [(one.id, sorted(one.user_ids), sorted(one.amplitude_ids), one.up_to) for one in self.all]
        return fingerprint(*sorted(listed)) if listed else ""

    def at(self, hour: Hour) -> Suppressed:
        """Return the part of the list that reaches into ``hour``."""
        if hour not in self._at:
            reaching = [one for one in self.all if one.reaches(hour.start_us)]
            self._at[hour] = self if len(reaching) == len(self.all) else Suppressed(reaching)
        return self._at[hour]

    def find(self, block: Block) -> dict[int, str]:
        """Return the positions of events in ``block`` that are deleted, each with the id of its suppression."""
        if not self.all:
            return {}
        starts = np.fromiter(self._suspicious(block.text), np.int64)
        positions: list[int] = np.unique(np.searchsorted(block.ends, starts)).tolist()
        found = {position: self.of_event(block.line(position)) for position in positions}
        return {position: by for position, by in found.items() if by is not None}

    def of_event(self, line: bytes) -> str | None:
        """Return the id of the suppression that deletes an event, or None."""
        return next(iter(self.all_of_event(line)), None)

    def all_of_event(self, line: bytes) -> list[str]:
        """Return the ids of all suppressions that delete an event, first asked first."""
        found = _object_on(line)
        if found is None:
            return []
        upload = found.get("server_upload_time")
        us = int(timestamps.parse_many([upload])[0]) if isinstance(upload, str) else timestamps.NO_TIME
        return [one.id for one in self._of(found) if one.reaches(us)]

    def of_bad_line(self, line: bytes) -> str | None:
        """Return the id of the suppression that deletes a quarantined line, or None.

        Where it is no JSON object, whatever looks like an id of the list counts.
        """
        found = _object_on(line)
        if found is not None:
            return next((one.id for one in self._of(found)), None)
        for spelling, by in self._spellings:
            if spelling in line:
                return by
        for match in _AMPLITUDE_ID.finditer(line):
            if len(match[1]) <= MOST_DIGITS and (listed := self._amplitude_ids.get(int(match[1]))):
                return listed[0].id
        return None

    def of_merge(self, *amplitude_ids: int) -> str | None:
        """Return the id of the suppression that deletes a merged id, or None."""
        listed = [one for number in amplitude_ids for one in self._amplitude_ids.get(number, ())]
        return listed[0].id if listed else None

    @property
    def user_ids(self) -> set[str]:
        """All user ids on the list, whatever it reaches."""
        return set(self._users)

    @property
    def amplitude_ids(self) -> set[int]:
        """All Amplitude ids on the list, whatever it reaches."""
        return set(self._amplitude_ids)

    @cached_property
    def _spellings(self) -> list[tuple[bytes, str]]:
        return [
            (_quoted(user, ascii_only=ascii_only), listed[0].id)
            for user, listed in self._users.items()
            for ascii_only in (True, False)
        ]

    def _suspicious(self, text: bytes) -> Iterator[int]:
        """Yield where something stands that may be an id of the list."""
        for match in _USER_ID.finditer(text):
            value = match[1] if match[1] is not None else match[2]
            if value in self._user_bytes or b"\\" in value:
                yield match.start()
        for match in _AMPLITUDE_ID.finditer(text):
            digits = match[1]
            # 5.0 and 50e-1 are 5 as well, and so is "05".
            if digits in self._digits or match[2] or digits.startswith((b"0", b"-0")):
                yield match.start()
        # The keys themselves may be written with escapes.
        for match in _ESCAPED_KEY.finditer(text):
            yield match.start()

    def _of(self, found: Mapping[str, Any]) -> list[Suppression]:
        """Return the suppressions that name the user of an event, first asked first."""
        user = found.get("user_id")
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user) if abs(user) < 10**MOST_DIGITS else None
        listed = list(self._users.get(user, ())) if isinstance(user, str) else []
        number = _integer(found.get("amplitude_id"))
        if number is not None:
            listed += self._amplitude_ids.get(number, ())
        return sorted(listed, key=lambda one: (one.asked_at, one.id))


def _object_on(line: bytes) -> dict[str, Any] | None:
    try:
        line.decode()
    except UnicodeDecodeError:
        return None
    found = envelope.read_exactly(line)
    return None if isinstance(found, Bad) else found


def _integer(value: object) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if len(value) <= MOST_DIGITS and _DIGITS.fullmatch(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _quoted(user: str, *, ascii_only: bool) -> bytes:
    return json.dumps(user, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
