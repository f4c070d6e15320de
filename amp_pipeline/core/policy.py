"""Least policies for a delivery to a bucket: who may do what there, and nothing else. Plain documents of IAM.

What the probe tries and what the policies allow is one table, :data:`OPERATIONS`, so that neither can drift away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Statement = dict[str, Any]
Policy = dict[str, Any]

OPERATIONS: dict[str, dict[str, str]] = {
    "list": {"ListObjectsV2": "s3:ListBucket"},
    "delete": {"DeleteObject": "s3:DeleteObject"},
    "put": {"PutObject": "s3:PutObject"},
    "get": {"GetObject": "s3:GetObject", "HeadObject": "s3:GetObject"},
    "conditional_write": {"PutObject": "s3:PutObject"},
    "multipart": {
        "AbortMultipartUpload": "s3:AbortMultipartUpload",
        "CreateMultipartUpload": "s3:PutObject",
        "UploadPart": "s3:PutObject",
        "ListMultipartUploads": "s3:ListBucketMultipartUploads",
        "CompleteMultipartUpload": "s3:PutObject",
    },
}
"""By step of the probe: the operations of S3 that it makes, and the action that a policy has to allow for each."""

TAGGING = "s3:PutObjectTagging"
ACL = "s3:PutObjectAcl"
ENCRYPT = "kms:GenerateDataKey"
DECRYPT = "kms:Decrypt"
ASSUME = "sts:AssumeRole"

EXTERNAL_ID = "EXTERNAL-ID"
"""Stands in printed policies for the external id, which is a secret of the settings."""

_LIST = "s3:ListBucket"
_OF_BUCKET = (_LIST, "s3:ListBucketMultipartUploads")
_VERSION = "2012-10-17"
_SESSION = re.compile(r"arn:(?P<partition>[a-z-]+):sts::(?P<account>\d{12}):assumed-role/(?P<role>[^/]+)/.+")


@dataclass(frozen=True)
class Place:
    """Where a delivery writes, and how, as far as policies speak of it."""

    bucket: str
    path: str = ""
    """What all keys begin with, without slashes at its ends; "" for the whole bucket."""
    account: str = ""
    """Owner of the bucket, where known."""
    region: str = ""
    """Of the bucket, where known."""
    role: str = ""
    """ARN of the role that is assumed, where one is."""
    external_id: bool = False
    """Whether an external id is sent when it is assumed."""
    kms: bool = False
    """Whether objects are encrypted with a key in KMS."""
    key: str = ""
    """That key, as the settings name it; "" for the account's aws/s3 key."""
    tags: bool = False
    acl: bool = False

    @property
    def url(self) -> str:
        """The place as a user writes it."""
        return f"s3://{self.bucket}/{self.path}".rstrip("/")

    @property
    def partition(self) -> str:
        """The part of AWS that it lies in: aws, aws-cn, aws-us-gov."""
        named = self.role or (self.key if self.key.startswith("arn:") else "")
        if named:
            return named.split(":")[1]
        return next((part for part in ("aws-cn", "aws-us-gov") if self.region.startswith(f"{part[4:]}-")), "aws")

    @property
    def bucket_arn(self) -> str:
        """ARN of the bucket."""
        return f"arn:{self.partition}:s3:::{self.bucket}"

    @property
    def objects_arn(self) -> str:
        """ARN of all objects of the delivery."""
        return f"{self.bucket_arn}/{self.path}/*" if self.path else f"{self.bucket_arn}/*"

    def resource(self, action: str) -> str:
        """Return the ARN that ``action`` is allowed on."""
        if action.startswith("kms:"):
            return _key_arn(self)
        if action == ASSUME:
            return self.role
        return self.bucket_arn if action in _OF_BUCKET else self.objects_arn


def actions(place: Place) -> list[str]:
    """Return the actions of S3 that a delivery to ``place`` needs."""
    needed = {action for of_step in OPERATIONS.values() for action in of_step.values()}
    asked = {TAGGING: place.tags, ACL: place.acl}
    return sorted(needed | {action for action, wanted in asked.items() if wanted})


def key_actions(place: Place) -> list[str]:
    """Return the actions of KMS that a delivery to ``place`` needs; none for aws/s3, whose policy can't be changed."""
    # Decrypt is for reading back, and for the parts of a large object. DescribeKey is for nothing.
    return [DECRYPT, ENCRYPT] if place.kms and place.key else []


def statement(action: str, place: Place, principal: str = "") -> Statement:
    """Return what allows ``action`` on ``place``.

    Args:
        action: Of S3, KMS or STS.
        place: Where.
        principal: ARN of who may; for policies of a bucket, a key or a role's trust.
    """
    if action == ASSUME and principal:
        return _trust(principal, external_id=place.external_id)
    return _allow([action], place, principal)


def role_policy(place: Place) -> Policy:
    """Return the policy of the role or user that writes."""
    return _policy(_allows(place, "") + ([_allow(key_actions(place), place)] if key_actions(place) else []))


def bucket_policy(place: Place, principal: str = "") -> Policy:
    """Return the policy of the bucket: nothing without TLS; and the delivery, for a ``principal`` of another account.

    In the bucket's own account the role's policy is enough.
    """
    without_tls = {
        "Sid": "NothingWithoutTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [place.bucket_arn, f"{place.bucket_arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return _policy([without_tls, *(_allows(place, principal) if principal else [])])


def key_statement(place: Place, principal: str) -> Statement:
    """Return what the policy of the KMS key says beside what it says already."""
    return _allow(key_actions(place) or [DECRYPT, ENCRYPT], place, principal)


def trust_policy(principal: str, *, external_id: bool) -> Policy:
    """Return who may assume the role."""
    return _policy([_trust(principal, external_id=external_id)])


def caller_policy(place: Place) -> Policy:
    """Return what who assumes the role needs itself."""
    return _policy([_allow([ASSUME], place)])


def identity(arn: str, role: str = "") -> str:
    """Return the ARN that a policy names for who asked as ``arn``: of a session, its role.

    Example:
        >>> identity("arn:aws:sts::123456789012:assumed-role/writer/amp-pipeline")
        'arn:aws:iam::123456789012:role/writer'
    """
    session = _SESSION.fullmatch(arn)
    if session is None:
        return arn
    # The ARN of a session leaves out the path of its role.
    if role.endswith(f"/{session['role']}"):
        return role
    return f"arn:{session['partition']}:iam::{session['account']}:role/{session['role']}"


def account_of(arn: str) -> str:
    """Return the account that ``arn`` belongs to, "" where it tells none.

    Example:
        >>> account_of("arn:aws:iam::123456789012:user/ann")
        '123456789012'
    """
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""


def _allows(place: Place, principal: str) -> list[Statement]:
    needed = actions(place)
    of_bucket = [action for action in needed if action in _OF_BUCKET]
    of_objects = [action for action in needed if action not in _OF_BUCKET]
    # Apart, since only listing knows the condition of a path.
    return [*(_allow([action], place, principal) for action in of_bucket), _allow(of_objects, place, principal)]


def _allow(allowed: list[str], place: Place, principal: str = "") -> Statement:
    said: Statement = {"Effect": "Allow"}
    if principal:
        said["Principal"] = {"AWS": principal}
    said["Action"] = allowed if len(allowed) > 1 else allowed[0]
    if allowed[0].startswith("kms:"):
        # A key's policy speaks of that key and no other.
        said["Resource"] = "*" if principal else place.resource(allowed[0])
        condition = _through_s3(place) | ({} if principal else _by_alias(place))
    else:
        said["Resource"] = place.resource(allowed[0])
        condition = {"StringLike": {"s3:prefix": f"{place.path}/*"}} if allowed == [_LIST] and place.path else {}
    if condition:
        said["Condition"] = condition
    return said


def _trust(principal: str, *, external_id: bool) -> Statement:
    said: Statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": ASSUME}
    if external_id:
        said["Condition"] = {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}}
    return said


def _key_arn(place: Place) -> str:
    if ":key/" in place.key:
        return place.key
    name = "*" if "alias/" in place.key or not place.key else place.key
    # The ARN of an alias tells whose the key is, which need not be whose the bucket is.
    region, account = place.key.split(":")[3:5] if place.key.startswith("arn:") else (place.region, place.account)
    return f"arn:{place.partition}:kms:{region or '*'}:{account or '*'}:key/{name}"


def _by_alias(place: Place) -> dict[str, Any]:
    # An alias is no resource that a policy can name.
    if "alias/" not in place.key:
        return {}
    return {"ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{place.key.partition('alias/')[2]}"}}


def _through_s3(place: Place) -> dict[str, Any]:
    """Return the condition that the key serves S3 only; none where the region isn't known, or names end otherwise."""
    region = place.region or (place.key.split(":")[3] if place.key.startswith("arn:") else "")
    if not region or place.partition == "aws-cn":
        return {}
    return {"StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"}}


def _policy(statements: list[Statement]) -> Policy:
    return {"Version": _VERSION, "Statement": statements}
