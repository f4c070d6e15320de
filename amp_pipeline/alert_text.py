"""What people read when something goes wrong, as text and as HTML, from the same pieces."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from amp_pipeline.core.access import policy_named
from amp_pipeline.core.alerts import Message, Trouble
from amp_pipeline.core.hours import Hour

_SHOWN_HOURS = 10
_BREAK = "<br>"

_TITLES = {
    ("access", "first"): "can't be reached",
    ("access", "again"): "can't be reached again",
    ("access", "changed"): "can't be reached, now for another reason",
    ("access", "reminder"): "still can't be reached",
    ("access", "recovered"): "can be reached again",
    ("run", "first"): "has hours that failed",
    ("run", "again"): "has hours that failed again",
    ("run", "changed"): "has hours that failed",
    ("run", "reminder"): "still has hours that failed",
    ("run", "recovered"): "has done the hours that had failed",
    ("watch", "first"): "is not at work",
    ("watch", "again"): "is not at work again",
    ("watch", "changed"): "is not at work, now for another reason",
    ("watch", "reminder"): "is still not at work",
    ("watch", "recovered"): "is at work again",
    ("audit", "first"): "does not agree with its source",
    ("audit", "again"): "does not agree with its source again",
    ("audit", "changed"): "does not agree with its source",
    ("audit", "reminder"): "still does not agree with its source",
    ("audit", "recovered"): "agrees with its source again",
    ("late data", "first"): "changes many hours that were delivered",
    ("late data", "again"): "changes many hours that were delivered again",
    ("late data", "changed"): "changes many hours that were delivered",
    ("late data", "reminder"): "still changes many hours that were delivered",
    ("late data", "recovered"): "has been delivered with the hours that it changed",
    ("dashboard", "first"): "could not be taken",
    ("dashboard", "again"): "could not be taken again",
    ("dashboard", "changed"): "could not be taken, now for another reason",
    ("dashboard", "reminder"): "still can't be taken",
    ("dashboard", "recovered"): "was taken again",
}


@dataclass(frozen=True)
class About:
    """What a message is about."""

    organization: str
    name: str
    """What people call it: ``shop / all_events``."""
    url: str = ""
    """Of the bucket."""
    ui: str = ""
    """Address of the Dagster UI."""
    asset: str = ""
    """Path of the asset in the UI."""
    waiting: Sequence[Hour] | None = None
    """Hours that are not delivered yet, oldest first; None where nobody knows."""


@dataclass(frozen=True)
class Text:
    """A message as it is sent."""

    title: str
    plain: str
    html: str


@dataclass(frozen=True)
class _Facts:
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Code:
    text: str


@dataclass(frozen=True)
class _Links:
    links: Sequence[tuple[str, str]]


_Piece = str | _Facts | _Code | _Links


def write(message: Message, about: About) -> Text:
    """Return the text of ``message``."""
    title = f"{about.name} {_TITLES[message.trouble.source, message.kind]}"
    pieces = _recovered(message, about) if message.kind == "recovered" else _wrong(message, about)
    footer = f"Sent by amp_pipeline for the organization {about.organization}, {_time(message.at)}."
    return _text(title, [*pieces, _links(message, about), footer])


def write_test(about: About, at: datetime) -> Text:
    """Return the text of a try, which says that nothing goes wrong."""
    pieces = [
        f"This is a try: nothing is wrong. Alerts about {about.name} will reach you this way.",
        f"Sent by amp_pipeline for the organization {about.organization}, {_time(at)}.",
    ]
    return _text(f"{about.name}: alerts reach you", pieces)


def _wrong(message: Message, about: About) -> list[_Piece]:
    trouble = message.trouble
    pieces: list[_Piece] = [trouble.summary]
    if message.kind == "again":
        pieces.append("It had just been well, so it comes and goes: it is only called well when it has stayed well.")
    if message.before:
        pieces.append(f"Before, it was this: {message.before}")
    facts = [*_place(about), ("since", f"{_time(message.since)}{_for(message)}")]
    facts += [
        ("missing permission", trouble.action),
        ("on", trouble.resource),
        ("for", trouble.principal),
        ("what failed", trouble.step.replace("_", " ")),
        ("what went well", ", ".join(trouble.passed).replace("_", " ")),
        ("hours waiting", _waiting(about.waiting)),
    ]
    pieces.append(_Facts([(name, value) for name, value in facts if value]))
    if trouble.hours:
        pieces.append(_hours(trouble))
    if trouble.advice:
        pieces.append(trouble.advice)
    if trouble.statement:
        pieces += [_where_to_paste(trouble), _Code(_pretty(trouble.statement))]
    return pieces


def _recovered(message: Message, about: About) -> list[_Piece]:
    # Whoever reads this may not have read what came before.
    pieces: list[_Piece] = [f"What was wrong: {message.trouble.summary}"]
    lasted = ("it lasted", f"{_length(message.at - message.since)}, since {_time(message.since)}")
    waiting = _waiting(about.waiting) if about.waiting else ""
    facts = [
        *_place(about),
        lasted,
        ("hours still waiting", waiting),
        ("hours to deliver again", _failed(message, about)),
    ]
    return [*pieces, _Facts([(name, value) for name, value in facts if value])]


def _place(about: About) -> list[tuple[str, str]]:
    return [("what", about.name), ("bucket", about.url)]


def _hours(trouble: Trouble) -> _Facts:
    rows = list(trouble.hours.items())[-_SHOWN_HOURS:]
    if len(rows) < len(trouble.hours):
        rows.insert(0, ("…", f"{len(trouble.hours) - len(rows)} more before these"))
    return _Facts(rows)


def _where_to_paste(trouble: Trouble) -> str:
    return f"The statement to add to {policy_named(trouble.policy, trouble.principal)}:"


def _waiting(hours: Sequence[Hour] | Sequence[str] | None) -> str:
    if hours is None:
        return ""
    if not hours:
        return "none"
    if len(hours) == 1:
        return f"1: {hours[0]}"
    return f"{len(hours)}: oldest {hours[0]}, newest {hours[-1]}"


def _failed(message: Message, about: About) -> str:
    """Return which hours failed because of a bucket that is well again, but those that are named as waiting."""
    if message.trouble.source != "access":
        return ""
    waiting = {hour.key for hour in about.waiting or ()}
    failed = [key for key in sorted(message.trouble.hours) if key not in waiting]
    return _waiting(failed) if failed else ""


def _links(message: Message, about: About) -> _Piece:
    links: list[tuple[str, str]] = []
    if about.ui and about.asset:
        links.append(("In Dagster", f"{about.ui}/assets/{about.asset}"))
    if about.ui and message.trouble.run:
        links.append(("The run", f"{about.ui}/runs/{message.trouble.run}"))
    return _Links(links)


def _for(message: Message) -> str:
    lasted = message.at - message.since
    return f", for {_length(lasted)}" if lasted >= timedelta(minutes=1) else ""


def _length(lasted: timedelta) -> str:
    minutes = int(lasted / timedelta(minutes=1))
    for unit, size in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes >= 2 * size or (minutes >= size and size == 1):
            count = minutes // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _pretty(statement: str) -> str:
    try:
        return json.dumps(json.loads(statement), indent=2, ensure_ascii=False)
    except ValueError:
        return statement


def _text(title: str, pieces: Sequence[_Piece]) -> Text:
    told = [piece for piece in pieces if not isinstance(piece, _Links) or piece.links]
    body = "\n".join(_as_html(piece) for piece in told)
    page = f"<html><body>\n<h3>{html.escape(title)}</h3>\n{body}\n</body></html>\n"
    return Text(title, "\n\n".join(_as_plain(piece) for piece in told) + "\n", page)


def _as_plain(piece: _Piece) -> str:
    match piece:
        case str():
            return piece
        case _Facts(rows):
            width = max(len(name) for name, _ in rows)
            return "\n".join(f"{name + ':':{width + 1}} {value}" for name, value in rows)
        case _Code(text):
            return text
        case _Links(links):
            return "\n".join(f"{name}: {url}" for name, url in links)


def _as_html(piece: _Piece) -> str:
    match piece:
        case str():
            return f"<p>{_escaped(piece)}</p>"
        case _Facts(rows):
            # No table: what programs make of one for readers of plain text is hard to read.
            lines = (f"<b>{_escaped(name)}:</b> {_escaped(value)}" for name, value in rows)
            return f"<p>{_BREAK.join(lines)}</p>"
        case _Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case _Links(links):
            told = (f'{html.escape(name)}: <a href="{html.escape(url)}">{html.escape(url)}</a>' for name, url in links)
            return f"<p>{_BREAK.join(told)}</p>"


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
