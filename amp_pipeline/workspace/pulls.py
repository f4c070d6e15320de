"""What the workspace says of pulling: the receipt of each hour, and what keeps the source from answering.

What was pulled lies below ``{organization}/{project}/pulled`` as a landing, named as Amplitude names it. The complete
marker of an hour is its receipt, so an hour without one was not pulled whole, and counts as not landed.
"""

from __future__ import annotations

import msgspec

from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.storage.objects import ObjectStore


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """An object that was pulled."""

    name: str
    bytes: int
    lines: int
    """Line ends, and a last line without one."""
    sha256: str
    content: str
    """Digest of the unpacked bytes: the same file may be packed in another way the next time."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled of an hour."""

    format: int = 1
    hour: str
    objects: list[Pulled] = msgspec.field(default_factory=list[Pulled])
    """Empty where the source has no events of the hour."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why the source gives nothing at all."""

    kind: str
    """credentials, network, throttled or server."""
    summary: str
    advice: str
    since: float
    """Seconds since 1970."""
    tried: float
    """When the source was last asked."""
    hour: str = ""
    """Where the keys are of another project: one of which that project has events."""


def read_receipt(store: ObjectStore, name: str) -> Receipt | None:
    """Return the receipt of an hour, None where there is none.

    Raises:
        WorkspaceError: It can't be read.
    """
    try:
        return msgspec.json.decode(store.get(name), type=Receipt)
    except ObjectNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise WorkspaceError(
            f"{store.uri(name)} is damaged ({error}); delete it, and the hour is pulled again"
        ) from None


def write_receipt(store: ObjectStore, name: str, receipt: Receipt) -> None:
    """Write the receipt of an hour, after which it counts as landed."""
    store.put(name, msgspec.json.encode(receipt))


class TroubleStore:
    """What is known to be wrong with a project's source."""

    def __init__(self, store: ObjectStore, organization: int, project: int) -> None:
        """Keep it in the workspace ``store``."""
        self._store = store
        self._name = f"{organization}/{project}/source_trouble.json"

    def load(self) -> Trouble | None:
        """Return what is wrong, None where nothing is known to be."""
        try:
            return msgspec.json.decode(self._store.get(self._name), type=Trouble)
        except (ObjectNotFoundError, msgspec.MsgspecError):
            # What can't be read is found out anew.
            return None

    def save(self, trouble: Trouble | None) -> None:
        """Remember what is wrong, or that nothing is."""
        if trouble is None:
            self._store.delete(self._name)
        else:
            self._store.put(self._name, msgspec.json.encode(trouble))
