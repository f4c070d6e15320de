"""How deliveries stand, as metrics of Prometheus: names of organizations, projects and deliveries, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from threading import Lock

from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.volume import Month, Volume, total
from amp_pipeline.status import DeliveryStatus, ProjectStatus

_PREFIX = "amp_pipeline_"
_PROJECT = ("organization", "project")
_DELIVERY = (*_PROJECT, "delivery")

_OF_DELIVERY: dict[str, tuple[str, Callable[[DeliveryStatus], float | None]]] = {
    "last_complete_hour_timestamp_seconds": (
        "End of the last hour up to which all are delivered; the end of the hour before the first where none is.",
        lambda one: _end(one.last_complete or one.first_hour + -1),
    ),
    "complete": (
        "Whether all hours that are ready are delivered, or the delivery is switched off.",
        lambda one: one.is_complete,
    ),
    "enabled": ("Whether the delivery is switched on.", lambda one: one.delivery.enabled),
    "delivered_hours": ("Hours that are delivered as they are on record.", lambda one: one.complete),
    "waiting_hours": ("Hours that are deduplicated and were never delivered.", lambda one: len(one.waiting)),
    "again_hours": ("Delivered hours that something has changed for since.", lambda one: len(one.again)),
    "failed_hours": ("Hours that failed and were not done since.", lambda one: one.failed_hours),
    "given_up_hours": (
        "Those of the failed hours that are not tried again by themselves.",
        lambda one: sum(len(failure.hours) for failure in one.failed if failure.given_up),
    ),
    "missing_hours": ("Hours that are ready and that nothing was done for yet.", lambda one: len(one.missing)),
    "not_ready_hours": ("Ended hours that the source has not called complete.", lambda one: len(one.unready)),
    "missed_hours": (
        "Hours that were missed while the delivery was switched off, and wait for a backfill by hand.",
        lambda one: len(one.missed),
    ),
    "in_flight_hours": (
        "Hours of runs that are not done; left out where no Dagster instance is known.",
        lambda one: None if one.in_flight is None else len(one.in_flight),
    ),
    "bucket_problem": ("Whether alerts know that the bucket can't be reached.", lambda one: bool(one.problem)),
}

_OF_PROJECT: dict[str, tuple[str, Callable[[ProjectStatus], float]]] = {
    "measured_hours": (
        "Deduplicated hours whose events and bytes are known: those that the next three are sums of.",
        lambda one: len(one.volumes),
    ),
    "deduplicated_events": ("Events that are not repeats.", lambda one: _whole(one).events),
    "deduplicated_bytes": ("Packed bytes of these events.", lambda one: _whole(one).bytes),
    "deduplicated_unpacked_bytes": ("Bytes of these events before packing.", lambda one: _whole(one).unpacked_bytes),
    "made_again_hours": (
        "Hours that were asked for again after they had been delivered, because of late data or changes.",
        lambda one: one.made_again,
    ),
}

_OF_MONTH: dict[str, tuple[str, Callable[[Volume], float]]] = {
    "month_events": ("Events of this month that are not repeats.", lambda volume: volume.events),
    "month_bytes": ("Packed bytes of these events.", lambda volume: volume.bytes),
}


class Metrics(Collector):
    """Gathers anew each time it is asked."""

    def __init__(
        self,
        gather: Callable[[datetime], Iterable[ProjectStatus]],
        now: Callable[[], datetime],
        say: Callable[[str], None],
    ) -> None:
        """Take what ``gather`` finds; ``say`` takes what is wrong where it can't find it."""
        self._gather, self._now, self._say = gather, now, say
        self._alone = Lock()

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics; ``amp_pipeline_up`` alone, as 0, where they can't be found."""
        # Two that ask at a time would list the same twice.
        with self._alone:
            now = self._now()
            try:
                found = list(self._gather(now))
            except AmpError as error:
                self._say(str(error))
                found = None
        up = _gauge("up", "Whether configuration and workspace could be read.", ())
        up.add_metric([], found is not None)
        yield up
        if found is not None:
            yield from _families(found, now)

    def describe(self) -> list[GaugeMetricFamily]:
        """Name none beforehand: to register is not to be asked."""
        return []


def registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of ``metrics`` alone."""
    found = CollectorRegistry()
    found.register(metrics)
    return found


def _families(found: list[ProjectStatus], now: datetime) -> Iterator[GaugeMetricFamily]:
    for name, (meaning, of_delivery) in _OF_DELIVERY.items():
        family = _gauge(name, meaning, _DELIVERY)
        for project in found:
            for delivery in project.deliveries:
                value = of_delivery(delivery)
                if value is not None:
                    family.add_metric([*_labels(project), delivery.delivery.name], value)
        yield family
    for name, (meaning, of_project) in _OF_PROJECT.items():
        family = _gauge(name, meaning, _PROJECT)
        for project in found:
            family.add_metric(_labels(project), of_project(project))
        yield family
    yield from _of_months(found, now)


def _of_months(found: list[ProjectStatus], now: datetime) -> Iterator[GaugeMetricFamily]:
    months = [(project, _this(project.months(now), now)) for project in found]
    for name, (meaning, value) in _OF_MONTH.items():
        so_far = _gauge(name, meaning, _PROJECT)
        expected = _gauge(f"expected_{name}", f"{meaning} As many as are expected of all of it.", _PROJECT)
        for project, month in months:
            if month is not None:
                so_far.add_metric(_labels(project), value(month.volume))
            if month is not None and month.expected is not None:
                expected.add_metric(_labels(project), value(month.expected))
        yield from (so_far, expected)


def _this(months: list[Month], now: datetime) -> Month | None:
    return next((month for month in months if month.name == f"{now:%Y-%m}"), None)


def _gauge(name: str, meaning: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    # Gauges, also of sums: late data and deletions make events fewer.
    return GaugeMetricFamily(_PREFIX + name, meaning, labels=labels)


def _labels(project: ProjectStatus) -> list[str]:
    return [project.organization.slug, project.project.slug]


def _whole(one: ProjectStatus) -> Volume:
    return total(one.volumes.values())


def _end(hour: Hour) -> float:
    return (hour + 1).start.timestamp()
