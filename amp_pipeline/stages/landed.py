"""What the landing has of an hour: objects, strays from others, what was pulled; whether that is as recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from amp_pipeline.config import Project
from amp_pipeline.core.errors import AmpError, FrozenHourError, LandingError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources import landing
from amp_pipeline.stages.numbered import stray_origin
from amp_pipeline.stages.pulling import Pulling
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import Input, RawRecord
from amp_pipeline.workspace.store import ProjectStore

_LOOKED_AT = 1000
"""Names of a landing that are looked at; where so many are none of the project's, the rest may be."""

Found = tuple[str, str, ObjectInfo]
"""Landing object, file of strays ("" for the object itself), and what is known of it."""


class Landed:
    """The landing of a project, as one run sees it."""

    def __init__(self, project: Project, source: ObjectStore, workspace: ProjectStore, pulling: Pulling | None) -> None:
        """List ``source``, and the strays in ``workspace``; ``pulling`` brings hours into it from an API."""
        self._project = project
        self._source = source
        self._workspace = workspace
        self._pulling = pulling
        self._is_pulled = isinstance(project.source, AmplitudeExport)
        self._pattern = project.events_pattern
        self._listing = landing.events(source, project)
        self._markers = landing.markers(source, project)
        self._stray_days: dict[str, dict[str, list[ObjectInfo]]] = {}
        self._is_ours = self._is_pulled

    def is_complete(self, hour: Hour) -> bool:
        """Tell whether the source says that the hour is complete; always where it has no markers."""
        return self._markers is None or bool(self._markers.objects(hour))

    def has(self, hour: Hour) -> bool:
        """Tell whether there is anything of an hour, strays of others too."""
        return bool(self.objects(hour) or self._strays_to(hour))

    def objects(self, hour: Hour) -> list[ObjectInfo]:
        """Return the objects of an hour; of one that was not pulled whole there are none yet."""
        if self._is_pulled and not self.is_complete(hour):
            return []
        return self._listing.objects(hour)

    def uri(self, hour: Hour) -> str:
        """Return where the objects of an hour are, for people."""
        objects = self.objects(hour)
        name = objects[0].name if objects else self._pattern.listing_prefix(hour.date)
        return self._source.uri(name)

    def list(self, hour: Hour) -> None:
        """List the day of an hour, so that what is wrong with the landing itself shows.

        Raises:
            StoreError: It can't be listed.
            LandingError: It is that of something else.
        """
        if not self._listing.objects(hour):
            self._refuse_another()

    def listed(self, hour: Hour) -> Sequence[tuple[str, int, str]]:
        """Return name, size and version of all that an hour is read from."""
        return [(info.name, info.size, info.version) for info in [*self.objects(hour), *self._strays_to(hour)]]

    def hours(self) -> Sequence[Hour]:
        """Return all hours that have objects; this lists all of the landing."""
        return self._listing.hours()

    def inputs(self, hour: Hour) -> Sequence[Found]:
        """Return what an hour is to be read from, in order.

        Raises:
            LandingError: The landing is that of something else.
        """
        found = [(info.name, "", info) for info in self.objects(hour)]
        if not found:
            self._refuse_another()
        for info in self._strays_to(hour):
            origin = stray_origin(self._workspace.store, info.name)
            # The project's first or last hour may have been set anew since those strays came.
            named = self._pattern.hour_of(origin)
            if named is not None and self._project.holds(named):
                found.append((origin, info.name, info))
        return sorted(found, key=lambda item: (self._pattern.order_of(item[0]), item[0]))

    def _refuse_another(self) -> None:
        """Refuse a landing that holds objects and never had any of the project: an url that is a folder off, say.

        Or every hour would be delivered as an empty one.
        """
        if self._is_ours:
            return
        patterns = [self._pattern, *landing.other_patterns(self._project, self._workspace.organization)]
        under = {name for pattern in patterns for name in self._source.some(pattern.common_prefix, _LOOKED_AT)}
        self._is_ours = (
            any(pattern.hour_of(name) is not None for pattern in patterns for name in under)
            or len(under) >= _LOOKED_AT
            or bool(self._workspace.store.some(f"{self._workspace.folder}/rows/", 1))
        )
        if not self._is_ours and (others := self._source.some("", 1)):
            raise LandingError(
                f"the landing {self._source.url} has nothing of project {self._project.id}: it holds {others[0]}, and "
                f"no name like {self._project.source.events}; correct the source's url, or its events. If nothing has "
                "landed yet, hours are delivered once something has"
            )

    def is_frozen(self, hour: Hour, record: RawRecord, inputs: Sequence[Found]) -> bool:
        """Tell whether the landing of an hour is gone as a whole, so that what is on record stands.

        Raises:
            LandingError: Some of it is gone.
            FrozenHourError: All of it is gone, and strays would change the hour.
        """
        have = {name for name, stray_file, _ in inputs if not stray_file}
        gone = self._gone(record, have)
        if not gone:
            return False
        if have:
            raise LandingError(
                f"{self._source.uri(gone[0])} has vanished from the landing of hour {hour}; "
                f"put it back, or accept that it is gone: {accept_command(self._project, gone[0])}"
            )
        strays = [_seen_now(*item) for item in inputs if item[1]]
        if strays != _seen([item for item in record.inputs if item.stray_file]):
            raise FrozenHourError(
                f"late events came in for hour {hour}, whose landing objects are gone "
                f"({self._source.uri(gone[0])}, …); put them back and run the hour again"
            )
        return True

    def missing(self, hour: Hour) -> Sequence[str]:
        """Return the names of objects that were read of an hour, are gone, and were not accepted as gone."""
        record = self._workspace.raw(hour)
        return self._gone(record, {info.name for info in self.objects(hour)}) if record is not None else []

    def _gone(self, record: RawRecord, have: Set[str]) -> list[str]:
        had = {item.object for item in record.inputs if not item.stray_file}
        return sorted(name for name in had - have if not self._workspace.accepted(name, ""))

    def forget_strays(self, day: str) -> None:
        """List the strays to a day anew the next time."""
        self._stray_days.pop(day, None)

    def expect(self, hours: Iterable[Hour]) -> None:
        """Let hours be pulled together where the source is an API; those of a run."""
        if self._pulling is not None:
            self._pulling.expect(hours)

    def pull(self, hour: Hour, *, again: bool = False) -> bool:
        """Bring an hour in where the source is an API and it is not there; tell whether it was asked for.

        Raises:
            AmpError: It can't be had.
        """
        if self._pulling is None:
            return False
        asked = self._pulling.pull(hour, self._stands, again=again)
        # Another run may have pulled it since the day was listed.
        if asked or not self.is_complete(hour):
            self._forget()
        return asked

    def is_gone(self, hour: Hour, record: RawRecord) -> bool:
        """Tell whether an hour's objects, which there once were, are gone."""
        return not self.objects(hour) and any(not item.stray_file for item in record.inputs)

    def _stands(self, hour: Hour) -> bool:
        """Tell whether an hour is on record and what was pulled of it is gone: for deleted users, it stays away."""
        try:
            record = self._workspace.raw(hour)
        except AmpError:
            # It says so itself.
            return True
        return record is not None and self.is_gone(hour, record)

    def pull_again(self, hours: Iterable[Hour]) -> dict[Hour, AmpError]:
        """Ask an API again for those of ``hours`` that were pulled, and add what is new; return what went wrong.

        What was removed for the sake of deleted users stays away.
        """
        if self._pulling is None:
            return {}
        pulled = [hour for hour in hours if self._pulling.is_pulled(hour)]
        self._pulling.expect(pulled)
        failed: dict[Hour, AmpError] = {}
        for hour in pulled:
            try:
                self.pull(hour, again=True)
            except AmpError as error:
                failed[hour] = error
        return failed

    def pulled_as(self, hour: Hour) -> dict[str, str]:
        """Return the digests that objects of an hour had when they were pulled, by name.

        Raises:
            LandingError: One of them is gone.
        """
        receipt = self._pulling.hours.receipt(hour) if self._pulling is not None else None
        if receipt is None:
            return {}
        there = {info.name for info in self.objects(hour)}
        for one in receipt.objects:
            # What was added since the day was listed is late data.
            is_there = one.name in there or self._source.head(one.name) is not None
            if not is_there and not self._workspace.accepted(one.name, ""):
                raise LandingError(
                    f"{self._source.uri(one.name)} was pulled and is gone; run raw_events of hour {hour} again, "
                    "forced: it is pulled again then"
                )
        return {one.name: one.sha256 for one in receipt.objects}

    def pulled_objects(self, hour: Hour) -> Sequence[str]:
        """Return the names of all that was pulled of an hour; none where the landing is not ours."""
        return self._pulling.hours.objects(hour) if self._pulling is not None else []

    def drop(self, hour: Hour, concerns: Callable[[Block], bool]) -> bool:
        """Remove what was pulled of an hour where something ``concerns`` whoever asks; tell whether that was done."""
        dropped = self._pulling is not None and self._pulling.drop(hour, concerns)
        if dropped:
            self._forget()
        return dropped

    def _forget(self) -> None:
        """List anew the next time: with an hour its neighbours may have come."""
        for one in filter(None, (self._listing, self._markers)):
            one.forget()

    def _strays_to(self, hour: Hour) -> Sequence[ObjectInfo]:
        if hour.day not in self._stray_days:
            by_folder: dict[str, list[ObjectInfo]] = {}
            for info in self._workspace.stray_files(hour.day):
                by_folder.setdefault(info.name.rpartition("/")[0], []).append(info)
            self._stray_days[hour.day] = by_folder
        return self._stray_days[hour.day].get(self._workspace.path("strays", hour), [])


def is_as_recorded(record: RawRecord, inputs: Sequence[Found]) -> bool:
    """Tell whether an hour was recorded from these very inputs."""
    return _seen(record.inputs) == [_seen_now(*item) for item in inputs]


def accept_command(project: Project, name: str) -> str:
    """Return the command by which somebody accepts that a landing object is damaged or gone."""
    return f"amp-pipeline accept --project {project.slug} '{name}'"


def _seen(inputs: Sequence[Input]) -> list[tuple[str, str, int, str]]:
    return [(item.object, item.stray_file, item.size, item.version) for item in inputs]


def _seen_now(name: str, stray_file: str, info: ObjectInfo) -> tuple[str, str, int, str]:
    return name, stray_file, info.size, info.version
