"""Columns of an event as Amplitude exports it: names, kinds and what they mean.

Sources: the S3 export page (vendor docs 000), the warehouse types of amplitude-docs
    ``destination-catalog/en/snowflake.md``, and keys that only real exports show. ``sample_rate`` is
documented as null and typed as a number in warehouses; ``paying`` is documented as boolean and arrives as boolean,
string or null.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["string", "integer", "number", "boolean", "time", "json"]


class Column(NamedTuple):
    """A column: its name, kind, and what it means."""

    name: str
    kind: Kind
    meaning: str


COLUMNS = (
    Column(
        "$insert_id",
        "string",
        "Unique identifier of the event, set by the sender; with device_id the event's identity.",
    ),
    Column("$insert_key", "string", "Amplitude's own key of the event; in real exports only."),
    Column("$schema", "integer", "Version of Amplitude's schema."),
    Column("adid", "string", "Android advertising id."),
    Column("amplitude_attribution_ids", "json", "Hashed attribution ids of the event."),
    Column("amplitude_event_type", "string", "Amplitude's own type for events that it makes."),
    Column("amplitude_id", "integer", "Amplitude's id of the user as first assigned."),
    Column("app", "integer", "Project id."),
    Column("city", "string", "City."),
    Column("client_event_time", "time", "When the device logged the event, by its clock, UTC."),
    Column("client_upload_time", "time", "When the device uploaded the event, by its clock, UTC."),
    Column("country", "string", "Country."),
    Column("data", "json", "Amplitude's own fields such as first_event and merged_amplitude_id."),
    Column("data_type", "string", "Kind of record; in real exports only."),
    Column("device_brand", "string", "Brand of the device."),
    Column("device_carrier", "string", "Carrier of the device."),
    Column("device_family", "string", "Family of the device."),
    Column("device_id", "string", "Identifier of the device."),
    Column("device_manufacturer", "string", "Manufacturer of the device."),
    Column("device_model", "string", "Model of the device."),
    Column("device_type", "string", "Type of the device."),
    Column("dma", "string", "Designated marketing area."),
    Column("event_id", "integer", "Counter that tells a device's events apart."),
    Column("event_properties", "json", "Properties sent with the event."),
    Column("event_time", "time", "client_event_time, adjusted where the device's clock was off, UTC."),
    Column("event_type", "string", "Type of the event."),
    Column("global_user_properties", "json", "User properties of all projects; in real exports only."),
    Column("group_properties", "json", "Properties of the event's groups."),
    Column("groups", "json", "Groups of the event by type."),
    Column("idfa", "string", "iOS identifier for advertisers."),
    Column("ip_address", "string", "IP address."),
    Column("is_attribution_event", "boolean", "Whether the event is an attribution."),
    Column("language", "string", "Language of the user."),
    Column("library", "string", "Library that sent the event."),
    Column("location_lat", "number", "Latitude."),
    Column("location_lng", "number", "Longitude."),
    Column("os_name", "string", "Name of the operating system."),
    Column("os_version", "string", "Version of the operating system."),
    Column("partner_id", "string", "Id of the partner that sent the event; in real exports only."),
    Column("paying", "boolean", "Whether the user ever logged revenue."),
    Column("plan", "json", "Tracking plan of the event; in real exports only."),
    Column("platform", "string", "Platform of the device."),
    Column("processed_time", "time", "When Amplitude processed the event, UTC."),
    Column("region", "string", "Region."),
    Column("sample_rate", "number", "Number of samples taken."),
    Column("server_received_time", "time", "When Amplitude's servers received the event, UTC."),
    Column("server_upload_time", "time", "When Amplitude ingested the event, UTC; decides the hour."),
    Column("session_id", "integer", "Start of the session in ms since 1970; -1 without session."),
    Column("source_id", "string", "Id of the source; in real exports only."),
    Column("start_version", "string", "App version at which the user was first seen."),
    Column("user_creation_time", "time", "When the user was first seen, UTC."),
    Column("user_id", "string", "Identifier of the user, set by the sender."),
    Column("user_properties", "json", "Properties of the user."),
    Column("uuid", "string", "Unique identifier of this record of the event."),
    Column("version_name", "string", "App version."),
)
"""Every known column, in the alphabetical order of real exports. Events may hold others; they pass."""

KINDS: dict[str, Kind] = {column.name: column.kind for column in COLUMNS}
"""Kind of each known column."""
