"""How counts and hours are written for people."""

from __future__ import annotations

from collections.abc import Iterable

from amp_pipeline.core.hours import Hour, ranges


def counted(count: int, one: str, more: str = "") -> str:
    """Return ``count`` with the noun that goes with it.

    Args:
        count: How many.
        one: The noun for one of them.
        more: The noun for several, where it is not ``one`` with an s.

    Example:
        >>> counted(1, "hour"), counted(8760, "hour"), counted(2, "delivery", "deliveries")
        ('1 hour', '8,760 hours', '2 deliveries')
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def span(first: Hour, last: Hour) -> str:
    """Return the hours from ``first`` to ``last`` as a range, which one hour needs not be."""
    return str(first) if first == last else f"{first} to {last}"


def ranged(hours: Iterable[Hour], most: int | None = None) -> str:
    """Return ``hours`` as their ranges, oldest first; behind the first ``most`` of them how many hours more there are.

    Example:
        >>> hours = [Hour.parse(f"2024-05-06-{number:02}:00") for number in (9, 3, 4, 12)]
        >>> ranged(hours)
        '2024-05-06-03:00 to 2024-05-06-04:00, 2024-05-06-09:00, 2024-05-06-12:00'
        >>> ranged(hours, most=2)
        '2024-05-06-03:00 to 2024-05-06-04:00, 2024-05-06-09:00 and 1 hour more'
    """
    found = ranges(hours)
    shown = [span(first, last) for first, last in found[:most]]
    left = sum(last.number - first.number + 1 for first, last in found[len(shown) :])
    return ", ".join(shown) + (f" and {counted(left, 'hour')} more" if left else "")
