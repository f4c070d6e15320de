"""The component that a ``defs.yaml`` names: found by Dagster, filled from the environment, and clear about mistakes."""

import os
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.scaffold.scaffold import get_scaffolder
from pydantic import BaseModel

import amp_pipeline
from amp_pipeline import config_files
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.definitions import build_definitions
from amp_pipeline_tests.defs.shop import BIN, EXAMPLE, REPO, dagster_home_in

DEFS = """
type: amp_pipeline.Organization
attributes:
  id: 9
  slug: house
  workspace: workspace
  projects:
    - id: 7
      slug: shop7
      first_hour: 2024-05-06-00:00
      source: {url: landing}
      deliveries:
        - {name: all, url: bucket}
"""


def written(folder: Path, text: str = DEFS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(text)
    return folder


def load(*folders: Path, **environment: str) -> dg.Definitions:
    return build_definitions({"AMP_PIPELINE_ORGANIZATIONS": os.pathsep.join(map(str, folders)), **environment})


def keys(definitions: dg.Definitions) -> set[str]:
    return {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}


def bucket(definitions: dg.Definitions, key: str) -> str:
    return (
        definitions.resolve_assets_def(dg.AssetKey.from_user_string(key))
        .specs_by_key[dg.AssetKey.from_user_string(key)]
        .metadata["bucket"]
    )


def test_an_organization_becomes_its_assets(tmp_path: Path) -> None:
    assert keys(load(written(tmp_path))) == {
        "house/merged_ids",
        "shop7/raw_events",
        "shop7/deduped_events",
        "shop7/all/archive",
        "shop7/all/manifest",
    }


def test_organizations_of_several_folders_stand_side_by_side(tmp_path: Path) -> None:
    other = DEFS.replace("id: 9", "id: 10").replace("id: 7", "id: 8").replace("shop7", "shop8").replace("house", "hut")
    found = keys(load(written(tmp_path / "one"), written(tmp_path / "deep" / "er", other)))
    assert {"house/merged_ids", "hut/merged_ids", "shop7/raw_events", "shop8/raw_events"} <= found


def test_without_any_organization_the_example_is_shown() -> None:
    assert keys(build_definitions({})) == keys(load(EXAMPLE))


def test_the_environment_is_filled_in(tmp_path: Path) -> None:
    folder = written(tmp_path / "one", DEFS.replace("url: bucket", "url: '{{ env.BUCKET }}/events'"))
    assert bucket(load(folder, BUCKET=str(tmp_path / "b")), "shop7/all/archive") == str(tmp_path / "b" / "events")


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, DEFS.replace("url: bucket", "url: '{{ env.NOT_THERE }}'"))
    with pytest.raises(ConfigError, match=r"defs\.yaml names the environment variable NOT_THERE, which is not set"):
        load(folder)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "{name: all, url: bucket}",
            "{name: all, url: bucket, filtre: x}",
            "projects[0].deliveries[0].filtre: there is no such field; known here are name, url, s3, what, filter",
        ),
        ("source: {url", "source: {ulr", "projects[0].source.ulr: there is no such field; known here are type, url"),
        ("source: {url: landing}", "source: {}", "projects[0].source.url: is missing; add it"),
        ("2024-05-06-00:00", "2024-05-06", "projects[0].first_hour: write an hour in UTC like 2024-05-06-00:00"),
        ("2024-05-06-00:00", "2024-05-06-00:30", "projects[0].first_hour: write an hour in UTC like"),
        ("slug: house", "slug: House", "slug: "),
        ("url: bucket", "url: ftp://bucket", "projects[0].deliveries[0].url: write s3://bucket/path"),
        ("url: bucket", "url: landing/bucket", "which overlaps with the source of shop7"),
        ("name: all", "name: raw_events", "projects[0].deliveries[0].name: raw_events is the name of an asset"),
        ("{name: all,", "{name: all, filter: 'colour = 1',", "projects[0].deliveries[0].filter: "),
        ("  id: 9", "  id: 0", "id: "),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    assert right in DEFS
    folder = written(tmp_path, DEFS.replace(right, wrong))
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder}/defs.yaml is wrong:\n")
    assert f"\n  {said}" in str(caught.value) or said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once_and_nothing_else(tmp_path: Path) -> None:
    folder = written(tmp_path, DEFS.replace("id: 9", "id: x").replace("id: 7", "id: y"))
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 3


def test_two_organizations_in_one_bucket_are_refused(tmp_path: Path) -> None:
    one = DEFS.replace("url: bucket", f"url: {tmp_path}/bucket")
    other = one.replace("id: 9", "id: 10").replace("id: 7", "id: 8").replace("shop7", "shop8").replace("house", "hut")
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path / "one", one), written(tmp_path / "other", other))
    assert f"organization hut delivers to {tmp_path}/bucket, which overlaps with the bucket of" in str(caught.value)
    assert "a bucket belongs to one organization, choose another" in str(caught.value)


def test_a_folder_without_an_organization_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no defs\.yaml; write one there, or name another folder"):
        load(tmp_path)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "password: hunter2\ntype: [")
    with pytest.raises(ConfigError, match=r"defs\.yaml is no YAML, line \d+, column \d+: ") as raised:
        load(folder)
    assert "hunter2" not in str(raised.value)


def test_the_component_has_a_name_of_its_own_and_says_what_it_is() -> None:
    spec = amp_pipeline.Organization.get_spec()
    assert isinstance(spec, dg.ComponentTypeSpec)
    assert spec.description
    assert "amplitude" in spec.tags
    assert issubclass(amp_pipeline.Organization, dg.Component)


def test_the_schema_that_dagster_shows_is_that_of_the_organization() -> None:
    model = amp_pipeline.Organization.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    assert {"id", "slug", "workspace", "projects"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


class Native:
    """A copy of the package, in which ``dg`` writes and reads an organization's ``defs.yaml``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(REPO / "amp_pipeline", folder / "amp_pipeline")
        shutil.copyfile(REPO / "pyproject.toml", folder / "pyproject.toml")
        self.home = dagster_home_in(folder / "home")
        self.file = folder / "amp_pipeline" / "defs" / "acme" / "defs.yaml"

    def dg(self, *arguments: str) -> tuple[int, str]:
        """Run ``dg``; return its exit status and what it printed, wrapped lines joined."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "AMP_"))}
        environment |= {
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(self.folder),
            "VIRTUAL_ENV": str(BIN.parent),
            "COLUMNS": "400",
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            [str(BIN / "dg"), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    made = Native(tmp_path_factory.mktemp("native"))
    # As somebody's who has not activated the environment of the clone.
    (made.folder / ".venv").mkdir()
    status, said = made.dg("scaffold", "defs", "amp_pipeline.Organization", "acme")
    assert status == 0, said
    assert "virtual environment" not in said
    return made


class NoParameters(BaseModel):
    """What the scaffolder asks for beside a name."""


@pytest.mark.parametrize(
    ("name", "slug"),
    [("acme", "acme"), ("Acme-Shop.2", "acme_shop_2"), ("2nd", "organization_2nd"), ("Ü", "organization")],
)
def test_what_is_scaffolded_is_named_as_it_was_typed_and_asks_for_nothing_yet(
    tmp_path: Path, name: str, slug: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    scaffolder = get_scaffolder(amp_pipeline.Organization)
    assert isinstance(scaffolder, dg.Scaffolder)
    request: dg.ScaffoldRequest[NoParameters] = dg.ScaffoldRequest(
        "amp_pipeline.Organization", folder, "yaml", tmp_path, NoParameters()
    )
    scaffolder.scaffold(request)
    (read,) = config_files.read(folder / "defs.yaml", {})
    assert (read.slug, read.projects[0].slug) == (slug, f"{slug}_project")
    assert not read.projects[0].automatic


def test_dg_scaffolds_an_organization_that_loads(native: Native) -> None:
    text = native.file.read_text()
    assert "type: amp_pipeline.Organization" in text
    assert "first_hour: 2026-01-01-00:00" in text
    status, said = native.dg("list", "defs", "--json")
    assert status == 0, said
    assert "acme_project/all_events/manifest" in said
    # The example is shown only where there is nothing else.
    assert "shop/raw_events" not in said


@pytest.mark.soak
def test_dg_lists_the_component(native: Native) -> None:
    status, said = native.dg("list", "components")
    assert status == 0, said
    assert "amp_pipeline.Organization" in said
    assert "An organization whose behavioural events are delivered" in said


def check_with(native: Native, right: str, wrong: str) -> tuple[int, str]:
    text = native.file.read_text()
    assert right in text
    try:
        native.file.write_text(text.replace(right, wrong))
        return native.dg("check", "defs")
    finally:
        native.file.write_text(text)


def test_a_misspelt_field_of_a_scaffolded_file_is_named_with_its_file(native: Native) -> None:
    # dg holds the file against the component's schema before it is ours to judge.
    status, said = check_with(native, "slug: acme_project", "slog: acme_project")
    assert status == 1, said
    assert "amp_pipeline/defs/acme/defs.yaml:" in said
    assert "projects.0.slog" in said


@pytest.mark.soak
def test_a_wrong_hour_in_a_scaffolded_file_is_named_with_its_file(native: Native) -> None:
    status, said = check_with(native, "2026-01-01-00:00", "2026-01-01T00")
    assert status == 1, said
    assert f"{native.file} is wrong:" in said
    assert "projects[0].first_hour: write an hour in UTC like 2024-05-06-00:00" in said
