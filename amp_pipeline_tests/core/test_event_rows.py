import json
import re
import uuid

import polars as pl
import pytest

from amp_pipeline.core.event_rows import EventRows
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.tables import EVENT
from amp_pipeline_tests.builders import event


def rows_of(*lines: bytes) -> pl.DataFrame:
    return EventRows().read(block_of(lines))


def one(**fields: object) -> dict[str, object]:
    (row,) = rows_of(event(0, **fields)).iter_rows(named=True)
    return row


def test_a_row_has_the_columns_of_the_table():
    assert rows_of(event(0)).schema == pl.Schema(EVENT.schema)
    assert rows_of().schema == pl.Schema(EVENT.schema)


@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("amplitude_id", 5, 5),
        ("amplitude_id", 5.0, 5),
        ("amplitude_id", -(2**63), -(2**63)),
        ("location_lat", 5, 5.0),
        ("paying", "true", True),
        ("paying", "false", False),
        ("paying", False, False),
        ("user_id", "", ""),
        ("city", "K\u0000ln", "K\u0000ln"),
        ("groups", [1], "[1]"),
        ("plan", "x", '"x"'),
        ("$schema", 13, 13),
    ],
)
def test_what_fits_a_column_is_read(column: str, value: object, read: object):
    row = one(**{column: value})
    assert row[column.removeprefix("$")] == read
    assert row["others"] is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("amplitude_id", 2**63),
        ("amplitude_id", 5.5),
        ("amplitude_id", "5"),
        ("amplitude_id", True),
        ("event_id", 10**400),
        ("location_lat", "5.0"),
        ("paying", "yes"),
        ("paying", 1),
        ("user_id", 5),
        ("user_id", "\ud800"),
        ("city", {"a": [1, 2]}),
        ("event_time", "yesterday"),
        ("event_time", 5),
        ("$insert_id", 7),
        ("no column", "x"),
        ("insert_id", "x"),
        ("\ud800", "x"),
        ('"', None),
    ],
)
def test_what_fits_no_column_is_kept_under_its_key(column: str, value: object):
    row = one(**{column: value})
    assert row.get(column.removeprefix("$") if column != "insert_id" else "") is None
    assert row["others"] == json.dumps({column: value}, separators=(",", ":"))


def test_lines_that_can_only_be_read_one_by_one_change_nothing_for_their_neighbours():
    plain = [event(number, user_id=str(number), event_time="2024-05-06 00:00:00.5") for number in range(50)]
    hostile = [event(0, user_id=5), event(0, event_time="never"), event(0, city="\udc00"), event(0, **{"new": 1})]
    mixed = [line for number, one in enumerate(plain) for line in (one, hostile[number % 4])]
    found = rows_of(*mixed)
    # A uuid is made of the line and of how many there were of it.
    assert found[::2].equals(rows_of(*plain))
    assert found["others"].to_list()[1::2][:4] == [
        '{"user_id":5}',
        '{"event_time":"never"}',
        '{"city":"\\udc00"}',
        '{"new":1}',
    ]


def test_more_keys_than_can_be_learnt_are_kept():
    lines = [event(number, **{f"key {number}": number}) for number in range(400)]
    assert rows_of(*lines)["others"].to_list() == [f'{{"key {number}":{number}}}' for number in range(400)]


def test_json_is_kept_byte_for_byte():
    text = '{"city":"a","City":1.0,"n":1e400,"b":[ 1 ],"c":"\\u00e9","city":2}'
    line = event(0)[:-1] + b',"user_properties": ' + text.encode() + b"}"
    assert rows_of(line)["user_properties"].to_list() == [text]


def test_of_a_key_that_stands_twice_the_last_counts():
    line = b'{"user_id":5,"zip":1,' + event(0, user_id="u", zip=2)[1:]
    (row,) = rows_of(line).iter_rows(named=True)
    assert (row["user_id"], row["others"]) == ("u", '{"zip":2}')


def test_events_without_uuid_get_one_of_their_own_that_is_always_the_same():
    lines = [event(1), event(1), event(2), event(3, uuid=""), event(3, uuid=None), event(4, uuid="given")]
    found = rows_of(*lines)["uuid"].to_list()
    assert found[-1] == "given"
    assert len(set(found)) == len(lines)
    assert all(re.fullmatch(str(uuid.UUID(one)), one) and uuid.UUID(one).version == 8 for one in found[:-1])
    assert rows_of(*lines)["uuid"].to_list() == found
    # Wherever blocks are cut.
    reader = EventRows()
    assert [text for line in lines for text in reader.read(block_of([line]))["uuid"]] == found
