"""Unpacked bytes of a landing object, to blocks of lines. Rules: docs/rules.md, "Lines".

A line is carried as it landed, so nothing here decodes or changes one; only the line end and a byte-order mark are no
part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

MOST_LINE_BYTES = 128 << 20
"""Lines from here on are too long to be read, and are held in memory nowhere; Hevo's bound of an event."""

_KEPT_BYTES = 64 << 10
"""Of a line that is too long."""

_TOO_LONG = re.compile(rb"\x00amp_pipeline left out (\d+) bytes\Z")  # no JSON has a zero byte

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITE = b" \t\r"


class Block:
    r"""Some lines, as they are carried: each ends with one ``\n``, which is no part of it.

    Example:
        >>> block = Block(b'{"a":1}\n\n')
        >>> len(block), block.lines, block.ends.tolist()
        (2, [b'{"a":1}', b''], [7, 8])
    """

    def __init__(self, text: bytes) -> None:
        r"""Hold ``text``, which is empty or ends with ``\n``."""
        self.text = text

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self.ends)

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        r"""Where the ``\n`` of each line is, shape (lines,)."""
        # Lines of events are long: this is twice as fast as to compare all bytes in numpy.
        find, found = self.text.find, list[int]()
        end = find(b"\n")
        while end >= 0:
            found.append(end)
            end = find(b"\n", end + 1)
        return np.array(found, np.int64)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each line begins, shape (lines,)."""
        starts = np.empty_like(self.ends)
        starts[:1] = 0
        starts[1:] = self.ends[:-1] + 1
        return starts

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines."""
        return self.text.split(b"\n")[:-1]

    def line(self, number: int) -> bytes:
        """Return one line, counted from 0."""
        start = int(self.ends[number - 1]) + 1 if number else 0
        return self.text[start : int(self.ends[number])]

    def first(self, lines: int) -> Block:
        """Return the first lines."""
        return self if lines >= len(self) else Block(self.text[: int(self.ends[lines - 1]) + 1 if lines > 0 else 0])

    def at_most(self, lines: int) -> Iterator[Block]:
        """Yield the lines again in blocks of at most so many."""
        if len(self) <= lines:
            yield self
            return
        start = 0
        for last in range(lines - 1, len(self) + lines - 1, lines):
            end = int(self.ends[min(last, len(self) - 1)]) + 1
            yield Block(self.text[start:end])
            start = end

    def pieces(self, size: int) -> Iterator[Block]:
        """Yield the lines again in blocks of about ``size`` bytes."""
        start = 0
        while len(self.text) - start > size:
            end = self.text.find(b"\n", start + size - 1) + 1
            yield Block(self.text[start:end])
            start = end
        if start < len(self.text):
            yield Block(self.text[start:]) if start else self


def block_of(lines: Iterable[bytes]) -> Block:
    """Return ``lines``, none with a line feed in it, as a block."""
    return Block(b"".join([line + b"\n" for line in lines]))


def split(blocks: Iterable[bytes], *, most: int = MOST_LINE_BYTES) -> Iterator[Block]:
    r"""Yield the lines of an object.

    Blank lines are included, so that a line's number is its position. Of a line that is too long only the beginning is
    yielded, with a mark that :func:`left_out` knows; it is no event.

    Args:
        blocks: The object's unpacked bytes, in pieces of any size.
        most: Longest line, in bytes, that is yielded whole.

    Example:
        >>> [found.lines for found in split([b'{"a":1}\r\n\n{"b"', b":2}"])]
        [[b'{"a":1}', b''], [b'{"b":2}']]
    """
    rest = b""
    for text in _whole_lines(blocks, most):
        if text.endswith(b"\n"):
            yield Block(_as_carried(text))
        else:
            rest = text
    if rest:
        # Without a line end, a last carriage return belongs to the line.
        yield Block(rest.removeprefix(BYTE_ORDER_MARK) + b"\n")


def split_stored(blocks: Iterable[bytes]) -> Iterator[Block]:
    """Yield the lines of what the pipeline packed itself: all that stands before a line feed is the line."""
    for text in _whole_lines(blocks):
        if text.endswith(b"\n"):
            yield Block(text)


def is_blank(line: bytes) -> bool:
    """Tell whether ``line`` is nothing but spaces, tabs and carriage returns."""
    return not line.strip(_WHITE)


def left_out(line: bytes) -> int:
    """Return how many bytes of ``line`` were left out because it is too long; 0 where it is whole."""
    found = _TOO_LONG.search(line, max(0, len(line) - 64))
    return int(found[1]) if found else 0


def _whole_lines(blocks: Iterable[bytes], most: int | None = None) -> Iterator[bytes]:
    """Yield the same bytes cut behind line feeds, and at last what follows the last one.

    Lines of more than ``most`` bytes are cut short.
    """
    pieces: list[bytes | memoryview] = []
    gathered = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if not end:
            gathered += len(block)
            pieces.append(block)
            if most is not None and gathered > most:
                pieces = [b"".join(pieces)[:_KEPT_BYTES]]
            continue
        if most is not None and gathered + (start := block.find(b"\n")) > most:
            yield _short(b"".join(pieces) + block[:start], gathered + start, most) + b"\n"
            pieces = [memoryview(block)[start + 1 : end]] if start + 1 < end else []
        else:
            # Without a copy of its own: blocks are large.
            pieces.append(memoryview(block)[:end])
        if pieces:
            yield b"".join(pieces)
        gathered = len(block) - end
        pieces = [block[end:]] if gathered else []
    if pieces:
        text = b"".join(pieces)
        yield text if most is None or gathered <= most else _short(text, gathered, most)


def _short(line: bytes, length: int, most: int) -> bytes:
    kept = line[: min(_KEPT_BYTES, most)]
    return b"%s\x00amp_pipeline left out %d bytes" % (kept, length - len(kept))


def _as_carried(text: bytes) -> bytes:
    # One byte is looked for many times faster than three, and hardly any block has it.
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if b"\xef" in text and BYTE_ORDER_MARK in text:
        text = text.removeprefix(BYTE_ORDER_MARK).replace(b"\n" + BYTE_ORDER_MARK, b"\n")
    return text
