"""Local disk for what a run needs only while it lasts. Always local, also where the workspace is a bucket."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "amp_pipeline-"
_ABANDONED_AFTER_SECONDS = 24 * 3600


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a new folder below the system's folder for temporary files (``TMPDIR``), and remove it at the end."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        yield Path(folder)


def _sweep(parent: Path) -> None:
    """Remove what killed runs left, once it is old enough to belong to no living one."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # Another run may be sweeping too, and another user's folders are not ours.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
