"""The composition root: one ``Definitions`` of all organizations.

With ``cli`` the only place that reads the environment. Organizations stand in ``amp_pipeline/defs/*/defs.yaml`` (where
``dg scaffold defs`` puts them) and below the folders that ``AMP_PIPELINE_ORGANIZATIONS`` names. Where there are none,
the example is shown.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from amp_pipeline import clock, config_files, histories, organizations
from amp_pipeline.defs.organization import Organization

# Backfill policies are in beta since 2023 and would warn at each of many assets; the pins in constraints.txt are what
# we rely on.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def build_definitions(environment: Mapping[str, str]) -> dg.Definitions:
    """Return the definitions of all organizations.

    Raises:
        ConfigError: A configuration is wrong, or two don't fit together.
    """
    scaffolded = [one for file in organizations.scaffolded() for one in config_files.read(file, environment)]
    others = [one for file in organizations.elsewhere(environment) for one in config_files.read(file, environment)]
    others = histories.settled(others, clock.now())
    config_files.check_together([*scaffolded, *others])
    parts = [dg.build_defs_for_component(Organization(one)) for one in others]
    if scaffolded:
        parts.append(dg.load_from_defs_folder(path_within_project=Path(__file__).parent))
    return dg.Definitions.merge(*parts, dg.Definitions(executor=dg.in_process_executor))


defs = build_definitions(os.environ)
