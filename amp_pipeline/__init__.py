"""amp_pipeline: every behavioural event, once, every hour, in a bucket you own, with a proof of completeness.

``amp_pipeline.Organization`` is the Dagster component that a ``defs.yaml`` names; it is imported when it is asked
for, so that the rest of the
package does not pay for Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amp_pipeline.defs.organization import Organization

__version__ = "0.1.0"

__all__ = ["Organization", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Organization":
        from amp_pipeline.defs.organization import Organization

        return Organization
    raise AttributeError(name)


def __dir__() -> list[str]:
    return [*globals(), "Organization"]
