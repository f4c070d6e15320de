"""Each planted corruption of a table is found by ``amp-pipeline audit``, and what only waits is not called wrong."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from amp_pipeline import config_files
from amp_pipeline.audit import TABLES, TABLES_BEHIND, audit
from amp_pipeline.cli import main
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.reconciliation import looked, reconcile
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Ledger
from amp_pipeline_tests.builders import event, put
from amp_pipeline_tests.laws.driver import run

FIRST, LAST = Hour.parse("2024-05-09-22:00"), Hour.parse("2024-05-10-01:00")
EMPTY = FIRST + 1
TABLES_FOLDER = Path("bucket") / "tables" / "7"
EVENT = TABLES_FOLDER / "event" / "date=2024-05-10" / "hour=00" / "event.parquet"
USER = TABLES_FOLDER / "user.parquet"
DEFS = {
    "id": 9,
    "slug": "house",
    "workspace": "workspace",
    "projects": [
        {
            "id": 7,
            "slug": "shop",
            "first_hour": FIRST.key,
            "last_hour": LAST.key,
            "source": {"url": "landing", "complete": None},
            "deliveries": [{"name": "all", "url": "bucket", "tables": True}],
        }
    ],
}


def land(folder: Path, hour: Hour, number: int = 0, events: int = 3) -> None:
    lines = [
        event(
            server_upload_time=f"{hour.start:%Y-%m-%d %H}:{number:02d}:{one:02d}.000000",
            uuid=f"{hour.key} {number} {one}",
            user_id=f"user {one}",
            groups={"company": f"company {one}"},
        )
        for one in range(events)
    ]
    put(folder / "landing", f"7/7_{hour.day}_{hour.of_day}#{number}.json", b"\n".join(lines) + b"\n")


def deliver(folder: Path) -> None:
    (organization,) = config_files.read(folder / "defs.yaml", {})
    assert run(organization, list(between(FIRST, LAST)), open_store) == {}


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an organization of a project whose hours, one of them empty, are in the tables of two days."""
    folder = tmp_path_factory.mktemp("delivered")
    for hour in between(FIRST, LAST):
        land(folder, hour, events=0 if hour == EMPTY else 3)
    # JSON is YAML.
    (folder / "defs.yaml").write_text(json.dumps({"type": "amp_pipeline.Organization", "attributes": DEFS}))
    deliver(folder)
    return folder


@pytest.fixture
def folder(delivered: Path, tmp_path: Path) -> Path:
    """A copy of it, to be corrupted."""
    return Path(shutil.copytree(delivered, tmp_path / "copy"))


def run_audit(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(path, hive_partitioning=False)).write_parquet(path, compression="snappy")


def an_event_dropped(folder: Path) -> None:
    rewrite(folder / EVENT, lambda rows: rows[1:])


def a_value_changed(folder: Path) -> None:
    rewrite(folder / EVENT, lambda rows: rows.with_columns(event_type=pl.lit("other")))


def an_event_doubled(folder: Path) -> None:
    rewrite(folder / EVENT, lambda rows: pl.concat([rows, rows[:1]]))


def events_removed(folder: Path) -> None:
    (folder / EVENT).unlink()


def events_of_an_empty_hour(folder: Path) -> None:
    there = folder / str(EVENT).replace("2024-05-10", "2024-05-09").replace("hour=00", "hour=23")
    there.parent.mkdir(parents=True)
    shutil.copy(folder / EVENT, there)


def a_table_cut_off(folder: Path) -> None:
    (folder / EVENT).write_bytes((folder / EVENT).read_bytes()[:100])


def a_user_dropped(folder: Path) -> None:
    rewrite(folder / USER, lambda rows: rows[1:])


def a_table_removed(folder: Path) -> None:
    (folder / TABLES_FOLDER / "user_group.parquet").unlink()


def a_table_that_is_none(folder: Path) -> None:
    (folder / TABLES_FOLDER / "group.parquet").write_text("no table")


CORRUPTIONS = [
    an_event_dropped,
    a_value_changed,
    an_event_doubled,
    events_removed,
    events_of_an_empty_hour,
    a_table_cut_off,
    a_user_dropped,
    a_table_removed,
    a_table_that_is_none,
]


def test_tables_as_they_were_written_pass(folder: Path) -> None:
    for arguments in ([], ["--from", LAST.key, "--to", LAST.key], ["--from", FIRST.key, "--to", FIRST.key]):
        result = run_audit(folder, *arguments)
        assert result.exit_code == 0, result.output
        assert "every law holds" in result.output


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda one: one.__name__)
def test_a_corruption_ends_in_exit_1_and_is_said(folder: Path, corrupt: Callable[[Path], None]) -> None:
    corrupt(folder)
    result = run_audit(folder)
    assert result.exit_code == 1, result.output
    assert TABLES in result.output.splitlines()[-1]
    assert result.output.count("does not hold the rows of what was delivered") == 1


def test_the_same_rows_in_other_bytes_pass(folder: Path) -> None:
    for path in (folder / EVENT, folder / USER):
        rewrite(path, lambda rows: rows)
    assert run_audit(folder).exit_code == 0


def test_rows_of_an_hour_whose_landing_is_gone_are_what_was_written(folder: Path) -> None:
    for found in (folder / "landing").rglob("7_2024-05-10_0#*"):
        found.unlink()
    result = run_audit(folder)
    assert result.exit_code == 0, result.output
    assert "frozen" in result.output
    rewrite(folder / EVENT, lambda rows: rows[1:])
    result = run_audit(folder)
    assert result.exit_code == 1
    assert "event.parquet is not what was written" in result.output


def test_tables_that_are_behind_are_named_and_not_called_wrong_by_a_reconciliation(folder: Path) -> None:
    land(folder, LAST, number=1)
    defs = (folder / "defs.yaml").read_text()
    # A run that was killed between the archive and its tables.
    (folder / "defs.yaml").write_text(defs.replace('"tables": true', '"tables": false'))
    deliver(folder)
    (folder / "defs.yaml").write_text(defs)
    (organization,) = config_files.read(folder / "defs.yaml", {})
    hours = list(between(FIRST, LAST))
    for alone in (False, True):
        found = list(audit(organization, organization.projects[0], hours, alone=alone))
        assert [finding.law for one in found for finding in one.findings] == [TABLES_BEHIND]
        assert [looked(one).state for one in found] == ["agrees", "agrees", "agrees", "waits"]
    result = run_audit(folder)
    assert result.exit_code == 1
    assert TABLES_BEHIND in result.output.splitlines()[-1]
    deliver(folder)
    assert run_audit(folder).exit_code == 0


@pytest.mark.parametrize("corrupt", [an_event_dropped, a_user_dropped], ids=lambda one: one.__name__)
def test_a_look_at_a_day_alone_finds_it_too(folder: Path, corrupt: Callable[[Path], None]) -> None:
    corrupt(folder)
    (organization,) = config_files.read(folder / "defs.yaml", {})
    found = list(audit(organization, organization.projects[0], [LAST + -1, LAST], alone=True))
    assert {finding.law for one in found for finding in one.findings} == {TABLES}
    assert "wrong" in {looked(one).state for one in found}


@pytest.mark.parametrize("name", ["2024-05-10/00.tables.claim", "tables.claim"])
def test_what_a_run_is_writing_waits(folder: Path, name: str) -> None:
    for landed in (folder / "landing" / "7").iterdir():
        os.utime(landed, (0, 0))
    # Here: the copy has other urls.
    deliver(folder)
    an_event_dropped(folder)
    (organization,) = config_files.read(folder / "defs.yaml", {})
    project, now = organization.projects[0], datetime(2024, 5, 11, tzinfo=UTC)
    claim = folder / "bucket" / "_amp_pipeline" / "7" / "all" / name
    claim.write_text("{}")
    (found,) = reconcile(organization, project, [LAST + -1], now)
    assert (found.state, found.what) == ("waits", "a run is writing it")
    claim.unlink()
    (found,) = reconcile(organization, project, [LAST + -1], now)
    assert found.state == "wrong", found.what
    ledger = Ledger(open_store(organization.workspace), organization.id, project.id)
    entry = ledger.day(found.hour.date)[0].entry(found.hour)
    assert (entry.forced, "tables, they hold what was delivered" in entry.doubt) == (True, True)
