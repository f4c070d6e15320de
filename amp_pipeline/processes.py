"""Whether a process that wrote down who it is has ended."""

from __future__ import annotations

import socket
from pathlib import Path


def is_gone(host: str, process: int, began: str) -> bool:
    """Tell whether a process is known to have ended: it ran here, and does no more.

    Args:
        host: Name of the host that it ran on.
        process: Its number.
        began: What :func:`started` said of it.
    """
    here, there = _where_numbers_count(), began.rpartition(" ")[0]
    return host == socket.gethostname() and bool(here) and here == there and started(process) != began


def started(process: int) -> str:
    """Return what tells a process from others with its number: where that counts, and when it began.

    "" where the system doesn't tell.
    """
    try:
        # Field 22 of proc(5); the name before it may hold spaces and brackets. A zombie writes no more.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return f"{_where_numbers_count()} {fields[18]}" if state != "Z" else "ended"
    except (OSError, IndexError):
        return ""


def _where_numbers_count() -> str:
    """Return what is the same for processes that see each other: since when the system runs, and the container.

    A host's name is not enough: containers may share it, and so may machines. "" where the system doesn't tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
