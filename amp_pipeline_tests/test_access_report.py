"""``amp-pipeline access`` and ``policy``: what they print and end with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from amp_pipeline.cli import main
from amp_pipeline.core import policy
from amp_pipeline.storage.probe import place_of
from amp_pipeline_tests.storage.stub_s3 import StubS3, denied, stub_s3

WRITER = "arn:aws:iam::123456789012:role/writer"
PIPELINE = "arn:aws:iam::123456789012:role/pipeline"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/a466d1fa"
SECRET = "nobody/may/read/this"


def amp(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, arguments, env={"AMP_PIPELINE_ORGANIZATIONS": str(folder), "HOUSE_SECRET": SECRET, "HTTP_PROXY": None}
    )


def house_in(folder: Path, *deliveries: dict[str, Any], **attributes: Any) -> Path:
    (folder / "landing").mkdir(parents=True)
    project = {
        "id": 7,
        "slug": "shop",
        "first_hour": "2024-05-06-00:00",
        "source": {"url": str(folder / "landing")},
        "deliveries": list(deliveries),
    }
    told = {"id": 9, "slug": "house", "workspace": str(folder / "workspace"), "projects": [project], **attributes}
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": "amp_pipeline.Organization", "attributes": told}))
    return folder


def reached(stub: StubS3, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": stub.endpoint,
        "region": "us-east-1",
        "addressing": "path",
        "access_key_id": "AKIAHOUSE",
        "secret_access_key": "{{ env.HOUSE_SECRET }}",
        **more,
    }


def test_access_tells_each_step_and_ends_well(tmp_path: Path) -> None:
    with stub_s3() as stub:
        bucket = {"name": "all", "url": "s3://house/exports", "s3": reached(stub)}
        off = {"name": "off", "url": "/proc/nobody/writes/here", "enabled": False}
        house_in(tmp_path, bucket, {"name": "local", "url": str(tmp_path / "local")}, off)
        found = amp(tmp_path, "access")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "shop.all  s3://house/exports",
        f"shop.local  {tmp_path}/local",
        f"house workspace  {tmp_path}/workspace",
    ]
    assert lines[1:8] == [
        f"  {step:18}  ok" for step in ("credentials", "bucket", "list", "delete", "put", "get", "conditional_write")
    ]
    assert not (tmp_path / "local").exists()


def test_access_prints_the_statement_to_paste_and_ends_in_exit_1(tmp_path: Path) -> None:
    with stub_s3() as stub:
        why = "because no identity-based policy allows the s3:PutObject action"
        text = f"User: {PIPELINE} is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::house/x {why}"
        stub.refuses = lambda asked: denied(text) if asked.method == "PUT" else None
        house_in(tmp_path, {"name": "all", "url": "s3://house/exports", "s3": reached(stub)})
        found = amp(tmp_path, "access", "--project", "shop", "--delivery", "all")
    assert found.exit_code == 1
    assert f"  {'put':18}  no policy allows it" in found.output.splitlines()
    assert SECRET not in found.output
    statement = json.loads(found.output.partition(f"Statement for a policy of {PIPELINE}:\n")[2])
    assert statement == {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::house/exports/*"}


def test_access_says_whose_policy_a_statement_belongs_to(tmp_path: Path) -> None:
    """A role policy would be looked for at the role; what may assume it is allowed to the user."""
    user = "arn:aws:iam::123456789012:user/host"
    with stub_s3() as stub:
        why = "because no identity-based policy allows the s3:ListBucket action"
        stub.refuses = lambda _: denied(f"User: {user} is not authorized to perform: s3:ListBucket {why}")
        house_in(tmp_path, {"name": "all", "url": "s3://house", "s3": reached(stub)})
        lines = amp(tmp_path, "access").output.splitlines()
    assert f"  Statement for a policy of {user}:" in lines
    assert lines[lines.index("house workspace  " + f"{tmp_path}/workspace") - 1] == ""


def test_access_of_a_delivery_that_is_switched_off(tmp_path: Path) -> None:
    house_in(tmp_path, {"name": "off", "url": str(tmp_path / "bucket"), "enabled": False})
    found = amp(tmp_path, "access", "--delivery", "off")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[0] == f"shop.off  {tmp_path}/bucket"


def test_access_hides_secrets_that_a_server_repeats(tmp_path: Path) -> None:
    with stub_s3() as stub:
        stub.refuses = lambda _: (400, "Odd", f"your secret is {SECRET}")
        house_in(tmp_path, {"name": "all", "url": "s3://house", "s3": reached(stub)})
        found = amp(tmp_path, "access")
    assert "your secret is" in found.output
    assert SECRET not in found.output


def documents(output: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for block in output.strip().split("\n\n"):
        where, _, body = block.partition(":\n")
        found[where] = json.loads(body)
    return found


def test_policy_prints_where_each_document_goes(tmp_path: Path) -> None:
    s3 = {"role": WRITER, "external_id": "{{ env.HOUSE_SECRET }}", "region": "eu-west-1"}
    s3 |= {"encryption": {"type": "sse-kms", "key": KEY}}
    house_in(tmp_path, {"name": "all", "url": "s3://house/exports", "s3": s3})
    asked = ("policy", "--project", "shop", "--delivery", "all", "--principal", PIPELINE)
    found = amp(tmp_path, *asked, "--account", "999999999999")
    assert found.exit_code == 0, found.output
    assert SECRET not in found.output
    own, trust, role, bucket, key = documents(found.output).items()
    assert own[0] == f"1. Inline policy of {PIPELINE}"
    assert own[1]["Statement"][0]["Resource"] == WRITER
    assert trust[0].startswith(f"2. Trust policy of {WRITER}; for EXTERNAL-ID write")
    assert trust[1] == policy.trust_policy(PIPELINE, external_id=True)
    assert role[0] == f"3. Inline policy of the role {WRITER}"
    assert "kms:GenerateDataKey" in str(role[1])
    assert bucket[0].startswith("4. Bucket policy of house (in the account 999999999999")
    assert {one["Effect"] for one in bucket[1]["Statement"]} == {"Allow", "Deny"}
    assert key[0].startswith(f"5. Key policy of {KEY}")
    same = documents(amp(tmp_path, *asked).output)
    assert {one["Effect"] for one in list(same.values())[3]["Statement"]} == {"Deny"}


def test_policy_of_a_user_is_what_the_probe_asks_for(tmp_path: Path) -> None:
    user = "arn:aws:iam::123456789012:user/ann"
    house_in(tmp_path, {"name": "all", "url": "s3://house/exports"})
    found = amp(tmp_path, "policy", "--project", "shop", "--delivery", "all", "--principal", user)
    assert found.exit_code == 0, found.output
    own, _ = documents(found.output).items()
    assert own == (
        f"1. Inline policy of the user {user}",
        policy.role_policy(place_of("s3://house/exports", None)),
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("access", "--project", "shoop"), "there is no project shoop; known are shop"),
        (("access", "--delivery", "al"), "there is no delivery al; known are all, local"),
        (("policy", "--project", "shop", "--delivery", "al"), "shop has no delivery al; known are all, local"),
        (("policy", "--project", "shop", "--delivery", "local"), "it needs no policy"),
        (("policy", "--project", "shop", "--delivery", "all"), "give --principal"),
        (("policy", "--project", "shop", "--delivery", "all", "--principal", "ann"), "'ann' is no ARN"),
        (
            ("policy", "--project", "shop", "--delivery", "all", "--principal", WRITER, "--account", "12"),
            "'12' is no account",
        ),
    ],
)
def test_what_is_asked_wrongly_is_answered_with_what_would_be_right(
    tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    house_in(tmp_path, {"name": "all", "url": "s3://house"}, {"name": "local", "url": str(tmp_path / "local")})
    found = amp(tmp_path, *arguments)
    assert found.exit_code == 1
    assert found.output.startswith("Error: ")
    assert text in found.output
