"""The example's 216 hours as one range: how much of the time is ours, and how much Dagster's.

python benchmarks/example.py OUT
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from amp import Stages, produce

from amp_pipeline import config_files
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.defs.assets import HOURS_A_RUN
from amp_pipeline.run import OrganizationRun

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - where writing waits for no disk
EXAMPLE = Path(__file__).parents[1] / "examples" / "shop"


def ours(folder: Path) -> dict[str, float]:
    """Do the hours as Dagster does, in runs over a day, without Dagster; return seconds."""
    (organization,) = config_files.read(folder / "examples" / "shop" / config_files.FILE_NAME, {})
    project = organization.projects[0]
    hours = list(between(project.first_hour, project.last_hour or project.first_hour))
    spent: dict[Hour, Stages] = {hour: Stages() for hour in hours}
    for at in range(0, len(hours), HOURS_A_RUN):
        produce(organization, hours[at : at + HOURS_A_RUN], lambda hour: spent[hour])
    seconds = {hour.key: sum(stage["wall"] for stage in one.seconds.values()) for hour, one in spent.items()}
    workspace = OrganizationRun(organization).projects[project.slug].workspace
    landed = {hour.key: record.landed for hour in hours if (record := workspace.raw(hour)) is not None}
    return {
        "hours": len(hours),
        "ours_seconds": sum(seconds.values()),
        "empty_hours": sum(not landed.get(hour.key) for hour in hours),
        "empty_hour_ms": 1000 * statistics.median(seconds[hour.key] for hour in hours if not landed.get(hour.key)),
        "other_hour_ms": 1000 * statistics.median(seconds[hour.key] for hour in hours if landed.get(hour.key)),
    }


def with_dagster(folder: Path) -> float:
    """Deliver all hours by `amp-pipeline deliver`; return seconds."""
    home = folder / "dagster_home"
    home.mkdir()
    shutil.copy(EXAMPLE.parents[1] / "dagster.yaml", home)
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "AMP_PIPELINE_ORGANIZATIONS": str(folder / "examples" / "shop"),
    }
    started = time.perf_counter()
    command = [sys.executable, "-m", "amp_pipeline.cli", "deliver", "--project", "shop"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
    return time.perf_counter() - started


def copy_of_example(folder: Path) -> Path:
    """Copy the example, which writes beside itself, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXAMPLE, folder / "examples" / "shop")
    return folder


def main() -> None:
    """Run both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    found = ours(copy_of_example(out / "ours"))
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        found["empty_hour_in_memory_ms"] = ours(copy_of_example(Path(folder) / "ours"))["empty_hour_ms"]
    found["dagster_seconds"] = with_dagster(copy_of_example(out / "dagster"))
    print(json.dumps({"work_seconds": found["ours_seconds"], "rows": found["hours"], **found}))


if __name__ == "__main__":
    main()
