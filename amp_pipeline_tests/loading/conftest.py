"""One PostgreSQL server for all tests of a process, and a database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from amp_pipeline_tests.loading.places import Place, place
from amp_pipeline_tests.postgres_server import Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


@pytest.fixture(params=["duckdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, server: Postgres) -> Place:
    return place(request.param, tmp_path, server)
