"""What is planted in the landing of the shop, how often, and which rule of docs/rules.md answers it.

The numbers stand at the top. An event is planted with one thing only, so that the sums of the table are exact.
How events become bytes is `make_landing.py`'s business.
"""

# ruff: noqa: DTZ001 - all times are UTC and naive, as exports write them

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shop_events import (
    PROJECT,
    Event,
    amplitude_id,
    between,
    compact,
    draw,
    has_t_form,
    identifier,
    line,
    milliseconds,
    read_events,
)  # fmt: skip

ORGANIZATION = 189524
START, END = datetime(2024, 5, 6), datetime(2024, 5, 15)
HOUR, DAY, WEEK, INSTANT = timedelta(hours=1), timedelta(days=1), timedelta(days=7), timedelta(microseconds=1)

# Events sent again: shares of all rows, then plain numbers.
SAME_HOUR, SAME_DAY, DAYS_LATER = 0.02, 0.015, 0.01
WEEK_EXACTLY, WEEK_AND_AN_INSTANT, WEEK_AND_HOURS, TWICE_FOUR_DAYS = 8, 6, 6, 3
BY_CLIENT = 0.15  # share of them that an updated app sent anew, so with other content
# Events without ids: shares of all rows, and how many of them are sent again.
NO_INSERT_ID, NO_INSERT_ID_AGAIN, WHOLE_AS_FLOAT = 0.03, 10, 2
NO_DEVICE_ID, NO_DEVICE_SAME_UUID, NO_DEVICE_NEW_UUID, NO_ID_AT_ALL = 0.01, 5, 3, 2
MERGED_USERS, STRAYS, PART_EVENTS = 12, 6, 40

UNMARKED = (datetime(2024, 5, 10, 18), datetime(2024, 5, 12, 3), datetime(2024, 5, 14, 23))
LATE_FILE = f"{PROJECT}/{PROJECT}_2024-05-09_3#1.json"
LATE_HOURS, LATE_AGAIN = (datetime(2024, 5, 7, 4), datetime(2024, 5, 7, 12)), datetime(2024, 5, 7, 15)
BROKEN_FILE, BROKEN_HOUR = f"{PROJECT}/{PROJECT}_2024-05-08_9#2.json", datetime(2024, 5, 8, 9)
TWO_MEMBERS = f"{PROJECT}/{PROJECT}_2024-05-13_14#0.json.gz"
PAIR_AGAIN = datetime(2024, 5, 7, 12)


@dataclass
class Plant:
    """Something planted: what it is, the rule that answers it, and where it went."""

    what: str
    rule: str
    places: Sequence[Event | str]
    repeats: int = 0
    conflicts: int = 0

    def __str__(self) -> str:
        """Its row of the table."""
        names = Counter(place.object_name if isinstance(place, Event) else place for place in self.places)
        few = ", ".join(f"`{name.rpartition('/')[2]}`" for name in sorted(names))
        where = few if len(names) < 5 else f"{len(names)} objects"
        return f"| {self.what} | {len(self.places)} | {self.repeats} | {self.conflicts} | {where} | {self.rule} |"


def hour_of(time: datetime) -> datetime:
    """The start of the hour of a time."""
    return time.replace(minute=0, second=0, microsecond=0)


def events_name(hour: datetime, end: str) -> str:
    """The name of an object of the project; `end` is part number and format, or `_complete`."""
    return f"{PROJECT}/{PROJECT}_{hour:%Y-%m-%d}_{hour.hour}{end}"


def merges_name(hour: datetime) -> str:
    """Merged-id files are small and left plain to be read, but for those of one day."""
    end = ".json.gz" if hour.date() == PAIR_AGAIN.date() else ".json"
    return f"-{ORGANIZATION}/-{ORGANIZATION}_{hour:%Y-%m-%d}_{hour.hour}{end}"


def within_the_hour(event: Event) -> datetime:
    """A later time in the same hour."""
    return event.arrived + (event.hour + HOUR - event.arrived) * draw("within the hour", event.record["uuid"])


def later_that_day(event: Event) -> datetime:
    """A time in one of the later hours of the day; there is none at 23 h, but no row is that late."""
    midnight = event.hour.replace(hour=0) + DAY
    return event.hour + HOUR + (midnight - event.hour - HOUR) * draw("that day", event.record["uuid"])


def days_later(event: Event) -> datetime:
    """A time 1 to 5 days and up to an hour later."""
    days = 1 + int(draw("days", event.record["uuid"]) * 5)
    return event.arrived + days * DAY + between(0, 3600, "days later", event.record["uuid"])


def hours_after_a_week(event: Event) -> datetime:
    """A time up to two hours outside the window of a week."""
    return event.arrived + WEEK + between(1800, 7200, "after a week", event.record["uuid"])


class Planting:
    """The events, the lines of the merged-id files, the broken file, and what was planted in them."""

    def __init__(self) -> None:
        """Plant everything; the order decides which events are left for what comes after."""
        self.events = read_events()
        self.rows = len(self.events)
        self.merges: defaultdict[datetime, list[bytes]] = defaultdict(list)
        self.broken = b""
        self.plants: list[Plant] = []
        self._ordinary = sorted(self.events, key=lambda event: draw("order", event.record["uuid"]))
        self._plant_late_file()
        self._plant_broken_lines()
        self._plant_merges()
        self._plant_missing_ids()
        self._plant_sent_again()
        self._place()
        self._count_columns()

    def _take(self, count: int, wanted: Callable[[Event], bool] = lambda event: True) -> list[Event]:
        """Some ordinary events, which from now on are set aside: no event is planted twice."""
        taken = [event for event in self._ordinary if wanted(event)][:count]
        if len(taken) < count:
            raise ValueError(f"{count} ordinary events are wanted and only {len(taken)} are left")
        chosen = {id(event) for event in taken}
        self._ordinary = [event for event in self._ordinary if id(event) not in chosen]
        return taken

    def _send_again(
        self, first: Sequence[Event], when: Callable[[Event], datetime], what: str, rule: str, repeats: bool = True
    ) -> list[Event]:
        by_client = [repeats and draw("by client", event.record["uuid"]) < BY_CLIENT for event in first]
        again = [event.sent_again(when(event), new) for event, new in zip(first, by_client, strict=True)]
        self.events += again
        self.plants.append(Plant(what, rule, again, repeats * len(again), sum(by_client)))
        return again

    def _plant_late_file(self) -> None:
        night, noon = LATE_HOURS
        offline = self._take(2, lambda event: event.hour == night)
        strays = self._take(STRAYS, lambda event: event.hour == noon)
        for event in offline + strays:
            event.object_name = LATE_FILE
        self.plants.append(Plant(f"strays, the only events of {night:%Y-%m-%d} {night.hour} h", "Strays", offline))
        self.plants.append(
            Plant(f"strays of {noon:%Y-%m-%d} {noon.hour} h, beside that hour's own file", "Strays", strays)
        )
        what = f"came as a stray of {noon.hour} h and again at {LATE_AGAIN.hour} h: the later is the repeat"
        first = max(strays, key=lambda event: draw("by client", event.record["uuid"]))
        at = LATE_AGAIN + between(60, 1800, "stray again")
        self._send_again([first], lambda event: at, what, "Strays; Repeats 1")

    def _plant_broken_lines(self) -> None:
        (good,) = self._take(1, lambda event: event.hour == BROKEN_HOUR)
        good.object_name = BROKEN_FILE
        keys = ("$insert_id", "app", "device_id", "event_type", "server_upload_time", "uuid")
        whole = {key: good.record[key] for key in keys} | {"$insert_id": identifier("broken")}
        broken = {
            "not_json": compact(whole)[:150],
            "trailing_data": compact(whole) + compact(whole),
            "not_an_object": b"[" + compact(whole) + b"]",
            "wrong_type": compact(whole | {"device_id": 20240508}),
            "no_time": compact({key: value for key, value in whole.items() if key != "server_upload_time"}),
            "bad_time": compact(whole | {"server_upload_time": "2022:05:27 10:00:00"}),
            "other_project": compact(whole | {"app": PROJECT + 1}),
            "not_utf8": compact(whole | {"city": "München"}).decode().encode("latin-1"),
        }
        first, *others = broken.values()
        self.broken = b"\n".join([first, line(good) + b"\r", b"", *others])  # no line end after the last one
        self.plants.append(Plant("good event between broken lines, its line end CRLF", "Lines", [good]))
        self.plants += [Plant(f"broken line `{reason}`", "From a line to an event", [BROKEN_FILE]) for reason in broken]
        self.quarantined = len(broken)

    def _plant_merges(self) -> None:
        """Some new users are anonymous at first; the event that ends this merges their two ids."""
        histories: defaultdict[str, list[Event]] = defaultdict(list)
        for event in sorted(self._ordinary, key=lambda event: event.record["client_event_time"]):
            if event.record["user_properties"]["user_lifecycle"] == "new":
                histories[event.record["user_id"]].append(event)
        users = sorted((user for user in histories if len(histories[user]) > 4), key=lambda user: draw("merged", user))
        pairs: list[tuple[int, int, Event]] = []  # loser, winner, the event that merges them
        for user in sorted(users[:MERGED_USERS], key=lambda user: histories[user][3].arrived):
            loser, winner = amplitude_id(f"anonymous {user}"), amplitude_id(user)
            *anonymous, merging = histories[user][:4]
            for event in anonymous:
                event.record |= {"user_id": None, "amplitude_id": loser}
            merging.record |= {"amplitude_id": loser, "data": merging.record["data"] | {"merged_amplitude_id": winner}}
            self._take(1, lambda event, merging=merging: event is merging)
            pairs.append((loser, winner, merging))
        self.plants.append(Plant("event that merges two ids", "Merged ids", [merging for *_, merging in pairs]))

        landed = [self._merge(*pair) for pair in pairs[:6]]
        what = "landed merge of the same pair in the same hour: the record made from the event is a repeat"
        self.plants.append(Plant(what, "Merged ids", landed))
        loser, winner, merging = pairs[0]
        again = [self._merge(loser, winner, merging, PAIR_AGAIN - merging.hour)]
        self.plants.append(Plant("landed merge of a pair that landed before: a repeat", "Merged ids", again))
        loser, winner, merging = pairs[5]
        cycle = [landed[5], self._merge(winner, loser, merging, HOUR)]
        self.plants.append(Plant("cycle: A into B, an hour later B into A", "Merged ids", cycle))
        loser, winner, merging = pairs[6]
        (first, second, *_) = histories[merging.record["user_id"]]
        first.record["amplitude_id"] = amplitude_id("earlier device")
        chain = [self._merge(first.record["amplitude_id"], loser, second)]
        what = "chain: landed A into B; B into C is made from an event"
        self.plants.append(Plant(what, "Merged ids", [*chain, merging]))
        what = "merging event sent again: the second record made is a repeat too"
        self._send_again([pairs[7][2]], days_later, what, "Repeats 1; Merged ids")

    def _merge(self, loser: int, winner: int, event: Event, later: timedelta = timedelta()) -> str:
        at = event.arrived + later
        times = {"merge_time": milliseconds(event.record["event_time"] + later), "merge_server_time": milliseconds(at)}
        merge = {"scope": PROJECT} | times | {"amplitude_id": loser, "merged_amplitude_id": winner}
        self.merges[hour_of(at)].append(json.dumps(merge, separators=(",", ":")).encode())
        return merges_name(hour_of(at))

    def _plant_missing_ids(self) -> None:
        nameless = self._take(round(NO_INSERT_ID * self.rows))
        for number, event in enumerate(nameless):
            event.record["$insert_id"] = ("", None)[number % 2]
        self.plants.append(Plant("`$insert_id` null or empty", "Repeats 2", nameless))
        early = [event for event in nameless if days_later(event) < END][:NO_INSERT_ID_AGAIN]
        what = f"one of them again, {WHOLE_AS_FLOAT} with `event_id` as 17.0 instead of 17"
        for event in self._send_again(early, days_later, what, "Repeats 2")[:WHOLE_AS_FLOAT]:
            event.record["event_id"] = float(event.record["event_id"])

        bodiless = self._take(round(NO_DEVICE_ID * self.rows), lambda event: days_later(event) < END)
        for number, event in enumerate(bodiless):
            event.record["device_id"] = ("", None)[number % 2]
        self.plants.append(Plant("`device_id` null or empty", "Repeats 3", bodiless))
        same, new = bodiless[:NO_DEVICE_SAME_UUID], bodiless[NO_DEVICE_SAME_UUID:][:NO_DEVICE_NEW_UUID]
        again = self._send_again(same, days_later, "one of them again with the same uuid", "Repeats 3")
        for first, event in zip(same, again, strict=True):
            event.record["uuid"] = first.record["uuid"]
        what = "one of them again with the same `$insert_id`, but a new uuid: no repeat"
        self._send_again(new, days_later, what, "Repeats 3", repeats=False)

        unknown = self._take(NO_ID_AT_ALL, lambda event: days_later(event) < END)
        again = self._send_again(unknown, days_later, "again, with no id at all: no repeat", "Repeats 4", repeats=False)
        for event in unknown + again:
            event.record |= {"$insert_id": None, "device_id": None, "uuid": None}

    def _plant_sent_again(self) -> None:
        def plant(count: float, when: Callable[[Event], datetime], what: str, repeats: bool = True) -> list[Event]:
            first = self._take(round(count), lambda event: when(event) < END)
            return self._send_again(first, when, what, "Repeats 1", repeats)

        exactly = "exactly 7 days later: a repeat, the limit is included"
        plant(WEEK_EXACTLY, lambda event: event.arrived + WEEK, exactly)
        instant = "7 days and a microsecond later: no repeat"
        plant(WEEK_AND_AN_INSTANT, lambda event: event.arrived + WEEK + INSTANT, instant, repeats=False)
        plant(WEEK_AND_HOURS, hours_after_a_week, "7 days and 30 to 120 minutes later: no repeat", repeats=False)
        twice = self._take(TWICE_FOUR_DAYS, lambda event: event.arrived + 8 * DAY < END)
        what = "4 days later, and once more"
        again = self._send_again(twice, lambda event: event.arrived + 4 * DAY, what, "Repeats 1")
        what = "8 days later: a repeat of the one 4 days later, which is first seen"
        self._send_again(again, lambda event: event.arrived + 4 * DAY, what, "Repeats 1")
        plant(SAME_HOUR * self.rows, within_the_hour, "again within the same hour")
        plant(SAME_DAY * self.rows, later_that_day, "again in a later hour of the day")
        plant(DAYS_LATER * self.rows, days_later, "again 1 to 5 days later")

    def _place(self) -> None:
        """Give each event its object: that of its hour; busy hours have two parts."""
        hours = Counter(event.hour for event in self.events if not event.object_name)
        for event in self.events:
            busy = hours[event.hour] > PART_EVENTS
            part = int(draw("part", event.arrived) * 2) if busy else 0
            event.object_name = event.object_name or events_name(event.hour, f"#{part}.json.gz")

    def _count_columns(self) -> None:
        def count(what: str, rule: str, holds: Callable[[Event], bool]) -> None:
            self.plants.append(Plant(what, rule, [event for event in self.events if holds(event)]))

        count("times in the `T` form", "Times", has_t_form)
        count("`city` and `City` in user_properties", "Fields", lambda event: "City" in event.record["user_properties"])
        count("keys that no document lists", "Fields", lambda event: "consent" in event.record)
        moved = "client clock off by 60 s or more, so `event_time` differs from `client_event_time`"
        count(moved, "none", lambda event: event.record["event_time"] != event.record["client_event_time"])
        self.plants.append(Plant("file of two gzip members", "Landing objects", [TWO_MEMBERS]))
        self.plants.append(Plant("file that holds strays only", "Strays", [LATE_FILE]))
        unmarked = [events_name(hour, "_complete") for hour in UNMARKED]
        self.plants.append(Plant("complete marker that is missing", "Landing objects", unmarked))
