"""The component that a ``defs.yaml`` names: an organization, its projects and deliveries."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, ConfigDict

from amp_pipeline import clock, config, config_files, histories, notify
from amp_pipeline.alerting import Subject, deliveries
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.defs.alerts import alert_sensors, bucket_checks
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline.defs.dashboard import dashboard_assets, dashboard_schedules
from amp_pipeline.defs.dead_runs import dead_runs_sensor
from amp_pipeline.defs.hour_sensor import hour_sensors
from amp_pipeline.defs.reconciliation import reconciliation_checks, reconciliation_schedules
from amp_pipeline.defs.retention import retention_schedule
from amp_pipeline.defs.status import status_checks
from amp_pipeline.defs.tables import tables_assets


class _Attributes(BaseModel):
    """Takes anything: :mod:`amp_pipeline.config` refuses what is wrong, and names the field. Its schema is shown."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the schema of what is really wanted."""
        return config.Organization.model_json_schema(*args, **kwargs)


_FIRST = """\
type: {type}
attributes:
  id: 1  # organization id, as in the names of merged-id objects
  slug: {slug}
  workspace: /data/{slug}/workspace  # the pipeline's own store, a folder or s3://bucket/path; keep it
  projects:
    - id: 1  # project (app) id, as in the events' app column and the landing's names
      slug: {slug}_project  # short name: begins the keys of its assets
      automatic: false  # nothing is asked for; remove this line once the rest is filled in
      first_hour: 2026-01-01-00:00  # UTC; earlier events are quarantined
      source:
        url: /data/{slug}/landing  # an Amplitude S3 export, or an unzipped Export API answer; or s3://bucket/path
      deliveries:
        - name: all_events
          url: /data/{slug}/bucket  # where its hours go, a folder or s3://bucket/path
"""
"""Each url is a place of its own: a delivery must not lie in a landing or the workspace."""


class _Scaffolder(dg.Scaffolder):
    """Writes a first ``defs.yaml`` to be filled in."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        if request.scaffold_format != "yaml":
            scaffold_component(request)
            return
        folder = request.target_path.parent if request.append else request.target_path
        filled = _FIRST.format(type=request.type_name, slug=_slug(folder.name))
        lines = [line.partition("  # ") for line in filled.splitlines()]
        width = max(len(code) for code, _, _ in lines)
        text = "".join(f"{code:{width}}{mark}{comment}".rstrip() + "\n" for code, mark, comment in lines)
        with (folder / config_files.FILE_NAME).open("a" if request.append else "w") as file:
            file.write(f"---\n{text}" if request.append else text)


def _slug(name: str) -> str:
    """Return what is nearest to ``name`` of what a slug may be."""
    letters = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return letters[:40] if letters[:1].isalpha() else f"organization_{letters[:40]}".rstrip("_")


@dg.scaffold_with(_Scaffolder)
class Organization(dg.Component):
    """An organization whose behavioural events are delivered, an hour at a time, to buckets of its own."""

    def __init__(self, organization: config.Organization) -> None:
        """Make the component of ``organization``."""
        self.organization = organization

    @classmethod
    def get_model_cls(cls) -> type[BaseModel] | None:
        """Return what Dagster reads attributes into before :mod:`amp_pipeline.config` judges them."""
        return _Attributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return what ``dg list components`` shows."""
        return dg.ComponentTypeSpec(description=cls.__doc__, tags=["amplitude", "events", "export"])

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Organization":
        """Return the component of the attributes in a ``defs.yaml``.

        Raises:
            ConfigError: Something in the file is wrong.
        """
        written: Mapping[str, Any] = attributes.model_dump() if attributes is not None else {}
        filled = context.resolution_context.resolve_value(written)
        read = config_files.organization(filled, Path(context.path) / config_files.FILE_NAME)
        return cls(*histories.settled([read], clock.now()))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the organization's assets, checks and sensors.

        Raises:
            ConfigError: A channel of its alerts is of no known kind.
        """
        for subject in [Subject(self.organization), *deliveries(self.organization)]:
            try:
                notify.check(self.organization.alerts, subject.everybody())
            except ConfigError as error:
                raise ConfigError(f"alerts of {self.organization.slug}: {error}") from None
        assets = [*organization_assets(self.organization), *tables_assets(self.organization)]
        sensors, jobs = hour_sensors(self.organization, assets)
        dashboards = dashboard_assets(self.organization)
        return dg.Definitions(
            assets=[*assets, *dashboards],
            jobs=jobs,
            asset_checks=[
                *bucket_checks(self.organization),
                *status_checks(self.organization),
                *reconciliation_checks(self.organization),
            ],
            sensors=[
                *sensors,
                *alert_sensors(self.organization),
                dead_runs_sensor(self.organization, [*assets, *dashboards]),
            ],
            schedules=[
                *reconciliation_schedules(self.organization),
                *dashboard_schedules(self.organization),
                retention_schedule(self.organization),
            ],
        )
