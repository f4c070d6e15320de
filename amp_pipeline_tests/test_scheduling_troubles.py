"""What is wrong with merged ids, or with another project, holds up no hour; changed settings hide no late data."""

import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.config import Organization
from amp_pipeline.reconciliation import reconcile
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import HOUR_US
from amp_pipeline_tests.laws.driver import buckets
from amp_pipeline_tests.test_scheduling import MINUTE, ONE, TWO, ZERO, Trial, asked, click


def test_damaged_merged_ids_of_a_delivered_hour_hold_up_no_other_hour(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    trial.until_quiet()
    name = builders.merged_name(ONE, ending=".json.gz")
    builders.put_bytes(trial.landing, name, b"\x1f\x8b damaged")
    trial.land(ZERO, click(2), number=1)
    for _ in range(4):
        trial.tick()
        trial.work()
        trial.now += MINUTE
    failed = [run.failures for run in trial.runs if run.request.hours == (ONE,)]
    assert any("damaged" in what for failures in failed for what in failures.values())
    assert any(run.request.hours == (ZERO,) and run.failures == {} for run in trial.runs)
    (trial.landing / name).unlink()
    trial.until_quiet()
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


def test_a_landing_that_is_away_holds_up_no_other_project(tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    trial = Trial(tmp_path, {}, {"source": {"url": str(other), "complete": None, "grace": "30m"}})
    trial.land(ZERO, click(1))
    trial.now += timedelta(hours=1)
    trial.until_quiet()
    other.rmdir()
    assert trial.tick("shop7").requests == []
    assert "is not there" in trial.tick("shop8").trouble
    # Late data is taken in meanwhile.
    trial.land(ONE, click(HOUR_US), number=1)
    (request,) = trial.tick("shop7").requests
    assert request.hours == (ONE,)
    trial.work()
    other.mkdir()
    trial.until_quiet()
    assert buckets(trial.organization, trial.stores) == trial.clean_run()


@pytest.mark.parametrize("change", [{"parts": {"events": 1}}, {"dedupe": {"window": "2d"}}])
def test_late_data_reaches_hours_that_were_made_by_other_settings(tmp_path: Path, change: dict[str, Any]):
    trial = Trial(tmp_path)
    trial.land(ONE, click(HOUR_US))
    trial.land(TWO, click(2 * HOUR_US, "c", "x"), click(2 * HOUR_US + 1))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    trial.until_quiet()
    settings = trial.organization.model_dump()
    settings["projects"][0].update(change)
    trial.organization = Organization.model_validate(settings)
    assert trial.until_quiet() == []
    trial.land(ZERO, click(5, "c", "x"))
    assert asked(trial.until_quiet()) == [(0, "late data"), (2, "late data")]


def test_a_longer_window_writes_no_history_again_by_itself(tmp_path: Path):
    trial = Trial(tmp_path, {"dedupe": {"window": "1h"}})
    trial.land(ZERO, click(1, "c", "x"))
    trial.land(TWO, click(2 * HOUR_US, "c", "x"))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    trial.until_quiet()
    settings = trial.organization.model_dump()
    settings["projects"][0]["dedupe"]["window"] = "7d"
    trial.organization = Organization.model_validate(settings)
    # Hour 2 is looked at, and stands.
    trial.land(ONE, click(HOUR_US))
    assert asked(trial.until_quiet()) == [(1, "late data")]


def test_strays_that_are_damaged_hold_up_no_other_hour(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1), click(2 * HOUR_US, "stray"))
    trial.now += timedelta(hours=1)
    trial.again(last_hour=TWO)
    trial.until_quiet()
    workspace = trial.stores(trial.organization.workspace)
    (file,) = workspace.find("9/7/strays/")
    workspace.put(file.name, gzip.compress(b"nonsense\n"))
    trial.land(ONE, click(HOUR_US))
    for _ in range(3):
        trial.tick()
        trial.work()
        trial.now += MINUTE
    assert any(run.request.hours == (ONE,) and run.failures == {} for run in trial.runs)


def test_what_a_reconciliation_finds_in_a_bucket_that_is_away_is_forced_once_it_is_back(tmp_path: Path):
    trial = Trial(tmp_path)
    trial.land(ZERO, click(1))
    trial.again(last_hour=TWO)
    trial.now += timedelta(hours=8)
    trial.until_quiet()
    before = buckets(trial.organization, trial.stores)
    project = trial.organization.projects[0]
    bucket = trial.stores(project.deliveries[0].url)
    bucket.delete(next(info.name for info in bucket.find("") if info.name.endswith("_0#0.json.gz")))
    assert any(one.is_wrong for one in reconcile(trial.organization, project, [ZERO], trial.now, trial.stores))
    trial.unreachable = {"all"}
    for _ in range(4):
        trial.tick()
        trial.work()
        trial.now += timedelta(hours=1)
    trial.unreachable = set()
    trial.until_quiet()
    assert buckets(trial.organization, trial.stores) == before
    assert [run.request.forced for run in trial.runs[1:]] == [True, True]
