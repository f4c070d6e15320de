"""What time it is. All that asks is outside the rules: these are given the time, so that a test can say what it is."""

from collections.abc import Callable
from datetime import UTC, datetime

Now = Callable[[], datetime]


def now() -> datetime:
    """Return the time of this machine, in UTC.

    Called as ``clock.now()``, so that one replaced name tells a whole command or sensor what time it is.
    """
    return datetime.now(UTC)
