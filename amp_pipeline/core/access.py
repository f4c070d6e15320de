"""Access outcomes: what probing a destination came to, which permission or setting is wrong, and what to change.

:mod:`amp_pipeline.core.judging` makes them from what a store refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from amp_pipeline.core import policy
from amp_pipeline.core.errors import Refusal
from amp_pipeline.core.layout import OWN_FOLDER
from amp_pipeline.core.policy import Place

PROBES = f"{OWN_FOLDER}/probe"
"""Below a delivery's url: where probes write, and delete again."""


@dataclass(frozen=True)
class Outcome:
    """What probing a destination came to."""

    ok: bool
    step: str
    """credentials, role, bucket, region, list, delete, put, get, conditional_write, multipart; of folders: folder; ""
    when ok."""
    kind: str
    """One of :data:`KINDS`; "" when ok."""
    action: str
    """Like s3:PutObject; "" where none."""
    resource: str
    """ARN the action was on; of objects, of all that the delivery writes."""
    principal: str
    """ARN of who asked, where known."""
    summary: str
    """One sentence: what, where."""
    advice: str
    """What to do; admits what can't be told apart."""
    statement: dict[str, Any] | None
    """The statement of a policy to add."""
    policy: str
    """The policy it belongs to, or that refused: role policy, bucket policy, KMS key policy, trust policy …; or ""."""
    passed: tuple[str, ...] = ()
    """The steps before, which passed."""


KINDS = {
    "missing_permission": "no policy allows it",
    "explicit_deny": "a policy forbids it",
    "kms": "the encryption key can't be used",
    "wrong_region": "the region is not the bucket's",
    "no_bucket": "there is no such bucket or folder",
    "foreign_bucket": "somebody else owns the bucket",
    "clock": "the clock of this machine is wrong",
    "throttled": "the store asks for fewer requests",
    "server": "the store itself fails",
    "network": "the store can't be reached",
    "credentials": "the credentials are not accepted there",
    "role": "the role can't be assumed",
    "unsupported": "the store can't do what a delivery needs",
    "full": "there is no room",
    "unknown": "the store gives a reason of its own",
}
"""What can be wrong, in a few words."""


def policy_named(which: str, principal: str) -> str:
    """Return how to call the policy that a statement belongs to, so that somebody finds it.

    Args:
        which: Of the outcome; a "role policy" is one of whoever asks, which may be a user.
        principal: ARN of who asked, where known.
    """
    if which == "role policy" and principal:
        return f"a policy of {policy.identity(principal)}"
    return f"the {which}" if which else "the policy"


def passed(steps: tuple[str, ...], where: str, principal: str = "") -> Outcome:
    """Return the outcome of a probe in which every step passed."""
    return Outcome(True, "", "", "", "", principal, f"{where} can be delivered to", "", None, "", steps)


def failed(
    step: str, kind: str, summary: str, advice: str, *, action: str = "", resource: str = "", principal: str = ""
) -> Outcome:
    """Return an outcome that no statement of a policy mends."""
    return Outcome(False, step, kind, action, resource, principal, summary, advice, None, "")


def elsewhere(place: Place, region: str, given: str = "") -> Outcome:
    """Return the outcome of asking in another region than the bucket's.

    Args:
        place: The bucket.
        region: Where it is, as far as the store tells.
        given: Where was asked.
    """
    return failed(
        "region",
        "wrong_region",
        f"region: the bucket {place.bucket} is in {region or 'another region'}"
        f"{f', and requests are made for {given}' if given else ''}",
        f"Write `region: {region}` under `s3`."
        if region
        else "The store doesn't tell which; see the bucket's properties, and write its `region` under `s3`.",
    )


def foreign(place: Place, principal: str = "") -> Outcome:
    """Return the outcome of a bucket that answers, but not as one of the account that the settings name."""
    return failed(
        "bucket",
        "foreign_bucket",
        f"bucket: {place.bucket} belongs to another account than {place.account}",
        "Do not write there: check the name of the bucket for a misspelling. If the bucket is the right one, correct "
        "`account`.",
        resource=place.bucket_arn,
        principal=principal,
    )


class Asked:
    """A refused request: what it was, and what its answer tells."""

    def __init__(self, step: str, refusal: Refusal, place: Place, principal: str) -> None:
        """Read the answer to a request of ``step``."""
        self.step = step
        self.code = refusal.code
        self.status = refusal.status
        self.region = refusal.region
        self.operation = refusal.operation
        self.place = place
        # The same trouble is to read the same at every probe.
        self.message = re.sub(rf"({PROBES})/[\w./-]+", r"\1/…", refusal.message).strip()
        self.denial = Denial(self.message)
        self.principal = principal or self.denial.principal
        self.action = self.denial.action or policy.OPERATIONS.get(step, {}).get(refusal.operation, "")

    @property
    def what(self) -> str:
        """The step and the request, for people."""
        return f"{self.step}: {self.operation or 'a request'} to {self.place.url}"

    @property
    def said(self) -> str:
        """Code, status and text of the answer, for people."""
        status = f" (HTTP {self.status})" if self.status and str(self.status) != self.code else ""
        return f"{self.code or 'no code'}{status}{f': {self.message}' if self.message else ''}".rstrip(".")

    def fails(self, step: str, kind: str, summary: str, advice: str) -> Outcome:
        """Return an outcome that no statement of a policy mends."""
        return failed(step, kind, summary, advice, principal=self.principal)


class Denial:
    """What the text of an AWS denial tells: who, what, on what, and which policy decided."""

    _WHO = re.compile(r"User: (arn:\S+)")
    _WHAT = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
    _ON = re.compile(r'on resource: "?(arn:[^\s"]+)')
    _NONE_ALLOWS = re.compile(r"because no ([\w -]+?)(?: polic(?:y|ies))? allows? ")
    _DENIES = re.compile(r"with an explicit deny in (?:an?|the) ([\w -]+?)(?: policy)?(?=[.:]|$| transitively)")

    def __init__(self, message: str) -> None:
        """Read the text of an answer."""
        self.principal = first(self._WHO, message)
        self.action = first(self._WHAT, message)
        self.resource = first(self._ON, message)
        self.none_allows = first(self._NONE_ALLOWS, message)
        self.denies = first(self._DENIES, message)


def first(pattern: re.Pattern[str], text: str) -> str:
    """Return what the first group of ``pattern`` finds in ``text``, "" where it finds nothing."""
    found = pattern.search(text)
    return found[1] if found else ""
