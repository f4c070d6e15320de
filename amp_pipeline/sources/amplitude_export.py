"""Amplitude's Export API: a range of hours, to the files of a zip on local disk, each of them checked.

Facts: amplitude-docs ``api/en/export.md`` and :mod:`amp_pipeline.core.export_api`.
"""

from __future__ import annotations

import errno
import hashlib
import zipfile
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
from amp_pipeline.sources import answer_zip
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.sources.answer_body import BrokenAnswerError, TooLongError

S3_EXPORT = "https://amplitude.com/docs/data/destination-catalog/amazon-s3"

_CHUNK_BYTES = 1 << 20
_BEGINNING_BYTES = 64 << 10

MOST_BYTES = 8 << 30
"""Of an answer, and of the files in it: twice what Amplitude gives. ``serve export --limit`` may give more at once."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class TooLargeError(Exception):
    """The server refuses a range, or takes too long for it: fewer hours may do."""


class NoRoomError(TooLargeError):
    """Local disk has no room for an answer; the message is for people."""


class OtherProjectError(SourceError):
    """The keys are of another project: what has no events there says nothing of this one."""

    def __init__(self, address: str, found: Member, project: int) -> None:
        """Say so of ``found``, a file of an answer of ``address``, where ``project`` was wanted."""
        super().__init__(
            f"{address} answers with events of project {found.project}: the keys are of that project, and this one "
            f"says id {project}; correct the keys or the id",
            "credentials",
        )
        self.hour = found.hour
        """Who asks for it sees whether it is still so."""


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
        self._may_be_another = source.url is not None
        """Whether nothing has shown so far that the address is that of an Export API."""
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
                text = self._http.said(answer)
                raise TooLargeError(f"{answer.status_code}{f': {text}' if text else ''}")
            if answer.status_code == 404:
                self._refuse_other_servers(answer)
                return Answer(path, not_yet=_not_yet(answer))
            not_yet = _not_yet(answer)
            self._keep(answer, path)
            if "html" in _kind(answer) and not zipfile.is_zipfile(path):
                raise BrokenAnswerError(f"it {_no_zip(answer)}")
            found = self._files(path, wanted)
            self._may_be_another = False
            return Answer(path, found, not_yet)

        params = {"start": stamp(hours[0]), "end": stamp(hours[-1])}
        # Where fewer hours can't be asked for, 504 may be a bad moment: it is tried again.
        seen = {400, 404, 504} if halves(hours) else {400, 404}
        try:
            return self._http.read(EXPORT, read, params, seen=seen)
        except SourceError as error:
            if error.status == 504:
                raise TooLargeError(str(error)) from None
            raise

    def try_out(self, hour: Hour = NO_EVENTS) -> None:
        """Ask for an hour: for one that has no events, which costs nothing, or for one that told of another project.

        Raises:
            SourceError: The keys are wrong, or the server can't be reached.
        """
        params = {"start": stamp(hour), "end": stamp(hour)}
        # What a server thinks of that hour is no matter: it has let us in.
        with self._http.get(EXPORT, params, seen={400, 404, 504}) as answer:
            if answer.status_code == 404:
                self._refuse_other_servers(answer)
            elif answer.ok:
                data = self._http.beginning(answer, _BEGINNING_BYTES)
                if not data.startswith(b"PK"):
                    raise SourceError(f"{self.address} {_no_zip(answer)}", "server", answer.status_code)
                self._refuse_other_projects(member(answer_zip.first_file(data) or ""))

    def _refuse_other_servers(self, answer: requests.Response) -> None:
        """Tell "no events" from "no such page": else every hour of a wrong address would be delivered as empty."""
        if not self._may_be_another:
            return
        is_page = "html" in _kind(answer)
        if is_page or self._knows_no_export():
            answered = "with a page" if is_page else "whatever it is asked"
            raise SourceError(
                f"{self.address} is no Export API: it answers 404 {answered}; check the source's url, which is the "
                "server's address up to its /api",
                "server",
                404,
            )
        self._may_be_another = False

    def _knows_no_export(self) -> bool:
        """Ask for no hours at all: an Export API wants to know which, and where there is none it is 404 again."""
        with self._http.get(EXPORT, seen={400, 404, 422, 500}) as answer:
            return answer.status_code == 404

    def _refuse_other_projects(self, found: Member | None) -> None:
        if found is not None and found.project != self._project:
            raise OtherProjectError(self.address, found, self._project)

    def _keep(self, answer: requests.Response, path: Path) -> None:
        try:
            with path.open("wb") as file:
                for chunk in self._http.chunks(answer, MOST_BYTES):
                    file.write(chunk)
        except TooLongError as error:
            raise TooLargeError(str(error)) from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise NoRoomError(
                f"there is no room for the answer of {self.address} in {path.parent.parent} ({error.strerror}); make "
                "some, or let TMPDIR name another folder"
            ) from None

    def _files(self, path: Path, wanted: frozenset[Hour]) -> list[File]:
        try:
            with answer_zip.explained(), answer_zip.opened(path) as answer:
                infos = answer_zip.files(answer)
                if sum(info.file_size for info in infos) > MOST_BYTES:
                    raise TooLargeError(f"files of more than {MOST_BYTES:,} bytes")
                unpacked = answer_zip.Unpacked()
                return [self._checked(answer, info, wanted, unpacked) for info in infos]
        except answer_zip.UnreadableZipError as error:
            what = f"{self.address} answers with a zip that can't be unpacked: {error}"
            raise SourceError(what, "server", broke_off=True) from None
        except answer_zip.UnpacksToTooMuchError as error:
            what = f"{self.address} answers with files that unpack to {error}: no events do"
            raise SourceError(what, "server", broke_off=True) from None

    def _checked(
        self, answer: zipfile.ZipFile, info: zipfile.ZipInfo, wanted: frozenset[Hour], unpacked: answer_zip.Unpacked
    ) -> File:
        found = member(info.filename)
        if found is None or found.hour not in wanted:
            what = "is no name of events" if found is None else f"is of the hour {found.hour}, not asked for"
            told = f"{self.address} answers with a file {info.filename!r}, which {what}"
            raise SourceError(told, "server", broke_off=True)
        self._refuse_other_projects(found)
        digest, content = hashlib.sha256(), hashlib.sha256()
        size = lines = 0
        ended = True

        def packed() -> Iterator[bytes]:
            nonlocal size
            with answer.open(info) as opened:
                while chunk := opened.read(_CHUNK_BYTES):
                    size += len(chunk)
                    unpacked.packed += len(chunk)
                    digest.update(chunk)
                    yield chunk

        try:
            for block in codec.unpack(packed(), info.filename):
                content.update(block)
                unpacked.add(len(block))
                lines += block.count(b"\n")
                ended = block.endswith(b"\n")
        except DamagedObjectError as error:
            raise BrokenAnswerError(f"a file of it is damaged: {error}") from None
        return File(found, info, size, lines + (not ended), digest.hexdigest(), content.hexdigest())


def _kind(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "").lower()


def _no_zip(answer: requests.Response) -> str:
    kind = "a page of HTML" if "html" in _kind(answer) else "something else"
    return f"answers {answer.status_code} with {kind} in place of a zip: the login of a proxy, or a notice?"


def _not_yet(answer: requests.Response) -> Hour | None:
    told = answer.headers.get(NOT_YET)
    try:
        return None if told is None else parse_stamp(told)
    except ValueError:
        raise BrokenAnswerError(f"its header {NOT_YET} names no hour") from None


def lines_of(answer: Answer, file: File) -> Iterator[bytes]:
    """Yield the lines of a file of an answer."""
    for block in split(codec.unpack(answer.chunks(file), file.info.filename)):
        yield from block.lines
