"""What several tests of the laws begin with."""

from typing import NamedTuple

import pytest

from amp_pipeline.config import Organization
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import EXAMPLE_HOURS
from amp_pipeline_tests.laws.driver import Stores, buckets, run, stale


class Delivered(NamedTuple):
    """An organization whose hours are delivered. Copy the stores before writing to them."""

    organization: Organization
    stores: Stores
    buckets: dict[str, str]


@pytest.fixture(scope="session")
def example_range(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """The nine example days, delivered in one run: what all other orders are held against."""
    organization = builders.example(tmp_path_factory.mktemp("range"))
    stores = Stores(organization)
    assert run(organization, EXAMPLE_HOURS, stores) == {}
    assert stale(organization, EXAMPLE_HOURS, stores) == []
    return Delivered(organization, stores, buckets(organization, stores))
