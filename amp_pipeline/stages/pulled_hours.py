"""The hours that were pulled, as they lie in the workspace: objects named as Amplitude names them, and a receipt each.

An hour is there once its receipt is written, after all its objects. What is pulled again only adds to what is there:
lines that it has already are left out, and names that are taken stay as they are. One run at a time writes an hour:
another would overwrite its objects, or take them for what a killed run left.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from amp_pipeline.core import codec
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.lines import Block, left_out, split
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.sources.amplitude_export import Answer, File, lines_of
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.pulls import Pulled, Receipt, read_receipt, write_receipt

PATIENCE_SECONDS = 60.0
"""How long a run waits for another that writes the same hour."""


class PulledHours:
    """The landing that hours of a project are pulled into."""

    def __init__(self, store: ObjectStore, project: int, now: Callable[[], datetime]) -> None:
        """Keep them in ``store``; ``now`` tells people since when an hour is being written."""
        self._store = store
        self._names = ArchiveNames(0, project, "")
        self._now = now

    def is_there(self, hour: Hour) -> bool:
        """Tell whether an hour was pulled whole."""
        return self._store.head(self.receipt_name(hour)) is not None

    def receipt(self, hour: Hour) -> Receipt | None:
        """Return what was pulled of an hour, None where nothing was.

        Raises:
            WorkspaceError: It can't be read.
        """
        return read_receipt(self._store, self.receipt_name(hour))

    def receipt_name(self, hour: Hour) -> str:
        """Return the name of an hour's receipt, which is its complete marker."""
        return self._names.complete_marker(hour)

    def sizes(self, hour: Hour) -> list[int]:
        """Return the packed bytes of each hour of the same day that has any."""
        prefix = self._names.events_prefix(hour).rpartition("_")[0]
        sizes: dict[str, int] = {}
        for info in self._store.find(f"{prefix}_"):
            name, number, _ = info.name.partition("#")
            if number:
                sizes[name] = sizes.get(name, 0) + info.size
        return list(sizes.values())

    def objects(self, hour: Hour) -> list[str]:
        """Return the names of all objects of an hour, of one that was not pulled whole as well."""
        return sorted(self._there(hour))

    def drop(self, hour: Hour, concerns: Callable[[Block], bool]) -> bool:
        """Remove what was pulled of an hour where something ``concerns`` whoever asks; tell whether that was done.

        The receipt goes first: without it the hour counts as not landed, whenever this is killed.

        Raises:
            DeliveryError: Another run is writing the hour.
        """
        with self._claimed(hour):
            names = self.objects(hour)
            blocks = (block for name in names for block in split(codec.unpack(self._store.chunks(name), name)))
            if not any(concerns(block) for block in blocks):
                return False
            self._store.delete(self.receipt_name(hour))
            for name in names:
                self._store.delete(name)
            return True

    def take(self, hour: Hour, answer: Answer) -> None:
        """Put what came of an hour where the landing is, and then its receipt.

        Raises:
            DeliveryError: Another run is writing the hour.
        """
        files = sorted((file for file in answer.files if file.member.hour == hour), key=lambda file: file.member.number)
        with self._claimed(hour) as claim:
            before = self.receipt(hour)
            if before is None:
                objects = self._put_first(hour, answer, files, claim)
            else:
                objects = self._put_more(hour, answer, files, before, claim)
            if before is None or objects != before.objects:
                write_receipt(self._store, self.receipt_name(hour), Receipt(hour=hour.key, objects=objects))

    @contextmanager
    def _claimed(self, hour: Hour) -> Iterator[Claim]:
        """Be the only one that writes an hour; wait a while for who is at it."""
        what = f"what is pulled of hour {hour} into {self._store.url}"
        name = f"{self.receipt_name(hour)}.claim"
        claim = Claim(self._store, name, what, f"of process {os.getpid()}", f"{self._now():%Y-%m-%dT%H:%M:%SZ}")
        with claim.waited_for(PATIENCE_SECONDS):
            yield claim

    def _put_first(self, hour: Hour, answer: Answer, files: Sequence[File], claim: Claim) -> list[Pulled]:
        taken: set[str] = set()
        objects = [self._put(answer, file, self._free_name(hour, file, taken), claim) for file in files]
        # What a run that was killed left, and the source has cut in another way since.
        for name in self._there(hour) - taken:
            self._store.delete(name)
        return objects

    def _put_more(
        self, hour: Hour, answer: Answer, files: Sequence[File], before: Receipt, claim: Claim
    ) -> list[Pulled]:
        """Add what is new. Who asked twice gets mostly the same files, which are known by their content."""
        objects = [one for one in before.objects if self._is_as_pulled(one)]
        # What was added by a run that was killed before it could write the receipt.
        added = self._there(hour) - {one.name for one in before.objects}
        objects += [self._found(name) for name in sorted(added)]
        known = {one.content for one in objects}
        new = [file for file in files if file.content not in known]
        if not new:
            return objects
        taken = self._there(hour)
        damaged = {one.name for one in before.objects} - {one.name for one in objects}
        taken -= damaged
        lines = self._digests(objects)
        for file in new:
            claim.renew()
            part, whole = self._new_lines(answer, file, lines)
            if part.rows or whole:
                name = self._free_name(hour, file, taken)
                objects.append(self._put(answer, file, name, claim) if whole else self._put_part(part, name))
        for name in damaged - taken:
            self._store.delete(name)
        return objects

    def _new_lines(self, answer: Answer, file: File, known: set[bytes]) -> tuple[codec.Part, bool]:
        """Return the lines of a file that are not ``known``, which they are then; whether that is all of it."""
        packer = codec.LinePacker()
        found: set[bytes] = set()
        whole = True
        too_long = False
        for line in lines_of(answer, file):
            too_long = too_long or bool(left_out(line))
            digest = _digest(line)
            if digest in known:
                whole = False
            else:
                found.add(digest)
                packer.add(line)
        known |= found
        # Of a line that is too long nothing but the file itself has all.
        return packer.finish(), whole or (too_long and bool(found))

    def _found(self, name: str) -> Pulled:
        digest, content = hashlib.sha256(), hashlib.sha256()
        size = lines = 0

        def packed() -> Iterator[bytes]:
            nonlocal size
            for chunk in self._store.chunks(name):
                size += len(chunk)
                digest.update(chunk)
                yield chunk

        for block in codec.unpack(packed(), name):
            content.update(block)
            lines += block.count(b"\n")
        return Pulled(name=name, bytes=size, lines=lines, sha256=digest.hexdigest(), content=content.hexdigest())

    def _put_part(self, part: codec.Part, name: str) -> Pulled:
        content = hashlib.sha256()
        for block in codec.unpack(part.chunks(), name):
            content.update(block)
        self._store.put_chunks(name, part.chunks())
        return Pulled(name=name, bytes=part.bytes, lines=part.rows, sha256=part.sha256, content=content.hexdigest())

    def _digests(self, objects: Iterable[Pulled]) -> set[bytes]:
        """Return digests of all lines of what was pulled, about 100 bytes of memory for each."""
        return {
            _digest(line)
            for one in objects
            for block in split(codec.unpack(self._store.chunks(one.name), one.name))
            for line in block.lines
        }

    def _is_as_pulled(self, one: Pulled) -> bool:
        if self._store.head(one.name) is None:
            return False
        found = hashlib.sha256()
        for chunk in self._store.chunks(one.name):
            found.update(chunk)
        return found.hexdigest() == one.sha256

    def _put(self, answer: Answer, file: File, name: str, claim: Claim) -> Pulled:
        claim.renew()
        self._store.put_chunks(name, claim.renewed(answer.chunks(file)))
        return Pulled(name=name, bytes=file.bytes, lines=file.lines, sha256=file.sha256, content=file.content)

    def _free_name(self, hour: Hour, file: File, taken: set[str]) -> str:
        """Return the name of an object of the hour: the file's own number where nothing has it yet."""
        number = file.member.number
        while (name := f"{self._names.events_prefix(hour)}{number}.json{file.member.ending}") in taken:
            number += 1
        taken.add(name)
        return name

    def _there(self, hour: Hour) -> set[str]:
        return {info.name for info in self._store.find(self._names.events_prefix(hour))}


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
