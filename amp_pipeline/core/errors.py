"""What can go wrong that a person has to mend. Every message says what, where and what to do.

Expected trouble inside an hour (a bad line) is a value, not an exception; these are raised where an hour or a
configuration as a whole can't go on.
"""


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


class StoreError(AmpError):
    """A store refuses to read or write: permissions, a full disk."""


class ObjectNotFoundError(AmpError):
    """A store has no object of that name."""


class DeliveryError(AmpError):
    """A delivery of an hour can't be committed; nothing has been marked complete."""


class FilterError(AmpError):
    """A delivery's filter is no condition over event columns."""
