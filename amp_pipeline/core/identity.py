"""What makes two events the same event, and whether two of them say the same. Rules: docs/rules.md, "Repeats".

Digests are stable for ever: key indexes of past years are compared with them. 64 bits of identity are too few (10^8
events an hour
would falsely drop some), and an identity is chosen by clients, so it is a cryptographic 128-bit one (BLAKE2b, RFC
7693).
Content digests only mark conflicts in a report: XXH3, 64 bits.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import xxhash

from amp_pipeline.core.envelope import Envelope, exact_decoder

DIGEST_BYTES = 16

NOT_CONTENT = ("server_upload_time", "server_received_time", "processed_time", "uuid", "event_id")
"""Top-level keys that differ between two deliveries of the same event."""

KINDS = {"i": "device_id and $insert_id", "e": "device_id, event_id and client_event_time", "u": "uuid"}
"""The kinds of identity by their letter, first that applies."""


def identity(event: Envelope, client_event_us: int | None) -> str | None:
    """Return the identity of ``event`` as unambiguous text, beginning with its kind's letter.

    None where it has none.
    """
    device, insert = event.device_id, event.insert_id
    if device:
        if insert:
            return f"i{len(device)}:{device}{insert}"
        if event.event_id is not None and client_event_us is not None:
            return f"e{len(device)}:{device}{_canonical(event.event_id)}@{client_event_us}"
    return f"u{event.uuid}" if event.uuid else None


def digest(text: str) -> bytes:
    """Return the 16-byte digest of an identity."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def content_digest(line: bytes) -> int:
    """Return a 64-bit digest of what an event says: its top-level keys and their values' bytes, whatever their order.

    Args:
        line: A line that has an envelope.
    """
    members: dict[str, msgspec.Raw] | dict[str, bytes]
    try:
        members = _members(line)
    except msgspec.DecodeError:
        members = _members_exactly(line)
    for key in NOT_CONTENT:
        members.pop(key, None)
    keys = sorted(members)
    # A key may hold any character; its length tells where it ends.
    text = "".join(f"{len(key)}:{key}" for key in keys).encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_intdigest(b"\0".join([text, *[members[key] for key in keys]]))


_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_white = " \t\r\n"


def _members_exactly(line: bytes) -> dict[str, bytes]:
    """Return top-level keys and the bytes of their values, for lines that only Python's parser reads."""
    text = line.decode()
    members: dict[str, bytes] = {}
    at = text.index("{") + 1
    while True:
        at = _skip(text, at, _white + ",")
        if text[at] == "}":
            return members
        key, at = exact_decoder.raw_decode(text, at)
        at = _skip(text, at, _white + ":")
        end = _value_end(text, at)
        members[key] = text[at:end].encode()
        at = end


def _value_end(text: str, at: int) -> int:
    if text[at] in "-0123456789":
        return _skip(text, at, "+-.0123456789eE")
    return exact_decoder.raw_decode(text, at)[1]


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _canonical(number: int | float) -> int | float:
    return int(number) if isinstance(number, float) and number.is_integer() else number
