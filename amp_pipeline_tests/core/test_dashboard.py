"""Answers of Amplitude's Dashboard APIs as frames."""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from amp_pipeline.core import dashboard
from amp_pipeline_tests.dashboard_server import cohort, event_type


def one(frame: pl.DataFrame) -> dict[str, Any]:
    (row,) = frame.to_dicts()
    return row


def test_cohort_has_what_amplitude_says_of_it() -> None:
    row = one(
        dashboard.cohorts(
            [cohort("a1", name="Buyers", description="They bought", syncMetadata=[{"target": "braze"}])]
        ).frame
    )
    assert row["id"] == "a1"
    assert (row["name"], row["description"], row["app_id"], row["size"]) == ("Buyers", "They bought", 7, 2)
    assert row["last_computed"] == datetime(2023, 3, 21, 23, 10, 33, tzinfo=UTC)
    assert json.loads(row["definition"]) == {"version": 3, "cohortType": "UNIQUES"}
    assert json.loads(row["owners"]) == ["owner@house.example"]
    assert row["metadata"] is None
    assert json.loads(row["other"]) == {"syncMetadata": [{"target": "braze"}]}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (1679437294, datetime(2023, 3, 21, 22, 21, 34, tzinfo=UTC)),
        (1679437294000, datetime(2023, 3, 21, 22, 21, 34, tzinfo=UTC)),
        ("2023-03-21T15:21:34-07:00", datetime(2023, 3, 21, 22, 21, 34, tzinfo=UTC)),
        ("2023-03-21T22:21:34", datetime(2023, 3, 21, 22, 21, 34, tzinfo=UTC)),
    ],
)
def test_times_are_seconds_milliseconds_or_text(given: object, read: datetime) -> None:
    row = one(dashboard.cohorts([{"id": "a", "lastMod": given}]).frame)
    assert (row["last_modified"], row["other"]) == (read, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "many"),
        ("size", 1.5),
        ("size", True),
        ("size", 10**30),
        ("archived", "yes"),
        ("lastMod", "yesterday"),
        ("lastMod", 1e300),
        ("name", 5),
        ("new_field", {"deep": [1]}),
        ("other", "x"),
    ],
)
def test_what_does_not_fit_is_kept_as_text(field: str, value: object) -> None:
    row = one(dashboard.cohorts([{"id": "a", field: value}]).frame)
    assert json.loads(row.pop("other")) == {field: value}
    assert {key: found for key, found in row.items() if found is not None} == {"id": "a"}


def test_missing_fields_are_null_and_frames_have_their_columns_without_rows() -> None:
    for parsed, schema in [
        (dashboard.cohorts([]), dashboard.COHORTS),
        (dashboard.event_types([], []), dashboard.EVENT_TYPES),
        (dashboard.categories([]), dashboard.CATEGORIES),
        (dashboard.members("a", pl.DataFrame()), dashboard.MEMBERS),
    ]:
        assert parsed == (parsed.frame, 0)
        assert dict(parsed.frame.schema) == schema
    assert set(one(dashboard.categories([{"name": "x"}]).frame).items()) == {
        ("name", "x"),
        ("id", None),
        ("other", None),
    }


@pytest.mark.parametrize("entry", [None, 5, "a", [], {}, {"id": None}, {"id": ""}, {"id": 5}])
def test_entries_without_a_key_are_counted(entry: object) -> None:
    parsed = dashboard.cohorts([entry, {"id": "a"}])
    assert (parsed.frame["id"].to_list(), parsed.unread) == (["a"], 1)


def test_the_same_twice_is_there_once_and_order_does_not_matter() -> None:
    frame = dashboard.cohorts([{"id": "b"}, {"id": "a", "size": 1}, {"id": "a", "size": 2}]).frame
    assert frame["id"].to_list() == ["a", "b"]
    assert frame["size"].to_list() == [1, None]


def test_half_a_surrogate_pair_is_no_trouble() -> None:
    row = one(dashboard.categories([{"name": "\ud800", "x": "\udfff"}]).frame)
    assert (row["name"], json.loads(row["other"])) == ("?", {"x": "?"})


def test_a_number_that_no_column_holds_is_kept_as_text() -> None:
    row = one(dashboard.event_types([{"value": "buy", "totals": 10**400, "totals_delta": 10**400}], []).frame)
    assert (row["totals"], row["totals_delta"]) == (None, None)
    assert json.loads(row["other"]) == {"events_list": {"totals": 10**400, "totals_delta": 10**400}}


def test_event_types_have_what_list_and_plan_say() -> None:
    listed = [event_type("buy", id=3, totals=5.0, display="Buys", new=1), event_type("see", name="See!")]
    planned = [
        {
            "event_type": "buy",
            "category": {"name": "Sales"},
            "description": "Paid",
            "display_name": "Other",
            "tags": [],
        },
        {"event_type": "never", "category": None, "description": None, "display_name": "Never"},
    ]
    buy, never, see = dashboard.event_types(listed, planned).frame.to_dicts()
    assert (buy["name"], buy["id"], buy["totals"], buy["display"]) == ("buy", 3, 5, "Buys")
    assert (buy["category"], buy["description"], buy["listed"], buy["planned"]) == ("Sales", "Paid", True, True)
    assert json.loads(buy["other"]) == {"events_list": {"name": "buy", "new": 1}, "taxonomy": {"tags": []}}
    assert (never["name"], never["display"], never["listed"], never["planned"]) == ("never", "Never", False, True)
    assert (never["hidden"], never["category"], never["other"]) == (None, None, None)
    assert (see["name"], see["planned"], see["hidden"]) == ("see", False, False)
    assert json.loads(see["other"]) == {"events_list": {"name": "See!"}}


def test_category_of_another_form_is_kept() -> None:
    planned: list[Any] = [
        {"event_type": "a", "category": "Sales"},
        {"event_type": "b", "category": {"name": "Sales", "id": 4}},
        {"event_type": "c", "category": [1]},
    ]
    a, b, c = dashboard.event_types([], planned).frame.to_dicts()
    assert [row["category"] for row in (a, b, c)] == ["Sales", "Sales", None]
    assert json.loads(b["other"]) == {"taxonomy": {"category_as_given": {"name": "Sales", "id": 4}}}
    assert json.loads(c["other"]) == {"taxonomy": {"category": [1]}}


def test_members_are_there_once_sorted_and_typed() -> None:
    raw = pl.DataFrame(
        {
            "user_id": ["x", "", "y", None, "x", "", "z"],
            "amplitude_id": ["20", "3", "", "", "20", "no", str(1 << 63)],
            "more": ["1"] * 7,
        }
    )
    parsed = dashboard.members("c", raw)
    assert parsed.frame.rows() == [("c", 3, None), ("c", 20, "x"), ("c", None, "y"), ("c", None, "z")]
    assert parsed.unread == 2
    assert dict(parsed.frame.schema) == dashboard.MEMBERS


@pytest.mark.parametrize("column", ["amplitude_id", "user_id"])
def test_members_by_one_id_alone(column: str) -> None:
    parsed = dashboard.members("c", pl.DataFrame({column: ["5", "4"]}))
    assert parsed.frame[column].cast(pl.String).to_list() == ["4", "5"]


def test_deleted_users_are_left_out_by_either_id() -> None:
    raw = pl.DataFrame({"amplitude_id": ["1", "2", "3", ""], "user_id": ["a", "b", "", "d"]})
    frame = dashboard.members("c", raw).frame
    assert dashboard.without(frame, {"b", "d"}, {3, 10**40}).rows() == [("c", 1, "a")]
    assert dashboard.without(frame, set(), {1}).height == 3
    assert dashboard.without(frame, {"1"}, set()).height == 4
    assert dashboard.without(frame, set(), set()).equals(frame)


@pytest.mark.parametrize("answer", [None, [], {}, {"data": None}, {"data": {}}, "data"])
def test_other_answers_have_no_list(answer: object) -> None:
    assert dashboard.entries(answer, "data") is None
