import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import EVENTS, EVENTS_COMPLETE, MERGED_IDS, ArchiveNames, Pattern

TEN = Hour.parse("2024-05-06-10:00")
FIVE = Hour.parse("2024-05-06-05:00")
HOURS = st.datetimes().map(Hour.of)
EVENT_NAMES = Pattern(EVENTS, project=7)


@given(HOURS, st.integers(0, 999), st.integers(0, 1), st.booleans())
def test_what_a_delivery_writes_a_landing_reads(hour: Hour, part: int, first_part: int, padded: bool):
    names = ArchiveNames(3, 7, "backup", first_part, padded)
    name = names.part(hour, part)
    assert EVENT_NAMES.hour_of(name) == hour
    assert EVENT_NAMES.order_of(name).part == part + first_part
    assert name.startswith(EVENT_NAMES.listing_prefix(hour.date))
    assert any(name.startswith(prefix) for prefix in names.events_prefixes(hour))
    assert Pattern(EVENTS_COMPLETE, project=7).hour_of(names.complete_marker(hour)) == hour
    assert Pattern(MERGED_IDS, organization=3).hour_of(names.merged_ids(hour)) == hour


@pytest.mark.parametrize("hour", ["5", "05"])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".json.zst"])
def test_hour_may_be_padded_or_not_and_packed_or_not(hour: str, ending: str):
    assert EVENT_NAMES.hour_of(f"7/7_2024-05-06_{hour}#12{ending}") == FIVE


@pytest.mark.parametrize(
    "name",
    [
        "8/8_2024-05-06_5#0.json",
        "7/7_2024-05-06_24#0.json",
        "7/7_2024-02-30_5#0.json",
        "7/7_2024-05-06_5#0.json.bz2",
        "7/7_2024-05-06_5#.json",
        "7/7_2024-05-06_5#a.json",
        "7/7_2024-05-06_005#0.json",
        "x/7/7_2024-05-06_5#0.json",
        "7/7_2024-05-06_5_complete",
        "7/7_2024-05-06_5#0.json\n",
    ],
)
def test_other_names_are_not_of_the_layout(name: str):
    assert EVENT_NAMES.hour_of(name) is None


def test_part_number_orders_as_a_number_and_text_before_it_goes_first():
    names = [
        "7/7_2024-05-06_5#10.json",
        "7/7_2024-05-06_5#9.json.gz",
        "7/7_2024-05-06_5#9.json",
        "7/7_2024-05-06_05#11.json",
    ]
    assert sorted(names, key=EVENT_NAMES.order_of) == [names[3], names[2], names[1], names[0]]


def test_object_without_part_number_has_part_0():
    assert Pattern("{yyyy}{MM}{dd}T{H}{ext}").order_of("20240506T5.gz").part == 0


def test_listing_prefix_is_a_day():
    assert EVENT_NAMES.listing_prefix(date(2024, 5, 6)) == "7/7_2024-05-06_"
    assert Pattern("{H}/{yyyy}-{MM}-{dd}").listing_prefix(date(2024, 5, 6)) == ""


def test_custom_layout_may_hold_any_text_and_repeat_the_date():
    pattern = Pattern("raw/{yyyy}/{MM}/{dd}/{any}/app={project}/{yyyy}{MM}{dd}-{H}.{n}.{any}{ext}", project=7)
    name = "raw/2024/05/06/eu-west/app=7/20240506-10.3.abc.gz"
    assert pattern.hour_of(name) == TEN
    assert pattern.order_of(name).part == 3
    assert pattern.listing_prefix(date(2024, 5, 6)) == "raw/2024/05/06/"
    assert pattern.hour_of(name.replace("20240506", "20240507")) is None
    assert pattern.hour_of(name.replace("eu-west", "eu/west")) is None


def test_text_of_a_layout_is_literal():
    assert Pattern("a.b+{yyyy}{MM}{dd}{H}").hour_of("axb+2024050610") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{yyyy}-{MM}-{dd}_{hour}", "unknown placeholder {hour}; known are {project} {org} {yyyy}"),
        ("{yyyy}-{MM}-{dd}.json", "{H} is missing"),
        ("{H}.json", "{yyyy} is missing"),
        ("{org}/{yyyy}-{MM}-{dd}_{H}", "unknown placeholder {org}"),
    ],
)
def test_layout_that_does_not_tell_the_hour_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pattern(text, project=7)


def test_prefixes_of_an_hour_do_not_hold_another_hour():
    names = ArchiveNames(3, 7, "backup")
    for hour in (TEN, FIVE, Hour.parse("2024-05-06-01:00")):
        others = [
            ArchiveNames(3, 7, "b", padded_hour=p).part(Hour(hour.number + n), 0)
            for n in range(1, 24)
            for p in (True, False)
        ]
        assert not [name for name in others if name.startswith(tuple(names.events_prefixes(hour)))]


def test_names_of_a_delivery_are_amplitudes():
    names = ArchiveNames(3, 7, "backup")
    assert names.part(FIVE, 0) == "7/7_2024-05-06_5#0.json.gz"
    assert ArchiveNames(3, 7, "backup", 1, True).part(FIVE, 0) == "7/7_2024-05-06_05#1.json.gz"
    assert names.complete_marker(FIVE) == "7/7_2024-05-06_5_complete"
    assert names.merged_ids(FIVE) == "-3/-3_2024-05-06_5.json.gz"
    assert names.manifest(FIVE) == "_amp_pipeline/7/backup/2024-05-06/05.json"
    assert names.owner() == "_amp_pipeline/owner.json"


def test_marker_goes_away_before_the_manifest_in_either_spelling():
    assert ArchiveNames(3, 7, "backup").hour_ends(FIVE) == [
        "7/7_2024-05-06_05_complete",
        "7/7_2024-05-06_5_complete",
        "_amp_pipeline/7/backup/2024-05-06/05.json",
    ]
