"""One digest of everything that decides about bytes: inputs, settings, and a version of the format raised by hand.

An hour whose fingerprint has not changed needs no writing. The commit of the code is not part of it: an upgrade that
changes no
byte redelivers nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

FORMAT = 2
"""Raised by hand when a change of the code changes the bytes of what is written."""


def fingerprint(*parts: Any) -> str:
    """Return a hexadecimal SHA-256 of ``parts`` (anything JSON holds) and :data:`FORMAT`."""
    return hashlib.sha256(msgspec.json.encode([FORMAT, *parts], order="deterministic")).hexdigest()
