"""An ASGI application on an address, until the process is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn
from typing_extensions import override

from amp_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    # Whichever uvicorn takes has what this one has; it says so of neither.
    from uvicorn.protocols.http.h11_impl import H11Protocol as AnyProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as AnyProtocol

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

_GRACE_SECONDS = 20
"""How long answers may go on once the process was told to stop; less than the 30 s after which Kubernetes kills."""


_LEAVE_SECONDS = 3
"""How long clients may take to leave once all is answered: over TLS one that is idle may never say that it goes."""


_REQUEST_SECONDS = 30.0
"""How long a client may take to ask, or to take the rest of its answer, while nothing at all goes on."""

_REQUEST_BYTES = 64 << 10
"""Of a request's head; those of real clients have less than one."""


class _Protocol(AnyProtocol):
    """A connection that is given up where no request comes of it: each one is a file that is open, and they end.

    uvicorn waits for the first request, and for the rest of one, for ever; of its two parsers one keeps any number of
    headers in memory.
    """

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._seen: tuple[object, int] | None = (None, 0)
        self._look_again = self.loop.call_later(_REQUEST_SECONDS, self._look)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._look_again.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._waits():
            self._head_bytes += len(data)
            if self._head_bytes > _REQUEST_BYTES:
                self.transport.abort()
                return
        super().data_received(data)
        if not self._waits():
            self._head_bytes = 0

    def _waits(self) -> bool:
        """Tell whether there is no request that is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """End the connection where nothing was asked for or taken since the last look."""
        now = (self.cycle, self.transport.get_write_buffer_size()) if self._waits() else None
        if now is not None and now == self._seen:
            self.transport.abort()
            return
        self._seen = now
        self._look_again = self.loop.call_later(_REQUEST_SECONDS, self._look)


class _Server(uvicorn.Server):
    """A server that waits for answers, and not for clients that have theirs."""

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        leaving = asyncio.create_task(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        while self.server_state.tasks:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LEAVE_SECONDS)
        self.force_exit = True


class Certificate(NamedTuple):
    """What makes the address https."""

    certificate: Path
    """In PEM, with those that it was signed by."""
    key: Path


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address; 0 is any free port.

    Raises:
        ConfigError: The address can't be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"can't listen at {host}:{port}: {error.strerror or error}") from None


def server(app: Any, certificate: Certificate | None = None) -> uvicorn.Server:
    """Return a server of ``app``, to be run.

    Raises:
        ConfigError: The certificate can't be used.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="off",
        ws="none",
        # The application tells each request itself; what uvicorn says of those that it cuts on purpose is no news.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=certificate.certificate if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        named = f"{certificate.certificate} and {certificate.key}" if certificate else "none"
        raise ConfigError(f"the certificate and key ({named}) can't be used: {error}; name files in PEM") from None
    return _Server(config)


def run(serving: uvicorn.Server, at: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then let answers end for a while; for a process that does nothing else."""
    _share_memory_among_threads()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops at them, then raises them again for who was there before: that is us, and all is done.
        signal.signal(number, lambda *_: None)
    serving.run(sockets=[at])


def _share_memory_among_threads() -> None:
    """Let threads take memory from two places, not from one each that they fill with gaps: 35 MiB less of 125.

    Of glibc (``mallopt(3)``); other systems don't need it, or don't have it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
