"""Servers that several tests deliver to: started once a process, on free ports of 127.0.0.1."""

import uuid
from collections.abc import Iterator

import pytest

from amp_pipeline_tests import builders, servers
from amp_pipeline_tests.servers import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--over", choices=["moto", "ministack"], help="hold the laws over a bucket of this S3 server, not in memory"
    )


@pytest.fixture(scope="session", autouse=True)
def _over(request: pytest.FixtureRequest) -> Iterator[None]:
    kind = request.config.getoption("--over")
    if kind is None:
        yield
        return
    server: Server = request.getfixturevalue(f"{kind}_server")
    server.client().create_bucket(Bucket=builders.BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        # Also for the processes that tests start.
        patch.setenv(builders.OVER, server.endpoint)
        yield


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def ministack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(params=["moto", "ministack"])
def s3_server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def bucket(s3_server: Server) -> str:
    """The name of a new bucket."""
    return new_bucket(s3_server)


def new_bucket(server: Server) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=name)
    return name
