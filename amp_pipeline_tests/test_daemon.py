"""A real Dagster with its daemon, over the example's landing, with files dropped in while it runs."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline import config_files
from amp_pipeline.audit import audit
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.run import OrganizationRun
from amp_pipeline_tests.builders import put
from amp_pipeline_tests.dagster_ui import Ui, running
from amp_pipeline_tests.defs.shop import EXAMPLE, dagster_home_in, shop_in
from amp_pipeline_tests.laws.soak import say

QUIET_SECONDS = 12.0
"""A look for hours, which comes each 10 s."""


def landed(*hours: Hour) -> list[str]:
    return [f"187520/187520_{hour.day}_{hour.of_day}[#_]*" for hour in hours]


def is_marked_in_example(hour: Hour) -> bool:
    """Some of its hours have no marker, as real exports have."""
    return (EXAMPLE / "landing" / f"187520/187520_{hour.day}_{hour.of_day}_complete").exists()


def drop(folder: Path, hour: Hour) -> None:
    """Let an hour of the example land, its marker last."""
    found = [path for pattern in landed(hour) for path in (EXAMPLE / "landing").glob(pattern)]
    for path in sorted(found, key=lambda path: path.name.endswith("_complete")):
        target = folder / "landing" / path.relative_to(EXAMPLE / "landing")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        shutil.copyfile(path, partial)
        partial.rename(target)


def settle_for(folder: Path, first: Hour, last: Hour) -> None:
    """Make those the hours of the project, none of them ready before its marker is there."""
    text = (folder / "defs.yaml").read_text()
    text = text.replace("2024-05-06-00:00", first.key).replace("2024-05-14-23:00", last.key)
    (folder / "defs.yaml").write_text(text.replace("url: landing\n", "url: landing\n        grace: 36500d\n"))


def marked(folder: Path) -> set[Hour]:
    """The hours with a complete marker in the bucket."""
    names = [path.name.split("_") for path in (folder / "buckets" / "all_events" / "187520").glob("*_complete")]
    return {Hour.parse(f"{day}-{int(hour):02d}:00") for _, day, hour, _ in names}


def late_event(hour: Hour) -> bytes:
    return b'{"event_type":"late","device_id":"d","$insert_id":"late","server_upload_time":"%s:00:01.000000"}' % (
        f"{hour.day} {hour.of_day:02d}".encode()
    )


def all_done(ui: Ui) -> bool:
    return all(run["status"] == "SUCCESS" for run in runs_of(ui))


def runs_of(ui: Ui) -> list[dict[str, Any]]:
    return ui.ask(
        "{ runsOrError { ... on Runs { results { runId status tags { key value } creationTime startTime endTime } } } }"
    )["results"]


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["tags"]}


def hours_of(run: dict[str, Any]) -> list[Hour]:
    known = tags(run)
    if "dagster/partition" in known:
        return [Hour.parse(known["dagster/partition"])]
    first, last = known["dagster/asset_partition_range_start"], known["dagster/asset_partition_range_end"]
    return list(between(Hour.parse(first), Hour.parse(last)))


def wait_until(done: Any, seconds: float, ui: Ui) -> float:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, ui.log.read_text(errors="replace")[-5000:]
        time.sleep(0.5)
    return time.monotonic() - began


def test_hours_are_delivered_as_they_land_and_nothing_is_asked_for_twice(tmp_path: Path):
    first = Hour.parse("2024-05-07-10:00")
    before, dropped, late = [first + n for n in range(5)], first + 5, first + 2
    folder = shop_in(tmp_path / "shop", *landed(*before), automatic=True)
    settle_for(folder, first, dropped)
    with running(dagster_home_in(tmp_path / "home"), folder, tmp_path / "log") as ui:
        wait_until(lambda: marked(folder) == set(before), 120, ui)
        drop(folder, dropped)
        on_time = wait_until(lambda: dropped in marked(folder), 60, ui)
        put(folder / "landing", f"187520/187520_{late.day}_{late.of_day}#1.json", late_event(late))
        later = wait_until(lambda: len(runs_of(ui)) == 3 and all_done(ui), 60, ui)
        time.sleep(QUIET_SECONDS)
        runs = runs_of(ui)
    assert [(tags(run)["amp_pipeline/why"], hours_of(run)) for run in reversed(runs)] == [
        ("first", before),
        ("first", [dropped]),
        ("late data", [late]),
    ]
    assert ui.warnings() == []
    (organization,) = config_files.read(folder / "defs.yaml", {})
    run = OrganizationRun(organization).projects["shop"]
    log = list(run.deliveries_of(run.project.deliveries[0]).log(late))
    assert [(entry.why, entry.asked_by, entry.lines_added) for entry in log] == [
        ("first", "sensor", None),
        ("late data", "sensor", 1),
    ]
    found = list(audit(organization, organization.projects[0], [*before, dropped]))
    assert [finding for hour in found for finding in hour.findings] == []
    sys.stdout.write(f"\nfrom the last file to the delivered hour: {on_time:.1f} s, late data {later:.1f} s\n")


@pytest.mark.soak
def test_a_landing_is_followed_hour_by_hour_and_ten_quiet_minutes_ask_for_nothing(tmp_path: Path):
    first = Hour.parse("2024-05-06-00:00")
    before = [hour for hour in (first + n for n in range(120)) if is_marked_in_example(hour)]
    dropped = [hour for hour in (first + 120 + n for n in range(8, 16)) if is_marked_in_example(hour)][:3]
    folder = shop_in(tmp_path / "shop", *landed(*(first + n for n in range(120))), automatic=True)
    settle_for(folder, first, max(dropped))
    file = folder / "defs.yaml"
    file.write_text(file.read_text().replace("every: 10s", "every: 1m"))
    waits: list[float] = []
    with running(dagster_home_in(tmp_path / "home"), folder, tmp_path / "log") as ui:
        wait_until(lambda: marked(folder) >= set(before) and all_done(ui), 300, ui)
        for hour in dropped:
            drop(folder, hour)
            waits.append(wait_until(lambda hour=hour: hour in marked(folder), 150, ui))
        # What strays and late data of the last hours touch.
        time.sleep(130)
        wait_until(lambda: all_done(ui), 120, ui)
        runs = runs_of(ui)
        time.sleep(600)
        after = runs_of(ui)
    assert len(after) == len(runs)
    firsts = [hour for run in runs if tags(run)["amp_pipeline/why"] == "first" for hour in hours_of(run)]
    assert sorted(firsts) == [*before, *dropped]
    assert max(waits) < 2 * 60 + 20
    say(f"from the marker to the delivered hour: {[round(wait) for wait in waits]} s; {len(runs)} runs")
