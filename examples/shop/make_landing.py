"""Make `landing/`: nine days of a web shop in the layout of Amplitude's hourly export.

Each row of the CSV file becomes one event (`shop_events.py`, with the invented columns of `catalogue.py`). To
that come the things that real exports bring too (`planting.py`): events sent again, events without ids, merged
ids, a file that came late, broken lines. Each is planted in a number that is known, so that what a pipeline
reports can be held against the table that `--describe` prints.

    python make_landing.py               write landing/ anew
    python make_landing.py --check       compare landing/ and the README's table with what would be written
    python make_landing.py --describe    print the table of planted things

Only the standard library is used. Gzip has no name and no time, level 9; another zlib than the usual one
(zlib-ng, say) packs the same lines into other bytes, which `--check` then says.
"""

import argparse
import re
import shutil
import struct
import sys
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

from planting import BROKEN_FILE, END, HOUR, START, TWO_MEMBERS, UNMARKED, Planting, events_name, merges_name
from shop_events import line

HERE = Path(__file__).parent
TABLE = re.compile(r"<!-- planted -->\n\n(.*)<!-- /planted -->", re.DOTALL)


def gzip_member(data: bytes) -> bytes:
    """Gzip without name or time; the ten bytes of the header are the same under every Python."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    header = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255))
    return header + body + struct.pack("<LL", zlib.crc32(data), len(data))


def landing_objects(planting: Planting) -> dict[str, bytes]:
    """The landing: name and bytes of every object, lines in the order in which they were processed."""
    lines: defaultdict[str, list[bytes]] = defaultdict(list)
    for event in sorted(planting.events, key=lambda event: event.record["processed_time"]):
        lines[event.object_name].append(line(event) + b"\n")
    for hour, merges in planting.merges.items():
        lines[merges_name(hour)] = [merge + b"\n" for merge in merges]
    objects = {name: b"".join(parts) for name, parts in lines.items()}
    objects = {name: gzip_member(data) if name.endswith(".gz") else data for name, data in objects.items()}
    half = len(lines[TWO_MEMBERS]) // 2
    members = lines[TWO_MEMBERS][:half], lines[TWO_MEMBERS][half:]
    objects[TWO_MEMBERS] = b"".join(gzip_member(b"".join(member)) for member in members)
    objects[BROKEN_FILE] = planting.broken
    hours = [START + number * HOUR for number in range((END - START) // HOUR)]
    return objects | {events_name(hour, "_complete"): b"" for hour in hours if hour not in UNMARKED}


def description(planting: Planting) -> str:
    """The table of what was planted, in Markdown, and the sums that a pipeline must come to."""
    repeats = sum(plant.repeats for plant in planting.plants)
    conflicts = sum(plant.conflicts for plant in planting.plants)
    landed = len(planting.events) + planting.quarantined
    delivered = len(planting.events) - repeats
    objects = landing_objects(planting)
    table = ["| planted | number | repeats | conflicts | where | answered by |", "|---|---|---|---|---|---|"]
    return "\n".join([
        *table, *map(str, planting.plants), "",
        f"In sum: {planting.rows} rows; {landed} landed lines = {planting.quarantined} quarantined + {repeats} repeats",
        f"({conflicts} of them conflicts) + {delivered} delivered without a filter.",
        f"{len(objects)} objects, {sum(map(len, objects.values())):,} bytes.", "",
    ])  # fmt: skip


def write(objects: dict[str, bytes], folder: Path) -> None:
    """Put the objects below `folder`, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def differences(planting: Planting) -> list[str]:
    """What differs between the committed files and those that would be written."""
    with tempfile.TemporaryDirectory() as scratch:
        write(landing_objects(planting), Path(scratch))
        made, kept = (
            {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (Path(scratch), HERE / "landing")
        )
    found = [f"landing/{name}" for name in sorted(made.keys() | kept.keys()) if made.get(name) != kept.get(name)]
    table = TABLE.search((HERE / "README.md").read_text(encoding="utf-8"))
    return found + ([] if table and table[1] == description(planting) else ["README.md, table of planted things"])


def main() -> int:
    """Write, check or describe, as asked."""
    parser = argparse.ArgumentParser(description="Make the landing of the shop example.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare with the committed files")
    choice.add_argument("--describe", action="store_true", help="print the table of planted things")
    chosen = parser.parse_args()
    planting = Planting()
    if chosen.describe:
        print(description(planting), end="")
    elif chosen.check:
        found = differences(planting)
        print("\n".join(f"differs: {name}" for name in found) or "the landing is as committed")
        return 1 if found else 0
    else:
        write(landing_objects(planting), HERE / "landing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
