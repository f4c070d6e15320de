"""Where the organizations stand: which ``defs.yaml`` files there are, for Dagster and for the command line alike."""

import os
from collections.abc import Mapping
from pathlib import Path

from amp_pipeline import config_files

FOLDERS_VARIABLE = "AMP_PIPELINE_ORGANIZATIONS"
"""Environment variable with the folders that hold organizations, separated as in PATH."""

PACKAGE = Path(__file__).parent


def scaffolded() -> list[Path]:
    """Return the files that ``dg scaffold defs`` wrote, which Dagster finds by itself."""
    return sorted((PACKAGE / "defs").rglob(config_files.FILE_NAME))


def elsewhere(environment: Mapping[str, str]) -> list[Path]:
    """Return the files in the folders that the environment names; the example's where there are no others at all.

    Raises:
        ConfigError: A named folder holds no organization.
    """
    named = [Path(part).expanduser() for part in environment.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    found = [file for folder in named for file in config_files.files_below(folder)]
    return found if found or scaffolded() else config_files.files_below(PACKAGE.parent / "examples" / "shop")


def files(environment: Mapping[str, str]) -> list[Path]:
    """Return all files.

    Raises:
        ConfigError: A named folder holds no organization.
    """
    return [*scaffolded(), *elsewhere(environment)]
