"""Runs through Dagster: what they write, record and refuse."""

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import AssetRecordsFilter

from amp_pipeline.core.hours import Hour, between
from amp_pipeline.definitions import build_definitions
from amp_pipeline.defs import checks
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import (
    all_events,
    event,
    merged,
    merged_name,
    object_name,
    organization,
    purchases,
    put,
)
from amp_pipeline_tests.defs.shop import shop_in

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FIRST, LAST = Hour.parse("2024-05-08-08:00"), Hour.parse("2024-05-08-11:00")
KEYS = [hour.key for hour in between(FIRST, LAST)]
RAW, DEDUPED = "shop/raw_events", "shop/deduped_events"
MERGED = "shop_org/merged_ids"
ALL = ["shop/all_events/archive", "shop/all_events/merged_ids", "shop/all_events/manifest"]
PURCHASES = ["shop/purchases/archive", "shop/purchases/manifest"]
EVERYTHING = sorted([RAW, DEDUPED, MERGED, *ALL, *PURCHASES])
DAMAGED = "187520/187520_2024-05-08_10#0.json.gz"


class House:
    """Definitions and an instance to run them on."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.job = definitions.resolve_implicit_global_asset_job_def()

    def run(
        self, first: Hour, last: Hour | None = None, *, only: list[str] | None = None, force: tuple[str, ...] = ()
    ) -> dg.ExecuteInProcessResult:
        """Run hours as the UI does: one partition, or a range in one run."""
        hours: dict[str, Any] = {"partition_key": first.key}
        if last is not None:
            hours = {
                "tags": {
                    "dagster/asset_partition_range_start": first.key,
                    "dagster/asset_partition_range_end": last.key,
                }
            }
        return self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey.from_user_string(key) for key in only or EVERYTHING],
            run_config={**QUIET, "ops": {op: {"config": {"force": True}} for op in force}},
            raise_on_error=False,
            **hours,
        )

    def materialized(self, key: str) -> set[str]:
        """Return the hours of an asset that the instance calls materialized."""
        return self.instance.get_materialized_partitions(dg.AssetKey.from_user_string(key))

    def events(self, key: str) -> list[dg.AssetMaterialization]:
        """Return all materializations of an asset, also those of failed runs."""
        found = self.instance.fetch_materializations(
            AssetRecordsFilter(asset_key=dg.AssetKey.from_user_string(key)), limit=10_000
        ).records
        return [record.asset_materialization for record in found if record.asset_materialization]

    def log(self) -> str:
        """Return the whole event log as text."""
        return "\n".join(
            dg.serialize_value(entry) for run in self.instance.get_run_ids() for entry in self.instance.all_logs(run)
        )


def metadata(event: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: value.value for name, value in event.metadata.items()}


def results(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {
        f"{found.asset_key.to_user_string()}:{found.check_name}": found
        for found in result.get_asset_check_evaluations()
    }


def trouble(result: dg.ExecuteInProcessResult) -> list[str]:
    """Return what failed, in its own words."""
    assert result.success == (not any(found.is_step_failure for found in result.all_events))
    return [str(found.step_failure_data.error_display_string) for found in result.all_events if found.is_step_failure]


def failure(result: dg.ExecuteInProcessResult) -> Any:
    ((failed),) = [found.step_failure_data for found in result.all_events if found.is_step_failure]
    return failed


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return when the files below a folder were written, and their bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's four hours from 8 to 11 h of 2024-05-08, and a purchase: repeats, broken lines, merges."""
    folder = shop_in(tmp_path_factory.mktemp("landed") / "shop", *(f"*/*_2024-05-08_{n}[#_.]*" for n in range(8, 12)))
    bought = event(
        app=187520,
        event_type="purchase",
        server_upload_time="2024-05-08 11:59:59.000000",
        uuid="a purchase",
        event_properties={"price": 12.5, "sku": "sku-of-the-purchase"},
        user_id="user-who-bought",
    )
    put(folder / "landing", "187520/187520_2024-05-08_11#7.json", bought)
    text = (folder / "defs.yaml").read_text()
    text = text.replace("2024-05-06-00:00", FIRST.key).replace("2024-05-14-23:00", LAST.key)
    (folder / "defs.yaml").write_text(text)
    return folder


@pytest.fixture
def folder(landed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(landed, tmp_path / "shop"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def house(folder: Path, instance: dg.DagsterInstance) -> House:
    return House(build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(folder)}), instance)


@pytest.fixture(scope="module")
def ran(landed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, dg.ExecuteInProcessResult]]:
    """All four hours, run once, for tests that only look."""
    folder = Path(shutil.copytree(landed, tmp_path_factory.mktemp("ran") / "shop"))
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(folder)}), instance)
        yield house, house.run(FIRST, LAST)


Ran = tuple[House, dg.ExecuteInProcessResult]


def test_one_hour_is_one_partition_of_every_asset(house: House, folder: Path) -> None:
    assert trouble(house.run(FIRST)) == []
    for key in EVERYTHING:
        assert house.materialized(key) == {FIRST.key}, key
        assert [found.partition for found in house.events(key)] == [FIRST.key], key
    delivered = [path.name for path in (folder / "buckets" / "all_events" / "187520").iterdir()]
    assert sorted(delivered) == ["187520_2024-05-08_8#0.json.gz", "187520_2024-05-08_8_complete"]


def test_a_range_materializes_each_hour_once(ran: Ran) -> None:
    house, result = ran
    assert trouble(result) == []
    for key in EVERYTHING:
        assert house.materialized(key) == set(KEYS), key
        assert sorted(str(found.partition) for found in house.events(key)) == KEYS, key


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        (RAW, {"landed", "quarantined", "objects", "bytes", "strays_in", "strays_out", "dagster/row_count"}),
        (DEDUPED, {"bytes", "parts", "repeats", "conflicts", "dagster/row_count"}),
        (
            MERGED,
            {
                "landed",
                "made_from_events",
                "quarantined",
                "repeats",
                "bytes",
                "chains_in_window",
                "cycles_in_window",
                "dagster/row_count",
            },
        ),
        (ALL[0], {"bytes", "parts", "filtered", "dagster/row_count"}),
        (ALL[1], {"bytes", "dagster/row_count"}),
        (ALL[2], {"landed", "quarantined", "repeats", "filtered", "delivered", "files", "bytes"}),
        (PURCHASES[0], {"bytes", "parts", "filtered", "dagster/row_count"}),
        (PURCHASES[1], {"landed", "quarantined", "repeats", "filtered", "delivered", "files", "bytes"}),
    ],
)
def test_the_same_numbers_stand_on_each_hour(ran: Ran, key: str, numbers: set[str]) -> None:
    for found in ran[0].events(key):
        said = metadata(found)
        assert {name for name, value in said.items() if isinstance(value, int)} == numbers, found.partition
        assert said["dagster/uri"].startswith("/")


def test_the_numbers_of_an_hour_are_those_of_its_manifest(ran: Ran) -> None:
    house, _ = ran
    for found in house.events(ALL[2]):
        said = metadata(found)
        manifest = json.loads(Path(said["dagster/uri"]).read_text())
        assert manifest["hour"] == found.partition
        for name in ("landed", "quarantined", "repeats", "filtered", "delivered"):
            assert said[name] == manifest["counts"][name]
        assert said["files"] == len(manifest["files"])
        assert said["bytes"] == sum(file["bytes"] for file in manifest["files"])
        assert said["delivered_because"] == "first"


def test_the_sums_over_the_hours_are_those_of_the_landing(ran: Ran) -> None:
    house, _ = ran
    said = [metadata(found) for found in house.events(RAW)]
    assert sum(one["quarantined"] for one in said) == 8
    assert sum(one["landed"] for one in said) == sum(one["dagster/row_count"] for one in said) + 8
    kept = sum(metadata(found)["dagster/row_count"] for found in house.events(DEDUPED))
    repeats = sum(metadata(found)["repeats"] for found in house.events(DEDUPED))
    assert repeats > 0
    assert kept + repeats == sum(one["dagster/row_count"] for one in said)
    assert sum(metadata(found)["dagster/row_count"] for found in house.events(ALL[0])) == kept
    bought = [metadata(found) for found in house.events(PURCHASES[0])]
    assert 0 < sum(one["dagster/row_count"] for one in bought) < kept
    assert sum(one["dagster/row_count"] + one["filtered"] for one in bought) == kept


def test_the_tables_of_an_hour_add_up_to_its_numbers(ran: Ran) -> None:
    house, _ = ran
    said = {found.partition: found.metadata for found in house.events(RAW)}
    for hour in said.values():
        assert isinstance(hour["event_types"], dg.TableMetadataValue)
        counted = sum(int(str(record.data["events"])) for record in hour["event_types"].records)
        assert counted == hour["dagster/row_count"].value
    reasons = said["2024-05-08-09:00"]["quarantine_reasons"]
    assert isinstance(reasons, dg.TableMetadataValue)
    assert len(reasons.records) == 8
    assert [record.data["lines"] for record in reasons.records] == [1] * 8
    seen = [found.metadata.get("repeats_by_hour_first_seen") for found in house.events(DEDUPED)]
    assert any(isinstance(table, dg.TableMetadataValue) for table in seen)


def secrets_of(landing: Path) -> set[str]:
    """Return ids, addresses and property texts of the landed events, also of those that are broken."""
    found: set[str] = set()
    for path in landing.glob("187520/*json*"):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in data.splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if not isinstance(one, dict):
                continue
            for name in ("user_id", "device_id", "ip_address", "amplitude_id", "uuid", "$insert_id"):
                found.add(str(one.get(name) or ""))
            for name in ("event_properties", "user_properties"):
                found |= {value for value in (one.get(name) or {}).values() if isinstance(value, str)}
    return {text for text in found if text}


def test_nothing_of_an_event_goes_into_the_event_log(ran: Ran, landed: Path) -> None:
    house, _ = ran
    secrets = secrets_of(landed / "landing")
    assert len(secrets) > 150
    log = house.log()
    assert "ASSET_MATERIALIZATION" in log
    # Only whole words: a currency such as EUR may be a piece of another word, a number of a digest.
    words = set(json.dumps(log).replace("\\", " ").replace('"', " ").replace("'", " ").split())
    assert {text for text in secrets if (text in log if len(text) > 6 else text in words)} == set()


def test_broken_lines_don_t_go_into_the_event_log(ran: Ran, landed: Path) -> None:
    broken = (landed / "landing" / "187520" / "187520_2024-05-08_9#2.json").read_bytes().splitlines()
    log = ran[0].log()
    assert [line for line in broken if len(line) > 12 and line[:60].decode(errors="replace") in log] == []


def test_metadata_stays_small_however_many_event_types_there_are(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    put(tmp_path / "landing", object_name(builders.FIRST_HOUR), *(event(event_type=f"type {n}") for n in range(500)))
    one = organization(tmp_path, tmp_path / "landing")
    house = House(dg.Definitions(assets=organization_assets(one)), instance)
    assert trouble(house.run(builders.FIRST_HOUR, only=["shop7/raw_events"])) == []
    (said,) = house.events("shop7/raw_events")
    table = said.metadata["event_types"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == 20


def damage(folder: Path) -> None:
    path = folder / "landing" / DAMAGED
    path.write_bytes(path.read_bytes()[:-20])


def mend(folder: Path, landed: Path) -> None:
    path = folder / "landing" / DAMAGED
    path.unlink()
    shutil.copyfile(landed / "landing" / DAMAGED, path)


def test_a_damaged_object_fails_its_hour_and_says_what_to_do(house: House, folder: Path) -> None:
    damage(folder)
    result = house.run(FIRST, LAST)
    assert not result.success
    failed = failure(result)
    assert failed.error.cls_name == "Failure"
    said = failed.user_failure_data
    assert said.description.startswith("1 of 4 hours failed; the others are done. 2024-05-08-10:00: ")
    (record,) = said.metadata["failed_hours"].records
    assert record.data["hour"] == "2024-05-08-10:00"
    for words in (said.description, record.data["what"]):
        assert f"{folder}/landing/{DAMAGED}" in words
        assert f"amp-pipeline accept --project shop '{DAMAGED}'" in words
    assert not any(found.is_step_up_for_retry for found in result.all_events)


def test_a_damaged_object_holds_up_no_other_hour(house: House, folder: Path, landed: Path) -> None:
    damage(folder)
    house.run(FIRST, LAST)
    good = [key for key in KEYS if key != "2024-05-08-10:00"]
    assert house.materialized(RAW) == set(good)
    recorded = house.events(RAW)
    assert sorted(str(found.partition) for found in recorded) == good
    assert all(metadata(found)["landed"] > 0 for found in recorded)
    for key in EVERYTHING:
        if key not in (RAW, MERGED):
            assert house.materialized(key) == set(), key


def test_once_the_object_is_mended_running_what_is_missing_does_the_rest(
    house: House, folder: Path, landed: Path
) -> None:
    damage(folder)
    house.run(FIRST, LAST)
    mend(folder, landed)
    bad = Hour.parse("2024-05-08-10:00")
    assert trouble(house.run(bad, only=[RAW])) == []
    assert house.materialized(RAW) == set(KEYS)
    rest = [key for key in EVERYTHING if key != RAW]
    assert trouble(house.run(FIRST, LAST, only=rest)) == []
    for key in rest:
        assert house.materialized(key) == set(KEYS), key
    assert [str(found.partition) for found in house.events(RAW)].count(bad.key) == 1


def test_an_hour_that_fails_in_one_delivery_is_delivered_by_the_other(house: House, folder: Path) -> None:
    (folder / "buckets" / "purchases" / "_amp_pipeline").mkdir(parents=True)
    (folder / "buckets" / "purchases" / "_amp_pipeline" / "owner.json").write_text('{"organization": {"id": 7}}')
    result = house.run(FIRST, LAST)
    assert not result.success
    assert "belongs to organization 7" in failure(result).user_failure_data.description
    for key in ALL:
        assert house.materialized(key) == set(KEYS), key
    for key in PURCHASES:
        assert house.materialized(key) == set(), key


def test_the_good_hours_of_a_delivery_that_fails_are_recorded_on_each_of_its_assets(house: House, folder: Path) -> None:
    assert trouble(house.run(FIRST, LAST, only=[RAW, DEDUPED, MERGED])) == []
    stored = folder / "workspace" / "189524" / "187520" / "deduped" / "2024-05-08"
    (part,) = stored.glob("10-*.json.gz")
    part.write_bytes(gzip.compress(b"{}\n"))
    result = house.run(FIRST, LAST, only=ALL)
    assert not result.success
    assert "run deduped_events of hour 2024-05-08-10:00 again, forced" in str(failure(result).user_failure_data)
    good = {key for key in KEYS if key != "2024-05-08-10:00"}
    for key in ALL:
        assert house.materialized(key) == good, key
        assert Counter(str(found.partition) for found in house.events(key)) == Counter(good), key
        assert all("bytes" in metadata(found) for found in house.events(key))
    assert trouble(house.run(FIRST, LAST, only=[DEDUPED], force=("shop__deduped_events",))) == []
    assert trouble(house.run(Hour.parse("2024-05-08-10:00"), only=ALL)) == []
    assert house.materialized(ALL[2]) == set(KEYS)


def wrong(*_: Any) -> dict[str, str]:
    return {"2024-05-08-09:00": "planted by a test"}


@pytest.mark.parametrize(
    ("function", "check", "after"),
    [
        ("identities_twice", f"{DEDUPED}:no_identity_twice", [*ALL, *PURCHASES]),
        ("broken_sums", f"{ALL[2]}:counts_add_up", ["after/the_manifest"]),
        ("mismatches", f"{ALL[2]}:files_match_manifest", ["after/the_manifest"]),
    ],
)
def test_a_blocking_check_stops_what_comes_after(
    folder: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    check: str,
    after: list[str],
) -> None:
    monkeypatch.setattr(checks, function, wrong)
    ours = build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(folder)})
    manifest = dg.AssetKey.from_user_string(ALL[2])

    @dg.asset(
        key=["after", "the_manifest"],
        deps=[manifest],
        partitions_def=ours.get_assets_def(manifest).partitions_def,
        backfill_policy=dg.BackfillPolicy.multi_run(24),
    )
    def reader() -> None:
        return None

    house = House(dg.Definitions.merge(ours, dg.Definitions(assets=[reader])), instance)
    result = house.run(FIRST, LAST)
    assert not result.success
    evaluation = results(result)[check]
    assert not evaluation.passed
    assert evaluation.blocking
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    table = evaluation.metadata["first_findings"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data for record in table.records] == [{"hour": "2024-05-08-09:00", "what": "planted by a test"}]
    for key in after:
        assert house.materialized(key) == set(), key


@pytest.mark.parametrize(
    ("function", "check"),
    [
        ("unready", f"{RAW}:landing_is_ready"),
        ("cycles_around", f"{MERGED}:no_cycles"),
        ("gaps", f"{ALL[2]}:no_hour_is_missing"),
    ],
)
def test_other_checks_warn_and_stop_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, function: str, check: str
) -> None:
    monkeypatch.setattr(checks, function, wrong)
    result = house.run(FIRST)
    assert trouble(result) == []
    evaluation = results(result)[check]
    assert not evaluation.passed
    assert not evaluation.blocking
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    for key in EVERYTHING:
        assert house.materialized(key) == {FIRST.key}, key


def test_all_checks_pass_on_good_hours(ran: Ran) -> None:
    found = results(ran[1])
    assert {name for name, evaluation in found.items() if not evaluation.passed} == set()
    assert [evaluation.metadata["hours"].value for evaluation in found.values()] == [4] * 10


def test_an_hour_without_a_complete_marker_is_warned_of(house: House, folder: Path) -> None:
    (folder / "landing" / "187520" / "187520_2024-05-08_10_complete").unlink()
    result = house.run(FIRST, LAST)
    assert trouble(result) == []
    evaluation = results(result)[f"{RAW}:landing_is_ready"]
    assert not evaluation.passed
    table = evaluation.metadata["first_findings"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["hour"] for record in table.records] == ["2024-05-08-10:00"]


def test_a_gap_before_the_hours_of_a_run_is_warned_of(house: House) -> None:
    result = house.run(Hour.parse("2024-05-08-10:00"))
    evaluation = results(result)[f"{PURCHASES[1]}:no_hour_is_missing"]
    assert not evaluation.passed
    table = evaluation.metadata["first_findings"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["hour"] for record in table.records] == KEYS[:2]


def test_merged_ids_in_a_circle_are_warned_of(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    put(tmp_path / "landing", merged_name(builders.FIRST_HOUR), merged(1, 2), merged(2, 1))
    one = organization(tmp_path, tmp_path / "landing")
    house = House(dg.Definitions(assets=organization_assets(one)), instance)
    result = house.run(builders.FIRST_HOUR, only=["house/merged_ids"])
    assert trouble(result) == []
    assert not results(result)["house/merged_ids:no_cycles"].passed
    (said,) = house.events("house/merged_ids")
    assert metadata(said)["cycles_in_window"] == 1


def test_a_second_run_writes_nothing(house: House, folder: Path) -> None:
    assert trouble(house.run(FIRST, LAST)) == []
    buckets, workspace = files(folder / "buckets"), files(folder / "workspace")
    assert trouble(house.run(FIRST, LAST)) == []
    assert files(folder / "buckets") == buckets
    assert files(folder / "workspace") == workspace
    last = max(house.events(ALL[2]), key=lambda found: str(found.partition))
    assert metadata(last)["delivered_because"] == "nothing had changed, so nothing was written"


def test_a_forced_run_writes_the_same_bytes_again(house: House, folder: Path) -> None:
    assert trouble(house.run(FIRST)) == []
    before = files(folder / "buckets")
    ops = ("shop__raw_events", "shop__deduped_events", "shop_org__merged_ids", "shop__all_events", "shop__purchases")
    assert trouble(house.run(FIRST, force=ops)) == []
    after = files(folder / "buckets")
    assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
    written = {name for name, (at, _) in after.items() if at > before[name][0]}
    assert written == set(before) - {f"{name}/_amp_pipeline/owner.json" for name in ("all_events", "purchases")}
    assert metadata(house.events(ALL[2])[0])["delivered_because"] == "forced"


def test_a_delivery_is_run_whole_or_not_at_all(house: House) -> None:
    with pytest.raises(dg.DagsterInvalidSubsetError):
        house.run(FIRST, only=[ALL[0]])


def test_a_delivery_before_its_events_says_what_to_run_first(house: House) -> None:
    result = house.run(FIRST, only=ALL)
    assert "materialize shop/deduped_events for it first" in failure(result).user_failure_data.description
    assert trouble(house.run(FIRST, only=[RAW, DEDUPED])) == []
    result = house.run(FIRST, only=ALL)
    assert "materialize shop_org/merged_ids for it first" in failure(result).user_failure_data.description


def test_a_bug_is_not_dressed_up_as_an_hour_that_failed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("amp_pipeline.stages.raw_events.RawEvents.land", bug)
    result = house.run(FIRST)
    assert failure(result).error.cls_name == "DagsterExecutionStepExecutionError"
    assert house.materialized(RAW) == set()


Two = tuple[House, Path]


@pytest.fixture
def two(tmp_path: Path, instance: dg.DagsterInstance) -> Two:
    """Two projects, the second from two hours later on, the first with a delivery that is switched off."""
    landing = tmp_path / "landing"
    late = builders.FIRST_HOUR + 2
    for n in range(4):
        put(landing, object_name(builders.FIRST_HOUR + n), event(n * builders.HOUR_US, uuid=f"a{n}"))
    for n in range(2, 4):
        name = object_name(builders.FIRST_HOUR + n, project=8)
        put(landing, name, event(n * builders.HOUR_US, uuid=f"b{n}", app=8))
    one = organization(
        tmp_path,
        landing,
        projects=[
            {
                "deliveries": [
                    all_events(tmp_path / "seven" / "all"),
                    purchases(tmp_path / "seven" / "purchases"),
                    {"name": "off", "url": str(tmp_path / "seven" / "off"), "enabled": False},
                ]
            },
            {
                "first_hour": late.key,
                "deliveries": [purchases(tmp_path / "eight"), {"name": "plain", "url": str(tmp_path / "plain")}],
            },
        ],
    )
    return House(dg.Definitions(assets=organization_assets(one), executor=dg.in_process_executor), instance), tmp_path


def keys_of(house: House) -> set[str]:
    return {key.to_user_string() for key in house.job.asset_layer.executable_asset_keys}


def test_a_delivery_that_is_switched_off_has_no_assets(two: Two) -> None:
    assert keys_of(two[0]) == {
        "house/merged_ids",
        "shop7/raw_events",
        "shop7/deduped_events",
        "shop7/all/archive",
        "shop7/all/merged_ids",
        "shop7/all/manifest",
        "shop7/purchases/archive",
        "shop7/purchases/manifest",
        "shop8/raw_events",
        "shop8/deduped_events",
        "shop8/purchases/archive",
        "shop8/purchases/manifest",
        "shop8/plain/archive",
        "shop8/plain/manifest",
    }


def test_projects_that_began_at_different_hours_run_side_by_side(two: Two) -> None:
    house, tmp_path = two
    first = builders.FIRST_HOUR
    sevens = [key for key in keys_of(house) if not key.startswith("shop8/")]
    assert trouble(house.run(first, first + 1, only=sevens)) == []
    assert trouble(house.run(first + 2, first + 3, only=sorted(keys_of(house)))) == []
    hours = {hour.key for hour in between(first, first + 3)}
    later = {hour.key for hour in between(first + 2, first + 3)}
    for key in keys_of(house):
        assert house.materialized(key) == (later if key.startswith("shop8/") else hours), key
    assert sorted(path.name for path in (tmp_path / "plain" / "8").glob("*.json.gz")) == [
        "8_2024-05-06_2#0.json.gz",
        "8_2024-05-06_3#0.json.gz",
    ]
    assert not (tmp_path / "seven" / "off").exists()


def test_the_organization_s_merged_ids_of_hours_before_a_project_began_run_as_a_range(two: Two) -> None:
    house, _ = two
    first = builders.FIRST_HOUR
    assert trouble(house.run(first, first + 3, only=["house/merged_ids"])) == []
    assert house.materialized("house/merged_ids") == {hour.key for hour in between(first, first + 3)}


def test_a_bucket_is_tried_before_a_delivery_is_first_used(house: House, folder: Path) -> None:
    (folder / "buckets").mkdir()
    (folder / "buckets" / "purchases").write_text("no folder")
    result = house.run(FIRST)
    (what,) = [str(what) for what in trouble(result)]
    assert "before its first use" in what
    assert str(folder / "buckets" / "purchases") in what
    assert house.materialized(ALL[0]) == {FIRST.key}
    (folder / "buckets" / "purchases").unlink()
    assert trouble(house.run(FIRST)) == []
    verified = list((folder / "workspace").rglob("verified"))
    assert sorted(path.parent.name for path in verified) == ["all_events", "purchases"]
