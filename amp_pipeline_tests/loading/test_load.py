"""From a landing to a database: ``amp-pipeline load`` and what it does when things change, break and are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from amp_pipeline import config_files
from amp_pipeline.cli import main
from amp_pipeline.config import Delivery
from amp_pipeline.core.errors import ConfigError, LoadError
from amp_pipeline.core.tables import TABLES
from amp_pipeline.loading import postgres
from amp_pipeline.loading.load import Loaded, load
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.tables import TablesStore
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.defs.shop import REPO
from amp_pipeline_tests.loading.places import Place, wanted
from amp_pipeline_tests.postgres_server import PASSWORD, Postgres
from amp_pipeline_tests.servers import free_port

HOURS = 3


class House:
    """An organization with one delivery with tables, and what is loaded of it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        self.landing = folder / "landing"
        self.landing.mkdir()
        self.described = {
            "id": 9,
            "slug": "house",
            "workspace": "workspace",
            "projects": [
                {
                    "id": 7,
                    "slug": "shop7",
                    "first_hour": FIRST_HOUR.key,
                    "source": {"url": "landing"},
                    "deliveries": [{"name": "all", "url": "bucket", "tables": True}, {"name": "plain", "url": "plain"}],
                }
            ],
        }
        defs = {"type": config_files.COMPONENT, "attributes": self.described}
        (folder / "defs.yaml").write_text(yaml.safe_dump(defs))
        ((self.organization),) = config_files.read(folder / "defs.yaml", {})

    @property
    def delivery(self) -> Delivery:
        return self.organization.projects[0].deliveries[0]

    @property
    def records(self) -> TablesStore:
        return TablesStore(open_store(self.organization.workspace), 9, 7, "all")

    def land(self, hour: int, *lines: bytes) -> None:
        put(self.landing, object_name(FIRST_HOUR + hour), *lines)

    def deliver(self, *hours: int, force: bool = False) -> None:
        run = OrganizationRun(self.organization).projects["shop7"]
        asked = [FIRST_HOUR + hour for hour in hours]
        for hour in asked:
            run.deduped.dedupe(hour)
            run.deliver(run.archive(self.delivery), self.delivery, hour, BY)
        tables = run.tables(self.delivery)
        for hour in asked:
            tables.write_hour(hour, BY, force=force)
        tables.finish(asked, BY, force=force)

    def load(self) -> Loaded:
        with self.place.opened() as database:
            return self.load_into(database)

    def load_into(self, database: Any) -> Loaded:
        return load(
            self.organization,
            self.organization.projects[0],
            self.delivery,
            open_store(self.organization.workspace),
            open_store(self.delivery.url),
            database,
            self.place.folder / "scratch",
        )

    def assert_loaded(self) -> None:
        """The database has what lies in the bucket, each uuid once."""
        bucket = Path(self.delivery.url) / "tables" / "7"
        for name in TABLES:
            if name == "event":
                files = sorted((bucket / "event").rglob("*.parquet"))
                frames = [pl.read_parquet(file, hive_partitioning=False) for file in files]
                frame = pl.concat(frames).unique("uuid", keep="first", maintain_order=True)
            else:
                frame = pl.read_parquet(bucket / f"{name}.parquet")
            assert self.place.rows(name) == wanted(name, frame), name

    def amp(self, *arguments: str, **environment: str) -> Any:
        known = {"AMP_PIPELINE_ORGANIZATIONS": str(self.folder), **environment}
        return CliRunner().invoke(main, ["load", *arguments], env=known)


@pytest.fixture
def house(tmp_path: Path, database: Place) -> House:
    return delivered(tmp_path, database)


@pytest.fixture
def one_house(tmp_path: Path) -> House:
    """For what does not depend on the engine."""
    return delivered(tmp_path, Place(tmp_path, None))


def delivered(folder: Path, place: Place) -> House:
    one = House(folder, place)
    for hour in range(HOURS):
        one.land(hour, *(some_event(hour, number) for number in range(4)))
    one.deliver(*range(HOURS))
    return one


def some_event(hour: int, number: int, **fields: Any) -> bytes:
    known = {
        "uuid": f"{hour}-{number}",
        "device_id": f"device {number % 2}",
        "$insert_id": f"{hour}-{number}",
        "user_id": f"user {number}",
        "amplitude_id": number,
        "groups": {"team": [f"team {number % 3}"]},
        "event_properties": {"text": 'é "quoted" \\ \n'},
    }
    return event(hour * HOUR_US + number, **{**known, **fields})


def test_all_tables_are_loaded_and_a_second_load_changes_nothing(house: House) -> None:
    done = house.load()
    assert (done.hours, done.same, done.removed, done.unready) == (HOURS, 0, 0, [])
    house.assert_loaded()
    before = house.place.rows("event")
    again = house.load()
    assert (again.hours, again.same, again.tables) == (0, HOURS, [])
    assert house.place.rows("event") == before


def test_keys_of_users_are_made_as_the_docs_say(house: House) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
    (ids,) = re.findall(r"substr\(sha256\((concat_ws\(.*?)\), 1, 32\)\n```", docs, re.DOTALL)
    said = f"substr(sha256({ids}), 1, 32)"
    if house.place.server is not None:
        (said,) = re.findall(r"`(substr\(encode\(sha256.*?)`", docs)
        said = said.replace("concat_ws(…)", ids)
    house.land(0, some_event(0, 0, user_id="ä🎉"), some_event(0, 1, user_id=None), some_event(0, 2, user_id=""))
    house.deliver(0)
    house.load()
    assert house.place.ask(f"SELECT count(*) FROM amp_pipeline.user WHERE user_key = {said}") == [(HOURS * 2 + 1,)]
    assert house.place.count("user") == HOURS * 2 + 1


def test_what_changed_is_loaded_and_nothing_else(house: House) -> None:
    house.load()
    house.land(1, some_event(1, 0), some_event(1, 9, user_id="new"))
    house.deliver(1)
    done = house.load()
    assert (done.hours, done.same) == (1, HOURS - 1)
    assert {"user", "user_group"} <= set(done.tables)
    assert "cohort" not in done.tables
    house.assert_loaded()
    house.land(1)
    house.deliver(1)
    assert house.load().hours == 1
    house.assert_loaded()
    assert house.place.count("event") == (HOURS - 1) * 4


def test_uuids_that_stand_in_several_hours_are_rows_once(one_house: House) -> None:
    for hour in (2, 0, 1):
        one_house.land(hour, some_event(hour, 0, uuid="same"), some_event(hour, 1))
        one_house.deliver(hour)
        one_house.load()
    one_house.assert_loaded()
    assert one_house.place.count("event_repeat") == 2
    one_house.land(0, some_event(0, 1))
    one_house.deliver(0)
    # The hour that has the row from now on, and the one after it, which was flagged as well.
    assert one_house.load().hours == 3
    one_house.assert_loaded()
    assert one_house.load().hours == 0


def test_hours_that_there_are_no_more_go(one_house: House) -> None:
    one_house.load()
    store = one_house.records
    gone = FIRST_HOUR + 1
    store.store.delete(store._place("hours", gone.key) + ".json")
    assert one_house.load().removed == 1
    assert one_house.place.count("event") == (HOURS - 1) * 4
    assert one_house.load().removed == 0


def test_what_is_being_written_is_left_as_it_was(one_house: House) -> None:
    one_house.load()
    store = one_house.records
    record = store.hour(FIRST_HOUR)
    assert record is not None
    raw = json.loads(store.store.get(store._place("hours", FIRST_HOUR.key) + ".json"))
    store.store.put(
        store._place("hours", FIRST_HOUR.key) + ".json", json.dumps({**raw, "manifest_sha256": ""}).encode()
    )
    whole = f"{store.folder}/tables/whole.json"
    kept = json.loads(store.store.get(whole))
    store.store.put(whole, json.dumps({**kept, "files": {}}).encode())
    done = one_house.load()
    assert done.unready == [FIRST_HOUR.key, "all tables but event"]
    assert (done.hours, done.same) == (0, HOURS - 1)
    one_house.assert_loaded()


def test_bucket_that_does_not_hold_what_was_written_is_told_and_all_else_is_loaded(one_house: House) -> None:
    (file,) = Path(one_house.delivery.url).glob("tables/7/event/date=*/hour=01/event.parquet")
    user = file.parents[3] / "user.parquet"
    data, users = file.read_bytes(), user.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    with pytest.raises(
        LoadError, match=r"does not hold what was written of 2024-05-06-01:00; all else is loaded\. Run"
    ):
        one_house.load()
    assert (one_house.place.count("event"), one_house.place.count("user")) == ((HOURS - 1) * 4, 4)
    file.unlink()
    one_house.land(2, some_event(2, 0, user_id="new"))
    one_house.deliver(2)
    user.write_bytes(users)
    with pytest.raises(
        LoadError, match="does not hold what was written of 2024-05-06-01:00, the seven tables; all else"
    ):
        one_house.load()
    assert (one_house.place.count("event"), one_house.place.count("user")) == (5, 4)
    file.write_bytes(data[:-1] + b"x")
    one_house.deliver(1, force=True)
    assert one_house.load().hours == 1
    one_house.assert_loaded()
    user.write_bytes(b"")
    one_house.land(1, some_event(1, 0))
    one_house.deliver(1)
    one_house.load()
    one_house.assert_loaded()


def test_records_of_several_hours_are_read_at_once(one_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    all_reading = threading.Barrier(HOURS)
    read = TablesStore.hour

    def waiting(store: TablesStore, hour: Any) -> Any:
        all_reading.wait(10)
        return read(store, hour)

    monkeypatch.setattr(TablesStore, "hour", waiting)
    assert one_house.load().hours == HOURS


def test_nothing_is_taken_out_because_a_workspace_seems_empty(one_house: House) -> None:
    one_house.load()
    store = open_store(one_house.organization.workspace)
    for info in store.find("9/7/deliveries/all/tables/"):
        store.delete(info.name)
    with pytest.raises(LoadError, match=r"delivery shop7\.all has no tables yet"):
        one_house.load()
    assert one_house.place.count("event") == HOURS * 4


@pytest.mark.parametrize(
    "statement",
    [30, *(pytest.param(one, marks=pytest.mark.soak) for one in range(50) if one != 30)],
)
def test_killed_at_any_statement_the_next_load_finishes(house: House, statement: int) -> None:
    house.load()
    house.land(0, some_event(0, 0), some_event(0, 7, uuid="1-1"))
    house.land(2, some_event(2, 0, uuid="new"))
    house.deliver(0, 2)
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, str(statement)],
        env={**os.environ, "HOUSE": str(house.folder), "PLACE": house.place.server.url if house.place.server else ""},
        capture_output=True,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    # Each hour is as it was, or as it is now; of the second the first may have taken a row.
    found = dict(house.place.ask(_HOURS))
    assert (found.get(0), found.get(1), found.get(2)) in [(4, 4, 4), (2, 3, 4), (2, 3, 1)]
    house.load()
    house.assert_loaded()
    assert (house.load().hours, house.load().tables) == (0, [])


_HOURS = """
SELECT date_part('hour', server_upload_time AT TIME ZONE 'UTC')::int, count(*) FROM amp_pipeline.event GROUP BY 1
"""

_KILLED = """
import os, signal, sys
from pathlib import Path
from amp_pipeline import config_files
from amp_pipeline.loading import database
from amp_pipeline.loading.duckdb import DuckDB
from amp_pipeline.loading.load import load
from amp_pipeline.loading.postgres import Postgres
from amp_pipeline.storage.urls import open_store

folder, left = Path(os.environ["HOUSE"]), [int(sys.argv[1])]
kind = Postgres if os.environ["PLACE"] else DuckDB
run = kind.run

def counted(self, statement, **values):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, statement, **values)

kind.run = counted
((organization),) = config_files.read(folder / "defs.yaml", {})
project = organization.projects[0]
if os.environ["PLACE"]:
    one = Postgres(os.environ["PLACE"], "amp_pipeline")
else:
    one = DuckDB(folder / "tables.duckdb", "amp_pipeline", 256 << 20, folder / "scratch")
load(
    organization, project, project.deliveries[0], open_store(organization.workspace),
    open_store(project.deliveries[0].url), one, folder / "scratch",
)
"""


def test_two_loads_at_a_time_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 0.2)
    with house.place.opened() as first:
        house.load_into(first)
        if house.place.server is None:
            # DuckDB locks the file against other processes.
            command = [sys.executable, "-m", "amp_pipeline.cli", "load", "--project", "shop7", "--delivery", "all"]
            child = subprocess.run(
                [*command, "--duckdb", str(house.place.file)],
                env={**os.environ, "AMP_PIPELINE_ORGANIZATIONS": str(house.folder)},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert child.returncode == 1
            assert "nobody else has it open" in child.stderr
        else:
            with pytest.raises(LoadError, match="another load of the schema amp_pipeline .* is under way"):
                house.load()
    assert house.load().hours == 0


def test_delivery_without_tables_is_told(one_house: House) -> None:
    with one_house.place.opened() as database, pytest.raises(ConfigError, match=r"shop7\.plain has no tables; write"):
        load(
            one_house.organization,
            one_house.organization.projects[0],
            one_house.organization.projects[0].deliveries[1],
            open_store(one_house.organization.workspace),
            open_store(one_house.delivery.url),
            database,
            one_house.folder,
        )


def test_command(house: House) -> None:
    asked = ["--project", "shop7", "--delivery", "all"]
    if house.place.server is None:
        how, environment = ["--duckdb", str(house.place.file)], {"AMP_PIPELINE_POSTGRES": "postgresql://nowhere"}
    else:
        how, environment = [], {"AMP_PIPELINE_POSTGRES": house.place.server.url}
    result = house.amp(*asked, *how, "--verbose", **environment)
    assert result.exit_code == 0, result.output
    assert "shop7.all: 3 hours loaded, 0 removed, 0 as they were; 7 of 7 tables changed" in result.output
    assert "event 12, user 4, group 3" in result.output
    assert f"{FIRST_HOUR.key} loaded, 4 rows" in result.output
    assert PASSWORD not in result.output
    again = house.amp(*asked, *how, **environment)
    assert "0 hours loaded, 0 removed, 3 as they were; 0 of 7 tables changed" in again.output
    house.assert_loaded()
    result = house.amp(*asked, "--duckdb", "x", "--postgres", "postgresql://nowhere", **environment)
    assert (result.exit_code, "load into one, then into the other" in result.output) == (1, True)
    result = house.amp("--project", "shop7", "--delivery", "other", *how, **environment)
    assert (result.exit_code, "it has all, plain" in result.output) == (1, True)


def test_command_says_which_delivered_hours_have_no_tables_yet(one_house: House) -> None:
    asked = ["--project", "shop7", "--delivery", "all", "--duckdb", str(one_house.place.file)]
    for hour in (1, 2):
        key = (FIRST_HOUR + hour).key
        one_house.records.store.delete(f"{one_house.records._place('hours', key)}.json")
    result = one_house.amp(*asked)
    assert result.exit_code == 1, result.output
    assert "1 hour loaded, 0 removed, 0 as they were" in result.output
    left = f"{FIRST_HOUR + 1} to {FIRST_HOUR + 2}"
    assert f"  2 delivered hours have no tables yet, load again once they are made: {left}\n" in result.output
    result = one_house.amp(*asked, "--partial")
    assert (result.exit_code, left in result.output) == (0, True)


@pytest.mark.parametrize(("extra", "where"), [("duckdb", "x.duckdb"), ("postgres", "postgresql://nowhere")])
def test_a_missing_driver_is_told_with_what_can_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, where: str
) -> None:
    monkeypatch.setattr("amp_pipeline.cli.load.find_spec", lambda name: None)
    (needed,) = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    result = House(tmp_path, Place(tmp_path, None)).amp("--project", "shop7", "--delivery", "all", f"--{extra}", where)
    assert (result.exit_code, f"run pip install '{needed}'\n" in result.output) == (1, True)


def test_command_that_does_not_know_where_to(one_house: House) -> None:
    result = one_house.amp("--project", "shop7", "--delivery", "all")
    assert result.exit_code == 1
    assert "--duckdb FILE, or --postgres ADDRESS" in result.output


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://tester:{secret}@127.0.0.1:{port}/db", "no connection to PostgreSQL: .*refused"),
        ("postgresql://tester:wrong-{secret}@/postgres?host={folder}", "password authentication failed"),
        ("postgresql://tester:{secret}@/nowhere?host={folder}", 'database "nowhere" does not exist'),
        ("tester:{secret}@somewhere", "the address of the PostgreSQL database can't be read"),
        ("postgresql://tester:{secret}@[::1/db", "the address of the PostgreSQL database can't be read"),
        ("postgresql://tester:{secret}@a..b/db", "no connection to PostgreSQL: .*label empty or too long"),
        ("postgresql://tester:{secret}\udcff@b/db", "the address of the PostgreSQL database can't be read"),
        ("postgresql://tester:p@{secret}@127.0.0.1:{port}/db", "the address of the PostgreSQL database can't be read"),
        ("postgresql://tester:1/{secret}@127.0.0.1:{port}/db", "the address of the PostgreSQL database can't be read"),
    ],
)
def test_wrong_addresses_are_told_without_the_password(
    tmp_path: Path, server: Postgres, address: str, told: str
) -> None:
    house = House(tmp_path, Place(tmp_path, None))
    written = address.format(secret=PASSWORD, port=free_port(), folder=server.folder)
    result = house.amp("--project", "shop7", "--delivery", "all", "--postgres", written)
    assert result.exit_code == 1
    assert PASSWORD not in result.output
    assert re.search(told, " ".join(result.output.split()))


def test_file_with_the_name_of_the_schema_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path, Place(tmp_path, None))
    house.land(0, some_event(0, 0))
    house.deliver(0)
    asked = ["--project", "shop7", "--delivery", "all", "--duckdb", str(tmp_path / "Amp_pipeline.duckdb")]
    result = house.amp(*asked)
    assert (result.exit_code, "name the file otherwise, or the schema" in result.output) == (1, True)
    assert house.amp(*asked, "--schema", "shop").exit_code == 0


@pytest.mark.parametrize("name", ["no/such/folder.duckdb", "text.duckdb"])
def test_files_that_can_not_be_opened_are_told(tmp_path: Path, name: str) -> None:
    house = House(tmp_path, Place(tmp_path, None))
    (tmp_path / "text.duckdb").write_text("This is no database." * 1000)
    result = house.amp("--project", "shop7", "--delivery", "all", "--duckdb", str(tmp_path / name))
    assert result.exit_code == 1
    assert "can't be opened" in result.output
