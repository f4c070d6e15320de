"""Copies of the example in a folder of their own, so that what a test delivers never lands in the repo's .demo."""

import shutil
from pathlib import Path

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "examples" / "shop"
BIN = REPO / ".venv" / "bin"
LATE_FILE = "187520/187520_2024-05-09_3#1.json"


def shop_in(folder: Path, *landed: str, automatic: bool = False) -> Path:
    """Copy the example's defs.yaml and landing into ``folder``, of the landing only what ``landed`` (globs) names.

    Only where it is ``automatic`` hours are delivered by themselves, looked for as often as that is allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = (EXAMPLE / "defs.yaml").read_text()
    assert text.count("../../.demo/") == 3
    text = text.replace("../../.demo/", "")
    _, source, after = text.partition("      source:\n")
    assert after
    how = "      every: 10s\n" if automatic else "      automatic: false\n"
    (folder / "defs.yaml").write_text(text.replace(source, how + source))
    for pattern in landed or ("*/*",):
        for found in (EXAMPLE / "landing").glob(pattern):
            target = folder / "landing" / found.relative_to(EXAMPLE / "landing")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, target)
    return folder


def dagster_home_in(folder: Path) -> Path:
    """Make a DAGSTER_HOME with the repo's dagster.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(REPO / "dagster.yaml", folder / "dagster.yaml")
    return folder
