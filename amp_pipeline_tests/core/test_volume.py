"""Events and bytes by month, and what is expected of this month and the next."""

from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.volume import Month, Volume, by_month, total

NOW = Hour.parse("2026-11-22-12:00")
FIRST = Hour.parse("2026-09-15-00:00")
DECEMBER = list(between(Hour.parse("2026-12-01-00:00"), Hour.parse("2026-12-31-23:00")))
WEEK = 7 * 24


def of(events: int) -> Volume:
    return Volume(events, events * 100, events * 800)


def months(volumes: dict[Hour, Volume], last: Hour | None = None, first: Hour = FIRST) -> dict[str, Month]:
    return {month.name: month for month in by_month(volumes, NOW, first, last)}


def test_an_event_has_its_share_of_the_bytes_and_none_where_there_is_no_event():
    assert (of(7).event_bytes, of(7).packed_event_bytes) == (800, 100)
    assert (Volume().event_bytes, Volume().packed_event_bytes) == (0, 0)
    assert total([of(1), of(2)]) == of(3)


def test_the_hours_of_a_month_are_those_of_the_project():
    found = months({hour: of(10) for hour in between(FIRST, NOW + -1)})
    assert list(found) == ["2026-09", "2026-10", "2026-11", "2026-12"]
    assert [(month.known, month.hours) for month in found.values()] == [(384, 384), (744, 744), (516, 720), (0, 744)]
    assert found["2026-10"].volume == of(7440)


def test_only_this_month_and_the_next_have_an_expectation():
    found = months({hour: of(10) for hour in between(FIRST, NOW + -1)})
    assert [month.expected for month in found.values()] == [None, None, of(7200), of(7440)]


def test_an_hour_to_come_is_expected_to_be_like_the_same_hour_of_the_last_four_weeks():
    weekends = {hour: of(1000 if hour.start.weekday() >= 5 else 10) for hour in between(FIRST, NOW + -1)}
    december = sum(1000 if hour.start.weekday() >= 5 else 10 for hour in DECEMBER)
    assert months(weekends)["2026-12"].expected == of(december)


def test_what_lies_more_than_four_weeks_back_counts_for_no_expectation():
    volumes = {hour: of(10 if hour >= NOW + -4 * WEEK else 99) for hour in between(FIRST, NOW + -1)}
    assert months(volumes)["2026-12"].expected == of(7440)


def test_an_hour_of_the_week_that_is_not_known_is_expected_to_be_like_any_other():
    found = months({NOW + -1: of(30), NOW + -2: of(10)})
    like = {(NOW + -1).number % WEEK: 30, (NOW + -2).number % WEEK: 10}
    assert found["2026-12"].expected == of(sum(like.get(hour.number % WEEK, 20) for hour in DECEMBER))


def test_a_gap_in_this_month_is_expected_like_hours_to_come():
    volumes = {hour: of(10) for hour in between(FIRST, NOW + -1)}
    for n in range(24):
        del volumes[NOW + (-50 - n)]
    november = months(volumes)["2026-11"]
    assert (november.known, november.volume, november.expected) == (492, of(4920), of(7200))


def test_without_hours_of_the_last_weeks_nothing_is_expected():
    assert months({FIRST: of(10)})["2026-12"].expected is None
    assert list(months({})) == ["2026-11", "2026-12"]


def test_a_project_that_has_ended_is_expected_nothing_of_after_its_end():
    volumes = {hour: of(10) for hour in between(FIRST, NOW + -24)}
    found = months(volumes, last=NOW + -24)
    assert list(found) == ["2026-09", "2026-10", "2026-11"]
    assert found["2026-11"].expected == found["2026-11"].volume


def test_a_project_that_begins_next_month_has_that_month_alone():
    assert list(months({}, first=Hour.parse("2026-12-10-00:00"))) == ["2026-12"]
