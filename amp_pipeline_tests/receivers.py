"""Whoever is told, for tests: a real SMTP server and a real webhook on this machine."""

import base64
import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from amp_pipeline_tests.servers import free_port


class Mailbox:
    """A mail server and what it took."""

    def __init__(self, user: str, password: str) -> None:
        self.mails: list[EmailMessage] = []
        self.refusing: set[str] = set()
        self._login = LoginPassword(user.encode(), password.encode())
        self.controller = Controller(
            self,
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=self._authenticate,
            auth_require_tls=False,
            auth_required=True,
        )

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data == self._login, handled=False)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802 - the name that is called
        if address in self.refusing:
            return "550 there is nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the name that is called
        mail = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.controller.port}"

    def subjects(self, address: str | None = None) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails if address is None or address in str(mail["To"])]


class Webhook:
    """A web server, and what was posted to it."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.logins: list[str] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802 - the name that is called
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.posts.append(json.loads(body))
                    hook.paths.append(self.path)
                    login = self.headers.get("Authorization", "").removeprefix("Basic ")
                    hook.logins.append(base64.b64decode(login).decode())
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has
                pass

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.web.server_address[1]}"

    @property
    def titles(self) -> list[str]:
        return [post["title"] for post in self.posts]


@contextmanager
def mailbox(user: str, password: str) -> Iterator[Mailbox]:
    box = Mailbox(user, password)
    box.controller.start()
    try:
        yield box
    finally:
        box.controller.stop()


@contextmanager
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hook
    finally:
        hook.web.shutdown()
        hook.web.server_close()
        thread.join()
