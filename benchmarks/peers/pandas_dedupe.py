"""The hour with pandas: keys into a data frame, lines beside it as they landed.

    python benchmarks/peers/pandas_dedupe.py LANDING OUT

Not by `read_json(lines=True)`: it changes what it reads (numbers, dates, escapes), so lines can't come out as they
went in.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pandas as pd
from hour import arguments, done

_LEVEL = 6


def dedupe(objects: list[Path], out: Path) -> int:
    """Write the hour without its repeats, a file for each landing object; return the rows."""
    lines: list[bytes] = []
    keys: list[tuple[str | None, str]] = []
    ends: list[int] = []
    for path in objects:
        with gzip.open(path) as file:
            for line in file:
                event = json.loads(line)
                keys.append((_identity(event), event["server_upload_time"]))
                lines.append(line)
        ends.append(len(lines))
    frame = pd.DataFrame(keys, columns=["identity", "time"])
    # A stable sort: landing order decides where times are equal.
    ordered = frame.sort_values("time", kind="stable")
    repeats = ordered["identity"].notna() & ordered.duplicated("identity")
    keep = (~repeats).sort_index().to_numpy()
    for path, first, end in zip(objects, [0, *ends], ends, strict=False):
        with gzip.open(out / path.name, "wb", compresslevel=_LEVEL) as file:
            file.writelines(line for line, kept in zip(lines[first:end], keep[first:end], strict=True) if kept)
    return int(keep.sum())


def _identity(event: dict[str, object]) -> str | None:
    device, insert = event["device_id"], event["$insert_id"]
    if device and insert:
        return f"i{len(str(device))}:{device}{insert}"
    if device and event["event_id"] is not None and event["client_event_time"] is not None:
        return f"e{len(str(device))}:{device}{event['event_id']}@{event['client_event_time']}"
    return f"u{event['uuid']}" if event["uuid"] else None


def main() -> None:
    """Deduplicate an hour."""
    objects, out = arguments()
    started = time.perf_counter()
    rows = dedupe(objects, out)
    done(time.perf_counter() - started, rows)


if __name__ == "__main__":
    main()
