"""The invented columns: what `make_landing.py` gives to every event beside the CSV's own columns.

One entry stands for one device model, home town or product. Nothing here was measured.
"""

from typing import Any

# CSV platform -> the columns that tell of the device. `platform` itself is mapped one to one.
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {
        "platform": "Web", "os_name": "Chrome", "os_version": "124", "library": "amplitude-ts/2.7.3",
        "device_family": "Linux", "device_type": "Linux", "device_model": "Linux",
        "device_brand": None, "device_manufacturer": None, "device_carrier": None,
    },
    "mobile": {
        "platform": "iOS", "os_name": "ios", "os_version": "17.4.1", "library": "amplitude-swift/1.5.0",
        "device_family": "Apple iPhone", "device_type": "Apple iPhone 13", "device_model": "iPhone14,5",
        "device_brand": "Apple", "device_manufacturer": "Apple", "device_carrier": "Example Télécom",
    },
    "tablet": {
        "platform": "Android", "os_name": "android", "os_version": "14", "library": "amplitude-kotlin/1.16.5",
        "device_family": "Samsung Galaxy Tab", "device_type": "Samsung Galaxy Tab S9", "device_model": "SM-X710",
        "device_brand": "samsung", "device_manufacturer": "samsung", "device_carrier": None,
    },
}  # fmt: skip

# Home towns of users; addresses are of the three blocks that RFC 5737 keeps for documentation.
PLACES: list[dict[str, Any]] = [
    {"city": "Lyon", "region": "Auvergne-Rhône-Alpes", "country": "France", "dma": None, "language": "French",
     "location_lat": 45.76, "location_lng": 4.84, "network": "192.0.2", "currency": "EUR"},
    {"city": "München", "region": "Bavaria", "country": "Germany", "dma": None, "language": "German",
     "location_lat": 48.0, "location_lng": 11.5, "network": "198.51.100", "currency": "EUR"},
    {"city": "Kraków", "region": "Lesser Poland", "country": "Poland", "dma": None, "language": "Polish",
     "location_lat": None, "location_lng": None, "network": "203.0.113", "currency": "PLN"},
    {"city": "大阪市", "region": "Osaka", "country": "Japan", "dma": None, "language": "Japanese",
     "location_lat": None, "location_lng": None, "network": "203.0.113", "currency": "JPY"},
    {"city": "San Francisco", "region": "California", "country": "United States",
     "dma": "San Francisco-Oakland-San Jose, CA", "language": "English",
     "location_lat": 37.7749, "location_lng": -122.4194, "network": "192.0.2", "currency": "USD"},
]  # fmt: skip

# Shown, put into the cart and bought: event_properties of product_view, add_to_cart and purchase.
PRODUCTS: list[dict[str, Any]] = [
    {"sku": "KIT-0001", "price": 1.0, "product": {"category": ["kitchen"], "name": "Matches, 1 box"}},
    {"sku": "KIT-0017", "price": 25.0, "product": {"category": ["kitchen", "tea"], "name": "急須 (teapot)"}},
    {"sku": "KIT-0042", "price": 18.9, "product": {"category": ["kitchen"], "name": "Crème brûlée dishes ×4"}},
    {"sku": "HOM-0103", "price": 49.99, "product": {"category": ["home", "light"], "name": "Lamp \"Größe M\" 💡"}},
    {"sku": "HOM-0110", "price": 129.0, "product": {"category": ["home"], "name": "Chair, oak"}},
    {"sku": "GAR-0007", "price": 7.25, "product": {"category": [], "name": "Seeds\tmixed\\wild"}},
    {"sku": "GAR-0220", "price": 310.5, "product": {"category": ["garden"], "name": "Żeliwny piecyk"}},
]  # fmt: skip

# What the clock of a drifted device is off by, in seconds: just below, at, above 60, behind, an hour and more.
DRIFTS = (59.999999, 60.0, 61.0, -75.0, 3605.0)

# Top-level keys that no document lists, on a few events.
UNLISTED: dict[str, Any] = {"consent": {"analytics": True, "ads": None, "version": 2.0}, "shop_release": "2024.19"}

# Columns that hold the same in every event, as most of them do in real exports.
SAME_COLUMNS: dict[str, Any] = {
    "$insert_key": None, "$schema": 13, "adid": None, "amplitude_attribution_ids": None, "amplitude_event_type": None,
    "data_type": "event", "global_user_properties": {}, "group_properties": {}, "groups": {}, "idfa": None,
    "is_attribution_event": False, "partner_id": None, "plan": {}, "sample_rate": None, "source_id": None,
    "start_version": None,
}  # fmt: skip
