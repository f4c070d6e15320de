"""Who is told when a bucket can't be reached or a run has failed, and by which way: ``alerts`` in a ``defs.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from amp_pipeline.fields import DurationField, is_address

TEAM = "team:"

_ADDRESS = re.compile(r"[^@\s:/,;<>\"']+@[^@\s:/,;<>\"']+\.[^@\s:/,;<>\"']+")
_TEAM_NAME = re.compile(r"team:[A-Za-z0-9_-]+")
_CHANNEL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")
_SERVER = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:(?P<port>\d{1,5}))?")
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        # What is no address may be a channel with a password in it, put into the wrong list.
        raise ValueError("write plain e-mail addresses, like data@example.com; other ways to be told are channels")
    return value


def _owner(value: str) -> str:
    if not _TEAM_NAME.fullmatch(value) and not _ADDRESS.fullmatch(value):
        raise ValueError(f"{value!r} is neither an e-mail address nor team:name")
    return value


def _channel(value: SecretStr) -> SecretStr:
    if not _CHANNEL.fullmatch(value.get_secret_value()):
        raise ValueError(
            "write the Apprise URL of a channel, like slack://… or json://…; plain e-mail addresses belong into `to`"
        )
    return value


AddressField = Annotated[str, AfterValidator(_address)]
ChannelField = Annotated[SecretStr, AfterValidator(_channel)]
OwnerField = Annotated[str, AfterValidator(_owner)]


class Mail(BaseModel):
    """The server that sends mail."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str = Field(description="Name of the SMTP server, with a port where it is not the usual one: mail:2525.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls (port 587), tls from the first byte (465), or none (25)."
    )
    user: str | None = Field(default=None, description="User to log in as; nobody logs in if not given.")
    password: SecretStr | None = Field(
        default=None, description="Password of that user; write {{ env.NAME }}, never the password itself."
    )
    sender: AddressField = Field(description="Address that the mail comes from.")

    @field_validator("server")
    @classmethod
    def _is_server(cls, value: str) -> str:
        match = _SERVER.fullmatch(value)
        if match is None or int(match["port"] or 1) not in range(1, 65536):
            raise ValueError("write the name of a server, like smtp.example.com or smtp.example.com:2525")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Mail:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together; give both, or neither")
        if self.password is not None and self.security == "none" and self.host not in _THIS_MACHINE:
            raise ValueError("a password is never sent without encryption; choose security: starttls or tls")
        return self

    @property
    def host(self) -> str:
        """Name of the server without its port."""
        return self.server.rpartition(":")[0] if self._port else self.server

    @property
    def port(self) -> int:
        """Port of the server."""
        return int(self._port) if self._port else _PORTS[self.security]

    @property
    def _port(self) -> str | None:
        match = _SERVER.fullmatch(self.server)
        return match["port"] if match else None


class Recipients(BaseModel):
    """Who else is told, beside those whom the organization names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: tuple[AddressField, ...] = Field(default=(), description="E-mail addresses.")
    channels: tuple[ChannelField, ...] = Field(
        default=(),
        description="Apprise URLs: Slack, Teams, PagerDuty, Amazon SNS, a webhook …; write {{ env.NAME }} for what is "
        "secret in them, or for the whole URL.",
    )


class Alerts(Recipients):
    """Who is told what goes wrong in the organization, how, and how often."""

    to: tuple[AddressField, ...] = Field(
        default=(), description="E-mail addresses of administrators; the organization's owners if not given."
    )
    mail: Mail | None = Field(default=None, description="The server that sends mail; without it nobody gets any.")
    ui: str | None = Field(
        default=None, description="Address of the Dagster UI, like https://dagster.example.com, for links."
    )
    every: DurationField = Field(
        default=timedelta(minutes=15), description="How often each bucket is tried, like 15m; at least 1m."
    )
    tries: int = Field(default=3, ge=1, le=100, description="How many tries in a row must fail before anybody is told.")
    remind: DurationField = Field(
        default=timedelta(hours=24), description="When to tell again of what still goes wrong, like 24h; at least 1h."
    )

    @field_validator("every")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < timedelta(minutes=1):
            raise ValueError("write 1m or more; each try writes a small object")
        return value

    @field_validator("remind")
    @classmethod
    def _not_a_flood(cls, value: timedelta) -> timedelta:
        if value < timedelta(hours=1):
            raise ValueError("write 1h or more")
        return value

    @field_validator("ui")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not is_address(value):
            raise ValueError("write an address like https://dagster.example.com")
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise ValueError("leave credentials out of the address; it stands in every alert")
        return value.rstrip("/")


RecipientsField = Annotated[Recipients, Field(description="Who else is told when something goes wrong here.")]
AlertsField = Annotated[
    Alerts, Field(description="Who is told when a bucket can't be reached or a run has failed, and how.")
]


class Told(NamedTuple):
    """One who is told: an address, or a channel."""

    name: str
    """What it is called in logs and records: no secret, and not two of one name."""
    address: str
    channel: SecretStr | None


def told(alerts: Alerts, owners: Iterable[str], further: Iterable[Recipients], maker: str | None) -> list[Told]:
    """Return all who are told: the administrators, whoever made a delivery, and whom its project and it name.

    Args:
        alerts: Of the organization.
        owners: Of the organization, administrators where ``alerts`` names none.
        further: Of the project and of the delivery.
        maker: Who made the delivery: an address or a team.
    """
    levels = list(further)
    addresses = [*(alerts.to or owners), *(maker,) * bool(maker), *(one for level in levels for one in level.to)]
    mailed = [one for one in addresses if one and not one.startswith(TEAM)] if alerts.mail else []
    channels = [*alerts.channels, *(one for level in levels for one in level.channels)]
    return list(_named([*dict.fromkeys(mailed), *dict.fromkeys(channels)]))


def _named(everybody: Iterable[str | SecretStr]) -> Iterator[Told]:
    counts: dict[str, int] = {}
    for one in everybody:
        # All that follows the scheme may be secret, a host name too: Slack's tokens stand there.
        kind = one.get_secret_value().split("://")[0].lower() if isinstance(one, SecretStr) else _short(one)
        counts[kind] = counts.get(kind, 0) + 1
        name = kind if counts[kind] == 1 else f"{kind} ({counts[kind]})"
        yield Told(name, "", one) if isinstance(one, SecretStr) else Told(name, one, None)


def _short(address: str) -> str:
    return f"mailto {address.partition('@')[0]}@…"


def missing_mail(alerts: Alerts, places: Iterable[tuple[str, Recipients]]) -> str:
    """Return what is wrong where addresses are named but no server to send by; empty where nothing is."""
    if alerts.mail is not None:
        return ""
    named = [where for where, recipients in [("alerts", alerts), *places] if recipients.to]
    return f"{named[0]}.to names addresses, but no server sends mail to them; add alerts.mail" if named else ""
