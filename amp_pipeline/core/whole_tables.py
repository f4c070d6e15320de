"""The tables that are not of one hour, from the summary of all events and what the dashboard knows: docs/tables.md."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from amp_pipeline.core.summaries import Summary, table_rows
from amp_pipeline.core.tables import COHORT, EVENT_CATEGORY, EVENT_TYPE, TABLES, USER, USER_COHORT, Name, Table
from amp_pipeline.core.user_keys import user_key


class Dashboard(NamedTuple):
    """What the dashboard knew of a project at one time: frames as :mod:`amp_pipeline.core.dashboard` has them."""

    cohorts: pl.DataFrame
    members: pl.DataFrame
    """Of all cohorts."""
    event_types: pl.DataFrame
    categories: pl.DataFrame


def whole_tables(summed: Summary, dashboard: Dashboard | None) -> dict[Name, pl.DataFrame]:
    """Return all tables but ``event``, each in the order of its key.

    Args:
        summed: Of all events.
        dashboard: What the dashboard knows; None where nobody asked it.
    """
    found = table_rows(summed)
    tables: dict[Name, pl.DataFrame] = {
        name: found.get(name, table.empty()) for name, table in TABLES.items() if name != "event"
    }
    tables["event_type"] = _with_columns(tables["event_type"], EVENT_TYPE)
    if dashboard is not None:
        tables["event_type"] = _event_types(found["event_type"], dashboard.event_types)
        tables["event_category"] = _with_missing(dashboard.categories, EVENT_CATEGORY, tables["event_type"]["category"])
        tables["cohort"] = _with_missing(dashboard.cohorts, COHORT, dashboard.members["cohort_id"])
        tables["user"] = _with_members(tables["user"], dashboard.members)
        tables["user_cohort"] = _user_cohorts(tables["user"], dashboard.members)
    return {name: frame.select(*TABLES[name].schema).sort(TABLES[name].key) for name, frame in tables.items()}


def _with_columns(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    return pl.concat([table.empty(), frame], how="diagonal")


def _event_types(seen: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    joined = seen.join(known, on="name", how="full", coalesce=True)
    return joined.with_columns(pl.col("events").fill_null(0))


def _with_missing(known: pl.DataFrame, table: Table, named: pl.Series) -> pl.DataFrame:
    """Return what is known, and a row of nulls for each key that is only named elsewhere: joins have to hold."""
    key = table.key[0]
    missing = named.drop_nulls().unique().alias(key).to_frame().join(known, on=key, how="anti")
    return _with_columns(pl.concat([known, missing], how="diagonal"), table)


def _with_members(users: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return users, and members of whom there is no event."""
    by_id = members.filter(pl.col("amplitude_id").is_not_null()).join(users, on="amplitude_id", how="anti")
    by_name = members.filter(pl.col("amplitude_id").is_null()).join(users, on="user_id", how="anti")
    new = pl.concat([by_id, by_name]).select("user_id", "amplitude_id").unique()
    keys = [user_key(user_id, amplitude_id, None) for user_id, amplitude_id in new.iter_rows()]
    rows = new.with_columns(pl.Series("user_key", keys, dtype=pl.String), events=pl.lit(0, pl.Int64))
    return _with_columns(pl.concat([users, rows], how="diagonal"), USER)


def _user_cohorts(users: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each member and each user that they are; members without Amplitude id are told by user id."""
    ids = users.select("user_key", "amplitude_id", pl.col("user_id").alias("known_as"))
    by_id = members.filter(pl.col("amplitude_id").is_not_null()).join(ids, on="amplitude_id")
    by_name = members.filter(pl.col("amplitude_id").is_null()).join(ids, left_on="user_id", right_on="known_as")
    both = pl.concat([by_id.select(*USER_COHORT.schema), by_name.select(*USER_COHORT.schema)])
    in_order = both.sort("cohort_id", "user_key", "amplitude_id", "user_id", nulls_last=True)
    return in_order.unique(["cohort_id", "user_key"], keep="first", maintain_order=True)
