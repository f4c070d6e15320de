"""Least policies: what they say, for whom, and that nothing in them is more than a delivery does."""

from dataclasses import replace

import pytest

from amp_pipeline.core import policy
from amp_pipeline.core.policy import Place

WRITER = "arn:aws:iam::123456789012:role/writer"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/a466d1fa-5c7f-4b10-8343-08763635d8c4"
PLACE = Place("bucket", "exports/shop", account="123456789012", region="eu-west-1")
WHOLE = replace(PLACE, path="")
S3_ACTIONS = [
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:PutObject",
]


def test_actions_are_those_of_the_probe_and_of_what_the_settings_ask_for():
    assert policy.actions(PLACE) == S3_ACTIONS
    assert set(policy.actions(replace(PLACE, tags=True, acl=True))) - set(S3_ACTIONS) == {
        "s3:PutObjectAcl",
        "s3:PutObjectTagging",
    }


def test_the_role_policy_is_bound_to_the_path():
    assert policy.role_policy(PLACE) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::bucket",
                "Condition": {"StringLike": {"s3:prefix": "exports/shop/*"}},
            },
            {"Effect": "Allow", "Action": "s3:ListBucketMultipartUploads", "Resource": "arn:aws:s3:::bucket"},
            {
                "Effect": "Allow",
                "Action": ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
                "Resource": "arn:aws:s3:::bucket/exports/shop/*",
            },
        ],
    }


def test_a_delivery_to_a_whole_bucket_is_bound_to_the_bucket():
    listing, _, objects = policy.role_policy(WHOLE)["Statement"]
    assert "Condition" not in listing
    assert objects["Resource"] == "arn:aws:s3:::bucket/*"


def test_the_bucket_policy_forbids_plain_http_and_names_only_others_than_the_owner():
    (deny,) = policy.bucket_policy(PLACE)["Statement"]
    assert (deny["Effect"], deny["Principal"]) == ("Deny", "*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert deny["Resource"] == ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]
    first, *allowed = policy.bucket_policy(PLACE, WRITER)["Statement"]
    assert first == deny
    assert [one | {"Principal": None} for one in allowed] == [
        one | {"Principal": None} for one in policy.role_policy(PLACE)["Statement"]
    ]
    assert {one["Principal"]["AWS"] for one in allowed} == {WRITER}


def test_keys_of_kms_are_allowed_for_s3_only():
    place = replace(PLACE, kms=True, key=KEY)
    through_s3 = {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}
    assert policy.role_policy(place)["Statement"][-1] == {
        "Effect": "Allow",
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Resource": KEY,
        "Condition": through_s3,
    }
    assert policy.key_statement(place, WRITER) == {
        "Effect": "Allow",
        "Principal": {"AWS": WRITER},
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Resource": "*",
        "Condition": through_s3,
    }


def test_the_region_of_a_key_is_that_of_its_bucket():
    place = replace(PLACE, region="", kms=True, key=KEY)
    assert "s3.eu-west-1.amazonaws.com" in str(policy.role_policy(place))


def test_the_aws_s3_key_needs_no_policy_of_anybody():
    place = replace(PLACE, kms=True)
    assert policy.key_actions(place) == []
    assert policy.role_policy(place) == policy.role_policy(PLACE)


@pytest.mark.parametrize(
    ("key", "resource", "alias"),
    [
        (KEY, KEY, None),
        ("a466d1fa", "arn:aws:kms:eu-west-1:123456789012:key/a466d1fa", None),
        ("alias/exports", "arn:aws:kms:eu-west-1:123456789012:key/*", "alias/exports"),
        (
            "arn:aws:kms:eu-west-1:123456789012:alias/exports",
            "arn:aws:kms:eu-west-1:123456789012:key/*",
            "alias/exports",
        ),
    ],
)
def test_a_key_is_named_as_policies_can_name_it(key: str, resource: str, alias: str | None):
    said = policy.statement("kms:Decrypt", replace(PLACE, kms=True, key=key))
    assert said["Resource"] == resource
    named = said["Condition"].get("ForAnyValue:StringEquals", {}).get("kms:ResourceAliases")
    assert named == alias


def test_the_trust_of_a_role():
    assert policy.trust_policy(WRITER, external_id=False)["Statement"] == [
        {"Effect": "Allow", "Principal": {"AWS": WRITER}, "Action": "sts:AssumeRole"}
    ]
    (said,) = policy.trust_policy(WRITER, external_id=True)["Statement"]
    assert said["Condition"] == {"StringEquals": {"sts:ExternalId": policy.EXTERNAL_ID}}


def test_who_assumes_a_role_may_do_that_and_no_more():
    place = replace(PLACE, role=WRITER)
    assert policy.caller_policy(place)["Statement"] == [
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": WRITER}
    ]


@pytest.mark.parametrize(
    ("arn", "role", "named"),
    [
        ("arn:aws:iam::123456789012:user/ann", "", "arn:aws:iam::123456789012:user/ann"),
        ("arn:aws:sts::123456789012:assumed-role/writer/session", "", WRITER),
        (
            "arn:aws:sts::123456789012:assumed-role/writer/session",
            "arn:aws:iam::123456789012:role/path/writer",
            "arn:aws:iam::123456789012:role/path/writer",
        ),
        ("", "", ""),
    ],
)
def test_a_policy_names_the_role_of_a_session(arn: str, role: str, named: str):
    assert policy.identity(arn, role) == named


def test_other_parts_of_aws_have_names_of_their_own():
    place = Place("bucket", "a", role="arn:aws-us-gov:iam::123456789012:role/writer")
    assert policy.role_policy(place)["Statement"][-1]["Resource"] == "arn:aws-us-gov:s3:::bucket/a/*"


def test_every_allowed_action_is_one_that_some_step_makes():
    place = replace(PLACE, kms=True, key=KEY, tags=True, acl=True)
    allowed: list[str] = []
    for said in policy.role_policy(place)["Statement"]:
        allowed += [said["Action"]] if isinstance(said["Action"], str) else said["Action"]
    made = {action for of_step in policy.OPERATIONS.values() for action in of_step.values()}
    assert sorted(allowed) == sorted(made | {policy.TAGGING, policy.ACL, policy.ENCRYPT, policy.DECRYPT})


@pytest.mark.parametrize(
    ("region", "partition"),
    [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("", "aws"), ("us-east-1", "aws")],
)
def test_the_region_tells_the_part_of_aws_where_no_arn_does(region: str, partition: str):
    assert Place("bucket", region=region).objects_arn == f"arn:{partition}:s3:::bucket/*"


def test_the_arn_of_an_alias_tells_whose_the_key_is():
    place = replace(PLACE, kms=True, key="arn:aws:kms:eu-west-1:999999999999:alias/events")
    assert place.resource(policy.DECRYPT) == "arn:aws:kms:eu-west-1:999999999999:key/*"
