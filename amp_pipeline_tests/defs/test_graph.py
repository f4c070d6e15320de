"""The example's graph, as the UI shows it: a change of any of it is a change of this snapshot."""

import time
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.asset_backfill import AssetBackfillData
from syrupy.assertion import SnapshotAssertion

from amp_pipeline.core.hours import Hour
from amp_pipeline.definitions import build_definitions
from amp_pipeline.defs.alerts import bucket_checks
from amp_pipeline.defs.assets import hours_of, organization_assets
from amp_pipeline_tests.builders import organization
from amp_pipeline_tests.defs.shop import EXAMPLE


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(EXAMPLE)})


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def described(assets: dg.AssetsDefinition, key: dg.AssetKey) -> dict[str, Any]:
    spec = assets.specs_by_key[key]
    hours = spec.partitions_def
    assert isinstance(hours, dg.HourlyPartitionsDefinition)
    assert assets.backfill_policy is not None
    return {
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partition mappings": sorted({type(dep.partition_mapping).__name__ for dep in spec.deps}),
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "tags": {name: value for name, value in sorted(spec.tags.items()) if not name.startswith("dagster/kind/")},
        "hours": f"{hours.get_first_partition_key()} to {hours.get_last_partition_key()}, {hours.timezone}",
        "hours a run": assets.backfill_policy.max_partitions_per_run,
        "op": assets.op.name,
        "together with": sorted(other.to_user_string() for other in assets.keys if other != key),
        "can be run in part": assets.can_subset,
        "pool": assets.op.pool,
        "retries": assets.op.retry_policy,
        "columns": len(column_schema(spec).columns) if "dagster/column_schema" in spec.metadata else None,
        "metadata": sorted(spec.metadata),
        "checks": {
            check.name: "blocks" if check.blocking else "warns"
            for check in assets.check_specs
            if check.asset_key == key
        },
    }


def column_schema(spec: dg.AssetSpec) -> dg.TableSchema:
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    return schema


def test_the_graph_of_the_example_is_this_one(definitions: dg.Definitions, snapshot: SnapshotAssertion) -> None:
    graph = {
        key.to_user_string(): described(assets, key)
        for assets in definitions.resolve_asset_graph().assets_defs
        for key in assets.keys
    }
    assert graph == snapshot
    assert str(EXAMPLE.parents[1]) not in repr(graph)


def test_every_asset_says_what_it_is(specs: dict[str, dg.AssetSpec]) -> None:
    assert len(specs) == 8
    for name, spec in specs.items():
        assert spec.description, name
        first = spec.description.split(". ")[0]
        assert not first.lower().startswith(("this asset", "the asset", "asset ")), name
        assert spec.description.strip().endswith("."), name
        assert spec.group_name in {"shop", "shop_org"}, name
        assert list(spec.owners) == ["team:data"], name


def test_every_column_has_a_meaning(specs: dict[str, dg.AssetSpec]) -> None:
    with_columns = [spec for spec in specs.values() if "dagster/column_schema" in spec.metadata]
    assert len(with_columns) == 6
    for spec in with_columns:
        columns = column_schema(spec).columns
        assert columns
        assert [column.name for column in columns if not (column.description or "").endswith(".")] == []


def test_every_check_says_what_it_holds(definitions: dg.Definitions) -> None:
    checks = [check for assets in definitions.resolve_asset_graph().assets_defs for check in assets.check_specs]
    assert len(checks) == 16
    assert [check.name for check in checks if not (check.description or "").endswith(".")] == []


def test_the_hours_of_a_going_project_have_no_end() -> None:
    assert hours_of(Hour.parse("2026-01-01-00:00"), None).end is None


def test_steps_run_in_the_process_of_their_run(definitions: dg.Definitions) -> None:
    assert definitions.resolve_implicit_global_asset_job_def().executor_def is dg.in_process_executor


def test_loading_warns_of_nothing_but_beta_and_preview() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(EXAMPLE)})
        dg.Definitions.validate_loadable(loaded)
    theirs = (dg.BetaWarning, dg.PreviewWarning)
    assert [str(warning.message) for warning in caught if not issubclass(warning.category, theirs)] == []


EVENTS, MERGED_IDS = ["events"], ["merged_ids"]


@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources` is deprecated")
@pytest.mark.parametrize("selected", ["", "shop7/all"])
@pytest.mark.parametrize(
    "delivered", [[EVENTS], [MERGED_IDS], [EVENTS + MERGED_IDS], [EVENTS + MERGED_IDS, EVENTS], [EVENTS, MERGED_IDS]]
)
def test_the_backfill_of_a_delivery_is_one_that_dagster_accepts(
    tmp_path: Path, delivered: list[list[str]], selected: str
) -> None:
    # Dagster 1.13 refuses it where `!=` tells the hours of a delivery's assets apart, and `!=` on hours that were put
    # together from two upstream assets is true even where `==` is (TimeWindowPartitionsSubset has no __ne__).
    deliveries = [[{"name": "all", "url": str(tmp_path / str(n)), "what": what}] for n, what in enumerate(delivered)]
    one = organization(tmp_path, tmp_path / "landing", projects=[{"deliveries": each} for each in deliveries])
    graph = dg.Definitions(assets=organization_assets(one), asset_checks=bucket_checks(one)).resolve_asset_graph()
    keys = {key for key in graph.get_all_asset_keys() if key.to_user_string().startswith(selected)}
    hours = [(one.first_hour + n).key for n in range(48)]
    with dg.DagsterInstance.ephemeral() as instance:
        data = AssetBackfillData.from_asset_partitions(graph, hours, list(keys), instance, time.time(), False)
    targets = {key: data.target_subset.get_asset_subset(key) for key in keys}
    refused = {
        f"{key.to_user_string()} != {other.to_user_string()}"
        for key in keys
        for other in graph.get(key).execution_set_asset_keys
        if (mine := targets[key]) is None or (its := targets[other]) is None or mine.value != its.value
    }
    assert refused == set()
