"""Packed bytes: reading gzip, zstd and plain objects, writing gzip parts that are the same bytes every time.

ISA-L (package ``isal``) unpacks and packs; its level 3 costs a fifth of zlib's level 6 for files 18 % larger
(benchmarks/RESULTS.md). A part has no time and no name in its gzip header, so the same lines give
the same bytes.
"""

from __future__ import annotations

import hashlib
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import zstandard
from isal import isal_zlib
from zlib_ng import zlib_ng

from amp_pipeline.core.errors import DamagedObjectError
from amp_pipeline.core.lines import Block
from amp_pipeline.core.overlap import Behind

BLOCK_BYTES = 2 << 20
"""Most unpacked bytes handed on at a time; small blocks stay in the processor's cache."""

Compression = Literal["fast", "balanced", "small"]
"""ISA-L's level 2 or 3, or zlib-ng's level 6: what each costs and saves is in benchmarks/RESULTS.md."""

_PIECE_BYTES = 1 << 20
_ZSTD_PIECE_BYTES = 1 << 10
_IN_MEMORY_BYTES = 64 << 20
_NO_BOUND = 1 << 62

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 31
_HEADER_BYTES = 1 << 17

# The stubs of both give arguments no types, and isal's call its error an instance.
_ISAL: Any = isal_zlib
_ZLIB_NG: Any = zlib_ng
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
    def compress(self, data: bytes | bytearray | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _inflater() -> _Inflater:
    return _ISAL.decompressobj(_GZIP_WINDOW)


def _deflater(compression: Compression) -> _Deflater:
    if compression == "small":
        return _ZLIB_NG.compressobj(6, zlib_ng.DEFLATED, _GZIP_WINDOW)
    return _ISAL.compressobj(2 if compression == "fast" else 3, isal_zlib.DEFLATED, _GZIP_WINDOW)


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
    out: list[bytes] = []
    held = 0
    try:
        for data in _small(chunks):
            while data:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                out.append(frame.decompress(data))
                held += len(out[-1])
                data = frame.unused_data if frame.eof else b""
            if held >= BLOCK_BYTES:
                whole, out, held = b"".join(out), [], 0
                yield whole
    except zstandard.ZstdError as error:
        yield from filter(None, [b"".join(out)])
        raise DamagedObjectError(f"{name} is corrupt: {error}") from error
    yield from filter(None, [b"".join(out)])
    if not frame.eof:
        raise DamagedObjectError(f"{name} is truncated: its zstd frame has no end")


def _small(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces so small that none unpacks to more than 32 MiB: 4 bytes may be a block of 128 KiB (RFC 8878)."""
    for chunk in chunks:
        for start in range(0, len(chunk), _ZSTD_PIECE_BYTES):
            yield chunk[start : start + _ZSTD_PIECE_BYTES]


class Part:
    """A packed file of lines, and what is in it: in memory, or on local disk where it is large."""

    def __init__(self, file: IO[bytes], rows: int, unpacked_bytes: int, size: int, sha256: str) -> None:
        """Take over ``file``, which goes away with the part."""
        self._file = file
        weakref.finalize(self, file.close)
        self.rows = rows
        self.unpacked_bytes = unpacked_bytes
        self.bytes = size
        """Packed."""
        self.sha256 = sha256
        """Digest of the packed bytes, hexadecimal."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the packed bytes in pieces."""
        self._file.seek(0)
        while chunk := self._file.read(_PIECE_BYTES):
            yield chunk

    @property
    def data(self) -> bytes:
        """The packed bytes."""
        return b"".join(self.chunks())


@dataclass(frozen=True, slots=True)
class PartSize:
    """Where parts are cut: before the line that would make a part larger than either; None sets no bound."""

    events: int | None = None
    unpacked_bytes: int | None = None


def pack_one(lines: Iterable[bytes]) -> Part | None:
    """Return ``lines`` as one gzip part, or None where there are none."""
    part = pack_whole(lines)
    return part if part.rows else None


def pack_whole(lines: Iterable[bytes]) -> Part:
    """Return ``lines`` as one gzip part, also where there are none."""
    packer = LinePacker()
    for line in lines:
        packer.add(line)
    return packer.finish()


class LinePacker:
    """One part in the making, line by line."""

    def __init__(self, in_memory: int = _IN_MEMORY_BYTES) -> None:
        """Begin without lines; from ``in_memory`` packed bytes on, they go to local disk."""
        self._stream = _Stream("fast", in_memory)
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self.rows = 0

    def add(self, line: bytes) -> None:
        """Add a line; its line end is added."""
        self._batch += (line, b"\n")
        self._batch_bytes += len(line) + 1
        self.rows += 1
        if self._batch_bytes >= _PIECE_BYTES:
            self._flush()

    def finish(self) -> Part:
        """Return the part."""
        self._flush()
        return self._stream.finish(self.rows)

    def _flush(self) -> None:
        self._stream.write([b"".join(self._batch)])
        self._batch.clear()
        self._batch_bytes = 0


class PartsPacker:
    r"""Packs lines into gzip parts, in the same order; no part for no line.

    Leaving the ``with`` block finishes the last part.

    Example:
        >>> parts = []
        >>> with PartsPacker(PartSize(events=2), parts.append) as packer:
        ...     packer.add(Block(b"1\n2\n3\n4\n"), np.array([True, False, True, True]))
        >>> [part.rows for part in parts]
        [2, 1]
    """

    def __init__(
        self,
        size: PartSize,
        done: Callable[[Part], object],
        *,
        compression: Compression = "balanced",
        at_once: bool = True,
        in_memory: int = _IN_MEMORY_BYTES,
    ) -> None:
        """Begin without lines.

        Args:
            size: Where parts are cut.
            done: Is given each part, in order.
            compression: How small the parts are made.
            at_once: Pack on the spot, without a thread of its own.
            in_memory: Packed bytes from which a part goes to local disk.
        """
        self._most_rows = size.events or _NO_BOUND
        self._most_bytes = size.unpacked_bytes or _NO_BOUND
        self._done = done
        self._compression: Compression = compression
        self._in_memory = in_memory
        self._lane: Behind[None] = Behind(at_once=at_once)
        self._stream = _Stream(self._compression, self._in_memory)
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> PartsPacker:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the last part, or drop it where the block failed."""
        with self._lane:
            if error is not None:
                raise error
            self._finish()

    def add(self, block: Block, keep: npt.NDArray[np.bool_] | None = None) -> None:
        """Add the lines of ``block`` for which ``keep``, shape (lines,), is true; all where it is None."""
        starts, ends = block.starts, block.ends
        kept = np.arange(len(ends)) if keep is None else np.flatnonzero(keep)
        behind = np.cumsum(ends[kept] - starts[kept] + 1)
        text = memoryview(block.text)
        done = 0
        while done < len(kept):
            before = int(behind[done - 1]) if done else 0
            fits = int(np.searchsorted(behind, before + self._most_bytes - self._bytes, "right"))
            until = min(len(kept), done + self._most_rows - self._rows, max(fits, done))
            if until == done and not self._rows:
                until += 1
            if until == done:
                self._finish()
                continue
            lines = kept[done:until]
            cuts = np.flatnonzero(np.diff(lines) > 1)
            firsts, lasts = lines[np.append(0, cuts + 1)], lines[np.append(cuts, len(lines) - 1)]
            runs = [text[s : e + 1] for s, e in zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True)]
            self._lane.do(self._stream.write, runs)
            self._rows += until - done
            self._bytes += int(behind[until - 1]) - before
            done = until

    def _finish(self) -> None:
        if self._rows:
            self._lane.do(self._hand_on, self._stream, self._rows)
            self._stream = _Stream(self._compression, self._in_memory)
            self._rows = self._bytes = 0

    def _hand_on(self, stream: _Stream, rows: int) -> None:
        self._done(stream.finish(rows))


class _Stream:
    """Bytes on their way into one gzip file.

    They are handed to the compressor in pieces of one size, so that the file depends on them alone, not on how they
    came.
    """

    def __init__(self, compression: Compression, in_memory: int) -> None:
        self._deflater = _deflater(compression)
        self._file: IO[bytes] = SpooledTemporaryFile(in_memory)  # noqa: SIM115 - closed with this or the part
        self._closing = weakref.finalize(self, self._file.close)
        self._hash = hashlib.sha256()
        self._rest = bytearray()
        self._unpacked = 0
        self._packed = 0

    def write(self, runs: Iterable[bytes | memoryview]) -> None:
        for run in runs:
            view = memoryview(run)
            self._unpacked += len(view)
            while view:
                if not self._rest and len(view) >= _PIECE_BYTES:
                    # As it stands, without a copy.
                    size = _PIECE_BYTES
                    self._put(self._deflater.compress(view[:size]))
                else:
                    size = min(len(view), _PIECE_BYTES - len(self._rest))
                    self._rest += view[:size]
                    if len(self._rest) == _PIECE_BYTES:
                        self._put(self._deflater.compress(self._rest))
                        self._rest.clear()
                view = view[size:]

    def finish(self, rows: int) -> Part:
        self._put(self._deflater.compress(self._rest))
        self._put(self._deflater.flush())
        self._closing.detach()
        return Part(self._file, rows, self._unpacked, self._packed, self._hash.hexdigest())

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._packed += len(data)
