"""From the url that a user wrote to the store behind it."""

from pathlib import Path

from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.objects import ObjectStore


def open_store(url: str) -> ObjectStore:
    """Return the store at ``url``, an absolute folder path as :mod:`amp_pipeline.config` makes them."""
    return FolderStore(Path(url))
