"""Write an hour of events as Amplitude exports it: the real columns, invented values, the same bytes for the same seed.

    python benchmarks/events.py FOLDER --events 500000

Every event is a function of the seed and its number alone. So a repeat is made from the number of its original,
whatever lies between the two, memory stays flat, and `Events.of_week` knows what comes again from earlier hours.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

EVENTS_AN_OBJECT = 100_000
HOURS_OF_WEEK = 168
LEVEL = 6
"""Of zlib: what Amplitude's own files look like."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Hour:
    """What an hour is made of. Two equal ones have the same bytes."""

    events: int = 500_000
    seed: int = 1
    project: int = 187520
    hour: str = "2025-07-08-10"
    repeats: float = 0.03
    """Share of lines that repeat an earlier one of the hour; a third of them say something else than the original."""
    repeats_of_week: float = 0.01
    """Share of events that came once before, in one of the 168 hours before this one."""
    bad_lines: int = 0
    """Lines in a million that are no event."""
    objects: int = 0
    """Landing objects; 0: one for each 100,000 events."""
    size: float = 1.0
    """Factor on the lists and texts in properties; lines have 1.8 KB on average with 1, from 1.4 to 6."""

    @property
    def start(self) -> datetime:
        """Its first instant."""
        return datetime.strptime(self.hour, "%Y-%m-%d-%H").replace(tzinfo=UTC)

    @property
    def key(self) -> str:
        """Its partition key."""
        return f"{self.start:%Y-%m-%d-%H}:00"

    @property
    def object_names(self) -> list[str]:
        """Its landing objects, in order."""
        return [self.name(f"#{part}.json.gz") for part in range(self.objects or -(-self.events // EVENTS_AN_OBJECT))]

    def name(self, ending: str) -> str:
        """Name of an object of the hour; Amplitude doesn't pad the hour."""
        return f"{self.project}/{self.project}_{self.start:%Y-%m-%d}_{self.start.hour}{ending}"


# What events are made of. ------------------------------------------------------------------------------------------

# city, region, country, dma, language, latitude, longitude, network (of RFC 5737)
_PLACES: list[tuple[str, str, str, str | None, str, float | None, float | None, str]] = [
    ("San Francisco", "California", "United States", "San Francisco, CA", "English", 37.77, -122.41, "192.0.2"),
    ("New York", "New York", "United States", "New York, NY", "English", 40.71, -74.0, "192.0.2"),
    ("Chicago", "Illinois", "United States", "Chicago, IL", "English", None, None, "192.0.2"),
    ("Austin", "Texas", "United States", "Austin, TX", "English", 30.26, -97.74, "192.0.2"),
    ("London", "England", "United Kingdom", None, "English", 51.5, -0.12, "198.51.100"),
    ("Manchester", "England", "United Kingdom", None, "English", None, None, "198.51.100"),
    ("Toronto", "Ontario", "Canada", None, "English", 43.65, -79.38, "198.51.100"),
    ("Amsterdam", "North Holland", "Netherlands", None, "Dutch", 52.37, 4.89, "198.51.100"),
    ("Bengaluru", "Karnataka", "India", None, "English", None, None, "198.51.100"),
    ("Sydney", "New South Wales", "Australia", None, "English", -33.86, 151.2, "203.0.113"),
    ("Lyon", "Auvergne-Rhône-Alpes", "France", None, "French", 45.76, 4.84, "203.0.113"),
    ("München", "Bavaria", "Germany", None, "German", 48.13, 11.58, "203.0.113"),
    ("São Paulo", "São Paulo", "Brazil", None, "Portuguese", None, None, "203.0.113"),
    ("Kraków", "Lesser Poland", "Poland", None, "Polish", None, None, "203.0.113"),
    ("大阪市", "Osaka", "Japan", None, "Japanese", None, None, "203.0.113"),
    ("Одеса", "Odesa", "Ukraine", None, "Ukrainian", None, None, "203.0.113"),
]

_DEVICE_COLUMNS = (
    "device_brand", "device_carrier", "device_family", "device_manufacturer", "device_model", "device_type",
    "library", "os_name", "os_version", "platform", "version_name",
)  # fmt: skip
_APPLE, _IPHONE = ("Apple", "Example Télécom", "Apple iPhone", "Apple"), ("iPhone15,4", "Apple iPhone 15")
_SWIFT, _KOTLIN = "amplitude-swift/1.13.7", "amplitude-kotlin/1.21.2"
_GALAXY = ("samsung", "Example Mobile", "Samsung Galaxy Phone", "samsung", "SM-S921B", "Samsung Galaxy S24")
_PIXEL = ("google", "Пример Связь", "Google Phone", "Google", "Pixel 8", "Google Pixel 8")
_WEB = (None, None)
# weight, and the columns above
_DEVICES: list[tuple[int, tuple[str | None, ...]]] = [
    (22, (*_WEB, "Windows", None, "Windows", "Windows", "amplitude-ts/2.11.9", "Chrome", "137", "Web", None)),
    (9, (*_WEB, "Mac OS X", None, "Mac", "Apple Mac", "amplitude-ts/2.11.9", "Safari", "18.5", "Web", None)),
    (6, (*_WEB, "Android", None, "K", "Android", "amplitude-ts/2.9.0", "Chrome Mobile", "136", "Web", None)),
    (20, (*_APPLE, *_IPHONE, _SWIFT, "ios", "18.5", "iOS", "7.42.1")),
    (8, ("Apple", None, "Apple iPad", "Apple", "iPad13,8", "Apple iPad Pro", _SWIFT, "ios", "17.7.1", "iOS", "7.42.1")),
    (18, (*_GALAXY, _KOTLIN, "android", "15", "Android", "7.41.0")),
    (9, (*_PIXEL, _KOTLIN, "android", "14", "Android", "7.42.0")),
    (8, (None, None, None, None, None, None, "http/2.0", None, None, None, None)),
]

_PRODUCTS = [
    {"category": ["kitchen", "tea"], "name": "急須 (teapot)", "price": 25.0, "sku": "KIT-0017"},
    {"category": ["kitchen"], "name": "Matches, 1 box", "price": 1.0, "sku": "KIT-0001"},
    {"category": ["kitchen"], "name": "Crème brûlée dishes ×4", "price": 18.9, "sku": "KIT-0042"},
    {"category": ["home", "light"], "name": 'Lamp "Größe M" 💡', "price": 49.99, "sku": "HOM-0103"},
    {"category": ["home"], "name": "Chair, oak", "price": 129.0, "sku": "HOM-0110"},
    {"category": ["home", "sleep"], "name": "Linen sheets 140 x 200", "price": 89.5, "sku": "HOM-0164"},
    {"category": [], "name": "Seeds\tmixed\\wild", "price": 7.25, "sku": "GAR-0007"},
    {"category": ["garden"], "name": "Żeliwny piecyk", "price": 310.5, "sku": "GAR-0220"},
    {"category": ["office", "paper"], "name": "Notebook A5 dotted", "price": 12.0, "sku": "OFF-0031"},
    {"category": ["office"], "name": "Desk mat 60 x 40", "price": 34.0, "sku": "OFF-0044"},
]

_WORDS = [
    "account", "address", "alert", "amount", "answer", "autumn", "basket", "battery", "blanket", "bottle", "bridge",
    "button", "cabin", "camera", "candle", "carpet", "cellar", "chance", "circle", "coffee", "corner", "cotton",
    "cream", "daily", "delivery", "desk", "discount", "dinner", "drawer", "easy", "edge", "entry", "evening",
    "fabric", "family", "filter", "finish", "flower", "folder", "forest", "frame", "friend", "garden", "gift",
    "glass", "gold", "green", "guest", "handle", "harbor", "heavy", "hidden", "holiday", "honey", "hotel", "image",
    "index", "indoor", "island", "jacket", "journey", "kettle", "kitchen", "ladder", "lamp", "large", "leather",
    "letter", "light", "linen", "little", "lobby", "lower", "magazine", "market", "meadow", "member", "mirror",
    "modern", "morning", "mountain", "narrow", "needle", "notebook", "object", "ocean", "office", "orange",
    "outdoor", "oven", "package", "paper", "parcel", "partner", "pencil", "pepper", "picnic", "pillow", "planet",
    "plate", "pocket", "portal", "powder", "premium", "present", "quality", "quiet", "rabbit", "random", "ready",
    "recipe", "record", "ribbon", "river", "rocket", "room", "round", "saddle", "salad", "sample", "season",
    "secret", "shadow", "shelf", "silver", "simple", "single", "sofa",
]  # fmt: skip
_CAMPAIGNS = ["summer-sale-2025", "brand_search_dach", "newsletter-27", "retargeting_q3", "lookalike 2 %", "été-soldes"]
_SOURCES = ["google", "facebook", "newsletter", "tiktok", "(direct)", "bing", "partner-network"]
_EXPERIMENTS = ["checkout-button", "onboarding", "price-display", "search-ranking-v7", "home-hero", "free-shipping"]
_PLANS = ["free", "starter", "team", "enterprise"]
_COMPANIES = ["Example GmbH", "Örnek A.Ş.", "Sample & Sons", "例示株式会社", "Demo, Inc."]


def _json(value: object, ascii_only: bool) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))


def _table(weights: list[int]) -> list[int]:
    """Return 4096 indexes, each as often as its weight asks, to be picked with 12 random bits."""
    ends = [end * 4096 // sum(weights) for end in accumulate(weights)]
    return [number for number, (low, high) in enumerate(zip([0, *ends], ends, strict=False)) for _ in range(high - low)]


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-9{digits[17:20]}-{digits[20:32]}"


def _words(bits: int, count: int) -> str:
    # Past the random bits the text goes on in a circle.
    return " ".join([_WORDS[(bits >> (7 * number % 196) ^ number) & 127] for number in range(count)])


class _Person(NamedTuple):
    """One device and its user: the pieces of a line that all its events share, in their order."""

    ascii_only: bool
    device_id: str
    from_adid: str
    from_country: str
    from_data_type: str
    after_device: str
    from_globals: str
    from_region: str
    from_source: str
    version: str
    first_event_id: int
    delay: int


class _Draw(NamedTuple):
    """What is random about one event."""

    insert_id: str
    uuid: str
    role: int
    bits: int


class Events:
    """The lines of one hour, by number."""

    def __init__(self, hour: Hour) -> None:
        """Prepare what all lines share."""
        self.hour = hour
        self._key = hour.seed.to_bytes(8, "little", signed=True)
        self._start = int(hour.start.timestamp()) * 1_000_000
        self._people = max(50, hour.events // 12)
        self._person = lru_cache(8192)(self._new_person)
        self._kinds = [(name, properties) for name, _, properties in _TYPES]
        self._pick_kind = _table([weight for _, weight, _ in _TYPES])
        self._pick_device = _table([weight for weight, _ in _DEVICES])
        self._products = {one: [_json(product, one) for product in _PRODUCTS] for one in (False, True)}
        self._names = {one: [_json(name, one) for name, _, _ in _TYPES] for one in (False, True)}
        self._campaigns = {one: [_json(name, one)[1:-1] for name in _CAMPAIGNS] for one in (False, True)}

    def lines(self, first: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the lines from number `first` to before `end`, as they land."""
        bad_below = int(self.hour.bad_lines / 1_000_000 * 2**16 * 2**16)
        repeat_below = int(self.hour.repeats * 2**16)
        for number in range(first, self.hour.events if end is None else end):
            draw = self._draw(number)
            at = self._arrival(number)
            if bad_below and (draw.role & 0xFFFF_FFFF) * 2654435761 % 2**32 < bad_below:
                yield _spoilt(self._line(number, draw, at, draw), number)
            elif number and draw.role & 0xFFFF < repeat_below:
                yield self._repeat(number, draw, at, repeat_below)
            else:
                yield self._line(number, draw, at, draw)

    def of_week(self) -> Iterator[tuple[int, bytes]]:
        """Yield the events that came once before: how many hours before, and a line with what they said then."""
        repeat_below = int(self.hour.repeats * 2**16)
        for number in range(self.hour.events):
            draw = self._draw(number)
            # Not `role`'s low half: that says whether the line is a repeat of the hour.
            is_of_week = (draw.role >> 16) & 0xFFFF < self.hour.repeats_of_week * 2**16
            if is_of_week and not (number and draw.role & 0xFFFF < repeat_below):
                hours = 1 + draw.bits % HOURS_OF_WEEK
                yield hours, self._line(number, draw, self._arrival(number) - hours * 3_600_000_000, draw)

    def _draw(self, number: int) -> _Draw:
        digits = blake2b(number.to_bytes(8, "little"), key=self._key, person=b"event").hexdigest()
        return _Draw(_uuid(digits), _uuid(digits[32:64]), int(digits[64:72], 16), int(digits[72:], 16))

    def _upload(self, number: int) -> int:
        """Return 64 bits that all events of one upload share: clients send one to four at once."""
        first = number if number >> 4 & 1 else number & ~3
        mixed = (first + self.hour.seed * 1_000_003 + 1) * 0x9E3779B97F4A7C15 % 2**64
        return (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 % 2**64

    def _arrival(self, number: int) -> int:
        """`server_upload_time` in µs: the same for one upload; lines are nearly in its order."""
        spread = 3_600_000_000
        first = number if number >> 4 & 1 else number & ~3
        at = first * spread // self.hour.events + (self._upload(number) >> 24) % 3_000_000 - 1_500_000
        return self._start + min(max(at, 0), spread - 1)

    def _repeat(self, number: int, draw: _Draw, at: int, repeat_below: int) -> bytes:
        """An earlier event comes again: half of the time soon, otherwise whenever."""
        while True:
            original = draw
            back = 1 + (original.bits >> 20) % (50 if original.bits & 1 else number)
            number = max(number - back, 0)
            original = self._draw(number)
            if not number or original.role & 0xFFFF >= repeat_below:
                break
        if draw.bits >> 8 & 15 == 0:
            at = self._arrival(number)  # One upload, one time: the order of the lines decides.
        return self._line(number, original, at, draw, changed=draw.bits % 3 == 0)

    def _line(self, number: int, draw: _Draw, at: int, anew: _Draw, *, changed: bool = False) -> bytes:
        """Return event `number` (that is `draw`) as it lands at `at`; `anew` is the draw of this arrival."""
        bits, upload = draw.bits, self._upload(number)
        # Some people do much more than others.
        person = self._person((upload & 0xFFFFF) * (upload >> 20 & 0xFFFFF) * self._people >> 40)
        kind = self._pick_kind[bits >> 40 & 4095]
        bits >>= 52
        insert_id = "null" if bits & 255 == 0 else f'"{draw.insert_id}"'
        device_id = "null" if bits & 4095 == 1 else f'"{person.device_id}"'
        received = at - 300_000 - upload % 2_000_000
        # Clients count in milliseconds.
        uploaded = (received - 20_000 - upload % 1_480_000) // 1000 * 1000
        clicked = uploaded - (200 + draw.role % 30_000) * 1000 - (person.delay if bits & 15 == 2 else 0)
        session = clicked // 1_800_000_000 * 1_800_000 + 417
        properties = self._kinds[kind][1](self, bits >> 8, person.ascii_only)
        version = '"7.43.0"' if changed else person.version
        merged = f'"merged_amplitude_id":{200_000_000_000 + draw.role},' if bits & 1023 == 3 else ""
        return (
            f'{{"$insert_id":{insert_id}{person.from_adid},"client_event_time":"{_time(clicked)}"'
            f',"client_upload_time":"{_time(uploaded)}"{person.from_country},"data":{{"group_first_event":{{}},'
            f'"group_ids":{{}},{merged}"path":"/2/httpapi","user_properties_updated":true}}{person.from_data_type}'
            f'{device_id}{person.after_device},"event_id":{person.first_event_id + draw.role % 4000},'
            f'"event_properties":{properties},"event_time":"{_time(clicked)}","event_type":'
            f'{self._names[person.ascii_only][kind]}{person.from_globals},"processed_time":'
            f'"{_time(at + 1_000_000 + anew.role % 9_000_000)}"{person.from_region},"server_received_time":'
            f'"{_time(received)}","server_upload_time":"{_time(at)}","session_id":{session}'
            f'{person.from_source},"uuid":"{anew.uuid}","version_name":{version}}}\n'
        ).encode()

    def _new_person(self, number: int) -> _Person:
        """Invent a device and its user."""
        digits = blake2b(number.to_bytes(8, "little"), key=self._key, person=b"person").hexdigest()
        bits = int(digits[32:], 16)
        device = dict(zip(_DEVICE_COLUMNS, _DEVICES[self._pick_device[bits & 4095]][1], strict=True))
        city, region, country, dma, language, latitude, longitude, network = _PLACES[bits >> 12 & 15]
        known = bits >> 16 & 1 == 0
        user_id = f"user-{bits >> 20 & 0xFFFFFFFF:08x}@example.com" if known else None
        company = _COMPANIES[(bits >> 52) % 5] if bits >> 55 & 7 == 0 else None
        groups = {"company": [company], "plan": [_PLANS[bits >> 58 & 3]]} if company else {}
        # The Android library writes escapes.
        ascii_only = device["platform"] == "Android"

        def piece(columns: dict[str, Any]) -> str:
            return "," + _json(columns, ascii_only)[1:-1]

        app = {
            "$insert_key": None, "$schema": 13, "adid": _uuid(digits[64:]) if ascii_only else None,
            "amplitude_attribution_ids": None, "amplitude_event_type": None,
            "amplitude_id": 100_000_000_000 + (bits >> 60 & 0x7FFFFFFFFF), "app": self.hour.project, "city": city,
        }  # fmt: skip
        data_type = {"data_type": "event"} | {key: device[key] for key in sorted(device) if key < "device_i"}
        after = {key: device[key] for key in ("device_manufacturer", "device_model", "device_type")} | {"dma": dma}
        rest = {
            "global_user_properties": {}, "group_properties": {}, "groups": groups, "idfa": None,
            "ip_address": f"{network}.{bits >> 64 & 255}", "is_attribution_event": False, "language": language,
            "library": device["library"], "location_lat": latitude, "location_lng": longitude,
            "os_name": device["os_name"], "os_version": device["os_version"], "partner_id": None,
            "paying": True if bits >> 70 & 3 == 0 else None, "plan": {}, "platform": device["platform"],
        }  # fmt: skip
        created = self._start // 1_000_000 - (bits >> 72) % 60_000_000
        source = {
            "source_id": None, "start_version": device["version_name"],
            "user_creation_time": _time(created * 1_000_000), "user_id": user_id,
            "user_properties": self._user_properties(bits >> 80, known, company),
        }  # fmt: skip
        return _Person(
            ascii_only=ascii_only,
            device_id=_uuid(digits),
            from_adid=piece(app),
            from_country=piece({"country": country}),
            from_data_type=piece(data_type) + ',"device_id":',
            after_device=piece(after),
            from_globals=piece(rest),
            from_region=piece({"region": region, "sample_rate": None}),
            from_source=piece(source),
            version=_json(device["version_name"], ascii_only),
            first_event_id=bits >> 90 & 0xFFFFF,
            # A phone that was offline, up to two days.
            delay=(bits >> 100) % 172_800 * 1_000_000,
        )

    def _user_properties(self, bits: int, known: bool, company: str | None) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        if known:
            properties |= {"City": _PLACES[bits >> 4 & 15][0], "plan": _PLANS[bits >> 26 & 3]}
        if known and bits >> 39 & 7 == 0:
            properties |= {
                "average_order_value": (bits >> 8 & 0xFFFF) / 100,
                "cohort": f"20{20 + (bits >> 3) % 6}-0{1 + bits % 9}",
                "consent": {"ads": None, "analytics": True, "version": 2.0},
                "favourites": [_WORDS[bits >> shift & 127] for shift in range(9, 9 + int((bits & 7) * self.hour.size))],
                "initial_referrer": f"https://{_SOURCES[bits % 7]}.example/" if bits & 1 else "EMPTY",
                "initial_utm_campaign": _CAMPAIGNS[bits % 6],
                "initial_utm_source": _SOURCES[bits % 7],
                "lifetime_orders": bits >> 20 & 63,
            }
        if company:
            properties |= {"company": company, "seats": bits >> 30 & 255, "trial_ends": None}
        for experiment in range(int((bits >> 34 & bits >> 41 & 3) * self.hour.size)):
            name = _EXPERIMENTS[experiment % 6] + ("" if experiment < 6 else f"-{experiment}")
            properties[f"[Experiment] {name}"] = ("control", "treatment", "off")[(bits >> 36 + experiment) % 3]
        return properties


# Properties by kind of event: JSON text from random bits. ------------------------------------------------------------


def _none(events: Events, bits: int, ascii_only: bool) -> str:
    return "{}"


def _page(events: Events, bits: int, ascii_only: bool) -> str:
    path = f"/{_WORDS[bits & 127]}/{_WORDS[bits >> 7 & 127]}-{bits >> 14 & 0x3FFF}"
    campaign = events._campaigns[ascii_only][(bits >> 28) % 6]
    query = f"?utm_source={_SOURCES[(bits >> 31) % 7]}&utm_campaign={campaign}" if bits & 7 == 0 else ""
    title = _words(bits >> 40, 2 + (bits >> 5 & 3))
    size = bits >> 70 & 3
    return (
        f'{{"[Amplitude] Page Location":"https://www.shop.example{path}{query}","[Amplitude] Page Title":"{title}",'
        f'"scroll_depth":{(bits >> 62 & 31) / 32},"viewport":"{1280 + size * 160}x{720 + size * 90}"}}'
    )


def _product(events: Events, bits: int, ascii_only: bool) -> str:
    product = events._products[ascii_only][bits % 10]
    coupon = f'"{bits >> 8 & 0xFFFFFF:06X}"' if bits >> 5 & 7 == 0 else "null"
    return (
        f'{{"coupon":{coupon},"currency":"EUR","list_position":{bits >> 32 & 31},"product":{product},"quantity":'
        f'{1 + (bits >> 37 & 3)},"stock":{bits >> 44 & 511},"tags":["{_words(bits >> 60, 1)}"]}}'
    )


def _list(events: Events, bits: int, ascii_only: bool) -> str:
    products = events._products[ascii_only]
    count = int((1 + (bits & 7) * (bits >> 3 & 7) * (bits >> 6 & 7) / 16) * events.hour.size)
    items = ",".join(
        f'{{"position":{item},"price_shown":{(bits >> item & 0x3FFF) / 100},"product":{products[(bits >> item) % 10]}}}'
        for item in range(count)
    )
    return f'{{"items":[{items}],"list_id":"{bits >> 8 & 0xFFFFFFFF:08x}","total":{(bits >> 40 & 0xFFFFF) / 100}}}'


def _search(events: Events, bits: int, ascii_only: bool) -> str:
    return (
        f'{{"filters":{{"brand":["{_words(bits, 1)}","{_words(bits >> 7, 1)}"],"in_stock":true,"price":{{"max":'
        f'{bits >> 14 & 1023}.0,"min":1e-05}}}},"query":"{_words(bits >> 20, 1 + (bits & 3))}","results":'
        f'{bits >> 30 & 1023},"sort":"relevance","took_ms":{(bits >> 40 & 0xFFFF) / 64}}}'
    )


def _click(events: Events, bits: int, ascii_only: bool) -> str:
    depth = int((bits & 3) * events.hour.size)
    parents = ",".join(
        f'{{"attrs":{{"id":"{bits >> level & 0xFF:02x}"}},"classes":["{_words(bits >> 3 * level, 1)}"],"tag":"div"}}'
        for level in range(depth)
    )
    return (
        f'{{"[Amplitude] Element Class":"btn","[Amplitude] Element Hierarchy":[{parents}],"[Amplitude] Element Tag":'
        f'"button","[Amplitude] Element Text":"{_words(bits >> 16, 1)}","x":{bits >> 30 & 511},"y":{bits >> 41 & 511}}}'
    )


def _media(events: Events, bits: int, ascii_only: bool) -> str:
    return (
        f'{{"duration":{bits & 4095}.0,"media_id":{bits >> 12 & 0xFFFFFFFF},"position":{(bits >> 60) % 4096 / 8},'
        f'"quality":"1080p","title":"{_words(bits >> 20, 4)}"}}'
    )


def _message(events: Events, bits: int, ascii_only: bool) -> str:
    body = _words(bits >> 10, int((8 + (bits & 15)) * events.hour.size))
    return (
        f'{{"body":"{body}","campaign":"{events._campaigns[ascii_only][bits % 6]}","channel":"push","message_id":'
        f'"{bits >> 8 & 0xFFFFFFFFFFFFFFFF:016x}","variant":"{"AB"[bits & 1]}"}}'
    )


def _experiment(events: Events, bits: int, ascii_only: bool) -> str:
    return (
        f'{{"[Experiment] Flag Key":"{_EXPERIMENTS[bits % 6]}","[Experiment] Variant":'
        f'"{("control", "treatment")[bits >> 3 & 1]}","bucket":{bits >> 4 & 0xFFFF}}}'
    )


def _error(events: Events, bits: int, ascii_only: bool) -> str:
    frames = int((10 + (bits & 63)) * events.hour.size)
    stack = "\\n".join(
        f"    at {_words(bits >> frame, 1)}.{_words(bits >> frame + 9, 1)} (app.{bits >> 60 & 0xFFFFF:05x}.js:"
        f"{bits >> frame & 0x3FFF}:{frame * 7})"
        for frame in range(frames)
    )
    return f'{{"code":{bits & 511},"fatal":false,"message":"{_words(bits >> 9, 5)}","stack":"{stack}"}}'


_Properties = Callable[[Events, int, bool], str]
# event type, weight, its properties
_TYPES: list[tuple[str, int, _Properties]] = [
    ("Page Viewed", 22, _page), ("Screen Viewed", 12, _page), ("session_start", 12, _none), ("session_end", 10, _none),
    ("Product Viewed", 10, _product), ("Product List Viewed", 3, _list), ("Search Performed", 4, _search),
    ("Add to Cart", 3, _product), ("Cart Viewed", 2, _list), ("Checkout Started", 1, _list),
    ("Order Completed", 1, _list), ("[Amplitude] Element Clicked", 7, _click), ("Video Played", 2, _media),
    ("[Amplitude] Element Changed", 3, _click), ("Video Progress", 3, _media), ("Notification Received", 2, _message),
    ("Notification Opened", 1, _message), ("Experiment Exposure", 2, _experiment), ("Error Shown", 1, _error),
    ("Profil aktualisiert – schön", 2, _none),
]  # fmt: skip


# Times, and lines that are no events. -------------------------------------------------------------------------------


@lru_cache(100_000)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time(microseconds: int) -> str:
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}"


def _spoilt(line: bytes, number: int) -> bytes:
    """Return a line that is no event, each of another kind."""
    spoilt = (
        line[: len(line) // 2] + b"\n",
        line.replace(b'"event"', b'"ev\xff\xfent"', 1),
        line.replace(b'"$schema":13', b'"$schema":NaN', 1),
        line[:-1] + line,
        b"[" + line[:-1] + b"]\n",
        line.replace(b'"server_upload_time":"', b'"server_upload_time":"on ', 1),
        line.replace(b'"server_upload_time"', b'"upload_time"', 1),
    )
    return spoilt[number % len(spoilt)]


# Files. -------------------------------------------------------------------------------------------------------------


def write(hour: Hour, folder: Path) -> dict[str, Any]:
    """Write the hour's landing below `folder` and return what it came to.

    The complete marker comes last, beside a note of what the hour is made of: a set that is there is whole.
    """
    events = Events(hour)
    names = hour.object_names
    (folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
    size = packed = 0
    for part, name in enumerate(names):
        first, end = (hour.events * (part + more) // len(names) for more in (0, 1))
        with (folder / name).open("wb") as file:
            for block in _blocks(events.lines(first, end)):
                size += len(block[0])
                packed += file.write(block[1])
    (folder / hour.name("_complete")).touch()
    made = {**asdict(hour), "unpacked_bytes": size, "packed_bytes": packed}
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n")
    return made


def is_written(hour: Hour, folder: Path) -> bool:
    """Tell whether `folder` holds this very hour."""
    try:
        made = json.loads((folder / "made.json").read_bytes())
    except FileNotFoundError:
        return False
    return {**made, **asdict(hour)} == made


def _blocks(lines: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield pairs of unpacked and packed bytes: one gzip member without time or name."""
    packer = zlib.compressobj(LEVEL, wbits=31)
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _BLOCK:
            block = b"".join(held)
            yield block, packer.compress(block)
            held, size = [], 0
    block = b"".join(held)
    yield block, packer.compress(block) + packer.flush()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what an hour is made of to the options of a program."""
    default = Hour()
    parser.add_argument("--events", type=int, default=default.events)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--project", type=int, default=default.project)
    parser.add_argument("--hour", default=default.hour, help="like 2025-07-08-10, UTC")
    parser.add_argument("--repeats", type=float, default=default.repeats, help="share of repeats within the hour")
    parser.add_argument("--repeats-of-week", type=float, default=default.repeats_of_week, help="of the week before")
    parser.add_argument("--bad-lines", type=int, default=default.bad_lines, help="in a million")
    parser.add_argument("--objects", type=int, default=default.objects, help="0: one for each 100,000 events")
    parser.add_argument("--size", type=float, default=default.size, help="factor on lists and texts in properties")


def main() -> None:
    """Write one hour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_options(parser)
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    started = time.perf_counter()
    made = write(Hour(**options), folder)
    print(json.dumps({**made, "seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
