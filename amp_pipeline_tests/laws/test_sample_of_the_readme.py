"""What the README shows of ``make demo`` is what the example gives."""

import re
from collections.abc import Iterable
from typing import Any

import pytest

from amp_pipeline.core.hours import Hour
from amp_pipeline_tests.builders import EXAMPLE_HOURS
from amp_pipeline_tests.defs.shop import REPO
from amp_pipeline_tests.laws.conftest import Delivered
from amp_pipeline_tests.laws.truth import read_manifest

COUNTS = ("landed", "quarantined", "repeats", "deleted", "filtered", "delivered")
SAMPLE = (REPO / "README.md").read_text().split("\nshop: 216 hours to")[1].split("```")[0].splitlines()
ROWS = [line for line in SAMPLE if re.search(r"  (all_events|purchases)  ", line)]


def summed(manifests: Iterable[dict[str, Any]]) -> tuple[list[int], int]:
    """The columns of the audit, bytes aside, and the bytes."""
    read = list(manifests)
    files = [file for manifest in read for file in manifest["files"]]
    counts = [sum(manifest["counts"][name] for manifest in read) for name in COUNTS]
    parts = sum(file["kind"] == "events" for file in files)
    return [*counts, parts], sum(file["bytes"] for file in files)


def test_the_sample_has_the_columns_of_the_audit() -> None:
    (heading,) = (line for line in SAMPLE if line.startswith("hour "))
    assert heading.split() == ["hour", "delivery", *COUNTS, "parts", "bytes", "state"]
    assert len(ROWS) >= 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.split()[:3]))
def test_a_row_of_the_sample_is_what_the_example_gives(example_range: Delivered, row: str) -> None:
    organization, stores, _ = example_range
    first, name, *numbers = re.split(r" {2,}", row)
    project = organization.projects[0]
    # The one without a filter has another name here.
    delivery = project.deliveries[("all_events", "purchases").index(name)]
    hours = EXAMPLE_HOURS if first == "all hours" else [Hour.parse(first)]
    columns, size = summed(read_manifest(stores(delivery.url), project, delivery, hour) for hour in hours)
    *told, told_size = (int(number.replace(",", "")) for number in numbers[:-1])
    assert told == columns
    # Another version of the packer, or another processor, may pack a little otherwise.
    assert told_size == pytest.approx(size, rel=0.05)
    assert numbers[-1] == (f"{len(EXAMPLE_HOURS)} hours" if first == "all hours" else "ok")
