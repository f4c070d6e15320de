"""What the linters can't say of the house: who reads the environment and the clock, and how long a module may be."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "amp_pipeline"
MODULES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def holding(expression: str) -> set[str]:
    return {name for name, text in MODULES.items() if re.search(expression, text, re.MULTILINE)}


def test_only_the_composition_roots_read_the_environment():
    assert holding(r"os\.environ|getenv") <= {"definitions.py", "cli/asking.py"}


def test_one_module_knows_what_time_it_is():
    # Storage compares the age of files, of which the disk's clock is the judge.
    allowed = {"clock.py", "storage/folder.py", "storage/local_copies.py", "storage/scratch.py"}
    assert holding(r"datetime\.(now|utcnow|today)\b|date\.today|time\.time(_ns)?\(") <= allowed


def test_only_the_outer_layers_ask_for_the_time():
    readers = holding(r"^from amp_pipeline import .*\bclock\b|amp_pipeline\.clock")
    assert {name for name in readers if not name.startswith(("defs/", "cli/"))} == {"definitions.py"}


def test_nothing_is_imported_by_star():
    assert not holding(r"^\s*from [\w.]+ import \*")


def test_modules_are_named_for_what_they_do():
    assert not {name for name in MODULES if Path(name).stem in ("utils", "util", "helpers", "common", "misc")}


@pytest.mark.parametrize("name", MODULES)
def test_module_is_short_enough_to_read(name: str):
    assert MODULES[name].count("\n") <= 450


def test_dagster_reads_annotations_at_run_time():
    assert not {name for name in holding(r"^from __future__ import annotations") if name.startswith("defs/")}
