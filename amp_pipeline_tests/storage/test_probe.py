"""The access probe, held against faults that are made for real, and the printed policies against real deliveries."""

import base64
import datetime
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import create_loader

from amp_pipeline import access_report
from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core import policy
from amp_pipeline.core.access import Outcome
from amp_pipeline.storage import probe as probing
from amp_pipeline.storage import s3
from amp_pipeline.storage.probe import place_of, probe
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders, servers
from amp_pipeline_tests.laws import driver
from amp_pipeline_tests.proxy import proxied
from amp_pipeline_tests.servers import Server
from amp_pipeline_tests.storage.stub_s3 import Request, StubS3, denied, stub_s3

DOCS = Path(__file__).parents[2] / "docs" / "access.md"
OWNER, STRANGER = "000000000000", "111111111111"
SECRET_ID = "the-external-id-of-a-house"
STEPS = ("credentials", "bucket", "list", "delete", "put", "get", "conditional_write", "multipart")


@dataclass
class House:
    """A bucket, and a user who may do with it what its policy says; root changes both."""

    server: Server
    patch: pytest.MonkeyPatch
    folder: Path
    stack: ExitStack
    name: str = field(default_factory=lambda: f"house-{uuid.uuid4().hex[:12]}")
    account: str = OWNER
    user: str = ""
    key: tuple[str, str] = ("AKIANOBODY", "nobody/asks")
    statements: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"s3://{self.name}/exports"

    @property
    def place(self) -> policy.Place:
        return place_of(self.url, self.s3)

    @property
    def s3(self) -> S3:
        return self.server.settings(self.key, **self.settings)

    @property
    def user_arn(self) -> str:
        return f"arn:aws:iam::{self.account}:user/{self.user}"

    def client(self, service: str = "s3", account: str = OWNER) -> Any:
        return root(self.server, service, account)

    def made(self, region: str = "us-east-1") -> "House":
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self.client().create_bucket(Bucket=self.name, **where)
        return self

    def with_user(self, account: str = OWNER) -> "House":
        iam = self.client("iam", account)
        self.account, self.user = account, f"user-{self.name}"
        iam.create_user(UserName=self.user)
        made = iam.create_access_key(UserName=self.user)["AccessKey"]
        self.key = (made["AccessKeyId"], made["SecretAccessKey"])
        return self

    def allow(self, statements: list[dict[str, Any]]) -> None:
        """Let the user do this and nothing else."""
        self.statements = statements
        self.client("iam", self.account).put_user_policy(
            UserName=self.user, PolicyName="own", PolicyDocument=document(statements)
        )

    def allow_all_but(self, *actions: str) -> None:
        self.allow(without(policy.role_policy(self.place)["Statement"], *actions))

    def bucket_policy(self, statements: list[dict[str, Any]]) -> None:
        self.client().put_bucket_policy(Bucket=self.name, Policy=document(statements))

    def role(self, trusts: list[dict[str, Any]]) -> str:
        """A role that may do all a delivery needs; returns its ARN."""
        iam = self.client("iam")
        name = f"role-{self.name}"
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trusts))
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps(policy.role_policy(self.place)))
        return f"arn:aws:iam::{OWNER}:role/{name}"

    def objects(self) -> list[str]:
        root = self.client()
        uploads = [one["Key"] for one in root.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]
        return [one["Key"] for one in root.list_objects_v2(Bucket=self.name).get("Contents", ())] + uploads

    def probed(self) -> Outcome:
        outcome = probe(self.url, self.s3)
        told = repr(outcome)
        for secret in (self.key[1], SECRET_ID):
            assert not secret or secret not in told
        return outcome


one_loader = lru_cache(create_loader)


@lru_cache
def root(server: Server, service: str, account: str) -> Any:
    """A client of who may do everything in an account: ministack takes its number as key id."""
    return server.client(service, (account, "any"))


def document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def without(statements: list[dict[str, Any]], *actions: str) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for one in statements:
        allowed = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        left = [action for action in allowed if action not in actions]
        if left:
            kept.append({**one, "Action": left})
    return kept


@pytest.fixture
def house(ministack_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[House]:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # Each session would read the descriptions of S3 and STS anew, 0.1 s.
    monkeypatch.setattr("botocore.session.create_loader", one_loader)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with ExitStack() as stack:
        yield House(ministack_server, monkeypatch, tmp_path, stack)


# Faults: each is made for real, and most are mended for real by the statement that the probe gives.


def _lacks(action: str) -> Callable[[House], None]:
    def make(house: House) -> None:
        house.made().with_user().allow_all_but(action)

    return make


def _nothing_allowed(house: House) -> None:
    house.made().with_user()


def _other_path_listed(house: House) -> None:
    house.made().with_user().allow_all_but("s3:ListBucket")
    other = policy.statement("s3:ListBucket", replace(house.place, path="reports"))
    house.allow([*house.statements, other])


def _other_path_written(house: House) -> None:
    house.made().with_user().allow_all_but("s3:PutObject")
    other = policy.statement("s3:PutObject", replace(house.place, path="reports"))
    house.allow([*house.statements, other])


def _deny_of_user(house: House) -> None:
    house.made().with_user().allow_all_but()
    house.allow([*house.statements, {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"}])


def _deny_of_bucket(house: House) -> None:
    house.made().with_user().allow_all_but()
    deny = policy.statement("s3:DeleteObject", house.place, house.user_arn) | {"Effect": "Deny"}
    house.bucket_policy([deny])


def _encryption_demanded(house: House) -> None:
    house.made().with_user().allow_all_but()
    deny = policy.statement("s3:PutObject", house.place, "*") | {"Effect": "Deny"}
    house.bucket_policy([deny | {"Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "AES256"}}}])


def _tls_demanded(house: House) -> None:
    house.made().with_user().allow_all_but()
    house.bucket_policy(policy.bucket_policy(house.place)["Statement"])


def _second_account(house: House) -> None:
    house.made().with_user(STRANGER)
    house.settings = {"account": OWNER}
    house.allow_all_but()


def _no_bucket(house: House) -> None:
    house.with_user().allow_all_but()


def _wrong_region(house: House) -> None:
    house.made("eu-central-1").with_user().allow_all_but()


def _trusts(house: House, principal: str, external_id: str = "") -> str:
    condition = {"Condition": {"StringEquals": {"sts:ExternalId": external_id}}} if external_id else {}
    trust = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"} | condition
    role = house.role([trust])
    house.settings = {**house.settings, "role": role}
    return role


def _may_assume(house: House) -> None:
    house.allow([{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}])


def _role_trusts_another(house: House) -> None:
    house.made().with_user()
    _may_assume(house)
    _trusts(house, f"arn:aws:iam::{STRANGER}:root")


def _caller_may_not_assume(house: House) -> None:
    house.made().with_user()
    _trusts(house, house.user_arn)


def _wrong_external_id(house: House) -> None:
    house.made().with_user()
    _may_assume(house)
    _trusts(house, house.user_arn, "another")
    house.settings["external_id"] = SECRET_ID


def _no_external_id(house: House) -> None:
    house.made().with_user()
    _may_assume(house)
    _trusts(house, house.user_arn, SECRET_ID)


def _no_role(house: House) -> None:
    house.made().with_user()
    _may_assume(house)
    house.settings = {"role": f"arn:aws:iam::{OWNER}:role/nobody"}


def _role_lacks(house: House) -> None:
    house.made().with_user()
    _may_assume(house)
    role = _trusts(house, house.user_arn).rpartition("/")[2]
    left = without(policy.role_policy(house.place)["Statement"], "s3:PutObject")
    house.client("iam").put_role_policy(RoleName=role, PolicyName="own", PolicyDocument=document(left))


def _unknown_key(house: House) -> None:
    house.made()
    house.key = ("AKIAIOSFODNN7EXAMPLE", "nothing/that/anybody/knows")


def _wrong_secret(house: House) -> None:
    house.made().with_user().allow_all_but()
    house.key = (house.key[0], "nothing/that/anybody/knows")


def _inactive_key(house: House) -> None:
    house.made().with_user().allow_all_but()
    house.client("iam").update_access_key(UserName=house.user, AccessKeyId=house.key[0], Status="Inactive")


def _without_keys(house: House, **settings: str) -> None:
    house.made()
    house.settings = {"access_key_id": None, "secret_access_key": None, **settings}


def _no_credentials(house: House) -> None:
    _without_keys(house)


def _no_profile(house: House) -> None:
    _without_keys(house, profile="nobody")


def _no_token(house: House) -> None:
    house.with_user()
    lines = [f"aws_access_key_id={house.key[0]}", f"aws_secret_access_key={house.key[1]}", "aws_session_token=none"]
    (house.folder / "credentials").write_text("\n".join(["[old]", *lines]))
    _without_keys(house, profile="old")


def _clock_is_slow(house: House) -> None:
    house.made().with_user().allow_all_but()
    late = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(hours=1)
    house.patch.setattr("botocore.auth.get_current_datetime", lambda **_: late)


def _nobody_listens(house: House) -> None:
    house.settings = {"endpoint": f"http://127.0.0.1:{servers.free_port()}", "sts_endpoint": None}


def _no_such_name(house: House) -> None:
    house.settings = {"endpoint": "http://s3.nobody.invalid", "sts_endpoint": None}


def _listener(house: House, backlog: int) -> socket.socket:
    listener = house.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
    house.settings = {
        "endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}",
        "sts_endpoint": None,
        "connect_timeout": 0.2,
        "read_timeout": 0.2,
        "attempts": 1,
    }
    return listener


def _no_answer(house: House) -> None:
    _listener(house, 8)


def _no_connection(house: House) -> None:
    listener = _listener(house, 0)
    for _ in range(2):
        # What nobody accepts fills the queue, and then Linux drops what asks for more.
        filler = house.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())


def _tls_to_a_plain_port(house: House) -> None:
    secure = house.server.endpoint.replace("http://", "https://")
    house.settings = {"endpoint": secure, "sts_endpoint": None}


def _no_proxy(house: House) -> None:
    house.patch.setenv("HTTP_PROXY", f"http://127.0.0.1:{servers.free_port()}")
    house.settings = {"sts_endpoint": None}


def _spoilt(fault: str) -> Callable[[House], None]:
    def make(house: House) -> None:
        house.made().with_user().allow_all_but()
        proxy, house.server = house.stack.enter_context(proxied(house.server))
        proxy.fault = lambda method, path, _: fault if method == "PUT" else ""

    return make


def _stubbed(house: House) -> StubS3:
    stub = house.stack.enter_context(stub_s3())
    house.settings = {"endpoint": stub.endpoint, "sts_endpoint": None}
    return stub


def _no_s3_server(house: House) -> None:
    _stubbed(house).answers_all_with = b"<!doctype html><title>Welcome</title><br>"


def _no_conditions(house: House) -> None:
    _stubbed(house).knows_conditions = False


def _other_bytes(house: House) -> None:
    _stubbed(house).gives = lambda data: data[::-1]


def _foreign(house: House) -> None:
    stub = _stubbed(house)
    house.settings["account"] = STRANGER
    stub.refuses = lambda asked: denied() if "x-amz-expected-bucket-owner" in asked.headers else None


def _foreign_and_closed(house: House) -> None:
    stub = _stubbed(house)
    house.settings["account"] = STRANGER
    stub.refuses = lambda _: denied()


def _vague_refusal_of(header: str, **settings: Any) -> Callable[[House], None]:
    def make(house: House) -> None:
        stub = _stubbed(house)
        house.settings |= settings

        def refuses(asked: Request) -> Any:
            return denied() if asked.operation == "PUT" and header in asked.headers else None

        stub.refuses = refuses

    return make


def _absence_is_hidden(house: House) -> None:
    stub = _stubbed(house)
    stub.refuses = lambda asked: denied() if asked.operation == "HEAD" and not asked.there else None


def _what_is_there_stays(house: House) -> None:
    stub = _stubbed(house)
    stub.refuses = lambda asked: denied() if asked.operation == "DELETE" and asked.there else None


def _sts_is_away(house: House) -> None:
    _caller_may_not_assume(house)
    house.settings["sts_endpoint"] = f"http://127.0.0.1:{servers.free_port()}"


def _key_of_kms(answer: tuple[int, str, str], step: str = "PUT") -> Callable[[House], None]:
    def make(house: House) -> None:
        stub = _stubbed(house)
        house.settings["encryption"] = {"type": "sse-kms", "key": KMS_KEY}
        stub.refuses = lambda asked: answer if asked.operation == step and asked.key else None

    return make


KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/a466d1fa"
NO_DECRYPT = (
    "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: kms:Decrypt on resource: "
    f"{KMS_KEY} because no identity-based policy allows the kms:Decrypt action"
)


@dataclass(frozen=True)
class Fault:
    """A fault, and what the probe has to say of it."""

    name: str
    """As docs/access.md tells of it."""
    make: Callable[[House], None]
    step: str
    kind: str
    action: str = ""
    policy: str = ""
    mended: bool = False
    """Whether the statement mends it all."""


FAULTS = [
    *(
        Fault(f"{action} missing", _lacks(action), step, "missing_permission", action, "role policy", True)
        for action, step in {
            "s3:ListBucket": "list",
            "s3:DeleteObject": "delete",
            "s3:PutObject": "put",
            "s3:GetObject": "get",
            "s3:AbortMultipartUpload": "multipart",
            "s3:ListBucketMultipartUploads": "multipart",
        }.items()
    ),
    Fault("nothing allowed", _nothing_allowed, "list", "missing_permission", "s3:ListBucket", "role policy"),
    Fault(
        "listing allowed for another path",
        _other_path_listed,
        "list",
        "missing_permission",
        "s3:ListBucket",
        "role policy",
        True,
    ),
    Fault(
        "writing allowed for another path",
        _other_path_written,
        "put",
        "missing_permission",
        "s3:PutObject",
        "role policy",
        True,
    ),
    Fault(
        "the role itself lacks s3:PutObject", _role_lacks, "put", "missing_permission", "s3:PutObject", "role policy"
    ),
    Fault(
        "bucket policy of a second account missing",
        _second_account,
        "list",
        "missing_permission",
        "s3:ListBucket",
        "bucket policy",
    ),
    Fault(
        "deleting refused of what is there only",
        _what_is_there_stays,
        "delete",
        "missing_permission",
        "s3:DeleteObject",
        "role policy",
    ),
    Fault("Deny in the role policy", _deny_of_user, "put", "explicit_deny", "s3:PutObject", "role policy"),
    Fault("Deny in the bucket policy", _deny_of_bucket, "delete", "explicit_deny", "s3:DeleteObject", "bucket policy"),
    Fault(
        "bucket policy demands encryption",
        _encryption_demanded,
        "put",
        "explicit_deny",
        "s3:PutObject",
        "bucket policy",
    ),
    Fault("bucket policy demands TLS", _tls_demanded, "list", "explicit_deny", "s3:ListBucket", "bucket policy"),
    Fault("no such bucket", _no_bucket, "bucket", "no_bucket"),
    Fault("bucket in another region", _wrong_region, "region", "wrong_region"),
    Fault("bucket of another account than `account`", _foreign, "bucket", "foreign_bucket"),
    Fault(
        "bucket of another account, and closed",
        _foreign_and_closed,
        "list",
        "missing_permission",
        "s3:ListBucket",
        "role policy",
    ),
    Fault("role trusts somebody else", _role_trusts_another, "role", "role", "sts:AssumeRole", "trust policy"),
    Fault("sts:AssumeRole missing", _caller_may_not_assume, "role", "role", "sts:AssumeRole", "role policy"),
    Fault("STS away", _sts_is_away, "role", "network"),
    Fault("wrong external id", _wrong_external_id, "role", "role", "sts:AssumeRole", "trust policy"),
    Fault("external id not given", _no_external_id, "role", "role", "sts:AssumeRole", "trust policy"),
    Fault("no such role", _no_role, "role", "role", "sts:AssumeRole", "trust policy"),
    Fault("unknown access key id", _unknown_key, "credentials", "credentials"),
    Fault("wrong secret", _wrong_secret, "credentials", "credentials"),
    Fault("access key not active", _inactive_key, "credentials", "credentials"),
    Fault("no credentials", _no_credentials, "credentials", "credentials"),
    Fault("no such profile", _no_profile, "credentials", "credentials"),
    Fault("session token that is none", _no_token, "credentials", "credentials"),
    Fault("clock an hour slow", _clock_is_slow, "credentials", "clock"),
    Fault("nobody listens at the endpoint", _nobody_listens, "bucket", "network"),
    Fault("unknown host name", _no_such_name, "bucket", "network"),
    Fault("packets dropped", _no_connection, "bucket", "network"),
    Fault("no answer in time", _no_answer, "bucket", "network"),
    Fault("TLS to a plain port", _tls_to_a_plain_port, "bucket", "network"),
    Fault("proxy away", _no_proxy, "bucket", "network"),
    Fault("connections reset", _spoilt("reset"), "put", "network"),
    Fault("no S3 server there", _no_s3_server, "list", "server"),
    Fault("503 SlowDown", _spoilt("503"), "put", "throttled"),
    Fault("500 InternalError", _spoilt("500"), "put", "server"),
    Fault("conditional writes not known", _no_conditions, "conditional_write", "unsupported"),
    Fault("other bytes read than written", _other_bytes, "get", "unsupported"),
    Fault(
        "s3:PutObjectTagging missing, without reasons",
        _vague_refusal_of("x-amz-tagging", tags={"team": "data"}),
        "put",
        "missing_permission",
        "s3:PutObjectTagging",
        "role policy",
    ),
    Fault(
        "s3:PutObjectAcl missing, without reasons",
        _vague_refusal_of("x-amz-acl", acl="bucket-owner-full-control"),
        "put",
        "missing_permission",
        "s3:PutObjectAcl",
        "role policy",
    ),
    Fault(
        "key refused, without reasons",
        _vague_refusal_of("x-amz-server-side-encryption", encryption={"type": "sse-kms", "key": KMS_KEY}),
        "put",
        "kms",
        "kms:GenerateDataKey",
        "KMS key policy",
    ),
    Fault(
        "kms:Decrypt missing",
        _key_of_kms((403, "AccessDenied", NO_DECRYPT), "GET"),
        "get",
        "kms",
        "kms:Decrypt",
        "role policy",
    ),
    Fault(
        "key disabled",
        _key_of_kms((400, "KMS.DisabledException", f"{KMS_KEY} is disabled.")),
        "put",
        "kms",
        "kms:GenerateDataKey",
    ),
    Fault(
        "absence hidden from who may not list",
        _absence_is_hidden,
        "list",
        "missing_permission",
        "s3:ListBucket",
        "role policy",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named(house: House, fault: Fault):
    fault.make(house)
    outcome = house.probed()
    assert not outcome.ok
    assert (outcome.step, outcome.kind, outcome.action, outcome.policy) == (
        fault.step,
        fault.kind,
        fault.action,
        fault.policy,
    ), outcome
    if fault.action:
        assert outcome.resource == house.place.resource(fault.action)
    if fault.kind in ("missing_permission", "role") and house.user:
        assert house.user in outcome.principal or "role-" in outcome.principal
    if fault.mended:
        assert outcome.statement is not None
        house.allow([*house.statements, outcome.statement])
        assert house.probed().ok


def test_the_documents_tell_of_each_fault():
    rows = [line.split("|")[1:4] for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    told = {tuple(cell.strip() for cell in row) for row in rows}
    assert [fault.name for fault in FAULTS if (fault.name, fault.step, fault.kind) not in told] == []


def test_statements_of_the_probe_lead_from_nothing_to_a_delivery(house: House):
    house.made().with_user()
    given: list[str] = []
    while not (outcome := house.probed()).ok:
        assert outcome.statement is not None, outcome
        assert outcome.action not in given
        given.append(outcome.action)
        house.allow([*house.statements, outcome.statement])
    assert sorted(given) == policy.actions(house.place)
    assert outcome.passed == STEPS
    assert house.objects() == []


@pytest.mark.parametrize("with_external_id", [False, True])
def test_a_trust_policy_is_mended_by_its_statement(house: House, with_external_id: bool):
    house.made().with_user()
    _may_assume(house)
    role = _trusts(house, f"arn:aws:iam::{STRANGER}:root").rpartition("/")[2]
    if with_external_id:
        house.settings["external_id"] = SECRET_ID
    statement = house.probed().statement
    assert statement is not None
    text = document([statement]).replace(policy.EXTERNAL_ID, SECRET_ID)
    house.client("iam").update_assume_role_policy(RoleName=role, PolicyDocument=text)
    assert house.probed().ok


def test_who_may_not_assume_a_role_is_mended_by_the_statement(house: House):
    _caller_may_not_assume(house)
    statement = house.probed().statement
    assert statement is not None
    house.allow([statement])
    assert house.probed().ok


def test_a_second_account_is_let_in_by_the_printed_bucket_policy(house: House):
    _second_account(house)
    assert house.probed().statement == policy.statement("s3:ListBucket", house.place, house.user_arn)
    # ministack knows accounts only where a bucket policy names somebody of another one, and not their users.
    account = f"arn:aws:iam::{STRANGER}:root"
    house.bucket_policy(with_plain_http(policy.bucket_policy(house.place, account)["Statement"]))
    assert house.probed().ok
    left = without(with_plain_http(policy.bucket_policy(house.place, account)["Statement"]), "s3:PutObject")
    house.bucket_policy(left)
    outcome = house.probed()
    assert (outcome.action, outcome.policy) == ("s3:PutObject", "bucket policy")


def with_plain_http(statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is left of a bucket policy on servers that speak no TLS here."""
    kept = [one for one in statements if one["Effect"] == "Allow"]
    assert len(kept) == len(statements) - 1
    return kept


def test_the_wrong_region_is_mended_by_what_the_advice_names(house: House):
    _wrong_region(house)
    assert "`region: eu-central-1`" in house.probed().advice
    house.settings["region"] = "eu-central-1"
    assert house.probed().ok


def test_demanded_encryption_is_mended_by_the_setting_that_the_advice_names(house: House):
    _encryption_demanded(house)
    assert "set `encryption`" in house.probed().advice
    house.settings["encryption"] = {"type": "sse-s3"}
    assert house.probed().ok


@pytest.mark.parametrize(
    "fault", [_lacks("s3:GetObject"), _lacks("s3:AbortMultipartUpload"), _lacks("s3:DeleteObject"), _deny_of_bucket]
)
def test_a_probe_that_fails_leaves_nothing(house: House, fault: Callable[[House], None]):
    fault(house)
    assert not house.probed().ok
    assert house.objects() == []


def test_a_probe_that_breaks_off_half_way_leaves_nothing(house: House):
    house.made().with_user().allow_all_but()
    behind = house.server
    proxy, house.server = house.stack.enter_context(proxied(behind))
    proxy.fault = lambda method, path, _: "lost" if method == "POST" and "uploadId" in path else ""
    assert not house.probed().ok
    house.server = behind
    assert house.objects() == []


def test_the_probe_writes_as_a_delivery_does(house: House):
    stub = _stubbed(house)
    house.settings |= {
        "tags": {"team": "data"},
        "acl": "bucket-owner-full-control",
        "storage_class": "STANDARD_IA",
        "encryption": {"type": "sse-s3"},
    }
    seen: list[Request] = []
    stub.refuses = lambda asked: seen.append(asked)
    assert house.probed().ok
    writes = [asked for asked in seen if asked.operation in ("PUT", "Create")]
    assert {asked.operation for asked in writes} == {"PUT", "Create"}
    for asked in writes:
        assert asked.headers["x-amz-tagging"] == "team=data"
        assert asked.headers["x-amz-acl"] == "bucket-owner-full-control"
        assert asked.headers["x-amz-storage-class"] == "STANDARD_IA"
        assert asked.headers["x-amz-server-side-encryption"] == "AES256"
    assert {asked.key.split("/")[:3] == ["exports", "_amp_pipeline", "probe"] for asked in writes} == {True}
    assert stub.objects == {}


def test_what_could_not_be_removed_is_told(house: House):
    _what_is_there_stays(house)
    outcome = house.probed()
    assert f"below {house.url}/_amp_pipeline/probe/ could not be removed" in outcome.advice
    assert outcome.passed[-1] == "multipart"


def test_an_sts_that_is_away_is_no_trouble_where_there_is_no_role(house: House):
    house.made().with_user().allow_all_but()
    house.settings = {"sts_endpoint": f"http://127.0.0.1:{servers.free_port()}"}
    outcome = house.probed()
    assert (outcome.ok, outcome.principal) == (True, "")


def test_root_of_the_account_may_everything(house: House):
    house.made().key = servers.ROOT
    outcome = house.probed()
    assert outcome.ok
    assert outcome.principal


# The printed policies, and real hours.


def _lands(landing: Path, bytes_each: int, events: int) -> None:
    """An hour with merged ids; what its events hold can't be packed well."""
    noise = [base64.b64encode(os.urandom(bytes_each)).decode() for _ in range(events)]
    lines = [builders.event(number, insert_id=str(number), noise=text) for number, text in enumerate(noise)]
    builders.put(landing, builders.object_name(builders.FIRST_HOUR), *lines)
    builders.put(landing, builders.merged_name(builders.FIRST_HOUR), builders.merged(1, 2))


def _delivering(house: House, base: Path) -> Organization:
    secrets = {"secret_access_key": house.s3.secret_access_key, "external_id": house.s3.external_id}
    told = house.s3.model_dump(exclude_none=True) | {
        name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None
    }
    delivery = builders.all_events(house.url, s3=told)
    return builders.organization(base, base / "landing", projects=[{"deliveries": [delivery]}])


HOURS = [builders.FIRST_HOUR, builders.FIRST_HOUR + 1]


def test_printed_policies_are_enough_for_a_real_hour(house: House, tmp_path: Path):
    house.made().with_user()
    role = _trusts(house, house.user_arn, SECRET_ID).rpartition("/")[2]
    house.settings |= {"external_id": SECRET_ID}
    printed = access_report.documents(house.place, house.user_arn, account=OWNER)
    own, trust, writer, of_bucket = (found.body for found in printed)
    text = json.dumps(trust)
    assert policy.EXTERNAL_ID in text
    iam = house.client("iam")
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=text.replace(policy.EXTERNAL_ID, SECRET_ID))
    iam.put_role_policy(RoleName=role, PolicyName="own", PolicyDocument=json.dumps(writer))
    house.allow(own["Statement"])
    assert with_plain_http(of_bucket["Statement"]) == []
    assert house.probed().ok

    house.patch.setattr(s3, "PART_BYTES", 5 << 20)
    _lands(tmp_path / "landing", 20_000, 600)
    organization = _delivering(house, tmp_path)
    assert driver.run(organization, HOURS, open_store) == {}
    names = house.objects()
    assert len([name for name in names if name.endswith("_complete")]) == len(HOURS)
    (large,) = (name for name in names if name.endswith("#0.json.gz"))
    assert "-" in house.client().head_object(Bucket=house.name, Key=large)["ETag"]
    # Late data: the hour is taken away and written again.
    builders.put(tmp_path / "landing", builders.object_name(HOURS[0], 1), builders.event(5, insert_id="late"))
    assert driver.run(organization, HOURS, open_store) == {}
    assert driver.stale(organization, HOURS, open_store) == []


@pytest.mark.parametrize("action", [fault.action for fault in FAULTS[:6]])
def test_a_real_hour_needs_each_action_of_the_printed_policy(house: House, tmp_path: Path, action: str):
    house.made().with_user().allow_all_but(action)
    if action == "s3:AbortMultipartUpload":
        # What a run that was killed has left.
        left = f"exports/{builders.object_name(HOURS[0], ending='.json.gz')}"
        house.client().create_multipart_upload(Bucket=house.name, Key=left)
    _lands(tmp_path / "landing", 10, 1)
    failures = driver.run(_delivering(house, tmp_path), HOURS[:1], open_store)
    assert [f"policy allows the {action} action" in text for text in failures.values()] == [True]
    assert not [name for name in house.objects() if name.endswith("_complete")]


# Folders.


def test_a_folder_that_can_be_written_passes_and_stays_as_it_was(tmp_path: Path):
    there = tmp_path / "there"
    there.mkdir()
    for folder in (there, tmp_path / "not" / "yet"):
        outcome = probe(str(folder), None)
        assert outcome.ok
        assert outcome.passed == ("folder",)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_below_a_file_is_none(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        outcome = probe(str(folder), None)
        assert (outcome.step, outcome.kind) == ("folder", "no_bucket")
        assert str(folder) in outcome.summary


def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    outcome = probe(str(tmp_path), None)
    assert (outcome.step, outcome.kind) == ("folder", "missing_permission")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probing, "_ROOM_BYTES", 1 << 62)
    outcome = probe(str(tmp_path), None)
    assert (outcome.step, outcome.kind) == ("folder", "full")
