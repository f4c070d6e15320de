"""``amp-pipeline delete-user`` and ``deletions``: what they delete, print, write and end with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline import config_files
from amp_pipeline.config import Organization
from amp_pipeline.core.wording import counted
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.defs.shop import dagster_home_in, shop_in
from amp_pipeline_tests.laws.deleting import traces
from amp_pipeline_tests.laws.driver import buckets, differing
from amp_pipeline_tests.test_cli import amp, amp_process

DAYS = ("--from", "2024-05-07-08:00", "--to", "2024-05-07-11:00")
LANDED = ("187520/187520_2024-05-07_*", "-189524/-189524_2024-05-07_*")
USER, AMPLITUDE_ID = "user_0457", "411002526077"
OTHER = "user_0292"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return dagster_home_in(tmp_path / "home")


def delivered(tmp_path: Path, home: Path) -> Path:
    folder = shop_in(tmp_path / "shop", *LANDED)
    result = amp_process(folder, "deliver", *DAYS, home=home)
    assert result.returncode == 0, result.stdout
    return folder


def organization_of(folder: Path) -> Organization:
    (organization,) = config_files.read(folder / "defs.yaml", {})
    return organization


def delete(folder: Path, home: Path, *arguments: str) -> tuple[int, str]:
    """Delete as a user does; return exit status and output."""
    result = amp_process(folder, "delete-user", "--project", "shop", *arguments, home=home)
    return result.returncode, result.stdout


def mentions(text: str) -> bool:
    return USER in text or AMPLITUDE_ID in text


def receipts(folder: Path) -> list[dict[str, Any]]:
    organization = organization_of(folder)
    store = open_store(organization.workspace)
    return [json.loads(store.get(info.name)) for info in store.find("189524/187520/deletions/")]


def test_deleting_a_user_leaves_nothing_of_them_and_a_receipt_without_their_ids(tmp_path: Path, home: Path) -> None:
    folder = delivered(tmp_path, home)
    organization = organization_of(folder)
    before = buckets(organization, open_store)
    who = ("--user-id", USER, "--user-id", "nobody", "--amplitude-id", AMPLITUDE_ID)
    nobody = "nothing was found of user id 2 of 2 (counted as given"
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    tried = amp(folder, "delete-user", "--project", "shop", *who, "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert not mentions(tried.output)
    assert nobody in tried.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
    status, output = delete(folder, home, *who, "--note", "ticket 5")
    assert status == 0, output
    assert nobody in output
    assert traces(organization, open_store, USER, AMPLITUDE_ID) == []
    assert not mentions(output)
    (receipt,) = receipts(folder)
    assert receipt["finished_at"] is not None
    assert (receipt["left"], receipt["note"]) == ([], "ticket 5")
    assert not mentions(json.dumps(receipt))
    lines = sum(receipt["hours"].values())
    hours, merged_hours = (counted(len(receipt[what]), "hour") for what in ("hours", "merged_hours"))
    assert f"{lines} events deleted in {hours}" in output
    assert lines > 0
    assert f"{lines} events in {hours}, merged ids in {merged_hours}\n" in tried.output
    # What changed is what the receipt names.
    changed = {
        name.partition("/")[2].partition("/")[2] for name in differing(before, buckets(organization, open_store))
    }
    named = {name for one in receipt["rewritten"] for name in (*one["written"], *one["deleted"])}
    assert changed
    assert {name for name in named if not name.endswith("_complete")} == changed

    listed = amp(folder, "deletions", home=home)
    assert listed.exit_code == 0
    assert f"{receipt['suppression']}  asked" in listed.output
    assert not mentions(listed.output)
    audited = amp(folder, "audit", *DAYS, home=home)
    assert audited.exit_code == 0, audited.output


@pytest.mark.soak
def test_asking_again_for_what_is_open_goes_on_with_it(tmp_path: Path, home: Path) -> None:
    folder = delivered(tmp_path, home)
    organization = organization_of(folder)
    bucket = Path(organization.projects[0].deliveries[0].url) / "187520"
    # Nobody can write there, and so nobody can deliver.
    kept = bucket.rename(bucket.with_name("away"))
    bucket.write_text("no folder")
    status, output = delete(folder, home, "--user-id", USER)
    assert status == 1
    assert "could not be written" in output
    assert "not finished" in output
    assert amp(folder, "deletions", home=home).exit_code == 1
    bucket.unlink()
    kept.rename(bucket)
    status, output = delete(folder, home, "--user-id", USER)
    assert status == 0, output
    (receipt,) = receipts(folder)
    assert traces(organization, open_store, f'"{USER}"') == []
    assert receipt["hours"]
    assert receipt["left"] == []


@pytest.mark.soak
def test_a_delivery_that_is_switched_off_is_named_until_it_is_clean(tmp_path: Path, home: Path) -> None:
    folder = delivered(tmp_path, home)
    file = folder / "defs.yaml"
    text = file.read_text()
    file.write_text(re.sub(r"(- name: purchases\n)", r"\1          enabled: false\n", text))
    ids = tmp_path / "ids"
    ids.write_text(f"{USER}\n{OTHER}\n")
    status, output = delete(folder, home, "--ids-from", str(ids))
    assert status == 1
    assert "shop.purchases is switched off" in output
    file.write_text(text)
    (receipt,) = receipts(folder)
    status, output = delete(folder, home, "--resume", receipt["suppression"])
    assert status == 0, output
    assert traces(organization_of(folder), open_store, f'"{USER}"', f'"{OTHER}"') == []


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((), "name a user"),
        (("--amplitude-id", "someone"), "whole number"),
        (("--resume", "abc"), "no deletion abc"),
        (("--resume", "abc", "--user-id", "x"), "give no others"),
        (("--resume", "abc", "--dry-run"), "looks for the users that are named with it"),
        (("--dry-run",), "looks for the users that are named with it"),
    ],
)
def test_what_names_nobody_is_refused_and_nothing_is_put_on_the_list(
    tmp_path: Path, home: Path, arguments: tuple[str, ...], answer: str
) -> None:
    folder = shop_in(tmp_path / "shop", *LANDED)
    status, output = delete(folder, home, *arguments)
    assert status == 1
    assert answer in output
    assert "someone" not in output
    run = OrganizationRun(organization_of(folder))
    assert not run.projects["shop"].raw.suppressed
