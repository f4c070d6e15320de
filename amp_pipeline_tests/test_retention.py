"""``amp-pipeline tidy``, and the schedule that does the same each day, over real folders."""

import os
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from amp_pipeline import config_files
from amp_pipeline.cli import main
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.defs.retention import retention_schedule
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests.builders import BY, FIRST_HOUR, event, object_name, put

DEFS = """
type: amp_pipeline.Organization
attributes:
  id: 9
  slug: house
  workspace: workspace
  retention: {superseded: 24h}
  projects:
    - id: 7
      slug: shop7
      first_hour: 2024-05-06-00:00
      last_hour: 2024-05-06-00:00
      source: {url: landing}
      deliveries:
        - {name: all, url: all}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an hour that was made three times, long ago."""
    (tmp_path / "defs.yaml").write_text(DEFS)
    ((organization),) = config_files.read(tmp_path / "defs.yaml", {})
    for version in range(3):
        put(tmp_path / "landing", object_name(FIRST_HOUR), event(1, uuid=f"version {version}"))
        one = OrganizationRun(organization).projects["shop7"]
        one.deduped.dedupe(FIRST_HOUR)
        delivery = one.project.deliveries[0]
        one.deliver(one.archive(delivery), delivery, FIRST_HOUR, BY)
    long_ago = time.time() - 3 * 86_400
    for path in (tmp_path / "workspace").rglob("*.*"):
        os.utime(path, (long_ago, long_ago))
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "workspace").rglob("*") if path.is_file()}


def tidy(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["tidy", *options], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_names_what_would_go_and_deletes_nothing(folder: Path) -> None:
    before = files(folder)
    said = tidy(folder, "--dry-run")
    assert files(folder) == before
    named = [line.split("  ")[0] for line in said.splitlines() if " bytes: " in line]
    assert "would go: 3 objects" in said
    tidy(folder)
    assert before - files(folder) == {str(folder / "workspace" / name) for name in named}


def test_tidying_says_how_much_went_by_kind_and_leaves_one_version_of_each(folder: Path) -> None:
    said = tidy(folder)
    assert [line.split()[1] for line in said.splitlines()[:-1]] == ["deduped", "keys"]
    assert "gone: 3 objects" in said
    assert len([name for name in files(folder) if name.endswith(".keys")]) == 1
    assert "gone: 0 objects, 0 bytes" in tidy(folder)


def test_the_schedule_does_the_same(folder: Path) -> None:
    ((organization),) = config_files.read(folder / "defs.yaml", {})
    schedule = retention_schedule(organization)
    assert (schedule.name, schedule.default_status) == ("house_retention", dg.DefaultScheduleStatus.RUNNING)
    before = len(files(folder))
    job = dg.Definitions(schedules=[schedule]).resolve_job_def("house_retention")
    assert job.execute_in_process(run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}).success
    assert len(files(folder)) == before - 3


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{superseded: 23h}", "retention.superseded: write 24h or more"),
        ("{logs: 1h}", "retention.logs: write 24h or more"),
        ("{log: 90d}", "known here are superseded, logs"),
    ],
)
def test_what_could_harm_runs_is_refused(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "defs.yaml").write_text(DEFS.replace("{superseded: 24h}", written))
    with pytest.raises(ConfigError, match=said):
        config_files.read(tmp_path / "defs.yaml", {})


def test_when_days_are_reconciled_is_a_time_of_day(tmp_path: Path) -> None:
    wrong = DEFS.replace("source: {url", 'reconcile: {at: "24:00"}\n      source: {url')
    (tmp_path / "defs.yaml").write_text(wrong)
    with pytest.raises(ConfigError, match=r"reconcile\.at"):
        config_files.read(tmp_path / "defs.yaml", {})
