"""What an engineer would script instead: DuckDB on two threads, in the leanest form found.

    python benchmarks/peers/duckdb_dedupe.py LANDING OUT

Lines stay text: one CSV column whose delimiter can't occur in JSON. The first pass reads nothing but keys, the second
the lines again, without those to drop. Each landing object has a query of its own on one of two threads, because
DuckDB packs a file on one thread, and because the number of a line is known only there. Slower, at 500,000 events: one
query over all objects (its output is packed on one thread), lines kept in a table between the passes (as fast, with
four times the memory), a window function instead of the group (it sorts all keys). Not by an anti join: DuckDB 2.0
turns it round, gathers all lines in a hash table and writes them in another order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
from hour import arguments, done

THREADS = 2
_READ = "auto_detect = false, columns = {'line': 'VARCHAR'}, header = false, delim = '\x01', quote = '', escape = ''"
_WRITE = "format csv, header false, delimiter '\x01', quote '', escape '', compression gzip"
_PATHS = ["$.device_id", '$."$insert_id"', "$.event_id", "$.client_event_time", "$.uuid", "$.server_upload_time"]
# docs/rules.md, "Repeats"; times are compared as text, which is enough where all have the same form.
_IDENTITY = """
    case
        when k[1] <> '' and k[2] <> '' then 'i' || strlen(k[1]) || ':' || k[1] || k[2]
        when k[1] <> '' and k[3] is not null and k[4] is not null 
            then 'e' || strlen(k[1]) || ':' || k[1] || k[3] || '@' || k[4]
        when k[5] <> '' then 'u' || k[5]
    end
"""


def dedupe(objects: list[Path], out: Path) -> int:
    """Write the hour without its repeats, a file for each landing object; return the rows."""
    database = duckdb.connect()
    database.execute(f"set threads = {THREADS}")
    database.execute("create table keys (object int, row bigint, identity varchar, time varchar)")

    def read_keys(connection: duckdb.DuckDBPyConnection, number: int) -> None:
        connection.execute(f"""
            insert into keys select {number}, row, {_IDENTITY}, k[6]
            from (select row, json_extract_string(line, {_PATHS}) as k from {_lines(objects[number])})
        """)  # noqa: S608 - our own paths

    def write(connection: duckdb.DuckDBPyConnection, number: int) -> None:
        connection.execute(f"""
            copy (
                select line from {_lines(objects[number])}
                where row not in (select row from dropped where object = {number})
            )
            to {_quoted(out / objects[number].name)} ({_WRITE})
        """)  # noqa: S608 - our own paths

    _on_each(database, len(objects), read_keys)
    database.execute("""
        create table dropped as
        with firsts as (
            select identity, min((time, object, row)) as first from keys
            where identity is not null group by identity having count(*) > 1
        )
        select object, row from keys join firsts using (identity) where (time, object, row) <> first
    """)
    _on_each(database, len(objects), write)
    found = database.execute("select (select count(*) from keys) - (select count(*) from dropped)").fetchone()
    return found[0] if found else 0


def _lines(path: Path) -> str:
    """Return a query of a landing object's lines and their numbers."""
    return f"(select line, row_number() over () as row from read_csv({_quoted(path)}, {_READ}))"  # noqa: S608 - our own paths


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _on_each(
    database: duckdb.DuckDBPyConnection, count: int, work: Callable[[duckdb.DuckDBPyConnection, int], None]
) -> None:
    left = list(range(count))[::-1]
    failures: list[BaseException] = []

    def worker() -> None:
        connection = database.cursor()
        try:
            while left and not failures:
                work(connection, left.pop())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=worker) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def main() -> None:
    """Deduplicate an hour."""
    objects, out = arguments()
    started = time.perf_counter()
    rows = dedupe(objects, out)
    done(time.perf_counter() - started, rows)


if __name__ == "__main__":
    main()
