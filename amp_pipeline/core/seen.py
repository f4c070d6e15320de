"""Which keys were seen before, exactly and in little memory: 16 bytes a key, and a third more while they are sorted."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES = 16  # 64 bits would take some of 10^8 keys for others
_Digests = npt.NDArray[np.bytes_]


class Seen:
    """Keys that were seen, as sorted runs of digests, each at least twice as long as the next one.

    Example:
        >>> seen = Seen()
        >>> seen.first(["a", "b", "a"]).tolist(), seen.first(["b", "c"]).tolist()
        ([True, True, False], [False, True])
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._runs: list[_Digests] = []

    def first(self, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which of ``keys`` were not seen before, neither in earlier calls nor before in this one."""
        joined = b"".join([blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest() for key in keys])
        digests = np.frombuffer(joined, f"S{_DIGEST_BYTES}")
        new = np.zeros(len(digests), np.bool_)
        _, firsts = np.unique(digests, return_index=True)
        new[firsts] = True
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            new &= run[at] != digests
        self._keep(np.sort(digests[new]))
        return new

    def _keep(self, run: _Digests) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")
        if len(run):
            self._runs.append(run)
