"""Amplitude's Export API: a range of hours, to the files of a zip on local disk, each of them checked.

Facts: amplitude-docs ``api/en/export.md`` and :mod:`amp_pipeline.core.export_api`.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from amp_pipeline.core import codec
from amp_pipeline.core.errors import DamagedObjectError
from amp_pipeline.core.export_api import EXPORT, NO_EVENTS, NOT_YET, Member, halves, member, parse_stamp, stamp
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import split
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_http import BrokenAnswerError, Http, SourceError

S3_EXPORT = "https://amplitude.com/docs/data/destination-catalog/amazon-s3"

_CHUNK_BYTES = 1 << 20


class TooLargeError(Exception):
    """The server refuses a range, or takes too long for it: fewer hours may do."""


@dataclass(frozen=True)
class File:
    """A file of an answer, which was unpacked once and found whole."""

    member: Member
    info: zipfile.ZipInfo
    """Where it is in the zip, in which a name may come twice."""
    bytes: int
    lines: int
    """Line ends, and a last line without one."""
    sha256: str
    content: str
    """Digest of the unpacked bytes."""


@dataclass(frozen=True)
class Answer:
    """What was pulled; empty where there are no events."""

    path: Path
    """Of the zip."""
    files: Sequence[File] = field(default_factory=list[File])
    not_yet: Hour | None = None
    """First hour of the range that the server does not have so far, where it says so; our own does."""

    def chunks(self, file: File) -> Iterator[bytes]:
        """Yield the bytes of a file of the answer, packed as it came."""
        with zipfile.ZipFile(self.path) as answer, answer.open(file.info) as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk


class ExportApi:
    """The Export API of one project."""

    def __init__(self, source: AmplitudeExport, project: int, http: Http) -> None:
        """Ask ``source`` by ``http``; answers must be of ``project``."""
        self._http = http
        self._own = source.url is not None
        self._project = project
        self.address = source.address

    def pull(self, hours: Sequence[Hour], folder: Path) -> Answer:
        """Return the events of consecutive ``hours``, after checking every file: CRC, gzip, names.

        Args:
            hours: Ascending, without a gap.
            folder: On local disk; gets a zip of the size of the answer.

        Raises:
            TooLargeError: Fewer hours may do.
            SourceError: There is no answer, or none that is whole.
        """
        path = folder / "answer.zip"
        wanted = frozenset(hours)

        def read(answer: requests.Response) -> Answer:
            if answer.status_code in (400, 504):
                text = self._http.explained(answer.text[:1000])
                raise TooLargeError(f"{answer.status_code}{f': {text}' if text else ''}")
            if answer.status_code == 404:
                self._refuse_other_servers(answer)
                return Answer(path, not_yet=_not_yet(answer))
            with path.open("wb") as file:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
            return Answer(path, self._files(path, wanted), _not_yet(answer))

        params = {"start": stamp(hours[0]), "end": stamp(hours[-1])}
        # Where fewer hours can't be asked for, 504 may be a bad moment: it is tried again.
        seen = {400, 404, 504} if halves(hours) else {400, 404}
        try:
            return self._http.read(EXPORT, read, params, seen=seen)
        except SourceError as error:
            if error.status == 504:
                raise TooLargeError(str(error)) from None
            raise

    def try_out(self) -> None:
        """Ask for an hour that has no events, which costs nothing.

        Raises:
            SourceError: The keys are wrong, or the server can't be reached.
        """
        params = {"start": stamp(NO_EVENTS), "end": stamp(NO_EVENTS)}
        # What a server thinks of that hour is no matter: it has let us in.
        with self._http.get(EXPORT, params, seen={400, 404, 504}) as answer:
            if answer.status_code == 404:
                self._refuse_other_servers(answer)

    def _refuse_other_servers(self, answer: requests.Response) -> None:
        """Tell "no events" from "no such page": else every hour of a wrong address would be delivered as empty."""
        kind = answer.headers.get("Content-Type", "")
        if self._own and "html" in kind.lower():
            raise SourceError(
                f"{self.address} is no Export API: it answers 404 with a page; check the source's url", "server", 404
            )

    def _files(self, path: Path, wanted: frozenset[Hour]) -> list[File]:
        try:
            with zipfile.ZipFile(path) as answer:
                infos = [info for info in answer.infolist() if not info.is_dir()]
                return [self._checked(answer, info, wanted) for info in infos]
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BrokenAnswerError(f"it is no whole zip: {error}") from None
        except (NotImplementedError, RuntimeError) as error:  # what zipfile says of packing it can't, and of passwords
            what = f"{self.address} answers with a zip that can't be unpacked: {error}"
            raise SourceError(what, "server", broke_off=True) from None

    def _checked(self, answer: zipfile.ZipFile, info: zipfile.ZipInfo, wanted: frozenset[Hour]) -> File:
        found = member(info.filename)
        if found is None or found.hour not in wanted:
            what = "is no name of events" if found is None else f"is of the hour {found.hour}, not asked for"
            told = f"{self.address} answers with a file {info.filename!r}, which {what}"
            raise SourceError(told, "server", broke_off=True)
        if found.project != self._project:
            raise SourceError(
                f"{self.address} answers with events of project {found.project}: the keys are of that project, and "
                f"this one says id {self._project}; correct the keys or the id",
                "credentials",
            )
        digest, content = hashlib.sha256(), hashlib.sha256()
        size = lines = 0
        ended = True

        def packed() -> Iterator[bytes]:
            nonlocal size
            with answer.open(info) as opened:
                while chunk := opened.read(_CHUNK_BYTES):
                    size += len(chunk)
                    digest.update(chunk)
                    yield chunk

        try:
            for block in codec.unpack(packed(), info.filename):
                content.update(block)
                lines += block.count(b"\n")
                ended = block.endswith(b"\n")
        except DamagedObjectError as error:
            raise BrokenAnswerError(f"a file of it is damaged: {error}") from None
        return File(found, info, size, lines + (not ended), digest.hexdigest(), content.hexdigest())


def _not_yet(answer: requests.Response) -> Hour | None:
    told = answer.headers.get(NOT_YET)
    return None if told is None else parse_stamp(told)


def lines_of(answer: Answer, file: File) -> Iterator[bytes]:
    """Yield the lines of a file of an answer."""
    for block in split(codec.unpack(answer.chunks(file), file.info.filename)):
        yield from block.lines
