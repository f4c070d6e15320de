"""Before a delivery is first used its bucket is tried, so that what is missing is named before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery
from amp_pipeline.core.access import Outcome
from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError
from amp_pipeline.run import ProjectRun


@dataclass(frozen=True)
class FirstUse:
    """Whether the bucket of a delivery may be used."""

    said: str = ""
    """What was found out just now; empty where nothing had to be."""
    problem: str = ""

    def refuse(self) -> None:
        """Let nobody use a bucket that can't be used.

        Raises:
            DeliveryError: What is wrong with it.
        """
        if self.problem:
            raise DeliveryError(self.problem)


def first_use(
    run: ProjectRun, delivery: Delivery, s3: S3 | None, probe: Callable[[str, S3 | None], Outcome]
) -> FirstUse:
    """Try the bucket of a delivery unless it was tried at this url before.

    Args:
        run: Of the delivery's project.
        delivery: Of the project.
        s3: How its bucket is reached.
        probe: Tries a bucket.
    """
    known = run.deliveries_of(delivery)
    name = f"{known.folder}/verified"
    try:
        if known.store.get(name) == delivery.url.encode():
            return FirstUse()
    except ObjectNotFoundError:
        pass
    outcome = probe(delivery.url, s3)
    if outcome.ok:
        known.store.put(name, delivery.url.encode())
        return FirstUse(f"{delivery.url} is verified: hourly deliveries start")
    return FirstUse(
        problem=f"before its first use, {delivery.url} was tried: {outcome.summary} {outcome.advice}".strip()
    )
