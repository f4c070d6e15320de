"""A zip file whose length is known before its members are read, and that no member has to be read twice for.

Members are packed already, so nothing is gained by packing again, but they can't be *stored* either: a stored member
needs its CRC-32 in front of it, which takes reading it twice, and one with the CRC behind it is refused by readers that
don't look at the end of the file first (Java's ZipInputStream). So members are *deflated* in blocks that are not
compressed: five bytes for each 65,535, which makes lengths a matter of arithmetic. An answer over HTTP can then begin
with its length, and whoever reads it sees when it was cut. zlib at level 0 does the same in six times the CPU, and cuts
blocks as it likes.

Form: PKWARE's APPNOTE 6.3.10; deflate: RFC 1951. Times are those of the first day that the form knows: the same members
make the same bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from struct import pack
from typing import Any, NamedTuple

from isal import isal_zlib

# Its CRC takes a fifteenth of the CPU of zlib's; its stub gives arguments no types.
_ISAL: Any = isal_zlib

BLOCK_BYTES = 0xFFFF
"""The most that a block of deflate holds which is not compressed."""

LARGE = 0xFFFFFFFF
"""From here on numbers are written as ZIP64 has them."""

_PIECE_BYTES = 64 << 10

_MANY = 0xFFFF
_PLAIN, _ZIP64 = 20, 45
_UNIX = 3 << 8
_CRC_BEHIND = 0x0008
_STORED, _DEFLATED = 0, 8
_TIME, _DAY = 0, 0x21  # 1980-01-01 00:00
_FILE, _FOLDER = 0o100644 << 16, (0o40755 << 16) | 0x10


class Member(NamedTuple):
    """A file in the zip."""

    name: str
    """ASCII, with ``/`` between folders."""
    size: int
    """Bytes."""


class WrongLengthError(Exception):
    """A member has more or fewer bytes than was said of it."""


class _Entry(NamedTuple):
    """What the directory at the end says of a member."""

    name: bytes
    method: int
    crc: int
    packed: int
    size: int
    at: int
    kind: int


def length(folder: str, members: Sequence[Member], large: int = LARGE) -> int:
    """Return how many bytes :func:`pieces` come to.

    Example:
        >>> members = [Member("7/a.gz", 3)]
        >>> length("7", members) == len(b"".join(pieces("7", [(members[0], [b"abc"])])))
        True
    """
    head = _Entry(f"{folder}/".encode("ascii"), _STORED, 0, 0, 0, 0, _FOLDER)
    at = len(_before(head, large))
    entries = [head]
    for member in members:
        entry = _entry(member, 0, at)
        entries.append(entry)
        at += len(_before(entry, large)) + entry.packed + len(_behind(entry, large))
    return at + len(_end(entries, at, large))


def pieces(
    folder: str, members: Iterable[tuple[Member, Iterable[bytes]]], large: int = LARGE
) -> Generator[bytes, None, None]:
    """Yield the bytes of a zip: a folder, the members with what is in them, the directory.

    Pieces are of :data:`_PIECE_BYTES` or as long as the members' own; the first has bytes of the first member.

    Args:
        folder: Name of the folder that comes first, without a slash.
        members: Each member and its bytes, in pieces of any size. Whatever they raise leaves a zip without end.
        large: From which number on ZIP64 is used; for tests.

    Raises:
        WrongLengthError: A member's bytes are not as many as it says.
    """
    gathered: list[bytes] = []
    held = 0
    for piece in _bits(folder, members, large):
        gathered.append(piece)
        held += len(piece)
        if held >= _PIECE_BYTES:
            yield b"".join(gathered)
            gathered, held = [], 0
    yield b"".join(gathered)


def _bits(folder: str, members: Iterable[tuple[Member, Iterable[bytes]]], large: int) -> Iterator[bytes]:
    """Yield headers and what belongs between them."""
    head = _Entry(f"{folder}/".encode("ascii"), _STORED, 0, 0, 0, 0, _FOLDER)
    entries = [head]
    begin = _before(head, large)
    at = len(begin)
    yield begin
    for member, chunks in members:
        entry = _entry(member, 0, at)
        begin = _before(entry, large)
        yield begin
        blocks = _Blocks(member)
        for chunk in chunks:
            yield blocks.of(chunk)
        entry = entry._replace(crc=blocks.crc)
        end = blocks.end() + _behind(entry, large)
        yield end
        at += len(begin) + entry.packed + len(_behind(entry, large))
        entries.append(entry)
    yield _end(entries, at, large)


class _Blocks:
    """Puts the headers of deflate's blocks into the bytes of a member."""

    def __init__(self, member: Member) -> None:
        self.crc: int = 0
        self._member = member
        self._left = member.size
        self._in_block = 0

    def of(self, chunk: bytes) -> bytes:
        """Return ``chunk`` with the headers that belong in front of and into it."""
        if len(chunk) > self._left:
            raise WrongLengthError(f"{self._member.name} has more than {self._member.size} bytes")
        self.crc = _ISAL.crc32(chunk, self.crc)
        view = memoryview(chunk)
        out: list[bytes | memoryview] = []
        while view:
            if not self._in_block:
                self._in_block = min(self._left, BLOCK_BYTES)
                out.append(self._header())
            piece = view[: self._in_block]
            out.append(piece)
            view = view[len(piece) :]
            self._in_block -= len(piece)
            self._left -= len(piece)
        return b"".join(out)

    def _header(self) -> bytes:
        """Return whether the block is the last one, how long it is, and the complement of that."""
        last = self._left == self._in_block
        return pack("<BHH", last, self._in_block, self._in_block ^ 0xFFFF)

    def end(self) -> bytes:
        """Return what comes after the last byte."""
        if self._left:
            raise WrongLengthError(f"{self._member.name} has {self._left} bytes less than {self._member.size}")
        return b"" if self._member.size else self._header()


def _entry(member: Member, crc: int, at: int) -> _Entry:
    blocks = max(1, -(-member.size // BLOCK_BYTES))
    return _Entry(member.name.encode("ascii"), _DEFLATED, crc, member.size + 5 * blocks, member.size, at, _FILE)


def _is_large(entry: _Entry, large: int) -> bool:
    return entry.packed >= large


def _before(entry: _Entry, large: int) -> bytes:
    """Return a member's local header."""
    extra, size, version = b"", 0, _PLAIN
    if _is_large(entry, large):
        extra, size, version = pack("<HHQQ", 1, 16, 0, 0), LARGE, _ZIP64
    flags = _CRC_BEHIND if entry.method == _DEFLATED else 0
    fixed = pack(
        "<4s5H3I2H",
        b"PK\x03\x04",
        version,
        flags,
        entry.method,
        _TIME,
        _DAY,
        0,
        size,
        size,
        len(entry.name),
        len(extra),
    )
    return fixed + entry.name + extra


def _behind(entry: _Entry, large: int) -> bytes:
    """Return a member's data descriptor."""
    form = "<4sIQQ" if _is_large(entry, large) else "<4sIII"
    return pack(form, b"PK\x07\x08", entry.crc, entry.packed, entry.size)


def _end(entries: Sequence[_Entry], at: int, large: int) -> bytes:
    """Return the directory, which begins ``at`` so many bytes."""
    directory = b"".join(_listed(entry, large) for entry in entries)
    count, size = len(entries), len(directory)
    more = b""
    if count >= _MANY or size >= large or at >= large:
        record = pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, _ZIP64 | _UNIX, _ZIP64, 0, 0, count, count, size, at)
        more = record + pack("<4sIQI", b"PK\x06\x07", 0, at + size, 1)
        count, size, at = _MANY, LARGE, LARGE
    return directory + more + pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, at, 0)


def _listed(entry: _Entry, large: int) -> bytes:
    """Return a member's line in the directory."""
    size, packed, at = entry.size, entry.packed, entry.at
    wide: list[int] = []
    if _is_large(entry, large):
        wide += [size, packed]
        size = packed = LARGE
    if at >= large:
        wide.append(at)
        at = LARGE
    extra = pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version = _ZIP64 if wide else _PLAIN
    flags = _CRC_BEHIND if entry.method == _DEFLATED else 0
    fixed = pack(
        "<4s6H3I5H2I",
        b"PK\x01\x02",
        version | _UNIX,
        version,
        flags,
        entry.method,
        _TIME,
        _DAY,
        entry.crc,
        packed,
        size,
        len(entry.name),
        len(extra),
        0,
        0,
        0,
        entry.kind,
        at,
    )
    return fixed + entry.name + extra
