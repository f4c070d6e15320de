"""Law 5: killed at any call to a store, an hour is as it was or visibly unfinished, and the next run finishes it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from amp_pipeline.config import Delivery, Organization
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.store import sha256
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import event, merged, put, put_bytes
from amp_pipeline_tests.laws.driver import buckets, copy_objects, differing, over_s3, run
from amp_pipeline_tests.laws.killed_child import EVERYTHING, HOURS
from amp_pipeline_tests.laws.truth import manifest_name, marker_name

HOUR = HOURS[0]
ROOT = Path(__file__).parents[2]
FIRST, SECOND, MERGES = "7/7_2024-05-06_0#0.json", "7/7_2024-05-06_0#1.json", "-9/-9_2024-05-06_0.json"


class Killer:
    """Has the hour delivered by a process that is killed before a call."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "amp_pipeline_tests.laws.killed_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def was_killed(self, base: Path, at_call: int, counted: list[str], *, tables: bool = False) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(base), at_call, counted, tables]) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    one = Killer()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def nothing(base: Path) -> None:
    """Before a first delivery."""


def one_part(base: Path) -> None:
    put(base / "landing", FIRST, event(1, uuid="a", event_type="purchase"), event(2, uuid="b"))


def two_parts(base: Path) -> None:
    one_part(base)
    merging = event(3, uuid="c", event_type="purchase", amplitude_id=1, data={"merged_amplitude_id": 2})
    stray = event(2 * builders.HOUR_US, uuid="s")
    put(base / "landing", SECOND, merging, event(4, uuid="a"), stray, b"not JSON")
    put(base / "landing", MERGES, merged(3, 4))


def no_purchase(base: Path) -> None:
    """Fewer files than before: what is obsolete has to go."""
    take_away_second_part(base)
    put(base / "landing", FIRST, event(1, uuid="a"))


def take_away_second_part(base: Path) -> None:
    (base / "landing" / SECOND).unlink(missing_ok=True)
    # Not unlinked: merged ids whose whole landing is gone stand as they are on record.
    put_bytes(base / "landing", MERGES, b"")
    workspace = OrganizationRun(builders.organization(base, base / "landing"), open_store).projects["shop7"].workspace
    workspace.store.put(workspace.acceptance(SECOND, ""), b"{}")


def delivered(base: Path) -> Organization:
    """Deliver the hour in one run that nobody kills."""
    organization = builders.organization(base, base / "landing")
    assert run(organization, HOURS, open_store) == {}
    return organization


def assert_readers_are_not_lied_to(organization: Organization, stores: OpenStore = open_store) -> None:
    for delivery in organization.projects[0].deliveries:
        assert_marker_tells_the_truth(organization, delivery, stores)


def assert_marker_tells_the_truth(organization: Organization, delivery: Delivery, stores: OpenStore) -> None:
    """Where a complete marker stands, the manifest stands too, and every file of it, and no other part of the hour."""
    store = stores(delivery.url, organization.s3)
    project = organization.projects[0]
    manifest = store.head(manifest_name(project, delivery, HOUR))
    if manifest is None:
        assert store.head(marker_name(project, HOUR)) is None
        return
    files = json.loads(store.get(manifest.name))["files"]
    assert {file["name"]: file["sha256"] for file in files} == {
        file["name"]: sha256(store.get(file["name"])) for file in files
    }
    parts = [info.name for info in store.find(f"7/7_{HOUR.day}_{HOUR.of_day}#")]
    assert parts == [file["name"] for file in files if file["kind"] == "events"]


CHANGES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "first delivery": (nothing, two_parts),
    "redelivery with more": (one_part, two_parts),
    "redelivery with less": (two_parts, no_purchase),
}


each_call = pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.soak)])
"""In `make test` before every thirteenth call, in `make soak` before each."""


@each_call
@pytest.mark.parametrize("what", CHANGES)
def test_killed_before_any_call_the_next_run_finishes_what_readers_never_saw_half_done(
    tmp_path: Path, killer: Killer, what: str, every: int
) -> None:
    assert killed_and_finished(tmp_path, killer, *CHANGES[what], every) > 10


def killed_and_finished(
    tmp_path: Path, killer: Killer, before: Callable[[Path], None], after: Callable[[Path], None], every: int
) -> int:
    """Have the hour killed before one call after the other, and finished; return the call that nobody reached."""
    start = tmp_path / "start"
    before(start)
    if before is not nothing:
        delivered(start)
    never_killed = copied(start, tmp_path / "never killed")
    after(never_killed)
    expected = buckets(delivered(never_killed), open_store)

    call = 0
    for call in count(1, every):
        base = copied(start, tmp_path / "killed")
        after(base)
        killed = killer.was_killed(base, call, EVERYTHING)
        assert_readers_are_not_lied_to(builders.organization(base, base / "landing"))
        organization = delivered(base)
        assert differing(buckets(organization, open_store), expected) == [], f"killed before call {call}"
        assert_readers_are_not_lied_to(organization)
        if not killed:
            break
    return call


@each_call
def test_what_a_killed_run_left_and_nobody_wants_any_more_is_cleared_away(
    tmp_path: Path, killer: Killer, every: int
) -> None:
    """The hour is killed on its way to two parts; then its landing goes back to one."""
    start = tmp_path / "start"
    one_part(start)
    expected = buckets(delivered(start), open_store)

    for call in count(1, every):
        base = copied(start, tmp_path / "killed")
        two_parts(base)
        killed = killer.was_killed(base, call, EVERYTHING)
        take_away_second_part(base)
        one_part(base)
        organization = delivered(base)
        assert differing(buckets(organization, open_store), expected) == [], f"killed before call {call}"
        assert_readers_are_not_lied_to(organization)
        if not killed:
            break


def copied(start: Path, base: Path) -> Path:
    shutil.rmtree(base, ignore_errors=True)
    start.mkdir(exist_ok=True)
    if builders.s3():
        source, target = (open_store(builders.place(path), over_s3()) for path in (start, base))
        for info in target.find(""):
            target.delete(info.name)
        copy_objects(source, target)
    return shutil.copytree(start, base)
