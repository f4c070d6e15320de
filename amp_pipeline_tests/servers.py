"""Real S3 servers for tests: other people's programs, in a virtual environment of their own (.venv-servers).

moto's server is quick and knows conditional writes; ministack enforces IAM policies with their conditions, and checks
checksums.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from amp_pipeline.buckets import S3

PROGRAMS = Path(__file__).parents[1] / ".venv-servers" / "bin"
REGION = "us-east-1"
ROOT = ("test", "test")
"""Key id and secret of who may do everything (ministack's rule; moto takes any)."""

_START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """An S3 server on this machine."""

    kind: str
    endpoint: str
    log: Path

    def client(self, service: str = "s3", key: tuple[str, str] = ROOT, **more: Any) -> Any:
        """A plain client of boto3, of the root user unless told otherwise."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
            **more,
        )

    def settings(self, key: tuple[str, str] = ROOT, **more: Any) -> S3:
        """How amp_pipeline reaches it."""
        return S3.model_validate(
            {
                "endpoint": self.endpoint,
                "sts_endpoint": self.endpoint,
                "region": REGION,
                "addressing": "path",
                "access_key_id": key[0],
                "secret_access_key": key[1],
                "attempts": 2,
                **more,
            }
        )


@contextmanager
def moto(folder: Path) -> Iterator[Server]:
    """moto's server. ``POST /moto-api/reset`` empties it."""
    port = free_port()
    command = [str(PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running("moto", command, {}, folder, port) as server:
        yield server


@contextmanager
def ministack(folder: Path, *, auth: bool = True) -> Iterator[Server]:
    """ministack, with ``auth`` enforcing policies. Account 000000000000; key id ``test`` is its root."""
    port = free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "AUTH": str(auth).lower(),
        "TMPDIR": str(folder),
        "STATE_DIR": str(folder / "state"),
        "DOCKER_HOST": f"unix://{folder}/none.sock",
    }
    with _running("ministack", [str(PROGRAMS / "ministack")], settings, folder, port) as server:
        yield server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def _running(kind: str, command: list[str], settings: dict[str, str], folder: Path, port: int) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{kind}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**environment, **settings}, cwd=folder
        ) as process,
    ):
        try:
            _wait(process, port, log)
            yield Server(kind, f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args} did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return
