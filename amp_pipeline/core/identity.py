"""What makes two events the same event, and whether two of them say the same. Rules: docs/rules.md, "Repeats".

Digests are stable for ever: key indexes of past years are compared with them. 64 bits of identity are too few (10^8
events an hour
would falsely drop some), and an identity is chosen by clients, so it is a cryptographic 128-bit one (BLAKE2b, RFC
7693).
Content digests only mark conflicts in a report: XXH3, 64 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import attrgetter, concat
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from amp_pipeline.core.envelope import Envelope, exact_decoder
from amp_pipeline.core.timestamps import NO_TIME

DIGEST_BYTES = 16

NOT_CONTENT = ("server_upload_time", "server_received_time", "processed_time", "uuid", "event_id")
"""Top-level keys that differ between two deliveries of the same event."""

COLUMNS = (
    *("$insert_key", "$schema", "adid", "amplitude_attribution_ids", "amplitude_event_type", "city"),
    *("client_upload_time", "country", "data", "data_type", "device_brand", "device_carrier", "device_family"),
    *("device_manufacturer", "device_model", "device_type", "dma", "event_properties", "global_user_properties"),
    *("group_properties", "groups", "idfa", "ip_address", "is_attribution_event", "language", "library"),
    *("location_lat", "location_lng", "os_name", "os_version", "partner_id", "paying", "plan", "platform", "region"),
    *("sample_rate", "session_id", "source_id", "start_version", "user_creation_time", "user_id", "user_properties"),
    "version_name",
)
"""Known columns that are content and no field of the envelope. Never changed: digests of past years depend on it."""

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
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def many(events: Sequence[Any], client_event_us: npt.NDArray[np.int64]) -> list[bytes | None]:
    """Return the digests of the identities of events, None where an event has none.

    Args:
        events: Objects with the fields of an envelope.
        client_event_us: Their ``client_event_time`` in µs, :data:`timestamps.NO_TIME` where there is none.
    """
    found: list[bytes | None] = []
    for position, event in enumerate(events):
        device, insert = event.device_id, event.insert_id
        if device and insert:
            # As below, without the calls: nearly all events come this way.
            try:
                data = f"i{len(device)}:{device}{insert}".encode()
            except UnicodeEncodeError:
                pass
            else:
                found.append(blake2b(data, digest_size=DIGEST_BYTES).digest())
                continue
        client = int(client_event_us[position])
        text = identity(event, None if client == NO_TIME else client)
        found.append(None if text is None else digest(text))
    return found


def content_digest(line: bytes, event: Envelope) -> int:
    """Return a 64-bit digest of what an event says: its top-level keys and their values, whatever their order.

    Args:
        line: A line that has an envelope.
        event: Its envelope.
    """
    try:
        found: dict[str, msgspec.Raw] | dict[str, bytes] = members(line)
    except msgspec.DecodeError:
        found = members_exactly(line)
    return digest_of_members(event, found)


def digest_of_members(event: Any, values: Mapping[str, Any]) -> int:
    """Return the content digest of an event.

    Args:
        event: An object with the fields of an envelope.
        values: The bytes of the values of its top-level keys; those that are no content may be among them.
    """
    columns = b"\0".join([values.get(key, b"") for key in COLUMNS])
    return xxhash.xxh3_64_intdigest(columns + heads([event])[0] + with_others(values))


def content_digests(heads: Iterable[bytes], columns: Iterable[Iterable[Any]]) -> list[int]:
    """Return the content digests of events that have known columns only; the arguments are parallel.

    Args:
        heads: What :func:`heads` says of the events.
        columns: The bytes of their values of :data:`COLUMNS`, empty where an event has none.
    """
    # Maps of C functions: a loop would cost half as much again. JSON holds no zero bytes, so what is joined is clear.
    joined: Iterable[bytes] = map(b"\0".join, columns)
    texts: Iterable[bytes] = map(_concat, joined, heads)
    return list(map(xxhash.xxh3_64_intdigest, texts))


def with_others(values: Mapping[str, Any]) -> bytes:
    """Return the keys that are no known columns, and their values, as they go into a content digest."""
    keys = sorted(values.keys() - _KNOWN)
    # A key may hold any character; its length tells where it ends.
    return b"\0".join(
        part for key in keys for part in (f"{len(key)}:{key}".encode("utf-8", "surrogatepass"), values[key])
    )


def heads(events: Sequence[Any]) -> list[bytes]:
    """Return the fields of envelopes that are content, as they go into content digests: as decoded."""
    try:
        return list(map(_encode, map(_head, events)))
    except (UnicodeEncodeError, OverflowError):
        # Lone surrogates, and integers beyond 64 bits.
        return [json.dumps(_head(event)).encode() if _is_odd(event) else _encode(_head(event)) for event in events]


def _is_odd(event: Any) -> bool:
    try:
        _encode(_head(event))
    except (UnicodeEncodeError, OverflowError):
        return True
    return False


_head = attrgetter("device_id", "insert_id", "event_type", "client_event_time", "event_time", "app", "amplitude_id")
_DECODED = ("device_id", "$insert_id", "event_type", "client_event_time", "event_time", "app", "amplitude_id")
_concat = cast(Callable[[bytes, bytes], bytes], concat)
_KNOWN = {*COLUMNS, *_DECODED, *NOT_CONTENT}
_encode = msgspec.json.Encoder().encode
members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Return top-level keys and the bytes of their values."""
_white = " \t\r\n"


def members_exactly(line: bytes) -> dict[str, bytes]:
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
