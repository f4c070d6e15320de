"""The access probe: tries all that a delivery does with its destination, and tells which part is refused, and why.

It writes as the delivery would (encryption, ACL, tags, storage class), below a folder of its own, and removes what it
wrote. Whether it may remove anything is tried before anything is written.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from amp_pipeline.buckets import S3
from amp_pipeline.core import access
from amp_pipeline.core.access import PROBES, Outcome
from amp_pipeline.core.errors import Refusal, StoreError
from amp_pipeline.core.judging import judge, judge_folder
from amp_pipeline.core.policy import ACL, ENCRYPT, TAGGING, Place
from amp_pipeline.fields import S3_SCHEME
from amp_pipeline.storage.s3_client import connect, refusal_of, sts, without_secrets

_TRIES = 2
"""Enough for a connection that has grown old; who asks for access waits for the answer."""

_ROOM_BYTES = 256 << 20
_DATA = b"amp-pipeline access\n"
_EXPECTED = (ClientError, BotoCoreError, ResponseParserError, HTTPError, StoreError, OSError)
_HEAD_TELLS_NOTHING = (400, 403)
_NOT_AS_EXPECTED = (409, 412)


def probe(url: str, s3: S3 | None) -> Outcome:
    """Try what a delivery to ``url`` does.

    Args:
        url: An absolute folder path, or ``s3://bucket/path``.
        s3: How the bucket is reached and written; as boto3 finds it by itself if not given.

    Returns:
        What it came to. Expected trouble raises nothing.
    """
    return _Bucket(url, s3 or S3()).probed() if url.startswith(S3_SCHEME) else _probe_folder(Path(url))


def place_of(url: str, s3: S3 | None) -> Place:
    """Return where and how a delivery to the bucket at ``url`` writes, as policies speak of it."""
    settings = s3 or S3()
    bucket, _, path = url.removeprefix(S3_SCHEME).partition("/")
    encryption = settings.encryption
    return Place(
        bucket=bucket,
        path=path,
        account=settings.account or "",
        region=settings.region or "",
        role=settings.role or "",
        external_id=settings.external_id is not None,
        kms=encryption is not None and encryption.type == "sse-kms",
        key=(encryption.key if encryption else None) or "",
        tags=bool(settings.tags),
        acl=settings.acl is not None,
    )


class _Bucket:
    """A probe of a bucket."""

    def __init__(self, url: str, settings: S3) -> None:
        self._settings = settings.model_copy(update={"attempts": min(settings.attempts, _TRIES)})
        self._place = place_of(url, settings)
        self._principal = ""
        self._bucket = {"Bucket": self._place.bucket}
        self._owned: dict[str, str] = self._bucket
        if settings.account is not None:
            self._owned = {**self._bucket, "ExpectedBucketOwner": settings.account}
        self._folder = f"{self._place.path}/{PROBES}/{secrets.token_hex(8)}/".removeprefix("/")
        self._written: set[str] = set()
        self._begun: list[dict[str, str]] = []

    def probed(self) -> Outcome:
        steps: list[tuple[str, Callable[[], Outcome | None]]] = [
            ("credentials", self._credentials),
            *([("role", self._role)] if self._settings.role is not None else []),
            ("bucket", self._is_there),
            ("list", self._list),
            ("delete", partial(self._delete, "nothing")),
            ("put", self._put),
            ("get", self._get),
            ("conditional_write", self._write_on_condition),
            ("multipart", self._write_in_parts),
            ("delete", self._clean),
        ]
        outcome = self._run(steps)
        if self._leaves_something():
            where = f"{self._place.url}/{PROBES}/"
            outcome = replace(outcome, advice=f"{outcome.advice} A few bytes below {where} could not be removed.")
        return self._without_secrets(outcome)

    def _run(self, steps: list[tuple[str, Callable[[], Outcome | None]]]) -> Outcome:
        passed: list[str] = []
        for step, body in steps:
            outcome = self._tried(step, body)
            if outcome is not None:
                return replace(outcome, passed=tuple(done for done in passed if done != outcome.step))
            if step not in passed:
                passed.append(step)
        return access.passed(tuple(passed), self._place.url, self._principal)

    def _tried(self, step: str, body: Callable[[], Outcome | None]) -> Outcome | None:
        try:
            return body()
        except _EXPECTED as error:
            return judge(step, _refusal(error), self._place, self._principal)

    @cached_property
    def _client(self) -> Any:
        return connect(self._settings)

    def _credentials(self) -> Outcome | None:
        """Find out who asks. S3 needs no answer to that, so only wrong credentials are trouble."""
        settings = self._settings
        if settings.endpoint is not None and settings.sts_endpoint is None:
            # Their owner never meant them for AWS.
            return None
        try:
            self._principal = _who(settings.model_copy(update={"role": None, "external_id": None}))
        except _EXPECTED as error:
            outcome = judge("credentials", _refusal(error), self._place)
            return outcome if outcome.kind in ("credentials", "clock") else None
        return None

    def _role(self) -> None:
        self._principal = _who(self._settings)

    def _is_there(self) -> Outcome | None:
        try:
            answer = self._client.head_bucket(**self._owned)
        except ClientError as error:
            refusal = refusal_of(error)
            if not self._is_elsewhere(refusal.region):
                if refusal.status in _HEAD_TELLS_NOTHING:
                    # Also refused to who may list some path only. Listing that path has an answer with reasons.
                    return None
                raise
            told = refusal.region
        else:
            # Where it is elsewhere, boto3 went there by itself this time.
            told = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
        if self._is_elsewhere(told):
            return access.elsewhere(self._place, told, self._client.meta.region_name)
        return None

    def _is_elsewhere(self, region: str) -> bool:
        here = self._client.meta.region_name
        return bool(region) and region != ("us-east-1" if here == "aws-global" else here)

    def _list(self) -> Outcome | None:
        listing = {"Prefix": self._folder, "MaxKeys": 1}
        try:
            self._client.list_objects_v2(**self._owned, **listing)
        except ClientError as error:
            if self._owned is self._bucket or refusal_of(error).status != 403:
                raise
            with suppress(*_EXPECTED):
                self._client.list_objects_v2(**self._bucket, **listing)
                # It was the account that was refused, and nothing else.
                return access.foreign(self._place, self._principal)
            raise
        return None

    def _delete(self, name: str) -> None:
        self._client.delete_object(**self._named(name))

    def _put(self) -> Outcome | None:
        try:
            self._put_object("object")
        except ClientError as error:
            outcome = judge("put", refusal_of(error), self._place, self._principal)
            if outcome.kind == "missing_permission" and outcome.action == "s3:PutObject":
                return self._narrowed(outcome)
            return outcome
        return None

    def _narrowed(self, outcome: Outcome) -> Outcome:
        """Find out by trying which part of a write is refused: who asks from elsewhere is told nothing."""
        for setting, action in (("Tagging", TAGGING), ("ACL", ACL), ("ServerSideEncryption", ENCRYPT)):
            told = {name: value for name, value in self._settings.writing.items() if not _belongs(name, setting)}
            if len(told) == len(self._settings.writing):
                continue
            with suppress(*_EXPECTED):
                self._put_told("object", told)
                text = f"User: {self._principal} is not authorized to perform: {action}"
                return judge("put", Refusal("PutObject", "AccessDenied", text, 403), self._place, self._principal)
        return outcome

    def _get(self) -> Outcome | None:
        answer = self._client.get_object(**self._named("object"))
        with answer["Body"] as body:
            data = body.read()
        if data != _DATA:
            return access.failed(
                "get",
                "unsupported",
                f"get: {self._place.url} gives other bytes than were written",
                "Something between here and the store changes objects; a delivery would refuse to mark an hour.",
            )
        try:
            self._client.head_object(**self._named("nothing"))
        except ClientError as error:
            refusal = refusal_of(error)
            if refusal.status == 404:
                return None
            if refusal.status == 403:
                # So S3 answers who may not list, lest names be guessed.
                return judge(
                    "list", replace(refusal, operation="ListObjectsV2", message=""), self._place, self._principal
                )
            raise
        return None

    def _write_on_condition(self) -> Outcome | None:
        first = self._put_object("claim", IfNoneMatch="*")
        self._put_object("claim", IfMatch=first["ETag"])
        for name, value in (("IfNoneMatch", "*"), ("IfMatch", '"00000000000000000000000000000000"')):
            try:
                self._put_object("claim", **{name: value})
            except ClientError as error:
                if refusal_of(error).status not in _NOT_AS_EXPECTED:
                    raise
            else:
                return access.failed(
                    "conditional_write",
                    "unsupported",
                    f"conditional_write: {self._place.url} overwrites an object although {name} was to keep it",
                    "The server doesn't know conditional writes, so two runs could write one hour at the same time. "
                    "Use a newer version of it, or another server.",
                )
        return None

    def _write_in_parts(self) -> Outcome | None:
        # Before there is anything to abort.
        try:
            self._client.abort_multipart_upload(**self._named("parts"), UploadId="none")
        except ClientError as error:
            if refusal_of(error).status == 403:
                raise
        for complete in (True, False):
            upload = self._begin("parts")
            part = self._client.upload_part(**upload, PartNumber=1, Body=_DATA, ChecksumAlgorithm="CRC32")
            self._client.list_multipart_uploads(**self._owned, Prefix=self._folder)
            if complete:
                checksum = {name: part[name] for name in ("ChecksumCRC32",) if name in part}
                parts = [{"PartNumber": 1, "ETag": part["ETag"], **checksum}]
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            else:
                self._client.abort_multipart_upload(**upload)
            self._begun.remove(upload)
        return None

    def _begin(self, name: str) -> dict[str, str]:
        named = self._named(name)
        begun = self._client.create_multipart_upload(**named, ChecksumAlgorithm="CRC32", **self._settings.writing)
        upload = {**named, "UploadId": begun["UploadId"]}
        self._begun.append(upload)
        self._written.add(name)
        return upload

    def _put_object(self, name: str, **condition: str) -> dict[str, Any]:
        return self._put_told(name, {**self._settings.writing, **condition})

    def _put_told(self, name: str, told: dict[str, str | bool]) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.put_object(**self._named(name), Body=_DATA, **told)
        self._written.add(name)
        return answer

    def _named(self, name: str) -> dict[str, str]:
        return {**self._owned, "Key": self._folder + name}

    def _clean(self) -> None:
        for name in sorted(self._written):
            self._delete(name)
            self._written.discard(name)

    def _leaves_something(self) -> bool:
        """Remove what a probe that failed has written, as far as that may be done."""
        for upload in list(self._begun):
            with suppress(*_EXPECTED):
                self._client.abort_multipart_upload(**upload)
                self._begun.remove(upload)
        for name in sorted(self._written):
            with suppress(*_EXPECTED):
                self._delete(name)
                self._written.discard(name)
        return bool(self._begun or self._written)

    def _without_secrets(self, outcome: Outcome) -> Outcome:
        summary, advice = (without_secrets(self._settings, text) for text in (outcome.summary, outcome.advice))
        return replace(outcome, summary=summary, advice=advice)


def _belongs(name: str, setting: str) -> bool:
    return name == setting or (setting == "ServerSideEncryption" and name in ("SSEKMSKeyId", "BucketKeyEnabled"))


def _who(settings: S3) -> str:
    arn: str = sts(settings).get_caller_identity()["Arn"]
    return arn


def _refusal(error: BaseException) -> Refusal:
    if isinstance(error, StoreError):
        return error.refusal or Refusal("", type(error).__name__, str(error))
    refusal = refusal_of(error)
    # Whether a name is unknown or a port closed is told by what botocore wraps only.
    cause = getattr(error, "kwargs", {}).get("error") if isinstance(error, BotoCoreError) else None
    text = str(cause).rpartition(": ")[2] if isinstance(cause, Exception) else ""
    return replace(refusal, message=f"{refusal.message}: {text}") if text and text not in refusal.message else refusal


def _probe_folder(folder: Path) -> Outcome:
    name = secrets.token_hex(8)
    try:
        with _made(folder):
            if shutil.disk_usage(folder).free < _ROOM_BYTES:
                raise OSError(errno.ENOSPC, f"less than {_ROOM_BYTES >> 20} MiB are free on its disk")
            with _made(folder / PROBES):
                before, after = (folder / PROBES / f"{name}.{when}" for when in ("incoming", "probe"))
                try:
                    before.write_bytes(_DATA)
                    before.replace(after)
                    if after.read_bytes() != _DATA or after not in list(after.parent.iterdir()):
                        raise OSError(errno.EIO, "other bytes are read than were written")
                finally:
                    for path in (before, after):
                        path.unlink(missing_ok=True)
    except OSError as error:
        # A mounted folder that is gone is told by the system in many ways.
        return judge_folder(str(folder), errno.errorcode.get(error.errno or 0, ""), error.strerror or str(error))
    return access.passed(("folder",), str(folder))


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, and remove again what of it was not there and is empty."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in absent:
            with suppress(OSError):
                path.rmdir()
