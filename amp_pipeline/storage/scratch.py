"""Local disk for what a run needs only while it lasts. Always local, also where the workspace is a bucket."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amp_pipeline.core.errors import StoreError

_LOCK = ".lock"
_ABANDONED_AFTER_SECONDS = 3600


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a new folder below the system's folder for temporary files (``TMPDIR``), and remove it at the end.

    Raises:
        StoreError: What is there can't be written.
    """
    with explained():
        parent = own_folder("scratch")
        _sweep(parent)
        with tempfile.TemporaryDirectory(dir=parent) as folder, (Path(folder) / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(folder)


def own_folder(purpose: str) -> Path:
    """Return this user's folder for ``purpose`` below the system's folder for temporary files, made where missing.

    Raises:
        OSError: It can't be made, or belongs to somebody else: anybody may make folders there.
    """
    folder = Path(tempfile.gettempdir()) / f"amp_pipeline-{purpose}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the system refuses about temporary files into an error that says where and what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"temporary files can't be written or read: {error.strerror or error}; check that the folder that TMPDIR "
            "names (else /tmp) is there, may be written, and has room for a few parts and 100 bytes an event"
        ) from error


def _sweep(parent: Path) -> None:
    """Remove what killed runs left: folders of ours whose lock nobody holds any more."""
    for folder in parent.iterdir():
        # Another run may be sweeping too, or be about to lock what it has just made.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _ABANDONED_AFTER_SECONDS:
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
