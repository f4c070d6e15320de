"""What a deletion of users would find: nothing is changed, and nobody is put on the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from amp_pipeline.core.errors import AmpError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.suppression import Suppressed, Suppression
from amp_pipeline.run import OrganizationRun, ProjectRun
from amp_pipeline.stages.stored_parts import open_parts
from amp_pipeline.workspace.records import PairsRecord


@dataclass
class Preview:
    """What there is of users."""

    events: Counter[Hour] = field(default_factory=Counter[Hour])
    """How many deduplicated events, by hour."""
    merged: Counter[Hour] = field(default_factory=Counter[Hour])
    """How many merged ids, by hour."""
    user_ids: set[str] = field(default_factory=set[str])
    """Those of which there is something."""
    amplitude_ids: set[str] = field(default_factory=set[str])
    """Those of which there is something."""
    unreadable: dict[Hour, str] = field(default_factory=dict[Hour, str])
    """Hours of which nobody can say, and why."""


def preview(
    run: OrganizationRun,
    slug: str,
    suppression: Suppression,
    hours: Collection[Hour] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Preview:
    """Return what there is of the users of ``suppression``, which need not be on the list.

    Args:
        run: Of the organization.
        slug: Of the project.
        suppression: Names the users, and how far it reaches.
        hours: Where to look; in all recorded hours if not given.
        progress: Takes how many hours are done, and of how many.
    """
    one = run.projects[slug]
    recorded = one.workspace.hours("deduped") | run.merged_workspace.hours("pairs")
    reached = sorted(h for h in (recorded if hours is None else hours) if suppression.reaches(h.start_us))
    # One for each id, so that each is told of: an event may have two of them.
    users = Suppressed(
        Suppression(
            id=f"{kind}:{name}",
            project=suppression.project,
            user_ids=[name] if kind == "user" else [],
            amplitude_ids=[] if kind == "user" else [name],
            asked_at=suppression.asked_at,
            up_to=suppression.up_to,
        )
        for kind, names in (("user", suppression.user_ids), ("amplitude", suppression.amplitude_ids))
        for name in names
    )
    numbers = {int(name): name for name in suppression.amplitude_ids}
    found = Preview()
    for done, hour in enumerate(reached):
        progress(done, len(reached))
        try:
            _add_events(one, hour, users, found)
            _add_merged(run, hour, numbers, found)
        except AmpError as error:
            found.unreadable[hour] = str(error)
    return found


def _add_events(one: ProjectRun, hour: Hour, users: Suppressed, found: Preview) -> None:
    record = one.workspace.deduped(hour)
    for block in open_parts(one.workspace.store, record.parts) if record else ():
        for position in users.find(block):
            found.events[hour] += 1
            for by in users.all_of_event(block.line(position)):
                kind, _, name = by.partition(":")
                (found.user_ids if kind == "user" else found.amplitude_ids).add(name)


def _add_merged(run: OrganizationRun, hour: Hour, numbers: dict[int, str], found: Preview) -> None:
    pairs = run.merged_workspace.load("pairs", hour, PairsRecord) if numbers else None
    for merge in run.merged.merges(hour, pairs.pairs) if pairs else ():
        names = {numbers[number] for number in merge.pair if number in numbers}
        found.merged[hour] += bool(names)
        found.amplitude_ids |= names
    if not found.merged[hour]:
        del found.merged[hour]
