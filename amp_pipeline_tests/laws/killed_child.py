"""Delivers one hour in processes that kill themselves: ``python -m amp_pipeline_tests.laws.killed_child``.

Reads lines of JSON (base, at which call, counting which calls, whether with tables) and answers each with a line: how
the process that it forked for it ended. Forking a process that has imported everything costs a tenth of starting one
anew.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import sqlglot

from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.laws.counting import ToldStore
from amp_pipeline_tests.laws.driver import run, with_tables

# Polars imports it when it is first used; so it is there before the forks.
importlib.import_module("numpy.ma")

HOURS: list[Hour] = [builders.FIRST_HOUR]


EVERYTHING = ["find", "head", "chunks", "get", "put", "delete", "fsync"]
"""All methods of a store, and in a put the instants before and after an object gets its name."""


def organization_in(base: Path, *, tables: bool = False) -> Organization:
    """The organization whose hour is delivered."""
    found = builders.organization(base, base / "landing")
    return with_tables(found) if tables else found


def deliver_and_be_killed(base: Path, at_call: int, counted: list[str], tables: bool) -> None:
    """Deliver the hour; before the ``at_call``-th counted call to workspace or bucket, this process is killed."""
    organization = organization_in(base, tables=tables)
    calls = 0

    def tell(method: str, uri: str) -> None:
        nonlocal calls
        calls += method in counted
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(url: str, s3: S3 | None = None) -> ObjectStore:
        store = open_store(url, s3)
        return store if url == str(base / "landing") else ToldStore(store, tell)

    # A killed process loses nothing that it wrote, so there is no need to wait for the disk.
    os.fsync = lambda _: tell("fsync", "")
    failures = run(organization, HOURS, told)
    assert failures == {}, failures


def main() -> None:
    # Imported before the fork, not after each. Polars may not run here: its threads don't live on in a forked process.
    sqlglot.parse_one("a = 'b'", read="postgres").sql(dialect="postgres")
    for line in sys.stdin:
        base, at_call, counted, tables = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                deliver_and_be_killed(Path(base), at_call, counted, tables)
                code = 0
            except BaseException:
                # Or nobody knows why a test failed.
                traceback.print_exc()
            finally:
                # Without a word to what was inherited: not the parent's buffers, not its exit handlers.
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
