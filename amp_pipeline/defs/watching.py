"""Whether Dagster itself is at work: what its sensors can't tell, asked from outside by ``amp-pipeline watch``."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, TickStatus

from amp_pipeline.config import Organization
from amp_pipeline.core.alerts import Trouble

SILENT_AFTER = timedelta(minutes=10)
"""A daemon writes a sign of life each 30 s, later while a tick of it takes long."""

_MISSED_TICKS = 3
_LONGEST_ERROR = 200
_NONE_EVER = (
    "no daemon has ever run in this Dagster instance: DAGSTER_HOME names another one, or dagster-daemon never ran"
)


def trouble_of_dagster(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    organization: Organization,
    others: Iterable[Organization],
    now: datetime,
) -> Trouble | None:
    """Return what keeps Dagster from looking after an organization, None where nothing does.

    Args:
        definitions: All that Dagster should run.
        instance: Where it writes down what it does.
        organization: Whose sensors to look at, and those that belong to nobody.
        others: The organizations beside it.
        now: The time.
    """
    foreign = tuple(f"{other.slug}_" for other in others)
    sensors = [
        sensor
        for sensor in definitions.get_repository_def().sensor_defs
        if sensor.name.startswith(f"{organization.slug}_") or not sensor.name.startswith(foreign)
    ]
    found = [*_silent_daemons(instance, now), *_idle_sensors(sensors, instance, now)]
    if not found:
        return None
    return Trouble(
        source="watch",
        kind=", ".join(sorted(name for name, _ in found)),
        # Of many lines that say the same nobody would see that it is the wrong folder.
        summary="; ".join(what for _, what in found) if instance.get_daemon_heartbeats() else _NONE_EVER,
        advice="Look at the processes of Dagster (dagster-daemon, the code server), and in its UI at Deployment and "
        "Automation. While this lasts, hours may not be delivered and other alerts may not come.",
    )


def _silent_daemons(instance: dg.DagsterInstance, now: datetime) -> Iterator[tuple[str, str]]:
    heartbeats = instance.get_daemon_heartbeats()
    for kind in instance.get_required_daemon_types():
        heartbeat = heartbeats.get(kind)
        if heartbeat is None:
            yield kind, f"the daemon {kind} has never run"
            continue
        last = datetime.fromtimestamp(heartbeat.timestamp, UTC)
        if now - last > SILENT_AFTER:
            yield kind, f"the daemon {kind} has given no sign of life since {last:%Y-%m-%d %H:%M} UTC"


def _idle_sensors(
    sensors: Iterable[dg.SensorDefinition], instance: dg.DagsterInstance, now: datetime
) -> Iterator[tuple[str, str]]:
    states = {state.instigator_name: state for state in instance.all_instigator_state()}
    for sensor in sensors:
        state = states.get(sensor.name)
        wanted = sensor.default_status is dg.DefaultSensorStatus.RUNNING
        if state is not None and state.instigator_type is not InstigatorType.SENSOR:
            continue
        if wanted and state is None:
            yield sensor.name, f"the sensor {sensor.name} has never run"
        elif wanted and state is not None and state.status is InstigatorStatus.STOPPED:
            yield sensor.name, f"the sensor {sensor.name} is stopped"
        elif state is not None and (wanted or state.status is InstigatorStatus.RUNNING):
            every = timedelta(seconds=sensor.minimum_interval_seconds or 30)
            if why := _why_idle(state, instance, every, now):
                yield sensor.name, f"the sensor {sensor.name} {why}"


def _why_idle(state: InstigatorState, instance: dg.DagsterInstance, every: timedelta, now: datetime) -> str:
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    if not ticks:
        return "has never run"
    tick = ticks[0]
    last = datetime.fromtimestamp(tick.timestamp, UTC)
    if now - last > max(_MISSED_TICKS * every, SILENT_AFTER):
        return f"has not run since {last:%Y-%m-%d %H:%M} UTC"
    if tick.status is TickStatus.FAILURE:
        said = tick.error.message.strip().splitlines()[0][:_LONGEST_ERROR] if tick.error and tick.error.message else ""
        return f"failed at {last:%Y-%m-%d %H:%M} UTC{': ' if said else ''}{said}"
    return ""
