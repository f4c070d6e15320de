"""How a bucket is reached and written: what a user writes under ``s3`` in a ``defs.yaml``."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema, field_validator, model_validator

from amp_pipeline.fields import is_address

_ROLE = re.compile(r"arn:[a-z-]+:iam::\d{12}:role/[\w+=,.@/-]+")
_ACCOUNT = re.compile(r"\d{12}")
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:(key|alias)/[\w/-]+")
_KEY_NAME = re.compile(r"[\w./:-]+")  # other servers than AWS call their keys as they like
_HOST = re.compile(r"(?!-)[a-z\d-]{1,63}(?<!-)(\.(?!-)[a-z\d-]{1,63}(?<!-))*\.?|[0-9a-f:.]*:[0-9a-f:.]*", re.IGNORECASE)
"""What botocore takes: an underscore, as containers' names may have, it does not."""
_MOST_TAGS = 10  # of an object; S3's own bound
_TAGS_SCHEMA = {"type": "object", "additionalProperties": {"type": "string"}}
_Tag = Annotated[str, Field(max_length=256)]


_LONGEST_REQUEST_SECONDS = 12 * 60
"""Below the lease of a claim (``destinations/claim.py``), which is not renewed while a request lasts."""


class Encryption(BaseModel):
    """How the bucket encrypts what is written to it: data, manifests and markers alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["sse-s3", "sse-kms"] = Field(
        description="sse-s3: with keys that S3 keeps. sse-kms: with a key of your own in AWS KMS."
    )
    key: str | None = Field(
        default=None,
        description="The KMS key: its ARN (an id or alias only works within the bucket's own account). "
        "Only with sse-kms; the account's aws/s3 key if not given.",
    )
    bucket_key: bool = Field(
        default=True, description="Ask KMS once for many objects (S3 Bucket Key). Only with sse-kms."
    )

    @field_validator("key")
    @classmethod
    def _is_key(cls, value: str | None) -> str | None:
        if value is not None and not (_KEY_ARN if value.startswith("arn:") else _KEY_NAME).fullmatch(value):
            raise ValueError("write the ARN of a key, like arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-…")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Encryption:
        if self.type == "sse-s3" and self.key is not None:
            raise ValueError("a key belongs to type: sse-kms; name that type, or remove the key")
        return self


class S3(BaseModel):
    """How buckets are reached and written. What is not given is as boto3 finds it: environment, profile, machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        default=None, description="Address of an S3 server, like https://s3.example.com:9000; AWS if not given."
    )
    region: str | None = Field(default=None, description="Region of the bucket, like eu-central-1.")
    addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether the bucket stands in the path or in the host name of requests; most servers other than "
        "AWS want path.",
    )
    profile: str | None = Field(default=None, description="Profile in the AWS configuration files.")
    access_key_id: str | None = Field(
        default=None, description="Access key id, where no profile or role of the machine has one."
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of that key; write {{ env.NAME }}, never the secret itself."
    )
    role: str | None = Field(
        default=None, description="ARN of a role to assume; its credentials are renewed while a run lasts."
    )
    external_id: SecretStr | None = Field(
        default=None, description="External id that the role's trust policy asks for (sts:ExternalId)."
    )
    sts_endpoint: str | None = Field(
        default=None, description="Address of the server that gives roles, where it is not AWS."
    )
    account: str | None = Field(
        default=None,
        pattern=r"^\d{12}$",
        description="Account that owns the bucket; S3 then refuses a bucket of that name that somebody else owns.",
    )
    encryption: Encryption | None = Field(
        default=None, description="Encryption of each object; as the bucket does by itself if not given."
    )
    acl: Literal["bucket-owner-full-control"] | None = Field(
        default=None, description="ACL of each object, for a bucket of another account that still uses ACLs."
    )
    storage_class: (
        Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"]
        | None
    ) = Field(default=None, description="Storage class of each object; those that must be restored can't be read.")
    tags: Annotated[tuple[tuple[_Tag, _Tag], ...], WithJsonSchema(_TAGS_SCHEMA)] = Field(
        default=(), description="Tags of each object, as name: value."
    )
    connect_timeout: float = Field(default=10, gt=0, le=600, description="Seconds to wait for a connection.")
    read_timeout: float = Field(default=60, gt=0, le=600, description="Seconds to wait for an answer, and in it.")
    attempts: int = Field(default=5, ge=1, le=20, description="How often a request is tried in all.")

    @field_validator("tags", mode="before")
    @classmethod
    def _tags_from_mapping(cls, value: object) -> object:
        if isinstance(value, str) or (isinstance(value, list) and any(isinstance(one, str) for one in value)):
            raise ValueError("write each tag as name: value")
        return tuple((str(name), str(text)) for name, text in value.items()) if isinstance(value, dict) else value

    @field_validator("tags")
    @classmethod
    def _few_tags(cls, value: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        if len(value) > _MOST_TAGS:
            raise ValueError(f"an object may have {_MOST_TAGS} tags, not {len(value)}")
        return value

    @field_validator("endpoint", "sts_endpoint")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not is_address(value):
            raise ValueError("write an address like https://s3.example.com:9000")
        parts = urlsplit(value)
        if not _HOST.fullmatch(parts.hostname or ""):
            raise ValueError(
                f"{parts.hostname} is no name of a host; letters, digits, hyphens and dots may stand in it"
            )
        if parts.username or parts.password:
            raise ValueError("leave credentials out of the address; they belong to access_key_id and secret_access_key")
        return value.rstrip("/")

    @field_validator("account", mode="before")
    @classmethod
    def _is_account(cls, value: object) -> object:
        # YAML makes a number of digits without quotes, and another one of those that begin with 0.
        if value is not None and not (isinstance(value, str) and _ACCOUNT.fullmatch(value)):
            raise ValueError('write its 12 digits in quotes, like "123456789012"')
        return value

    @field_validator("access_key_id", "secret_access_key", "external_id")
    @classmethod
    def _is_whole(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        # boto3 takes an empty key id for none, and looks for somebody else's credentials.
        if text is not None and (not text or re.search(r"\s", text)):
            raise ValueError("is empty, or has a space or line end in it; look at the environment variable")
        return value

    @field_validator("role")
    @classmethod
    def _is_role(cls, value: str | None) -> str | None:
        if value is not None and not _ROLE.fullmatch(value):
            raise ValueError("write the ARN of a role, like arn:aws:iam::123456789012:role/amp-pipeline")
        return value

    @model_validator(mode="after")
    def _gives_up_in_time(self) -> S3:
        longest = self.attempts * (self.connect_timeout + self.read_timeout)
        if longest > _LONGEST_REQUEST_SECONDS:
            raise ValueError(
                f"attempts times both timeouts is {longest:.0f} s; keep it below {_LONGEST_REQUEST_SECONDS}, or a run "
                "that waits for an answer is taken for one that is gone"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> S3:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together; give both, or neither")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("a profile and access_key_id are two ways to say who asks; keep one of them")
        if self.external_id is not None and self.role is None:
            raise ValueError("external_id is asked for by a role; name the role, or remove it")
        return self

    @property
    def writing(self) -> dict[str, str | bool]:
        """What S3 is told with each new object, in the words of its API."""
        told: dict[str, str | bool] = {}
        if self.encryption is not None:
            told["ServerSideEncryption"] = {"sse-s3": "AES256", "sse-kms": "aws:kms"}[self.encryption.type]
            if self.encryption.type == "sse-kms":
                told["BucketKeyEnabled"] = self.encryption.bucket_key
            if self.encryption.key is not None:
                told["SSEKMSKeyId"] = self.encryption.key
        if self.acl is not None:
            told["ACL"] = self.acl
        if self.storage_class is not None:
            told["StorageClass"] = self.storage_class
        if self.tags:
            told["Tagging"] = urlencode(self.tags)
        return told
