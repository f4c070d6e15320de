"""Unpacked bytes of a landing object, to lines. Rules: docs/rules.md, "Lines".

A line is carried as it landed, so nothing here decodes or changes one; only the line end and a byte-order mark are no
part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITE = b" \t\r"


def split(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    r"""Yield the lines of an object in lists, one list a block.

    Blank lines are included, so that a line's number is its position.

    Args:
        blocks: The object's unpacked bytes, in pieces of any size.

    Example:
        >>> list(split([b'{"a":1}\r\n\n{"b"', b":2}"]))
        [[b'{"a":1}', b''], [b'{"b":2}']]
    """
    pieces: list[bytes] = []
    for block in blocks:
        end = block.rfind(b"\n")
        if end < 0:
            pieces.append(block)
            continue
        pieces.append(block[:end])
        yield _lines_of(b"".join(pieces))
        pieces = [block[end + 1 :]]
    rest = b"".join(pieces)
    if rest:
        # Without a line end, a last carriage return belongs to the line.
        yield [rest.removeprefix(BYTE_ORDER_MARK)]


def split_stored(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines of what the pipeline packed itself: all that stands before a line feed is the line."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield lines


def is_blank(line: bytes) -> bool:
    """Tell whether ``line`` is nothing but spaces, tabs and carriage returns."""
    return not line.strip(_WHITE)


def _lines_of(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    if b"\r" in text:
        lines = [line.removesuffix(b"\r") for line in lines]
    if BYTE_ORDER_MARK in text:
        lines = [line.removeprefix(BYTE_ORDER_MARK) for line in lines]
    return lines
