"""A snapshot of the dashboard, from a server to the workspace; and ``amp-pipeline dashboard``."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from amp_pipeline.cli import main
from amp_pipeline.config import Organization
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.suppression import Suppression
from amp_pipeline.dashboard import Taken, take
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.sources.dashboard_api import DashboardApi
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.dashboard import DashboardStore
from amp_pipeline_tests.dashboard_server import (
    API_KEY,
    SECRET_KEY,
    Dashboard,
    Fault,
    cohort,
    dashboard,
    event_type,
    members,
)

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[Dashboard]:
    with dashboard() as one:
        one.cohorts = [cohort("a"), cohort("b")]
        one.members = {"a": members((1, "x"), (2, "y")), "b": members((3, "z"))}
        one.events = [event_type("buy")]
        one.categories = [{"id": 1, "name": "Sales"}]
        yield one


def written(server: Dashboard, folder: Path, **project: Any) -> dict[str, Any]:
    return {
        "id": 9,
        "slug": "house",
        "workspace": str(folder / "workspace"),
        "projects": [
            {
                "id": 7,
                "slug": "shop7",
                "first_hour": "2026-11-20-00:00",
                "source": {
                    "type": "amplitude_export",
                    "url": server.api,
                    "api_key": API_KEY,
                    "secret_key": SECRET_KEY,
                    "attempts": 3,
                    "read_timeout": 5,
                },
                "dashboard": {},
                **project,
            }
        ],
    }


class House:
    """An organization, and days that go by."""

    def __init__(self, server: Dashboard, folder: Path) -> None:
        self.server = server
        self.organization = Organization.model_validate(written(server, folder))
        self.workspace = open_store(self.organization.workspace)
        self.store = DashboardStore(self.workspace, 9, 7)
        self.told: list[str] = []
        self.day = 0

    def take(self, **project: Any) -> Taken:
        (one,) = self.organization.projects
        http = Http(self.server.source(attempts=3), sleep=lambda _: None)
        self.day += 1
        return take(
            self.organization,
            one.model_copy(update=project),
            self.workspace,
            NOON + timedelta(days=self.day),
            run="run",
            version="1",
            tell=self.told.append,
            api=DashboardApi(http, sleep=lambda _: None),
        )

    def people(self) -> dict[str, list[str]]:
        latest = self.store.latest()
        assert latest is not None
        return {
            name: frame["user_id"].to_list()
            for name, frame in zip(sorted(latest.record.members), latest.members(), strict=True)
        }

    def asked_for(self) -> list[str]:
        """Cohorts whose files were asked for since this was last asked."""
        found = [of for _, of in sorted(self.server.requests.items())]
        self.server.requests.clear()
        return sorted(found)


@pytest.fixture
def house(server: Dashboard, tmp_path: Path) -> House:
    return House(server, tmp_path)


def test_all_of_it_is_kept(house: House) -> None:
    taken = house.take()
    assert (taken.is_new, taken.cohorts, taken.members, taken.files) == (True, 2, 3, 2)
    assert (taken.event_types, taken.categories, taken.not_available, taken.unread) == (1, 1, {}, 0)
    assert house.people() == {"a": ["x", "y"], "b": ["z"]}


def test_cohorts_that_were_not_computed_anew_are_not_asked_for_again(house: House) -> None:
    house.take()
    assert house.asked_for() == ["a", "b"]
    again = house.take()
    assert (again.is_new, again.files, again.members) == (False, 0, 3)
    house.server.cohorts[1]["lastComputed"] += 3600
    house.server.members["b"] = members((4, "w"))
    changed = house.take()
    assert house.asked_for() == ["b"]
    assert (changed.is_new, changed.files) == (True, 1)
    assert house.people() == {"a": ["x", "y"], "b": ["w"]}


def test_cohorts_of_which_nobody_knows_when_they_were_computed_are_always_asked_for(house: House) -> None:
    house.server.cohorts[0]["lastComputed"] = None
    house.take()
    house.asked_for()
    house.take()
    assert house.asked_for() == ["a"]


def test_cohort_that_is_gone_takes_its_members_along(house: House) -> None:
    house.take()
    del house.server.cohorts[0]
    assert house.take().is_new
    assert house.people() == {"b": ["z"]}


def test_limit_of_the_month_is_kept_those_that_were_never_had_first(house: House) -> None:
    house.take()
    house.asked_for()
    house.server.cohorts = [cohort(name, lastComputed=5) for name in ("a", "b", "c", "d")]
    house.server.members |= {"c": members((5, "c")), "d": members((6, "d"))}
    house.server.usage = {"rest_download": {"limit": 500, "usage": 497}}
    taken = house.take()
    assert house.asked_for() == ["a", "c", "d"]
    assert dict(taken.not_available) == {
        "members of cohort b": "Amplitude's limit for this month allows 3 more files; "
        "those of an earlier snapshot are kept"
    }
    assert house.people() == {"a": ["x", "y"], "b": ["z"], "c": ["c"], "d": ["d"]}
    house.server.usage = None
    house.take()
    assert house.asked_for() == ["b"]


def test_cohorts_that_are_never_given_do_not_use_up_what_is_left_of_the_month(house: House) -> None:
    def asked() -> list[str]:
        """Whose file was asked for, given or not."""
        paths = [path.split("/") for path in house.server.paths("/api/5/cohorts/request/")]
        house.server.asked.clear()
        return sorted(path[5] for path in paths if len(path) == 6)

    house.server.cohorts += [cohort("0"), cohort("1")]
    house.take()
    assert asked() == ["0", "1", "a", "b"]
    house.server.usage = {"rest_download": {"limit": 500, "usage": 499}}
    for _ in range(2):
        house.server.cohorts[0]["lastComputed"] += 1
        house.take()
        assert asked() == ["a"]
    house.server.members["0"] = members((7, "w"))
    house.server.usage = None
    house.take()
    assert asked() == ["0", "1"]
    assert house.people() == {"0": ["w"], "a": ["x", "y"], "b": ["z"]}


def test_one_cohort_that_can_not_be_had_holds_up_no_other(house: House) -> None:
    house.server.faults.append(Fault("/api/5/cohorts/request/a", 403, b"not yours"))
    taken = house.take()
    (why,) = taken.not_available.values()
    assert "/api/5/cohorts/request/a answers 403: not yours" in why
    assert "kept" not in why
    assert house.people() == {"b": ["z"]}
    assert house.take().not_available == {}
    assert house.people() == {"a": ["x", "y"], "b": ["z"]}


def test_server_that_goes_away_is_not_asked_for_each_of_many_cohorts(house: House) -> None:
    house.take()
    house.server.cohorts = [cohort(f"c{n}") for n in range(20)]
    house.server.faults.extend([Fault("/api/5/", 429)] * 60)
    taken = house.take()
    assert len(taken.not_available) == 20
    assert sum("not asked for, since" in why for why in taken.not_available.values()) >= 17
    # Three at a time, three tries each.
    assert 60 - len(house.server.faults) <= 9


def test_lists_that_can_not_be_had_leave_the_snapshot_as_it_was(house: House) -> None:
    house.take()
    for path in ("/api/3/cohorts", "/api/2/events/list", "/api/2/taxonomy/category"):
        house.server.events[0]["totals"] += 1
        house.server.faults.extend([Fault(path, 500)] * 3)
        with pytest.raises(SourceError):
            house.take()
    assert len(house.store.stamps()) == 1


def test_what_can_not_be_had_by_the_plan_is_said(house: House) -> None:
    house.server.no_taxonomy = 403
    taken = house.take()
    assert list(taken.not_available) == ["taxonomy"]
    assert any(line.startswith("taxonomy: not available: /api/2/taxonomy/event answers 403") for line in house.told)


def test_cohorts_may_be_switched_off(house: House) -> None:
    (project,) = house.organization.projects
    assert project.dashboard is not None
    taken = house.take(dashboard=project.dashboard.model_copy(update={"cohorts": False}))
    assert (taken.cohorts, taken.members, list(taken.not_available)) == (0, 0, ["cohorts"])
    assert house.server.paths("/api/3") == house.server.paths("/api/5") == []


def test_three_requests_at_a_time_at_most(house: House) -> None:
    house.server.cohorts = [cohort(f"c{n}") for n in range(12)]
    house.server.members = {f"c{n}": members((n, "x")) for n in range(12)}
    house.server.slow = 0.02
    assert house.take().files == 12
    assert 1 < house.server.most_at_once <= 3


def test_entries_that_can_not_be_read_are_counted(house: House) -> None:
    house.server.events += [{"value": None}, 5]
    house.server.members["a"] = members(("no", ""), (1, "x"))
    assert house.take().unread == 3


def test_nothing_that_is_told_has_ids_or_keys(house: House) -> None:
    house.server.faults.append(Fault("/api/5/cohorts/request/a", 400, f"{API_KEY} {SECRET_KEY}".encode()))
    house.take()
    assert house.told
    assert not any(secret in line for line in house.told for secret in (API_KEY, SECRET_KEY, "owner@"))


def test_deleted_user_does_not_come_back_with_the_next_snapshot(house: House) -> None:
    house.take()
    (project,) = house.organization.projects
    suppression = Suppression(
        id="s1", project=7, user_ids=["x"], amplitude_ids=["3"], asked_at=NOON.isoformat(), up_to=0, note=""
    )
    deletion = UserDeletion(house.organization, project, suppression)
    deletion.store.add(suppression)
    assert deletion.clean_dashboard() == []
    house.store = DashboardStore(house.workspace, 9, 7)
    assert house.people() == {"a": ["y"], "b": []}
    for one in house.server.cohorts:
        one["lastComputed"] += 3600
    house.take()
    assert house.people() == {"a": ["y"], "b": []}
    files = house.workspace.find("9/7/dashboard/members/")
    held = [pl.read_parquet(house.workspace.uri(info.name))["user_id"].to_list() for info in files]
    assert sorted(held) == [[], ["y"]]


def test_deletion_that_can_not_look_is_not_finished(house: House) -> None:
    house.take()
    (project,) = house.organization.projects
    suppression = Suppression(
        id="s1", project=7, user_ids=["x"], amplitude_ids=[], asked_at=NOON.isoformat(), up_to=None, note=""
    )
    deletion = UserDeletion(house.organization, project, suppression)
    deletion.store.add(suppression)
    (file, *_) = house.workspace.find("9/7/dashboard/members/")
    house.workspace.put(file.name, b"damaged")
    (left,) = deletion.clean_dashboard()
    assert "snapshots of the dashboard may hold users" in left


def test_project_without_a_dashboard_is_told_how_to_have_one(house: House) -> None:
    with pytest.raises(ConfigError, match="project shop7 has no dashboard; write `dashboard: {}` in it"):
        house.take(dashboard=None)


def command(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["dashboard", *arguments], env={"AMP_PIPELINE_ORGANIZATIONS": str(folder)})


def test_command_takes_one_now(server: Dashboard, tmp_path: Path) -> None:
    defs = {"type": "amp_pipeline.Organization", "attributes": written(server, tmp_path)}
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(defs))
    server.no_taxonomy = 404
    result = command(tmp_path, "--project", "shop7")
    assert result.exit_code == 0, result.output
    assert "shop7: 2 cohorts with 3 members, 1 event type, 0 categories" in result.output
    assert "taxonomy: not available" in result.output
    assert "the same as the snapshot of" in command(tmp_path).output
    server.faults.extend([Fault("/api/2/events/list", 401)])
    result = command(tmp_path)
    assert result.exit_code == 1
    assert "Check api_key and secret_key" in result.output
    for secret in (API_KEY, SECRET_KEY):
        assert secret not in result.output


def test_command_takes_other_projects_where_one_can_not_be_had(server: Dashboard, tmp_path: Path) -> None:
    told = written(server, tmp_path)
    (project,) = told["projects"]
    shut = {**project["source"], "url": "http://127.0.0.1:1", "attempts": 1}
    told["projects"] = [{**project, "id": 6, "slug": "shut", "source": shut}, project]
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump({"type": "amp_pipeline.Organization", "attributes": told}))
    found = command(tmp_path)
    assert found.exit_code == 1
    assert "shop7: 2 cohorts with 3 members" in found.output
    assert "shut: http://127.0.0.1:1/api/2/events/list gave no whole answer" in found.output


def test_command_without_anything_to_take(server: Dashboard, tmp_path: Path) -> None:
    defs = {"type": "amp_pipeline.Organization", "attributes": written(server, tmp_path, dashboard=None)}
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(defs))
    for arguments in ([], ["--project", "shop7"]):
        result = command(tmp_path, *arguments)
        assert result.exit_code == 1
        assert "dashboard" in result.output
