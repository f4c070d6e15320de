"""``amp-pipeline``: what its commands do, print and end with."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import dagster as dg
import pytest
from click.testing import CliRunner, Result

from amp_pipeline import __version__, config_files
from amp_pipeline.cli import main
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.defs.shop import EXAMPLE, LATE_FILE, REPO, dagster_home_in, shop_in
from amp_pipeline_tests.laws import driver

DAMAGED = "187520/187520_2024-05-08_10#0.json.gz"


def _commands(group: click.Group, name: str = "") -> dict[str, click.Command]:
    """The commands of a group and of the groups in it, by what is written to call them."""
    ctx = click.Context(group)
    found: dict[str, click.Command] = {}
    for word in group.list_commands(ctx):
        command = group.get_command(ctx, word)
        assert command is not None
        found |= (
            _commands(command, f"{name}{word} ") if isinstance(command, click.Group) else {f"{name}{word}": command}
        )
    return found


COMMANDS = _commands(main)


def amp(folder: Path | str, *arguments: str, home: Path | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(
        main,
        arguments,
        env={"AMP_PIPELINE_ORGANIZATIONS": str(folder), "DAGSTER_HOME": None if home is None else str(home)},
    )


def amp_process(folder: Path, *arguments: str, home: Path | None) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does; what Dagster prints comes with it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "AMP_"))}
    environment["AMP_PIPELINE_ORGANIZATIONS"] = str(folder)
    if home is not None:
        environment["DAGSTER_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "amp_pipeline.cli", *arguments],
        cwd=REPO,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def materialized(home: Path, *key: str) -> set[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return instance.get_materialized_partitions(dg.AssetKey(list(key)))


DAYS = ("--from", "2024-05-07-04:00", "--to", "2024-05-09-03:00")
HOURS_OF_DAYS = 48
TOUCHED = ["2024-05-07-04:00", "2024-05-07-12:00", "2024-05-07-15:00"]
"""The late file brings events of the first two; what one of them holds was sent again in the third."""
STRAYS_ONLY = "2024-05-09-03:00"
"""The hour of the late file itself."""


# One test, not eight over a fixture: two workers would both deliver the days.
@pytest.mark.soak
def test_late_data_is_healed_named_and_recorded_by_deliver(tmp_path: Path) -> None:
    folder, home = shop_in(tmp_path / "shop"), dagster_home_in(tmp_path / "home")
    (folder / "landing" / LATE_FILE).unlink()

    first = amp_process(folder, "deliver", *DAYS, home=home)
    assert first.returncode == 0, first.stdout
    lines = first.stdout.splitlines()
    assert lines[0] == "shop: 48 hours to all_events, purchases"
    assert [line.split("  ")[2] for line in lines[1:]] == ["delivered"] * 2
    assert "(48 of 48 hours)" in lines[-1]
    markers = list((folder / "buckets" / "all_events" / "187520").glob("*_complete"))
    assert len(markers) == HOURS_OF_DAYS
    assert nothing_is_stale(folder)

    shutil.copyfile(EXAMPLE / "landing" / LATE_FILE, folder / "landing" / LATE_FILE)
    second = amp_process(folder, "deliver", *DAYS, home=home)
    assert second.returncode == 0, second.stdout
    again = re.findall(r"^  again, (.+): (2024-.+)$", second.stdout, re.MULTILINE)
    assert [hour for _, hours in again for hour in hours.split(", ")] == TOUCHED
    assert again[-1] == (f"late data in hour {TOUCHED[1]}", TOUCHED[2])
    assert nothing_is_stale(folder)
    for done in (first, second):
        assert not re.search(r"dagster|WARNING|Warning", done.stdout), done.stdout

    audit = amp(folder, "audit", *DAYS)
    assert audit.exit_code == 0, audit.output
    assert audit.output.splitlines()[-1] == "every law holds"
    log = folder / "workspace" / "189524" / "187520" / "deliveries" / "all_events" / "log"
    for hour in TOUCHED:
        entries = sorted((log / hour[:10] / hour[11:13]).iterdir())
        assert [json.loads(path.read_text())["why"] for path in entries] == ["first", "late data"], hour

    for key in (["shop", "raw_events"], ["shop_org", "merged_ids"], ["shop", "all_events", "manifest"]):
        assert len(materialized(home, *key)) == HOURS_OF_DAYS, key
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}


def nothing_is_stale(folder: Path) -> bool:
    found = amp(folder, "stale", *DAYS)
    return (found.exit_code, found.output) == (0, "")


def test_stale_names_the_hours_that_late_data_touches_each_time_it_is_asked(tmp_path: Path) -> None:
    folder = shop_in(tmp_path / "shop")
    late = folder / "landing" / LATE_FILE
    late.unlink()
    ((organization),) = config_files.read(folder / "defs.yaml", {})
    for key in (*TOUCHED, STRAYS_ONLY):
        run = OrganizationRun(organization)
        project = run.projects["shop"]
        hour = Hour.parse(key)
        project.deduped.dedupe(hour)
        run.merged.merge(hour)
        for delivery in project.project.deliveries:
            by = By("test", "2026-01-01T00:00:00", "0")
            project.deliver(project.archive(delivery), delivery, hour, by)
    shutil.copyfile(EXAMPLE / "landing" / LATE_FILE, late)
    first, second = (
        [line.split("  ")[1] for line in amp(folder, "stale", *DAYS).output.splitlines() if "never run" not in line]
        for _ in range(2)
    )
    assert second == [*TOUCHED, STRAYS_ONLY]
    assert first == second


def three_hours_in(base: Path) -> Path:
    folder = shop_in(base / "shop", *(f"*/*_2024-05-08_{n}[#_.]*" for n in (9, 10, 11)))
    text = (folder / "defs.yaml").read_text()
    text = text.replace("2024-05-06-00:00", "2024-05-08-09:00").replace("2024-05-14-23:00", "2024-05-08-11:00")
    (folder / "defs.yaml").write_text(text)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three hours of the example."""
    return three_hours_in(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return dagster_home_in(tmp_path / "home")


def test_a_damaged_object_fails_its_hour_alone_until_it_is_accepted(small: Path, home: Path) -> None:
    path = small / "landing" / DAMAGED
    path.write_bytes(path.read_bytes()[:-20])
    first = amp_process(small, "deliver", home=home)
    assert first.returncode == 1, first.stdout
    assert f"{small}/landing/{DAMAGED}" in first.stdout
    assert f"amp-pipeline accept --project shop '{DAMAGED}'" in first.stdout
    assert re.findall(r"^    (2024-\S+): ", first.stdout, re.MULTILINE) == ["2024-05-08-10:00"]
    assert materialized(home, "shop", "raw_events") == {"2024-05-08-09:00", "2024-05-08-11:00"}
    markers = sorted(path.name for path in (small / "buckets" / "all_events" / "187520").glob("*_complete"))
    assert markers == ["187520_2024-05-08_11_complete", "187520_2024-05-08_9_complete"]

    accepted = amp(small, "accept", "--project", "shop", DAMAGED)
    assert accepted.exit_code == 0, accepted.output
    assert accepted.output == f"accepted {path} as it is; deliver its hour again\n"
    second = amp_process(small, "deliver", home=home)
    assert second.returncode == 0, second.stdout
    audit = amp(small, "audit")
    assert audit.exit_code == 0, audit.output


def test_forcing_delivers_again_what_has_not_changed(small: Path, home: Path) -> None:
    (organization,) = config_files.read(small / "defs.yaml", {})
    hour = Hour.parse("2024-05-08-11:00")
    assert driver.run(organization, [hour], open_store) == {}
    part = small / "buckets" / "all_events" / "187520" / "187520_2024-05-08_11#0.json.gz"
    at, data = part.stat().st_mtime_ns, part.read_bytes()
    assert amp_process(small, "deliver", "--from", hour.key, "--force", home=home).returncode == 0
    assert part.stat().st_mtime_ns > at
    assert part.read_bytes() == data


def test_hours_that_never_ran_are_stale(small: Path) -> None:
    found = amp(small, "stale", "--project", "shop", "--to", "2024-05-08-10:00")
    assert found.exit_code == 0
    assert found.output == "shop  2024-05-08-09:00 to 2024-05-08-10:00  never run to its end\n"


def test_stale_says_first_what_has_to_be_mended(small: Path) -> None:
    ((organization),) = config_files.read(small / "defs.yaml", {})
    run = OrganizationRun(organization).projects["shop"]
    for key in ("2024-05-08-10:00", "2024-05-08-11:00"):
        run.deduped.dedupe(Hour.parse(key))
    path = small / "landing" / DAMAGED.replace("_10#", "_11#")
    path.write_bytes(path.read_bytes()[:-20])
    found = amp(small, "stale")
    lines = [line.split("  ") for line in found.output.splitlines()]
    assert [hours for _, hours, _ in lines] == ["2024-05-08-11:00", "2024-05-08-10:00", "2024-05-08-09:00"]
    assert f"amp-pipeline accept --project shop '187520/{path.name}'" in lines[0][2]


def test_hours_that_fail_for_the_same_reason_are_one_line(small: Path, home: Path) -> None:
    shutil.move(small / "landing", small / "elsewhere")
    found = amp_process(small, "deliver", home=home)
    assert found.returncode == 1
    assert re.findall(r"^    2024-.*$", found.stdout, re.MULTILINE) == [
        f"    2024-05-08-09:00 to 2024-05-08-11:00: the landing {small}/landing is not there; check the source's url, "
        "or mount it"
    ]


def test_the_audit_of_hours_that_were_never_delivered_ends_in_exit_1(small: Path) -> None:
    found = amp(small, "audit", "--all-hours")
    assert found.exit_code == 1
    assert "3 hours are not as they should be" in found.output or "6 hours are not as they should be" in found.output


@pytest.mark.parametrize("command", ["deliver", "stale", "audit"])
def test_an_unknown_project_is_answered_with_the_known_ones(small: Path, home: Path, command: str) -> None:
    found = amp(small, command, "--project", "shoop", home=home)
    assert found.exit_code == 1
    assert found.output == "Error: there is no project shoop; known are shop\n"


@pytest.mark.parametrize("command", ["deliver", "stale", "audit"])
@pytest.mark.parametrize("text", ["yesterday", "2024-05-08-10:30", "2024-13-01"])
def test_what_is_no_hour_is_answered_with_one(small: Path, home: Path, command: str, text: str) -> None:
    found = amp(small, command, "--from", text, home=home)
    assert found.exit_code == 2
    assert f"{text!r} is no hour; write 2024-05-06-10:00, or a day, 2024-05-06" in found.output


@pytest.mark.parametrize("command", ["deliver", "stale", "audit"])
def test_a_folder_without_an_organization_is_named(tmp_path: Path, home: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    found = amp(tmp_path / "empty", command, home=home)
    assert found.exit_code == 1
    assert f"Error: {tmp_path}/empty holds no defs.yaml" in found.output


def test_deliver_in_a_folder_without_an_organization_prints_no_traceback(tmp_path: Path, home: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = amp_process(tmp_path / "empty", "deliver", home=home)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout, done.stdout
    assert "holds no defs.yaml" in done.stdout


@pytest.mark.parametrize(
    ("first", "last"),
    [("2024-05-08-11:00", "2024-05-08-09:00"), ("2030-01-01", "2030-01-02"), ("2020-01-01", "2020-01-02")],
)
@pytest.mark.parametrize("command", ["deliver", "stale", "audit"])
def test_a_range_without_hours_is_no_crash(small: Path, home: Path, command: str, first: str, last: str) -> None:
    found = amp(small, command, "--from", first, "--to", last, home=home)
    assert found.exit_code == 1
    said = "is later than --to" if first > last else "has no finished hour in that range; its hours go from"
    assert said in found.output


def test_deliver_without_a_dagster_home_says_what_to_set(small: Path) -> None:
    found = amp(small, "deliver")
    assert found.exit_code == 1
    assert found.output.startswith("Error: DAGSTER_HOME is not set; set it to the folder of your Dagster instance")


def test_accept_refuses_what_is_no_name_of_an_event_object(small: Path) -> None:
    found = amp(small, "accept", "--project", "shop", f"{small}/landing/{DAMAGED}")
    assert found.exit_code == 1
    assert f"is no name of an event object of shop; name it relative to {small}/landing" in found.output


def read_landing(folder: Path, key: str) -> None:
    ((organization),) = config_files.read(folder / "defs.yaml", {})
    OrganizationRun(organization).projects["shop"].raw.land(Hour.parse(key))


def acceptances(folder: Path) -> list[Path]:
    return sorted((folder / "workspace").rglob("accepted/*"))


def test_accept_of_what_is_gone_says_so_and_says_it_again(small: Path) -> None:
    read_landing(small, "2024-05-08-10:00")
    (small / "landing" / DAMAGED).unlink()
    for _ in range(2):
        found = amp(small, "accept", "--project", "shop", DAMAGED)
        assert found.exit_code == 0, found.output
        assert found.output == f"accepted {small}/landing/{DAMAGED} as gone; deliver its hour again\n"
    assert len(acceptances(small)) == 1


def test_accept_refuses_what_never_was_there_and_names_what_is_missing(small: Path) -> None:
    never = "187520/187520_2024-05-08_10#9.json.gz"
    missing = f"{small}/landing/{DAMAGED}"
    found = amp(small, "accept", "--project", "shop", never)
    assert found.exit_code == 1
    said = f"Error: {small}/landing/{never} is not there, and was never read in hour 2024-05-08-10:00; "
    assert found.output == f"{said}nothing that was read in it is missing\n"
    read_landing(small, "2024-05-08-10:00")
    (small / "landing" / DAMAGED).unlink()
    found = amp(small, "accept", "--project", "shop", never)
    assert (found.exit_code, found.output) == (1, f"{said}missing of it: {missing}\n")
    assert acceptances(small) == []


def test_accept_refuses_what_is_whole(small: Path) -> None:
    found = amp(small, "accept", "--project", "shop", DAMAGED)
    assert found.exit_code == 1
    assert found.output == f"Error: {small}/landing/{DAMAGED} is not damaged; there is nothing to accept\n"
    assert acceptances(small) == []


def test_accept_needs_a_project_and_an_object(small: Path) -> None:
    assert amp(small, "accept", DAMAGED).exit_code == 2
    assert amp(small, "accept", "--project", "shop").exit_code == 2


def test_the_version_is_printed() -> None:
    found = amp("", "--version")
    assert found.exit_code == 0
    assert __version__ in found.output


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_tells_what_it_does(command: str | None, option: str) -> None:
    found = amp("", *(command.split() if command else []), option)
    assert found.exit_code == 0
    assert found.output.startswith("Usage: ")


def test_the_list_of_commands_shows_each_summary_whole() -> None:
    listed = amp("", "--help").output.partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(main.list_commands(click.Context(main)))
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_every_option_says_what_it_is_for() -> None:
    options = [
        (name, option)
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option)
    ]
    assert options
    assert [(name, option.name) for name, option in options if not (option.help or "").endswith(".")] == []


def documents() -> str:
    return "\n".join(path.read_text() for path in [*REPO.glob("README.md"), *sorted((REPO / "docs").glob("*.md"))])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_in_the_documents(command: str) -> None:
    text = documents()
    missing = [] if f"amp-pipeline {command}" in text else [f"amp-pipeline {command}"]
    for option in COMMANDS[command].params:
        if isinstance(option, click.Option):
            missing += [name for name in option.opts if not re.search(rf"{re.escape(name)}(?![\w-])", text)]
    assert missing == []
