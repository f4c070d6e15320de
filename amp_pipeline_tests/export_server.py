"""A real server of the Export API for tests: over given deliveries, in a thread or as the command that users run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.services import listening
from amp_pipeline.services.export_api import LIMIT_BYTES, ExportApi
from amp_pipeline.services.exported import Exported
from amp_pipeline.source_settings import Keys
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store

KEYS = {"api_key": "the-api-key", "secret_key": "the-secret-key"}
"""Of a delivery: ``export_api=KEYS``; for requests: ``auth=(KEYS["api_key"], KEYS["secret_key"])``."""

AUTH = KEYS["api_key"], KEYS["secret_key"]

_START_SECONDS = 60


@dataclass
class ExportServer:
    """A server that is listening."""

    url: str
    """``http://127.0.0.1:port``, what comes before /api/2/export."""
    lines: list[str] = field(default_factory=list[str])
    """What it has told of requests, without the time."""

    @property
    def export(self) -> str:
        """Address of the Export API."""
        return f"{self.url}/api/2/export"

    def line(self, number: int = -1, seconds: float = 10) -> str:
        """Return a line, once it is there: it is told when the answer is over."""
        deadline = time.monotonic() + seconds
        needed = number + 1 if number >= 0 else -number
        while len(self.lines) < needed and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.lines[number]


def exported(
    organization: Organization,
    project: Project,
    delivery: Delivery,
    *,
    store: ObjectStore | None = None,
    today: date | None = None,
) -> Exported:
    """The archive of a delivery, in its own store or another one."""
    return Exported(
        organization,
        project,
        delivery,
        store or open_store(delivery.url, organization.s3_of(delivery)),
        lambda: today or datetime.now(UTC).date(),
    )


@contextmanager
def serving(
    *deliveries: tuple[Organization, Project, Delivery], limit_bytes: int = LIMIT_BYTES, **settings: Any
) -> Iterator[ExportServer]:
    """Serve deliveries, in a thread of this process; those without ``export_api`` get :data:`KEYS`."""
    archives = [(one[2].export_api or keys(), exported(*one)) for one in deliveries]
    with serving_archives(archives, limit_bytes=limit_bytes, **settings) as server:
        yield server


def keys(number: int | None = None) -> Keys:
    """:data:`KEYS`, or others."""
    return Keys.model_validate({name: value if number is None else f"{value}-{number}" for name, value in KEYS.items()})


@contextmanager
def serving_archives(archives: Iterable[tuple[Keys, Exported]], **settings: Any) -> Iterator[ExportServer]:
    """Serve archives, in a thread of this process."""
    lines: list[str] = []
    app = ExportApi(list(archives), lines.append, **settings)
    server = listening.server(app)
    at = listening.bound("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        yield ExportServer(f"http://127.0.0.1:{at.getsockname()[1]}", lines)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        at.close()


@contextmanager
def running(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """``amp-pipeline serve export`` over the organizations below ``folder``; yield its address and the process.

    What it prints goes to ``serve.out`` and ``serve.err`` in ``folder``.
    """
    command = [sys.executable, "-m", "amp_pipeline.cli", "serve", "export", "--port", "0", *arguments]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "AMP_"))}
    given["AMP_PIPELINE_ORGANIZATIONS"] = str(folder)
    out, err = folder / "serve.out", folder / "serve.err"
    with (
        out.open("w") as output,
        err.open("w") as errors,
        subprocess.Popen(
            command, env={**given, **(environment or {})}, stdout=output, stderr=errors, text=True
        ) as process,
    ):
        try:
            yield _address(process, out, err), process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def _address(process: "subprocess.Popen[str]", out: Path, err: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        for line in out.read_text().splitlines():
            if line.startswith("listening at "):
                return line.removeprefix("listening at ")
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start: {out.read_text()}{err.read_text()}")
        time.sleep(0.02)


def write_defs(folder: Path, organization: dict[str, Any]) -> None:
    """Write the ``defs.yaml`` of an organization."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"type": "amp_pipeline.Organization", "attributes": organization}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))
