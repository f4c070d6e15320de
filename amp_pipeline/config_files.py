"""Reading ``defs.yaml`` files into :mod:`amp_pipeline.config`: what is wrong is told with the file and the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amp_pipeline.alert_settings import Alerts, Mail, Recipients
from amp_pipeline.buckets import S3, Encryption
from amp_pipeline.config import (
    Dashboard,
    Dedupe,
    Delivery,
    Names,
    Organization,
    Parts,
    Project,
    Reconcile,
    Retention,
    overlap,
    same_key,
)
from amp_pipeline.core.errors import ConfigError
from amp_pipeline.source_settings import AmplitudeExport, Keys, Landing

COMPONENT = "amp_pipeline.Organization"
"""The component type that a ``defs.yaml`` names."""

FILE_NAME = "defs.yaml"


def organization(attributes: Mapping[str, Any], file: Path, *, filters: bool = True) -> Organization:
    """Return the organization that ``attributes`` of ``file`` describe; without ``filters`` these are not looked at.

    Raises:
        ConfigError: Something is wrong; the message has a line for each field.
    """
    try:
        return Organization.model_validate(attributes, context={"base": file.parent, "filters": filters})
    except ValidationError as error:
        details: list[dict[str, Any]] = [dict(detail) for detail in error.errors()]
        # pydantic counts wrong items as absent ones, and would say that there are too few.
        told = [d for d in details if d["type"] != "too_short" or not any(_inside(o["loc"], d["loc"]) for o in details)]
        raise ConfigError("\n".join([f"{file} is wrong:", *(f"  {_explain(detail)}" for detail in told)])) from None


def files_below(folder: Path) -> list[Path]:
    """Return the ``defs.yaml`` files in and below ``folder``.

    Raises:
        ConfigError: There is no such folder, or no such file in it.
    """
    found = sorted(folder.rglob(FILE_NAME))
    if not found:
        raise ConfigError(f"{folder} holds no {FILE_NAME}; write one there, or name another folder")
    return found


def read(file: Path, environment: Mapping[str, str], *, filters: bool = True) -> list[Organization]:
    """Return the organizations of a ``defs.yaml``; documents of other component types are passed over.

    Args:
        file: The file.
        environment: What ``{{ env.NAME }}`` stands for.
        filters: Look whether filters are right, for which polars is imported.

    Raises:
        ConfigError: The file can't be read or something in it is wrong.
    """
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # The text around it, which the error quotes, may hold a secret.
        raise ConfigError(
            f"{file} is no YAML{where}: {problem or 'it has characters that YAML does not allow'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
    ours = [document for document in documents if isinstance(document, dict) and document.get("type") == COMPONENT]
    filled = [_filled(document.get("attributes") or {}, file, environment) for document in ours]
    return [organization(attributes, file, filters=filters) for attributes in filled]


def check_together(organizations: Iterable[Organization]) -> None:
    """Refuse what each organization may do but not several side by side.

    Raises:
        ConfigError: Two organizations share an id, a slug, a project, a bucket or an API key.
    """
    known = list(organizations)
    for position, one in enumerate(known):
        for other in known[:position]:
            slugs = {one.slug, *(p.slug for p in one.projects)} & {other.slug, *(p.slug for p in other.projects)}
            ids = {p.id for p in one.projects} & {p.id for p in other.projects}
            if one.id == other.id:
                raise ConfigError(f"organization {one.id} is described twice; keep one {FILE_NAME} per organization")
            if slugs or ids:
                raise ConfigError(
                    f"organizations {other.slug} and {one.slug} share the slug or project id "
                    f"{', '.join(map(str, [*slugs, *ids]))}; choose another"
                )
            _keep_buckets_apart(one, other)
            _keep_buckets_apart(other, one)
    if same := same_key([served for one in known for served in one.export_keys]):
        raise ConfigError(same)


def _keep_buckets_apart(one: Organization, other: Organization) -> None:
    for mine in _delivery_urls(one):
        for what, theirs in _places(other):
            if overlap(mine, theirs):
                raise ConfigError(
                    f"organization {one.slug} delivers to {mine}, which overlaps with the {what} of organization "
                    f"{other.slug} ({theirs}); a bucket belongs to one organization, choose another"
                )


def _places(one: Organization) -> list[tuple[str, str]]:
    landings = [("landing", project.source.url) for project in one.projects if isinstance(project.source, Landing)]
    return [("workspace", one.workspace), *landings, *(("bucket", url) for url in _delivery_urls(one))]


def _delivery_urls(one: Organization) -> list[str]:
    return [delivery.url for project in one.projects for delivery in project.deliveries]


_TEMPLATE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")


def _filled(value: Any, file: Path, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, file, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, file, environment) for item in value]
    if not isinstance(value, str):
        return value

    def _value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigError(f"{file} names the environment variable {match[1]}, which is not set")
        return environment[match[1]]

    return _TEMPLATE.sub(_value, value)


_WORDS = {
    "missing": "is missing; add it",
    "tuple_type": "write a list, like [one, two]",
    "frozen_set_type": "write a list, like [one, two]",
    "string_type": "write text; numbers in quotes",
    "too_short": "is empty; write one at least",
    "string_too_short": "is empty; write it",
    "string_too_long": "write at most {max_length} characters",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "finite_number": "write a number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "greater_than": "write more than {gt:g}",
    "greater_than_equal": "write {ge:g} or more",
    "less_than": "write less than {lt:g}",
    "less_than_equal": "write {le:g} or less",
    "literal_error": "write {expected}",
}
"""What pydantic says in the words of Python."""


def _explain(detail: dict[str, Any]) -> str:
    # The kind of a source is no field.
    named = [part for before, part in zip(("", *detail["loc"]), detail["loc"], strict=False) if before != "source"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named).lstrip(".") or "attributes"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: there is no such field; known here are {', '.join(known)}{hint}"
    if detail["type"] == "too_short" and detail["ctx"]["field_type"] == "Value":
        # A secret.
        return f"{where}: is empty; is the environment variable that it names set to nothing?"
    if detail["type"] in _WORDS:
        return f"{where}: {_WORDS[detail['type']].format(**detail.get('ctx', {}))}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}: write fields below it: {', '.join(_fields_at(detail['loc']))}"
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}"


def _inside(path: tuple[Any, ...], of: tuple[Any, ...]) -> bool:
    return len(path) > len(of) and path[: len(of)] == of


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    model: Any = Organization
    nested = {
        "projects": Project,
        "deliveries": Delivery,
        "landing": Landing,
        "amplitude_export": AmplitudeExport,
        "export_api": Keys,
        "dashboard": Dashboard,
        "dedupe": Dedupe,
        "parts": Parts,
        "names": Names,
        "reconcile": Reconcile,
        "retention": Retention,
        "s3": S3,
        "encryption": Encryption,
        "mail": Mail,
    }
    for part in path:
        named = Alerts if model is Organization else Recipients
        model = named if part == "alerts" else nested.get(part, model)
    return list(model.model_fields)
