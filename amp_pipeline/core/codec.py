"""Packed bytes: reading gzip, zstd and plain objects, writing gzip parts that are the same bytes every time.

ISA-L (package ``isal``) unpacks and packs; its level 2 costs about a tenth of zlib's level 6 for files some 15 %
larger (design, "Decided from evidence"). A part has no time and no name in its gzip header, so the same lines give
the same bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard
from isal import isal_zlib

from amp_pipeline.core.errors import DamagedObjectError

BLOCK_BYTES = 4 << 20
"""Most unpacked bytes handed on at a time; small blocks stay in the processor's cache."""

LEVEL = 2
"""ISA-L's compression level."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 31
_HEADER_BYTES = 1 << 17

# isal's stubs give its arguments no types and call its error an instance.
_ISAL: Any = isal_zlib
_IsalError: type[Exception] = _ISAL.error


class _Inflater(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Deflater(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _inflater() -> _Inflater:
    return _ISAL.decompressobj(_GZIP_WINDOW)


def _deflater(level: int) -> _Deflater:
    return _ISAL.compressobj(level, isal_zlib.DEFLATED, _GZIP_WINDOW)


def unpack(chunks: Iterable[bytes], name: str, *, to_the_damage: bool = False) -> Iterator[bytes]:
    """Yield the unpacked bytes of an object, whose first bytes tell how it is packed.

    Args:
        chunks: The object's bytes, in pieces that are not empty.
        name: The object's name, for messages and to know an empty packed object from an empty plain one.
        to_the_damage: Of a damaged object, yield every byte before the damage; otherwise up to a block of them is
            lost, but reading is many times faster.

    Raises:
        DamagedObjectError: The object is truncated or corrupt.
    """
    source = iter(chunks)
    head = b""
    while len(head) < len(_ZSTD) and (chunk := next(source, b"")):
        head += chunk
    if head.startswith(_GZIP):
        inflater = _ExactInflater if to_the_damage else _inflater
        yield from _gunzip(_chain(head, source), name, inflater)
    elif head.startswith(_ZSTD) or _is_skippable_frame(head):
        pieces = _chain(head, source)
        yield from _unzstd(_bytewise(pieces) if to_the_damage else pieces, name)
    elif _begins(head, _GZIP, name, ".gz") or _begins(head, _ZSTD, name, ".zst"):
        raise DamagedObjectError(f"{name} ends after {len(head)} bytes")
    else:
        yield from _chain(head, source)


def _is_skippable_frame(head: bytes) -> bool:
    """Tell whether a zstd stream begins with a frame of no content (RFC 8878, 3.1.2)."""
    return len(head) >= len(_ZSTD) and head[0] & 0xF0 == 0x50 and head[1:4] == b"\x2a\x4d\x18"


def _begins(head: bytes, magic: bytes, name: str, ending: str) -> bool:
    return name.endswith(ending) and len(head) < len(magic) and magic.startswith(head)


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _bytewise(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for position in range(len(chunk)):
            yield chunk[position : position + 1]


def _gunzip(chunks: Iterator[bytes], name: str, inflater: Callable[[], _Inflater]) -> Iterator[bytes]:
    left = _whole_header(b"", chunks)
    member = inflater()
    try:
        while left:
            out = member.decompress(left, BLOCK_BYTES)
            while out:
                yield out
                full = len(out) == BLOCK_BYTES and not member.eof and not member.unconsumed_tail
                out = member.decompress(b"", BLOCK_BYTES) if full else b""
            if member.eof:
                left = _whole_header(member.unused_data, chunks)
                member = inflater() if left else member
            else:
                left = member.unconsumed_tail or next(chunks, b"")
    except (_IsalError, zlib.error) as error:
        raise DamagedObjectError(f"{name} is corrupt: {error}") from error
    if not member.eof:
        raise DamagedObjectError(f"{name} is truncated: its gzip stream has no end")


def _whole_header(data: bytes, chunks: Iterator[bytes]) -> bytes:
    """Return the bytes of the next member from its beginning, behind padding; nothing where there is none.

    They hold all of its header: isal 1.9 loses its way in a header with a comment that is cut in two.
    """
    data = data.lstrip(b"\0")
    while len(data) < _HEADER_BYTES and (chunk := next(chunks, b"")):
        data = (data + chunk).lstrip(b"\0")
    return data


class _ExactInflater:
    """The standard library's inflater, made to hand out all bytes before the damage, and to raise then."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        self._damage: zlib.error | None = None
        self._rest = b""

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    @property
    def unconsumed_tail(self) -> bytes:
        return self._rest or self._inflater.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._damage is not None:
            raise self._damage
        before = self._inflater.copy()
        try:
            return self._inflater.decompress(data, max_length)
        except zlib.error:
            self._inflater = before
        out: list[bytes] = []
        for position in range(len(data)):
            try:
                out.append(self._inflater.decompress(data[position : position + 1]))
            except zlib.error as error:
                self._damage = error
                self._rest = data[position:]
                break
        return b"".join(out)


def _unzstd(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                out = frame.decompress(data)
                if out:
                    yield out
                data = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise DamagedObjectError(f"{name} is corrupt: {error}") from error
    if not frame.eof:
        raise DamagedObjectError(f"{name} is truncated: its zstd frame has no end")


@dataclass(frozen=True, slots=True)
class Part:
    """A packed file of lines, and what is in it."""

    data: bytes
    rows: int
    unpacked_bytes: int

    @property
    def sha256(self) -> str:
        """Digest of the packed bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class PartSize:
    """Where parts are cut: before the line that would make a part larger than either; None sets no bound."""

    events: int | None = None
    unpacked_bytes: int | None = None


def pack(lines: Iterable[bytes], size: PartSize, level: int = LEVEL) -> Iterator[Part]:
    r"""Yield ``lines``, each with a line end, as gzip parts in the same order; no part for no line.

    Example:
        >>> [part.rows for part in pack([b"{}", b"{}", b"{}"], PartSize(events=2))]
        [2, 1]
    """
    most_rows = size.events or float("inf")
    most_bytes = size.unpacked_bytes or float("inf")
    packer = _Packer(level)
    for line in lines:
        if packer.rows and (packer.rows >= most_rows or packer.unpacked_bytes + len(line) + 1 > most_bytes):
            yield packer.finish()
            packer = _Packer(level)
        packer.add(line)
    if packer.rows:
        yield packer.finish()


def pack_one(lines: Iterable[bytes]) -> Part | None:
    """Return ``lines`` as one gzip part, or None where there are none."""
    part = pack_whole(lines)
    return part if part.rows else None


def pack_whole(lines: Iterable[bytes]) -> Part:
    """Return ``lines`` as one gzip part, also where there are none."""
    packer = _Packer(LEVEL)
    for line in lines:
        packer.add(line)
    return packer.finish()


class _Packer:
    """One part in the making; lines are handed to the compressor in batches."""

    _BATCH_BYTES = 1 << 20

    def __init__(self, level: int) -> None:
        self._stream = _deflater(level)
        self._packed: list[bytes] = []
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self.rows = 0
        self.unpacked_bytes = 0

    def add(self, line: bytes) -> None:
        self._batch.append(line)
        self._batch_bytes += len(line) + 1
        self.rows += 1
        self.unpacked_bytes += len(line) + 1
        if self._batch_bytes >= self._BATCH_BYTES:
            self._pack_batch()

    def finish(self) -> Part:
        self._pack_batch()
        self._packed.append(self._stream.flush())
        return Part(b"".join(self._packed), self.rows, self.unpacked_bytes)

    def _pack_batch(self) -> None:
        if self._batch:
            self._batch.append(b"")
            self._packed.append(self._stream.compress(b"\n".join(self._batch)))
            self._batch.clear()
            self._batch_bytes = 0
