"""The suppressions of a project and the receipts of its deletions, in the workspace.

The ids of deleted users stand in suppressions and nowhere else: without them they could come back.
"""

from __future__ import annotations

import msgspec

from amp_pipeline.core.errors import WorkspaceError
from amp_pipeline.core.suppression import Suppressed, Suppression
from amp_pipeline.workspace.store import ProjectStore


class Rewritten(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of an hour that a deletion rewrote."""

    delivery: str
    hour: str
    at: str
    run: str
    written: list[str]
    """Names of files, over their old bytes where there were any."""
    deleted: list[str]
    """Names of files that are there no more."""
    manifest_sha256: str
    """Of the manifest, which has the digests of all files."""


class DeletionReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a deletion removed. It names no user."""

    suppression: str
    asked_at: str
    up_to: str | None
    """Last server_upload_time that was deleted; null: whatever comes, too."""
    note: str
    finished_at: str | None
    """Null while something is left to be done."""
    version: str
    """Of amp_pipeline."""
    hours: dict[str, int]
    """Deleted events by hour."""
    merged_hours: list[str]
    """Hours that had merged ids of the users."""
    rewritten: list[Rewritten]
    left: list[str]
    """What could not be cleaned, and why."""


class SuppressionStore:
    """The suppressions of one project."""

    def __init__(self, workspace: ProjectStore) -> None:
        """Use the folder of ``workspace``."""
        self._store = workspace.store
        self._folder = workspace.folder

    def suppressed(self) -> Suppressed:
        """Return the whole list.

        Raises:
            WorkspaceError: One of it can't be read; to go on without it would bring somebody back.
        """
        found: list[Suppression] = []
        for info in self._store.find(f"{self._folder}/suppressions/"):
            try:
                found.append(msgspec.json.decode(self._store.get(info.name), type=Suppression))
            except msgspec.MsgspecError:
                # Without the parser's message, which might quote an id.
                raise WorkspaceError(
                    f"{self._store.uri(info.name)} is no suppression that can be read; "
                    "restore it, or delete it and ask for the deletion again"
                ) from None
        return Suppressed(found)

    def add(self, suppression: Suppression) -> None:
        """Write a suppression."""
        self._store.put(f"{self._folder}/suppressions/{suppression.id}.json", _written(suppression))

    def receipt(self, suppression: str) -> DeletionReceipt | None:
        """Return the receipt of a deletion, or None where it has hardly begun."""
        name = self._receipt(suppression)
        if self._store.head(name) is None:
            return None
        return msgspec.json.decode(self._store.get(name), type=DeletionReceipt)

    def put_receipt(self, receipt: DeletionReceipt) -> str:
        """Write a receipt and return where it is."""
        name = self._receipt(receipt.suppression)
        self._store.put(name, _written(receipt))
        return self._store.uri(name)

    def _receipt(self, suppression: str) -> str:
        return f"{self._folder}/deletions/{suppression}.json"


def _written(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
