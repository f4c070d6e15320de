"""Sends a message to people by mail and by channels, with Apprise. What does not arrive is a value, without secrets.

Apprise and its 140 services take 1 s to import, so it is imported where something is sent, and nowhere before.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

from amp_pipeline.alert_settings import Alerts, Told
from amp_pipeline.alert_text import Text
from amp_pipeline.core.errors import ConfigError

_HIDDEN = "…"
_APPRISE = "apprise"
_LOGGERS = (_APPRISE, "urllib3.connectionpool")
_LONGEST_REASON = 300
_AT_ONCE = 8
_SHORTEST_SECRET = 4
_WITH_HOST = ("json", "jsons", "xml", "xmls", "form", "forms")
"""Kinds of channels in whose urls the first word is a host, not a token."""

_NO_SUCH_KIND = "Apprise has no such kind of channel; those that it has are at https://github.com/caronc/apprise/wiki"

_SECONDS = 8
"""A server has this long to accept a connection, and to answer."""

# What systems and servers say of themselves; all else in a debug line may be part of a URL.
_KNOWN_REASONS = re.compile(
    r"\[Errno -?\d+\] [A-Za-z ,']+|\[SSL: [A-Z_\d]+\] [a-z ]+"
    r"|timed out|Connection refused|certificate verify failed[A-Za-z :]*"
    r"|Connection unexpectedly closed|[A-Z]{4,} extension not supported by server|\(\d{3}, b'[^']{0,150}'\)"
)


def send(alerts: Alerts, everybody: Iterable[Told], text: Text) -> dict[str, str]:
    """Send ``text`` to everybody.

    Returns:
        By name why it did not arrive; empty where it did.
    """
    people = list(everybody)
    if not people:
        return {}
    # One whose server gives no answer must not hold up the others.
    with ThreadPoolExecutor(min(len(people), _AT_ONCE)) as pool:
        reasons = pool.map(lambda one: _send(alerts, one, text), people)
        return dict(zip((one.name for one in people), reasons, strict=True))


def check(alerts: Alerts, everybody: Iterable[Told]) -> None:
    """Refuse channels that Apprise does not know.

    Raises:
        ConfigError: One is wrong; the message names its kind, never its url.
    """
    for one in everybody:
        if one.channel is not None and (why := _opened(alerts, one)[1]):
            raise ConfigError(f"alerts: the channel {one.name} can't be used: {why}")


def _send(alerts: Alerts, one: Told, text: Text) -> str:
    import apprise

    service, why = _opened(alerts, one)
    if service is None:
        return why
    mail = "mailto" in str(service.protocol)
    body, form = (text.html, apprise.NotifyFormat.HTML) if mail else (text.plain, apprise.NotifyFormat.TEXT)
    with _EAR.listening() as lines:
        try:
            arrived = bool(service.notify(body=body, title=text.title, body_format=form))
        except Exception as error:
            # Of 140 services written by others; one that is broken must not keep the others from being told.
            arrived = False
            lines.append((logging.ERROR, type(error).__name__))
    return "" if arrived else _reason(lines, _secrets(alerts, one)) + _server_of(alerts, one)


def _server_of(alerts: Alerts, one: Told) -> str:
    """Return where mail was to go, since a wrong port or way of TLS is most of what is wrong with mail."""
    if one.channel is not None or alerts.mail is None:
        return ""
    return f" (server {alerts.mail.host}, port {alerts.mail.port}, security {alerts.mail.security})"


def _opened(alerts: Alerts, one: Told) -> tuple[Any, str]:
    """Return the service behind a url, or why there is none."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="amp_pipeline",
        app_desc="amp_pipeline",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        secure_logging=True,
    )
    with _EAR.listening() as lines:
        service = apprise.Apprise.instantiate(_place(alerts, one), asset=asset, suppress_exceptions=True)
    if service:
        return service, ""
    unknown = any(line.startswith("Unparse") for _, line in lines)
    return None, _NO_SUCH_KIND if unknown else _reason(lines, _secrets(alerts, one))


def _place(alerts: Alerts, one: Told) -> str | dict[str, Any]:
    """Return where a message goes, as Apprise takes it: a url, or for mail the settings of its plugin."""
    if one.channel is not None:
        return one.channel.get_secret_value()
    mail = alerts.mail
    if mail is None:
        raise ValueError(f"{one.name} can't be told without a server")
    # Apprise unquotes a password that it is given once, and twice where it stands in a url.
    settings = {
        "schema": "mailto",
        "host": mail.host,
        "port": mail.port,
        "smtp_host": mail.host,
        "secure_mode": {"starttls": "starttls", "tls": "ssl", "none": "insecure"}[mail.security],
        "from_addr": f"amp_pipeline <{mail.sender}>",
        "targets": [one.address],
        "cto": _SECONDS,
        "rto": _SECONDS,
    }
    if mail.user is None or mail.password is None:
        return settings
    return {**settings, "user": quote(mail.user), "password": quote(mail.password.get_secret_value())}


class _Ear(logging.Filter):
    """Collects what is logged while a thread sends, and keeps it from all handlers: debug lines hold whole urls."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        lines: list[tuple[int, str]] | None = getattr(self._of_thread, "lines", None)
        if lines is not None:
            lines.append((record.levelno, record.getMessage()))
        return lines is None and record.name != _APPRISE

    @contextmanager
    def listening(self) -> Iterator[list[tuple[int, str]]]:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)
        # Why something failed is told in debug lines alone.
        logging.getLogger(_APPRISE).setLevel(logging.DEBUG)
        self._of_thread.lines = lines = []
        try:
            yield lines
        finally:
            self._of_thread.lines = None


_EAR = _Ear()


def _reason(lines: Iterable[tuple[int, str]], secrets: list[str]) -> str:
    told: list[str] = []
    for level, line in lines:
        if logging.WARNING <= level <= logging.CRITICAL:
            told.append(line)
        elif level == logging.DEBUG:
            told += _KNOWN_REASONS.findall(line) if line.startswith("Socket Exception") else []
    reason = "; ".join(dict.fromkeys(" ".join(line.split()) for line in told)) or "it was not accepted"
    for secret in secrets:
        reason = reason.replace(secret, _HIDDEN)
    return reason[:_LONGEST_REASON]


def _secrets(alerts: Alerts, one: Told) -> list[str]:
    """Return all that must not be repeated, longest first: the password of the mail server, or all pieces of a url."""
    if one.channel is None:
        password = alerts.mail.password if alerts.mail else None
        return [form for text in [password.get_secret_value()] for form in (text, quote(text))] if password else []
    url = one.channel.get_secret_value()
    scheme, _, rest = url.partition("://")
    pieces = {url, *re.split(r"[/?&=@:;,+#]", rest)}
    if scheme.lower() in _WITH_HOST:
        pieces -= set(re.split(r"[/?#:]", rest.partition("@")[2] or rest)[:1])
    found = pieces | {unquote(piece) for piece in pieces}
    return sorted((piece for piece in found if len(piece) >= _SHORTEST_SECRET), key=len, reverse=True)
