"""From the url that a user wrote to the store behind it."""

from pathlib import Path

from amp_pipeline.buckets import S3
from amp_pipeline.fields import S3_SCHEME
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.objects import ObjectStore


def open_store(url: str, s3: S3 | None = None) -> ObjectStore:
    """Return the store at ``url``, as :mod:`amp_pipeline.config` makes them.

    Args:
        url: An absolute folder path, or ``s3://bucket/path``.
        s3: How the bucket is reached and written; as boto3 finds it by itself if not given.
    """
    if url.startswith(S3_SCHEME):
        # boto3 takes 0.2 s to import, for nothing where there are only folders.
        from amp_pipeline.storage.s3 import S3Store

        return S3Store(url, s3 or S3())
    return FolderStore(Path(url))
