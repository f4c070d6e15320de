"""What people read, as it is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from amp_pipeline.alert_text import About, write, write_test
from amp_pipeline.core.alerts import Message, MessageKind, Source, Trouble
from amp_pipeline.core.hours import Hour, between

SINCE = datetime(2026, 11, 20, 17, 5, tzinfo=UTC)
ABOUT = About(
    organization="acme",
    name="shop / all_events",
    url="s3://acme-events/shop",
    ui="https://dagster.acme.example",
    asset="shop/all_events/manifest",
    waiting=list(between(Hour.parse("2026-11-20-16:00"), Hour.parse("2026-11-20-18:00"))),
)
DENIED = Trouble(
    source="access",
    kind="missing_permission s3:PutObject",
    summary="put: s3://acme-events/shop refuses PutObject",
    action="s3:PutObject",
    resource="arn:aws:s3:::acme-events/shop/*",
    principal="arn:aws:iam::123456789012:role/amp",
    advice="Add the statement to the role policy.",
    statement='{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::acme-events/shop/*"}',
    policy="role policy",
    passed=("credentials", "list"),
    step="conditional_write",
)
FAILED = Trouble(
    source="run",
    kind="run",
    summary="2 hours failed: a part is truncated",
    run="5f9d",
    hours={"2026-11-20-16:00": "a part is corrupt", "2026-11-20-17:00": "a part is truncated"},
)


def message(trouble: Trouble, kind: MessageKind = "first", after: timedelta = timedelta(minutes=30), before: str = ""):
    return Message(kind=kind, at=SINCE + after, since=SINCE, trouble=trouble, before=before)


PLAIN = """\
put: s3://acme-events/shop refuses PutObject

what:               shop / all_events
bucket:             s3://acme-events/shop
since:              2026-11-20 17:05 UTC, for 30 minutes
missing permission: s3:PutObject
on:                 arn:aws:s3:::acme-events/shop/*
for:                arn:aws:iam::123456789012:role/amp
what failed:        conditional write
what went well:     credentials, list
hours waiting:      3: oldest 2026-11-20-16:00, newest 2026-11-20-18:00

Add the statement to the role policy.

The statement to add to a policy of arn:aws:iam::123456789012:role/amp:

{
  "Effect": "Allow",
  "Action": "s3:PutObject",
  "Resource": "arn:aws:s3:::acme-events/shop/*"
}

In Dagster: https://dagster.acme.example/assets/shop/all_events/manifest

Sent by amp_pipeline for the organization acme, 2026-11-20 17:35 UTC.
"""

HTML = """\
<html><body>
<h3>shop / all_events can&#x27;t be reached</h3>
<p>put: s3://acme-events/shop refuses PutObject</p>
<p><b>what:</b> shop / all_events<br>
<b>bucket:</b> s3://acme-events/shop<br>
<b>since:</b> 2026-11-20 17:05 UTC, for 30 minutes<br>
<b>missing permission:</b> s3:PutObject<br>
<b>on:</b> arn:aws:s3:::acme-events/shop/*<br>
<b>for:</b> arn:aws:iam::123456789012:role/amp<br>
<b>what failed:</b> conditional write<br>
<b>what went well:</b> credentials, list<br>
<b>hours waiting:</b> 3: oldest 2026-11-20-16:00, newest 2026-11-20-18:00</p>
<p>Add the statement to the role policy.</p>
<p>The statement to add to a policy of arn:aws:iam::123456789012:role/amp:</p>
<pre>{
  &quot;Effect&quot;: &quot;Allow&quot;,
  &quot;Action&quot;: &quot;s3:PutObject&quot;,
  &quot;Resource&quot;: &quot;arn:aws:s3:::acme-events/shop/*&quot;
}</pre>
<p>In Dagster: <a href="https://dagster.acme.example/assets/shop/all_events/manifest">https://dagster.acme.example/assets/shop/all_events/manifest</a></p>
<p>Sent by amp_pipeline for the organization acme, 2026-11-20 17:35 UTC.</p>
</body></html>
""".replace("<br>\n", "<br>")

RUN = """\
2 hours failed: a part is truncated

what:          shop / all_events
bucket:        s3://acme-events/shop
since:         2026-11-20 17:05 UTC
hours waiting: none

2026-11-20-16:00: a part is corrupt
2026-11-20-17:00: a part is truncated

In Dagster: https://dagster.acme.example/assets/shop/all_events/manifest
The run: https://dagster.acme.example/runs/5f9d

Sent by amp_pipeline for the organization acme, 2026-11-20 17:05 UTC.
"""

RECOVERED = """\
What was wrong: put: s3://acme-events/shop refuses PutObject

what:                shop / all_events
bucket:              s3://acme-events/shop
it lasted:           2 days, since 2026-11-20 17:05 UTC
hours still waiting: 1: 2026-11-20-16:00

In Dagster: https://dagster.acme.example/assets/shop/all_events/manifest

Sent by amp_pipeline for the organization acme, 2026-11-22 20:05 UTC.
"""


def test_a_bucket_that_can_t_be_reached():
    text = write(message(DENIED), ABOUT)
    assert text.title == "shop / all_events can't be reached"
    assert text.plain == PLAIN
    assert text.html == HTML


def test_hours_that_failed():
    text = write(message(FAILED, after=timedelta()), replace(ABOUT, waiting=[]))
    assert text.title == "shop / all_events has hours that failed"
    assert text.plain == RUN
    assert '<a href="https://dagster.acme.example/runs/5f9d">https://dagster.acme.example/runs/5f9d</a>' in text.html


def test_it_is_well_again():
    text = write(
        message(DENIED, "recovered", timedelta(hours=51)), replace(ABOUT, waiting=[Hour.parse("2026-11-20-16:00")])
    )
    assert text.title == "shop / all_events can be reached again"
    assert text.plain == RECOVERED


def test_another_reason_names_the_one_before():
    text = write(message(DENIED, "changed", before="there is no such bucket"), ABOUT)
    assert text.title == "shop / all_events can't be reached, now for another reason"
    assert "Before, it was this: there is no such bucket" in text.plain


def test_what_comes_back_says_so():
    text = write(message(DENIED, "again"), ABOUT)
    assert text.title == "shop / all_events can't be reached again"
    assert "it comes and goes" in text.plain


def test_what_is_not_known_is_not_there():
    bare = Trouble(source="access", kind="network", summary="no answer")
    text = write(message(bare), About(organization="acme", name="acme / workspace"))
    assert text.plain.split("\n\n")[1:-1] == ["what:  acme / workspace\nsince: 2026-11-20 17:05 UTC, for 30 minutes"]
    assert "href" not in text.html


@pytest.mark.parametrize("source", ["access", "run", "watch", "audit"])
@pytest.mark.parametrize("kind", ["first", "again", "changed", "reminder", "recovered"])
def test_every_kind_has_a_title(source: Source, kind: MessageKind):
    trouble = Trouble(source=source, kind="x", summary="why")
    assert write(message(trouble, kind), ABOUT).title.startswith("shop / all_events ")


def test_of_many_failed_hours_the_last_are_named():
    hours = {hour.key: "why" for hour in between(Hour.parse("2026-11-20-00:00"), Hour.parse("2026-11-20-23:00"))}
    plain = write(message(Trouble(source="run", kind="run", summary="24 hours failed", hours=hours)), ABOUT).plain
    assert "14 more before these" in plain
    assert "2026-11-20-23:00: why" in plain
    assert "2026-11-20-13:00" not in plain


def test_nothing_of_what_others_said_becomes_html():
    evil = "<script>alert(1)</script>&\"'\nnext"
    trouble = Trouble(
        source="access",
        kind=evil,
        summary=evil,
        action=evil,
        resource=evil,
        principal=evil,
        advice=evil,
        statement=evil,
        policy=evil,
        passed=(evil,),
        step=evil,
        run=evil,
        hours={evil: evil},
    )
    about = About(organization=evil, name=evil, url=evil, ui=f'https://x"{evil}', asset=evil, waiting=None)
    for kind in ("first", "recovered"):
        html = write(message(trouble, kind), about).html
        assert "<script>" not in html
        assert 'href="https://x"' not in html


def test_a_try_says_that_nothing_is_wrong():
    text = write_test(ABOUT, SINCE)
    assert text.title == "shop / all_events: alerts reach you"
    assert "nothing is wrong" in text.plain


def test_hours_that_failed_because_of_a_bucket_are_named_when_it_is_well():
    """They were delivered once, so they do not wait as those do that never were."""
    again = replace_hours(DENIED, "2026-11-20-09:00", "2026-11-20-16:00")
    told = write(message(again, "recovered"), ABOUT).plain
    assert "hours still waiting:    3: oldest 2026-11-20-16:00, newest 2026-11-20-18:00" in told
    assert "hours to deliver again: 1: 2026-11-20-09:00" in told
    assert "deliver again" not in write(message(FAILED, "recovered"), ABOUT).plain


def replace_hours(trouble: Trouble, *hours: str) -> Trouble:
    return msgspec.structs.replace(trouble, hours=dict.fromkeys(hours, "put is refused"))
