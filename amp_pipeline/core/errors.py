"""What can go wrong that a person has to mend. Every message says what, where and what to do.

Expected trouble inside an hour (a bad line) is a value, not an exception; these are raised where an hour or a
configuration as a whole can't go on.
"""

from dataclasses import dataclass


class AmpError(Exception):
    """Base of every error that the pipeline raises on purpose."""


class ConfigError(AmpError):
    """A configuration is wrong; names the file, the field and what would be right."""


class LandingError(AmpError):
    """The landing of an hour can't be used as it is; the hour fails, its neighbours don't."""


class DamagedObjectError(LandingError):
    """A landing object is truncated or corrupt and has not been accepted by hand."""


class FrozenHourError(LandingError):
    """Something would change an hour whose landing objects are gone."""


class WorkspaceError(AmpError):
    """The workspace lacks or contradicts what a record in it says."""


@dataclass(frozen=True)
class Refusal:
    """What an object store or its network answered instead of doing what was asked."""

    operation: str
    """Of its API, like PutObject."""
    code: str
    """Of the API, like AccessDenied, or the kind of network trouble, like ConnectTimeoutError."""
    message: str
    status: int = 0
    """Of HTTP; 0 where there was no answer."""
    region: str = ""
    """Where the store says the bucket is, if it says so."""


class StoreError(AmpError):
    """A store refuses to read or write: permissions, a full disk, a network."""

    def __init__(self, message: str, refusal: Refusal | None = None) -> None:
        """Say what is wrong; ``refusal`` is what a bucket's server said, for who explains it."""
        super().__init__(message)
        self.refusal = refusal


class ObjectNotFoundError(AmpError):
    """A store has no object of that name."""


class DeliveryError(AmpError):
    """A delivery of an hour can't be committed; nothing has been marked complete."""


class LoadError(AmpError):
    """A database can't be loaded; what was loaded before stands."""


class FilterError(AmpError):
    """A delivery's filter is no condition over event columns."""
