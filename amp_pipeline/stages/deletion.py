"""Taking deleted users out of what an hour leaves in the workspace: while it is written, and where it lies already.

What lies already is rewritten from itself: an hour whose landing is gone, or can't be read, is cleaned like any other.
Whatever is read here again gives the same once it is clean, so who is killed in between is followed by the next run.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from amp_pipeline.core import codec, deleted, merged_ids
from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import block_of, split_stored
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.core.telling import Rules, Teller
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import Input, RawRecord
from amp_pipeline.workspace.store import HourStore, ProjectStore, sha256

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class HourDeletion:
    """What the list takes out of an hour's lines while they are told apart."""

    def __init__(self, suppressed: Suppressed, hour: Hour, rules: Callable[[Hour], Rules]) -> None:
        """Look in the list for events of ``hour`` and strays to others; ``rules`` are those of an hour's events."""
        self._all = suppressed
        self._here = suppressed.at(hour)
        self._rules = rules
        self._teller = Teller()

    def takes_bad_line(self, line: bytes) -> bool:
        """Tell whether a line of the hour's objects that is no event is left out of the quarantine."""
        return bool(self._here) and self._here.of_bad_line(line) is not None

    def takes_merge(self, record: bytes) -> bool:
        """Tell whether a merged id made from an event of the hour is left out."""
        return bool(self._here) and self._here.of_merge(*merged_ids.read_made(record).pair) is not None

    def stray(self, target: Hour, number: int, line: bytes) -> bytes:
        """Return what the file of strays to ``target`` holds of a line: itself, or what stays of it."""
        to = self._all.at(target)
        for by in to.find(block_of([line])).values():
            return self._line(target, number, deleted.deleted_event(self._teller, line, by, self._rules(target)))
        return b"%d\t%s" % (number, line)

    def stored_stray(self, target: Hour, text: bytes) -> bytes:
        """Return what a line of a file of strays is to be."""
        number, tab, line = text.partition(b"\t")
        if not tab:
            return text
        if number.startswith(b"-"):
            return self._line(target, -int(number), deleted.decode(line))
        return self.stray(target, int(number), line)

    def _line(self, target: Hour, number: int, event: deleted.DeletedEvent) -> bytes:
        made = event.made.encode()
        if made and self._all.at(target).of_merge(*merged_ids.read_made(made).pair) is not None:
            event = msgspec.structs.replace(event, made="", made_deleted=True)
        # No landed line has such a number.
        return b"-%d\t%s" % (number, deleted.encode(event))


class RawDeletion:
    """Takes deleted users out of what the hours of a project have landed."""

    def __init__(
        self,
        workspace: ProjectStore,
        suppressed: Suppressed,
        rules: Callable[[Hour], Rules],
        forget: Callable[[Hour], None],
    ) -> None:
        """Clean ``workspace`` of ``suppressed``.

        Args:
            workspace: Of the project.
            suppressed: Its list.
            rules: What events of an hour have to be.
            forget: Is given an hour whose files of strays are others now.
        """
        self._workspace = workspace
        self._suppressed = suppressed
        self._rules = rules
        self._forget = forget

    def of(self, hour: Hour) -> HourDeletion:
        """Return what the list takes out of an hour that is read."""
        return HourDeletion(self._suppressed, hour, self._rules)

    def fingerprint(self, hour: Hour, strays_to: Iterable[str]) -> str:
        """Return the fingerprint of the part of the list that concerns what ``hour`` has landed, strays too."""
        return self._suppressed.at(min([hour, *map(Hour.parse, strays_to)])).fingerprint

    def without_deleted(self, hour: Hour, record: RawRecord) -> RawRecord:
        """Clean what the workspace holds of a recorded hour, key index and rows aside.

        Those hold digests alone; without the keys of deleted events, other events would be repeats no more.
        """
        wanted = self.fingerprint(hour, record.strays_out)
        if record.suppressions == wanted:
            return record
        taken = self.of(hour)
        clean_quarantine(self._workspace, "quarantine", hour, self._suppressed.at(hour))
        for file in self._workspace.strays_from(hour):
            self._clean_strays(file, taken)
        if record.made_merges:
            record = self._clean_made_merges(hour, record, taken)
        self.remove_other_merges(hour, record)
        # Last: whoever is killed before this is followed by a run that does it all again.
        record = msgspec.structs.replace(record, suppressions=wanted)
        self._workspace.save("raw", hour, record)
        return record

    def remove_other_merges(self, hour: Hour, record: RawRecord) -> None:
        """Remove merged ids made from events but those of ``record``."""
        merges = self._workspace.data_name("made_merges", hour, record.made_merges, ".json.gz")
        self._workspace.remove_other_data("made_merges", hour, [merges] if record.made_merges else [])

    def with_cleaned_strays(self, hour: Hour, record: RawRecord, inputs: Iterable[ObjectInfo]) -> RawRecord:
        """Return the record with its files of strays as they are now, where nothing but deleted events changed."""
        if not any(item.without_deleted for item in record.inputs):
            return record
        now = {info.name: info for info in inputs}
        items: list[Input] = []
        for item in record.inputs:
            info = now.get(item.stray_file) if item.without_deleted else None
            if info is not None and (info.size, info.version) != (item.size, item.version):
                digest = sha256(self._workspace.store.get(item.stray_file))
                if digest in (item.sha256, *item.without_deleted):
                    item = msgspec.structs.replace(item, size=info.size, version=info.version)
            items.append(item)
        if items != record.inputs:
            record = msgspec.structs.replace(record, inputs=items)
            self._workspace.save("raw", hour, record)
        return record

    def _clean_strays(self, file: str, taken: HourDeletion) -> None:
        """Clean a file of strays, after telling the hour that has read it, which has to stand as it is."""
        target = self._workspace.hour_of_strays(file)
        try:
            part = _cleaned_strays(self._workspace.store, file, target, taken)
        except ObjectNotFoundError:
            # Planned by a run that was killed.
            return
        if part is None:
            return
        if record := self._workspace.raw(target):
            inputs = [
                msgspec.structs.replace(item, without_deleted=[*item.without_deleted, part.sha256])
                if item.stray_file == file and part.sha256 not in item.without_deleted
                else item
                for item in record.inputs
            ]
            self._workspace.save("raw", target, msgspec.structs.replace(record, inputs=inputs))
        self._workspace.store.put_chunks(file, part.chunks())
        self._forget(target)

    def _clean_made_merges(self, hour: Hour, record: RawRecord, taken: HourDeletion) -> RawRecord:
        name = self._workspace.data_name("made_merges", hour, record.made_merges, ".json.gz")
        lines = list(_stored_lines(self._workspace.store, name))
        kept = [line for line in lines if not taken.takes_merge(line)]
        if len(kept) == len(lines):
            return record
        part = codec.pack_one(kept)
        digest = self._workspace.put_data("made_merges", hour, part.data, ".json.gz") if part else ""
        made_deleted = record.made_deleted + len(lines) - len(kept)
        known = [*record.made_before, record.made_merges]
        record = msgspec.structs.replace(record, made_merges=digest, made_deleted=made_deleted, made_before=known)
        self._workspace.save("raw", hour, record)
        return record


def clean_quarantine(workspace: HourStore, kind: str, hour: Hour, suppressed: Suppressed) -> bool:
    """Leave deleted users out of a quarantine report that lies in the workspace; tell whether any was in it."""

    def cleaned(entry: dict[str, Any]) -> dict[str, Any] | None:
        line = entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])
        return None if suppressed.of_bad_line(line) is not None else entry

    return _clean_report(workspace, kind, hour, cleaned)


def clean_repeats(workspace: HourStore, hour: Hour, suppressed: Suppressed) -> bool:
    """Take what deleted users did out of a repeats report; tell whether any was in it."""

    def cleaned(entry: dict[str, Any]) -> dict[str, Any] | None:
        by = None if "deleted" in entry else suppressed.of_event(entry["text"].encode())
        return entry if by is None else deleted_repeat(entry)

    return _clean_report(workspace, "repeats", hour, cleaned)


def deleted_repeat(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what stays in the report of a repeat that is deleted: where it stood, and that it was one."""
    return {**{name: entry[name] for name in ("row", "object", "line", "first_seen", "conflict")}, "deleted": True}


def _clean_report(
    workspace: HourStore,
    kind: str,
    hour: Hour,
    cleaned: Callable[[dict[str, Any]], dict[str, Any] | None],
) -> bool:
    packer = codec.LinePacker()
    changed = False
    for line in workspace.report_lines(kind, hour):
        entry = _decode(line)
        after = cleaned(entry)
        changed |= after != entry
        if after is not None:
            packer.add(line if after == entry else _encode(after))
    if changed:
        workspace.put_report(kind, hour, packer)
    return changed


def _cleaned_strays(store: ObjectStore, file: str, target: Hour, deletion: HourDeletion) -> codec.Part | None:
    """Return a file of strays without what deleted users did; None where there is nothing of them in it."""
    packer = codec.LinePacker()
    changed = False
    for text in _stored_lines(store, file):
        after = deletion.stored_stray(target, text)
        changed |= after != text
        packer.add(after)
    part = packer.finish()
    return part if changed else None


def _stored_lines(store: ObjectStore, name: str) -> Iterator[bytes]:
    for block in split_stored(codec.unpack(store.chunks(name), name)):
        yield from block.lines
