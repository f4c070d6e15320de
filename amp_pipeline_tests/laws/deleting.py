"""Asking for deletions in tests, and looking for what must not be there: in the bytes of every object, unpacked."""

import json
import zlib
from collections.abc import Sequence
from typing import Any

from amp_pipeline.config import Organization
from amp_pipeline.core.suppression import Suppression
from amp_pipeline.run import OpenStore, OrganizationRun
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.suppressions import SuppressionStore
from amp_pipeline_tests.oracle import Suppressed

USER = "someone@example.com"
AMPLITUDE_ID = 987654321987


def ask(organization: Organization, stores: OpenStore, project: int = 0, **fields: Any) -> Suppression:
    """Put a suppression on the list of a project."""
    run = OrganizationRun(organization, stores)
    one = organization.projects[project]
    known: dict[str, Any] = {"id": "d1", "user_ids": [], "amplitude_ids": [], "asked_at": "2024-06-01", "up_to": None}
    suppression = Suppression(project=one.id, **(known | fields))
    SuppressionStore(run.projects[one.slug].workspace).add(suppression)
    return suppression


def ask_all(organization: Organization, stores: OpenStore, suppressed: Sequence[Suppressed]) -> None:
    """Put what the oracle takes on the list of the first project."""
    for number, one in enumerate(suppressed):
        ids: dict[str, Any] = {"user_ids": sorted(one.users), "amplitude_ids": sorted(map(str, one.amplitude_ids))}
        ask(organization, stores, id=f"d{number}", up_to=one.up_to, **ids)


def traces(organization: Organization, stores: OpenStore, *ids: str | int) -> list[str]:
    """Return the objects of workspace and buckets that hold one of ``ids``, the list of deleted users aside."""
    urls = {delivery.url for project in organization.projects for delivery in project.deliveries}
    found: list[str] = []
    for url in sorted({organization.workspace, *urls}):
        store = stores(url, organization.s3)
        for info in store.find(""):
            if "/suppressions/" not in info.name and any(_holds(store, info.name, one) for one in ids):
                found.append(f"{url}/{info.name}")
    return found


def _holds(store: ObjectStore, name: str, one: str | int) -> bool:
    data = store.get(name)
    if data.startswith(b"\x1f\x8b"):
        data = zlib.decompress(data, 31)
    return any(spelling in data for spelling in (str(one).encode(), json.dumps(one)[1:-1].encode()))
