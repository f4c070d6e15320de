"""An oracle for the pipeline, written from docs/rules.md alone.

Slow and plain on purpose, and independent: it shares no line of code and no library (beyond zstandard) with the
pipeline.
All hours are aware datetimes in UTC. Naive ones that are handed in are taken as UTC.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import zstandard

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
BOM = b"\xef\xbb\xbf"
JSON_WHITE_SPACE = " \t\r\n"
STRING_FIELDS = (
    "$insert_id",
    "device_id",
    "uuid",
    "event_type",
    "server_upload_time",
    "client_event_time",
    "event_time",
)
TIME_FIELDS = ("server_upload_time", "client_event_time", "event_time")
NO_CONTENT = ("server_upload_time", "server_received_time", "processed_time", "uuid", "event_id")
DECODED_CONTENT = (
    "device_id",
    "$insert_id",
    "event_type",
    "client_event_time",
    "event_time",
    "app",
    "amplitude_id",
)
TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?Z?",
)

Fields = dict[str, Any]
Order = tuple[str, int, str, str]


@dataclass(frozen=True)
class OracleProject:
    id: int
    first_hour: datetime
    last_hour: datetime | None = None
    window: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class Suppressed:
    """Users whose events are deleted. up_to: microseconds; None for good."""

    users: frozenset[str] = frozenset()
    amplitude_ids: frozenset[int] = frozenset()
    up_to: int | None = None

    def reaches(self, microseconds: int) -> bool:
        return self.up_to is None or microseconds <= self.up_to


@dataclass(frozen=True)
class Event:
    hour: datetime
    object: str
    line: int
    text: bytes
    fields: Fields
    upload_time: int
    identity: tuple[Any, ...] | None
    repeat: bool
    first_seen: datetime | None
    conflict: bool
    deleted: bool = False


@dataclass(frozen=True)
class Quarantined:
    hour: datetime
    object: str
    line: int
    reason: str
    text: bytes
    deleted: bool = False


@dataclass(frozen=True)
class DamagedObject:
    hour: datetime
    object: str


def keep_all(fields: Fields) -> bool:
    return True


@dataclass(frozen=True)
class ProjectTruth:
    events: list[Event]
    quarantined: list[Quarantined]
    damaged: list[DamagedObject]
    strays: int

    @property
    def failed_hours(self) -> frozenset[datetime]:
        return frozenset(damaged.hour for damaged in self.damaged)

    def events_of(self, hour: datetime) -> list[Event]:
        hour = in_utc(hour)
        if hour in self.failed_hours:
            raise LookupError(f"{hour} has a damaged object, so it has no answer")
        return [event for event in self.events if event.hour == hour]

    def delivered(self, hour: datetime, keep: Callable[[Fields], bool] = keep_all) -> list[bytes]:
        """The lines in landing order (without line end) that are not repeats and for which keep(fields) is true."""
        kept = [event for event in self.events_of(hour) if not event.repeat and not event.deleted]
        return [event.text for event in kept if keep(event.fields)]

    def counts(self, hour: datetime) -> dict[str, int]:
        events = self.events_of(hour)
        quarantined = [line for line in self.quarantined if line.hour == in_utc(hour)]
        repeats = [event for event in events if event.repeat]
        deleted = [event for event in events if event.deleted and not event.repeat]
        return {
            "landed": len(events) + len(quarantined),
            "quarantined": len(quarantined),
            "repeats": len(repeats),
            "deleted": len(deleted),
            "deliverable": len(events) - len(repeats) - len(deleted),
        }


@dataclass(frozen=True)
class MergedLine:
    hour: datetime
    text: bytes
    made: bool
    repeat: bool
    pair: tuple[int, int]
    deleted: bool = False


@dataclass(frozen=True)
class OrganizationTruth:
    merged: list[MergedLine]
    quarantined: list[Quarantined]
    damaged: list[DamagedObject] = field(default_factory=list)
    failed_hours: frozenset[datetime] = frozenset()
    """Of the damaged merged-id objects and of all projects."""

    def merged_ids(self, hour: datetime) -> list[bytes]:
        """The lines of the hour's file (without line end), without the repeats."""
        if in_utc(hour) in self.failed_hours:
            raise LookupError(f"{hour} has a damaged object, so it has no answer")
        here = [line for line in self.merged if line.hour == in_utc(hour)]
        return [line.text for line in here if not line.repeat and not line.deleted]


# Times


def in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def hour_of(microseconds: int) -> datetime:
    return EPOCH + HOUR * (microseconds // (HOUR // MICROSECOND))


def microseconds_of(time: str) -> int:
    """The microseconds since 1970 of a time in one of the two known forms. ValueError for anything else."""
    match = TIME.fullmatch(time)
    if match is None:
        raise ValueError("in neither known form")
    year, month, day, hour, minute, second = (int(match.group(n)) for n in range(1, 7))
    decimals = int((match.group(7) or "").ljust(6, "0"))
    return (datetime(year, month, day, hour, minute, second, decimals, tzinfo=UTC) - EPOCH) // MICROSECOND


# Objects


def object_order(name: str) -> Order:
    """Text before the '#', the number, the text after it. Of one n written in two ways (1, 01) the name decides."""
    match = re.fullmatch(r"([^#]*)#(-?[0-9]+)(.*)", name)
    if match is None:
        return name, 0, "", name
    return match.group(1), int(match.group(2)), match.group(3), name


def objects_of(landing: Path, owner: int, part: str) -> list[tuple[datetime, str]]:
    """The hour and the name of the objects of a project or (negative) organization, in object order."""
    pattern = re.compile(rf"{owner}_([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})_([0-9]{{1,2}}){part}\.json(?:\.gz|\.zst)?")
    found: list[tuple[datetime, str]] = []
    folder = landing / str(owner)
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        try:
            day = datetime.strptime(match.group(1), "%Y-%m-%d").replace(tzinfo=UTC)
            found.append((day.replace(hour=int(match.group(2))), f"{owner}/{path.name}"))
        except ValueError:
            continue
    return sorted(found, key=lambda one: object_order(one[1]))


def unpack(name: str, data: bytes) -> tuple[bytes, bool]:
    """The unpacked bytes (up to the damage, where there is one), and whether the object is damaged."""
    if data == b"":
        return b"", name.endswith((".gz", ".zst"))
    if data.startswith(b"\x1f\x8b"):
        return unpack_members(data, lambda: zlib.decompressobj(31), padded=True)
    if data.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", data):
        return unpack_members(
            data, lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(), padded=False
        )
    return data, False


def unpack_members(data: bytes, make: Callable[[], Any], *, padded: bool) -> tuple[bytes, bool]:
    unpacked = b""
    while data:
        if padded and data.strip(b"\0") == b"":
            break
        text, data, whole = unpack_one(data, make)
        unpacked += text
        if not whole:
            return unpacked, True
    return unpacked, False


def unpack_one(data: bytes, make: Callable[[], Any]) -> tuple[bytes, bytes, bool]:
    """One gzip member or zstd frame: what it holds, the bytes after it, and whether it is whole."""
    stream = make()
    try:
        text: bytes = stream.decompress(data)
    except (zlib.error, zstandard.ZstdError):
        return unpack_until_error(data, make()), b"", False
    if not stream.eof:
        return text, b"", False
    return text, bytes(stream.unused_data), True


def unpack_until_error(data: bytes, stream: Any) -> bytes:
    """What can be had of a corrupt stream: byte by byte, as a failing call throws away what it had unpacked."""
    pieces: list[bytes] = []
    for position in range(len(data)):
        try:
            pieces.append(stream.decompress(data[position : position + 1]))
        except (zlib.error, zstandard.ZstdError):
            break
    return b"".join(pieces)


# Lines


def without_mark(line: bytes) -> bytes:
    return line[len(BOM) :] if line.startswith(BOM) else line


def is_blank(line: bytes) -> bool:
    return line.strip(b" \t\r") == b""


@dataclass(frozen=True)
class Lines:
    lines: list[tuple[int, bytes]]
    """The landed lines that were there to the end, with their numbers."""
    rest: list[tuple[int, bytes]]
    """Of an accepted object: what follows the last line end before the damage. One line at most."""
    damaged: bool
    """Damaged and not accepted. No line counts."""


def lines_of(landing: Path, name: str, accepted: frozenset[str]) -> Lines:
    unpacked, damaged = unpack(name, (landing / name).read_bytes())
    if damaged and name not in accepted:
        return Lines([], [], True)
    pieces = unpacked.split(b"\n")
    lines: list[tuple[int, bytes]] = []
    for number, piece in enumerate(pieces[:-1], start=1):
        line = without_mark(piece[:-1] if piece.endswith(b"\r") else piece)
        if not is_blank(line):
            lines.append((number, line))
    last: list[tuple[int, bytes]] = []
    if not is_blank(without_mark(pieces[-1])):
        # There is no line end here, so no \r is part of one.
        last.append((len(pieces), without_mark(pieces[-1])))
    return Lines(lines, last, False) if damaged else Lines(lines + last, [], False)


# From a line to an object


class BadLineError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def integer_of(digits: str) -> int:
    """As int(), which refuses thousands of digits."""
    return int(digits) if len(digits) < 1000 else int(Decimal(digits))


def digits_of(integer: int) -> str:
    """As str(), which refuses thousands of digits."""
    return str(Decimal(integer))


DECODER = json.JSONDecoder(parse_int=integer_of, parse_constant=refuse_constant, strict=True)


def skip_white_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in JSON_WHITE_SPACE:
        position += 1
    return position


def deepest(text: str) -> int:
    """The most brackets that are open at once, those in strings aside."""
    in_string = escaped = False
    depth = most = 0
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            most = max(most, depth)
        elif character in "]}":
            depth -= 1
    return most


def decode_line(line: bytes) -> Fields:
    """Rules 1 to 5."""
    try:
        text = line.decode("utf-8", errors="strict")
    except UnicodeDecodeError:
        raise BadLineError("not_utf8") from None
    if deepest(text) > 200:
        raise BadLineError("too_deep")
    try:
        value, end = DECODER.raw_decode(text, skip_white_space(text, 0))
    except ValueError:
        raise BadLineError("not_json") from None
    if skip_white_space(text, end) != len(text):
        raise BadLineError("trailing_data")
    if not isinstance(value, dict):
        raise BadLineError("not_an_object")
    return value


def is_integer(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def is_number_of_a_double(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return float(value) not in (float("inf"), float("-inf"))
    except OverflowError:
        return False


def check_types(fields: Fields) -> None:
    """Rule 6."""
    for name in STRING_FIELDS:
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise BadLineError("wrong_type")
    if fields.get("event_id") is not None and not is_number_of_a_double(fields["event_id"]):
        raise BadLineError("wrong_type")
    for name in ("app", "amplitude_id"):
        if fields.get(name) is not None and not is_integer(fields[name]):
            raise BadLineError("wrong_type")
    data = fields.get("data")
    if data is not None:
        if not isinstance(data, dict):
            raise BadLineError("wrong_type")
        if data.get("merged_amplitude_id") is not None and not is_integer(data["merged_amplitude_id"]):
            raise BadLineError("wrong_type")


def check_event(fields: Fields, project: OracleProject) -> None:
    """Rules 6 to 10."""
    check_types(fields)
    if fields.get("server_upload_time") is None:
        raise BadLineError("no_time")
    for name in TIME_FIELDS:
        if fields.get(name) is not None:
            try:
                microseconds_of(fields[name])
            except ValueError:
                raise BadLineError("bad_time") from None
    if fields.get("app") is not None and fields["app"] != project.id:
        raise BadLineError("other_project")
    hour = hour_of(microseconds_of(fields["server_upload_time"]))
    if hour < in_utc(project.first_hour):
        raise BadLineError("outside_project")
    if project.last_hour is not None and hour > in_utc(project.last_hour):
        raise BadLineError("outside_project")


# Identity and content


def identity_of(fields: Fields) -> tuple[Any, ...] | None:
    device, insert, uuid = fields.get("device_id"), fields.get("$insert_id"), fields.get("uuid")
    event, time = fields.get("event_id"), fields.get("client_event_time")
    if device is not None and device != "" and insert is not None and insert != "":
        return "insert_id", device, insert
    if device is not None and device != "" and event is not None and time is not None:
        # To Python too 5 and 5.0 are equal and of one hash, and 2**53 + 1 and 2.0**53 are not equal.
        return "event_id", device, event, microseconds_of(time)
    if uuid is not None and uuid != "":
        return "uuid", uuid
    return None


def end_of_string(text: str, position: int) -> int:
    """The position after the string that begins at position."""
    position += 1
    while text[position] != '"':
        position += 2 if text[position] == "\\" else 1
    return position + 1


def end_of_value(text: str, position: int) -> int:
    """The position after the value that begins at position, in a text that is known to be JSON."""
    if text[position] == '"':
        return end_of_string(text, position)
    if text[position] not in "{[":
        while text[position] not in ",}]" + JSON_WHITE_SPACE:
            position += 1
        return position
    depth = 0
    while True:
        if text[position] == '"':
            position = end_of_string(text, position)
            continue
        if text[position] in "{[":
            depth += 1
        if text[position] in "}]":
            depth -= 1
        position += 1
        if depth == 0:
            return position


def members_of(line: bytes) -> dict[str, str]:
    """The top-level keys with the text of their values. The line is known to be one JSON object."""
    text = line.decode("utf-8")
    members: dict[str, str] = {}
    position = skip_white_space(text, 0) + 1
    while True:
        position = skip_white_space(text, position)
        if text[position] == "}":
            break
        if text[position] == ",":
            position += 1
            continue
        end = end_of_string(text, position)
        key: str = json.loads(text[position:end])
        colon = skip_white_space(text, end)
        start = skip_white_space(text, colon + 1)
        position = end_of_value(text, start)
        members[key] = text[start:position]
    return members


def content_of(line: bytes) -> dict[str, Any]:
    """What is content, by its top-level key: some values decoded, the others as the bytes that stand there."""
    content: dict[str, Any] = {}
    for key, value in members_of(line).items():
        if key in NO_CONTENT:
            continue
        if key not in DECODED_CONTENT:
            content[key] = value.encode("utf-8")
            continue
        # To Python 5 and 5.0 are equal.
        decoded = DECODER.decode(value)
        if decoded is not None:
            content[key] = decoded
    return content


# Deletion


def integer_in(value: Any) -> int | None:
    if isinstance(value, str):
        return integer_of(value) if re.fullmatch("-?[0-9]+", value) and len(value) <= 4300 else None
    return int(value) if is_integer(value) else None


def is_of(fields: Fields, one: Suppressed) -> bool:
    user = fields.get("user_id")
    if isinstance(user, int) and not isinstance(user, bool):
        user = digits_of(user)
    number = integer_in(fields.get("amplitude_id"))
    return (isinstance(user, str) and user in one.users) or (number is not None and number in one.amplitude_ids)


def is_deleted(fields: Fields, upload_time: int, suppressed: Sequence[Suppressed]) -> bool:
    return any(is_of(fields, one) and one.reaches(upload_time) for one in suppressed)


def is_bad_line_deleted(text: bytes, hour: datetime, suppressed: Sequence[Suppressed]) -> bool:
    reaching = [one for one in suppressed if one.reaches((hour - EPOCH) // MICROSECOND)]
    try:
        fields = decode_line(text)
    except BadLineError:
        for one in reaching:
            spellings = [json.dumps(user, ensure_ascii=ascii) for user in one.users for ascii in (True, False)]
            if any(spelling.encode("utf-8", "surrogatepass") in text for spelling in spellings):
                return True
            for digits in re.findall(rb'"amplitude_id"[ \t\r]*:[ \t\r]*"?(-?[0-9]+)', text):
                if len(digits) <= 4300 and integer_of(digits.decode()) in one.amplitude_ids:
                    return True
        return False
    return any(is_of(fields, one) for one in reaching)


def with_deleted_merges(merged: list[MergedLine], suppressed: Sequence[Suppressed]) -> list[MergedLine]:
    told: list[MergedLine] = []
    for line in merged:
        reaching = [one for one in suppressed if one.reaches((line.hour - EPOCH) // MICROSECOND)]
        deleted = any(one.amplitude_ids.intersection(line.pair) for one in reaching)
        told.append(replace(line, deleted=deleted))
    return told


# Projects


def arrival(event: Event) -> tuple[int, Order, int]:
    return event.upload_time, object_order(event.object), event.line


def landing_order(event: Event) -> tuple[datetime, Order, int]:
    return event.hour, object_order(event.object), event.line


def with_repeats(events: list[Event], window: timedelta) -> list[Event]:
    """The events (in any order), with what is to be said of repeats."""
    limit = window // MICROSECOND
    groups: dict[tuple[Any, ...], list[Event]] = {}
    told: list[Event] = []
    for event in sorted(events, key=arrival):
        if event.identity is None:
            told.append(event)
        else:
            groups.setdefault(event.identity, []).append(event)
    for group in groups.values():
        for place, event in enumerate(group):
            # The group is in order of arrival, so the first one that is near enough is the earliest.
            for earlier in group[:place]:
                if event.upload_time - earlier.upload_time <= limit:
                    conflict = content_of(event.text) != content_of(earlier.text)
                    told.append(replace(event, repeat=True, first_seen=earlier.hour, conflict=conflict))
                    break
            else:
                told.append(event)
    return told


def read_project(
    landing: Path,
    project: OracleProject,
    accepted: frozenset[str] = frozenset(),
    suppressed: Sequence[Suppressed] = (),
) -> ProjectTruth:
    """accepted: names of objects below the landing, as {project}/{project}_2024-05-06_10#0.json.gz."""
    events: list[Event] = []
    quarantined: list[Quarantined] = []
    damaged: list[DamagedObject] = []
    strays = 0
    for named_hour, name in objects_of(landing, project.id, "#-?[0-9]+"):
        found = lines_of(landing, name, accepted)
        if found.damaged:
            damaged.append(DamagedObject(named_hour, name))
        for line, text in found.lines:
            try:
                fields = decode_line(text)
                check_event(fields, project)
            except BadLineError as bad:
                quarantined.append(Quarantined(named_hour, name, line, bad.reason, text))
                continue
            upload_time = microseconds_of(fields["server_upload_time"])
            hour = hour_of(upload_time)
            if hour != named_hour:
                strays += 1
            identity = identity_of(fields)
            events.append(Event(hour, name, line, text, fields, upload_time, identity, False, None, False))
        for line, text in found.rest:
            quarantined.append(Quarantined(named_hour, name, line, "truncated", text))
    told = with_repeats(events, project.window)
    told = [replace(event, deleted=is_deleted(event.fields, event.upload_time, suppressed)) for event in told]
    quarantined = [replace(bad, deleted=is_bad_line_deleted(bad.text, bad.hour, suppressed)) for bad in quarantined]
    return ProjectTruth(
        events=sorted(told, key=landing_order),
        quarantined=sorted(quarantined, key=lambda bad: (bad.hour, object_order(bad.object), bad.line)),
        damaged=sorted(damaged, key=lambda bad: (bad.hour, object_order(bad.object))),
        strays=strays,
    )


# Organizations


def check_merged(fields: Fields) -> None:
    for name in ("amplitude_id", "merged_amplitude_id"):
        if not is_integer(fields.get(name)):
            raise BadLineError("wrong_type")
    for name in ("scope", "merge_time", "merge_server_time"):
        if fields.get(name) is not None and not is_integer(fields[name]):
            raise BadLineError("wrong_type")


def landed_merged(landing: Path, organization: int, accepted: frozenset[str]) -> OrganizationTruth:
    merged: list[MergedLine] = []
    quarantined: list[Quarantined] = []
    damaged: list[DamagedObject] = []
    for hour, name in objects_of(landing, -organization, ""):
        found = lines_of(landing, name, accepted)
        if found.damaged:
            damaged.append(DamagedObject(hour, name))
        for line, text in found.lines:
            try:
                fields = decode_line(text)
                check_merged(fields)
            except BadLineError as bad:
                quarantined.append(Quarantined(hour, name, line, bad.reason, text))
                continue
            pair = (int(fields["amplitude_id"]), int(fields["merged_amplitude_id"]))
            merged.append(MergedLine(hour, text, False, False, pair))
        for line, text in found.rest:
            quarantined.append(Quarantined(hour, name, line, "truncated", text))
    return OrganizationTruth(merged, quarantined, damaged)


def made_merged(truth: ProjectTruth) -> list[MergedLine]:
    merged: list[MergedLine] = []
    for event in sorted(truth.events, key=arrival):
        loser = event.fields.get("amplitude_id")
        winner = (event.fields.get("data") or {}).get("merged_amplitude_id")
        if loser is None or winner is None:
            continue
        time = event.upload_time
        for name in ("event_time", "client_event_time"):
            if event.fields.get(name) is not None:
                time = microseconds_of(event.fields[name])
                break
        text = (
            f'{{"scope":null,"merge_time":{time // 1000},"merge_server_time":{event.upload_time // 1000},'
            f'"amplitude_id":{digits_of(int(loser))},"merged_amplitude_id":{digits_of(int(winner))}}}'
        )
        merged.append(MergedLine(event.hour, text.encode("ascii"), True, False, (int(loser), int(winner))))
    return merged


def read_organization(
    landings: Sequence[Path],
    organization: int,
    projects: Sequence[tuple[OracleProject, ProjectTruth]],
    accepted: frozenset[str] = frozenset(),
    suppressed: Sequence[Suppressed] = (),
) -> OrganizationTruth:
    merged: list[MergedLine] = []
    quarantined: list[Quarantined] = []
    damaged: list[DamagedObject] = []
    for landing in dict.fromkeys(landings):
        landed = landed_merged(landing, organization, accepted)
        merged += landed.merged
        quarantined += landed.quarantined
        damaged += landed.damaged
    failed = {bad.hour for bad in damaged}
    for _, truth in sorted(projects, key=lambda one: one[0].id):
        merged += made_merged(truth)
        failed |= truth.failed_hours
    # The sort is stable: the lines of an hour stay landed ones first, then the made ones by project.
    merged = with_deleted_merges(sorted(merged, key=lambda line: line.hour), suppressed)
    window = max((project.window for project, _ in projects), default=timedelta(0))
    hours = -(-window // HOUR)

    told: list[MergedLine] = []
    before: dict[tuple[int, int], list[MergedLine]] = {}
    for line in merged:
        if line.deleted:
            # As if it had not landed: it is no repeat, and nothing is a repeat of it.
            told.append(line)
            continue
        same = before.setdefault(line.pair, [])
        repeat = False
        for earlier in same:
            near = line.hour - earlier.hour <= hours * HOUR
            if near and (line.made or not earlier.made):
                repeat = True
        same.append(line)
        told.append(replace(line, repeat=repeat))
    return OrganizationTruth(
        merged=told,
        quarantined=sorted(quarantined, key=lambda bad: bad.hour),
        damaged=sorted(damaged, key=lambda bad: bad.hour),
        failed_hours=frozenset(failed),
    )


# Parts


def cut_parts(lines: list[bytes], max_events: int | None, max_bytes: int | None) -> list[list[bytes]]:
    """The \\n of each line counts towards max_bytes, whether it stands in the line or is still to be added."""
    parts: list[list[bytes]] = []
    for line in lines:
        if parts:
            larger = [*parts[-1], line]
            too_many = max_events is not None and len(larger) > max_events
            too_large = max_bytes is not None and sum(len(one.removesuffix(b"\n")) + 1 for one in larger) > max_bytes
            if not too_many and not too_large:
                parts[-1].append(line)
                continue
        parts.append([line])
    return parts
