"""``amp-pipeline status`` and ``metrics``: what they print and end with."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from amp_pipeline import clock
from amp_pipeline.cli import main
from amp_pipeline.config_files import read
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.builders import event, put
from amp_pipeline_tests.defs.shop import REPO, dagster_home_in
from amp_pipeline_tests.laws.driver import run

SECRET = "marker-of-the-secret"
NOW = Hour.of(datetime(2026, 11, 18, 15, tzinfo=UTC))
FIRST = NOW + -30


def house(folder: Path, **project: Any) -> Path:
    """A folder with an organization of one project that began 30 hours ago, with an event in each hour."""
    for number, hour in enumerate(between(FIRST, NOW + -1)):
        at = (hour.start + timedelta(minutes=number)).strftime("%Y-%m-%d %H:%M:%S.%f")
        line = event(server_upload_time=at, uuid=f"event {number}", user_id=SECRET)
        put(folder / "landing", f"7/7_{hour.day}_{hour.of_day}#0.json", line)
    deliveries = [{"name": "all", "url": "all"}, {"name": "some", "url": "some", "filter": "event_type = 'buy'"}]
    given = {
        "id": 7,
        "slug": "shop7",
        "first_hour": FIRST.key,
        "source": {"url": "landing", "complete": None, "grace": "1m"},
        "deliveries": deliveries,
        **project,
    }
    s3 = {"access_key_id": SECRET, "secret_access_key": SECRET}
    attributes = {"id": 9, "slug": "house", "workspace": "workspace", "s3": s3, "projects": [given]}
    # JSON is YAML.
    (folder / "defs.yaml").write_text(json.dumps({"type": "amp_pipeline.Organization", "attributes": attributes}))
    return folder


def deliver(folder: Path, first: Hour, last: Hour) -> None:
    (organization,) = read(folder / "defs.yaml", {})
    assert run(organization, list(between(first, last)), open_store) == {}


@pytest.fixture(autouse=True)
def _half_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW.start + timedelta(minutes=30))


def amp(folder: Path, *arguments: str, home: Path | None = None) -> Result:
    environment = {"AMP_PIPELINE_ORGANIZATIONS": str(folder), "DAGSTER_HOME": None if home is None else str(home)}
    return CliRunner().invoke(main, arguments, env=environment)


def rows(output: str) -> dict[str, list[str]]:
    """The table's rows by delivery."""
    lines = output.splitlines()
    table = lines[lines.index("") + 1 :]
    return {cells[0]: cells[1:] for cells in (re.split(r"  +", line) for line in table[1 : table.index("")])}


def test_a_complete_project_is_told_in_a_line_for_each_delivery_with_status_0(tmp_path: Path):
    folder = house(tmp_path)
    deliver(folder, FIRST, NOW + -1)
    result = amp(folder, "status")
    assert result.exit_code == 0, result.output
    due = (NOW + 1).start + timedelta(minutes=1)
    row = [str(NOW + -1), "30", "0", "0", "0", "0", "?", str(NOW), f"{due:%Y-%m-%d %H:%M}"]
    assert rows(result.output) == {"shop7 / all": row, "shop7 / some": row}
    assert "in flight is not known: set DAGSTER_HOME" in result.output
    assert result.output.endswith("\nevery ready hour is delivered\n")
    assert len({line.find("0  ") for line in result.output.splitlines()[3:5]}) == 1


def test_what_is_missing_is_named_as_ranges_with_status_1(tmp_path: Path):
    folder = house(tmp_path, automatic=False)
    deliver(folder, FIRST, FIRST + 9)
    deliver(folder, FIRST + 15, FIRST + 15)
    result = amp(folder, "status", "--project", "shop7")
    assert result.exit_code == 1
    assert rows(result.output)["shop7 / all"][:6] == [str(FIRST + 9), "11", "0", "0", "0", "19"]
    missing = f"  missing    19 hours, {FIRST + 16} to {NOW + -1}, {FIRST + 10} to {FIRST + 14}: nothing was done yet"
    command = f"  to do      amp-pipeline deliver --project shop7 --from {FIRST + 10} --to {FIRST + 14}"
    lines = result.output.splitlines()
    assert lines.count(missing) == lines.count(command) == 2
    assert lines[-1] == "not complete: shop7 / all, shop7 / some"


def test_of_many_ranges_the_newest_are_named_and_json_names_all(tmp_path: Path):
    folder = house(tmp_path)
    for number in range(0, 30, 2):
        deliver(folder, FIRST + number, FIRST + number)
    result = amp(folder, "status")
    assert f"15 hours, {NOW + -1}, {NOW + -3}, " in result.output
    assert ", and 9 more ranges: nothing was done yet" in result.output
    answer = json.loads(amp(folder, "status", "--json").output)
    missing = answer["deliveries"][0]["missing"]
    assert missing["hours"] == 15
    assert missing["ranges"] == [[(FIRST + n).key, (FIRST + n).key] for n in range(1, 30, 2)]


def test_json_says_all_that_is_known_of_a_delivery(tmp_path: Path):
    folder = house(tmp_path)
    deliver(folder, FIRST, NOW + -1)
    result = amp(folder, "status", "--json", "--months", "--settings")
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert [one["delivery"] for one in answer["deliveries"]] == ["all", "some"]
    one = answer["deliveries"][0]
    assert (one["organization"], one["project"], one["enabled"], one["is_complete"]) == ("house", "shop7", True, True)
    assert (one["first_hour"], one["last_complete_hour"], one["delivered"]) == (FIRST.key, (NOW + -1).key, 30)
    assert (one["in_flight"], one["earlier_settings"]) == (None, {"hours": 0, "ranges": []})
    assert one["next"]["hour"] == NOW.key
    assert (one["failed"], one["commands"], one["bucket_problem"]) == ([], [], None)
    (project,) = answer["projects"]
    assert sum(month["events"] for month in project["months"]) == 30
    assert project["months"][-1]["expected"]["events"] in range(28 * 24, 31 * 24 + 1)


def test_months_are_told_with_the_size_of_an_event_and_how_the_rest_is_estimated(tmp_path: Path):
    folder = house(tmp_path)
    assert "shop7: no events yet" in amp(folder, "status", "--months").output
    deliver(folder, FIRST, NOW + -1)
    output = amp(folder, "status", "--months").output
    assert re.search(r"^shop7: an event has \d+ bytes on average, \d+ packed$", output, re.MULTILINE)
    assert re.search(rf"^{NOW.day[:7]} +\d+ of \d+ +\d+ .*(bytes|kB)", output, re.MULTILINE)
    assert "the mean of the same hour of the week in the last four weeks" in output


def test_hours_under_earlier_settings_are_named_with_what_delivers_them(tmp_path: Path):
    folder = house(tmp_path)
    deliver(folder, FIRST, NOW + -1)
    written = (folder / "defs.yaml").read_text()
    (folder / "defs.yaml").write_text(written.replace("'buy'", "'click'"))
    assert "settings" not in amp(folder, "status").output
    result = amp(folder, "status", "--settings")
    assert result.exit_code == 0
    assert f"  settings   30 hours, {FIRST} to {NOW + -1}: delivered under earlier settings" in result.output
    command = f"amp-pipeline deliver --project shop7 --from {FIRST} --to {NOW + -1}"
    assert result.output.count(command) == 1


def test_a_delivery_that_is_switched_off_is_shown_as_such(tmp_path: Path):
    folder = house(tmp_path, deliveries=[{"name": "all", "url": "all", "enabled": False}])
    result = amp(folder, "status")
    assert result.exit_code == 0
    assert rows(result.output)["shop7 / all"] == ["nothing yet", "0", *["-"] * 5, "none", "switched off"]


def test_runs_that_are_not_done_are_shown_where_dagster_is_known(tmp_path: Path):
    folder, home = house(tmp_path / "house"), dagster_home_in(tmp_path / "home")
    asset, tags = dg.AssetKey(["shop7", "raw_events"]), {"dagster/partition": FIRST.key}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_run(dg.DagsterRun("one", asset_selection=frozenset({asset}), tags=tags))
    result = amp(folder, "status", home=home)
    assert rows(result.output)["shop7 / all"][5:7] == ["30", "1"]
    assert f"  in flight  1 hour, {FIRST}\n" in result.output
    assert "DAGSTER_HOME" not in result.output


@pytest.mark.parametrize("home", [Path("/nowhere/at/all"), Path("not/absolute")])
def test_a_dagster_home_that_is_no_folder_is_named(tmp_path: Path, home: Path):
    result = amp(house(tmp_path), "status", home=home)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: DAGSTER_HOME is {home}, which is no folder with an absolute path")


def test_an_empty_dagster_home_is_none(tmp_path: Path):
    environment = {"AMP_PIPELINE_ORGANIZATIONS": str(house(tmp_path)), "DAGSTER_HOME": ""}
    assert "in flight is not known" in CliRunner().invoke(main, ["status"], env=environment).output


def families(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for name, family in found.items()
    }


def test_metrics_are_text_that_prometheus_reads(tmp_path: Path):
    folder = house(tmp_path)
    deliver(folder, FIRST, FIRST + 9)
    result = amp(folder, "metrics")
    assert result.exit_code == 0
    found = families(result.stdout)
    assert all(name.startswith("amp_pipeline_") for name in found)
    assert found["amp_pipeline_up"] == {(): 1}
    of_all = ("all", "house", "shop7")
    last = found["amp_pipeline_last_complete_hour_timestamp_seconds"]
    assert {tuple(sorted(labels)): value for labels, value in last.items()} == {
        of_all: (FIRST + 10).start.timestamp(),
        ("house", "shop7", "some"): (FIRST + 10).start.timestamp(),
    }
    assert set(found["amp_pipeline_missing_hours"].values()) == {20}
    assert set(found["amp_pipeline_delivered_hours"].values()) == {10}
    assert set(found["amp_pipeline_complete"].values()) == {0}
    assert found["amp_pipeline_in_flight_hours"] == {}
    assert list(found["amp_pipeline_deduplicated_events"].values()) == [10]
    assert list(found["amp_pipeline_measured_hours"].values()) == [10]
    assert SECRET not in result.output


def test_metrics_of_a_workspace_that_cannot_be_read_say_so(tmp_path: Path):
    folder = house(tmp_path)
    (folder / "workspace" / "9").mkdir(parents=True)
    (folder / "workspace" / "9" / "7").symlink_to("7")
    result = amp(folder, "metrics")
    assert result.exit_code == 0
    assert families(result.stdout) == {"amp_pipeline_up": {(): 0}}
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("written", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_to_listen_at_has_host_and_port(tmp_path: Path, written: str):
    result = amp(house(tmp_path), "metrics", "--listen", written)
    assert result.exit_code == 2
    assert "write 127.0.0.1:9464" in result.output


def test_an_address_that_is_taken_is_told(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = amp(house(tmp_path), "metrics", "--listen", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: can't listen at 127.0.0.1:{port}: ")


def test_served_metrics_are_those_of_now_and_a_signal_ends_it(tmp_path: Path):
    folder = house(tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "AMP_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "amp_pipeline.cli", "metrics", "--listen", "127.0.0.1:0"],
        cwd=REPO,
        env={**environment, "AMP_PIPELINE_ORGANIZATIONS": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.removeprefix("serving ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
        for delivered in (0, 5):
            if delivered:
                deliver(folder, FIRST, FIRST + 4)
            with urllib.request.urlopen(url) as answer:
                found = families(answer.read().decode())
            assert set(found["amp_pipeline_delivered_hours"].values()) == {delivered}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
