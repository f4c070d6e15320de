"""Objects in a bucket of S3, or of a server that speaks like it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError
from typing_extensions import override
from urllib3.exceptions import HTTPError

from amp_pipeline.buckets import S3
from amp_pipeline.core.errors import ObjectNotFoundError, Refusal, StoreError
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.storage.s3_client import connect, refusal_of, without_secrets

PART_BYTES = 8 << 20
"""Of a multipart upload, and the most that is written in one request. S3 wants 5 MiB at least and 10,000 at most."""

_PARTS_AT_ONCE = 3
_READ_BYTES = 256 << 10
"""Larger pieces are no faster, and eight readers of 1 MiB at a time take 28 MiB more."""

_NO_KEY = ("NoSuchKey", "404", "NotFound")
_NOT_AS_EXPECTED = (409, 412)
_NO_UPLOAD = "NoSuchUpload"
_UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError")
_REST_SECONDS = 60
_BROKEN = (BotoCoreError, ResponseParserError, HTTPError, OSError)
"""What reading an answer's body can raise: botocore's own, urllib3's, and the system's."""


class S3Store(ObjectStore):
    """Objects whose keys begin with the path of an ``s3://bucket/path``."""

    def __init__(self, url: str, settings: S3) -> None:
        """Use the bucket that ``url`` names, which has to exist."""
        super().__init__(url)
        bucket, _, path = url.removeprefix("s3://").partition("/")
        self._path = f"{path}/" if path else ""
        self._settings = settings
        self._unreachable: tuple[float, StoreError] | None = None
        self._bucket = {"Bucket": bucket}
        if settings.account is not None:
            self._bucket["ExpectedBucketOwner"] = settings.account

    @cached_property
    def _client(self) -> Any:
        # Made when first needed: settings that can't be used are trouble of what is asked for, and of nothing else.
        return connect(self._settings)

    @override
    def is_there(self) -> bool:
        with self._explained("reached", ""):
            try:
                # Not HeadBucket: who may list below a path alone may not ask for that.
                _listing(self._client.list_objects_v2(**self._bucket, Prefix=self._path, MaxKeys=1))
            except ClientError as error:
                if _status(error) == 404:
                    return False
                raise
            return True

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        with self._explained("listed", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(**self._bucket, Prefix=self._path + prefix)
            for page in pages:
                found += [
                    ObjectInfo(item["Key"].removeprefix(self._path), item["Size"], item["ETag"])
                    for item in _listing(page).get("Contents", ())
                ]
        return sorted(found, key=lambda info: info.name)

    @override
    def some(self, prefix: str, most: int) -> list[str]:
        with self._explained("listed", prefix):
            page = self._client.list_objects_v2(**self._bucket, Prefix=self._path + prefix, MaxKeys=min(most, 1000))
            return [item["Key"].removeprefix(self._path) for item in _listing(page).get("Contents", ())]

    @override
    def head(self, name: str) -> ObjectInfo | None:
        with self._explained("read", name):
            answer = self._head(name)
        return None if answer is None else ObjectInfo(name, answer["ContentLength"], answer["ETag"])

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._client.head_object(**self._object(name))
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise
        return answer

    @override
    def age(self, name: str) -> float | None:
        with self._explained("read", name):
            answer = self._head(name)
            if answer is None:
                return None
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return (now - answer["LastModified"]).total_seconds()

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        yield from self._read(name, 0, None)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        return b"".join(self._read(name, start, length)) if length else b""

    def _read(self, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """Yield an object's bytes; where the answer breaks off, ask for the rest of the same object."""
        end = None if length is None else start + length
        at, broken, version = start, 0, ""
        while True:
            with self._explained("read", name):
                answer = self._open(name, at, end, version)
                if answer is None:
                    return
                body, version = answer["Body"], answer["ETag"]
            try:
                while chunk := self._chunk(body, name, last_try=broken + 1 >= self._settings.attempts):
                    at, broken = at + len(chunk), 0
                    yield chunk
            except _BrokenOffError:
                broken += 1
            else:
                return
            finally:
                body.close()

    def _open(self, name: str, start: int, end: int | None, version: str) -> dict[str, Any] | None:
        """Ask for an object's bytes from ``start`` on; None where there are none."""
        asked = self._object(name)
        if start or end is not None:
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if version:
            asked["IfMatch"] = version
        try:
            answer: dict[str, Any] = self._client.get_object(**asked)
        except ClientError as error:
            if error.response["Error"]["Code"] in _NO_KEY:
                raise ObjectNotFoundError(f"no object {self.uri(name)}") from None
            if _status(error) == 416:
                return None
            raise
        return answer

    def _chunk(self, body: Any, name: str, *, last_try: bool) -> bytes:
        with self._explained("read", name):
            try:
                data: bytes = body.read(_READ_BYTES)
            except _BROKEN as error:
                # What does not fit its checksum was handed on already.
                if last_try or isinstance(error, FlexibleChecksumError):
                    raise
                raise _BrokenOffError from error
            return data

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        pieces = _pieces(chunks)
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None:
            with self._explained("written", name):
                self._client.put_object(**self._object(name), Body=first, **self._settings.writing)
        else:
            self._put_large(name, _chain(first, second, pieces))

    def _put_large(self, name: str, pieces: Iterator[bytes]) -> None:
        with self._explained("written", name):
            begun = self._client.create_multipart_upload(
                **self._object(name), ChecksumAlgorithm="CRC32", **self._settings.writing
            )
            upload = {**self._object(name), "UploadId": begun["UploadId"]}
        try:
            if begun["ResponseMetadata"].get("RetryAttempts"):
                # A try whose answer was lost has begun another upload, that nobody would end.
                with self._explained("written", name):
                    self._abort_uploads(name, but=begun["UploadId"])
            parts, size = self._put_parts(name, upload, pieces)
            with self._explained("written", name):
                self._complete(name, upload, parts, size)
        except BaseException:
            # What can't be aborted now is cleared by the next writer (clear_unfinished); why it failed matters more.
            with suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**upload)
            raise

    def _put_parts(
        self, name: str, upload: dict[str, Any], pieces: Iterator[bytes]
    ) -> tuple[list[dict[str, Any]], int]:
        def put(number: int, piece: bytes) -> dict[str, Any]:
            with self._explained("written", name):
                answer = self._client.upload_part(**upload, PartNumber=number, Body=piece, ChecksumAlgorithm="CRC32")
            # Not every server that takes checksums repeats them.
            told = {"ChecksumCRC32": answer["ChecksumCRC32"]} if "ChecksumCRC32" in answer else {}
            return {"PartNumber": number, "ETag": answer["ETag"], **told}

        parts: list[dict[str, Any]] = []
        size = 0
        waiting: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="s3-part") as threads:
            for number, piece in enumerate(pieces, 1):
                size += len(piece)
                waiting.append(threads.submit(put, number, piece))
                if len(waiting) == _PARTS_AT_ONCE:
                    parts.append(waiting.popleft().result())
            parts += [future.result() for future in waiting]
        return parts, size

    def _complete(self, name: str, upload: dict[str, Any], parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            # Tried again after an answer that got lost, the upload is no more since it is complete.
            found = self._head(name) if error.response["Error"]["Code"] == _NO_UPLOAD else None
            if found is None or found["ContentLength"] != size or f"-{len(parts)}" not in found["ETag"]:
                raise

    @override
    def copy(self, source: ObjectStore, name_there: str, name: str) -> bool:
        # The same client: the same server, and the same rights at both ends.
        if not isinstance(source, S3Store) or source._client is not self._client:
            return False
        there = {"Bucket": source._bucket["Bucket"], "Key": source._path + name_there}
        try:
            self._client.copy_object(**self._object(name), CopySource=there, **self._settings.writing, **_AS_GIVEN)
        except (ClientError, *_BROKEN):
            # A right that only copying needs, perhaps; the bytes may still be read and written, which tells more.
            return False
        return True

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._explained("written", name):
            try:
                answer = self._client.put_object(**self._object(name), Body=data, **condition, **self._settings.writing)
            except ClientError as error:
                if _status(error) in _NOT_AS_EXPECTED or error.response["Error"]["Code"] in _NO_KEY:
                    return None
                raise
        written: str = answer["ETag"]
        return written

    @override
    def clear_unfinished(self, prefix: str) -> None:
        with self._explained("cleared of unfinished uploads", prefix):
            self._abort_uploads(prefix)

    def _abort_uploads(self, prefix: str, but: str = "") -> None:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            **self._bucket, Prefix=self._path + prefix
        )
        for page in pages:
            for upload in page.get("Uploads", ()):
                if upload["UploadId"] != but:
                    # Another may have cleared it meanwhile.
                    with _passing_over(_NO_UPLOAD):
                        self._client.abort_multipart_upload(
                            **self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )

    @override
    def delete(self, name: str) -> None:
        with self._explained("deleted", name):
            self._client.delete_object(**self._object(name))

    def _object(self, name: str) -> dict[str, Any]:
        return {**self._bucket, "Key": self._path + name}

    @contextmanager
    def _explained(self, done: str, name: str) -> Iterator[None]:
        """Turn what S3 or the way to it refuses into an error that says what, where and what to do.

        A server that could not be reached at all is not asked again for a minute: each of a run's hours would wait for
        it, and all that comes after them.
        """
        if self._unreachable is not None and time.monotonic() < self._unreachable[0]:
            before = self._unreachable[1]
            raise StoreError(f"{self.uri(name)} can't be {done}, as a moment ago: {before}", before.refusal)
        try:
            yield
        except (ClientError, *_BROKEN, KeyError) as error:
            refusal = self._without_secrets(_no_s3(error) if isinstance(error, KeyError) else refusal_of(error))
            told = StoreError(
                f"{self.uri(name)} can't be {done}: {refusal.operation or 'the request'} failed with {refusal.code}"
                f"{f' (HTTP {refusal.status})' if refusal.status else ''}: {refusal.message}; "
                "`amp-pipeline access` finds out what is missing",
                refusal,
            )
            if refusal.code in _UNREACHABLE:
                self._unreachable = time.monotonic() + _REST_SECONDS, told
            # What is chained is printed too.
            raise told from (error if refusal.message in str(error) else None)

    def _without_secrets(self, refusal: Refusal) -> Refusal:
        return replace(refusal, message=without_secrets(self._settings, refusal.message))


_AS_GIVEN = {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE"}
"""Nothing of how the source was written is taken over."""


def _listing(page: dict[str, Any]) -> dict[str, Any]:
    """Return ``page`` where it is one: of any other XML, like a page of a proxy, botocore makes one of no objects."""
    if not page.keys() & {"IsTruncated", "KeyCount", "Name"}:
        raise ResponseParserError("the answer is no listing")
    return page


def _no_s3(error: KeyError) -> Refusal:
    return Refusal(operation="", code=ResponseParserError.__name__, message=f"the answer lacks {error}")


class _BrokenOffError(Exception):
    """An answer ended before its end."""


@contextmanager
def _passing_over(code: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of :data:`PART_BYTES`, the last one smaller."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= PART_BYTES:
            yield bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
    if held:
        yield bytes(held)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
