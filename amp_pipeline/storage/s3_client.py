"""From a user's settings to a client of boto3, and from what boto3 raises to what was refused.

Not ``S3Resource`` of dagster-aws 0.29: it knows no role, no timeouts, no addressing style, and importing it costs each
process 2 s and brings Dagster to where nothing else needs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.loaders import Loader, create_loader

from amp_pipeline.buckets import S3
from amp_pipeline.core.errors import Refusal, StoreError

_CONNECTIONS = 16
_ROLE_SESSION = "amp-pipeline"


def connect(settings: S3) -> Any:
    """Return a client for S3; the same one for the same way to the same server.

    Raises:
        StoreError: There is no such profile.
    """
    # Not shared with a process that was forked: it holds connections.
    same = settings.model_copy(update=_NO_CONNECTION_OF_ITS_OWN)
    return _connect(cast(Hashable, same), os.getpid(), _files_written())


_NO_CONNECTION_OF_ITS_OWN: dict[str, Any] = {
    "encryption": None,
    "acl": None,
    "storage_class": None,
    "tags": (),
    "account": None,
}


def _files_written() -> tuple[float, ...]:
    """Return when the AWS configuration files were written.

    Sensors live for weeks, and boto3 reads a profile once: a key that was mended there would not be noticed.
    """
    session = botocore.session.Session()
    written: list[float] = []
    for name in ("credentials_file", "config_file"):
        try:
            written.append(Path(str(session.get_config_variable(name))).expanduser().stat().st_mtime)
        except OSError:
            written.append(0)
    return tuple(written)


@lru_cache(maxsize=64)
def _connect(same: Hashable, process: int, written: Hashable) -> Any:
    del process, written
    settings = cast(S3, same)
    return _session(settings).client(
        "s3",
        endpoint_url=settings.endpoint,
        config=config_of(settings).merge(Config(s3={"addressing_style": settings.addressing})),
    )


def sts(settings: S3) -> Any:
    """Return a client that can say who asks."""
    return _session(settings).client("sts", endpoint_url=settings.sts_endpoint, config=config_of(settings))


def config_of(settings: S3) -> Config:
    """Return how often and how long requests are tried."""
    return Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        # "standard" waits between tries, longer each time, and knows which errors another try may mend.
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=_CONNECTIONS,
        user_agent_extra=f"amp-pipeline/{version('amp-pipeline')}",
    )


def _session(settings: S3) -> boto3.Session:
    secret = settings.secret_access_key
    try:
        session = boto3.Session(
            botocore_session=_botocore_session(settings.profile),
            region_name=settings.region,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
        )
    except BotoCoreError as error:
        refusal = refusal_of(error)
        raise StoreError(
            f"the AWS profile {settings.profile} can't be used: {refusal.message}; name one that the AWS "
            "configuration files of this machine have",
            refusal,
        ) from error
    return session if settings.role is None else _in_role(session, settings)


def _botocore_session(profile: str | None) -> botocore.session.Session:
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _descriptions())
    return session


@lru_cache(maxsize=1)
def _descriptions() -> Loader:
    """Return the descriptions of APIs, which take each session of its own 0.1 s to read."""
    return create_loader()


def _in_role(own: boto3.Session, settings: S3) -> boto3.Session:
    """Return a session of a role, whose credentials are fetched when first needed and again before they expire."""
    credentials = own.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    asked = {"RoleSessionName": _ROLE_SESSION}
    if settings.external_id is not None:
        asked["ExternalId"] = settings.external_id.get_secret_value()
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=lambda service, **keys: boto3.client(
            service,
            region_name=own.region_name,
            endpoint_url=settings.sts_endpoint,
            config=config_of(settings),
            **{key: value for key, value in keys.items() if key.startswith("aws_")},
        ),
        source_credentials=credentials,
        role_arn=settings.role,
        extra_args=asked,
    )
    session = _botocore_session(None)
    session.set_config_variable("region", own.region_name)
    # The way in that botocore's own providers use; it has no public one for credentials that renew themselves.
    cast(Any, session)._credentials = DeferredRefreshableCredentials(
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return boto3.Session(botocore_session=session)


def without_secrets(settings: S3, text: str) -> str:
    """Return ``text`` without what some servers repeat of a request that they refuse."""
    for secret in (settings.secret_access_key, settings.external_id):
        if secret is not None and (value := secret.get_secret_value()):
            text = text.replace(value, "…")
    return text


def refusal_of(error: BaseException) -> Refusal:
    """Return what boto3 raised, in words that don't depend on it."""
    if isinstance(error, ClientError):
        answer: dict[str, Any] = dict(error.response)
        told = answer.get("Error", {})
        about = answer.get("ResponseMetadata", {})
        headers = about.get("HTTPHeaders", {})
        return Refusal(
            operation=str(error.operation_name),
            code=str(told.get("Code", "")),
            message=str(told.get("Message", "")),
            status=int(about.get("HTTPStatusCode", 0)),
            region=str(headers.get("x-amz-bucket-region", "") or told.get("Region", "")),
        )
    return Refusal(operation="", code=type(error).__name__, message=_HEADER.sub(r"\1 …", str(error)))


_HEADER = re.compile(r"(Invalid header value).*", re.DOTALL)
"""Behind these words stands the header itself: who asks and the signature, or a session token."""
