"""The key of a user: one text for the three ids, so that tables join by one column. See docs/tables.md."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

_MOST_REMEMBERED = 200_000
_HEX_DIGITS = 32  # 128 bits: two of 10^12 users share one by chance in 1 of 10^15 projects

Ids = tuple[str | None, int | None, str | None]
"""user_id, amplitude_id, device_id."""


def user_key(user_id: str | None, amplitude_id: int | None, device_id: str | None) -> str:
    """Return the key of a user, 32 hexadecimal digits; null and empty are two ids.

    Example:
        >>> user_key("u", 5, None) == sha256(b"1:u,5,-").hexdigest()[:32]
        True
    """
    text = f"{_counted(user_id)},{'-' if amplitude_id is None else amplitude_id},{_counted(device_id)}"
    return sha256(text.encode()).hexdigest()[:_HEX_DIGITS]


def _counted(text: str | None) -> str:
    return "-" if text is None else f"{len(text)}:{text}"


class UserKeys:
    """Makes the keys of many events; those of a user are mostly close to one another."""

    def __init__(self) -> None:
        """Begin without any."""
        self._known: dict[Ids, str] = {}

    def many(self, ids: Iterable[Ids]) -> list[str]:
        """Return the keys of users by their ids."""
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        known, found = self._known, list[str]()
        for one in ids:
            key = known.get(one)
            if key is None:
                key = known[one] = user_key(*one)
            found.append(key)
        return found
