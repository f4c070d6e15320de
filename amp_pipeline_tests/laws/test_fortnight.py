"""A project that runs by itself for days: whatever happens on the way, in the end all is as one clean run makes it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline_tests.laws.soak import new_seed, say


def lived(base: Path, seed: int, days: int, kills: int) -> dict[str, Any]:
    """Live some days in a process of its own, since the processes of this one's tests can't be forked from it."""
    given = json.dumps({"base": str(base), "seed": seed, "days": days, "kills": kills})
    done = subprocess.run(
        [sys.executable, "-m", "amp_pipeline_tests.laws.fortnight"],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{given}: {done.stderr[-3000:]}"
    return json.loads(done.stdout)


def check(found: dict[str, Any], kills: int) -> None:
    assert found["different"] == []
    assert found["findings"] == []
    assert found["killed"] >= kills


def test_a_day_with_kills_outages_and_late_data_ends_as_one_clean_run(tmp_path: Path):
    check(lived(tmp_path, seed=1, days=1, kills=8), kills=5)


@pytest.mark.soak
def test_a_fortnight_with_kills_outages_and_late_data_ends_as_one_clean_run(tmp_path: Path):
    seed = new_seed()
    found = lived(tmp_path, seed=seed, days=14, kills=220)
    say(f"fortnight: LAWS_SEED={seed}, {found}")
    check(found, kills=200)
