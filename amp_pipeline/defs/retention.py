"""Taking away, each day, what the workspace holds but nothing needs any more."""

from collections import Counter

import dagster as dg

from amp_pipeline import clock
from amp_pipeline.config import Organization
from amp_pipeline.core.errors import AmpError
from amp_pipeline.retention import plan, remove
from amp_pipeline.storage.urls import open_store


def retention_schedule(organization: Organization, *, now: clock.Now = clock.now) -> dg.ScheduleDefinition:
    """Return the schedule that tidies an organization's workspace; it runs by itself where any project does."""
    name = f"{organization.slug}_retention"
    description = (
        f"Takes away what the workspace of {organization.slug} holds but nothing needs any more, as `retention` says: "
        "superseded versions of what runs write, and old entries of the delivery log."
    )

    @dg.op(name=f"{organization.slug}__tidy", description=description)
    def tidy_workspace(context: dg.OpExecutionContext) -> None:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        try:
            workspace = open_store(organization.workspace, organization.s3)
            for one in remove(workspace, plan(organization, workspace, now())):
                counts[one.kind] += 1
                sizes[one.kind] += one.bytes
        except AmpError as error:
            # Whoever tries the workspace tells people of it; the next run goes on.
            context.log.error(f"the workspace could not be tidied: {error}")
        for kind, count in sorted(counts.items()):
            context.log.info(f"{kind}: {count} objects, {sizes[kind]:,} bytes are gone")
        context.log.info(f"{counts.total()} objects, {sizes.total():,} bytes are gone")
        context.add_output_metadata({"objects": counts.total(), "bytes": sizes.total(), **counts})

    @dg.job(name=name, description=description, executor_def=dg.in_process_executor)
    def retention() -> None:
        tidy_workspace()

    automatic = any(project.automatic for project in organization.projects)
    return dg.ScheduleDefinition(
        name=name,
        job=retention,
        cron_schedule="45 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if automatic else dg.DefaultScheduleStatus.STOPPED,
        description=description,
    )
