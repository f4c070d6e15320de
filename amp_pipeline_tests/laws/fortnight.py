"""Two weeks of a project that runs by itself, in minutes: ``python -m amp_pipeline_tests.laws.fortnight``.

Takes a line of JSON with base, seed, days and kills, and answers with one. Each tick and each run is a process of its
own, forked, and so many of them are killed (SIGKILL) before a call to a store that chance chooses.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlglot

from amp_pipeline.audit import audit
from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core.errors import StoreError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.ticks import Cursor, Request
from amp_pipeline.run import OrganizationRun
from amp_pipeline.scheduling import Scheduler
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, merged, merged_name, object_name, put
from amp_pipeline_tests.laws import driver
from amp_pipeline_tests.laws.counting import ToldStore
from amp_pipeline_tests.simulation import execute

EVERY = timedelta(minutes=10)
"""Between two ticks."""

MOST_CALLS = 250
"""A process that is to be killed is killed before one of so many calls, if it makes that many."""

SLUG, PROJECT = "shop7", 7


@dataclass
class Plan:
    """What happens in the fortnight, and when."""

    seed: int
    days: int
    kills: int
    landings: list[tuple[datetime, str, list[bytes]]] = field(default_factory=list[tuple[datetime, str, list[bytes]]])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.start = FIRST_HOUR.start
        self.end = self.start + timedelta(days=self.days)
        self.last = FIRST_HOUR + self.days * 24 + -1
        for hour in between(FIRST_HOUR, self.last):
            self._land(hour)
        self.landings.sort(key=lambda item: item[0])
        day = timedelta(days=self.days / 14)
        # The daemon is stopped for three of fourteen days, a bucket is down for one, a delivery off for one and a half.
        self.stopped = (self.start + 3 * day, self.start + 6 * day)
        self.down = (self.start + 8 * day, self.start + 9 * day)
        self.off = (self.start + 10 * day, self.start + 11.5 * day)

    @property
    def risk(self) -> float:
        """Chance of a process to be killed, so that the kills spread over all days: of 200 processes a day most
        end before the call at which they would be killed."""
        return min(0.8, 10 * self.kills / (200 * self.days))

    def _land(self, hour: Hour) -> None:
        """Let an hour land: on time, out of order, in two pieces, again, without a marker, or never."""
        chance, end = self.chance, (hour + 1).start
        kind = chance.choices(["on time", "out of order", "late", "again", "no marker", "never"], [60, 8, 12, 8, 6, 6])[
            0
        ]
        if kind == "never":
            return
        at = end + timedelta(minutes=chance.randrange(1, 30))
        if kind == "out of order":
            at += timedelta(hours=chance.randrange(1, 9))
        lines = [self._line(hour) for _ in range(chance.randrange(0, 6))]
        self.landings.append((at, object_name(hour, 0), lines))
        if kind == "late":
            later = at + timedelta(hours=chance.choice([1, 5, 30, 100]), minutes=7)
            self.landings.append((later, object_name(hour, 1), [self._line(hour) for _ in range(3)]))
        if kind == "again":
            more = [*lines, self._line(hour)] if chance.random() < 0.5 else lines
            self.landings.append((at + timedelta(hours=chance.choice([2, 26])), object_name(hour, 0), more))
        if chance.random() < 0.15:
            pair = merged(chance.randrange(20), 100 + chance.randrange(20))
            self.landings.append((at, merged_name(hour), [pair]))
        if kind != "no marker":
            self.landings.append((at + timedelta(minutes=1), f"7/7_{hour.day}_{hour.of_day}_complete", []))

    def _line(self, hour: Hour) -> bytes:
        """One event; some are repeats of events of other hours, some belong to another hour, some are none."""
        chance = self.chance
        if chance.random() < 0.03:
            return b"no event"
        stray = chance.choice([-3, -1]) if chance.random() < 0.04 else 0
        us = max(0, hour.number - FIRST_HOUR.number + stray) * HOUR_US + chance.randrange(HOUR_US)
        kind = chance.choice(["click", "purchase", "view"])
        return event(
            us, event_type=kind, device_id=f"d{chance.randrange(40)}", **{"$insert_id": str(chance.randrange(30))}
        )

    def within(self, now: datetime, span: tuple[datetime, datetime]) -> bool:
        return span[0] <= now < span[1]


class Fortnight:
    """The project, what Dagster would remember of it, and the processes."""

    def __init__(self, base: Path, plan: Plan) -> None:
        self.base, self.plan = base, plan
        self.landing = base / "landing"
        self.landing.mkdir(parents=True)
        self.now = plan.start
        self.cursor = Cursor()
        self.requests: dict[str, Request] = {}
        self.done: set[str] = set()
        self.killed = self.ticks = self.runs = 0
        self._processes = 0

    def organization(self) -> Organization:
        purchases = builders.purchases(
            builders.place(self.base / "purchases"), enabled=not self.plan.within(self.now, self.plan.off)
        )
        deliveries = [builders.all_events(builders.place(self.base / "all")), purchases]
        project = {"last_hour": self.plan.last.key, "deliveries": deliveries}
        return builders.organization(self.base, self.landing, projects=[project])

    def live(self) -> None:
        """Let the time pass."""
        landings = iter(self.plan.landings)
        coming = next(landings, None)
        while self.now < self.plan.end + timedelta(days=2) or coming is not None:
            while coming is not None and coming[0] <= self.now:
                put(self.landing, coming[1], *coming[2])
                coming = next(landings, None)
            if not self.plan.within(self.now, self.plan.stopped):
                self._tick_and_run(killing=self.now < self.plan.end)
            # After the end only what is late still comes.
            self.now += EVERY if self.now < self.plan.end else timedelta(hours=1)
        quiet = 0
        while quiet < 3:
            quiet = 0 if self._tick_and_run(killing=False) else quiet + 1
            self.now += timedelta(hours=1)
        self._backfill()

    def _tick_and_run(self, *, killing: bool) -> int:
        self.ticks += 1
        answer = self._child(self._tick, killing)
        if answer is not None:
            self.cursor = Cursor.decode(answer["cursor"])
            for request in msgspec.convert(answer["requests"], list[dict[str, Any]]):
                made = Request(
                    **{**request, "hours": tuple(Hour(n) for n in request["hours"]), "what": tuple(request["what"])}
                )
                assert made.key not in self.requests, "asked for twice"
                self.requests[made.key] = made
        todo = [key for key in self.requests if key not in self.done]
        for key in todo:
            self.runs += 1
            self._child(lambda key=key: self._run(self.requests[key]), killing)
            self.done.add(key)
        return len(todo) + bool(answer and answer["left"])

    def _tick(self) -> dict[str, Any]:
        organization = self.organization()
        run = OrganizationRun(organization, self._open, reads=False)
        known = (self.now - self.plan.down[0]) > timedelta(minutes=45)
        unreachable = {"purchases"} if self.plan.within(self.now, self.plan.down) and known else set[str]()
        running = _Nothing(self.requests)
        tick = Scheduler(run, organization.projects[0], self.now, running, unreachable=unreachable).tick(self.cursor)
        requests = [{**vars(request), "hours": [hour.number for hour in request.hours]} for request in tick.requests]
        left = tick.settled or tick.waiting or tick.cursor.pending
        return {"cursor": tick.cursor.encode(), "requests": requests, "left": bool(left)}

    def _run(self, request: Request) -> dict[str, Any]:
        return {"failures": len(execute(self.organization(), self._open, request, self.now))}

    def _backfill(self) -> None:
        """Deliver by hand what was missed while a delivery was off, as its schedule names it."""

        def missed() -> list[list[str]]:
            organization = self.organization()
            run = OrganizationRun(organization, self._open).projects[SLUG]
            ranges = Ledger(run.workspace.store, organization.id, PROJECT).schedules()[0].deliveries["purchases"].missed
            delivery = organization.projects[0].deliveries[1]
            archive = run.archive(delivery)
            for first, last in ranges:
                for hour in between(Hour.parse(first), Hour.parse(last)):
                    run.deliver(archive, delivery, hour, builders.BY)
            return [list(one) for one in ranges]

        self.missed = self._child(missed, killing=False)

    def _open(self, url: str, s3: S3 | None = None) -> ObjectStore:
        store = open_store(url, s3)
        return store if url == str(self.landing) else ToldStore(store, self._tell)

    def _tell(self, method: str, uri: str) -> None:
        self._calls += 1
        if self._calls == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if uri.startswith(str(self.base / "purchases")) and self.plan.within(self.now, self.plan.down):
            raise StoreError(f"{method} {uri}: can't be reached")

    def _child(self, body: Callable[[], Any], killing: bool) -> Any:
        """Do ``body`` in a process of its own; return what it returns, None where it was killed."""
        chance = self.plan.chance
        self._processes += 1
        self._calls, self._kill_at = 0, 0
        if killing and self.killed < self.plan.kills and chance.random() < self.plan.risk:
            self._kill_at = chance.randrange(1, MOST_CALLS)
        answer = self.base / "answer.json"
        answer.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.fsync = lambda _: None
                answer.write_text(json.dumps(body()))
                code = 0
            except BaseException as error:  # noqa: BLE001 - told by the parent, whose exit handlers must not run here
                answer.write_text(f"{type(error).__name__}: {error}")
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            self.killed += 1
            return None
        assert code == 0, answer.read_text()
        return json.loads(answer.read_text())


class _Nothing:
    """What Dagster is doing between two of its runs: nothing, but it knows the old ones."""

    hours: tuple[Hour, ...] = ()
    requests = 0

    def __init__(self, known: dict[str, Request]) -> None:
        self.knows = known.__contains__


def outcome(fortnight: Fortnight) -> dict[str, Any]:
    """Hold what is delivered against one clean run, and audit it."""
    organization = fortnight.organization()
    clean = driver.Stores(organization)
    hours = list(between(FIRST_HOUR, fortnight.plan.last))
    driver.run_all(organization, [hours], clean)
    different = driver.differing(driver.buckets(organization, open_store), driver.buckets(organization, clean))
    findings = [
        f"{found.hour} {finding.law}: {finding.what}"
        for found in audit(organization, organization.projects[0], hours)
        for finding in found.findings
    ]
    return {"different": different, "findings": findings, "hours": len(hours)}


def lived(base: Path, plan: Plan) -> dict[str, Any]:
    fortnight = Fortnight(base, plan)
    fortnight.live()
    found = fortnight._child(lambda: outcome(fortnight), killing=False)
    return {
        **found,
        "ticks": fortnight.ticks,
        "runs": fortnight.runs,
        "killed": fortnight.killed,
        "missed": fortnight.missed,
    }


def main() -> None:
    # Before the forks; polars may not run here, its threads don't live on in a forked process.
    sqlglot.parse_one("a = 'b'", read="postgres").sql(dialect="postgres")
    for line in sys.stdin:
        given = json.loads(line)
        plan = Plan(given["seed"], given["days"], given["kills"])
        sys.stdout.write(json.dumps(lived(Path(given["base"]), plan)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
