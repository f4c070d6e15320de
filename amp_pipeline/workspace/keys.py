"""Writing the key index and the rows of an hour in bounded memory, through files on local disk.

Keys that don't fit are put aside by the first bits of their digest, which are spread evenly, and sorted one share
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amp_pipeline.core import index
from amp_pipeline.core.index import EVENT, HIGH, RANK, REST, Keys

_SHARES = 64
_SHARE_SHIFT = np.uint64(58)
_COPY_BYTES = 1 << 20
_KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("time", "<i8"), ("content", "<u8"), ("row", "<u8")])


class KeysWriter:
    """Takes the events of an hour in landing order, and writes its key index and rows."""

    def __init__(self, folder: Path, most: int) -> None:
        """Write into ``folder``, with at most about ``most`` keys in memory."""
        self._folder = folder
        self._most = most
        self._held: list[npt.NDArray[np.void]] = []
        self._held_keys = 0
        self._shares = False
        self._events = (folder / "events").open("w+b")
        self.events = 0
        self.keys = 0

    def add(
        self,
        rows: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        event_times: npt.NDArray[np.int64],
        digests: bytes,
        contents: npt.NDArray[np.uint64],
        without_identity: Sequence[int] = (),
    ) -> None:
        """Take events.

        Args:
            rows: Position of each event among the hour's lines, ascending; the other arguments are parallel to it.
            times: ``server_upload_time`` in µs.
            event_times: ``event_time`` in µs, :data:`timestamps.NO_TIME` where there is none.
            digests: 16 bytes of identity each.
            contents: Content digests.
            without_identity: Which of the events are never repeats; their digests don't matter.
        """
        events = np.empty(len(rows), EVENT)
        events["row"], events["time"], events["event_time"] = rows, times, event_times
        self._events.write(events.tobytes())
        self.events += len(rows)
        keys = np.empty(len(rows), _KEY)
        halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
        keys["high"], keys["low"] = halves[:, 0], halves[:, 1]
        keys["time"], keys["content"], keys["row"] = times, contents, rows
        if without_identity:
            keys = np.delete(keys, without_identity)
        self._held.append(keys)
        self._held_keys += len(keys)
        self.keys += len(keys)
        if self._held_keys > self._most:
            self._put_aside()

    def write(self) -> tuple[Path, Path]:
        """Write the key index and the rows, and return the files."""
        rows = self._folder / "rows"
        keys = self._folder / "keys"
        with rows.open("w+b") as to_rows, keys.open("w+b") as to_keys:
            to_rows.write(index.rows_header(self.events, self.keys))
            self._events.seek(0)
            while data := self._events.read(_COPY_BYTES):
                to_rows.write(data)
            self._events.close()
            at = 0
            if self._shares:
                self._put_aside()
            for share in range(_SHARES) if self._shares else (None,):
                at += self._write_share(share, at, to_keys.seek, to_keys.write, to_rows.write)

            def read(start: int, length: int) -> bytes:
                to_keys.seek(start)
                return to_keys.read(length)

            directory = index.directory(self.keys, read)
            to_keys.seek(0)
            to_keys.write(index.keys_header(self.keys, directory) + directory)
        return keys, rows

    def close(self) -> None:
        """Close what is open."""
        self._events.close()

    def _write_share(
        self,
        share: int | None,
        at: int,
        seek: Callable[[int], object],
        write: Callable[[bytes], object],
        write_rows: Callable[[bytes], object],
    ) -> int:
        """Sort and write the keys of a share, or those held, from the rank ``at`` on; return how many they are."""
        found = self._take(share)
        # Field by field, so that the order and one column are all that is there twice.
        order = index.order(Keys(found["high"], found["low"], found["time"], found["content"]))
        seek(index.high_start(self.keys) + at * HIGH.itemsize)
        write(found["high"][order].tobytes())
        rest = np.empty(len(order), REST)
        for name in ("low", "time", "content"):
            rest[name] = found[name][order]
        seek(index.rest_start(self.keys) + at * REST.itemsize)
        write(rest.tobytes())
        write_rows(found["row"][order].astype(RANK).tobytes())
        return len(order)

    def _take(self, share: int | None) -> npt.NDArray[np.void]:
        if share is None:
            found = np.concatenate([np.empty(0, _KEY), *self._held])
            self._held.clear()
            return found
        file = self._folder / f"share-{share}"
        found = np.fromfile(file, _KEY) if file.exists() else np.empty(0, _KEY)
        file.unlink(missing_ok=True)
        return found

    def _put_aside(self) -> None:
        """Append the keys held to the files of their shares; each stays in landing order."""
        self._shares = True
        found = self._take(None)
        self._held_keys = 0
        of = (found["high"] >> _SHARE_SHIFT).astype(np.uint8)
        order = np.argsort(of, kind="stable")
        ends = np.cumsum(np.bincount(of, minlength=_SHARES))
        for share, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            if end > start:
                with (self._folder / f"share-{share}").open("ab") as file:
                    file.write(found[order[start:end]].tobytes())
