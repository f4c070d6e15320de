"""What all peers share: which landing objects an hour has and in what order, and how a program says what it did."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def arguments() -> tuple[list[Path], Path]:
    """Return the landing objects of the one hour in the first argument's folder, in order, and the folder to fill."""
    landing, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    return sorted(landing.glob("*/*.json.gz"), key=_part), out


def _part(path: Path) -> int:
    found = re.search(r"#(\d+)\.", path.name)
    return int(found[1]) if found else 0


def done(work_seconds: float, rows: int, **more: Any) -> None:
    """Print what was done."""
    print(json.dumps({"work_seconds": round(work_seconds, 3), "rows": rows, **more}))
