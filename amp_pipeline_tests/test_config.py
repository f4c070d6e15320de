"""Each test writes one thing wrongly into a good file and reads what the refusal says."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from amp_pipeline.config import COMPONENT, Organization, check_together, read
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.hours import Hour

GOOD = """
type: amp_pipeline.Organization
attributes:
  id: 3
  slug: acme
  workspace: ../workspace
  owners: [data@acme.example, team:data]
  projects:
    - id: 7
      slug: shop
      first_hour: 2024-05-06-00:00
      last_hour: 2025-01-01-00:00
      source:
        type: landing
        url: "{{ env.LANDING }}/raw"
        events: "{project}/{yyyy}/{MM}/{dd}/{H}-{n}{ext}"
        complete: null
      dedupe: {window: 36h}
      parts: {events: 1000, bytes: null}
      deliveries:
        - name: backup
          url: /buckets/backup
          what: [events, merged_ids]
          parts: {events: 10}
          names: {first_part: 1, padded_hour: true}
          complete_markers: false
          enabled: false
        - name: purchases
          url: buckets/purchases
          filter: event_type = 'purchase'
    - id: 8
      slug: app
      first_hour: 2024-05-07-00:00
      source: {url: /landing/app}
---
type: dagster.SomethingElse
attributes: {nonsense: 1}
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "acme" / "defs.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def good(tmp_path: Path) -> dict[str, Any]:
    """A small good description, to be spoiled."""
    return {
        "id": 3,
        "slug": "acme",
        "workspace": str(tmp_path / "workspace"),
        "projects": [project(tmp_path, 7, "shop"), project(tmp_path, 8, "app")],
    }


def project(tmp_path: Path, number: int, slug: str) -> dict[str, Any]:
    return {
        "id": number,
        "slug": slug,
        "first_hour": "2024-05-06-00:00",
        "source": {"url": str(tmp_path / "landing")},
        "dedupe": {},
        "parts": {},
        "deliveries": [
            {"name": "all", "url": str(tmp_path / "out" / slug), "names": {}},
            {"name": "some", "url": str(tmp_path / "some" / slug), "filter": "paying"},
        ],
    }


def described(tmp_path: Path, attributes: Any) -> list[Organization]:
    return read(write(tmp_path, yaml.safe_dump({"type": COMPONENT, "attributes": attributes})), {})


def refusal(tmp_path: Path, attributes: Any) -> str:
    with pytest.raises(ConfigError) as found:
        described(tmp_path, attributes)
    message = str(found.value)
    assert message.startswith(str(tmp_path / "acme" / "defs.yaml"))
    return message


def spoiled(tmp_path: Path, path: str, value: Any) -> str:
    """What is said when the field at ``path`` has ``value``, or is gone where that is ``...``."""
    attributes = good(tmp_path)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = attributes
    for step in way:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return refusal(tmp_path, attributes)


def test_good_file_is_read_and_its_paths_are_relative_to_it(tmp_path: Path):
    (acme,) = read(write(tmp_path, GOOD), {"LANDING": "/landing"})
    shop, app = acme.projects
    assert (acme.id, acme.slug, acme.owners) == (3, "acme", ("data@acme.example", "team:data"))
    assert acme.workspace == str(tmp_path / "workspace")
    assert shop.source.url == "/landing/raw"
    assert shop.source.complete is None
    assert shop.events_pattern.hour_of("7/2024/05/06/10-3.gz") == Hour.parse("2024-05-06-10:00")
    assert (shop.dedupe.window, app.dedupe.window) == (timedelta(hours=36), timedelta(days=7))
    assert (shop.parts.events, shop.parts.bytes) == (1000, None)
    backup, purchases = shop.deliveries
    assert backup.url == "/buckets/backup"
    assert backup.what == {"events", "merged_ids"}
    assert (backup.names.first_part, backup.names.padded_hour) == (1, True)
    assert (backup.complete_markers, backup.enabled) == (False, False)
    assert purchases.url == str(tmp_path / "acme" / "buckets" / "purchases")
    assert (purchases.what, purchases.complete_markers, purchases.enabled) == ({"events"}, True, True)
    assert app.deliveries == ()


def test_hours_of_a_project_and_of_its_organization(tmp_path: Path):
    (acme,) = read(write(tmp_path, GOOD), {"LANDING": "/landing"})
    shop = acme.projects[0]
    assert shop.holds(shop.first_hour)
    assert not shop.holds(shop.first_hour + -1)
    assert shop.last_hour is not None
    assert shop.holds(shop.last_hour)
    assert not shop.holds(shop.last_hour + 1)
    assert acme.first_hour == shop.first_hour
    assert acme.last_hour is None
    assert acme.merged_ids_window == timedelta(days=7)


def test_window_of_merged_ids_is_the_largest_rounded_up(tmp_path: Path):
    attributes = good(tmp_path)
    for at, window in enumerate(("90m", "30s")):
        attributes["projects"][at]["dedupe"] = {"window": window}
    (acme,) = described(tmp_path, attributes)
    assert acme.merged_ids_window == timedelta(hours=2)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("nme", "id, slug, workspace"),
        ("projects.0.first_huor", "first_hour"),
        ("projects.1.source.ulr", "type, url, events"),
        ("projects.0.dedupe.windw", "window"),
        ("projects.0.parts.event", "events, bytes"),
        ("projects.0.deliveries.1.filtr", "name, url, what, filter"),
        ("projects.0.deliveries.0.names.first", "first_part, padded_hour"),
    ],
)
def test_misspelt_field_is_named_with_those_that_are_known(tmp_path: Path, path: str, known: str):
    message = spoiled(tmp_path, path, 1)
    where = path.replace(".0", "[0]").replace(".1", "[1]")
    assert f"{where}: there is no such field; known here are" in message
    assert known in message


@pytest.mark.parametrize(
    "path", ["id", "projects", "projects.1.first_hour", "projects.0.source.url", "projects.0.deliveries.1.url"]
)
def test_missing_field_is_named(tmp_path: Path, path: str):
    where = path.replace(".0", "[0]").replace(".1", "[1]")
    assert f"{where}: is missing; add it" in spoiled(tmp_path, path, ...)


def test_every_wrong_field_has_a_line(tmp_path: Path):
    attributes = good(tmp_path)
    del attributes["id"]
    attributes["projects"][0]["first_hour"] = "today"
    attributes["projects"][1]["deliveries"][0]["nme"] = "x"
    assert len(refusal(tmp_path, attributes).splitlines()) == 4


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("projects.0.first_hour", "2024-05-06", ["projects[0].first_hour", "like 2024-05-06-00:00"]),
        ("projects.0.first_hour", "2024-05-06-00:30", ["projects[0].first_hour", "like 2024-05-06-00:00"]),
        (
            "projects.0.last_hour",
            "2024-05-05-00:00",
            ["projects[0]", "last_hour 2024-05-05-00:00 lies before first_hour"],
        ),
        ("projects.0.dedupe.window", "a week", ["projects[0].dedupe.window", "like 7d, 36h or 90m"]),
        ("projects.0.dedupe.window", "0d", ["projects[0].dedupe.window", "like 7d, 36h or 90m"]),
        ("projects.0.dedupe.window", 7, ["projects[0].dedupe.window", "like 7d, 36h or 90m"]),
        (
            "projects.0.deliveries.0.filter",
            "evnt_type = 'x'",
            ["projects[0].deliveries[0].filter", "did you mean event_type?"],
        ),
        (
            "projects.0.deliveries.0.url",
            "s3://bucket",
            ["projects[0].deliveries[0].url", "buckets by URL are not supported yet"],
        ),
        ("projects.0.source.url", "s3://bucket", ["projects[0].source.url", "not supported yet"]),
        ("workspace", "s3://bucket", ["workspace", "not supported yet"]),
        ("projects.0.source.events", "{yyyy}{MM}{dd}.json", ["projects[0].source.events", "{H} is missing"]),
        ("projects.0.source.complete", "{hour}", ["projects[0].source.complete", "unknown placeholder {hour}"]),
        ("projects.0.deliveries.0.name", "raw_events", ["projects[0].deliveries[0].name", "choose another"]),
        ("projects.0.deliveries.0.name", "All Events", ["projects[0].deliveries[0].name", "pattern"]),
        ("projects.0.deliveries.0.what", [], ["projects[0].deliveries[0].what"]),
        ("projects.0.deliveries.0.what", ["merges"], ["projects[0].deliveries[0].what", "'events' or 'merged_ids'"]),
        (
            "projects.0.deliveries.1.what",
            ["merged_ids"],
            ["projects[0].deliveries[1]", "add events or remove the filter"],
        ),
        ("projects.0.deliveries.0.names.first_part", 2, ["projects[0].deliveries[0].names.first_part"]),
        ("projects.0.parts.events", 0, ["projects[0].parts.events"]),
        ("projects.0.id", "seven", ["projects[0].id"]),
        ("projects.1.id", 7, ["projects: two have the id 7"]),
        ("projects.1.slug", "shop", ["two have the slug shop"]),
        ("slug", "shop", ["two have the slug shop"]),
        ("projects.0.deliveries.1.name", "all", ["projects[0]", "two have the name all"]),
        ("projects", [], ["projects"]),
        ("owners", ["somebody"], ["owners", "neither an e-mail address nor team:name"]),
    ],
)
def test_wrong_value_is_refused_with_what_would_be_right(tmp_path: Path, path: str, value: Any, parts: list[str]):
    message = spoiled(tmp_path, path, value)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("path", ["out/shop", "some/../out/shop", "out/shop/"])
def test_two_deliveries_of_a_project_to_one_url_are_refused(tmp_path: Path, path: str):
    message = spoiled(tmp_path, "projects.0.deliveries.1.url", f"{tmp_path}/{path}")
    assert f"two have the url {tmp_path}/out/shop" in message


def test_two_projects_that_write_merged_ids_to_one_url_are_refused(tmp_path: Path):
    attributes = good(tmp_path)
    for one in attributes["projects"]:
        one["deliveries"][0].update(url=str(tmp_path / "out"), what=["events", "merged_ids"])
    message = refusal(tmp_path, attributes)
    assert "deliveries shop.all and app.all both write the organization's merged ids" in message
    attributes["projects"][0]["deliveries"][0]["what"] = ["events"]
    assert described(tmp_path, attributes)


@pytest.mark.parametrize("where", ["landing", "landing/below", ".", "workspace", "workspace/3"])
def test_delivery_into_a_landing_or_the_workspace_is_refused(tmp_path: Path, where: str):
    message = spoiled(tmp_path, "projects.0.deliveries.0.url", str(tmp_path / where))
    assert "delivery shop.all writes to" in message
    assert "overlaps with the" in message


def test_workspace_in_a_landing_is_refused(tmp_path: Path):
    assert "overlaps with the source of shop" in spoiled(tmp_path, "workspace", str(tmp_path / "landing" / "ws"))


def other(tmp_path: Path, **changes: Any) -> Organization:
    attributes = {
        **good(tmp_path / "other"),
        "id": 4,
        "slug": "other",
        "projects": [project(tmp_path / "other", 9, "blog")],
    }
    return described(tmp_path, {**attributes, **changes})[0]


def test_organizations_apart_may_stand_together(tmp_path: Path):
    check_together([*described(tmp_path, good(tmp_path)), other(tmp_path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 3}, "organization 3 is described twice"),
        ({"slug": "acme"}, "share the slug or project id acme"),
        ({"slug": "shop"}, "share the slug or project id shop"),
        ({"projects": [("there", 7, "blog")]}, "share the slug or project id 7"),
        ({"projects": [("", 9, "shop")]}, "share the slug or project id shop"),
    ],
)
def test_organizations_that_share_a_name_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    if "projects" in changes:
        changes = {"projects": [project(tmp_path / "other", *one[1:]) for one in changes["projects"]]}
    with pytest.raises(ConfigError, match=message):
        check_together([*described(tmp_path, good(tmp_path)), other(tmp_path, **changes)])


@pytest.mark.parametrize("bucket", ["out/shop", "out/shop/below", "out"])
def test_bucket_of_two_organizations_is_refused(tmp_path: Path, bucket: str):
    blog = project(tmp_path / "other", 9, "blog")
    blog["deliveries"][0]["url"] = str(tmp_path / bucket)
    with pytest.raises(ConfigError, match="a bucket belongs to one organization"):
        check_together([*described(tmp_path, good(tmp_path)), other(tmp_path, projects=[blog])])


def test_environment_variable_that_is_not_set_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"acme/defs.yaml names the environment variable LANDING, which is not set"):
        read(write(tmp_path, GOOD), {})


@pytest.mark.parametrize("data", [b"a: [", b"a: 1\n  b: 2\n", b"\xff\xfe\xfa", b"a: \x00"])
def test_file_that_is_no_yaml_is_named(tmp_path: Path, data: bytes):
    file = write(tmp_path, "")
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"acme/defs.yaml can't be read"):
        read(file, {})


def test_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none.yaml can't be read"):
        read(tmp_path / "none.yaml", {})


@pytest.mark.parametrize("attributes", [None, [], "text", {}])
def test_attributes_that_are_no_description_are_refused(tmp_path: Path, attributes: Any):
    assert "is wrong" in refusal(tmp_path, attributes)


def test_length_of_time_without_end_is_refused(tmp_path: Path):
    assert "write a shorter length of time" in spoiled(tmp_path, "projects.0.dedupe.window", "999999999999d")


def test_every_process_writes_a_description_alike():
    """What is delivered is a set, and the order of a set depends on the process; fingerprints must not."""
    program = (
        "from amp_pipeline.config import Delivery; "
        "print(Delivery(name='a', url='/a', what=['merged_ids', 'events']).model_dump(mode='json')['what'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment, text=True)
    assert found.stdout == "['events', 'merged_ids']\n"
