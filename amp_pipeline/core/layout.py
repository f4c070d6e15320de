"""Names of objects: in the landing, in the bucket of a delivery, and the order they stand in.

Names follow Amplitude's S3 export (``{project}/{project}_{yyyy-MM-dd}_{H}#{n}.json.gz``, H unpadded and n from 0 in
real
listings; amplitude-docs ``destination-catalog/en/google-cloud-storage.md``). Where the pipeline keeps its own
things is :mod:`amp_pipeline.workspace.store`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from amp_pipeline.core.hours import Hour

EVENTS = "{project}/{project}_{yyyy}-{MM}-{dd}_{H}#{n}.json{ext}"
EVENTS_COMPLETE = "{project}/{project}_{yyyy}-{MM}-{dd}_{H}_complete"
MERGED_IDS = "-{org}/-{org}_{yyyy}-{MM}-{dd}_{H}.json{ext}"

OWN_FOLDER = "_amp_pipeline"
"""Folder below a delivery's url for what Amplitude's layout does not know. Readers of Hive, Spark and Athena skip names
that begin with an underscore."""

_FIELDS = {
    "yyyy": r"(?P<yyyy>\d{4})",
    "MM": r"(?P<MM>\d{2})",
    "dd": r"(?P<dd>\d{2})",
    "H": r"(?P<H>\d{1,2})",
    "n": r"(?P<n>-?\d+)",
    "ext": r"(?:\.gz|\.zst)?",
    "any": r"[^/]*",
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, order=True)
class ObjectOrder:
    """Where an object stands among those of its hour: text before the part number, the number, the text after it."""

    before: str
    part: int
    after: str


class Pattern:
    """A layout of landing objects: text with placeholders.

    They are ``{project}``, ``{org}``, ``{yyyy}``, ``{MM}``, ``{dd}``, ``{H}``, ``{n}``, ``{ext}`` and ``{any}``.
    """

    def __init__(self, text: str, *, project: int | None = None, organization: int | None = None) -> None:
        """Compile ``text`` for one project or organization.

        Raises:
            ValueError: ``text`` has an unknown placeholder or does not tell the hour.
        """
        self.text = text
        owner = {"project": project, "org": organization}
        self._bound = _PLACEHOLDER.sub(lambda m: str(owner[m[1]]) if owner.get(m[1]) is not None else m[0], text)
        names = _PLACEHOLDER.findall(self._bound)
        unknown = [name for name in names if name not in _FIELDS]
        if unknown:
            raise ValueError(
                f"unknown placeholder {{{unknown[0]}}}; known are "
                + " ".join(f"{{{name}}}" for name in (*owner, *_FIELDS))
            )
        missing = [name for name in ("yyyy", "MM", "dd", "H") if name not in names]
        if missing:
            raise ValueError(
                f"{{{missing[0]}}} is missing: a name must tell its hour by {{yyyy}}, {{MM}}, {{dd}} and {{H}}"
            )
        self._regex = re.compile(self._expression())

    def _expression(self) -> str:
        seen: set[str] = set()
        out: list[str] = []
        at = 0
        for match in _PLACEHOLDER.finditer(self._bound):
            out.append(re.escape(self._bound[at : match.start()]))
            name = match[1]
            repeatable = name in seen and name in ("yyyy", "MM", "dd", "H", "n")
            out.append(f"(?P={name})" if repeatable else _FIELDS[name])
            seen.add(name)
            at = match.end()
        return "".join(out) + re.escape(self._bound[at:])

    def listing_prefix(self, day: date) -> str:
        """Return the longest fixed beginning that names of ``day`` share."""
        filled = (
            self._bound.replace("{yyyy}", f"{day:%Y}".rjust(4, "0"))
            .replace("{MM}", f"{day:%m}")
            .replace("{dd}", f"{day:%d}")
        )
        return filled.split("{", 1)[0]

    @property
    def common_prefix(self) -> str:
        """The longest fixed beginning that all names share."""
        return self._bound.split("{", 1)[0]

    def hour_of(self, name: str) -> Hour | None:
        """Return the hour that ``name`` tells, or None where ``name`` is not of this layout."""
        match = self._regex.fullmatch(name)
        if match is None:
            return None
        number = int(match["H"])
        try:
            day = date(int(match["yyyy"]), int(match["MM"]), int(match["dd"]))
        except ValueError:
            return None
        return Hour((day.toordinal() - date(1970, 1, 1).toordinal()) * 24 + number) if number < 24 else None

    def order_of(self, name: str) -> ObjectOrder:
        """Return where ``name`` stands among the objects of its hour.

        Example:
            >>> pattern = Pattern(EVENTS, project=1)
            >>> names = ["1/1_2026-01-01_5#10.json", "1/1_2026-01-01_5#9.json"]
            >>> sorted(names, key=pattern.order_of)
            ['1/1_2026-01-01_5#9.json', '1/1_2026-01-01_5#10.json']
        """
        match = self._regex.fullmatch(name)
        if match is None or "n" not in match.groupdict():
            return ObjectOrder(name, 0, "")
        start, end = match.span("n")
        return ObjectOrder(name[:start], int(match["n"]), name[end:])


@dataclass(frozen=True)
class ArchiveNames:
    """Names of what a delivery writes for its hours, relative to the delivery's url."""

    organization: int
    project: int
    delivery: str
    first_part: int = 0
    padded_hour: bool = False

    def _hour(self, hour: Hour) -> str:
        return f"{hour.day}_{hour.of_day:02d}" if self.padded_hour else f"{hour.day}_{hour.of_day}"

    def part(self, hour: Hour, index: int) -> str:
        """Return the name of the part number ``index``, counted from 0."""
        return f"{self.events_prefix(hour)}{self.first_part + index}.json.gz"

    def events_prefix(self, hour: Hour) -> str:
        """Return what the names of the parts of ``hour`` begin with."""
        return f"{self.project}/{self.project}_{self._hour(hour)}#"

    def events_prefixes(self, hour: Hour) -> list[str]:
        """Return what names of parts of ``hour`` begin with, padded or not: ``names`` may have been set anew."""
        return sorted(
            {
                f"{self.project}/{self.project}_{hour.day}_{number}#"
                for number in (str(hour.of_day), f"{hour.of_day:02d}")
            }
        )

    def complete_marker(self, hour: Hour) -> str:
        """Return the name of the empty object that says the hour is final."""
        return f"{self.project}/{self.project}_{self._hour(hour)}_complete"

    def merged_ids_spellings(self, hour: Hour) -> list[str]:
        """Return the names that the hour's merged-id file can have, padded or not."""
        numbers = {str(hour.of_day), f"{hour.of_day:02d}"}
        return sorted(f"-{self.organization}/-{self.organization}_{hour.day}_{number}.json.gz" for number in numbers)

    def merged_ids(self, hour: Hour) -> str:
        """Return the name of the hour's merged-id file."""
        return f"-{self.organization}/-{self.organization}_{self._hour(hour)}.json.gz"

    def manifest(self, hour: Hour) -> str:
        """Return the name of the hour's manifest."""
        return f"{OWN_FOLDER}/{self.project}/{self.delivery}/{hour.day}/{hour.of_day:02d}.json"

    def manifests_prefix(self, month: str) -> str:
        """Return what the names of the manifests and claims of a month, or with another beginning of days, begin with.

        Args:
            month: Like ``2024-05``, or ``2024-05-06``, or ``2024``.
        """
        return f"{OWN_FOLDER}/{self.project}/{self.delivery}/{month}"

    def hour_of_end(self, name: str) -> tuple[Hour, bool] | None:
        """Return the hour of a manifest or claim, and whether it is a manifest; None where ``name`` is neither.

        Example:
            >>> hour, is_manifest = ArchiveNames(1, 2, "all").hour_of_end("_amp_pipeline/2/all/2024-05-06/09.claim")
            >>> hour.key, is_manifest
            ('2024-05-06-09:00', False)
        """
        folder = self.manifests_prefix("")
        match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})/(\d{2})\.(json|claim)", name.removeprefix(folder))
        if match is None or not name.startswith(folder):
            return None
        try:
            return Hour.parse(f"{match[1]}-{match[2]}:00"), match[3] == "json"
        except ValueError:
            return None

    def claim(self, hour: Hour) -> str:
        """Return the name of the object that is there while a run writes the hour, and says which."""
        return f"{OWN_FOLDER}/{self.project}/{self.delivery}/{hour.day}/{hour.of_day:02d}.claim"

    def event_table(self, hour: Hour) -> str:
        """Return the name of the hour's rows of the table ``event``."""
        return f"tables/{self.project}/event/date={hour.day}/hour={hour.of_day:02d}/event.parquet"

    def table(self, name: str) -> str:
        """Return the name of a table that is one object."""
        return f"tables/{self.project}/{name}.parquet"

    def event_table_claim(self, hour: Hour) -> str:
        """Return the name of the object that is there while a run writes the hour's rows of the table ``event``."""
        return f"{OWN_FOLDER}/{self.project}/{self.delivery}/{hour.day}/{hour.of_day:02d}.tables.claim"

    def tables_claim(self) -> str:
        """Return the name of the object that is there while a run writes tables that are one object."""
        return f"{OWN_FOLDER}/{self.project}/{self.delivery}/tables.claim"

    def hour_ends(self, hour: Hour) -> list[str]:
        """Return the names of what says that the hour is final, in the order of taking away.

        These are the markers in either spelling, then the manifest.
        """
        numbers = (str(hour.of_day), f"{hour.of_day:02d}")
        markers = sorted({f"{self.project}/{self.project}_{hour.day}_{number}_complete" for number in numbers})
        return [*markers, self.manifest(hour)]

    def owner(self) -> str:
        """Return the name of the record that says to which organization the delivery's url belongs."""
        return f"{OWN_FOLDER}/owner.json"
