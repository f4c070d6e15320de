"""Whether a source that is pulled from lets us in: asked for an hour that has no events, which costs it nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

from amp_pipeline.config import Project
from amp_pipeline.core.access import Outcome, failed, passed
from amp_pipeline.core.export_api import NO_EVENTS
from amp_pipeline.core.hours import Hour
from amp_pipeline.run import OrganizationRun
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_export import ExportApi
from amp_pipeline.sources.amplitude_http import Http, SourceError
from amp_pipeline.stages.pulling import ADVICE, trouble_of
from amp_pipeline.workspace.pulls import Trouble, TroubleStore

ASKED_EVERY = timedelta(minutes=5)
"""How often a source that did not answer is asked whether it does again."""

_READ_SECONDS = 20.0
"""Dagster gives a tick of a sensor 60 s."""

_STEPS = {"credentials": "keys", "network": "connection", "throttled": "export", "server": "export"}


def probe_source(source: AmplitudeExport, project: int) -> Outcome:
    """Return whether the source answers, and what to change where it does not."""
    error = _asked(source, project)
    if error is None:
        return passed(("connection", "keys", "export"), source.address)
    return failed(_STEPS[error.kind], error.kind, str(error), ADVICE[error.kind], resource=source.address)


def still_troubled(run: OrganizationRun, project: Project, now: datetime) -> Trouble | None:
    """Return what keeps a project's source from answering; None once it answers, or where nothing is known of.

    A source that is known not to answer is asked again, once in a while.

    Raises:
        AmpError: The workspace can't be read or written.
    """
    source = project.source
    if not isinstance(source, AmplitudeExport):
        return None
    troubles = TroubleStore(run.workspace, run.organization.id, project.id)
    known = troubles.load()
    # A time to come is that of a clock that has gone back since.
    if known is None or 0 <= now.timestamp() - known.tried < ASKED_EVERY.total_seconds():
        return known
    error = _asked(source, project.id, known.hour)
    found = trouble_of(error, known.since, now.timestamp()) if error else None
    troubles.save(found)
    return found


def _asked(source: AmplitudeExport, project: int, hour: str = "") -> SourceError | None:
    once = source.model_copy(update={"attempts": 1, "read_timeout": min(source.read_timeout, _READ_SECONDS)})
    try:
        ExportApi(once, project, Http(once)).try_out(Hour.parse(hour) if hour else NO_EVENTS)
    except SourceError as error:
        # An hour that has events may need longer; then whoever pulls finds out.
        return None if hour and error.broke_off else error
    return None
