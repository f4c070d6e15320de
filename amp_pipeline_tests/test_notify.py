"""Messages that really go out, to a mail server and a webhook on this machine, and what is said when they don't."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from amp_pipeline.alert_settings import Alerts, told
from amp_pipeline.alert_text import Text
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.notify import check, send
from amp_pipeline_tests.receivers import Mailbox, Webhook, mailbox, webhook
from amp_pipeline_tests.servers import free_port

PASSWORD = "Geheim/und:odd@pass%20word?&x=#"  # every letter that a url would trip over
TOKEN = "tokentokentoken"
TEXT = Text(
    "shop / all_events can't be reached", "Grüße\n\nline <two>\n", "<html><body><p>Grüße &lt;two&gt;</p></body></html>"
)


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox("amp", PASSWORD) as made:
        yield made


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


def alerts(
    box: Mailbox | None = None, *channels: str, to: tuple[str, ...] = ("data@acme.example",), **mail: Any
) -> Alerts:
    settings = {"security": "none", "user": "amp", "password": PASSWORD, "sender": "amp@acme.example"}
    server = {"server": box.server if box else f"127.0.0.1:{free_port()}"}
    return Alerts.model_validate({"to": to, "channels": channels, "mail": {**server, **settings, **mail}})


def sent(settings: Alerts) -> dict[str, str]:
    return send(settings, told(settings, (), (), None), TEXT)


def test_mail_arrives_as_text_and_as_html(box: Mailbox):
    assert sent(alerts(box, to=("data@acme.example", "anna@acme.example"))) == {
        "mailto data@…": "",
        "mailto anna@…": "",
    }
    assert sorted(str(mail["To"]) for mail in box.mails) == ["anna@acme.example", "data@acme.example"]
    mail = box.mails[0]
    assert mail["Subject"] == TEXT.title
    assert mail["From"] == "amp_pipeline <amp@acme.example>"
    html, plain = mail.get_body(["html"]), mail.get_body(["plain"])
    assert html is not None
    assert plain is not None
    assert html.get_content().strip() == TEXT.html
    assert "Grüße <two>" in plain.get_content()


def test_a_webhook_is_posted_to_with_its_login(hook: Webhook):
    settings = Alerts.model_validate({"channels": [f"json://amp:{TOKEN}@{hook.server}/alerts/{TOKEN}"]})
    assert sent(settings) == {"json": ""}
    (post,) = hook.posts
    assert (post["title"], post["message"].strip()) == (TEXT.title, TEXT.plain.strip())
    assert hook.paths[0].startswith(f"/alerts/{TOKEN}")
    assert hook.logins == [f"amp:{TOKEN}"]


def test_one_that_fails_holds_up_no_other(box: Mailbox, hook: Webhook):
    box.refusing.add("gone@acme.example")
    settings = alerts(
        box,
        f"json://{hook.server}/a",
        f"json://127.0.0.1:{free_port()}/{TOKEN}",
        to=("gone@acme.example", "data@acme.example"),
    )
    results = sent(settings)
    assert {name for name, why in results.items() if not why} == {"mailto data@…", "json"}
    assert "550" in results["mailto gone@…"]
    assert "Connection refused" in results["json (2)"]
    assert len(box.mails) == len(hook.posts) == 1


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        (alerts(None), "mailto data@…", "Connection refused"),
        (
            Alerts.model_validate({"channels": [f"json://amp:{TOKEN}@127.0.0.1:9/{TOKEN}?+X-Key={TOKEN}"]}),
            "json",
            "refused",
        ),
        (Alerts.model_validate({"channels": [f"slack://{TOKEN}/{TOKEN}/{TOKEN}"]}), "slack", ""),
        (Alerts.model_validate({"channels": [f"nonsense://{TOKEN}:{TOKEN}@{TOKEN}/?x={TOKEN}"]}), "nonsense", ""),
    ],
)
def test_what_fails_is_told_without_secrets(
    settings: Alerts, name: str, said: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level(logging.DEBUG)
    results = sent(settings)
    assert list(results) == [name]
    assert results[name]
    assert said in results[name]
    for place in (results[name], caplog.text, "".join(capfd.readouterr()), repr(settings), str(settings.model_dump())):
        assert TOKEN not in place
        assert PASSWORD not in place


def test_what_arrives_is_logged_without_secrets(hook: Webhook, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    settings = Alerts.model_validate({"channels": [f"json://{hook.server}/{TOKEN}?+X-Key={TOKEN}"]})
    assert sent(settings) == {"json": ""}
    assert TOKEN in hook.paths[0]
    assert TOKEN not in caplog.text


def test_a_wrong_password_is_refused_without_saying_it(box: Mailbox):
    why = sent(alerts(box, password=f"{PASSWORD}{TOKEN}"))["mailto data@…"]
    assert "535" in why
    assert PASSWORD not in why
    assert TOKEN not in why
    assert box.mails == []


def test_mail_that_does_not_arrive_tells_which_server_and_how_it_was_asked(box: Mailbox):
    why = sent(alerts(box, security="tls"))["mailto data@…"]
    assert "WRONG_VERSION_NUMBER" in why
    assert f"(server 127.0.0.1, port {box.controller.port}, security tls)" in why


def test_a_webhook_that_answers_with_an_error_is_told_with_its_number(hook: Webhook):
    hook.status = 403
    settings = Alerts.model_validate({"channels": [f"json://{hook.server}/{TOKEN}"]})
    assert "403" in sent(settings)["json"]


def test_nobody_is_sent_nothing():
    assert send(Alerts(), [], TEXT) == {}


def test_a_channel_of_no_known_kind_is_refused_by_its_kind_alone():
    settings = Alerts.model_validate({"channels": [f"nonsense://{TOKEN}@host"]})
    with pytest.raises(ConfigError) as caught:
        check(settings, told(settings, (), (), None))
    assert "the channel nonsense can't be used: Apprise has no such kind of channel" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_channels_of_known_kinds_are_not(hook: Webhook):
    settings = Alerts.model_validate(
        {
            "channels": [
                f"json://{hook.server}",
                "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
            ]
        }
    )
    check(settings, told(settings, (), (), None))
    assert hook.posts == []
