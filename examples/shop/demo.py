"""What ``make demo`` runs: deliver the example's nine days through Dagster, audit them, and say where to look."""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / ".demo"


def main() -> int:
    """Deliver, audit, and point at what there is; return the exit status."""
    os.environ["AMP_PIPELINE_ORGANIZATIONS"] = str(HERE)
    began = time.monotonic()
    print(
        "1. Delivering 216 hours (2024-05-06 to 2024-05-14) from examples/shop/landing "
        "to two buckets below .demo/buckets.\n"
    )
    if status := _amp_pipeline("deliver", "--project", "shop"):
        return status
    print("\n2. The audit: everything is read again and held against what landed, line by line.\n")
    if status := _amp_pipeline("audit", "--project", "shop"):
        return status
    files = sum(1 for path in (DEMO / "buckets").rglob("*.json.gz"))
    seconds = time.monotonic() - began
    print(f"\n3. {files} files of events and merged ids were delivered in {seconds:.0f} s. Look at them:\n")
    print("   zcat '.demo/buckets/all_events/187520/187520_2024-05-07_12#0.json.gz' | head -1")
    print("   cat .demo/buckets/all_events/_amp_pipeline/187520/all_events/2024-05-07/12.json")
    print("   make ui     # the same hours in Dagster, at http://127.0.0.1:3000")
    return 0


def _amp_pipeline(*arguments: str) -> int:
    command = [sys.executable, "-m", "amp_pipeline.cli", *arguments]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - only words of this file, and no shell


if __name__ == "__main__":
    sys.exit(main())
