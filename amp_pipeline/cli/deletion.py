"""Commands about deleted users: deleting their events, listing what was deleted."""

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TextIO

import click

from amp_pipeline import __version__, clock
from amp_pipeline.cli.asking import chosen, need_dagster_home, says_what_is_wrong
from amp_pipeline.config import Organization, Project
from amp_pipeline.core import timestamps
from amp_pipeline.core.envelope import MOST_DIGITS
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.suppression import Suppression
from amp_pipeline.core.wording import counted, ranged
from amp_pipeline.deletion import UserDeletion
from amp_pipeline.deletion_preview import Preview, preview
from amp_pipeline.run import OrganizationRun
from amp_pipeline.workspace.suppressions import DeletionReceipt, SuppressionStore

_PROGRESS_HOURS = 500
_SHOWN = 10


@click.command(name="delete-user")
@click.option("--project", "slug", required=True, help="The project's slug.")
@click.option("--user-id", "user_ids", multiple=True, help="A user id, exactly as events have it; may be repeated.")
@click.option("--amplitude-id", "amplitude_ids", multiple=True, help="An Amplitude id; may be repeated.")
@click.option("--ids-from", type=click.File(encoding="utf-8"), help="A file of user ids, one a line; - reads them in.")
@click.option(
    "--amplitude-ids-from", type=click.File(encoding="utf-8"), help="A file of Amplitude ids, one a line; - reads them."
)
@click.option("--for-good", is_flag=True, help="Delete what is still to come as well, not only what is there today.")
@click.option("--note", default="", help="Kept in the receipt, like the number of a ticket; no names and no ids.")
@click.option(
    "--resume", metavar="ID", help="Go on with a deletion; `amp-pipeline deletions` names those that are open."
)
@click.option("--dry-run", is_flag=True, help="Say how much there is of the users, and change nothing.")
@says_what_is_wrong
def delete_user(
    *,
    slug: str,
    user_ids: Sequence[str],
    amplitude_ids: Sequence[str],
    ids_from: TextIO | None,
    amplitude_ids_from: TextIO | None,
    for_good: bool,
    note: str,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Delete the events of users everywhere, for ever.

    From workspace and buckets; they are never delivered again, and a receipt is written. Stopped half-way, the same
    command goes on. The landing is not touched: it belongs to its source. Exit status 1 where something is left; it
    is named, and --resume goes on from there.
    """
    if not dry_run:
        need_dagster_home()
    ((organization, project),) = chosen(slug)
    given = _Given(
        list(dict.fromkeys([*user_ids, *_lines(ids_from)])),
        list(dict.fromkeys(_digits(text) for text in (*amplitude_ids, *_lines(amplitude_ids_from)))),
    )
    if dry_run:
        if resume is not None or not any(given):
            raise ConfigError("--dry-run looks for the users that are named with it; name one, and nothing to resume")
        _try(organization, project, _new(project, given, for_good=for_good, note=note), given)
        return
    suppression = _suppression(organization, project, given, for_good=for_good, note=note, resume=resume)
    sys.exit(1 if _delete(organization, project, suppression, given).left else 0)


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@says_what_is_wrong
def deletions(slug: str | None) -> None:
    """List deletions, and what is left to be done of them.

    Exit status 1 where any is open.
    """
    is_open = False
    for organization, project in chosen(slug):
        store = _store(organization, project)
        for suppression in store.suppressed().all:
            receipt = store.receipt(suppression.id)
            finished = receipt.finished_at if receipt else None
            is_open |= finished is None
            up_to = "for good" if suppression.up_to is None else f"up to {timestamps.write(suppression.up_to)}"
            what = f"finished {finished}  {_summary(receipt)}" if receipt and finished else "open"
            click.echo(f"{project.slug}  {suppression.id}  asked {suppression.asked_at}  {up_to}  {what}")
            for left in receipt.left if receipt else ():
                click.echo(f"  {left}")
            if finished is None:
                click.echo(f"  amp-pipeline delete-user --project {project.slug} --resume {suppression.id}")
    sys.exit(1 if is_open else 0)


class _Given(NamedTuple):
    """Ids in the order in which they were given: people are told of one by its place."""

    users: list[str]
    numbers: list[str]

    def without_trace(self, found: Preview) -> str:
        """Return the ids of which nothing was found, in words; "" where there are none."""
        ids = [("user id", self.users, found.user_ids), ("Amplitude id", self.numbers, found.amplitude_ids)]
        places = [
            f"{what} {place} of {len(names)}"
            for what, names, there in ids
            for place, name in enumerate(names, 1)
            if name not in there
        ]
        more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
        return ", ".join(places[:_SHOWN]) + more


def _try(organization: Organization, project: Project, suppression: Suppression, given: _Given) -> None:
    click.echo(f"looking for {_who(suppression)} in {project.slug}; nothing is changed")
    found = preview(OrganizationRun(organization), project.slug, suppression, progress=_progress("searched"))
    _warn(found, given)
    for hour, why in found.unreadable.items():
        click.echo(f"  can't be looked at: hour {hour}: {why}")
    events = counted(found.events.total(), "event")
    click.echo(f"{events} in {counted(len(found.events), 'hour')}, merged ids in {counted(len(found.merged), 'hour')}")
    if hours := {*found.events, *found.merged}:
        click.echo(f"  {ranged(hours, _SHOWN)}")


def _warn(found: Preview, given: _Given) -> None:
    if places := given.without_trace(found):
        click.echo(
            f"nothing was found of {places} (counted as given, options before files): no event, no merged id; "
            "is it written exactly as events have it?"
        )


def _delete(organization: Organization, project: Project, suppression: Suppression, given: _Given) -> DeletionReceipt:
    # Dagster takes 2 s to import, which the other commands don't need.
    import dagster as dg

    from amp_pipeline.definitions import defs
    from amp_pipeline.defs.delivering import Delivering, runs_in_progress

    deletion = UserDeletion(organization, project, suppression)
    click.echo(f"deletion {suppression.id} of {project.slug}: {_who(suppression)}")
    with dg.DagsterInstance.get() as instance:
        found = deletion.search(_progress("searched"))
        hold = counted(len(found.events), "hour holds", "hours hold")
        click.echo(f"{hold} events of the users, {len(found.merged):,} merged ids")
        if deletion.store.receipt(suppression.id) is None:
            # Later on, some of them are clean already.
            hours = found.events | found.merged
            _warn(preview(OrganizationRun(organization), project.slug, suppression, hours), given)
        # Written before anything goes: who is killed from here on still knows which hours it was about.
        deletion.store.put_receipt(deletion.receipt(found, ["not finished"], _now(), __version__))
        failed = deletion.clean(found, _progress("cleaned in the workspace"))
        left = [f"hour {hour}: {why}" for hour, why in sorted(failed.items())]
        left += deletion.clean_dashboard()
        to_deliver = deletion.to_deliver()
        for other in organization.projects:
            mine = other is project
            enabled = {delivery.name for delivery in other.deliveries if delivery.enabled}
            # Dagster has no hours but those that the project has now; what lies in others is named as left.
            by_delivery = {
                name: list(filter(other.holds, hours))
                for name, hours in to_deliver.get(other.slug, {}).items()
                if name in enabled
            }
            events = {hour for hour in found.events if mine and other.holds(hour)}
            merged = {hour for hour in found.merged if mine and any(one.holds(hour) for one in organization.projects)}
            delivering = Delivering(defs, instance, organization, click.echo)
            bad = delivering.again(other, events, merged, by_delivery)
            left += [f"hour {hour}, {why}" for hour, why in sorted(bad.items())]
        left += deletion.unreached_buckets()
        delivered = {hour for found in to_deliver.values() for hours in found.values() for hour in hours}
        left += deletion.left(found.events | found.merged | delivered)
        again = deletion.search(_progress("searched again"))
        left += [f"hour {hour} holds events of the users again" for hour in sorted(again.events | again.merged)]
        asked = datetime.fromisoformat(suppression.asked_at)
        if ignorant := [run for run in runs_in_progress(instance) if run < asked]:
            go_on = counted(len(ignorant), "run goes", "runs go")
            left.append(f"{go_on} on that began before this was asked for; resume when that has ended")
    receipt = deletion.receipt(found, left, _now(), __version__)
    where = deletion.store.put_receipt(receipt)
    for line in left:
        click.echo(f"  left: {line}")
    click.echo(f"{_summary(receipt)}; receipt: {where}")
    if left:
        click.echo(f"not finished; amp-pipeline delete-user --project {project.slug} --resume {suppression.id}")
    return receipt


def _suppression(
    organization: Organization,
    project: Project,
    given: _Given,
    *,
    for_good: bool,
    note: str,
    resume: str | None,
) -> Suppression:
    """Return the suppression that is meant: an open one, or a new one, which is on the list from here on."""
    store = _store(organization, project)
    listed = store.suppressed().all
    if resume is not None:
        if any(given):
            raise ConfigError("--resume goes on with the users that were given before; give no others with it")
        for one in listed:
            if one.id == resume:
                return one
        raise ConfigError(f"{project.slug} has no deletion {resume}; `amp-pipeline deletions` lists them")
    if not any(given):
        raise ConfigError("name a user: --user-id, --amplitude-id, --ids-from or --amplitude-ids-from")
    new = _new(project, given, for_good=for_good, note=note)
    for one in listed:
        receipt = store.receipt(one.id)
        same = (one.user_ids, one.amplitude_ids) == (new.user_ids, new.amplitude_ids)
        same = same and (one.up_to is None) == for_good
        if same and (receipt is None or receipt.finished_at is None):
            return one
    store.add(new)
    return new


def _new(project: Project, given: _Given, *, for_good: bool, note: str) -> Suppression:
    now = clock.now()
    return Suppression(
        # Not derived from the users: whoever has the receipt could find out by trying.
        id=secrets.token_hex(4),
        project=project.id,
        user_ids=sorted(given.users),
        amplitude_ids=sorted(given.numbers),
        asked_at=now.isoformat(timespec="microseconds"),
        up_to=None if for_good else round(now.timestamp() * 1_000_000),
        note=note,
    )


def _store(organization: Organization, project: Project) -> SuppressionStore:
    return SuppressionStore(OrganizationRun(organization).projects[project.slug].workspace)


def _lines(file: TextIO | None) -> Iterator[str]:
    for line in file or ():
        if text := line.rstrip("\r\n"):
            yield text


def _digits(text: str) -> str:
    digits = text.strip()
    if not digits.isascii() or not digits.removeprefix("-").isdigit() or len(digits) > MOST_DIGITS:
        # Without the text, which may be somebody's name.
        raise ConfigError("an Amplitude id is a whole number in digits; one that was given is none")
    return str(int(digits))


def _who(suppression: Suppression) -> str:
    who = f"{counted(len(suppression.user_ids), 'user id')}, {counted(len(suppression.amplitude_ids), 'Amplitude id')}"
    return f"{who}, {'for good' if suppression.up_to is None else 'up to ' + timestamps.write(suppression.up_to)}"


def _summary(receipt: DeletionReceipt | None) -> str:
    if receipt is None:
        return ""
    files = sum(len(one.written) + len(one.deleted) for one in receipt.rewritten)
    deliveries = {one.delivery for one in receipt.rewritten}
    lines = sum(receipt.hours.values())
    return (
        f"{counted(lines, 'event')} deleted in {counted(len(receipt.hours), 'hour')}, merged ids in "
        f"{len(receipt.merged_hours):,}; {counted(files, 'file')} of "
        f"{counted(len(deliveries), 'delivery', 'deliveries')} rewritten or deleted"
    )


def _progress(what: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done and done % _PROGRESS_HOURS == 0:
            click.echo(f"  {done} of {total} hours {what}")

    return progress


def _now() -> str:
    return clock.now().isoformat(timespec="microseconds")
