"""Each test writes one thing wrongly into a good file and reads what the refusal says."""

import json
import os
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from amp_pipeline import config_files
from amp_pipeline.alert_settings import Recipients, told
from amp_pipeline.config import Delivery, Organization
from amp_pipeline.config_files import COMPONENT, check_together, read
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.hours import Hour
from amp_pipeline.destinations.archive import Archive
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.workspace.records import DedupedRecord

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
        ("projects.1.source.ulr", "type, url, s3, events"),
        ("projects.0.dedupe.windw", "window"),
        ("projects.0.parts.event", "events, bytes"),
        ("projects.0.deliveries.1.filtr", "name, url, s3, what, filter"),
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
        ("projects.0.deliveries.0.url", "gs://bucket", ["projects[0].deliveries[0].url", "write s3://bucket/path"]),
        ("projects.0.deliveries.0.url", "s3://", ["projects[0].deliveries[0].url", "like s3://my-bucket"]),
        ("projects.0.source.url", "s3://Bucket/x", ["projects[0].source.url", "like s3://my-bucket"]),
        ("workspace", "s3://bucket/a//b", ["workspace", "like s3://my-bucket"]),
        ("s3", {"endpoint": "localhost:9000"}, ["s3.endpoint", "like https://s3.example.com:9000"]),
        ("s3", {"endpoint": "http://s3_server:9000"}, ["s3.endpoint", "s3_server is no name of a host"]),
        ("s3", {"endpoint": "http://a:geheim@host"}, ["s3.endpoint", "leave credentials out"]),
        ("s3", {"attempts": 20, "read_timeout": 60}, ["s3: attempts times both timeouts is 1400 s", "below 720"]),
        ("s3", {"regions": "x"}, ["s3.regions: there is no such field; known here are endpoint, region"]),
        ("s3", {"role": "my-role"}, ["s3.role", "like arn:aws:iam::123456789012:role/amp-pipeline"]),
        ("s3", {"external_id": "geheim"}, ["s3: external_id is asked for by a role"]),
        ("s3", {"access_key_id": "AKIA"}, ["s3: access_key_id and secret_access_key belong together"]),
        (
            "s3",
            {"access_key_id": "AKIA", "secret_access_key": "geheim", "profile": "p"},
            ["s3: a profile and access_key_id are two ways"],
        ),
        ("s3", {"encryption": {"type": "aes"}}, ["s3.encryption.type", "'sse-s3' or 'sse-kms'"]),
        ("s3", {"encryption": {"type": "sse-s3", "key": "k"}}, ["s3.encryption: a key belongs to type: sse-kms"]),
        ("s3", {"tags": {str(number): "x" for number in range(11)}}, ["s3.tags", "10 tags, not 11"]),
        ("projects.0.deliveries.0.s3", {"account": "12"}, ["projects[0].deliveries[0].s3.account"]),
        ("s3", {"account": 123456789012}, ["s3.account: write its 12 digits in quotes"]),
        ("s3", {"encryption": {"type": "sse-kms", "key": "my key"}}, ["s3.encryption.key: write the ARN of a key"]),
        ("s3", {"encryption": {"type": "sse-kms", "key": "arn:aws:kms:x"}}, ["s3.encryption.key: write the ARN"]),
        ("s3", {"endpoint": "http://s3.acme.example:99999"}, ["s3.endpoint: write an address"]),
        ("s3", {"sts_endpoint": "http://[s3.acme.example"}, ["s3.sts_endpoint: write an address"]),
        ("s3", {"tags": ["team=data"]}, ["s3.tags: write each tag as name: value"]),
        ("s3", {"access_key_id": "", "secret_access_key": "geheim"}, ["s3.access_key_id: is empty"]),
        ("s3", {"access_key_id": "AKIA", "secret_access_key": "geheim\n"}, ["s3.secret_access_key", "line end in it"]),
        ("projects.0.source.s3", {"storage_class": "GLACIER"}, ["projects[0].source.s3.storage_class"]),
        ("projects.0.source.events", "{yyyy}{MM}{dd}.json", ["projects[0].source.events", "{H} is missing"]),
        ("projects.0.source.complete", "{hour}", ["projects[0].source.complete", "unknown placeholder {hour}"]),
        ("projects.0.deliveries.0.name", "raw_events", ["projects[0].deliveries[0].name", "choose another"]),
        ("projects.0.deliveries.0.name", "All Events", ["projects[0].deliveries[0].name: write a short name of"]),
        ("slug", "a" * 61, ["slug: write a short name of small letters", "at most 60 characters"]),
        ("slug", "", ["slug: write a short name of small letters"]),
        ("workspace", "", ["workspace: is empty; write it"]),
        ("memory", "1MiB", ["memory: write 256MiB or more"]),
        ("projects.0.reconcile", {"at": "4:30"}, ["projects[0].reconcile.at: write a time of day", '"04:30"']),
        # What YAML makes of 14:30 without quotes.
        ("projects.0.reconcile", {"at": 870}, ["projects[0].reconcile.at: write a time of day", "in quotes"]),
        ("projects.0.reconcile", {"days": 1000}, ["projects[0].reconcile.days: write 366 or less"]),
        ("projects.0.automatic", "maybe", ["projects[0].automatic: write true or false"]),
        ("s3", {"read_timeout": 0}, ["s3.read_timeout: write more than 0"]),
        (
            "projects.0.deliveries.0.export_api",
            {"api_key": "", "secret_key": "geheim"},
            ["projects[0].deliveries[0].export_api.api_key: is empty; is the environment variable that it names set"],
        ),
        (
            "projects.0.deliveries.0.filtre",
            "x",
            ["projects[0].deliveries[0].filtre: there is no such field; known", "tables; did you mean filter?"],
        ),
        ("projects.0.deliveries.0.what", [], ["projects[0].deliveries[0].what: is empty; write one at least"]),
        ("projects.0.deliveries.0.what", "events", ["projects[0].deliveries[0].what: write a list"]),
        ("projects.0.deliveries.0.what", ["merges"], ["projects[0].deliveries[0].what", "'events' or 'merged_ids'"]),
        (
            "projects.0.deliveries.1.what",
            ["merged_ids"],
            ["projects[0].deliveries[1]", "add events or remove the filter"],
        ),
        ("projects.0.deliveries.0.names.first_part", 2, ["projects[0].deliveries[0].names.first_part"]),
        ("projects.0.parts.events", 0, ["projects[0].parts.events"]),
        ("projects.0.id", "seven", ["projects[0].id: write a whole number"]),
        ("projects.1.id", 7, ["projects: two have the id 7"]),
        ("projects.1.slug", "shop", ["two have the slug shop"]),
        ("slug", "shop", ["two have the slug shop"]),
        ("projects.0.deliveries.1.name", "all", ["projects[0]", "two have the name all"]),
        ("projects", [], ["projects: is empty; write one at least"]),
        ("owners", ["somebody"], ["owners", "neither an e-mail address nor team:name"]),
    ],
)
def test_wrong_value_is_refused_with_what_would_be_right(tmp_path: Path, path: str, value: Any, parts: list[str]):
    message = spoiled(tmp_path, path, value)
    for part in parts:
        assert part in message
    assert "geheim" not in message


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


SERVED = {"api_key": "key-of-readers", "secret_key": "secret-of-readers"}


def test_two_deliveries_with_one_key_are_refused(tmp_path: Path):
    shop = project(tmp_path, 7, "shop")
    first = shop["deliveries"][0]
    shop["deliveries"] = [
        {**first, "export_api": SERVED},
        {**first, "name": "other", "url": str(tmp_path / "others"), "export_api": {**SERVED, "secret_key": "another"}},
    ]
    message = spoiled(tmp_path, "projects", [shop])
    assert f"shop.{first['name']} and shop.other have the same api_key in export_api" in message
    assert SERVED["api_key"] not in message


def test_two_organizations_with_one_key_are_refused(tmp_path: Path):
    shop, blog = project(tmp_path, 7, "shop"), project(tmp_path / "other", 9, "blog")
    for one in (shop, blog):
        one["deliveries"][0]["export_api"] = SERVED
    acme = described(tmp_path, {**good(tmp_path), "projects": [shop]})
    with pytest.raises(ConfigError, match="have the same api_key in export_api"):
        check_together([*acme, other(tmp_path, projects=[blog])])


def test_filters_are_looked_at_unless_nothing_is_done_with_them(tmp_path: Path):
    shop = project(tmp_path, 7, "shop")
    shop["deliveries"][0]["filter"] = "no SQL at all ("
    attributes = {**good(tmp_path), "projects": [shop]}
    assert config_files.organization(attributes, tmp_path / "defs.yaml", filters=False)
    with pytest.raises(ConfigError, match="is no SQL condition"):
        config_files.organization(attributes, tmp_path / "defs.yaml")


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
    with pytest.raises(ConfigError, match=r"acme/defs.yaml (is no YAML|can't be read)"):
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


SECRET = "marker-of-a-secret"
MAIL = {"server": "smtp.acme.example", "sender": "amp@acme.example", "user": "amp", "password": SECRET}


def with_alerts(tmp_path: Path, **alerts: Any) -> Organization:
    return described(tmp_path, {**good(tmp_path), "owners": ["data@acme.example", "team:data"], "alerts": alerts})[0]


def test_administrators_are_the_owners_unless_others_are_named(tmp_path: Path):
    for alerts, addresses in (
        ({"mail": MAIL}, ["data@acme.example"]),
        ({"mail": MAIL, "to": ["ops@acme.example"]}, ["ops@acme.example"]),
        ({}, []),
    ):
        acme = with_alerts(tmp_path, **alerts)
        assert [one.address for one in told(acme.alerts, acme.owners, [], None)] == addresses


def test_whoever_made_a_delivery_and_whom_it_names_are_told_once_each(tmp_path: Path):
    channels = [f"json://{SECRET}", f"json://{SECRET}/2"]
    acme = with_alerts(tmp_path, mail=MAIL, channels=channels)
    further = [
        Recipients.model_validate({"to": ["anna@acme.example"], "channels": channels[:1]}),
        Recipients.model_validate({"to": ["data@acme.example", "anna@other.example"]}),
    ]
    assert [one.name for one in told(acme.alerts, acme.owners, further, "maker@acme.example")] == [
        "mailto data@…",
        "mailto maker@…",
        "mailto anna@…",
        "mailto anna@… (2)",
        "json",
        "json (2)",
    ]
    assert "mailto" not in str(told(acme.alerts, ["team:data"], [], "team:data"))


def test_servers_have_the_usual_ports(tmp_path: Path):
    for server, security, there in (
        ("smtp.acme.example", "starttls", ("smtp.acme.example", 587)),
        ("smtp.acme.example", "tls", ("smtp.acme.example", 465)),
        ("127.0.0.1", "none", ("127.0.0.1", 25)),
        ("smtp.acme.example:2525", "starttls", ("smtp.acme.example", 2525)),
    ):
        mail = with_alerts(tmp_path, mail={**MAIL, "server": server, "security": security}).alerts.mail
        assert mail is not None
        assert (mail.host, mail.port) == there


@pytest.mark.parametrize(
    ("alerts", "parts"),
    [
        ({"every": "10s"}, ["alerts.every", "write 1m or more"]),
        ({"remind": "5m"}, ["alerts.remind", "write 1h or more"]),
        ({"tries": 0}, ["alerts.tries"]),
        ({"ui": "dagster"}, ["alerts.ui", "like https://dagster.example.com"]),
        ({"ui": "http://dagster:port"}, ["alerts.ui", "like https://dagster.example.com"]),
        ({"ui": f"https://me:{SECRET}@dagster"}, ["alerts.ui", "leave credentials out"]),
        ({"to": ["ops@acme.example"]}, ["alerts.to names addresses", "add alerts.mail"]),
        ({"mail": MAIL, "to": [f"json://{SECRET}"]}, ["alerts.to[0]", "write plain e-mail addresses"]),
        ({"channels": ["ops@acme.example"]}, ["alerts.channels[0]", "belong into `to`"]),
        ({"channels": [SECRET]}, ["alerts.channels[0]", "Apprise URL"]),
        ({"channels": [f"json:// {SECRET}"]}, ["alerts.channels[0]", "Apprise URL"]),
        ({"channels": SECRET}, ["alerts.channels"]),
        ({"channels": [{"url": SECRET}]}, ["alerts.channels[0]"]),
        ({"mail": {**MAIL, "server": f"smtp://amp:{SECRET}@host"}}, ["alerts.mail.server", "name of a server"]),
        ({"mail": {**MAIL, "server": "host:99999"}}, ["alerts.mail.server", "name of a server"]),
        ({"mail": {**MAIL, "user": None}}, ["alerts.mail", "user and password belong together"]),
        ({"mail": {**MAIL, "security": "none"}}, ["alerts.mail", "never sent without encryption"]),
        ({"mail": {**MAIL, "sender": "amp"}}, ["alerts.mail.sender", "plain e-mail addresses"]),
        ({"mail": {**MAIL, "pass": SECRET}}, ["alerts.mail.pass", "known here are server, security, user"]),
        ({"tos": []}, ["alerts.tos", "known here are to, channels, mail, ui, every"]),
    ],
)
def test_wrong_alerts_are_refused_without_saying_secrets(tmp_path: Path, alerts: dict[str, Any], parts: list[str]):
    message = refusal(tmp_path, {**good(tmp_path), "alerts": alerts})
    for part in parts:
        assert part in message
    assert SECRET not in message


@pytest.mark.parametrize("path", ["projects.0", "projects.0.deliveries.1"])
def test_alerts_of_a_project_or_delivery_have_people_alone(tmp_path: Path, path: str):
    where = path.replace(".0", "[0]").replace(".1", "[1]")
    message = spoiled(tmp_path, f"{path}.alerts", {"every": "1h"})
    assert f"{where}.alerts.every: there is no such field; known here are to, channels" in message
    message = spoiled(tmp_path, f"{path}.alerts", {"to": ["ops@acme.example"]})
    assert "alerts of shop" in message
    assert "add alerts.mail" in message


def test_owner_of_a_delivery_is_an_address_or_a_team(tmp_path: Path):
    assert "neither an e-mail address nor team:name" in spoiled(tmp_path, "projects.0.deliveries.0.owner", "anna")


def test_secrets_are_in_no_dump_schema_or_error(tmp_path: Path):
    acme = with_alerts(tmp_path, mail=MAIL, channels=[f"json://{SECRET}"])
    dumps = [repr(acme), str(acme.model_dump()), acme.model_dump_json(), json.dumps(Organization.model_json_schema())]
    assert not any(SECRET in dump for dump in dumps)
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, GOOD.replace("id: 3", "id: three")), {"LANDING": SECRET})
    trace = "".join(traceback.format_exception(caught.value))
    assert SECRET not in trace


def test_who_is_told_has_no_part_in_what_is_delivered(tmp_path: Path):
    """A change of it must not write all hours again."""
    plain = {"name": "all", "url": "/bucket"}
    told_about = {
        **plain,
        "owner": "anna@acme.example",
        "alerts": {"to": ["a@b.example"], "channels": [SECRET + "://x"]},
    }
    acme = with_alerts(tmp_path, mail=MAIL)
    archives = [
        Archive(acme, acme.projects[0], Delivery.model_validate(one), MemoryStore(), MemoryStore())
        for one in (plain, told_about)
    ]
    record = DedupedRecord(
        format=1,
        hour="2024-05-06-00:00",
        fingerprint="",
        landed_as="",
        window={},
        missing=[],
        parts=[],
        landed=0,
        quarantined=0,
        repeats=0,
        conflicts=0,
        first_seen={},
        event_types={},
        event_time=None,
        server_upload_time=None,
    )
    assert len({archive.fingerprint(record, None) for archive in archives}) == 1
