"""What ``make demo-s3`` runs: a week to a bucket of an S3 server, which somebody breaks in the middle of it.

Everything is on this machine: the S3 server (ministack, which enforces IAM policies), a mail server and a webhook.
"""

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Any

import dagster as dg

from amp_pipeline import access_report, config_files
from amp_pipeline.core import policy
from amp_pipeline.definitions import build_definitions
from amp_pipeline.storage.probe import place_of
from amp_pipeline_tests import servers
from amp_pipeline_tests.receivers import Mailbox, Webhook, mailbox, webhook
from amp_pipeline_tests.servers import Server

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DEMO = ROOT / ".demo-s3"
BUCKET, USER, ROLE = "shop-events", "dagster-host", "amp-pipeline"
ACCOUNT = "000000000000"
DELIVERY = ("--project", "shop", "--delivery", "all_events")
SENSOR = "shop_org_access_alerts"
MOST_LINES = 40
NOBODY_WRITES = {
    "Sid": "NobodyWritesHere",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:PutObject",
    "Resource": f"arn:aws:s3:::{BUCKET}/*",
}


def main() -> int:
    """Deliver, break, be told, repair, deliver what waits, audit; return the exit status."""
    rmtree(DEMO, ignore_errors=True)
    # The mail server of the demo warns that it has no TLS.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    began = time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(servers.ministack(DEMO / "server"))
        mails = stack.enter_context(mailbox("demo", os.environ.setdefault("DEMO_MAIL_PASSWORD", secrets.token_hex(8))))
        hook = stack.enter_context(webhook())
        _set_up(server, mails, hook)
        _say("1. The least policies for this delivery are put in place, and the bucket is tried.")
        _put_in_place(server)
        _amp_pipeline("access", *DELIVERY)
        _say("2. The first four days go to the bucket.")
        _amp_pipeline("deliver", "--project", "shop", "--to", "2024-05-09")
        _say("3. Somebody at the bucket's end adds a statement that forbids writing. The next two days fail:")
        server.client().put_bucket_policy(Bucket=BUCKET, Policy=_policy([NOBODY_WRITES]))
        _amp_pipeline("deliver", "--project", "shop", "--to", "2024-05-11", status=1)
        _say("4. The sensor tries the bucket four times; after the second it tells people, once. The mail as it came:")
        sensor = Sensor()
        sensor.ticks(4)
        _show(mails, hook)
        _say("5. The statement is taken away again. One command delivers what waits, oldest hour first:")
        server.client().delete_bucket_policy(Bucket=BUCKET)
        _amp_pipeline("access", *DELIVERY)
        _amp_pipeline("deliver", "--project", "shop")
        sensor.ticks(1)
        print(f"\n   The last mail says: {mails.subjects()[-1]}")
        _say("6. Nothing waits any more, and the audit holds everything against what landed:")
        _amp_pipeline("waiting", "--project", "shop")
        _amp_pipeline("audit", "--project", "shop")
        told = f"{len(mails.mails)} mails and {len(hook.posts)} calls of the webhook"
        print(f"\nDone in {time.monotonic() - began:.0f} s; {told}. The bucket went away with its server.")
    return 0


def _set_up(server: Server, mails: Mailbox, hook: Webhook) -> None:
    """Make bucket, user and role, as an administrator would, and say in the environment where all is."""
    server.client().create_bucket(Bucket=BUCKET)
    iam = server.client("iam")
    iam.create_user(UserName=USER)
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    home = DEMO / "dagster"
    home.mkdir(parents=True)
    shutil.copy(ROOT / "dagster.yaml", home)
    os.environ |= {
        "DAGSTER_HOME": str(home),
        "AMP_PIPELINE_ORGANIZATIONS": str(HERE),
        "DEMO_ENDPOINT": server.endpoint,
        "DEMO_KEY_ID": key["AccessKeyId"],
        "DEMO_SECRET": key["SecretAccessKey"],
        "DEMO_EXTERNAL_ID": secrets.token_hex(8),
        "DEMO_WEBHOOK": f"json://{hook.server}",
        "DEMO_MAIL": mails.server,
    }


def _put_in_place(server: Server) -> None:
    """Do with the documents that `amp-pipeline policy` prints what an administrator does."""
    (organization,) = config_files.read(HERE / config_files.FILE_NAME, os.environ)
    delivery = organization.projects[0].deliveries[0]
    place = place_of(delivery.url, organization.s3_of(delivery))
    found = access_report.documents(place, f"arn:aws:iam::{ACCOUNT}:user/{USER}", "")
    for line in access_report.printed(found):
        print(f"   {line}")
    caller, trust, role, _tls = (document.body for document in found)
    iam = server.client("iam")
    iam.put_user_policy(UserName=USER, PolicyName="assume", PolicyDocument=json.dumps(caller))
    trusted = json.dumps(trust).replace(policy.EXTERNAL_ID, os.environ["DEMO_EXTERNAL_ID"])
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trusted)
    iam.put_role_policy(RoleName=ROLE, PolicyName="deliver", PolicyDocument=json.dumps(role))
    print("   (All but the bucket policy: this server has no TLS, which it asks for.)\n")


def _policy(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


class Sensor:
    """The organization's access sensor, evaluated as Dagster's daemon does, without waiting between its ticks."""

    def __init__(self) -> None:
        """Load the definitions."""
        self._repository = build_definitions(os.environ).get_repository_def()
        self._cursor: str | None = None

    def ticks(self, count: int) -> None:
        """Evaluate it so many times."""
        for _ in range(count):
            with (
                dg.DagsterInstance.get() as instance,
                dg.build_sensor_context(
                    instance=instance, cursor=self._cursor, repository_def=self._repository, sensor_name=SENSOR
                ) as context,
            ):
                data = self._repository.get_sensor_def(SENSOR).evaluate_tick(context)
            self._cursor = data.cursor
            print(f"   {data.skip_message}")


def _show(mails: Mailbox, hook: Webhook) -> None:
    (mail,) = [mail for mail in mails.mails if "data@" in str(mail["To"])]
    text = mail.get_body(("plain",))
    print(f"\n   To: {', '.join(str(one['To']) for one in mails.mails)}\n   Subject: {mail['Subject']}\n")
    for line in (text.get_content() if text else "").splitlines():
        print(f"   | {line}")
    print(f"\n   The webhook got {len(hook.posts)} call: {hook.titles[-1]}")


def _say(text: str) -> None:
    print(f"\n{text}\n", flush=True)


def _amp_pipeline(*arguments: str, status: int = 0) -> None:
    print(f"   $ amp-pipeline {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "amp_pipeline.cli", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - only words of this file
    lines = (done.stdout + done.stderr).splitlines()
    shown = lines if len(lines) <= MOST_LINES else [*lines[:6], f"… {len(lines) - 12} lines more …", *lines[-6:]]
    for line in shown:
        print(f"   {line[:200]}", flush=True)
    if done.returncode != status:
        raise SystemExit(f"exit status {done.returncode} instead of {status}")


if __name__ == "__main__":
    sys.exit(main())
