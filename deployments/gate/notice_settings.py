"""Settings of the messages that the gate sends: whom, of what, and how long it tries."""

from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind: TypeAlias = Literal[
    "approval.requested",
    "approval.planned",
    "approval.granted",
    "approval.reopened",
    "approval.rejected",
    "approval.expired",
    "approval.cancelled",
    "approval.stale",
    "bypass.attempted",
    "principal.frozen",
    "principal.unfrozen",
    "incident.opened",
]
KINDS: tuple[Kind, ...] = Kind.__args__
_LOCAL = ("localhost", "127.0.0.1", "::1")
_Kinds = Annotated[tuple[Kind, ...], Field(min_length=1, strict=False)]  # YAML has lists


class _Receiver(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    events: _Kinds = Field(default=KINDS, description="Which events it hears of.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="An answer that takes longer is a failure.")


class Webhook(_Receiver):
    """An HTTPS endpoint that gets each message as a POST, signed by the Standard Webhooks specification."""

    url: str = Field(description="Where to; https, or http to this machine.")
    secret_file: str = Field(description="File with the shared secret: `whsec_` and base64 of 24 to 64 bytes.")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            raise ValueError("a webhook is an https address, or http to this machine")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise ValueError("a webhook's address has a host, and no credentials in it")
        return self


class Command(_Receiver):
    """A program that gets each message as JSON on its standard input; status 0 means that it has taken it."""

    argv: tuple[str, ...] = Field(min_length=1, strict=False, description="The program and its arguments; no shell.")


class NoticeSettings(BaseModel):
    """Who is told what waits for approval, and what was attempted. Nobody by default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    webhooks: dict[Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9_-]{0,31}\z")], Webhook] = Field(
        default={}, description="Webhooks by name."
    )
    commands: dict[Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9_-]{0,31}\z")], Command] = Field(
        default={}, description="Command hooks by name."
    )
    give_up_s: int = Field(default=86_400, ge=60, le=7 * 86_400, description="A message not taken by then has failed.")
    late_s: int = Field(default=60, ge=5, le=3600, description="A message that waits longer is a problem of the queue.")

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = self.webhooks.keys() & self.commands.keys()
        if twice:
            raise ValueError(f"a webhook and a command have the same name: {', '.join(sorted(twice))}")
        return self

    @property
    def receivers(self) -> dict[str, Webhook | Command]:
        """Everybody who is told, by name."""
        return {**self.webhooks, **self.commands}
