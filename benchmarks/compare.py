"""Hold what runners kept of an hour against each other: the same lines, byte for byte, in landing order.

    python benchmarks/compare.py OUT OUT...

Each folder is one runner's; how it cuts its files makes no difference.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash
from isal import igzip

_BLOCK = 4 << 20


class Kept(NamedTuple):
    """What a runner kept."""

    lines: int
    in_order: str
    """Digest of all lines, one behind the other."""
    in_any_order: int
    """Sum of the lines' digests."""


def kept(folder: Path) -> Kept:
    """Read what is in a folder."""
    whole = hashlib.sha256()
    lines = total = 0
    for line in _lines(folder):
        whole.update(line)
        lines += 1
        total += xxhash.xxh3_128_intdigest(line)
    return Kept(lines, whole.hexdigest(), total % 2**128)


def differences(outputs: dict[str, Path], *, until: int = 3) -> list[str]:
    """Return what is not the same in all folders, by runner; nothing where all is.

    Args:
        outputs: The runners' folders; the first one is what the others are held against.
        until: How many lines to show of what a runner has kept and the first has not, and the other way round.
    """
    (first, folder), *others = outputs.items()
    expected = kept(folder)
    found: list[str] = []
    for name, other in others:
        here = kept(other)
        if here == expected:
            continue
        if here.in_any_order == expected.in_any_order and here.lines == expected.lines:
            found.append(f"{name} keeps the same {here.lines} lines as {first}, but not in landing order")
            continue
        found.append(f"{name} keeps {here.lines} lines, {first} {expected.lines}")
        ours, theirs = (set(map(xxhash.xxh3_128_digest, _lines(one))) for one in (folder, other))
        for whose, one, unknown in ((name, other, theirs - ours), (first, folder, ours - theirs)):
            shown = [line for line in _lines(one) if xxhash.xxh3_128_digest(line) in unknown][:until]
            found += [f"  only {whose}: {line[:200]!r}" for line in shown]
    return found


def files(folder: Path) -> list[Path]:
    """Return a runner's files of events, in order."""
    found = [path for ending in ("*.json.gz", "*.txt.gz") for path in folder.rglob(ending)]
    return sorted(found, key=_part)


def _part(path: Path) -> int:
    # Amplitude's `…#12.json.gz`, Spark's `part-00012-….txt.gz`.
    found = re.search(r"(?:#|^part-)(\d+)", path.name)
    return int(found[1]) if found else 0


def _lines(folder: Path) -> Iterator[bytes]:
    for path in files(folder):
        with igzip.open(path) as file:
            yield from file


if __name__ == "__main__":
    problems = differences({name: Path(name) for name in sys.argv[1:]})
    print("\n".join(problems) or "the same lines in the same order")
    sys.exit(bool(problems))
