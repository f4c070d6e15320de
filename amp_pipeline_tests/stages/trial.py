"""One small organization over stores in memory, for tests of sources, stages and destinations."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from amp_pipeline.buckets import S3
from amp_pipeline.core.codec import unpack
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import split
from amp_pipeline.destinations.archive import By, Receipt
from amp_pipeline.run import OrganizationRun, ProjectRun
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.workspace.records import DedupedRecord, MergedRecord, RawRecord
from amp_pipeline_tests import builders

ZERO = builders.FIRST_HOUR
ONE = ZERO + 1
TWO = ZERO + 2
BUCKET = "/trial/bucket"
BY = By(run="run", at="2024-05-07T00:00:00+00:00", version="1")


class NotingStore(MemoryStore):
    """Notes which objects are read, written and deleted; claims come and go without a note."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []
        self.written: list[str] = []
        self.deleted: list[str] = []

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        self.read.append(name)
        return super().chunks(name)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        self.read.append(name)
        return super().read_range(name, start, length)

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        if not name.endswith(".claim"):
            self.written.append(name)
        super().put_chunks(name, chunks)

    @override
    def delete(self, name: str) -> None:
        if self.head(name) and not name.endswith(".claim"):
            self.deleted.append(name)
        super().delete(name)

    def forget_notes(self) -> None:
        for notes in (self.read, self.written, self.deleted):
            notes.clear()

    def names(self, prefix: str = "") -> list[str]:
        return [info.name for info in self.find(prefix)]

    def lines(self, name: str) -> list[bytes]:
        return [line for found in split(unpack([self.get(name)], name)) for line in found.lines]


class Trial:
    """The organization 9 (house) with the project 7 (shop7) and one delivery, unless told otherwise."""

    def __init__(self, *projects: dict[str, Any]) -> None:
        self.stores: dict[str, NotingStore] = {}
        self.set(*projects)

    def set(self, *projects: dict[str, Any]) -> None:
        """Set the projects anew."""
        given = [{"deliveries": [delivery()], **one} for one in projects or ({},)]
        self.organization = builders.organization(Path("/trial"), Path("/trial/landing"), projects=given)

    def open_store(self, url: str, s3: S3 | None = None) -> NotingStore:
        return self.stores.setdefault(url, NotingStore(url))

    @property
    def landing(self) -> NotingStore:
        return self.open_store("/trial/landing")

    @property
    def workspace(self) -> NotingStore:
        return self.open_store("/trial/workspace")

    @property
    def bucket(self) -> NotingStore:
        return self.open_store(BUCKET)

    def land(self, name: str, *lines: bytes) -> None:
        self.landing.put(name, b"".join(line + b"\n" for line in lines))

    def accept(self, name: str, data: bytes | None) -> None:
        """Accept a damaged object by hand, or that one is gone."""
        digest = "" if data is None else hashlib.sha256(data).hexdigest()
        self.workspace.put(self.project().workspace.acceptance(name, digest), b"{}")

    def run(self) -> OrganizationRun:
        return OrganizationRun(self.organization, open_store=self.open_store)

    def project(self, number: int = 7) -> ProjectRun:
        return self.run().projects[f"shop{number}"]

    def raw(self, hour: Hour, **how: bool) -> RawRecord:
        return self.project().raw.land(hour, **how)

    def quarantine(self, hour: Hour) -> list[dict[str, Any]]:
        return list(self.project().workspace.report("quarantine", hour))

    def deduped(self, hour: Hour, **how: bool) -> DedupedRecord:
        return self.project().deduped.dedupe(hour, **how)

    def kept(self, hour: Hour) -> list[bytes]:
        """The hour's lines that are not repeats, as they are stored."""
        deduped = self.project().deduped
        return [line for block in deduped.open_parts(deduped.dedupe(hour)) for line in block.lines]

    def repeats(self, hour: Hour) -> list[dict[str, Any]]:
        return list(self.project().workspace.report("repeats", hour))

    def merged(self, hour: Hour) -> MergedRecord:
        return self.run().merged.merge(hour)

    def merged_lines(self, hour: Hour) -> list[bytes]:
        record = self.merged(hour)
        return self.workspace.lines(record.part.name) if record.part else []

    def deliver(self, hour: Hour, by: By = BY, **how: bool) -> Receipt:
        """Bring one hour of the first delivery up to date."""
        run = self.run()
        project = run.projects["shop7"]
        (first, *_) = project.project.deliveries
        project.deduped.dedupe(hour)
        if "merged_ids" in first.what:
            run.merged.merge(hour)
        return project.deliver(project.archive(first), first, hour, by, **how)


def delivery(**settings: Any) -> dict[str, Any]:
    return {"name": "backup", "url": BUCKET, **settings}
