"""Turn each row of the shop's CSV file into one event with all columns of a real export.

Every invented value is a hash of `SEED`, its purpose and its row or user, so that it is the same on every
run and no change to one of them moves the others. What is planted on top is `planting.py`'s business.
"""

# ruff: noqa: DTZ001, DTZ007 - all times are UTC and naive, as exports write them

import csv
import hashlib
import json
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from catalogue import DEVICES, DRIFTS, PLACES, PRODUCTS, SAME_COLUMNS, UNLISTED

ROWS = Path(__file__).with_name("shop-clickstream-2024-05-06.csv")
SEED = "shop 2024-05-06"
PROJECT = 187520
T_FORM, DRIFTED_DEVICES, TWO_CITIES, UNLISTED_KEYS = 0.03, 0.04, 0.05, 0.02  # shares
OFFLINE_SESSION, OFFLINE_SINCE, RECONNECTED = "sess_002897", "2024-05-06 22", datetime(2024, 5, 7, 4, 12)


@dataclass
class Event:
    """One landed event; its times are datetimes until it is written."""

    record: dict[str, Any]
    object_name: str = ""  # set early only where it is not that of the event's own hour

    @property
    def arrived(self) -> datetime:
        """Its `server_upload_time`."""
        time: datetime = self.record["server_upload_time"]
        return time

    @property
    def hour(self) -> datetime:
        """The start of the hour it belongs to."""
        return self.arrived.replace(minute=0, second=0, microsecond=0)

    def sent_again(self, at: datetime, by_client: bool = False) -> "Event":
        """The same event, arriving at `at`: replayed by the server, or sent anew by an updated app."""
        late = at - self.arrived
        fresh: dict[str, Any] = {"uuid": identifier("uuid", self.record["uuid"], at)}
        moved = ["server_upload_time", "processed_time"]
        if by_client:
            moved += ["client_upload_time", "server_received_time"]
            fresh["version_name"] = "4.19.0"
        return Event(self.record | fresh | {key: self.record[key] + late for key in moved})


def draw(*purpose: object) -> float:
    """A number from 0 up to 1 that depends on `SEED` and `purpose` only."""
    return int.from_bytes(_digest(*purpose)[:6]) / 2**48


def between(low: float, high: float, *purpose: object) -> timedelta:
    """A span of so many seconds, to the microsecond."""
    return timedelta(microseconds=int((low + draw(*purpose) * (high - low)) * 1e6))


def identifier(*purpose: object) -> str:
    """A UUID that is the same on every run."""
    return str(uuid.UUID(bytes=_digest(*purpose)[:16], version=4))


def amplitude_id(person: str) -> int:
    """Twelve digits for one user, or one anonymous visitor."""
    return 100_000_000_000 + int(draw("amplitude_id", person) * 900_000_000_000)


def _digest(*purpose: object) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, (SEED, *purpose))).encode()).digest()


def milliseconds(time: datetime) -> int:
    """Whole milliseconds since 1970."""
    return (time - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


def compact(record: dict[str, Any], ascii_only: bool = False, separator: str = " ") -> bytes:
    """One JSON line, keys in order; the Android app writes non-ASCII characters as escapes."""
    return json.dumps(
        record, default=lambda time: time.isoformat(separator, "microseconds"), sort_keys=True,
        ensure_ascii=ascii_only, separators=(",", ":"),
    ).encode()  # fmt: skip


def line(event: Event) -> bytes:
    """The event as it lands; a small share has the `T` form of times, the same one when sent again."""
    record = event.record
    separator = "T" if has_t_form(event) else " "
    return compact(record, record["platform"] == "Android", separator)


def has_t_form(event: Event) -> bool:
    """Whether its times are written with `T` between date and time."""
    return draw("T", event.record["client_event_time"]) < T_FORM


def read_events() -> list[Event]:
    """One event for each row of the CSV file, in order of time."""
    with ROWS.open(encoding="utf-8", newline="") as text:
        rows = sorted(enumerate(csv.DictReader(text)), key=lambda numbered: numbered[1]["timestamp"])
    session_starts: dict[str, datetime] = {}
    counters: Counter[str] = Counter()
    events = []
    for number, row in rows:
        start = session_starts.setdefault(row["session_id"], datetime.fromisoformat(row["timestamp"]))
        device = identifier("device", row["user_id"], row["platform"])
        counters[device] += 1
        event_id = counters[device] + int(draw("event_id", device) * 500)
        ids = {"device_id": device, "event_id": event_id, "session_id": milliseconds(start)}
        events.append(Event(_columns(number, row) | _times(number, row, device) | ids))
    return events


def _columns(number: int, row: dict[str, str]) -> dict[str, Any]:
    user = row["user_id"]
    home = dict(PLACES[int(draw("place", user) * len(PLACES))])
    event_properties: dict[str, Any] = {"session_name": row["session_id"]}
    user_properties = {key: row[key] for key in ("acquisition_channel", "user_cohort", "user_lifecycle")}
    network, currency = home.pop("network"), home.pop("currency")
    if row["event"] in ("product_view", "add_to_cart", "purchase"):
        quantity = 1 if row["event"] == "product_view" else 1 + int(draw("quantity", number) * 3)
        product = PRODUCTS[int(draw("product", number) * len(PRODUCTS))]
        event_properties |= product | {"currency": currency, "quantity": quantity}
    if draw("two cities", user) < TWO_CITIES:
        user_properties |= {"City": home["city"], "city": home["city"].lower()}
    return SAME_COLUMNS | DEVICES[row["platform"]] | home | {
        "$insert_id": identifier("$insert_id", number),
        "amplitude_id": amplitude_id(user),
        "app": PROJECT,
        "data": {"group_first_event": {}, "group_ids": {}, "path": "/2/httpapi", "user_properties_updated": True},
        "event_properties": event_properties,
        "event_type": row["event"],
        "ip_address": f"{network}.{1 + int(draw('address', user) * 254)}",
        "paying": True if row["user_lifecycle"] == "loyal" else None,
        "user_creation_time": datetime.strptime(row["user_cohort"], "%Y-%m"),
        "user_id": user,
        "user_properties": user_properties,
        "uuid": identifier("uuid", number),
        "version_name": "4.18.1",
    } | (UNLISTED if draw("unlisted", number) < UNLISTED_KEYS else {})  # fmt: skip


def _times(number: int, row: dict[str, str], device: str) -> dict[str, datetime]:
    """The five server and client times; `event_time` by Amplitude's rule of 60 seconds."""
    clicked = datetime.fromisoformat(row["timestamp"]) + between(0, 1, "clicked", number)
    sent = clicked + between(0.2, 30, "sent", number)
    if row["session_id"] == OFFLINE_SESSION and row["timestamp"].startswith(OFFLINE_SINCE):
        sent = RECONNECTED + between(0, 9, "sent", number)
    offset = between(0.02, 1.5, "network", number)
    if draw("drifted", device) < DRIFTED_DEVICES:
        offset = timedelta(seconds=DRIFTS[int(draw("drift", device) * len(DRIFTS))])
    arrived = sent + offset + between(0.3, 5, "ingested", number)
    return {
        "client_event_time": clicked,
        "client_upload_time": sent,
        "event_time": clicked + offset if abs(offset) >= timedelta(seconds=60) else clicked,
        "server_received_time": sent + offset,
        "server_upload_time": arrived,
        "processed_time": arrived + between(1, 10, "processed", number),
    }
