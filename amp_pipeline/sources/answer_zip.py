"""The zip of an answer: which files it has, or why it can't be trusted to have all that were sent.

Python's ``zipfile`` takes the directory at a zip's end as it is, so one byte that is another there may hide files, or
make a folder of one. Here the files have to fill the zip from its first byte to its directory.
"""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_pipeline.sources.answer_body import BrokenAnswerError

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""All that was seen, and whose memory ``zipfile`` bounds: 45 bytes of bzip2 may unpack to 900 kB at once."""

_HEADER = struct.Struct("<4s14xI4xHH")
"""Of a file: signature, packed size, lengths of name and of what comes after it; PKWARE's APPNOTE 6.3.10, 4.3.7."""
_SIGNATURE = b"PK\x03\x04"
_MOST_DIRECTORY_BYTES = 64 << 20
"""``zipfile`` holds all of a directory in memory, ten times over; half a million files have as much."""
_END = struct.Struct("<4s8xI6x")
"""Behind a directory: signature, and how many bytes it has; 4.3.16."""
_LARGE_END = struct.Struct("<4s36xQ8x4s16x")
"""Before that, where it is large: signature, bytes, and the signature of what says where this is; 4.3.14, 4.3.15."""
_END_BYTES = 1 << 17
"""In which both are, and a comment of the greatest length."""

_DESCRIPTOR_BYTES = frozenset({0, 12, 16, 20, 24})
"""Between two files; 4.3.9: with or without a signature, with sizes of 4 or of 8 bytes."""


_ALWAYS_UNPACKED_BYTES = 4 << 30
_MOST_UNPACKED = 250
"""How many times its packed bytes an answer may unpack to, from 4 GiB on. Each event has a uuid of its own, of which
packing leaves 16 bytes and more; gzip itself reaches 1,032."""


class UnreadableZipError(Exception):
    """A zip is packed in a way that can't be unpacked here."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what ``zipfile`` and zlib say of damage into :class:`BrokenAnswerError`.

    Raises:
        UnreadableZipError: It may be whole, but is packed otherwise, or needs a password.
    """
    try:
        yield
    except RuntimeError as error:
        # What zipfile says of a way of packing that it can't undo, and of a password.
        raise UnreadableZipError(str(error)) from None
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError) as error:
        raise BrokenAnswerError(f"it is no whole zip: {error}") from None
    except OSError as error:
        # Of a place before the beginning of the file; all else is the disk's.
        if error.errno != errno.EINVAL:
            raise
        raise BrokenAnswerError("it is no whole zip: its directory is damaged") from None


def opened(path: Path) -> zipfile.ZipFile:
    """Open a zip whose directory fits into memory.

    Raises:
        BadZipFile: It is none.
        UnreadableZipError: Its directory does not fit.
    """
    with path.open("rb") as file:
        file.seek(-min(_END_BYTES, path.stat().st_size), os.SEEK_END)
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    if at >= 0 and at + _END.size <= len(end):
        _, size = _END.unpack_from(end, at)
        if at >= _LARGE_END.size:
            large, larger, where = _LARGE_END.unpack_from(end, at - _LARGE_END.size)
            size = larger if (large, where) == (b"PK\x06\x06", b"PK\x06\x07") else size
        if size > _MOST_DIRECTORY_BYTES:
            raise UnreadableZipError(f"its directory has {size:,} bytes")
    return zipfile.ZipFile(path)


def files(answer: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of a zip, without its folders.

    Raises:
        BadZipFile: Its directory does not list all that is in it.
        UnreadableZipError: One is packed in a way that no Export API was seen to use.
    """
    at = 0
    for info in sorted(answer.infolist(), key=lambda one: one.header_offset):
        if info.header_offset - at not in (_DESCRIPTOR_BYTES if at else {0}):
            raise zipfile.BadZipFile("something in it is not listed")
        at = _end(answer, info)
    if answer.start_dir - at not in _DESCRIPTOR_BYTES:
        raise zipfile.BadZipFile("something in it is not listed")
    for info in answer.infolist():
        if info.is_dir() and info.file_size:
            raise zipfile.BadZipFile(f"{info.filename!r} is a folder, and has bytes")
        if info.compress_type not in _METHODS:
            raise UnreadableZipError(f"{info.filename!r} is packed by method {info.compress_type}")
    return [info for info in answer.infolist() if not info.is_dir()]


def _end(answer: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a file end."""
    file = answer.fp
    if file is None:
        raise zipfile.BadZipFile("it was closed")
    file.seek(info.header_offset)
    signature, _, name, extra = _HEADER.unpack(file.read(_HEADER.size))
    if signature != _SIGNATURE:
        raise zipfile.BadZipFile(f"{info.filename!r} is not where it should be")
    return info.header_offset + _HEADER.size + name + extra + info.compress_size


def first_file(beginning: bytes) -> str | None:
    """Return the name of the first file of a zip that begins with these bytes; None where they don't tell it."""
    at = 0
    while beginning.startswith(_SIGNATURE, at) and at + _HEADER.size <= len(beginning):
        _, _, name, _ = _HEADER.unpack_from(beginning, at)
        at += _HEADER.size
        text = beginning[at : at + name].decode("utf-8", "replace")
        if not text.endswith("/"):
            return text
        # Java packs nothing into two bytes, and says so behind them.
        at = beginning.find(_SIGNATURE, at + name)
    return None


class UnpacksToTooMuchError(Exception):
    """What was packed is no events, but a trap."""


class Unpacked:
    """How many bytes of an answer there are, packed and unpacked."""

    def __init__(self) -> None:
        """Begin with none."""
        self.packed = 0
        """Counted by who unpacks."""
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count unpacked bytes.

        Raises:
            UnpacksToTooMuchError: They are too many.
        """
        self._bytes += count
        if self._bytes > max(_ALWAYS_UNPACKED_BYTES, _MOST_UNPACKED * self.packed):
            raise UnpacksToTooMuchError(f"more than {self._bytes / self.packed:.0f} times their size")
