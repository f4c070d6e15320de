"""The composition root: one ``Definitions`` of all organizations; with ``cli`` the only place that reads the environment.

Organizations stand in ``amp_pipeline/defs/*/defs.yaml`` (where ``dg scaffold defs`` puts them) and below the folders that ``AMP_PIPELINE_ORGANIZATIONS``
names. Where there are none, the example shop is shown.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from amp_pipeline import config
from amp_pipeline.defs.organization import Organization

PROJECT = Path(__file__).parent.parent
FOLDERS_VARIABLE = "AMP_PIPELINE_ORGANIZATIONS"

# Backfill policies are in beta since 2023 and would warn at each of many assets; the pins in constraints.txt are what we rely on.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def files(environment: Mapping[str, str]) -> list[Path]:
    """Return the ``defs.yaml`` files of all organizations that Dagster does not find by itself, see the module.

    Raises:
        ConfigError: A folder that the environment names does not exist or holds no organization.
    """
    named = [Path(part).expanduser() for part in environment.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    found = [file for folder in named for file in config.files_below(folder)]
    return found if found or scaffolded() else config.files_below(PROJECT / "examples" / "shop")


def scaffolded() -> list[Path]:
    """Return the ``defs.yaml`` files beside the Dagster code."""
    return sorted((Path(__file__).parent / "defs").rglob(config.FILE_NAME))


def build_definitions(environment: Mapping[str, str]) -> dg.Definitions:
    """Return the definitions of all organizations.

    Raises:
        ConfigError: A configuration is wrong, or two don't fit together.
    """
    organizations = [one for file in files(environment) for one in config.read(file, environment)]
    native = [one for file in scaffolded() for one in config.read(file, environment)]
    config.check_together([*organizations, *native])
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent) if native else dg.Definitions(),
        *(dg.build_defs_for_component(Organization(one)) for one in organizations),
        dg.Definitions(executor=dg.in_process_executor),
    )


defs = build_definitions(os.environ)
