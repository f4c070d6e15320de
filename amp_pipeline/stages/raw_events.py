"""What landed: the lines of an hour told apart into events, strays and quarantine, and the hour's key index.

Lines are not copied; the landing keeps them. The result of an hour depends on what landed and on nothing else, so
whoever needs an hour's key index may make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property

import msgspec

from amp_pipeline.config import Project
from amp_pipeline.core import codec, deleted
from amp_pipeline.core.deleted import DeletedEvent
from amp_pipeline.core.errors import AmpError, FrozenHourError, LandingError
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.core.telling import Rules, Teller
from amp_pipeline.sources.landing import ObjectReader
from amp_pipeline.stages.deletion import RawDeletion
from amp_pipeline.stages.landed import Found, Landed, accept_command, is_as_recorded
from amp_pipeline.stages.numbered import deleted_events, numbered, without
from amp_pipeline.stages.pulling import Pulling
from amp_pipeline.stages.scan import Scan
from amp_pipeline.stages.teller import Workers
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.workspace.records import Input, RawRecord
from amp_pipeline.workspace.store import ProjectStore
from amp_pipeline.workspace.suppressions import SuppressionStore

LARGE_BYTES = 24 << 20
"""Packed; hours from here on are worth processes, which cost half a second of CPU to start."""


class RawEvents:
    """The landed hours of a project, as one run sees them."""

    def __init__(
        self,
        project: Project,
        source: ObjectStore,
        workspace: ProjectStore,
        workers: Workers,
        most_keys: int,
        *,
        reads: bool = True,
        pulling: Pulling | None = None,
    ) -> None:
        """Read from ``source``, record in ``workspace``.

        Args:
            project: Whose hours.
            source: Holds the landing.
            workspace: Holds the records.
            workers: Read the lines of large hours.
            most_keys: About how many keys of events may be in memory.
            reads: Whether the landing's objects may be read; else what is on record of an hour is what landed.
            pulling: Brings hours into the landing where the source is an API.
        """
        self.landed = Landed(project, source, workspace, pulling)
        """What the landing has, and bringing hours into it."""
        self._pulled_as: dict[str, str] = {}
        self.reads = reads
        self._most_keys = most_keys
        self._teller = Teller()
        self._workers = workers
        self.project = project
        self.source = source
        self.workspace = workspace
        self._current: dict[Hour, RawRecord] = {}
        self._accepted: list[str] | None = None
        self._bounds = [project.first_hour.key, project.last_hour.key if project.last_hour else None]

    @cached_property
    def suppressed(self) -> Suppressed:
        """The users of the project that were deleted."""
        return SuppressionStore(self.workspace).suppressed()

    @cached_property
    def _deletion(self) -> RawDeletion:
        return RawDeletion(self.workspace, self.suppressed, self._rules, self._forget)

    def without_deleted(self, hour: Hour, record: RawRecord, *, force: bool = False) -> RawRecord:
        """Take deleted users out of what the workspace holds of a recorded hour, whatever became of its landing.

        Raises:
            AmpError: Something of it can't be read; with ``force`` it is left to be written anew.
        """
        try:
            return self._deletion.without_deleted(hour, record)
        except AmpError:
            if not force:
                raise
            return record

    def drop_deleted(self, hour: Hour, record: RawRecord) -> bool:
        """Remove what was pulled of a recorded hour where deleted users are in it; tell whether that was done.

        The hour then stands as it is on record, as one does whose landing is gone.
        """
        here = self.suppressed.at(min([hour, *map(Hour.parse, record.strays_out)]))

        def concerns(block: Block) -> bool:
            bad = record.quarantined and any(here.of_bad_line(line) is not None for line in block.lines)
            return bool(bad or here.find(block))

        return bool(here) and self.landed.drop(hour, concerns)

    def is_complete(self, hour: Hour) -> bool:
        """Tell whether the source says that the hour is complete; always where it has no markers."""
        return self.landed.is_complete(hour)

    def has_landed(self, hour: Hour) -> bool:
        """Tell whether anything of ``hour`` is in the landing, in strays, or on record."""
        return hour in self._current or self.landed.has(hour) or self.workspace.raw(hour) is not None

    def uri(self, hour: Hour) -> str:
        """Return where the hour's landing objects are, for people."""
        return self.landed.uri(hour)

    def land(self, hour: Hour, *, force: bool = False) -> RawRecord:
        """Return what landed in ``hour``, reading the landing where it is new or has changed.

        Args:
            hour: An hour of the project.
            force: Read it again even if nothing seems to have changed.

        Raises:
            LandingError: An object is damaged, has vanished, or changes while it is read.
            FrozenHourError: The landing of the hour is gone, and something new would change it.
        """
        if not force and hour in self._current:
            return self._current[hour]
        record = self.workspace.raw(hour)
        if not self.reads:
            if record is None:
                raise LandingError(f"hour {hour} of {self.project.slug} has not been read yet")
            self._current[hour] = record
            return record
        if record is not None:
            # Before anything else, so that it does not depend on what became of the landing.
            record = self.without_deleted(hour, record, force=force)
        if force or record is None or not self.is_gone(hour, record):
            self.landed.pull(hour, again=force)
        inputs = self.landed.inputs(hour)
        if record is not None:
            record = self._deletion.with_cleaned_strays(hour, record, [info for _, _, info in inputs])
            try:
                frozen = self.landed.is_frozen(hour, record, inputs)
            except FrozenHourError:
                if not self.landed.pull(hour):
                    raise
                inputs = self.landed.inputs(hour)
                frozen = self.landed.is_frozen(hour, record, inputs)
            if frozen or (not force and self._judges_as(record) and is_as_recorded(record, inputs)):
                self._current[hour] = record
                return record
        record = self._read(hour, inputs, record)
        self._current[hour] = record
        return record

    def is_current(self, hour: Hour) -> bool:
        """Tell whether the landing has what is on record of ``hour``, or has nothing of it any more.

        Raises:
            LandingError: Some of its objects have vanished.
            FrozenHourError: All of them have, and something new would change it.
        """
        # Where nothing is read, all that is told of an hour is told of the same record.
        record = self._current.get(hour) if not self.reads else None
        record = record or self.workspace.raw(hour)
        if record is None:
            return False
        if not self.reads:
            self._current[hour] = record
        inputs = self.landed.inputs(hour)
        if self.landed.is_frozen(hour, record, inputs):
            return True
        return self._judges_as(record) and is_as_recorded(record, inputs)

    def list(self, hour: Hour) -> None:
        """List the landing of the hour's day, so that what is wrong with the landing itself shows.

        Raises:
            StoreError: It can't be listed.
        """
        self.landed.list(hour)

    def seen(self, hour: Hour) -> str:
        """Return a fingerprint of all that tells what landed in ``hour``, from listings alone."""
        if self._accepted is None:
            self._accepted = self.workspace.acceptances()
        return fingerprint(self.landed.listed(hour), self._accepted, self._bounds)

    def recorded(self, hour: Hour) -> RawRecord | None:
        """Return what is on record of ``hour``, as far as that can be read."""
        try:
            return self.workspace.raw(hour)
        except AmpError:
            return None

    def landed_hours(self) -> Sequence[Hour]:
        """Return all hours that have objects in the landing; this lists all of it."""
        return self.landed.hours()

    def is_gone(self, hour: Hour, record: RawRecord) -> bool:
        """Tell whether the hour's landing objects, which there once were, are gone."""
        return self.landed.is_gone(hour, record)

    def lines(self, record: RawRecord) -> Iterator[tuple[str, Sequence[int], Block]]:
        """Yield all lines of a recorded hour again, in the same positions: landing object, numbers in it, lines.

        Raises:
            LandingError: An object has other bytes than when the hour was recorded.
        """
        for item in record.inputs:
            reader = self._reader(item.object, item.stray_file, item.size, to_the_damage=item.damaged)
            left = item.lines
            for numbers, block in numbered(reader, stray=bool(item.stray_file)):
                yield item.object, numbers[:left], block.first(left)
                left = max(0, left - len(block))
            if reader.sha256 not in (item.sha256, *item.without_deleted):
                self._current.pop(Hour.parse(record.hour), None)
                raise LandingError(
                    f"{self.source.uri(item.object)} changed while hour {record.hour} was read; run the hour again"
                )

    def _judges_as(self, record: RawRecord) -> bool:
        """Tell whether the project's first and last hour, maybe set anew, would tell the same lines apart."""
        strays = all(self.project.holds(Hour.parse(key)) for key in record.strays_out)
        return record.bounds == self._bounds or (strays and "outside_project" not in record.reasons)

    def _read(self, hour: Hour, inputs: Sequence[Found], before: RawRecord | None) -> RawRecord:
        with scratch() as folder, closing(Scan(folder, self._most_keys, self._deletion.of(hour))) as scan:
            return self._record(hour, inputs, before, scan)

    def _record(self, hour: Hour, inputs: Sequence[Found], before: RawRecord | None, scan: Scan) -> RawRecord:
        large = sum(info.size for _, _, info in inputs) >= LARGE_BYTES
        self._pulled_as = self.landed.pulled_as(hour)
        read = [self._scan_object(hour, scan, *item, large=large) for item in inputs]
        landed = scan.keys.events + scan.quarantined
        if before is None and not self.landed.objects(hour) and landed < self.workspace.landed_before(hour):
            raise FrozenHourError(
                f"more lines landed in hour {hour} before, but its record is gone or of another version, and its "
                "landing objects are gone; put them back and run the hour again"
            )
        self._route_strays(hour, scan.strays)
        self.workspace.put_report("quarantine", hour, scan.quarantine)
        keys, rows = scan.keys.write()
        keys_digest = self.workspace.put_file("keys", hour, keys, ".keys") if scan.keys.keys else ""
        rows_digest = self.workspace.put_file("rows", hour, rows, ".rows") if scan.keys.events else ""
        merges = codec.pack_one(made for _, _, made in sorted(scan.made_merges))
        merges_digest = self.workspace.put_data("made_merges", hour, merges.data, ".json.gz") if merges else ""
        strays_out: Counter[str] = Counter()
        for (target, _), lines in scan.strays.items():
            strays_out[target.key] += lines.rows - 1
        record = RawRecord(
            format=FORMAT,
            hour=hour.key,
            bounds=self._bounds,
            inputs=read,
            landed=landed,
            events=scan.keys.events,
            quarantined=scan.quarantined,
            strays_in=scan.strays_in,
            strays_out=dict(sorted(strays_out.items())),
            landed_bytes=scan.landed_bytes,
            keys=keys_digest,
            rows=rows_digest,
            reasons=dict(sorted(scan.reasons.items())),
            event_types=scan.event_types,
            made_merges=merges_digest,
            made_deleted=scan.made_deleted,
            suppressions=self._deletion.fingerprint(hour, strays_out),
        )
        self.workspace.save("raw", hour, record)
        if record.suppressions:
            self._deletion.remove_other_merges(hour, record)
        if before is not None and before.rows != rows_digest:
            # Those of the record before this one stay, for a run that is using them.
            known = [self.workspace.data_name("rows", hour, digest, ".rows") for digest in (rows_digest, before.rows)]
            self.workspace.remove_other_data("rows", hour, known)
        return record

    def _scan_object(
        self, hour: Hour, scan: Scan, name: str, stray_file: str, info: ObjectInfo, *, large: bool
    ) -> Input:
        reader = self._reader(name, stray_file, info.size, to_the_damage=self.workspace.was_accepted(name))
        first = scan.position
        rest: list[tuple[int, bytes]] = []
        lines = self._before_the_damage(name, reader, numbered(reader, stray=bool(stray_file)), rest)
        waiting: list[tuple[Sequence[int], dict[int, DeletedEvent]]] = []

        def blocks() -> Iterator[tuple[Block, Rules]]:
            for numbers, block in lines:
                gone = deleted_events(numbers, block)
                waiting.append((numbers, gone))
                yield without(block, gone) if gone else block, self._rules(hour)

        told = self._workers.tell(blocks()) if large else (self._teller.tell(*item) for item in blocks())
        for one in told:
            numbers, gone = waiting.pop(0)
            scan.made_deleted += sum(event.made_deleted for event in gone.values())
            scan.add(name, numbers, deleted.with_deleted(one, gone) if gone else one)
        for number, line in rest:
            scan.add_truncated(name, number, line)
        if stray_file:
            scan.strays_in += scan.position - first
        elif reader.sha256 != self._pulled_as.get(name, reader.sha256):
            raise LandingError(
                f"{self.source.uri(name)} has other bytes than were pulled; run raw_events of hour {hour} again, "
                "forced: it is pulled again then"
            )
        return Input(
            object=name,
            stray_file=stray_file,
            size=info.size,
            version=info.version,
            sha256=reader.sha256,
            lines=scan.position - first,
            damaged=reader.damage is not None,
        )

    def _before_the_damage(
        self,
        name: str,
        reader: ObjectReader,
        lines: Iterator[tuple[Sequence[int], Block]],
        rest: list[tuple[int, bytes]],
    ) -> Iterator[tuple[Sequence[int], Block]]:
        """Yield an object's blocks; what an accepted one has between its last line end and the damage goes to ``rest``.

        Raises:
            LandingError: The object is damaged, and was not accepted by hand.
        """
        held: tuple[Sequence[int], Block] | None = None
        for item in lines:
            if held is not None:
                yield held
            held = item
        if reader.damage is not None and not self.workspace.accepted(name, reader.sha256):
            raise LandingError(
                f"{reader.damage}; put a whole copy in its place, "
                "or accept it as it is, so that the lines before the damage "
                f"count: {accept_command(self.project, name)}"
            )
        if held is None:
            return
        numbers, last = held
        if reader.damage is not None and len(last) and reader.unfinished:
            rest.append((numbers[-1], last.line(len(last) - 1)))
            last = last.first(len(last) - 1)
        yield numbers, last

    def _rules(self, hour: Hour) -> Rules:
        end = self.project.last_hour
        return Rules(
            project=self.project.id,
            hour=hour.number,
            first_us=self.project.first_hour.start_us,
            end_us=(end + 1).start_us if end else None,
        )

    def _reader(self, name: str, stray_file: str, size: int, *, to_the_damage: bool) -> ObjectReader:
        if stray_file:
            return ObjectReader(self.workspace.store, stray_file)
        return ObjectReader(self.source, name, size=size, to_the_damage=to_the_damage)

    def _route_strays(self, hour: Hour, strays: dict[tuple[Hour, str], codec.LinePacker]) -> None:
        """Put strays of this hour's objects where their hours find them, and take away those of objects that changed.

        Which files there are is written down first: a run that is killed in between leaves nothing that the next one
        doesn't know.
        """
        written = {self.workspace.stray_file(*where): (where[0], lines.finish()) for where, lines in strays.items()}
        plan = self.workspace.stray_plan(hour)
        planned = self.workspace.strays_from(hour)
        if not written and not planned:
            return
        self.workspace.store.put(plan, msgspec.json.encode(sorted({*written, *planned})))
        for file, (target, lines) in written.items():
            # Written again, the file would look new, and its hour would be read again for nothing.
            if self.workspace.put_changed(file, lines):
                self._forget(target)
        for file in set(planned) - set(written):
            self.workspace.store.delete(file)
        for day in {file.split("/")[-3] for file in planned}:
            self.landed.forget_strays(day)
            self._current = {hour: record for hour, record in self._current.items() if hour.day != day}
        self.workspace.store.put(plan, msgspec.json.encode(sorted(written)))

    def _forget(self, hour: Hour) -> None:
        self.landed.forget_strays(hour.day)
        self._current.pop(hour, None)
