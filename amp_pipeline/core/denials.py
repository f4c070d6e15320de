"""What is missing where access is denied: to a bucket, to its encryption key, to a role.

AWS tells an asker of the bucket's own account which policy refused what; others get "Access Denied", and an answer to
HEAD has no text at all. What can't be told apart is said to be so, never guessed.
"""

from __future__ import annotations

from dataclasses import replace

from amp_pipeline.core import policy
from amp_pipeline.core.access import Asked, Outcome, failed

_CODES = (
    "AccessDenied",
    "AccessDeniedException",
    "Forbidden",
    "403",
    "Unauthorized",
    "401",
    "UnauthorizedAccess",
    "AllAccessDisabled",
)
_SOMEBODY = "who asks"


def assuming(asked: Asked) -> Outcome | None:
    """Return why a role can't be assumed; None where something else was asked for."""
    place, denial = asked.place, asked.denial
    if asked.operation != "AssumeRole":
        return None
    if asked.code not in _CODES:
        return asked.fails(
            "role",
            "role",
            f"role: {place.role} can't be assumed: {asked.said}",
            "Check `role` and `external_id` of the settings, and that STS is enabled in the region.",
        )
    who = policy.identity(asked.principal)
    named = who or _SOMEBODY
    external = (
        ", with the external id that the settings send"
        if place.external_id
        else ", and must not ask for an external id (sts:ExternalId), since the settings have none"
    )
    trust = f"the trust policy of the role has to name {named} as principal{external}"
    caller = f"the policy of {named} has to allow {policy.ASSUME} on the role"
    which = _name(denial.none_allows or denial.denies, policy.ASSUME)
    said = None
    if denial.denies:
        advice = _take_out(which)
    elif which == "role policy":
        said = policy.statement(policy.ASSUME, place)
        advice = f"Add the statement: {caller}. Then {trust}."
    else:
        said = policy.statement(policy.ASSUME, place, who) if who else None
        advice = (
            f"Change the trust policy: {trust}."
            if which
            else f"AWS doesn't tell which of these is missing: {trust}; {caller} (always where the role is in another "
            "account; in the same one, where the trust policy names the account only); the role itself has to be there."
        )
        if place.external_id and said is not None:
            advice += f" For {policy.EXTERNAL_ID} write the external id."
    summary = f"role: {asked.principal or _SOMEBODY} may not assume {place.role}"
    return Outcome(
        False,
        "role",
        "role",
        policy.ASSUME,
        place.role,
        asked.principal,
        summary,
        advice,
        said,
        which or "trust policy",
    )


_STATES = {
    "KMS.DisabledException": ("is disabled", "Enable the key, or name another."),
    "KMS.KMSInvalidStateException": ("is in no usable state", "See its state in KMS; it may wait for its deletion."),
    "KMS.NotFoundException": (
        "is not there",
        "Name the key by its ARN, in the bucket's own region; the aws/s3 key of one account is nothing in another.",
    ),
    "KMS.InvalidKeyUsageException": ("is no key to encrypt with", "Name a symmetric key."),
    "KMS.KeyUnavailableException": ("can't be had now", "Probe again later."),
}
_VAGUE = ("ciphertext refers to a customer master key", "because the resource does not exist in this Region")


def key(asked: Asked) -> Outcome | None:
    """Return why a key of KMS can't be used; None where the refusal speaks of none."""
    denial, place = asked.denial, asked.place
    vague = any(words in asked.message for words in _VAGUE)
    if not asked.code.startswith("KMS.") and not denial.action.startswith("kms:") and not vague:
        return None
    action = denial.action or (policy.DECRYPT if asked.step == "get" or vague else policy.ENCRYPT)
    # The bucket's own default may name another key than the settings, or the first at all.
    place = replace(place, kms=True, key=denial.resource or place.key)
    resource = place.resource(action)
    if asked.code in _STATES:
        state, advice = _STATES[asked.code]
        summary = f"{asked.step}: the KMS key {state}: {asked.said}"
        return failed(asked.step, "kms", summary, advice, action=action, resource=resource, principal=asked.principal)
    who = policy.identity(asked.principal, place.role)
    which = _name(denial.none_allows or denial.denies, action)
    said = None
    if denial.denies:
        advice = _take_out(which)
    else:
        named = "" if which == "role policy" else who
        said = policy.statement(action, place, named) if named or which == "role policy" else None
        advice = (
            f"Add the statement to the {which}."
            if which
            else "KMS doesn't tell which of these it is: the key is not there, it is in another region than the "
            "bucket, or its key policy doesn't allow this (or forbids it). Check the key's ARN; if that is right, add "
            "the statement to its policy."
        )
    if _known_to_differ(policy.account_of(who), policy.account_of(resource)):
        advice += " The key is of another account: its key policy and the role's policy have to allow it both."
    done = f"forbidden by a Deny in the {which}" if denial.denies else "not allowed"
    summary = f"{asked.step}: {action} on {resource} is {done} to {asked.principal or _SOMEBODY}"
    return Outcome(
        False, asked.step, "kms", action, resource, asked.principal, summary, advice, said, which or "KMS key policy"
    )


def denied(asked: Asked) -> Outcome | None:
    """Return which permission of S3 is missing, or forbidden; None where access was not denied."""
    # Stores have other reasons to answer 403: a quota, an account that is closed.
    if asked.code not in _CODES and (asked.code or asked.status not in (401, 403)):
        return None
    return _forbidden(asked) if asked.denial.denies else _not_allowed(asked)


def _forbidden(asked: Asked) -> Outcome:
    resource = asked.place.resource(asked.action)
    which = _name(asked.denial.denies, asked.action)
    advice = _take_out(which)
    if which == "bucket policy":
        advice += (
            " Often such a Deny asks for encryption (set `encryption`), for TLS (an `endpoint` with https), or for "
            "requests from certain networks."
        )
    summary = (
        f"{asked.step}: {asked.action} on {resource} is forbidden to {asked.principal or _SOMEBODY} by a Deny in "
        f"the {which}"
    )
    return Outcome(
        False, asked.step, "explicit_deny", asked.action, resource, asked.principal, summary, advice, None, which
    )


_NAMES_ITS_PRINCIPAL = ("bucket policy", "VPC endpoint policy", "resource control policy")


def _not_allowed(asked: Asked) -> Outcome:
    place, action = asked.place, asked.action
    who = policy.identity(asked.principal, place.role)
    told = _name(asked.denial.none_allows, action)
    abroad = _known_to_differ(place.account, policy.account_of(who))
    which = told or ("bucket policy" if abroad else "role policy")
    named = who if which in _NAMES_ITS_PRINCIPAL else ""
    said = None
    if action and (named or which not in _NAMES_ITS_PRINCIPAL):
        said = policy.statement(action, place, named)
    own = which == "role policy"
    advice = f"Add the statement to {f'a policy of {who or _SOMEBODY}' if own else f'the {which}'}."
    if abroad:
        advice += f" The bucket is of the account {place.account}: its policy and the role's have to allow it both."
    if not told:
        advice += f" The store doesn't tell why, so it may also be: {'; '.join(_also(asked))}."
    resource = place.resource(action) if action else place.bucket_arn
    by = f" by any {'policy of its own' if own else told}" if told else ""
    summary = (
        f"{asked.step}: {action or asked.operation} on {resource} is not allowed to {asked.principal or _SOMEBODY}{by}"
    )
    return Outcome(
        False, asked.step, "missing_permission", action, resource, asked.principal, summary, advice, said, which
    )


def _also(asked: Asked) -> list[str]:
    """Return what else looks the same where a denial has no reason."""
    place = asked.place
    causes = ["a bucket of another account, whose bucket policy has to allow it too", "a Deny in any policy"]
    if place.account:
        causes.append(f"a bucket that the account {place.account} doesn't own")
    if asked.action == "s3:PutObject" and place.tags:
        causes.append(f"{policy.TAGGING}, for the tags")
    if asked.action == "s3:PutObject" and place.acl:
        causes.append(f"{policy.ACL}, for the ACL")
    if place.kms:
        causes.append(f"{policy.ENCRYPT} or {policy.DECRYPT}, for the key")
    return causes


def _name(type_of_policy: str, action: str) -> str:
    """Return how this house calls a type of policy that AWS names; "" where it names none."""
    if type_of_policy == "identity-based":
        return "role policy"
    if type_of_policy == "resource-based":
        return {"kms": "KMS key policy", "sts": "trust policy"}.get(action.partition(":")[0], "bucket policy")
    if "trust" in type_of_policy:
        return "trust policy"
    return type_of_policy if not type_of_policy or "boundary" in type_of_policy else f"{type_of_policy} policy"


def _take_out(which: str) -> str:
    if which == "service control policy":
        # AWS says "explicit deny" of these also where an Allow is missing.
        return "An administrator of the organization in AWS has to allow it: a Deny there, or a missing Allow."
    return f"Find the Deny in the {which} that covers it, and limit it to others; no Allow outweighs it."


def _known_to_differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)
