"""The example's landing and the table in its README are what its maker writes."""

import re
import subprocess
import sys
from pathlib import Path

from amp_pipeline_tests.defs.shop import EXAMPLE

README = EXAMPLE / "README.md"


def make_landing(option: str) -> subprocess.CompletedProcess[str]:
    # Isolated from what is installed: the maker is to need nothing but Python.
    return subprocess.run(
        [sys.executable, "-S", str(EXAMPLE / "make_landing.py"), option],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path("/"),
    )


def test_the_landing_is_what_its_maker_writes() -> None:
    checked = make_landing("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_readme_holds_the_table_that_the_maker_prints() -> None:
    described = make_landing("--describe")
    assert described.returncode == 0, described.stderr
    table = README.read_text().split("<!-- planted -->")[1].split("<!-- /planted -->")[0]
    assert described.stdout.strip() == table.strip()


def test_the_readme_tells_the_landing_files_and_bytes() -> None:
    found = [path for path in (EXAMPLE / "landing").rglob("*") if path.is_file()]
    told = re.search(r"([\d,]+) objects, ([\d,]+) bytes", README.read_text())
    assert told is not None
    assert [int(number.replace(",", "")) for number in told.groups()] == [
        len(found),
        sum(path.stat().st_size for path in found),
    ]


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`([\w./#-]+\.(?:py|csv|json|gz|yaml))`", README.read_text()))
    assert {name for name in named if not any(EXAMPLE.rglob(name))} == set()
