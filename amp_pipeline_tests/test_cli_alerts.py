"""``amp-pipeline alert``, ``waiting`` and ``watch``: what they send, print and end with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amp_pipeline.cli import main
from amp_pipeline.config_files import read
from amp_pipeline.destinations.archive import By
from amp_pipeline.run import OrganizationRun, undelivered_hours, waiting_hours
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.defs.shop import dagster_home_in
from amp_pipeline_tests.receivers import Mailbox, Webhook, mailbox, webhook

SECRET = "marker-of-a-secret"
BY = By("test", "2026-11-22T00:00:00+00:00", "0")


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox("amp", SECRET) as made:
        yield made


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


def house(folder: Path, people: dict[str, Any] | None = None, **delivery: Any) -> Path:
    """A folder with an organization of one project with three hours and two deliveries."""
    for n in range(3):
        put(folder / "landing", object_name(FIRST_HOUR + n), event(n * HOUR_US, uuid=f"event {n}"))
    project = {
        "id": 7,
        "slug": "shop7",
        "first_hour": FIRST_HOUR.key,
        "last_hour": (FIRST_HOUR + 2).key,
        "source": {"url": "landing"},
        "deliveries": [{"name": "all", "url": "all", **delivery}, {"name": "some", "url": "some"}],
    }
    attributes = {"id": 9, "slug": "house", "workspace": "workspace", "alerts": people or {}, "projects": [project]}
    # JSON is YAML.
    (folder / "defs.yaml").write_text(json.dumps({"type": "amp_pipeline.Organization", "attributes": attributes}))
    return folder


def amp(folder: Path, *arguments: str, home: Path | None = None) -> Result:
    environment = {"AMP_PIPELINE_ORGANIZATIONS": str(folder), "DAGSTER_HOME": None if home is None else str(home)}
    return CliRunner().invoke(main, arguments, env=environment)


def mail(box: Mailbox) -> dict[str, Any]:
    return {"server": box.server, "security": "none", "user": "amp", "password": SECRET, "sender": "amp@house.example"}


def test_a_try_reaches_everybody_once(tmp_path: Path, box: Mailbox, hook: Webhook):
    channel = f"json://{hook.server}/{SECRET}"
    alerts = {"mail": mail(box), "to": ["data@house.example"], "channels": [channel]}
    folder = house(tmp_path, alerts, owner="maker@house.example", alerts={"channels": [channel]})
    result = amp(folder, "alert", "--test")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "house / everything  mailto data@…  accepted",
        "house / everything  json  accepted",
        "shop7 / all  mailto maker@…  accepted",
    ]
    assert sorted(box.subjects()) == ["house / everything: alerts reach you", "shop7 / all: alerts reach you"]
    assert hook.titles == ["house / everything: alerts reach you"]
    result = amp(folder, "alert", "--test", "--project", "shop7", "--delivery", "some")
    assert result.output.splitlines() == ["shop7 / some  mailto data@…  accepted", "shop7 / some  json  accepted"]


def test_a_try_that_does_not_arrive_is_told_without_secrets(tmp_path: Path, box: Mailbox, hook: Webhook):
    hook.status = 403
    alerts = {"mail": mail(box), "to": ["data@house.example"], "channels": [f"json://{hook.server}/{SECRET}"]}
    result = amp(house(tmp_path, alerts), "alert", "--test")
    assert result.exit_code == 1
    said, failed = result.output.splitlines()
    assert said == "house / everything  mailto data@…  accepted"
    assert failed.startswith("house / everything  json  did not arrive: ")
    assert "403" in failed
    assert SECRET not in result.output


def test_where_nobody_is_told_a_try_says_so(tmp_path: Path):
    result = amp(house(tmp_path), "alert", "--test")
    assert result.exit_code == 1
    assert "nobody is told; name channels under alerts" in result.output


def test_a_try_needs_to_be_asked_for_and_a_delivery_that_is_there(tmp_path: Path):
    assert amp(house(tmp_path), "alert").exit_code == 2
    result = amp(tmp_path, "alert", "--test", "--delivery", "none")
    assert result.exit_code == 1
    assert "there is no delivery none" in result.output


def test_hours_that_wait_are_named_by_delivery(tmp_path: Path):
    folder = house(tmp_path)
    assert amp(folder, "waiting").exit_code == 0
    (organization,) = read(folder / "defs.yaml", {})
    run = OrganizationRun(organization).projects["shop7"]
    one, other = run.project.deliveries
    for n in range(3):
        run.deduped.dedupe(FIRST_HOUR + n)
    run.deliver(run.archive(one), one, FIRST_HOUR + 1, BY)
    for hour in (FIRST_HOUR, FIRST_HOUR + 1, FIRST_HOUR + 2):
        run.deliver(run.archive(other), other, hour, BY)
    # Neither is needed to know.
    for name in ("landing", "all", "some"):
        shutil.rmtree(tmp_path / name)
    result = amp(folder, "waiting", "--project", "shop7")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "shop7  all  2 hours wait",
        f"  {FIRST_HOUR}",
        f"  {FIRST_HOUR + 2}",
        "shop7  some  0 hours wait",
    ]


def test_hours_wait_too_that_were_delivered_otherwise_than_they_are_on_record(tmp_path: Path):
    (organization,) = read(house(tmp_path) / "defs.yaml", {})
    run = OrganizationRun(organization).projects["shop7"]
    one, _ = run.project.deliveries
    run.deduped.dedupe(FIRST_HOUR)
    run.deliver(run.archive(one), one, FIRST_HOUR, BY)
    assert waiting_hours(run, one) == undelivered_hours(run, one) == []
    put(tmp_path / "landing", object_name(FIRST_HOUR, 1), event(uuid="late"))
    again = OrganizationRun(organization).projects["shop7"]
    again.deduped.dedupe(FIRST_HOUR)
    assert waiting_hours(again, one) == [FIRST_HOUR]
    assert undelivered_hours(again, one) == []


def test_hours_with_merged_ids_wait_for_these_too(tmp_path: Path):
    folder = house(tmp_path, what=["events", "merged_ids"])
    (organization,) = read(folder / "defs.yaml", {})
    run = OrganizationRun(organization)
    project = run.projects["shop7"]
    one, _ = project.project.deliveries
    project.deduped.dedupe(FIRST_HOUR)
    assert waiting_hours(project, one) == [FIRST_HOUR]
    run.merged.merge(FIRST_HOUR)
    project.deliver(project.archive(one), one, FIRST_HOUR, BY)
    assert waiting_hours(project, one) == []


def test_a_dagster_that_is_not_at_work_is_told_once_and_ends_with_status_1(tmp_path: Path, box: Mailbox):
    folder = house(tmp_path / "house", {"mail": mail(box), "to": ["data@house.example"]})
    home = dagster_home_in(tmp_path / "home")
    for _ in range(2):
        result = amp(folder, "watch", home=home)
        assert result.exit_code == 1
        assert "house: no daemon has ever run in this Dagster instance" in result.output
        assert SECRET not in result.output
    assert box.subjects() == ["house / dagster is not at work"]


def test_watch_needs_a_dagster_home(tmp_path: Path):
    result = amp(house(tmp_path), "watch")
    assert result.exit_code == 1
    assert "DAGSTER_HOME is not set" in result.output
