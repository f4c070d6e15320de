"""Work (b) in DuckDB: which events of the hour came once in the week before, from the same keys.

python benchmarks/peers/duckdb_week.py WEEK OUT
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import duckdb
from hour import done

_WEEK_US = 7 * 24 * 3600 * 1_000_000


def main() -> None:
    """Look up the hour's keys in the week's."""
    week = Path(sys.argv[1])
    started = time.perf_counter()
    database = duckdb.connect()
    database.execute("set threads = 2")
    # The hour's keys are the small side: the week's run past a hash table of them.
    found = database.execute(
        f"""
        select distinct hour.row
        from read_parquet('{week}/parquet/*.parquet') as week
        join read_parquet('{week}/hour.parquet') as hour
          on week.high = hour.high and week.low = hour.low and week.time >= hour.time - {_WEEK_US}
        order by all
        """  # noqa: S608 - our own paths
    ).fetchall()
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(",".join(str(row) for (row,) in found).encode()).hexdigest()
    done(seconds, len(found), repeats_of_week=len(found), digest_of_week=digest)


if __name__ == "__main__":
    main()
