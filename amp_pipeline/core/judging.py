"""From what a store refused to the access outcome that explains it."""

from __future__ import annotations

import re

from amp_pipeline.core import denials
from amp_pipeline.core.access import Asked, Outcome, elsewhere, failed, first
from amp_pipeline.core.errors import Refusal
from amp_pipeline.core.policy import Place


def judge(step: str, refusal: Refusal, place: Place, principal: str = "") -> Outcome:
    """Return what a refusal means and what to do.

    Args:
        step: Of the probe.
        refusal: What the store or the way to it answered.
        place: Where a delivery would write.
        principal: ARN of who asked, where known.
    """
    asked = Asked(step, refusal, place, principal)
    for rule in (
        _clock,
        _throttled,
        _credentials,
        denials.assuming,
        _region,
        _network,
        _no_bucket,
        denials.key,
        denials.denied,
        _full,
        _unsupported,
        _server,
    ):
        outcome = rule(asked)
        if outcome is not None:
            return outcome
    return failed(
        step,
        "unknown",
        f"{asked.what} failed with {asked.said}",
        "This is not about permissions that are known here; look up the code in the documentation of the store.",
        action=asked.action,
        resource=place.resource(asked.action) if asked.action else "",
        principal=principal,
    )


# Each rule knows one kind of trouble, and returns None for any other.


def _clock(asked: Asked) -> Outcome | None:
    # STS says it in words only.
    worded = re.search(r"Signature (expired|not yet current)", asked.message)
    if asked.code != "RequestTimeTooSkewed" and not worded:
        return None
    return asked.fails(
        "credentials",
        "clock",
        f"{asked.what} was refused, since its time is not the store's: {asked.code}",
        "Set the clock of this machine, best by NTP; requests are signed with the time, and 15 minutes are too much.",
    )


_THROTTLES = ("SlowDown", "Throttl", "RequestLimitExceeded", "TooManyRequests", "BandwidthLimitExceeded")


def _throttled(asked: Asked) -> Outcome | None:
    if not any(word in asked.code for word in _THROTTLES) and asked.status not in (429, 503):
        return None
    by = "KMS" if asked.code.startswith("KMS.") else "the store"
    return asked.fails(
        asked.step,
        "throttled",
        f"{asked.what} was refused, since {by} gets more requests than it takes: {asked.said}",
        "Nothing is wrong with the permissions that were tried so far; wait and probe again. If it stays so, find out "
        "who else writes there, run fewer hours at a time, or raise `attempts`."
        + (" Bucket keys (`bucket_key: true`) ask KMS far less." if by == "KMS" else ""),
    )


_NEW_KEY = "Give an access key that is there and active (`access_key_id`, `secret_access_key`), or a role or profile."
_RENEW = "Get new ones; better, let a `role` give them, which are renewed while a run lasts."
_NO_PROFILE = "Name a profile that the AWS configuration files of this machine have, readable for this user."
_CREDENTIALS = {
    "NoCredentialsError": (
        "there are no credentials",
        "Give a `profile`, a key by {{ env.NAME }}, or run where the machine has a role.",
    ),
    "PartialCredentialsError": ("half of the credentials is missing", "Give key id and secret both."),
    "CredentialRetrievalError": ("the credentials can't be fetched", "See that their provider works by itself."),
    "MetadataRetrievalError": ("the credentials can't be fetched", "See that the machine has a role."),
    "ProfileNotFound": ("the profile is not there", _NO_PROFILE),
    "ConfigNotFound": ("the AWS configuration file is not there", _NO_PROFILE),
    "ConfigParseError": ("the AWS configuration file can't be read", _NO_PROFILE),
    "InvalidAccessKeyId": ("the access key id is unknown there", _NEW_KEY),
    "InvalidClientTokenId": ("the access key id is unknown there, or not active", _NEW_KEY),
    "UnrecognizedClientException": ("the access key id is unknown there, or not active", _NEW_KEY),
    "SignatureDoesNotMatch": (
        "the secret does not belong to the access key id",
        "Set `secret_access_key` anew, whole and without spaces. A proxy that changes requests looks the same.",
    ),
    "InvalidSignatureException": ("the secret does not belong to the access key id", _NEW_KEY),
    "ExpiredToken": ("the credentials have expired", _RENEW),
    "ExpiredTokenException": ("the credentials have expired", _RENEW),
    "TokenRefreshRequired": ("the credentials have expired", _RENEW),
    "RequestExpired": ("the credentials have expired", _RENEW),
    "InvalidToken": ("the session token is none", _RENEW),
    "TokenRetrievalError": ("the sign-in has expired", "Sign in again (`aws sso login`)."),
    "UnauthorizedSSOTokenError": ("the sign-in has expired", "Sign in again (`aws sso login`)."),
    "SSOTokenLoadError": ("nobody has signed in", "Sign in (`aws sso login`)."),
    "RefreshWithMFAUnsupportedError": ("the profile asks for a code by hand", "Use a role that needs none."),
    "NotSignedUp": ("the account has no S3", "Finish signing up for AWS."),
}
"""By code: what is wrong with the credentials, and what to do."""


def _credentials(asked: Asked) -> Outcome | None:
    if "Invalid header value" in asked.message:
        return asked.fails(
            "credentials",
            "credentials",
            f"credentials: the access key id or the session token can't be sent: {asked.said}",
            "It has a line end or another character that no request may hold; set it anew, whole and without spaces.",
        )
    malformed = asked.code == "AuthorizationHeaderMalformed" and "region" not in asked.message
    if asked.code not in _CREDENTIALS and not malformed:
        return None
    wrong, advice = _CREDENTIALS.get(asked.code, ("the access key id is none", _NEW_KEY))
    return asked.fails("credentials", "credentials", f"credentials: {wrong}: {asked.said}", advice)


_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_NO_REGION = ("NoRegionError", "InvalidRegionError", "UnknownRegionError", "UnknownEndpointError")


def _region(asked: Asked) -> Outcome | None:
    if asked.code == "TemporaryRedirect" or asked.status == 307:
        return asked.fails(
            "region",
            "wrong_region",
            f"{asked.what} was sent elsewhere, since the bucket is new: {asked.said}",
            "AWS needs up to a day to make a new bucket's address known everywhere; give its `region`, or wait.",
        )
    if asked.code in _NO_REGION:
        return asked.fails(
            "region", "wrong_region", f"region: {asked.said}", "Write the `region` of the bucket, like eu-central-1."
        )
    if asked.code not in _ELSEWHERE and asked.status != 301 and not (asked.status == 400 and asked.region):
        return None
    return elsewhere(asked.place, asked.region or first(re.compile(r"expecting '([\w-]+)'"), asked.message))


_REACHED_NOT = {
    "ConnectTimeoutError": "nothing answers there: a firewall or a missing route drops the packets",
    "ReadTimeoutError": "the connection stands, but no answer comes in `read_timeout`",
    "RequestTimeout": "the connection broke while data was sent",
    "SSLError": "TLS can't be agreed on: the certificate is not trusted here, or the server there speaks plain HTTP",
    "ProxyConnectionError": "the proxy that the environment names can't be reached",
    "EndpointConnectionError": "the name is unknown, or nobody listens at the address",
    "ConnectionClosedError": "the server closes the connection without an answer; it may speak another protocol",
    "ConnectionError": "the connection breaks",
    "HTTPClientError": "the connection breaks",
    "ResponseStreamingError": "the connection breaks in the answer",
    "IncompleteReadError": "the connection breaks in the answer",
    "ResponseParserError": "what answers there is no S3 server, or a proxy answers in its place",
}


def _network(asked: Asked) -> Outcome | None:
    if asked.code not in _REACHED_NOT:
        return None
    # Nobody but STS is asked for a role.
    what, setting = ("STS", "sts_endpoint") if asked.step == "role" else (asked.place.url, "endpoint")
    return asked.fails(
        asked.step,
        "network",
        f"{asked.step}: {what} can't be reached: {asked.said}",
        f"Most likely {_REACHED_NOT[asked.code]}. Check `{setting}` and `region`, then names, routes, firewall and "
        "proxy from this very machine; permissions were not asked yet.",
    )


def _no_bucket(asked: Asked) -> Outcome | None:
    absent = asked.status == 404 and asked.operation == "HeadBucket"
    if asked.code not in ("NoSuchBucket", "InvalidBucketName") and not absent:
        return None
    return asked.fails(
        "bucket",
        "no_bucket",
        f"bucket: the store has no bucket {asked.place.bucket}",
        "Check the url for a misspelling and `endpoint` for another server, or make the bucket.",
    )


_NOT_SUPPORTED = {
    "AccessControlListNotSupported": "Remove `acl`: the bucket's owner owns all objects in it anyway.",
    "InvalidStorageClass": "Choose another `storage_class`, or none.",
    "NotImplemented": "The server lacks something that the settings or every delivery ask for; see the message.",
    "XNotImplemented": "The server lacks something that the settings or every delivery ask for; see the message.",
    "MethodNotAllowed": "The server lacks an operation that every delivery needs.",
}


def _unsupported(asked: Asked) -> Outcome | None:
    if asked.code not in _NOT_SUPPORTED and asked.status != 501:
        return None
    return asked.fails(
        asked.step,
        "unsupported",
        f"{asked.what} is more than the bucket can do: {asked.said}",
        _NOT_SUPPORTED.get(asked.code, _NOT_SUPPORTED["NotImplemented"]),
    )


_FULL = ("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage")


def _full(asked: Asked) -> Outcome | None:
    if asked.code not in _FULL and asked.status != 507:
        return None
    return asked.fails(
        asked.step,
        "full",
        f"{asked.what} was refused, since there is no room: {asked.said}",
        "Raise the quota of the bucket or of its owner, or make room; nothing is wrong with permissions.",
    )


def _server(asked: Asked) -> Outcome | None:
    if asked.code not in ("InternalError", "InternalFailure", "InternalServerError") and asked.status < 500:
        return None
    return asked.fails(
        asked.step,
        "server",
        f"{asked.what} failed in the store itself: {asked.said}",
        "Probe again later; if it stays so, tell who runs the store."
        # botocore makes a 500 of its own of a page that is no XML.
        + (" Or what answers there is no S3 server: check `endpoint` and the proxy." if asked.code == "500" else ""),
    )


def judge_folder(folder: str, error: str, text: str) -> Outcome:
    """Return what the system's refusal of a folder means.

    Args:
        folder: Where a delivery would write.
        error: The system's name of it, like EACCES.
        text: The system's words.
    """
    kind, advice = {
        "EACCES": ("missing_permission", "Let the user that runs amp_pipeline write to the folder."),
        "EPERM": ("missing_permission", "Let the user that runs amp_pipeline write to the folder."),
        "EROFS": ("missing_permission", "The disk is mounted for reading only; mount it for writing."),
        "ENOSPC": ("full", "Make room on the disk."),
        "EDQUOT": ("full", "Raise the quota of the user, or make room."),
        "ENOENT": ("no_bucket", "Make the folder; a disk that is not mounted looks the same."),
        "ENOTDIR": ("no_bucket", "Something on the way to the folder is a file; choose another folder."),
        "EEXIST": ("no_bucket", "There is a file of that name; choose another folder."),
    }.get(error, ("unknown", "See that the folder is there and its disk works."))
    return failed("folder", kind, f"folder: {folder} can't be written: {text}", advice)
