"""What a company would buy a cluster for: Spark, here on the two cores of one machine.

    python benchmarks/peers/pyspark_dedupe.py LANDING OUT

Two passes here too, so that only keys are shuffled: the first finds the lines to drop, the second reads the landing
again without them. The session's start and the warm-up (the same work over the first landing object, three times, after
which it gets no faster) are told apart from the work.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import reduce
from pathlib import Path

from hour import arguments, done
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f

CORES = 2
_WARM_UPS = 3
_KEYS = ["device_id", "$insert_id", "event_id", "client_event_time", "uuid", "server_upload_time"]
_NAMES = ["device", "insert", "event_id", "clicked", "uuid", "time"]
_IDENTITY = """
    case
        when device <> '' and insert <> '' then concat('i', length(device), ':', device, insert)
        when device <> '' and event_id is not null and clicked is not null
            then concat('e', length(device), ':', device, event_id, '@', clicked)
        when uuid <> '' then concat('u', uuid)
    end
"""


def session() -> SparkSession:
    """Start Spark with what suits one machine."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", CORES)
        .getOrCreate()
    )


def dedupe(spark: SparkSession, objects: list[Path], out: Path) -> None:
    """Write the hour without its repeats, a file for each landing object, in their order."""
    # One query for each object, so that it is a partition of its own, whose lines are numbered from 0.
    lines = reduce(
        DataFrame.unionAll,
        [
            spark.read.text(str(path)).select(
                "value", f.lit(number).alias("object"), f.monotonically_increasing_id().alias("row")
            )
            for number, path in enumerate(objects)
        ],
    )
    keys = lines.select("object", "row", f.json_tuple("value", *_KEYS).alias(*_NAMES)).select(
        "object", "row", "time", f.expr(_IDENTITY).alias("identity")
    )
    arrived = Window.partitionBy("identity").orderBy("time", "object", "row")
    dropped = (
        keys.where("identity is not null")
        .select("object", "row", f.row_number().over(arrived).alias("arrival"))
        .where("arrival > 1")
        .select("object", "row")
    )
    # Collected, or the first pass is planned once for each object: Spark moves the join below the union.
    few = spark.createDataFrame(dropped.collect(), dropped.schema)
    kept = lines.join(f.broadcast(few), ["object", "row"], "left_anti").select("value")
    kept.write.mode("overwrite").text(str(out), compression="gzip")


def main() -> None:
    """Deduplicate an hour, warm."""
    objects, out = arguments()
    started = time.perf_counter()
    spark = session()
    ready = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(_WARM_UPS):
            dedupe(spark, objects[:1], Path(scratch) / "out")
    warm = time.perf_counter()
    dedupe(spark, objects, out)
    ended = time.perf_counter()
    rows = spark.read.text(str(out)).count()
    spark.stop()
    done(ended - warm, rows, start_seconds=round(ready - started, 3), warm_up_seconds=round(warm - ready, 3))


if __name__ == "__main__":
    main()
