"""An ASGI application on an address, until the process is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from typing_extensions import override

from amp_pipeline.core.errors import ConfigError

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

_GRACE_SECONDS = 20
"""How long answers may go on once the process was told to stop; less than the 30 s after which Kubernetes kills."""


_LEAVE_SECONDS = 3
"""How long clients may take to leave once all is answered: over TLS one that is idle may never say that it goes."""


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
