"""Pulling hours from an API: which are asked for at once, in which halves, and what it means when no answer comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from amp_pipeline.config import Project
from amp_pipeline.core.errors import AmpError, DeliveryError, LandingError
from amp_pipeline.core.export_api import halves, together
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_export import (
    S3_EXPORT,
    ExportApi,
    NoRoomError,
    OtherProjectError,
    TooLargeError,
)
from amp_pipeline.sources.amplitude_http import SourceError
from amp_pipeline.stages.pulled_hours import PulledHours
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.scratch import scratch
from amp_pipeline.workspace.pulls import Trouble, TroubleStore

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
        *,
        asks: bool = True,
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
            asks: Whether anything may be asked for; else what was pulled is all there is.
        """
        self._project = project
        self._source = source
        self.hours = PulledHours(store, project.id, now)
        """What was pulled."""
        self._troubles = troubles
        self._api = api
        self._now = now
        self._tell = tell
        self._asks = asks
        self._expected: frozenset[Hour] = frozenset()
        self._most = MOST_HOURS
        self._pulled: dict[Hour, bool] = {}
        self._again: set[Hour] = set()
        self._failed: dict[Hour, AmpError] = {}
        self._left: set[Hour] = set()
        self._shut: SourceError | None = None
        self._knows_whose = False

    def expect(self, hours: Iterable[Hour]) -> None:
        """Let neighbours of an hour that is pulled be pulled with it, where they are among ``hours``."""
        self._expected = frozenset(hours)

    def is_pulled(self, hour: Hour) -> bool:
        """Tell whether an hour was pulled whole."""
        if not self._pulled.get(hour):
            self._pulled[hour] = self.hours.is_there(hour)
        return self._pulled[hour]

    def drop(self, hour: Hour, concerns: Callable[[Block], bool]) -> bool:
        """Remove what was pulled of an hour where something ``concerns`` whoever asks; tell whether that was done."""
        self._pulled.pop(hour, None)
        return self.hours.drop(hour, concerns)

    def pull(self, hour: Hour, stands: Callable[[Hour], bool] = lambda _: False, *, again: bool = False) -> bool:
        """Pull an hour, and with it neighbours that are expected and not there; tell whether anything was asked for.

        Args:
            hour: Of the project.
            stands: Tells of neighbours that are not there whether they are not to be pulled either.
            again: Ask for it even if it was pulled, and add what is new. Once in a run.

        Raises:
            LandingError: The source does not have it yet, or can't give it.
            SourceError: The source does not answer.
        """
        if not self._asks or (self.is_pulled(hour) and (not again or hour in self._again)):
            return False
        if hour in self._failed:
            raise self._failed[hour]
        self._refuse_another()
        if not self._is_there(hour):
            there = self._source.there_at(hour)
            raise LandingError(f"{self._api.address} has all of hour {hour} from {there:%Y-%m-%d %H:%M} UTC on")
        wanted = {
            one
            for one in self._expected
            if (again or not self.is_pulled(one)) and one not in self._again | self._failed.keys()
            if self._is_there(one) and (one == hour or self.is_pulled(one) or not stands(one))
        }
        hours = [one for one in together(hour, wanted, self._at_once(hour)) if self._is_there(one)]
        # Of days that are asked for as a whole.
        others = [one for one in hours if one != hour and one not in wanted]
        self._left = {one for one in others if not self.is_pulled(one) and stands(one)}
        self._pull(hours)
        if hour in self._failed:
            raise self._failed[hour]
        return True

    def _refuse_another(self) -> None:
        """Take nothing while the keys are of another project: that it has no events of an hour says nothing of ours.

        Raises:
            SourceError: They were when they were last used, and still are; or nobody can say.
        """
        if not self._knows_whose:
            self._knows_whose = True
            known = self._troubles.load()
            try:
                if known is not None and known.hour:
                    self._api.try_out(Hour.parse(known.hour))
            except SourceError as error:
                self._shut = error
        if self._shut is not None:
            raise self._shut

    def _is_there(self, hour: Hour) -> bool:
        return self._now() >= self._source.there_at(hour)

    def _at_once(self, hour: Hour) -> int:
        """Return how many hours to ask for, by what the day before has."""
        largest = max(self.hours.sizes(hour + -24), default=0)
        return max(1, min(self._most, _SAFE_BYTES // largest if largest else MOST_HOURS))

    def _pull(self, hours: Sequence[Hour]) -> None:
        """Pull a range, in halves where that may help; hours that can't be had are noted with the reason."""
        if self._shut is not None:
            self._fail(hours, self._shut)
            return
        try:
            self._ask(hours)
        except TooLargeError as error:
            self._tell(f"too large, or too slow ({error})")
            if not self._pull_halves(hours):
                what = str(error) if isinstance(error, NoRoomError) else self._too_large(hours, error)
                self._fail(hours, LandingError(what))
        except OtherProjectError as error:
            self._shut = error
            self._fail(hours, error)
            self._remember(error)
        except SourceError as error:
            if not (error.broke_off and self._pull_halves(hours)):
                self._fail(hours, error)
                # Where others came, or what came can't be used, it is these hours that are broken, and not the source.
                if not error.broke_off or (error.kind == "network" and not self._again):
                    self._remember(error)
        except AmpError as error:
            self._fail([hour for hour in hours if hour not in self._again], error)

    def _ask(self, hours: Sequence[Hour]) -> None:
        asked = str(hours[0]) if len(hours) == 1 else f"{hours[0]} to {hours[-1]}"
        self._tell(f"asking {self._api.address} for {asked}")
        with scratch() as folder:
            answer = self._api.pull(hours, folder)
            size = sum(file.bytes for file in answer.files)
            self._tell(f"{asked}: {sum(file.lines for file in answer.files)} lines, {size / 1e6:.1f} MB packed")
            self._troubles_end()
            for hour in hours:
                if hour in self._left:
                    continue
                if answer.not_yet is not None and hour >= answer.not_yet:
                    self._fail([hour], LandingError(f"{self._api.address} does not have hour {hour} yet"))
                    continue
                try:
                    self.hours.take(hour, answer)
                except DeliveryError as error:
                    # Another run is at it.
                    self._fail([hour], error)
                    continue
                self._pulled[hour] = True
                self._again.add(hour)

    def _pull_halves(self, hours: Sequence[Hour]) -> bool:
        """Pull a range in halves; tell whether it has any."""
        smaller = halves(hours)
        for half in smaller:
            self._most = min(self._most, len(half))
            self._pull(half)
        return bool(smaller)

    def _too_large(self, hours: Sequence[Hour], error: TooLargeError) -> str:
        what = "the hour" if len(hours) == 1 else "the day from"
        return (
            f"{self._api.address} can't give {what} {hours[0]} ({error}): more than 4 GB, or more than it packs in "
            "time, and there is no smaller range to ask for. Let Amplitude deliver it by its S3 export "
            f"({S3_EXPORT}), and name that bucket as a source of type landing"
        )

    def _fail(self, hours: Iterable[Hour], error: AmpError) -> None:
        self._failed |= dict.fromkeys(hours, error)

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
    advice = ADVICE[error.kind]
    hour = ""
    if isinstance(error, OtherProjectError):
        advice, hour = f"{advice} {_OF_ANOTHER}", error.hour.key
    return Trouble(kind=error.kind, summary=str(error), advice=advice, since=since, tried=at, hour=hour)


_OF_ANOTHER = (
    "Hours that were pulled with the keys of the other project before it was noticed, and of which that has no events, "
    "were delivered as empty: run their raw_events again, forced."
)
ADVICE = {
    "credentials": "Nothing is pulled until the keys are right; what is missing is caught up then, and what was "
    "delivered stays. Set api_key and secret_key of the source anew, and its region or url.",
    "network": "Nothing is pulled until it can be reached; what is missing is caught up then. Check the network and "
    "the proxy of this machine.",
    "throttled": "Nothing is pulled until it answers again; what is missing is caught up then. Others may use the same "
    "keys: pull less often by the source's `every`.",
    "server": "Nothing is pulled until it answers again; what is missing is caught up then.",
}
