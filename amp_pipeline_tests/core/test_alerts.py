"""When people are told: examples of each kind of message, and what holds of any history."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.alerts import (
    MOST_FAILED_HOURS,
    RETRY_AFTER,
    FailedHour,
    Message,
    Patience,
    State,
    Trouble,
    due,
    failed_hours,
    observe,
    sent,
    trying,
    with_failed,
    without_failed,
)

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
EVERY = timedelta(minutes=15)
DAY = timedelta(hours=24)
PATIENCE = Patience(tries=3, remind=DAY)
DENIED = Trouble(source="access", kind="missing_permission s3:PutObject", summary="put is refused")
GONE = Trouble(source="access", kind="no_bucket", summary="there is no such bucket")
FAILED = Trouble(source="run", kind="run", summary="1 hour failed")


class History:
    """A delivery that is looked at, and one person who is told."""

    def __init__(self) -> None:
        self.state = State()
        self.now = START
        self.arrived: list[Message] = []
        self.decided: list[Message] = []

    def look(self, trouble: Trouble | None, *, sure: bool = False, arrives: bool = True) -> None:
        self.state = observe(self.state, trouble, self.now, PATIENCE, sure=sure)
        unsent = due(self.state, self.now, PATIENCE)
        if unsent is not None:
            self.decided += [unsent.message] if unsent.tried_at is None else []
            self.state = trying(self.state, self.now)
            missed = [] if arrives else ["mailto data@…"]
            self.state = sent(self.state, unsent.message, missed, anybody=arrives)
            self.arrived += [unsent.message] if arrives else []
        # What is remembered is all there is.
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=State)

    def looks(self, troubles: Sequence[Trouble | None], every: timedelta = EVERY, *, arrives: bool = True) -> None:
        for trouble in troubles:
            self.look(trouble, arrives=arrives)
            self.now += every

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.arrived]


def test_nobody_is_told_before_so_many_tries_have_failed():
    history = History()
    history.looks([DENIED, DENIED, None, DENIED, DENIED])
    assert history.kinds == []
    history.looks([DENIED])
    assert history.kinds == ["first"]
    assert history.arrived[0].trouble == DENIED
    assert history.arrived[0].since == START + 3 * EVERY


def test_what_is_sure_is_told_at_once():
    history = History()
    history.look(FAILED, sure=True)
    assert history.kinds == ["first"]


def test_one_outage_of_two_days_is_told_three_times():
    history = History()
    history.looks([DENIED] * (2 * 96 + 3))
    assert history.kinds == ["first", "reminder", "reminder"]
    assert {message.since for message in history.arrived} == {START}
    history.looks([None, None])
    assert history.kinds == ["first", "reminder", "reminder", "recovered"]
    assert history.arrived[-1].trouble == DENIED


def test_failed_runs_of_a_bucket_that_is_away_are_nothing_new():
    history = History()
    history.looks([DENIED] * 3)
    for _ in range(20):
        history.look(DENIED, sure=True)
        history.looks([DENIED] * 4)
    assert history.kinds == ["first"]


def test_another_kind_of_trouble_is_told_once_it_lasts():
    history = History()
    history.looks([DENIED] * 3 + [GONE, DENIED, GONE, GONE])
    assert history.kinds == ["first"]
    history.looks([GONE])
    assert history.kinds == ["first", "changed"]
    assert history.arrived[-1].before == DENIED.summary
    assert history.arrived[-1].trouble == GONE


def test_a_bucket_that_explains_a_failed_run_is_told_at_once():
    history = History()
    history.look(FAILED, sure=True)
    history.look(DENIED, sure=True)
    assert history.kinds == ["first", "changed"]


def test_trouble_that_switches_between_two_kinds_is_no_flood():
    history = History()
    history.looks(([DENIED] * 3 + [GONE] * 3) * 14)
    assert history.kinds == ["first", "changed"]


def test_a_problem_that_comes_back_soon_is_told_as_such_and_then_held_until_it_stays_away():
    history = History()
    history.looks([DENIED] * 3 + [None] + [DENIED] * 3)
    assert history.kinds == ["first", "recovered", "again"]
    history.looks(([None] * 2 + [DENIED] * 3) * 15)
    assert history.kinds == ["first", "recovered", "again"]
    history.looks([None] * 96)
    assert history.kinds == ["first", "recovered", "again"]
    history.looks([None])
    assert history.kinds == ["first", "recovered", "again", "recovered"]


def test_a_problem_that_comes_back_after_long_is_a_new_one():
    history = History()
    history.looks([DENIED] * 3 + [None] * 97 + [DENIED] * 3)
    assert history.kinds == ["first", "recovered", "first"]


def test_who_was_never_reached_is_not_told_that_it_is_well():
    history = History()
    history.looks([DENIED] * 5, arrives=False)
    history.looks([None] * 5)
    assert [message.kind for message in history.decided] == ["first"]
    assert history.kinds == []
    assert history.state == State()


def test_a_message_that_did_not_arrive_is_tried_again_for_those_whom_it_missed():
    history = History()
    history.looks([DENIED] * 3, arrives=False)
    unsent = due(history.state, history.now, PATIENCE)
    assert unsent is not None
    assert unsent.to == ("mailto data@…",)
    history.looks([DENIED] * 5)
    assert history.kinds == ["first"]
    assert history.arrived[0].at == START + 2 * EVERY


def test_two_that_look_at_the_same_time_don_t_both_send():
    state = observe(State(), FAILED, START, PATIENCE, sure=True)
    assert due(state, START, PATIENCE) is not None
    state = trying(state, START)
    assert due(state, START + RETRY_AFTER / 2, PATIENCE) is None
    assert due(state, START + RETRY_AFTER, PATIENCE) is not None


def test_a_message_that_nobody_takes_is_given_up():
    state = trying(observe(State(), FAILED, START, PATIENCE, sure=True), START)
    assert due(state, START + DAY, PATIENCE) is not None
    assert due(state, START + DAY + EVERY, PATIENCE) is None


def test_a_result_that_comes_late_changes_nothing_of_a_newer_message():
    history = History()
    history.looks([DENIED] * 3)
    (first,) = history.arrived
    history.look(None, arrives=False)
    waiting = history.state
    assert sent(waiting, first, [], anybody=True) == waiting


def test_failed_hours_are_one_trouble_until_all_are_done():
    one, two = (FailedHour(at=START + n * EVERY, run=f"run {n}", what=f"why {n}") for n in (1, 2))
    state = with_failed(with_failed(State(), {"2026-11-22-08:00": two}), {"2026-11-22-07:00": one})
    trouble = failed_hours(state)
    assert trouble is not None
    assert trouble.summary == "2 hours failed: why 2"
    assert (trouble.run, list(trouble.hours)) == ("run 2", ["2026-11-22-07:00", "2026-11-22-08:00"])
    state = without_failed(state, {"2026-11-22-08:00", "another"})
    assert (left := failed_hours(state)) is not None
    assert left.summary == "1 hour failed: why 1"
    assert failed_hours(without_failed(state, {"2026-11-22-07:00"})) is None


def test_of_very_many_failed_hours_the_latest_are_kept():
    hours = {f"{n:06}": FailedHour(at=START, run="r", what="w") for n in range(MOST_FAILED_HOURS + 5)}
    kept = with_failed(State(), hours).failed
    assert len(kept) == MOST_FAILED_HOURS
    assert min(kept) == "000005"


LOOKS = st.tuples(
    st.sampled_from([None, None, DENIED, DENIED, GONE, FAILED]),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.integers(min_value=1, max_value=60 * 30).map(lambda minutes: timedelta(minutes=minutes)),
    st.integers(min_value=1, max_value=6),
)


@given(st.lists(LOOKS, max_size=60))
def test_whatever_happens_people_are_told_rightly_and_rarely(
    looks: list[tuple[Trouble | None, bool, bool, timedelta, int]],
):
    history = History()
    in_a_row, sure_in_a_row = 0, False
    for trouble, sure, arrives, pause, times in looks:
        for _ in range(times):
            told = len(history.decided)
            in_a_row = in_a_row + 1 if trouble else 0
            sure_in_a_row = bool(trouble) and (sure or sure_in_a_row)
            history.look(trouble, sure=sure and trouble is not None, arrives=arrives)
            for message in history.decided[told:]:
                if message.kind in ("first", "again"):
                    assert in_a_row >= PATIENCE.tries or sure_in_a_row
                if message.kind == "recovered":
                    assert trouble is None
                else:
                    assert message.trouble == trouble
            if in_a_row >= PATIENCE.tries:
                # Whoever is asked now can say what is wrong: it was decided to tell.
                assert history.state.problem is not None
                assert history.state.problem.told is not None
            history.now += pause
    assert len({(message.kind, message.at) for message in history.arrived}) == len(history.arrived)
    for kind in ("first", "again", "changed", "reminder", "recovered"):
        times_told = [message.at for message in history.arrived if message.kind == kind]
        assert all(later - earlier >= DAY for earlier, later in zip(times_told, times_told[1:], strict=False)), kind
    for at, message in enumerate(history.arrived):
        same = [other.kind for other in history.arrived if other.since == message.since]
        if message.kind == "recovered":
            assert same.index("recovered") == len(same) - 1 > 0, "told of before, and nothing after it"
        assert message.since <= message.at
        assert at == 0 or history.arrived[at - 1].at < message.at


def test_hours_that_failed_because_of_a_bucket_are_part_of_the_word_that_it_is_well():
    history = History()
    history.looks([DENIED] * 3)
    hours = {"2026-11-20-17:00": FailedHour(at=START, run="5f9d", what="put is refused")}
    history.state = with_failed(history.state, hours)
    history.look(None)
    assert [message.kind for message in history.arrived] == ["first", "recovered"]
    assert history.arrived[-1].trouble.hours == {"2026-11-20-17:00": "put is refused"}
    assert history.state.failed == {}
