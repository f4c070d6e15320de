"""When somebody is told that something goes wrong, and when that it is well again: one open problem for each delivery.

A state, what was seen, and the time go in; the next state comes out, with at most one message in it. Each kind of
message is sent at most once in ``remind``: a problem that comes back soon after it was called well is told of as such,
and from then on only called well when it has stayed away for all of ``remind``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec

FORMAT = 1

RETRY_AFTER = timedelta(seconds=50)
"""A message that did not arrive is not tried again sooner: whoever tries it now must not be overtaken."""

MOST_FAILED_HOURS = 1000
"""Failed hours that a state names; an outage of six weeks."""

MessageKind = Literal["first", "again", "changed", "reminder", "recovered"]
Source = Literal["access", "run", "watch", "audit", "late data", "dashboard"]


class Trouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes wrong, in the words that people are told."""

    source: Source
    """A store that can't be reached, hours that failed in a run, Dagster itself, hours that an audit found wrong, a
    flood of late data, or a dashboard that could not be taken."""
    kind: str
    """What makes it another problem than one with the same source."""
    summary: str
    action: str = ""
    """Permission that is missing, like s3:PutObject."""
    resource: str = ""
    principal: str = ""
    advice: str = ""
    statement: str = ""
    """Statement to be added to a policy, as JSON text."""
    policy: str = ""
    passed: tuple[str, ...] = ()
    """Steps of the try that went well."""
    step: str = ""
    """The step that did not."""
    run: str = ""
    hours: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Hours that failed, and why."""


class FailedHour(msgspec.Struct, frozen=True, kw_only=True):
    """An hour that failed in a run and was not done since."""

    at: datetime
    run: str
    what: str


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One word to people."""

    kind: MessageKind
    at: datetime
    """When it was decided."""
    since: datetime
    """When the problem was first seen."""
    trouble: Trouble
    """What goes wrong; of ``recovered``, what went wrong until now."""
    before: str = ""
    """Of ``changed``: what had gone wrong before."""


class Unsent(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way."""

    message: Message
    to: tuple[str, ...] | None = None
    """Names of those whom it did not reach; None: nobody was tried yet."""
    tried_at: datetime | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that goes wrong."""

    trouble: Trouble
    """As last seen."""
    since: datetime
    seen: int = 0
    """How often in a row."""
    told: Trouble | None = None
    """As last told; None while it is not sure yet."""
    told_at: datetime | None = None
    arrived: bool = False
    """Whether a message about it reached anybody."""
    other: int = 0
    """How often in a row it was of another kind than told."""
    came_back: bool = False
    fine_since: datetime | None = None
    """Of a problem that came back: since when it is away again."""


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is remembered about one delivery or asset."""

    format: int = FORMAT
    problem: Problem | None = None
    failed: dict[str, FailedHour] = msgspec.field(default_factory=dict[str, FailedHour])
    """Hours that failed and were not done since."""
    recovered_at: datetime | None = None
    changed_at: datetime | None = None
    unsent: Unsent | None = None


@dataclass(frozen=True)
class Patience:
    """How long to wait before people are told."""

    tries: int
    """How often in a row something must go wrong before anybody is told."""
    remind: timedelta


def observe(state: State, trouble: Trouble | None, now: datetime, patience: Patience, *, sure: bool = False) -> State:
    """Return the state after a look at how things are; its ``unsent`` message is new where there is one to tell.

    Args:
        state: From before.
        trouble: What goes wrong, or None where all is well.
        now: When it was seen.
        patience: How long to wait.
        sure: Tell at once: it was seen otherwise too.
    """
    if trouble is None:
        return _fine(state, now, patience)
    problem = state.problem or _opened(state, trouble, now, patience)
    same = problem.told is not None and _of_one_kind(problem.told, trouble)
    problem = msgspec.structs.replace(
        problem, trouble=trouble, seen=problem.seen + 1, other=0 if same else problem.other + 1, fine_since=None
    )
    kind = _to_tell(state, problem, now, patience, sure=sure)
    if kind is None:
        return msgspec.structs.replace(state, problem=problem)
    before = problem.told.summary if kind == "changed" and problem.told else ""
    message = Message(kind=kind, at=now, since=problem.since, trouble=trouble, before=before)
    return msgspec.structs.replace(
        state,
        problem=msgspec.structs.replace(problem, told=trouble, told_at=now, other=0),
        changed_at=now if kind == "changed" else state.changed_at,
        unsent=Unsent(message=message),
    )


def _opened(state: State, trouble: Trouble, now: datetime, patience: Patience) -> Problem:
    came_back = state.recovered_at is not None and now - state.recovered_at < patience.remind
    return Problem(trouble=trouble, since=now, came_back=came_back)


def _of_one_kind(one: Trouble, other: Trouble) -> bool:
    return (one.source, one.kind) == (other.source, other.kind)


def _to_tell(state: State, problem: Problem, now: datetime, patience: Patience, *, sure: bool) -> MessageKind | None:
    if problem.told is None or problem.told_at is None:
        if not sure and problem.seen < patience.tries:
            return None
        return "again" if problem.came_back else "first"
    another = problem.other > 0 and (sure or problem.other >= patience.tries)
    # One that switches between two kinds would otherwise be told of each time.
    if another and (state.changed_at is None or now - state.changed_at >= patience.remind):
        return "changed"
    return "reminder" if now - problem.told_at >= patience.remind else None


def _fine(state: State, now: datetime, patience: Patience) -> State:
    problem = state.problem
    if problem is None:
        return state
    if problem.told is None:
        return msgspec.structs.replace(state, problem=None)
    fine_since = problem.fine_since or now
    if problem.came_back and now - fine_since < patience.remind:
        return msgspec.structs.replace(state, problem=msgspec.structs.replace(problem, fine_since=fine_since, other=0))
    if not problem.arrived:
        # Who was never told that it went wrong need not hear that it is well.
        return msgspec.structs.replace(state, problem=None, unsent=None)
    told = problem.told
    if told.source == "access":
        # Hours that failed because of it are not told of by themselves.
        told = msgspec.structs.replace(told, hours={key: hour.what for key, hour in state.failed.items()})
        state = msgspec.structs.replace(state, failed={})
    message = Message(kind="recovered", at=now, since=problem.since, trouble=told)
    return msgspec.structs.replace(state, problem=None, recovered_at=now, unsent=Unsent(message=message))


def due(state: State, now: datetime, patience: Patience) -> Unsent | None:
    """Return the message to send now, new or left over; None where there is none, or somebody is just sending it."""
    unsent = state.unsent
    if unsent is None or now - unsent.message.at > patience.remind:
        return None
    return unsent if unsent.tried_at is None or now - unsent.tried_at >= RETRY_AFTER else None


def trying(state: State, now: datetime) -> State:
    """Return the state of who is about to send the message."""
    if state.unsent is None:
        return state
    return msgspec.structs.replace(state, unsent=msgspec.structs.replace(state.unsent, tried_at=now))


def sent(state: State, message: Message, missed: Collection[str], *, anybody: bool) -> State:
    """Return the state once ``message`` was sent.

    Args:
        state: As it is now.
        message: What was sent.
        missed: Names of those whom it did not reach.
        anybody: Whether it reached anybody.
    """
    problem = state.problem
    if problem is not None and anybody and problem.since == message.since:
        problem = msgspec.structs.replace(problem, arrived=True)
    unsent = state.unsent
    if unsent is not None and unsent.message == message:
        unsent = msgspec.structs.replace(unsent, to=tuple(missed)) if missed else None
    return msgspec.structs.replace(state, problem=problem, unsent=unsent)


def with_failed(state: State, failed: Mapping[str, FailedHour]) -> State:
    """Return the state with more hours that failed."""
    hours = {**state.failed, **failed}
    kept = sorted(hours)[-MOST_FAILED_HOURS:]
    return msgspec.structs.replace(state, failed={key: hours[key] for key in kept})


def without_failed(state: State, done: Collection[str]) -> State:
    """Return the state without hours that were done since."""
    return msgspec.structs.replace(state, failed={key: hour for key, hour in state.failed.items() if key not in done})


def failed_hours(state: State) -> Trouble | None:
    """Return what goes wrong in runs; None where no hour is left that failed."""
    if not state.failed:
        return None
    latest = max(state.failed.values(), key=lambda hour: hour.at)
    count = len(state.failed)
    return Trouble(
        source="run",
        kind="run",
        summary=f"{count} {'hour' if count == 1 else 'hours'} failed: {latest.what}",
        run=latest.run,
        hours={key: state.failed[key].what for key in sorted(state.failed)},
    )
