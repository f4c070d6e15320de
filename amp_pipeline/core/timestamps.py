"""The two forms in which Amplitude writes times, to µs since 1970.

Documents say ISO-8601 (``2015-08-10T12:00:00.000000``), real exports have a space and six decimals
(``2025-07-01 16:34:54.837000``); what has any other form is quarantined. Rules: docs/rules.md, "Times".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

_FORM = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z?$"
_YEAR_0 = "0000"


def parse(texts: Sequence[str | None]) -> pl.Series:
    """Return the times as Int64 µs since 1970, null where the text is null or of no known form.

    Example:
        >>> parse(["1970-01-01 00:00:01.5", "1970-01-01T00:00:00Z", "1970:01:01 00:00:00", None]).to_list()
        [1500000, 0, None, None]
    """
    try:
        text = pl.Series("time", texts, dtype=pl.String)
    except UnicodeEncodeError:
        # A lone surrogate; such a text is no time.
        text = pl.Series("time", [text and text.encode("utf-8", "replace").decode() for text in texts], dtype=pl.String)
    frame = text.to_frame().select(
        pl.when(pl.col("time").str.contains(_FORM) & (pl.col("time").str.slice(0, 4) != _YEAR_0))
        .then(pl.col("time").str.replace("T", " ", literal=True).str.strip_suffix("Z"))
        .str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False, exact=True)
        .to_physical()
    )
    return frame.to_series()


def write(us: int) -> str:
    """Return µs since 1970 in the form of real exports.

    Example:
        >>> write(1_500_000)
        '1970-01-01 00:00:01.500000'
    """
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    # Exports write no zone.
    return at.replace(tzinfo=None).isoformat(" ", "microseconds")
