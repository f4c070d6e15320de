"""What only a bucket has to promise: requests as they are written, broken answers, uploads that end half-way."""

import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore import credentials

from amp_pipeline.buckets import S3
from amp_pipeline.core.errors import StoreError
from amp_pipeline.storage import s3 as module
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.s3 import PART_BYTES
from amp_pipeline.storage.s3_client import connect
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.proxy import Fault, Proxy, proxied
from amp_pipeline_tests.servers import Server, free_port
from amp_pipeline_tests.storage.stub_s3 import stub_s3


@dataclass
class Place:
    """A bucket, reached through a proxy."""

    proxy: Proxy
    seen: Server
    """Through the proxy."""
    store: ObjectStore
    client: Any
    bucket: str

    def unfinished(self) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


@pytest.fixture
def place(s3_server: Server) -> Iterator[Place]:
    bucket = new_bucket(s3_server)
    with proxied(s3_server) as (proxy, seen):
        store = open_store(f"s3://{bucket}/in", seen.settings(attempts=4))
        yield Place(proxy, seen, store, s3_server.client(), bucket)


def once_in(number: int, fault: str, method: str = "") -> Fault:
    return lambda sent, path, at: fault if at % number == 0 and method in ("", sent) else ""


SOMEBODY = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", "attempts": 2}
LARGE = bytes(range(256)) * (2 * PART_BYTES // 256 + 100)


def test_server_that_stalls_is_asked_again(place: Place):
    store = open_store(place.store.url, place.seen.settings(attempts=4, read_timeout=1))
    place.proxy.fault = once_in(4, "stall")
    store.put("a", b"x")
    assert store.get("a") == b"x"
    assert place.proxy.spoilt


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost"])
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_trouble_that_passes_is_not_noticed(place: Place, fault: str, data: bytes):
    place.proxy.fault = once_in(3, fault)
    place.store.put_chunks("a", [data])
    assert place.store.get("a") == data
    assert [info.name for info in place.store.find("")] == ["a"]
    place.store.delete("a")
    assert place.store.find("") == []
    assert place.proxy.spoilt
    assert place.unfinished() == []


def test_answer_that_breaks_off_is_asked_for_from_there(place: Place):
    place.store.put_chunks("a", [LARGE])
    place.proxy.fault = lambda method, path, at: "half" if method == "GET" and len(place.proxy.spoilt) < 3 else ""
    # Each try brings half of the rest.
    assert place.store.get("a") == LARGE
    assert place.store.read_range("a", 1000, 3_000_000) == LARGE[1000:3_001_000]
    assert len(place.proxy.spoilt) == 3


def test_answer_that_always_breaks_off_is_an_error_after_some_tries(place: Place):
    place.store.put("a", b"xy")
    place.proxy.fault = once_in(1, "half", "GET")
    with pytest.raises(StoreError, match="can't be read"):
        place.store.get("a")


def test_object_that_changes_while_its_answer_breaks_off_is_not_mixed(place: Place):
    place.store.put_chunks("a", [LARGE])
    place.proxy.fault = once_in(1, "half", "GET")
    chunks = place.store.chunks("a")
    got = next(chunks)
    place.client.put_object(Bucket=place.bucket, Key="in/a", Body=bytes(len(LARGE)))
    rest: list[bytes] = []
    with pytest.raises(StoreError, match="412"):
        rest.extend(chunks)
    assert LARGE.startswith(got + b"".join(rest))


@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_trouble_that_stays_is_an_error_that_says_what_and_where(place: Place, fault: str):
    place.proxy.fault = lambda *_: fault
    store = open_store(place.store.url, place.seen.settings(attempts=2))
    for work in (
        lambda: store.put("a", b"x"),
        lambda: store.get("a"),
        lambda: store.find(""),
        lambda: store.head("a"),
        lambda: store.delete("a"),
        lambda: store.put_if("a", b"x", None),
    ):
        with pytest.raises(StoreError, match=f"s3://{place.bucket}/in.* can't be") as raised:
            work()
        assert raised.value.refusal is not None


def test_server_that_can_not_be_reached_is_not_asked_again_for_a_minute(monkeypatch: pytest.MonkeyPatch):
    """The hours of a run would each wait for it."""
    now = 1000.0
    store = open_store("s3://bucket", S3.model_validate({**SOMEBODY, "endpoint": f"http://127.0.0.1:{free_port()}"}))
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with pytest.raises(StoreError, match="EndpointConnectionError"):
        store.put("a", b"x")
    with pytest.raises(StoreError, match=r"/b can't be read, as a moment ago: .*/a can't be written") as refused:
        store.get("b")
    assert refused.value.refusal is not None
    assert refused.value.__cause__ is None
    now += 61
    with pytest.raises(StoreError, match="/b can't be read: .*EndpointConnectionError"):
        store.get("b")


def test_a_session_token_that_no_header_can_hold_is_not_told(monkeypatch: pytest.MonkeyPatch):
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("SESSION_TOKEN", "tokentoken\n")):
        monkeypatch.setenv(f"AWS_{name}", value)
    store = open_store("s3://house", S3(endpoint=f"http://127.0.0.1:{free_port()}", region="us-east-1", attempts=1))
    with pytest.raises(StoreError, match="Invalid header value …") as caught:
        store.find("")
    assert "tokentoken" not in "".join(traceback.format_exception(caught.value))


def test_objects_of_one_server_are_copied_there(place: Place):
    other = open_store(f"s3://{place.bucket}/there", place.seen.settings(attempts=4, tags={"a": "b"}))
    place.store.put("a ä#0", b"data")
    place.proxy.seen.clear()
    assert other.copy(place.store, "a ä#0", "copied")
    assert len(place.proxy.seen) == 1
    assert other.get("copied") == b"data"
    assert place.client.get_object_tagging(Bucket=place.bucket, Key="there/copied")["TagSet"] == [
        {"Key": "a", "Value": "b"}
    ]
    # What can't be copied is for who asked to read and write.
    assert not other.copy(place.store, "none", "copied")
    assert not other.copy(MemoryStore(), "a", "copied")
    assert not other.copy(open_store(place.store.url, place.seen.settings(("other", "key"))), "a ä#0", "copied")


def test_upload_that_fails_half_way_is_aborted(place: Place):
    place.proxy.fault = lambda method, path, at: "500" if "partNumber=2" in path else ""
    with pytest.raises(StoreError, match="UploadPart"):
        place.store.put_chunks("a", [LARGE])
    assert place.unfinished() == []
    assert place.store.head("a") is None


def test_upload_whose_end_is_not_heard_of_is_whole(place: Place):
    place.proxy.fault = lambda method, path, at: (
        "lost" if method == "POST" and "uploadId" in path and not place.proxy.spoilt else ""
    )
    place.store.put_chunks("a", [LARGE])
    assert len(place.proxy.spoilt) == 1
    assert place.store.get("a") == LARGE


def test_what_killed_writers_left_is_cleared_by_its_name_alone(place: Place):
    for key in ("in/7/x#0", "in/7/x#1", "in/7/y#0", "other/7/x#0"):
        place.client.create_multipart_upload(Bucket=place.bucket, Key=key)
    place.store.clear_unfinished("7/x#")
    assert sorted(place.unfinished()) == ["in/7/y#0", "other/7/x#0"]


def test_more_objects_than_a_page_of_a_listing(ministack_server: Server):
    bucket, client = new_bucket(ministack_server), ministack_server.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.put_object(Bucket=bucket, Key=f"in/{n:04d}"), range(1050)))
    store = open_store(f"s3://{bucket}/in", ministack_server.settings())
    assert [info.name for info in store.find("")] == [f"{number:04d}" for number in range(1050)]
    assert len(store.find("10")) == 50


def test_a_bucket_that_is_not_there(s3_server: Server):
    store = open_store("s3://no-such-bucket-here/x", s3_server.settings())
    assert not store.is_there()
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.find("")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.get("a")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.put("a", b"")


def test_every_object_is_written_as_the_settings_say(ministack_server: Server):
    """Data in one request and in many, and conditional writes: encryption, tags and storage class are on all."""
    bucket = new_bucket(ministack_server)
    key = ministack_server.client("kms").create_key()["KeyMetadata"]["Arn"]
    settings = ministack_server.settings(
        encryption={"type": "sse-kms", "key": key}, tags={"team": "data & more"}, storage_class="STANDARD_IA"
    )
    with proxied(ministack_server) as (proxy, seen):
        store = open_store(f"s3://{bucket}", settings.model_copy(update={"endpoint": seen.endpoint}))
        store.put("small", b"x")
        store.put_chunks("large", [LARGE])
        assert store.put_if("claim", b"x", None) is not None
        # ministack does not keep all of it, so the requests are looked at too.
        asked = {"x-amz-server-side-encryption-bucket-key-enabled": "true", "x-amz-tagging": "team=data+%26+more"}
        begun = [
            line.split("?")[0].rpartition("/")[2]
            for line, headers in zip(proxy.seen, proxy.headers, strict=True)
            if asked.items() <= headers.items()
        ]
        assert begun == ["small", "large", "claim"]
    client = ministack_server.client()
    for name in ("small", "large", "claim"):
        found = client.head_object(Bucket=bucket, Key=name)
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"] == key
        assert found["StorageClass"] == "STANDARD_IA"
    tags = client.get_object_tagging(Bucket=bucket, Key="small")["TagSet"]
    assert tags == [{"Key": "team", "Value": "data & more"}]


def test_every_request_says_whose_the_bucket_must_be(ministack_server: Server):
    """Servers here don't check it; AWS does (ExpectedBucketOwner), on each request that has it."""
    bucket = new_bucket(ministack_server)
    with proxied(ministack_server) as (proxy, seen):
        store = open_store(f"s3://{bucket}", seen.settings(account="123456789012"))
        store.put_chunks("a", [LARGE])
        store.put_if("b", b"x", None)
        store.get("a")
        store.find("")
        store.head("a")
        store.clear_unfinished("a")
        store.delete("a")
        assert len(proxy.headers) == len(proxy.seen) > 8
        assert {headers.get("x-amz-expected-bucket-owner") for headers in proxy.headers} == {"123456789012"}


def test_credentials_of_a_role_are_renewed_while_a_run_lasts(ministack_server: Server, monkeypatch: pytest.MonkeyPatch):
    iam = ministack_server.client("iam")
    trust = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole",'
        '"Condition":{"StringEquals":{"sts:ExternalId":"secret-of-ours"}}}]}'
    )
    role = iam.create_role(RoleName="renewed", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
    iam.put_role_policy(RoleName="renewed", PolicyName="all", PolicyDocument=policy)
    bucket = new_bucket(ministack_server)
    with proxied(ministack_server) as (proxy, seen):
        settings = seen.settings(role=role, external_id="secret-of-ours", sts_endpoint=seen.endpoint)
        store = open_store(f"s3://{bucket}", settings)
        store.put("a", b"x")
        store.put("b", b"x")
        asked = [line for line in proxy.seen if line == "POST /"]
        assert len(asked) == 1
        # They are good for an hour, and fetched anew some minutes before they expire.
        later = credentials._local_now() + timedelta(minutes=50)
        monkeypatch.setattr(credentials, "_local_now", lambda: later)
        monkeypatch.setattr(connect(settings)._request_signer._credentials, "_time_fetcher", lambda: later)
        store.put("c", b"x")
        assert len([line for line in proxy.seen if line == "POST /"]) == 2
    wrong = ministack_server.settings(role=role, external_id="another")
    with pytest.raises(StoreError, match="AssumeRole") as refused:
        open_store(f"s3://{bucket}", wrong).put("a", b"x")
    assert "another" not in str(refused.value)


def test_bytes_that_do_not_fit_their_checksum_are_refused(ministack_server: Server):
    """All of them were handed on when it shows, so asking for what is missing brings nothing, and no error."""
    store_there = open_store(f"s3://{new_bucket(ministack_server)}", ministack_server.settings())
    store_there.put("a", b"some data")
    with proxied(ministack_server) as (proxy, seen):
        store = open_store(store_there.url, seen.settings(attempts=4))
        assert store.get("a") == b"some data"
        proxy.fault = once_in(1, "other", "GET")
        with pytest.raises(StoreError, match="FlexibleChecksumError"):
            store.get("a")


def test_upload_is_aborted_where_those_of_lost_answers_can_not_be_found(place: Place):
    def fault(method: str, path: str, at: int) -> str:
        if method == "POST" and path.endswith("?uploads") and not place.proxy.spoilt:
            return "reset"
        return "500" if method == "GET" and "uploads" in path else ""

    place.proxy.fault = fault
    with pytest.raises(StoreError, match="ListMultipartUploads"):
        place.store.put_chunks("a", [LARGE])
    assert place.unfinished() == []


@pytest.mark.parametrize("page", [b"<html><body>Sign in</body></html>", b""])
def test_page_of_a_proxy_is_no_bucket_without_objects(page: bytes):
    """Else an hour would be delivered as an empty one."""
    with stub_s3() as stub:
        stub.answers_all_with = page
        store = open_store("s3://bucket/in", S3.model_validate({**SOMEBODY, "endpoint": stub.endpoint}))
        for work in (store.is_there, lambda: store.find(""), lambda: store.put("a", LARGE), lambda: store.age("a")):
            with pytest.raises(StoreError, match="s3://bucket/in.* can't be .*: .*Pars"):
                work()


@pytest.mark.parametrize(
    "settings",
    [{"profile": "nobody"}, {"region": "eu central"}, {"role": "arn:aws:iam::123456789012:role/a"}],
    ids=["profile", "region", "no credentials for a role"],
)
def test_settings_that_can_not_be_used_are_trouble_of_what_is_asked_for(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Not of who only opens it: that is done for all deliveries of a project at once."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("s3://bucket/in", S3.model_validate({"region": "us-east-1", **settings}))
    with pytest.raises(StoreError, match="s3://bucket/in/a can't be read"):
        store.head("a")


def test_what_a_server_repeats_of_secrets_is_not_told():
    with stub_s3() as stub:
        stub.refuses = lambda _: (400, "InvalidRequest", "you sent geheim-of-ours")
        settings = {**SOMEBODY, "secret_access_key": "geheim-of-ours", "endpoint": stub.endpoint}
        store = open_store("s3://bucket", S3.model_validate(settings))
        with pytest.raises(StoreError, match="you sent …") as refused:
            store.get("a")
    assert refused.value.refusal is not None
    assert "geheim" not in "".join(traceback.format_exception(refused.value)) + refused.value.refusal.message


def test_key_that_is_mended_in_the_profile_is_noticed(
    ministack_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """By a sensor, whose process lives for weeks."""
    profile = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    more = {"access_key_id": None, "secret_access_key": None, "profile": "ours"}
    settings = ministack_server.settings().model_copy(update=more)
    url = f"s3://{new_bucket(ministack_server)}/in"
    profile.write_text("[ours]\naws_access_key_id=AKIAWRONG\naws_secret_access_key=wrong\n")
    with pytest.raises(StoreError, match="InvalidAccessKeyId"):
        open_store(url, settings).get("a")
    profile.write_text("[ours]\naws_access_key_id=test\naws_secret_access_key=test\n")
    assert open_store(url, settings).find("") == []
