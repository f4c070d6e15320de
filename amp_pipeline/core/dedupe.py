"""Which events of an hour are repeats. Rules: docs/rules.md, "Repeats".

The rule looks at what *landed*, never at what was kept: an event is a repeat when any event with its identity arrived
before it, at
most the window earlier, repeats included. So one hour needs only the key indexes of the hours before it, and the
order in which hours
run does not matter. Since every event counts, the nearest one before decides: where that is too old, all others are
older.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from amp_pipeline.core.index import Keys

_IDENTITY = ("high", "low")

REPEATS = {"row": pl.UInt64, "first_seen": pl.Int64, "conflict": pl.Boolean}
"""Columns of :func:`find_repeats`: the event's row, when its identity was first seen, and whether that event differs.

``first_seen`` is the time (µs) of the first event with its identity in the window; ``conflict`` tells whether that one
says something else.
"""


def candidates(own: Keys, earlier: Keys) -> npt.NDArray[np.bool_]:
    """Tell for each key of an hour whether its event can be a repeat, or what one repeats: a few of many.

    Args:
        own: Keys of the hour, all that have one of their identities among them.
        earlier: Keys of earlier hours that have the ``high`` of one of them.

    Returns:
        Shape (keys of ``own``,).
    """
    same = own.same_as_before()
    same[:-1] |= same[1:]
    return same | np.isin(own.high, earlier.high)


def matching(keys: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a key index whose identity one of ``events`` has, in the order of the index."""
    wanted = events.select(_IDENTITY).unique()
    return keys.join(wanted, on=_IDENTITY, how="semi", maintain_order="left")


def find_repeats(events: pl.DataFrame, earlier: Iterable[pl.DataFrame], window_us: int) -> pl.DataFrame:
    """Return the repeats among ``events`` with the columns :data:`REPEATS`, in landing order.

    Args:
        events: One hour's events that have an identity: ``row``, ``high``, ``low``, ``time``, ``content``; in landing
            order.
        earlier: Key indexes of the hours before it that the window reaches (more does no harm).
        window_us: Length of the window in µs; an event exactly that much later is a repeat.

    Example:
        >>> hour = pl.DataFrame({"row": [0, 1], "high": [7, 7], "low": [7, 7], "time": [10, 20], "content": [1, 2]},
        ...     schema_overrides={"row": pl.UInt64, "high": pl.UInt64, "low": pl.UInt64, "content": pl.UInt64})
        >>> find_repeats(hour, [], window_us=10).rows()
        [(1, 10, True)]
    """
    own = events.select("row", *_IDENTITY, "time", "content")
    before = [
        matching(keys, events).select(pl.lit(None, pl.UInt64).alias("row"), *_IDENTITY, "time", "content")
        for keys in earlier
    ]
    known = pl.concat([*before, own]).sort(*_IDENTITY, "time", "row", nulls_last=False, maintain_order=True)
    repeats = known.filter(
        pl.col("row").is_not_null() & (pl.col("time") - pl.col("time").shift(1).over(_IDENTITY) <= window_us)
    )
    first = known.unique((*_IDENTITY, "time"), keep="first", maintain_order=True).rename({"content": "first_content"})
    found = (
        repeats.with_columns(reach=pl.col("time") - window_us)
        .sort("reach")
        .join_asof(
            first.select(*_IDENTITY, "first_content", reach=pl.col("time"), first_seen=pl.col("time")).sort("reach"),
            on="reach",
            by=_IDENTITY,
            strategy="forward",
            check_sortedness=False,
        )
    )
    return found.select("row", "first_seen", conflict=pl.col("content") != pl.col("first_content")).sort("row")


def seen_twice(kept: pl.DataFrame, earlier: Iterable[pl.DataFrame], window_us: int) -> int:
    """Return how many of the ``kept`` events repeat another event at most the window earlier; none, if all is right.

    Args:
        kept: Events of one hour that are delivered: ``high``, ``low``, ``time``.
        earlier: Key indexes of the hours before it.
        window_us: Length of the window in µs.
    """
    here = (
        kept.sort("time")
        .with_columns(gap=pl.col("time").diff().over(_IDENTITY))
        .filter(pl.col("gap") <= window_us)
        .height
    )
    for keys in earlier:
        met = kept.join(keys.select(*_IDENTITY, earlier_time="time"), on=_IDENTITY, how="inner")
        here += met.filter(pl.col("time") - pl.col("earlier_time") <= window_us).height
    return here


def changed(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return the entries that only one of two versions of a key index has, or has in another place in a tie."""
    placed = [keys.with_columns(place=pl.int_range(pl.len()).over(*_IDENTITY, "time")) for keys in (old, new)]
    columns = [*old.columns, "place"]
    only_old = placed[0].join(placed[1], on=columns, how="anti")
    only_new = placed[1].join(placed[0], on=columns, how="anti")
    return pl.concat([only_old, only_new]).select(old.columns).unique(maintain_order=True)


def touches(change: pl.DataFrame, events: pl.DataFrame, window_us: int) -> bool:
    """Tell whether changed entries of an earlier hour's key index can change what is a repeat among ``events``."""
    if change.is_empty() or events.is_empty():
        return False
    met = events.join(change.select(*_IDENTITY, changed_time="time"), on=_IDENTITY, how="inner")
    return not met.filter(pl.col("time") - pl.col("changed_time") <= window_us).is_empty()
