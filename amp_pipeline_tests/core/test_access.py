"""From what stores answer to what is wrong: each shape of answer that AWS documents, or that people report of it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from amp_pipeline.core.access import KINDS, Outcome, elsewhere, foreign, passed
from amp_pipeline.core.errors import Refusal
from amp_pipeline.core.judging import judge, judge_folder
from amp_pipeline.core.policy import EXTERNAL_ID, Place

ROLE = "arn:aws:iam::123456789012:role/delivery/writer"
SESSION = "arn:aws:sts::123456789012:assumed-role/writer/amp-pipeline"
USER = "arn:aws:iam::123456789012:user/ann"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/a466d1fa-5c7f-4b10-8343-08763635d8c4"
PLACE = Place("bucket", "exports", region="eu-west-1", role=ROLE)
BUCKET_ARN, OBJECTS = "arn:aws:s3:::bucket", "arn:aws:s3:::bucket/exports/*"
PROBED = "arn:aws:s3:::bucket/exports/_amp_pipeline/probe/0123456789abcdef/object"

NO_IDENTITY = "because no identity-based policy allows the {action} action"


def denial(action: str, on: str, why: str, who: str = SESSION) -> str:
    return f"User: {who} is not authorized to perform: {action} on resource: {on} {why}".format(action=action)


def put(code: str, message: str = "", status: int = 403, region: str = "") -> Refusal:
    return Refusal("PutObject", code, message, status, region)


def judged(step: str, refusal: Refusal, place: Place = PLACE, principal: str = SESSION) -> Outcome:
    outcome = judge(step, refusal, place, principal)
    assert not outcome.ok
    assert outcome.kind in KINDS
    assert outcome.summary
    assert outcome.advice.endswith(".")
    json.dumps(outcome.statement)
    return outcome


@pytest.mark.parametrize(
    ("step", "operation", "action", "told", "resource"),
    [
        ("list", "ListObjectsV2", "s3:ListBucket", f'"{BUCKET_ARN}"', BUCKET_ARN),
        ("put", "PutObject", "s3:PutObject", f'"{PROBED}"', OBJECTS),
        ("put", "PutObject", "s3:PutObjectTagging", f'"{PROBED}"', OBJECTS),
        ("put", "PutObject", "s3:PutObjectAcl", f'"{PROBED}"', OBJECTS),
        ("get", "GetObject", "s3:GetObject", f'"{PROBED}"', OBJECTS),
        ("delete", "DeleteObject", "s3:DeleteObject", f'"{PROBED}"', OBJECTS),
        ("multipart", "AbortMultipartUpload", "s3:AbortMultipartUpload", f'"{PROBED}"', OBJECTS),
        ("multipart", "ListMultipartUploads", "s3:ListBucketMultipartUploads", f'"{BUCKET_ARN}"', BUCKET_ARN),
        ("multipart", "CreateMultipartUpload", "s3:PutObject", PROBED, OBJECTS),
    ],
)
def test_missing_permission_is_named_with_the_statement_that_gives_it(
    step: str, operation: str, action: str, told: str, resource: str
):
    outcome = judged(step, Refusal(operation, "AccessDenied", denial(action, told, NO_IDENTITY), 403), principal="")
    assert (outcome.step, outcome.kind, outcome.action, outcome.resource) == (
        step,
        "missing_permission",
        action,
        resource,
    )
    assert outcome.principal == SESSION
    assert outcome.policy == "role policy"
    assert outcome.statement is not None
    assert outcome.statement["Action"] == action
    assert outcome.statement["Resource"] == resource
    assert ROLE in outcome.advice
    assert "0123456789abcdef" not in repr(outcome)


@pytest.mark.parametrize(
    ("why", "policy", "kind"),
    [
        ("because no identity-based policy allows the {action} action", "role policy", "missing_permission"),
        ("because no resource-based policy allows the {action} action", "bucket policy", "missing_permission"),
        ("because no permissions boundary allows the {action} action", "permissions boundary", "missing_permission"),
        ("because no session policy allows the {action} action", "session policy", "missing_permission"),
        ("because no VPC endpoint policy allows the {action} action", "VPC endpoint policy", "missing_permission"),
        (
            "because no resource control policy allows the {action} action",
            "resource control policy",
            "missing_permission",
        ),
        ("with an explicit deny in an identity-based policy", "role policy", "explicit_deny"),
        (
            "with an explicit deny in an identity-based policy: arn:aws:iam::123456789012:policy/NoWrites",
            "role policy",
            "explicit_deny",
        ),
        ("with an explicit deny in a resource-based policy", "bucket policy", "explicit_deny"),
        ("with an explicit deny in a service control policy", "service control policy", "explicit_deny"),
        ("with an explicit deny in a permissions boundary", "permissions boundary", "explicit_deny"),
        ("with an explicit deny in a VPC endpoint policy", "VPC endpoint policy", "explicit_deny"),
        (
            "with an explicit deny in a VPC endpoint policy transitively through a service control policy",
            "VPC endpoint policy",
            "explicit_deny",
        ),
        ("with an explicit deny in a session policy", "session policy", "explicit_deny"),
    ],
)
def test_the_policy_that_decided_is_named(why: str, policy: str, kind: str):
    outcome = judged("put", put("AccessDenied", denial("s3:PutObject", PROBED, why)))
    assert (outcome.kind, outcome.policy, outcome.action) == (kind, policy, "s3:PutObject")
    # No statement outweighs a Deny.
    assert (outcome.statement is None) == (kind == "explicit_deny")
    if outcome.statement is not None:
        named = policy in ("bucket policy", "VPC endpoint policy", "resource control policy")
        assert ("Principal" in outcome.statement) == named


def test_a_denial_without_reasons_admits_what_it_may_be():
    place = replace(PLACE, account="111122223333", tags=True, acl=True, kms=True, key=KEY)
    outcome = judged("put", put("AccessDenied", "Access Denied"), place)
    assert (outcome.kind, outcome.action, outcome.policy) == ("missing_permission", "s3:PutObject", "bucket policy")
    assert outcome.statement is not None
    assert outcome.statement["Principal"] == {"AWS": ROLE}
    for cause in ("a Deny", "PutObjectTagging", "PutObjectAcl", "kms:GenerateDataKey", "111122223333", "both"):
        assert cause in outcome.advice


@pytest.mark.parametrize("operation", ["HeadBucket", "HeadObject"])
def test_an_answer_to_head_has_no_text_and_claims_nothing(operation: str):
    outcome = judged("get", Refusal(operation, "403", "Forbidden", 403))
    assert outcome.kind == "missing_permission"
    assert "may also be" in outcome.advice


def test_a_statement_for_a_bucket_policy_needs_somebody_to_name():
    outcome = judged("put", put("AccessDenied", f"{NO_IDENTITY}".replace("identity", "resource")), principal="")
    assert outcome.statement is None
    assert outcome.principal == ""


KMS_TEXTS: list[tuple[str, str, str, str, bool]] = [
    # text, action, policy, and whether a statement mends it
    (denial("kms:GenerateDataKey", KEY, NO_IDENTITY), "kms:GenerateDataKey", "role policy", "a policy of", True),
    (denial("kms:Decrypt", KEY, NO_IDENTITY), "kms:Decrypt", "role policy", "", True),
    (
        denial("kms:GenerateDataKey", KEY, "because no resource-based policy allows the kms:GenerateDataKey action"),
        "kms:GenerateDataKey",
        "KMS key policy",
        "KMS key policy",
        True,
    ),
    (
        denial("kms:Decrypt", KEY, "with an explicit deny in a resource-based policy"),
        "kms:Decrypt",
        "KMS key policy",
        "no Allow outweighs it",
        False,
    ),
    (
        denial("kms:GenerateDataKey", KEY, "with an explicit deny in a service control policy"),
        "kms:GenerateDataKey",
        "service control policy",
        "administrator",
        False,
    ),
    (
        f"User: {SESSION} is not authorized to perform: kms:GenerateDataKey on this resource because the resource does "
        "not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly "
        "denies access",
        "kms:GenerateDataKey",
        "KMS key policy",
        "doesn't tell which",
        True,
    ),
    (
        "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are "
        "not allowed to access.",
        "kms:Decrypt",
        "KMS key policy",
        "doesn't tell which",
        True,
    ),
    (
        f"User: {SESSION} is not authorized to perform: kms:Decrypt on the resource associated with this ciphertext "
        "because the resource does not exist in this Region, no resource-based policies allow access, or a "
        "resource-based policy explicitly denies access",
        "kms:Decrypt",
        "KMS key policy",
        "doesn't tell which",
        True,
    ),
]


@pytest.mark.parametrize(("text", "action", "policy", "advice", "mends"), KMS_TEXTS)
def test_a_denial_of_the_encryption_key_is_one_of_kms(text: str, action: str, policy: str, advice: str, mends: bool):
    outcome = judged("put", put("AccessDenied", text), replace(PLACE, kms=True, key=KEY))
    assert (outcome.kind, outcome.action, outcome.resource, outcome.policy) == ("kms", action, KEY, policy)
    if policy != "role policy":
        assert advice in outcome.advice
    assert (outcome.statement is not None) == mends
    if outcome.statement is not None:
        own = policy == "role policy"
        assert outcome.statement["Action"] == action
        assert outcome.statement["Resource"] == (KEY if own else "*")
        assert outcome.statement.get("Principal") == (None if own else {"AWS": ROLE})


def test_the_key_of_another_account_needs_both_policies():
    text = denial("kms:GenerateDataKey", KEY.replace("123456789012", "999999999999"), NO_IDENTITY)
    assert "both" in judged("put", put("AccessDenied", text)).advice


def test_a_key_that_only_the_bucket_knows_is_named_too():
    outcome = judged("put", put("AccessDenied", denial("kms:GenerateDataKey", KEY, NO_IDENTITY)))
    assert outcome.statement is not None
    assert outcome.statement["Resource"] == KEY


@pytest.mark.parametrize(
    ("code", "text", "word"),
    [
        ("KMS.DisabledException", f"{KEY} is disabled.", "disabled"),
        ("KMS.KMSInvalidStateException", f"{KEY} is pending deletion.", "pending deletion"),
        ("KMS.NotFoundException", "Invalid keyId aws/s3", "own region"),
        ("KMS.InvalidKeyUsageException", f"{KEY} key usage is SIGN_VERIFY", "symmetric"),
        ("KMS.KeyUnavailableException", "The key is not available", "later"),
    ],
)
def test_the_state_of_a_key_is_no_question_of_permissions(code: str, text: str, word: str):
    outcome = judged("put", put(code, text, 400), replace(PLACE, kms=True, key=KEY))
    assert (outcome.kind, outcome.statement, outcome.resource) == ("kms", None, KEY)
    assert word in outcome.summary + outcome.advice


@pytest.mark.parametrize(
    ("refusal", "region"),
    [
        (Refusal("HeadBucket", "301", "Moved Permanently", 301, "eu-central-1"), "eu-central-1"),
        (Refusal("HeadBucket", "400", "Bad Request", 400, "eu-central-1"), "eu-central-1"),
        (
            put(
                "AuthorizationHeaderMalformed",
                "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
                400,
            ),
            "eu-central-1",
        ),
        (
            put(
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified endpoint. Please send "
                "all future requests to this endpoint.",
                301,
                "ap-south-1",
            ),
            "ap-south-1",
        ),
        (put("PermanentRedirect", "The bucket you are attempting to access …", 301), ""),
        (put("IllegalLocationConstraintException", "The unspecified location constraint …", 400), ""),
    ],
)
def test_another_region_is_told_where_the_store_tells_it(refusal: Refusal, region: str):
    outcome = judged("put", refusal)
    assert (outcome.step, outcome.kind) == ("region", "wrong_region")
    assert (f"`region: {region}`" if region else "doesn't tell which") in outcome.advice


@pytest.mark.parametrize("code", ["NoRegionError", "InvalidRegionError"])
def test_no_region_at_all_asks_for_one(code: str):
    assert judged("bucket", Refusal("", code, "You must specify a region.")).kind == "wrong_region"


def test_the_new_bucket_of_a_far_region_wants_patience():
    outcome = judged("list", Refusal("ListObjectsV2", "TemporaryRedirect", "Please re-send this request …", 307))
    assert outcome.kind == "wrong_region"
    assert "wait" in outcome.advice


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", 403),
        (
            "SignatureDoesNotMatch",
            "Signature expired: 20240506T100000Z is now earlier than 20240506T104500Z (20240506T110000Z - 15 min.)",
            403,
        ),
        ("InvalidSignatureException", "Signature not yet current: 20240506T110000Z is still later than …", 400),
    ],
)
def test_a_wrong_clock_is_told_from_wrong_credentials(code: str, text: str, status: int):
    outcome = judged("list", Refusal("ListObjectsV2", code, text, status))
    assert (outcome.kind, outcome.statement) == ("clock", None)
    assert "NTP" in outcome.advice


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("503", 503),
        ("ServiceUnavailable", 503),
        ("RequestLimitExceeded", 503),
        ("Throttling", 400),
        ("ThrottlingException", 400),
        ("TooManyRequestsException", 429),
        ("KMS.ThrottlingException", 400),
    ],
)
def test_throttling_is_no_missing_permission(code: str, status: int):
    outcome = judged("put", put(code, "Please reduce your request rate.", status))
    assert (outcome.step, outcome.kind) == ("put", "throttled")
    assert ("KMS" in outcome.advice) == code.startswith("KMS")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("EndpointConnectionError", 'Could not connect to the endpoint URL: "https://bucket.s3.amazonaws.com/"'),
        ("ConnectTimeoutError", 'Connect timeout on endpoint URL: "https://bucket.s3.amazonaws.com/"'),
        ("ReadTimeoutError", 'Read timeout on endpoint URL: "https://bucket.s3.amazonaws.com/"'),
        ("SSLError", "SSL validation failed for https://s3.example.com/bucket [SSL: CERTIFICATE_VERIFY_FAILED]"),
        ("ProxyConnectionError", 'Failed to connect to proxy URL: "http://proxy.example.com:3128"'),
        ("ConnectionClosedError", "Connection was closed before we received a valid response from endpoint URL"),
        ("ResponseParserError", "Unable to parse response (syntax error: line 1, column 0), invalid XML received"),
        ("RequestTimeout", "Your socket connection to the server was not read from or written to …"),
    ],
)
def test_a_broken_way_to_the_store_is_network(code: str, text: str):
    outcome = judged("bucket", Refusal("", code, text))
    assert (outcome.step, outcome.kind, outcome.action) == ("bucket", "network", "")
    assert text[:20] in outcome.summary


def test_the_way_to_sts_is_not_the_way_to_the_bucket():
    outcome = judged("role", Refusal("", "EndpointConnectionError", "Could not connect to the endpoint URL"))
    assert outcome.summary.startswith("role: STS can't be reached")
    assert "`sts_endpoint`" in outcome.advice


@pytest.mark.parametrize(
    "code",
    [
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "UnauthorizedSSOTokenError",
    ],
)
@pytest.mark.parametrize("operation", ["", "AssumeRole", "ListObjectsV2"])
def test_wrong_credentials_are_told_whatever_was_asked(code: str, operation: str):
    outcome = judged("bucket", Refusal(operation, code, "…", 403 if operation else 0))
    assert (outcome.step, outcome.kind, outcome.statement) == ("credentials", "credentials", None)


def test_a_key_id_that_no_header_can_hold_is_wrong_credentials():
    text = "An HTTP Client raised an unhandled exception: Invalid header value"
    assert judged("list", Refusal("", "HTTPClientError", text)).kind == "credentials"


def test_a_malformed_key_id_is_no_wrong_region():
    text = "The authorization header is malformed; a non-empty Access Key (AKID) must be provided in the credential."
    assert judged("list", Refusal("ListObjectsV2", "AuthorizationHeaderMalformed", text, 400)).kind == "credentials"


def assuming(text: str, code: str = "AccessDenied", status: int = 403) -> Refusal:
    return Refusal("AssumeRole", code, text, status)


def test_a_role_denied_without_reasons_names_both_sides():
    text = f"User: {USER} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    outcome = judged("role", assuming(text), principal="")
    assert (outcome.step, outcome.kind, outcome.action) == ("role", "role", "sts:AssumeRole")
    assert (outcome.resource, outcome.principal, outcome.policy) == (ROLE, USER, "trust policy")
    assert outcome.statement == {"Effect": "Allow", "Principal": {"AWS": USER}, "Action": "sts:AssumeRole"}
    assert "doesn't tell which" in outcome.advice
    assert "must not ask for an external id" in outcome.advice


def test_the_external_id_of_a_trust_is_asked_for_but_never_told():
    text = f"User: {USER} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    outcome = judged("role", assuming(text), replace(PLACE, external_id=True))
    assert outcome.statement is not None
    assert outcome.statement["Condition"] == {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}}
    assert EXTERNAL_ID in outcome.advice


@pytest.mark.parametrize(
    ("why", "policy", "statement"),
    [
        (
            "because no identity-based policy allows the sts:AssumeRole action",
            "role policy",
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ROLE},
        ),
        (
            "because no role trust policy allows the sts:AssumeRole action",
            "trust policy",
            {"Effect": "Allow", "Principal": {"AWS": USER}, "Action": "sts:AssumeRole"},
        ),
        (
            "because no resource-based policy allows the sts:AssumeRole action",
            "trust policy",
            {"Effect": "Allow", "Principal": {"AWS": USER}, "Action": "sts:AssumeRole"},
        ),
        ("with an explicit deny in the role trust policy", "trust policy", None),
        ("with an explicit deny in a service control policy", "service control policy", None),
    ],
)
def test_a_role_denied_with_a_reason_names_the_one_side(why: str, policy: str, statement: dict[str, Any] | None):
    outcome = judged("role", assuming(denial("sts:AssumeRole", ROLE, why, USER)), principal="")
    assert (outcome.kind, outcome.policy, outcome.statement) == ("role", policy, statement)
    assert "doesn't tell" not in outcome.advice


def test_a_role_that_sts_does_not_understand():
    outcome = judged("role", assuming("1 validation error detected", "ValidationError", 400))
    assert (outcome.kind, outcome.statement) == ("role", None)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("HeadBucket", "404", "Not Found", 404),
        Refusal("ListObjectsV2", "NoSuchBucket", "The specified bucket does not exist", 404),
        Refusal("ListObjectsV2", "InvalidBucketName", "The specified bucket is not valid.", 400),
    ],
)
def test_no_bucket(refusal: Refusal):
    outcome = judged("bucket", refusal)
    assert (outcome.step, outcome.kind) == ("bucket", "no_bucket")


@pytest.mark.parametrize(
    ("code", "text", "status", "word"),
    [
        ("AccessControlListNotSupported", "The bucket does not allow ACLs", 400, "`acl`"),
        ("InvalidStorageClass", "The storage class you specified is not valid", 400, "`storage_class`"),
        ("NotImplemented", "A header you provided implies functionality that is not implemented", 501, "lacks"),
        ("MethodNotAllowed", "The specified method is not allowed against this resource.", 405, "lacks"),
    ],
)
def test_what_the_store_can_not_do_is_said_to_be_so(code: str, text: str, status: int, word: str):
    outcome = judged("put", put(code, text, status))
    assert outcome.kind == "unsupported"
    assert word in outcome.advice


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_store_that_fails_itself(status: int):
    assert judged("put", put("InternalError", "We encountered an internal error.", status)).kind == "server"


@pytest.mark.parametrize("code", ["InvalidRequest", "EntityTooLarge", "SomethingNew"])
def test_what_is_not_known_keeps_the_code_and_the_words(code: str):
    outcome = judged("put", put(code, "Words of the store", 400))
    assert (outcome.kind, outcome.action) == ("unknown", "s3:PutObject")
    assert code in outcome.summary
    assert "Words of the store" in outcome.summary


def test_a_refusal_that_tells_nothing_is_no_crash():
    assert judged("put", Refusal("", "", "")).kind == "unknown"


def test_the_same_trouble_reads_the_same_at_every_probe():
    def once(name: str) -> Outcome:
        text = f"{denial('s3:PutObject', PROBED.replace('0123456789abcdef', name), NO_IDENTITY)}"
        return judged("put", put("AccessDenied", text))

    assert once("0a") == once("ff")
    odd = [judged("put", put("Odd", f"no exports/_amp_pipeline/probe/{name}/object", 400)) for name in ("0a", "ff")]
    assert odd[0] == odd[1]


def test_a_foreign_bucket_is_not_written_to():
    outcome = foreign(replace(PLACE, account="111122223333"), USER)
    assert (outcome.kind, outcome.resource) == ("foreign_bucket", BUCKET_ARN)
    assert "111122223333" in outcome.summary


def test_a_bucket_elsewhere_tells_both_regions():
    assert "eu-west-1" in elsewhere(PLACE, "eu-west-1", "us-east-1").summary
    assert "us-east-1" in elsewhere(PLACE, "eu-west-1", "us-east-1").summary


def test_a_good_outcome_asks_for_nothing():
    outcome = passed(("list", "put"), PLACE.url)
    assert (outcome.ok, outcome.step, outcome.kind, outcome.advice, outcome.passed) == (
        True,
        "",
        "",
        "",
        ("list", "put"),
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("EACCES", "missing_permission"),
        ("EROFS", "missing_permission"),
        ("ENOSPC", "full"),
        ("ENOENT", "no_bucket"),
        ("ENOTDIR", "no_bucket"),
        ("EIO", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_the_system_refuses_of_a_folder(error: str, kind: str):
    outcome = judge_folder("/data/bucket", error, "words of the system")
    assert (outcome.step, outcome.kind) == ("folder", kind)
    assert "/data/bucket" in outcome.summary


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("QuotaExceeded", 403, "full"),
        ("XMinioStorageFull", 507, "full"),
        ("UserSuspended", 403, "unknown"),
        ("AccountProblem", 403, "unknown"),
        ("", 403, "missing_permission"),
        ("Unauthorized", 401, "missing_permission"),
    ],
)
def test_not_all_that_is_refused_is_a_missing_permission(code: str, status: int, kind: str):
    outcome = judged("put", put(code, status=status))
    assert outcome.kind == kind
    assert code in outcome.summary or kind == "missing_permission"
    assert (outcome.statement is not None) == (kind == "missing_permission")
