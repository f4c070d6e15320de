"""What each asset is, in the words that users read in the UI."""

from datetime import timedelta

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.source_settings import AmplitudeExport


def raw_events(project: Project) -> str:
    """Describe what landed."""
    if isinstance(project.source, AmplitudeExport):
        stays = (
            f"An hour is pulled from {project.source.address} once Amplitude has it, with its neighbours in as few "
            "requests as is safe, and kept in the workspace as it came: "
        )
    else:
        stays = f"Lines stay in the landing (`{project.source.url}`) as they are; "
    return (
        f"What landed in an hour of project {project.id}: its lines told apart into events, strays and quarantine, "
        "and the key index of its events.\n\n"
        f"An hour is one UTC hour of `server_upload_time`. {stays}the workspace "
        "records which objects were read, with size and digest, so that a changed or late file is "
        "noticed. Lines that are no events are kept in the quarantine with reason, object and line number. Events of "
        "another hour (strays) are handed to their own hour. An hour in which nothing landed has zeros."
    )


def deduped_events(project: Project) -> str:
    """Describe what is left without repeats."""
    return (
        "The events of an hour that are not repeats, as gzip parts in the workspace: the pipeline's own durable "
        "record, from which every delivery is made.\n\n"
        "An event is a repeat when an event with the same identity (`device_id` and `$insert_id`; else `device_id`, "
        "`event_id` and `client_event_time`; else `uuid`) arrived before it, at most "
        f"{_length(project.dedupe.window)} earlier. The first one stays. Repeats are reported beside the parts, with "
        "their text, the hour first seen, and whether the content differs. Which hour runs first makes no difference."
    )


def merged_ids(organization: Organization) -> str:
    """Describe the organization's merged ids."""
    return (
        f"The merged ids of an hour of organization {organization.id}: `amplitude_id` (the loser) was merged into "
        "`merged_amplitude_id` (the winner).\n\n"
        "From landed merged-id files, as they stand, and from events with `data.merged_amplitude_id` (those have a "
        f"null `scope`). A pair that stood in the {_length(organization.merged_ids_window)} before is left out. "
        "Chains and cycles are counted, not resolved."
    )


def archive(project: Project, delivery: Delivery) -> str:
    """Describe delivered events."""
    marker = " and a complete marker" if delivery.complete_markers else ""
    chosen = f"Events for which `{delivery.filter}` is true." if delivery.filter else "All events."
    return (
        f"The delivered events of an hour in `{delivery.url}`, in Amplitude's own layout: "
        f"`{project.id}/{project.id}_yyyy-MM-dd_H#n.json.gz`, one event as JSON on each line, byte for byte as it "
        f"landed.\n\n{chosen} An hour without events has no files, but a manifest with zeros{marker}.\n\n"
        "Whether the bucket can be reached, and what to change if not, is told by the check `bucket_can_be_reached` of "
        f"the asset `{delivery.name}/manifest`."
    )


def delivered_merged_ids(organization: Organization, delivery: Delivery) -> str:
    """Describe delivered merged ids."""
    return (
        "The delivered merged ids of an hour, "
        f"`-{organization.id}/-{organization.id}_yyyy-MM-dd_H.json.gz` in `{delivery.url}`. "
        "An hour without any has no file."
    )


def manifest(project: Project, delivery: Delivery) -> str:
    """Describe the proof of a delivered hour."""
    end = (
        "The complete marker follows it."
        if delivery.complete_markers
        else "Complete markers are switched off, so readers wait for the manifest."
    )
    return (
        "The proof of a delivered hour: files with rows, bytes and SHA-256, and the counts that account for every "
        f"landed line. `_amp_pipeline/{project.id}/{delivery.name}/yyyy-MM-dd/HH.json` in `{delivery.url}`.\n\n"
        f"Written after the files were read back and held against it. {end} It holds nothing that two runs would "
        "write differently; when and why an hour was delivered is in the delivery log in the workspace."
    )


def tables(project: Project, delivery: Delivery) -> str:
    """Describe the tables of a delivery."""
    return (
        f"What `{delivery.name}` delivered, as Parquet tables in `{delivery.url}`: "
        f"`tables/{project.id}/event/date=yyyy-MM-dd/hour=HH/event.parquet` for each hour with events, and one object "
        "each for user, group, user_group, event_type, event_category, cohort and user_cohort, which are brought up to "
        "date once a run.\n\nMade from the delivered files, which are held against the manifest. Columns, keys and "
        "joins are in docs/tables.md."
    )


def _length(window: timedelta) -> str:
    return f"{window.days} days" if window == timedelta(days=window.days) else str(window)
