"""The safe way to change how a delivery reaches its bucket (docs/access.md): no gap, nothing written twice."""

import json
import uuid
from pathlib import Path
from typing import Any

from amp_pipeline.buckets import S3
from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.probe import probe
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.laws.driver import run, stale
from amp_pipeline_tests.servers import Server

HOURS = [FIRST_HOUR + number for number in range(6)]
ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Aws:
    """An administrator: keys, roles and their rights."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.bucket = new_bucket(server)
        self._iam = server.client("iam")

    def user(self) -> dict[str, str]:
        name = f"user-{uuid.uuid4().hex[:8]}"
        self._iam.create_user(UserName=name)
        self._iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(ALLOW_ALL))
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        return {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}

    def role(self) -> str:
        name = f"role-{uuid.uuid4().hex[:8]}"
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        arn: str = self._iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
        self._iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=json.dumps(ALLOW_ALL))
        return arn

    def key(self) -> str:
        arn: str = self.server.client("kms").create_key()["KeyMetadata"]["Arn"]
        return arn

    def objects(self) -> dict[str, tuple[str, str]]:
        """Version and encryption of all objects."""
        client = self.server.client()
        found = client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        heads = {item["Key"]: client.head_object(Bucket=self.bucket, Key=item["Key"]) for item in found}
        return {
            name: (f"{head['LastModified']} {head['ETag']}", head.get("SSEKMSKeyId", ""))
            for name, head in heads.items()
        }


def described(base: Path, bucket: str, s3: dict[str, Any], *, enabled: bool) -> Organization:
    delivery = builders.all_events(f"s3://{bucket}/raw", s3=s3, enabled=enabled)
    return builders.organization(base, base / "landing", projects=[{"deliveries": [delivery]}])


def delivered(organization: Organization, hours: list[Hour]) -> None:
    assert run(organization, hours, open_store) == {}


def of_hours(found: dict[str, Any], hours: list[Hour]) -> dict[str, Any]:
    marks = [mark for hour in hours for mark in (f"_{hour.day}_{hour.of_day}", f"/{hour.day}/{hour.of_day:02d}.json")]
    return {name: what for name, what in found.items() if any(mark in name for mark in marks)}


def test_from_a_key_to_a_role_and_from_no_kms_to_kms_and_back(tmp_path: Path, ministack_server: Server) -> None:
    aws = Aws(ministack_server)
    server = {"endpoint": ministack_server.endpoint, "region": "us-east-1", "addressing": "path"}
    old = {**server, **aws.user()}
    kms = aws.key()
    new = {
        **old,
        "sts_endpoint": ministack_server.endpoint,
        "role": aws.role(),
        "encryption": {"type": "sse-kms", "key": kms},
    }
    for number, hour in enumerate(HOURS):
        put(tmp_path / "landing", object_name(hour), event(number * HOUR_US, uuid=str(number)))
    delivered(described(tmp_path, aws.bucket, old, enabled=True), HOURS[:2])
    before = aws.objects()

    # Switched off: hours go on as far as they can without it.
    delivered(described(tmp_path, aws.bucket, old, enabled=False), HOURS[:4])
    delivered(described(tmp_path, aws.bucket, new, enabled=False), HOURS[:4])
    assert aws.objects() == before

    # Tried, and switched on.
    assert probe(f"s3://{aws.bucket}/raw", S3.model_validate(new)).ok
    assert aws.objects() == before
    changed = described(tmp_path, aws.bucket, new, enabled=True)
    assert [one.hour for one in stale(changed, HOURS[:4], open_store)] == HOURS[2:4]
    delivered(changed, HOURS[:5])
    after = aws.objects()
    assert before.items() <= after.items()
    assert {key for _, key in of_hours(after, HOURS[:2]).values()} == {""}
    assert {key for _, key in of_hours(after, HOURS[2:5]).values()} == {kms}

    # And back.
    again = described(tmp_path, aws.bucket, old, enabled=True)
    assert stale(again, HOURS[:5], open_store) == []
    delivered(again, HOURS)
    rolled_back = aws.objects()
    assert after.items() <= rolled_back.items()
    assert {key for _, key in of_hours(rolled_back, HOURS[5:]).values()} == {""}

    # As if nothing had ever been changed: the same objects, the same bytes.
    other = Aws(ministack_server)
    never = builders.organization(
        tmp_path / "never",
        tmp_path / "landing",
        projects=[{"deliveries": [builders.all_events(f"s3://{other.bucket}/raw", s3=old)]}],
    )
    delivered(never, HOURS)
    mine, theirs = (open_store(f"s3://{one.bucket}/raw", S3.model_validate(old)) for one in (aws, other))
    assert [info.name for info in mine.find("")] == [info.name for info in theirs.find("")]
    assert all(mine.get(info.name) == theirs.get(info.name) for info in mine.find(""))
