import gzip
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core.errors import AmpError, LandingError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.reconciliation import recent_hours, reconcile
from amp_pipeline.run import OpenStore, OrganizationRun, ProjectRun
from amp_pipeline.sources.amplitude_http import SourceError
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.pulls import TroubleStore
from amp_pipeline.workspace.records import RawRecord
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.export_stand_in import KEYS, Packed, StandIn
from amp_pipeline_tests.laws.counting import ToldStore
from amp_pipeline_tests.laws.deleting import USER, ask, traces
from amp_pipeline_tests.laws.driver import run
from amp_pipeline_tests.servers import ROOT, Server

DAY = [FIRST_HOUR + number for number in range(24)]
LATER = (FIRST_HOUR + 48).start


def name(hour: Hour, number: int = 0) -> str:
    return f"7/7_{hour.day}_{hour.of_day}#{number}.json.gz"


def packed(*lines: bytes) -> bytes:
    return gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0)


def line(hour: Hour, number: int = 0) -> bytes:
    return event((hour.number - FIRST_HOUR.number) * HOUR_US + number, uuid=f"{hour}-{number}")


def full(server: StandIn, hours: list[Hour] = DAY, lines: int = 3) -> None:
    for hour in hours:
        server.hours[hour] = [Packed(name(hour), packed(*[line(hour, number) for number in range(lines)]))]


class Trial:
    """A project that pulls from a server; each look at it is a run of its own, as after a restart."""

    def __init__(
        self,
        base: Path,
        server: StandIn,
        now: datetime = LATER,
        s3: dict[str, Any] | None = None,
        workspace: str = "",
        **settings: Any,
    ) -> None:
        self.now = now
        self.organization = Organization.model_validate(
            {
                "id": 9,
                "slug": "house",
                "workspace": workspace or str(base / "workspace"),
                "s3": s3,
                "projects": [
                    {
                        "id": 7,
                        "slug": "shop",
                        "first_hour": FIRST_HOUR.key,
                        "source": server.source(**settings),
                        "deliveries": [{"name": "all", "url": str(base / "bucket")}],
                    }
                ],
            }
        )

    def run(self, hours: list[Hour] = DAY, stores: OpenStore = open_store) -> ProjectRun:
        run = OrganizationRun(self.organization, stores, now=lambda: self.now.timestamp()).projects["shop"]
        run.raw.landed.expect(hours)
        return run

    def land(self, hours: list[Hour] = DAY, *, force: bool = False) -> dict[Hour, RawRecord | str]:
        run = self.run(hours)
        found: dict[Hour, RawRecord | str] = {}
        for hour in hours:
            try:
                found[hour] = run.raw.land(hour, force=force)
            except AmpError as error:
                found[hour] = str(error)
        return found

    def counts(self, hours: list[Hour] = DAY, *, force: bool = False) -> list[int | str]:
        return [one if isinstance(one, str) else one.landed for one in self.land(hours, force=force).values()]

    def trouble(self) -> str | None:
        run = OrganizationRun(self.organization)
        found = TroubleStore(run.workspace, 9, 7).load()
        return found.kind if found else None


@pytest.fixture
def trial(tmp_path: Path, server: StandIn) -> Trial:
    return Trial(tmp_path, server)


def test_a_day_is_one_request_and_is_never_asked_for_again(trial: Trial, server: StandIn):
    full(server, DAY[3:9])
    assert trial.counts() == [0] * 3 + [3] * 6 + [0] * 15
    assert server.asked == [(DAY[0], DAY[-1])]
    assert trial.counts() == [0] * 3 + [3] * 6 + [0] * 15
    assert len(server.asked) == 1


def test_nothing_at_all_is_empty_hours(trial: Trial, server: StandIn):
    assert trial.counts() == [0] * 24
    assert all(trial.run().raw.is_complete(hour) for hour in DAY)


@pytest.mark.parametrize("status", [400, 504])
def test_what_is_too_large_is_asked_for_in_halves(trial: Trial, server: StandIn, status: int):
    full(server)
    server.fault = lambda first, last, _: status if last.number - first.number > 2 else None
    assert trial.counts() == [3] * 24
    assert [last.number - first.number + 1 for first, last in server.asked] == [
        24,
        12,
        6,
        3,
        3,
        6,
        3,
        3,
        12,
        6,
        3,
        3,
        6,
        3,
        3,
    ]


def test_an_hour_that_is_too_large_fails_alone_and_names_the_way_out(trial: Trial, server: StandIn):
    full(server)
    server.fault = lambda first, last, _: 400 if first <= DAY[5] <= last else None
    counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert "can't give the hour 2024-05-06-05:00 (400: The file size" in str(counts[5])
    assert "S3 export" in str(counts[5])
    assert trial.trouble() is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(trial: Trial, server: StandIn, status: int):
    full(server)
    server.fault = lambda _first, _last, count: status if count < 3 else None
    assert trial.counts() == [3] * 24
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_stays_busy_fails_the_hours_and_is_remembered(trial: Trial, server: StandIn, status: int):
    full(server)
    server.fault = lambda *_: status
    counts = trial.counts()
    assert all(f"answers {status}" in str(count) for count in counts)
    assert len(server.asked) == 5
    assert trial.trouble() == {429: "throttled", 500: "server"}[status]
    server.fault = lambda *_: None
    assert trial.counts() == [3] * 24
    assert trial.trouble() is None


@pytest.mark.parametrize("fault", ["half", "short", "flipped", "reset"])
def test_a_broken_answer_is_asked_for_again(trial: Trial, server: StandIn, fault: str):
    full(server)
    server.fault = lambda _first, _last, count: fault if count < 2 else None
    assert trial.counts() == [3] * 24
    assert server.asked == [(DAY[0], DAY[-1])] * 3


@pytest.mark.parametrize("fault", ["half", "flipped"])
def test_an_hour_whose_answer_is_always_broken_fails_alone(tmp_path: Path, server: StandIn, fault: str):
    full(server)
    trial = Trial(tmp_path, server, attempts=2)
    server.fault = lambda first, last, _: fault if first <= DAY[5] <= last else None
    counts = trial.counts()
    assert counts[:5] + counts[6:] == [3] * 23
    assert "gave no whole answer" in str(counts[5])
    assert trial.trouble() is None
    server.fault = lambda *_: fault
    assert "gave no whole answer" in str(trial.counts([DAY[5]])[0])
    assert trial.trouble() == "network"


def test_wrong_keys_are_told_as_such_and_asked_for_once(trial: Trial, server: StandIn):
    server.keys = ("another", "secret")
    counts = trial.counts()
    assert all("Check api_key and secret_key" in str(count) for count in counts)
    assert trial.trouble() == "credentials"
    assert not any(key in str(counts) for key in KEYS)


def test_keys_of_another_project_are_told_as_such(trial: Trial, server: StandIn):
    server.hours[DAY[0]] = [Packed("8/8_2024-05-06_0#0.json.gz", packed(b"{}"))]
    assert "the keys are of that project, and this one says id 7" in str(trial.counts(DAY[:1])[0])
    assert trial.trouble() == "credentials"


def test_a_page_that_is_not_found_is_no_empty_hour(trial: Trial, server: StandIn):
    server.fault = lambda *_: "page"
    assert "is no Export API" in str(trial.counts(DAY[:1])[0])


def test_hours_are_there_two_hours_after_their_end(tmp_path: Path, server: StandIn):
    full(server)
    trial = Trial(tmp_path, server, now=DAY[4].start + timedelta(minutes=59))
    counts = trial.counts()
    assert counts[:1] == [3]
    assert counts[1] == 3 or "from" in str(counts[1])
    assert [isinstance(count, str) for count in counts] == [False] * 2 + [True] * 22
    assert str(counts[2]).endswith("has all of hour 2024-05-06-02:00 from 2024-05-06 05:00 UTC on")
    assert server.asked == [(DAY[0], DAY[1])]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
def test_zips_of_all_kinds_are_read(trial: Trial, server: StandIn, method: int, zip64: bool):
    server.zip64 = zip64
    server.hours[DAY[5]] = [
        Packed("7/7_2024-05-06_5#1.json.gz", packed(line(DAY[5])), method),
        Packed("7/7_2024-05-06_05#2.json.gz", packed(line(DAY[5], 1)) + packed(line(DAY[5], 2)), method),
        Packed("7/7_2024-05-06_5#10.json", line(DAY[5], 3), method),
    ]
    assert trial.counts()[5] == 4
    (record,) = [one for one in trial.land([DAY[5]]).values() if isinstance(one, RawRecord)]
    assert [item.object for item in record.inputs] == [name(DAY[5], 1), name(DAY[5], 2), "7/7_2024-05-06_5#10.json"]
    pulling = trial.run().pulling
    receipt = pulling.hours.receipt(DAY[5]) if pulling else None
    assert receipt is not None
    assert [one.lines for one in receipt.objects] == [1, 2, 1]


def test_lines_are_carried_as_they_came(trial: Trial, server: StandIn):
    data = packed(b'{"b":1.0,"a":"\\u00e9",  "server_upload_time":"2024-05-06 00:00:00.000000"}')
    server.hours[DAY[0]] = [Packed(name(DAY[0]), data)]
    trial.counts(DAY[:1])
    assert trial.run().raw.source.get(name(DAY[0])) == data


def test_what_is_pulled_again_adds_nothing(trial: Trial, server: StandIn):
    full(server)
    trial.counts()
    before = {info.name: info.version for info in trial.run().raw.source.find("")}
    # The same lines, cut and packed in another way.
    for hour in DAY:
        server.hours[hour] = [
            Packed(name(hour), gzip.compress(line(hour, 0) + b"\n", 1)),
            Packed(name(hour, 1), packed(line(hour, 2), line(hour, 1))),
        ]
    assert trial.counts(force=True) == [3] * 24
    assert {info.name: info.version for info in trial.run().raw.source.find("")} == before


def test_what_is_new_when_it_is_pulled_again_is_added(trial: Trial, server: StandIn):
    full(server)
    trial.counts()
    server.hours[DAY[2]] = [Packed(name(DAY[2]), packed(line(DAY[2], 1), line(DAY[2], 7), line(DAY[2], 7)))]
    assert trial.counts(force=True) == [3, 3, 5] + [3] * 21
    names = [info.name for info in trial.run().raw.source.find(f"7/7_{DAY[2].day}_2#")]
    assert names == [name(DAY[2]), name(DAY[2], 1)]
    assert trial.counts(force=True)[2] == 5


def test_what_was_pulled_and_is_other_bytes_now_is_pulled_again(tmp_path: Path, trial: Trial, server: StandIn):
    full(server)
    trial.counts()
    file = tmp_path / "workspace" / "9" / "7" / "pulled" / name(DAY[2])
    file.write_bytes(packed(line(DAY[2], 99)))
    assert "has other bytes than were pulled" in str(trial.counts([DAY[2]])[0])
    assert trial.counts([DAY[2]], force=True) == [3]


def test_an_hour_that_was_not_pulled_whole_has_not_landed(tmp_path: Path, trial: Trial, server: StandIn):
    full(server)
    folder = tmp_path / "workspace" / "9" / "7" / "pulled" / "7"
    folder.mkdir(parents=True)
    # As a run leaves it that is killed between an hour's objects and its receipt.
    for number in (0, 1, 2):
        (folder / f"7_2024-05-06_0#{number}.json.gz").write_bytes(packed(line(DAY[0], number), line(DAY[0], 9)))
    assert not trial.run().raw.has_landed(DAY[0])
    assert trial.counts() == [3] * 24
    assert sorted(path.name for path in folder.glob("7_2024-05-06_0*")) == [
        "7_2024-05-06_0#0.json.gz",
        "7_2024-05-06_0_complete",
    ]


def test_days_of_before_november_2014_are_asked_for_as_a_whole(tmp_path: Path, server: StandIn):
    first = Hour.parse("2013-03-01-00:00")
    trial = Trial(tmp_path, server)
    organization = trial.organization
    project = organization.projects[0].model_copy(update={"first_hour": first})
    trial.organization = organization.model_copy(update={"projects": (project,)})
    day = list(between(first, first + 23))
    server.hours[first] = [
        Packed("7/7_2013-03-01#0.json.gz", packed(*[line(hour) for hour in day])),
    ]
    run = trial.run([day[4]])
    run.raw.land(day[4])
    assert server.asked == [(first, first + 23)]
    run = trial.run(day)
    run.raw.land(first)
    assert [run.raw.land(hour).landed for hour in day] == [1] * 24
    assert len(server.asked) == 1


def test_what_the_day_before_had_bounds_a_request(
    tmp_path: Path, trial: Trial, server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    full(server)
    trial.counts()
    size = sum(len(one.data) for one in server.hours[DAY[0]])
    monkeypatch.setattr("amp_pipeline.stages.pulling._SAFE_BYTES", 6 * size + size // 2)
    server.asked.clear()
    tomorrow = [hour + 24 for hour in DAY[:12]]
    trial.counts(tomorrow)
    assert [last.number - first.number + 1 for first, last in server.asked] == [6, 6]


def test_only_whole_names_are_taken(trial: Trial, server: StandIn):
    server.hours[DAY[0]] = [Packed("7/readme.txt", b"hello")]
    assert "'7/readme.txt', which is no name of events" in str(trial.counts(DAY[:1])[0])
    server.hours[DAY[0]] = [Packed(name(DAY[1]), packed(line(DAY[1])))]
    assert "is of the hour 2024-05-06-01:00, not asked for" in str(trial.counts(DAY[:1])[0])


def test_a_source_that_does_not_answer_is_a_source_error(tmp_path: Path, server: StandIn):
    trial = Trial(tmp_path, server, attempts=1)
    (project,) = trial.organization.projects
    source = project.source.model_copy(update={"url": "http://127.0.0.1:1"})
    nowhere = project.model_copy(update={"source": source})
    trial.organization = trial.organization.model_copy(update={"projects": (nowhere,)})
    with pytest.raises(SourceError, match="no connection"):
        trial.run().raw.land(DAY[0])
    assert trial.trouble() == "network"


def test_landing_error_names_when(trial: Trial):
    trial.now = datetime(2024, 5, 6, 1, tzinfo=UTC)
    with pytest.raises(LandingError):
        trial.run().raw.land(DAY[0])


def test_deleting_a_user_removes_what_was_pulled_of_their_hours(trial: Trial, server: StandIn):
    full(server)
    at_three = (3 * HOUR_US) + 50
    users = [line(DAY[3]), event(at_three, uuid="u", user_id=USER), b"no event, but by " + json.dumps(USER).encode()]
    server.hours[DAY[3]] = [Packed(name(DAY[3]), packed(*users))]
    server.hours[DAY[8]] = [Packed(name(DAY[8]), packed(line(DAY[8]), users[2]))]
    assert run(trial.organization, DAY, open_store) == {}
    suppression = ask(trial.organization, open_store, user_ids=[USER])
    deletion = UserDeletion(trial.organization, trial.organization.projects[0], suppression)
    concerned = deletion.search(lambda *_: None)
    assert deletion.clean(concerned, lambda *_: None) == {}
    assert not trial.run().raw.landed.pulled_objects(DAY[3])
    assert not trial.run().raw.landed.pulled_objects(DAY[8])
    assert trial.run().raw.landed.pulled_objects(DAY[4])
    # They stand as they are on record, without anything being asked for.
    asked = len(server.asked)
    assert run(trial.organization, DAY, open_store) == {}
    assert traces(trial.organization, open_store, USER) == []
    assert deletion.left(DAY) == []
    assert len(server.asked) == asked
    record = OrganizationRun(trial.organization).projects["shop"].workspace.deduped(DAY[3])
    assert record is not None
    assert (record.landed, record.rows, record.deleted) == (3, 1, 1)


def test_what_is_not_deduplicated_yet_is_not_removed_but_named(trial: Trial, server: StandIn):
    server.hours[DAY[3]] = [Packed(name(DAY[3]), packed(event(3 * HOUR_US, uuid="u", user_id=USER)))]
    trial.counts()
    suppression = ask(trial.organization, open_store, user_ids=[USER])
    deletion = UserDeletion(trial.organization, trial.organization.projects[0], suppression)
    failed = deletion.clean(deletion.search(lambda *_: None), lambda *_: None)
    assert failed == {DAY[3]: "what was pulled of it is not deduplicated yet; run the hour, and this command again"}
    assert run(trial.organization, DAY[3:4], open_store) == {}
    assert deletion.clean(deletion.search(lambda *_: None), lambda *_: None) == {}
    assert traces(trial.organization, open_store, USER) == []


def test_reconciliation_asks_for_the_last_days_again(trial: Trial, server: StandIn):
    full(server)
    assert run(trial.organization, DAY, open_store) == {}
    server.hours[DAY[20]].append(Packed(name(DAY[20], 1), packed(line(DAY[20], 77))))
    server.asked.clear()
    (project,) = trial.organization.projects
    hours = recent_hours(project, LATER)
    found = {one.hour: one.state for one in reconcile(trial.organization, project, hours, LATER)}
    assert server.asked[0] == (DAY[0], DAY[23])
    assert [found[hour] for hour in DAY[:20]] == ["agrees"] * 20
    assert not [hour for hour in hours if found[hour] == "wrong"]
    assert trial.counts(DAY[20:21]) == [4]


class _KilledError(BaseException):
    """Ends a run at once, whatever it would have tidied up for an error."""


def pulled(trial: Trial) -> dict[str, bytes]:
    store = trial.run().raw.source
    # What says that somebody writes is taken over by who writes next.
    return {info.name: store.get(info.name) for info in store.find("") if not info.name.endswith(".claim")}


@pytest.mark.parametrize("again", [False, True])
def test_a_pull_that_is_killed_at_any_call_is_finished_by_the_next(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, again: bool
):
    # The process is this one, which goes on.
    monkeypatch.setattr("amp_pipeline.destinations.claim.is_gone", lambda *_: True)
    hours = DAY[:2]

    def trial_of(number: int) -> Trial:
        full(server, hours)
        trial = Trial(tmp_path / str(number), server)
        if again:
            trial.counts(hours)
            server.hours[hours[0]] += [Packed(name(hours[0], 5), packed(line(hours[0], 5), line(hours[0], 1)))]
        else:
            server.hours[hours[0]] += [Packed(name(hours[0], 5), packed(line(hours[0], 5)))]
        return trial

    undisturbed = trial_of(0)
    expected_counts = undisturbed.counts(hours, force=again)
    expected = pulled(undisturbed)
    assert expected_counts == [4, 3]
    at = calls = 0
    while at == calls:
        at, calls = at + 1, 0
        trial = trial_of(at)

        def tell(method: str, uri: str, at: int = at) -> None:
            nonlocal calls
            # Who was killed does nothing more.
            calls += calls < at
            if calls == at:
                raise _KilledError

        def told(url: str, s3: S3 | None = None, tell: Callable[[str, str], None] = tell) -> ObjectStore:
            return ToldStore(open_store(url, s3), tell)

        try:
            one = trial.run(hours, told)
            for hour in hours:
                one.raw.land(hour, force=again)
        except _KilledError:
            assert trial.counts(hours, force=again) == expected_counts, at
            assert pulled(trial) == expected, at
    assert at > 30


def test_what_is_pulled_may_lie_in_a_bucket(tmp_path: Path, server: StandIn, moto_server: Server):
    full(server)
    s3 = moto_server.settings().model_dump(mode="json", exclude_defaults=True)
    s3 |= {"secret_access_key": ROOT[1]}
    trial = Trial(tmp_path, server, s3=s3, workspace=f"s3://{new_bucket(moto_server)}/workspace")
    assert trial.counts() == [3] * 24
    assert trial.counts() == [3] * 24
    server.hours[DAY[2]].append(Packed(name(DAY[2], 1), packed(line(DAY[2], 8), line(DAY[2], 1))))
    assert trial.counts(force=True) == [3, 3, 4] + [3] * 21


@pytest.mark.parametrize("first", [0, 5])
def test_what_a_server_does_not_have_yet_is_no_empty_hour(trial: Trial, server: StandIn, first: int):
    full(server, DAY[:first])
    server.not_yet = DAY[first]
    counts = trial.counts()
    assert counts[:first] == [3] * first
    assert all(
        f"does not have hour {hour} yet" in str(count) for hour, count in zip(DAY[first:], counts[first:], strict=True)
    )
    server.not_yet = None
    full(server)
    assert trial.counts() == [3] * 24


def test_a_deleted_user_that_is_pulled_later_is_removed_once_the_hour_is_deduplicated(trial: Trial, server: StandIn):
    ask(trial.organization, open_store, user_ids=[USER])
    server.hours[DAY[3]] = [
        Packed(name(DAY[3]), packed(line(DAY[3]), event(3 * HOUR_US + 50, uuid="u", user_id=USER))),
    ]
    server.hours[DAY[4]] = [Packed(name(DAY[4]), packed(line(DAY[4])))]
    assert run(trial.organization, DAY, open_store) == {}
    assert traces(trial.organization, open_store, USER) == []
    assert not trial.run().raw.landed.pulled_objects(DAY[3])
    assert trial.run().raw.landed.pulled_objects(DAY[4])
    record = OrganizationRun(trial.organization).projects["shop"].workspace.deduped(DAY[3])
    assert record is not None
    assert (record.landed, record.rows, record.deleted) == (2, 1, 1)
    asked = len(server.asked)
    assert run(trial.organization, DAY, open_store) == {}
    assert len(server.asked) == asked
