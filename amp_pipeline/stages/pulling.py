"""Pulling hours from an API into the workspace, where they lie as in a landing; neighbours together, where safe.

An hour is there once its receipt is written, after all its objects. What is pulled again only adds to what is there:
lines that it has already are left out, and names that are taken stay as they are, so that whoever asks twice changes
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from amp_pipeline.config import Project
from amp_pipeline.core import codec
from amp_pipeline.core.errors import AmpError, LandingError
from amp_pipeline.core.export_api import halves, together
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.lines import Block, left_out, split
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_export import S3_EXPORT, Answer, ExportApi, File, TooLargeError, lines_of
from amp_pipeline.sources.amplitude_http import SourceError
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.workspace.pulls import Pulled, Receipt, Trouble, TroubleStore, read_receipt, write_receipt

MOST_HOURS = 24
"""Of one request."""

_SAFE_BYTES = 1 << 30
"""Packed, of one request, as far as can be told before: a quarter of what Amplitude refuses to give."""


class Pulling:
    """The hours of one project, pulled as they are needed."""

    def __init__(
        self,
        project: Project,
        source: AmplitudeExport,
        store: ObjectStore,
        troubles: TroubleStore,
        api: ExportApi,
        now: Callable[[], datetime],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Pull hours of ``project``.

        Args:
            project: Whose hours.
            source: Where from.
            store: Gets the objects, as a landing.
            troubles: Is told what keeps the source from answering.
            api: Answers.
            now: Tells the time, aware.
            tell: Is told what is asked, and what came.
        """
        self._project = project
        self._source = source
        self._store = store
        self._troubles = troubles
        self._api = api
        self._now = now
        self._tell = tell
        self._names = ArchiveNames(0, project.id, "")
        self._expected: frozenset[Hour] = frozenset()
        self._most = MOST_HOURS
        self._pulled: dict[Hour, bool] = {}
        self._again: set[Hour] = set()
        self._failed: dict[Hour, AmpError] = {}

    def expect(self, hours: Iterable[Hour]) -> None:
        """Let neighbours of an hour that is pulled be pulled with it, where they are among ``hours``."""
        self._expected = frozenset(hours)

    def is_pulled(self, hour: Hour) -> bool:
        """Tell whether an hour was pulled whole."""
        if not self._pulled.get(hour):
            self._pulled[hour] = self._store.head(self.receipt_name(hour)) is not None
        return self._pulled[hour]

    def receipt(self, hour: Hour) -> Receipt | None:
        """Return what was pulled of an hour, None where nothing was.

        Raises:
            WorkspaceError: It can't be read.
        """
        return read_receipt(self._store, self.receipt_name(hour))

    def receipt_name(self, hour: Hour) -> str:
        """Return the name of an hour's receipt, which is its complete marker."""
        return self._names.complete_marker(hour)

    def pull(self, hour: Hour, *, again: bool = False) -> bool:
        """Pull an hour, and with it neighbours that are expected and not there; tell whether anything was asked for.

        Args:
            hour: Of the project.
            again: Ask for it even if it was pulled, and add what is new. Once in a run.

        Raises:
            LandingError: The source does not have it yet, or can't give it.
            SourceError: The source does not answer.
        """
        if self.is_pulled(hour) and (not again or hour in self._again):
            return False
        if hour in self._failed:
            raise self._failed[hour]
        if not self._is_there(hour):
            there = self._source.there_at(hour)
            raise LandingError(f"{self._api.address} has all of hour {hour} from {there:%Y-%m-%d %H:%M} UTC on")
        wanted = {
            one
            for one in self._expected
            if (again or not self.is_pulled(one)) and one not in self._again | self._failed.keys()
            if self._is_there(one)
        }
        hours = [one for one in together(hour, wanted, self._at_once(hour)) if self._is_there(one)]
        self._pull(hours)
        if hour in self._failed:
            raise self._failed[hour]
        return True

    def objects(self, hour: Hour) -> list[str]:
        """Return the names of all objects of an hour, of one that was not pulled whole as well."""
        return sorted(self._there(hour))

    def drop(self, hour: Hour, concerns: Callable[[Block], bool]) -> bool:
        """Remove what was pulled of an hour where something ``concerns`` whoever asks; tell whether that was done.

        The receipt goes first: without it the hour counts as not landed, whenever this is killed.
        """
        names = self.objects(hour)
        if not any(concerns(block) for name in names for block in split(codec.unpack(self._store.chunks(name), name))):
            return False
        self._store.delete(self.receipt_name(hour))
        self._pulled.pop(hour, None)
        for name in names:
            self._store.delete(name)
        return True

    def _is_there(self, hour: Hour) -> bool:
        return self._now() >= self._source.there_at(hour)

    def _at_once(self, hour: Hour) -> int:
        """Return how many hours to ask for, by what the day before has."""
        prefix = self._names.events_prefix(hour + -24).rpartition("_")[0]
        sizes: dict[str, int] = {}
        for info in self._store.find(f"{prefix}_"):
            name, number, _ = info.name.partition("#")
            if number:
                sizes[name] = sizes.get(name, 0) + info.size
        largest = max(sizes.values(), default=0)
        return max(1, min(self._most, _SAFE_BYTES // largest if largest else MOST_HOURS))

    def _pull(self, hours: Sequence[Hour]) -> None:
        """Pull a range, in halves where it is too large; hours that can't be had are noted with the reason."""
        try:
            asked = str(hours[0]) if len(hours) == 1 else f"{hours[0]} to {hours[-1]}"
            self._tell(f"asking {self._api.address} for {asked}")
            with scratch() as folder:
                answer = self._api.pull(hours, folder)
                size = sum(file.bytes for file in answer.files)
                self._tell(f"{asked}: {sum(file.lines for file in answer.files)} lines, {size / 1e6:.1f} MB packed")
                self._troubles_end()
                for hour in hours:
                    self._take(hour, answer)
        except TooLargeError as error:
            self._tell(f"too large, or too slow ({error})")
            smaller = halves(hours)
            if smaller:
                self._most = len(smaller[0])
                for half in smaller:
                    self._pull(half)
                return
            what = "the hour" if len(hours) == 1 else "the day"
            self._fail(hours, LandingError(self._too_large(what, hours[0], error)))
        except SourceError as error:
            self._fail(hours, error)
            self._remember(error)
        except AmpError as error:
            self._fail([hour for hour in hours if hour not in self._again], error)

    def _too_large(self, what: str, hour: Hour, error: TooLargeError) -> str:
        return (
            f"{self._api.address} can't give {what} {hour} ({error}): more than 4 GB, or more than it packs in time, "
            "and there is no smaller range to ask for. Let Amplitude deliver it by its S3 export "
            f"({S3_EXPORT}), and name that bucket as a source of type landing"
        )

    def _fail(self, hours: Iterable[Hour], error: AmpError) -> None:
        self._failed |= dict.fromkeys(hours, error)

    def _take(self, hour: Hour, answer: Answer) -> None:
        """Put what came of an hour where the landing is, and then its receipt."""
        files = sorted((file for file in answer.files if file.member.hour == hour), key=lambda file: file.member.number)
        before = self.receipt(hour)
        if before is None:
            objects = self._put_first(hour, answer, files)
        else:
            objects = self._put_more(hour, answer, files, before)
        if before is None or objects != before.objects:
            write_receipt(self._store, self.receipt_name(hour), Receipt(hour=hour.key, objects=objects))
        self._pulled[hour] = True
        self._again.add(hour)

    def _put_first(self, hour: Hour, answer: Answer, files: Sequence[File]) -> list[Pulled]:
        taken: set[str] = set()
        objects = [self._put(answer, file, self._free_name(hour, file, taken)) for file in files]
        # What a run that was killed left, and the source has cut in another way since.
        for name in self._there(hour) - taken:
            self._store.delete(name)
        return objects

    def _put_more(self, hour: Hour, answer: Answer, files: Sequence[File], before: Receipt) -> list[Pulled]:
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
            part, whole = self._new_lines(answer, file, lines)
            if part.rows or whole:
                name = self._free_name(hour, file, taken)
                objects.append(self._put(answer, file, name) if whole else self._put_part(part, name))
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

    def _put(self, answer: Answer, file: File, name: str) -> Pulled:
        self._store.put_chunks(name, answer.chunks(file))
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

    def _remember(self, error: SourceError) -> None:
        """Keep what is wrong with the source as a whole, for the sensor that asks for hours and tells people."""
        at = self._now().timestamp()
        known = self._troubles.load()
        since = known.since if known is not None and known.kind == error.kind else at
        self._troubles.save(trouble_of(error, since, at))

    def _troubles_end(self) -> None:
        if self._troubles.load() is not None:
            self._troubles.save(None)


def trouble_of(error: SourceError, since: float, at: float) -> Trouble:
    """Return what to remember of a source that does not answer; times in seconds since 1970."""
    return Trouble(kind=error.kind, summary=str(error), advice=ADVICE[error.kind], since=since, tried=at)


ADVICE = {
    "credentials": "Nothing is pulled until the keys are right; what is missing is caught up then, and what was "
    "delivered stays. Set api_key, secret_key and region of the source anew.",
    "network": "Nothing is pulled until it can be reached; what is missing is caught up then. Check the network and "
    "the proxy of this machine.",
    "throttled": "Nothing is pulled until it answers again; what is missing is caught up then. Others may use the same "
    "keys: pull less often by the source's `every`.",
    "server": "Nothing is pulled until it answers again; what is missing is caught up then.",
}


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
