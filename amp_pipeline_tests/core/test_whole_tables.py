from typing import Any

import polars as pl

from amp_pipeline.core import dashboard
from amp_pipeline.core.event_rows import EventRows
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.summaries import summary
from amp_pipeline.core.tables import JOINS, TABLES, Name
from amp_pipeline.core.user_keys import user_key
from amp_pipeline.core.whole_tables import Dashboard, whole_tables
from amp_pipeline_tests.builders import event

LINES = [
    event(1, user_id="a", amplitude_id=1, device_id="d", event_type="seen"),
    event(2, user_id="a", amplitude_id=1, device_id="e", event_type="seen"),
    event(3, user_id="b", event_type="both"),
]


def known(members: list[tuple[str, int | None, str | None]]) -> Dashboard:
    return Dashboard(
        pl.DataFrame([{"id": "c1", "name": "One"}], schema=dashboard.COHORTS),
        pl.DataFrame(members, schema=dashboard.MEMBERS, orient="row"),
        pl.DataFrame(
            [{"name": "both", "category": "listed"}, {"name": "planned", "category": "unlisted"}],
            schema=dashboard.EVENT_TYPES,
        ),
        pl.DataFrame([{"id": 7, "name": "listed"}], schema=dashboard.CATEGORIES),
    )


def tables(found: Dashboard | None) -> dict[Name, list[dict[str, Any]]]:
    rows = EventRows().read(block_of(LINES))
    made = whole_tables(summary(rows, pl.Series([0, 1, 2])), found)
    for name, frame in made.items():
        assert frame.schema == pl.Schema(TABLES[name].schema)
        assert frame.select(*TABLES[name].key).n_unique() == len(frame), f"{name} has a key twice"
    for join in [one for one in JOINS if one.table != "event"]:
        named = made[join.table].select(*join.columns).drop_nulls()
        assert len(named.join(made[join.to], left_on=join.columns, right_on=join.key, how="anti")) == 0, join
    return {name: frame.to_dicts() for name, frame in made.items()}


def test_without_a_dashboard_its_tables_are_empty():
    found = tables(None)
    assert {name for name, rows in found.items() if rows} == {"user", "event_type"}


def test_a_member_is_every_user_of_their_amplitude_id():
    found = tables(known([("c1", 1, None)]))
    assert {row["user_key"] for row in found["user_cohort"]} == {user_key("a", 1, "d"), user_key("a", 1, "e")}
    assert len(found["user"]) == 3


def test_members_without_events_become_users_without_events():
    found = tables(known([("c1", 9, "z"), ("c1", None, "b"), ("c1", None, "y")]))
    new = {row["user_key"]: row["events"] for row in found["user"] if row["events"] == 0}
    assert new == {user_key("z", 9, None): 0, user_key("y", None, None): 0}
    assert {row["user_key"] for row in found["user_cohort"]} == {*new, user_key("b", None, None)}


def test_a_member_who_is_listed_twice_is_one_row():
    found = tables(known([("c1", 1, "a"), ("c1", 1, None), ("c1", 9, None), ("c1", 9, "z")]))
    assert len(found["user_cohort"]) == 4


def test_cohorts_and_categories_that_are_only_named_have_a_row():
    found = tables(known([("c2", 1, None)]))
    assert [(row["id"], row["name"]) for row in found["cohort"]] == [("c1", "One"), ("c2", None)]
    assert [(row["name"], row["id"]) for row in found["event_category"]] == [("listed", 7), ("unlisted", None)]


def test_types_of_events_and_of_the_dashboard_are_one_table():
    found = tables(known([]))["event_type"]
    assert [(row["name"], row["events"], row["category"]) for row in found] == [
        ("both", 1, "listed"),
        ("planned", 0, "unlisted"),
        ("seen", 2, None),
    ]
