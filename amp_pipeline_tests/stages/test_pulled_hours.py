import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from amp_pipeline.audit import audit
from amp_pipeline.buckets import S3
from amp_pipeline.core.hours import Hour
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.reconciliation import reconcile
from amp_pipeline.run import OpenStore
from amp_pipeline.stages import pulled_hours
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.builders import HOUR_US, event
from amp_pipeline_tests.export_stand_in import Packed, StandIn
from amp_pipeline_tests.laws.counting import ToldStore
from amp_pipeline_tests.laws.deleting import USER, ask
from amp_pipeline_tests.laws.driver import run
from amp_pipeline_tests.stages.test_pulling import DAY, LATER, Trial, full, line, name, packed, pulled


@pytest.fixture
def trial(tmp_path: Path, server: StandIn) -> Trial:
    return Trial(tmp_path, server)


def when(method: str, ending: str, then: Callable[[], None]) -> OpenStore:
    """Open stores that do something else once, before the first call of a method for an object."""
    left = [then]

    def tell(called: str, uri: str) -> None:
        if called == method and uri.endswith(ending) and left:
            left.pop()()

    def opened(url: str, s3: S3 | None = None) -> ObjectStore:
        return ToldStore(open_store(url, s3), tell)

    return opened


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_the_same_name_are_all_taken(trial: Trial, server: StandIn):
    server.hours[DAY[0]] = [Packed(name(DAY[0]), packed(line(DAY[0], number))) for number in (1, 2, 3)]
    assert trial.counts(DAY[:1]) == [3]
    assert trial.counts(DAY[:1], force=True) == [3]


def test_an_object_that_was_pulled_and_is_gone_is_missed(tmp_path: Path, trial: Trial, server: StandIn):
    server.hours[DAY[0]] = [Packed(name(DAY[0], number), packed(line(DAY[0], number))) for number in (0, 1)]
    trial.run(DAY[:1]).raw.landed.pull(DAY[0])
    (tmp_path / "workspace" / "9" / "7" / "pulled" / name(DAY[0], 1)).unlink()
    assert f"{name(DAY[0], 1)} was pulled and is gone" in str(trial.counts(DAY[:1])[0])
    assert trial.counts(DAY[:1], force=True) == [2]


@pytest.mark.parametrize("at", ["_0_complete.claim", "_0#0.json.gz", "_0#1.json.gz", "_0_complete"])
@pytest.mark.parametrize("first", [2, 3])
def test_two_runs_that_pull_an_hour_have_all_that_either_was_given(
    trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch, at: str, first: int
):
    """One is given more than the other, and cut in another way; the second comes while the first writes."""
    monkeypatch.setattr(pulled_hours, "PATIENCE_SECONDS", 20.0)
    hours = DAY[:2]
    full(server, hours)

    def cut(lines: int) -> list[Packed]:
        return [Packed(name(hours[0], number), packed(line(hours[0], number))) for number in range(lines)]

    server.hours[hours[0]] = cut(first)
    threads: list[threading.Thread] = []

    def other_run() -> None:
        server.hours[hours[0]] = cut(5 - first)
        threads.append(threading.Thread(target=trial.counts, args=(hours,)))
        threads[0].start()
        threads[0].join(0.5)

    one = trial.run(hours, when("put", at, other_run))
    one.raw.land(hours[0])
    threads[0].join(30)
    assert not threads[0].is_alive()
    assert trial.counts(hours) == [3, 3]
    assert sorted(pulled(trial)) == [
        *(name(hours[0], number) for number in range(3)),
        "7/7_2024-05-06_0_complete",
        name(hours[1]),
        "7/7_2024-05-06_1_complete",
    ]


def test_an_hour_that_another_run_writes_for_long_fails_alone(
    tmp_path: Path, trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pulled_hours, "PATIENCE_SECONDS", 0.0)
    full(server)
    store = open_store(str(tmp_path / "workspace" / "9" / "7" / "pulled"), None)
    with Claim(store, "7/7_2024-05-06_5_complete.claim", "an hour", "of another", "now"):
        counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert "what is pulled of hour 2024-05-06-05:00" in str(counts[5])
    assert "is being written by run of another" in str(counts[5])
    assert trial.trouble() is None
    assert trial.counts() == [3] * 24


def test_an_hour_that_another_run_pulled_meanwhile_is_not_taken_for_empty(trial: Trial, server: StandIn):
    full(server)
    one = trial.run(DAY[:1])
    assert one.raw.land(DAY[0]).landed == 3
    assert trial.counts(DAY[1:2]) == [3]
    assert one.raw.land(DAY[1]).landed == 3


def without_user(trial: Trial, server: StandIn, hour: Hour) -> None:
    """Deliver an hour and delete a user who is in it."""
    at = (hour.number - DAY[0].number) * HOUR_US + 50
    server.hours[hour] = [Packed(name(hour), packed(line(hour), event(at, uuid="u", user_id=USER)))]
    assert run(trial.organization, [hour], open_store) == {}
    suppression = ask(trial.organization, open_store, user_ids=[USER])
    deletion = UserDeletion(trial.organization, trial.organization.projects[0], suppression)
    assert deletion.clean(deletion.search(lambda *_: None), lambda *_: None) == {}
    assert not trial.run().raw.landed.pulled_objects(hour)


def test_what_was_removed_for_a_deleted_user_is_not_pulled_with_its_neighbours(trial: Trial, server: StandIn):
    full(server)
    without_user(trial, server, DAY[3])
    server.asked.clear()
    assert trial.counts(DAY[2:5]) == [3, 2, 3]
    assert server.asked == [(DAY[2], DAY[2]), (DAY[4], DAY[4])]
    assert not trial.run().raw.landed.pulled_objects(DAY[3])
    # Who forces it asks for it.
    assert trial.counts(DAY[2:5], force=True) == [3, 2, 3]
    assert trial.run().raw.landed.pulled_objects(DAY[3])


def test_an_audit_asks_for_nothing(trial: Trial, server: StandIn):
    full(server)
    assert run(trial.organization, DAY[:6], open_store) == {}
    server.asked.clear()
    before = pulled(trial)
    (project,) = trial.organization.projects
    assert [one.state for one in audit(trial.organization, project, DAY[:8])] == ["ok"] * 6 + ["missing"] * 2
    assert server.asked == []
    assert pulled(trial) == before


def test_reconciliation_asks_once(trial: Trial, server: StandIn):
    full(server)
    assert run(trial.organization, DAY, open_store) == {}
    server.asked.clear()
    (project,) = trial.organization.projects
    assert {one.state for one in reconcile(trial.organization, project, DAY, LATER)} == {"agrees"}
    assert server.asked == [(DAY[0], DAY[-1])]


def test_hours_that_could_not_be_asked_for_again_are_not_said_to_agree(trial: Trial, server: StandIn):
    full(server)
    assert run(trial.organization, DAY, open_store) == {}
    server.fault = lambda first, last, _: 400 if first <= DAY[5] <= last else None
    (project,) = trial.organization.projects
    found = {one.hour: one for one in reconcile(trial.organization, project, DAY, LATER)}
    assert [hour for hour, one in found.items() if one.state != "agrees"] == [DAY[5]]
    assert found[DAY[5]].state == "waits"
    assert "could not be asked again" in found[DAY[5]].what
    assert "S3 export" in found[DAY[5]].what


def test_an_hour_that_is_given_up_on_once_is_asked_for_again(trial: Trial, server: StandIn):
    full(server)
    server.fault = lambda _first, _last, count: 504 if count < 2 else None
    assert trial.counts(DAY[:1]) == [3]
    assert server.asked == [(DAY[0], DAY[0])] * 3


def test_an_hour_that_is_always_given_up_on_names_the_way_out(trial: Trial, server: StandIn):
    full(server)
    server.fault = lambda first, last, _: 504 if first <= DAY[5] <= last else None
    counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert "can't give the hour 2024-05-06-05:00" in str(counts[5])
    assert "S3 export" in str(counts[5])
    assert trial.trouble() is None


@pytest.mark.parametrize("strange", ["7/notes.txt", "7/7_2024-05-09_5#0.json.gz"])
def test_an_answer_that_is_not_understood_fails_its_hour_alone(trial: Trial, server: StandIn, strange: str):
    full(server)
    server.hours[DAY[5]].append(Packed(strange, packed(line(DAY[5], 9))))
    counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert repr(strange) in str(counts[5])
    # Else all hours would be held for the sake of one, and people told every few minutes that it is over.
    assert repr(strange) in str(trial.counts(DAY[5:6])[0])
    assert trial.trouble() is None
