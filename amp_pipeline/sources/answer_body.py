"""The body of an answer over HTTP, as it comes: bounded in size, and in how long somebody waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import requests
import urllib3

ANY_BYTES = 1 << 62
"""No bound."""

_PIECE_BYTES = 1 << 20
_SLOWEST_BYTES = 1 << 10
"""A second: what comes slower for as long as the read timeout has stalled, though it never stops."""
_LONGEST_SECONDS = 24 * 3600.0
"""Whoever needs more than a day for a day of events never catches up."""
_DIGITS = 19


class BrokenAnswerError(Exception):
    """Raised by who reads an answer: it is not whole; it is asked for again."""


class TooLongError(Exception):
    """A body has more bytes than its reader is ready to take."""


def chunks(answer: requests.Response, most: int, patience: float) -> Iterator[bytes]:
    """Yield a body as it comes.

    Args:
        answer: Its body not yet read.
        most: Bytes that are taken, counted after HTTP's own packing is undone.
        patience: Seconds after which is looked whether it comes fast enough.

    Raises:
        BrokenAnswerError: It comes so slowly that it would hold up for ever who waits for it.
        TooLongError: It has more than ``most``, or says so.
    """
    said = answer.headers.get("Content-Length", "")[:_DIGITS]
    if said.isdecimal() and int(said) > most:
        raise TooLongError(f"an answer of more than {most:,} bytes")
    began = since = time.monotonic()
    taken = lately = 0
    # Not answer.iter_content: it waits for a whole piece, and each byte of that may take as long as the timeout.
    while piece := answer.raw.read1(_PIECE_BYTES, decode_content=True):
        taken += len(piece)
        lately += len(piece)
        if taken > most:
            raise TooLongError(f"an answer of more than {most:,} bytes")
        now = time.monotonic()
        if now - since > patience:
            if lately < _SLOWEST_BYTES * (now - since) or now - began > _LONGEST_SECONDS:
                raise BrokenAnswerError(f"the answer comes too slowly: {taken:,} bytes in {now - began:.0f} s")
            since, lately = now, 0
        yield piece


def beginning(answer: requests.Response, most: int, patience: float) -> bytes:
    """Return the first ``most`` bytes of a body, or fewer where they can't be had."""
    found = b""
    try:
        for piece in chunks(answer, ANY_BYTES, patience):
            found += piece
            if len(found) >= most:
                break
    except (BrokenAnswerError, requests.RequestException, urllib3.exceptions.HTTPError):
        pass
    return found[:most]
