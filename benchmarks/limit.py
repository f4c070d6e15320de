"""The limit: unpack the hour's landing objects and pack the same bytes again with ISA-L, and do nothing else.

python benchmarks/limit.py LANDING OUT
"""

from __future__ import annotations

import time

from isal import isal_zlib
from peers.hour import arguments, done

_BLOCK = 4 << 20
_LEVEL = 2


def main() -> None:
    """Repack the hour."""
    objects, out = arguments()
    started = time.perf_counter()
    rows = 0
    for path in objects:
        inflater = isal_zlib.decompressobj(31)
        deflater = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 31)
        with path.open("rb") as source, (out / path.name).open("wb") as target:
            data = source.read(_BLOCK)
            while data:
                block = inflater.decompress(data, _BLOCK)
                rows += block.count(b"\n")
                target.write(deflater.compress(block))
                data = inflater.unconsumed_tail or source.read(_BLOCK)
            target.write(deflater.flush())
    done(time.perf_counter() - started, rows)


if __name__ == "__main__":
    main()
