"""The tables of a delivery are asked for with its hours, and by themselves where they are not as delivered."""

from pathlib import Path

import pytest

from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests.builders import HOUR_US
from amp_pipeline_tests.test_scheduling import ONE, TWO, ZERO, Trial, click


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Three hours have landed, and one of the two deliveries has tables."""
    trial = Trial(tmp_path)
    trial.land(ZERO, click(0))
    trial.land(ONE, click(HOUR_US), click(HOUR_US + 1))
    with_tables(trial, True)
    return trial


def with_tables(trial: Trial, wanted: bool) -> None:
    first, *others = trial.organization.projects[0].deliveries
    trial.again(deliveries=(first.model_copy(update={"tables": wanted}), *others))


def current(trial: Trial) -> list[Hour]:
    one = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    tables = one.tables(trial.organization.projects[0].deliveries[0])
    return [hour for hour in (ZERO, ONE, TWO) if tables.is_current(hour)]


def asked(trial: Trial) -> list[tuple[tuple[str, ...], tuple[Hour, ...]]]:
    return [(run.request.what, run.request.hours) for run in trial.until_quiet()]


def test_hours_are_asked_for_with_their_tables_and_once(trial: Trial) -> None:
    trial.until_quiet()
    assert {what for run in trial.runs for what in run.request.what} >= {"all", "purchases", "all/tables"}
    assert "purchases/tables" not in {what for run in trial.runs for what in run.request.what}
    assert current(trial) == [ZERO, ONE]
    assert asked(trial) == []


def test_late_data_changes_the_tables_of_its_hour(trial: Trial) -> None:
    trial.until_quiet()
    trial.land(ZERO, click(5, "late"), number=1)
    (run,) = trial.until_quiet()
    assert run.request.hours == (ZERO,)
    assert "all/tables" in run.request.what
    assert current(trial) == [ZERO, ONE]


def test_tables_that_are_switched_on_are_asked_for_by_themselves(trial: Trial) -> None:
    with_tables(trial, False)
    trial.until_quiet()
    with_tables(trial, True)
    assert {what for what, _ in asked(trial)} == {("all/tables",)}
    assert current(trial) == [ZERO, ONE]


def test_tables_that_were_left_half_done_are_asked_for_when_the_hour_is_looked_at_again(trial: Trial) -> None:
    run = trial.until_quiet
    run()
    one = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    records = one.tables(trial.organization.projects[0].deliveries[0]).records
    records.store.delete(f"{records.folder}/tables/whole.json")
    assert current(trial) == []
    trial.land(ZERO, click(5, "late"), number=1)
    run()
    assert current(trial) == [ZERO, ONE]


def test_tables_wait_for_a_bucket_that_is_out_of_reach(trial: Trial) -> None:
    trial.unreachable = {"all"}
    assert not {what for what, _ in asked_for(trial) if "all" in what or "all/tables" in what}
    trial.unreachable = set()
    trial.until_quiet()
    assert current(trial) == [ZERO, ONE]


def asked_for(trial: Trial) -> list[tuple[tuple[str, ...], tuple[Hour, ...]]]:
    """What one tick asks for, and what comes of it."""
    trial.tick()
    trial.tick()
    return [(run.request.what, run.request.hours) for run in trial.work()]
