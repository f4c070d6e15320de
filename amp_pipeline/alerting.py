"""From what was seen of a delivery to the mail about it: remembers, decides, writes, sends, and tries again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from amp_pipeline import notify
from amp_pipeline.alert_settings import Alerts, Told, told
from amp_pipeline.alert_text import About, Text, write, write_test
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import alerts as rules
from amp_pipeline.core.access import Outcome
from amp_pipeline.core.alerts import FailedHour, Message, Patience, Problem, State, Trouble
from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OrganizationRun, undelivered_hours

_LONGEST_WHAT = 500

LANDING, LATE_DATA = "landing", "late data"
"""What of a project an alert may be about, beside its assets."""

_SURE = ("watch", "audit", "late data", "dashboard")
"""What was seen from there was seen more than once already."""


class Memory(Protocol):
    """Where states are kept: the workspace, or for the workspace itself somewhere else."""

    def state(self, subject: str) -> State:
        """Return what is remembered of ``subject``."""
        ...

    def change(self, subject: str, change: Callable[[State], State]) -> State:
        """Write what ``change`` makes of the state, and return it."""
        ...


class Send(Protocol):
    """How messages go out; :func:`amp_pipeline.notify.send` unless a test says otherwise."""

    def __call__(self, alerts: Alerts, everybody: Iterable[Told], text: Text, /) -> Mapping[str, str]:
        """Send, and return by name why it did not arrive, empty where it did."""
        ...


@dataclass(frozen=True)
class Subject:
    """What an alert is about: a delivery, an asset before it, the workspace, or Dagster."""

    organization: Organization
    project: Project | None = None
    delivery: Delivery | None = None
    what: str = ""
    """The asset, where it is no delivery; ``landing`` or ``late data`` of a project; ``workspace``; ``dagster``."""
    audited: bool = False
    """Whether it is about what an audit finds in a delivery, which has nothing to do with its bucket being reached; or
    about a dashboard. Either is looked at elsewhere, so trying buckets says nothing of it."""

    @property
    def key(self) -> str:
        """What its state is called in the workspace."""
        noun = self._noun.replace(" ", "_").replace("/", ".")
        return "-".join(filter(None, (self.project and str(self.project.id), noun, "audit" * self.audited)))

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.project.slug if self.project else self.organization.slug} / {self._noun}"

    @property
    def _noun(self) -> str:
        return self.delivery.name if self.delivery else self.what

    @property
    def url(self) -> str:
        """Of the bucket."""
        if self.delivery is not None:
            return self.delivery.url
        if self.project is not None and self.what == LANDING:
            return self.project.source.address
        return self.organization.workspace if self.what == "workspace" else ""

    @property
    def asset(self) -> str:
        """Path of its asset in Dagster; empty where there is none."""
        if self.project is None:
            return f"{self.organization.slug}/{self.what}" if self.what == "merged_ids" else ""
        if self.what in (LANDING, LATE_DATA):
            return f"{self.project.slug}/raw_events"
        return "/".join([self.project.slug, self._noun, *(["manifest"] if self.delivery else [])])

    def everybody(self) -> list[Told]:
        """Return all who are told."""
        levels = [place.alerts for place in (self.project, self.delivery) if place is not None]
        maker = self.delivery.owner if self.delivery else None
        return told(self.organization.alerts, self.organization.owners, levels, maker)


def deliveries(organization: Organization) -> Iterator[Subject]:
    """Yield the deliveries that are switched on."""
    for project in organization.projects:
        for delivery in project.deliveries:
            if delivery.enabled:
                yield Subject(organization, project, delivery)


def tables(organization: Organization) -> Iterator[Subject]:
    """Yield the tables of deliveries; who is told of the project is told of them."""
    for one in deliveries(organization):
        if one.delivery is not None and one.delivery.tables:
            yield Subject(organization, one.project, what=f"{one.delivery.name}/tables")


def dashboards(organization: Organization) -> Iterator[Subject]:
    """Yield the dashboards that are taken; what goes wrong with them is told by the run that takes them."""
    for project in organization.projects:
        if project.dashboard is not None:
            yield Subject(organization, project, what="dashboard", audited=True)


def anybody_is_told(organization: Organization) -> bool:
    """Tell whether any alert of the organization has anybody to go to."""
    return any(subject.everybody() for subject in [Subject(organization), *deliveries(organization)])


def trouble_of(outcome: Outcome) -> Trouble | None:
    """Return what goes wrong with a bucket, None where nothing does."""
    if outcome.ok:
        return None
    return Trouble(
        source="access",
        kind=f"{outcome.kind} {outcome.action}".strip(),
        summary=outcome.summary,
        action=outcome.action,
        resource=outcome.resource,
        principal=outcome.principal,
        advice=outcome.advice,
        statement=json.dumps(outcome.statement) if outcome.statement else "",
        policy=outcome.policy,
        passed=tuple(outcome.passed),
        step=outcome.step,
    )


class Alerting:
    """Tells people about one organization, as things are ``now``."""

    def __init__(
        self,
        organization: Organization,
        memory: Memory,
        now: datetime,
        send: Send = notify.send,
    ) -> None:
        """Remember in ``memory``, send by ``send``."""
        self._organization = organization
        self._memory = memory
        self._now = now
        self._send = send
        self._patience = Patience(organization.alerts.tries, organization.alerts.remind)

    def saw(
        self, subject: Subject, trouble: Trouble | None, done: Callable[[State], set[str]] = lambda _: set()
    ) -> dict[str, str]:
        """Take in the outcome of a try, and tell whom it concerns.

        Args:
            subject: What was tried.
            trouble: What goes wrong with it, if anything does.
            done: From the state to those of its failed hours that were done since.

        Returns:
            By name, whom a message should have reached but did not, and why.
        """

        def changed(state: State) -> State:
            return self._seen(rules.without_failed(state, done(state)) if state.failed else state, trouble)

        return self._change_and_send(subject, changed)

    def send_again(self, subject: Subject) -> dict[str, str]:
        """Try a message again that did not arrive, where there is one, as :meth:`saw`."""
        return self._change_and_send(subject, lambda state: state)

    def failed(
        self, subject: Subject, hours: Mapping[str, FailedHour], tried: Callable[[], Trouble | None]
    ) -> dict[str, str]:
        """Take in hours that failed in a run, and tell whom it concerns, as :meth:`saw`.

        Args:
            subject: Whose hours.
            hours: By key.
            tried: Tries the bucket, where nobody knows yet that it can't be reached.
        """
        known = self._memory.state(subject.key).problem
        away = known is not None and known.told is not None and known.trouble.source == "access"
        trouble = known.trouble if known is not None and away and known.fine_since is None else tried()

        def changed(state: State) -> State:
            state = rules.with_failed(state, hours)
            return rules.observe(state, trouble or rules.failed_hours(state), self._now, self._patience, sure=True)

        return self._change_and_send(subject, changed)

    def _seen(self, state: State, trouble: Trouble | None) -> State:
        if trouble is not None:
            return rules.observe(state, trouble, self._now, self._patience, sure=trouble.source in _SURE)
        # What failed meanwhile failed because of it: the message that all is well names these hours.
        left = None if _was_told_of_bucket(state.problem) else rules.failed_hours(state)
        return rules.observe(state, left, self._now, self._patience, sure=True)

    def _change_and_send(self, subject: Subject, change: Callable[[State], State]) -> dict[str, str]:
        unsent: list[rules.Unsent | None] = []

        def changed(state: State) -> State:
            state = change(state)
            unsent[:] = [rules.due(state, self._now, self._patience)]
            return rules.trying(state, self._now) if unsent[0] else state

        self._memory.change(subject.key, changed)
        if not unsent or unsent[0] is None:
            return {}
        return self._send_message(subject, unsent[0])

    def _send_message(self, subject: Subject, unsent: rules.Unsent) -> dict[str, str]:
        message = unsent.message
        everybody = [one for one in subject.everybody() if unsent.to is None or one.name in unsent.to]
        text = write(message, self._about(subject))
        results = self._send(self._organization.alerts, everybody, text)
        missed = {name: why for name, why in results.items() if why}
        self._memory.change(
            subject.key, lambda state: rules.sent(state, message, missed, anybody=len(missed) < len(results))
        )
        return missed

    def try_out(self, subject: Subject, everybody: Iterable[Told]) -> Mapping[str, str]:
        """Send a try to some of those who are told about ``subject``; return what :class:`Send` does."""
        text = write_test(self._about(subject, waiting=False), self._now)
        return self._send(self._organization.alerts, everybody, text)

    def _about(self, subject: Subject, *, waiting: bool = True) -> About:
        return About(
            organization=self._organization.slug,
            name=subject.name,
            url=subject.url,
            ui=self._organization.alerts.ui or "",
            asset=subject.asset,
            waiting=self._waiting(subject) if waiting else None,
        )

    def _waiting(self, subject: Subject) -> list[Hour] | None:
        if subject.project is None or subject.delivery is None:
            return None
        # Where the workspace can't say, the alert itself must still go out.
        with suppress(AmpError):
            project = OrganizationRun(self._organization).projects[subject.project.slug]
            return undelivered_hours(project, subject.delivery)
        return None


def _was_told_of_bucket(problem: Problem | None) -> bool:
    """Tell whether people know that the bucket could not be reached, and that was the trouble until now."""
    if problem is None or problem.told is None or not problem.arrived:
        return False
    return problem.told.source == problem.trouble.source == "access"


def failed_hour(at: datetime, run: str, what: str) -> FailedHour:
    """Return an hour that failed, as it is remembered."""
    return FailedHour(at=at, run=run, what=what if len(what) <= _LONGEST_WHAT else what[: _LONGEST_WHAT - 1] + "…")


def unsent(
    states: Iterable[tuple[str, State]], now: datetime, remind: timedelta
) -> Iterator[tuple[str, Message, tuple[str, ...]]]:
    """Yield the subjects with a message that is still tried, the message, and whom it did not reach yet."""
    for subject, state in states:
        if state.unsent is not None and state.unsent.to and now - state.unsent.message.at <= remind:
            yield subject, state.unsent.message, state.unsent.to
