"""What ``amp-pipeline access`` and ``amp-pipeline policy`` print: outcomes step by step, and policies to paste."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from amp_pipeline.buckets import S3
from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import policy
from amp_pipeline.core.access import KINDS, Outcome, policy_named
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.core.policy import Place
from amp_pipeline.fields import S3_SCHEME
from amp_pipeline.source_settings import AmplitudeExport

_PRINCIPAL = re.compile(r"arn:[a-z-]+:(iam|sts)::\d{12}:\S+")
_ACCOUNT = re.compile(r"\d{12}")
_EXAMPLE = "arn:aws:iam::123456789012:role/pipeline"


class Target(NamedTuple):
    """What is probed."""

    name: str
    url: str
    s3: S3 | None
    source: AmplitudeExport | None = None
    """Where it is pulled from and not written to."""
    project: int = 0


class Document(NamedTuple):
    """A policy, and where it goes."""

    where: str
    body: dict[str, Any]


def targets(chosen: list[tuple[Organization, Project]], delivery: str | None) -> list[Target]:
    """Return what of ``chosen`` is used: the deliveries of one name; or the enabled ones, workspaces, and APIs.

    Raises:
        ConfigError: None of the projects has a delivery of that name.
    """
    found = [
        Target(f"{project.slug}.{one.name}", one.url, organization.s3_of(one))
        for organization, project in chosen
        for one in project.deliveries
        if one.name == delivery or (delivery is None and one.enabled)
    ]
    if delivery is not None:
        if not found:
            known = sorted({one.name for _, project in chosen for one in project.deliveries})
            raise ConfigError(f"there is no delivery {delivery}; known are {', '.join(known) or 'none'}")
        return found
    organizations = {organization.slug: organization for organization, _ in chosen}
    found += [Target(f"{slug} workspace", one.workspace, one.s3) for slug, one in organizations.items()]
    return found + [
        Target(f"{project.slug} source", project.source.address, None, project.source, project.id)
        for _, project in chosen
        if isinstance(project.source, AmplitudeExport)
    ]


def told(target: Target, outcome: Outcome) -> Iterator[str]:
    """Yield the lines that tell of a probe."""
    yield f"{target.name}  {target.url}"
    if outcome.principal:
        yield f"  as {outcome.principal}"
    for step in outcome.passed:
        yield f"  {step:18}  ok"
    if outcome.ok:
        return
    where = "the source" if target.source else "the store"
    yield f"  {outcome.step:18}  {KINDS[outcome.kind].replace('the store', where)}"
    yield ""
    yield f"  {outcome.summary}."
    yield f"  {outcome.advice}"
    if outcome.statement is not None:
        yield ""
        yield f"  Statement for {policy_named(outcome.policy, outcome.principal)}:"
        yield from _indented(outcome.statement)
    yield ""


def documents(place: Place, principal: str, account: str) -> list[Document]:
    """Return the policies that a delivery needs, in the order to paste them.

    Args:
        place: Where it writes.
        principal: ARN of the user or role that amp_pipeline runs as; "" where only the assumed role is known.
        account: That owns the bucket; "" for the one of who writes.

    Raises:
        ConfigError: Nobody is named who writes, or what is given is no ARN or no account.
    """
    if principal and not _PRINCIPAL.fullmatch(principal):
        raise ConfigError(f"{principal!r} is no ARN of a user or role; write one like {_EXAMPLE}")
    if account and not _ACCOUNT.fullmatch(account):
        raise ConfigError(f"{account!r} is no account; write its 12 digits")
    writer = place.role or policy.identity(principal)
    if not writer:
        raise ConfigError(
            "who writes is not known, since the delivery names no role; give --principal, the ARN of the user or role "
            "that amp-pipeline runs as"
        )
    owner = account or place.account
    other = bool(owner) and owner != policy.account_of(writer)
    kind = next((kind for kind in ("role", "user") if f":{kind}/" in writer), "account")
    found: list[Document] = []
    if place.role:
        found += _assuming(place, policy.identity(principal))
    found.append(Document(f"Inline policy of the {kind} {writer}", policy.role_policy(place)))
    does = f"in the account {owner}, which is not that of who writes" if other else "it only forbids plain HTTP"
    found.append(
        Document(
            f"Bucket policy of {place.bucket} ({does}); add the statements to those it has",
            policy.bucket_policy(place, writer if other else ""),
        )
    )
    if policy.key_actions(place):
        found.append(
            Document(
                f"Key policy of {place.key}; add the statement to those it has, which let its administrators in",
                policy.key_statement(place, writer),
            )
        )
    return found


def _assuming(place: Place, caller: str) -> list[Document]:
    if not caller:
        raise ConfigError(
            f"who assumes {place.role} is not known; give --principal, the ARN of the user or role that amp-pipeline "
            "runs as"
        )
    external = f"; for {policy.EXTERNAL_ID} write the external_id of the settings" if place.external_id else ""
    return [
        Document(f"Inline policy of {caller}", policy.caller_policy(place)),
        Document(f"Trust policy of {place.role}{external}", policy.trust_policy(caller, external_id=place.external_id)),
    ]


def printed(found: list[Document]) -> Iterator[str]:
    """Yield the lines of documents."""
    for number, document in enumerate(found, 1):
        yield f"{number}. {document.where}:"
        yield from _indented(document.body)
        yield ""


def delivery_of(project: Project, name: str) -> Delivery:
    """Return a delivery of a project to a bucket.

    Raises:
        ConfigError: There is none of that name, or it goes to a folder.
    """
    for delivery in project.deliveries:
        if delivery.name == name:
            if not delivery.url.startswith(S3_SCHEME):
                raise ConfigError(f"{project.slug}.{name} delivers to the folder {delivery.url}; it needs no policy")
            return delivery
    known = ", ".join(delivery.name for delivery in project.deliveries) or "none"
    raise ConfigError(f"{project.slug} has no delivery {name}; known are {known}")


def _indented(body: dict[str, Any]) -> Iterator[str]:
    for line in json.dumps(body, indent=2).splitlines():
        yield f"  {line}"
