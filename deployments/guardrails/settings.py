"""Settings of guardrails. Off by default, and then nothing is looked at."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.guardrails import pii, secrets
from deployments.guardrails.values import Action

_NOT_IN_OUTPUT: Final = "an answer cannot be kept local: it is here already"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DetectorSettings(_Model):
    """What is done about what a detector finds: off, tag, mask, keep_local (only in the input) or block."""

    input: Action = Field(default=Action.OFF, strict=False, description="In what goes to a model, tools' results too.")
    output: Action = Field(
        default=Action.OFF, strict=False, description="In what a model says, its reasoning and calls too."
    )
    kinds: tuple[str, ...] | None = Field(
        default=None, strict=False, description="What is looked for; null: everything the detector knows."
    )

    @field_validator("output")
    @classmethod
    def _here_already(cls, action: Action) -> Action:
        if action is Action.KEEP_LOCAL:
            raise ValueError(_NOT_IN_OUTPUT)
        return action


class PiiSettings(DetectorSettings):
    """Personal data with a shape: addresses of e-mail, telephone numbers, cards, IBANs, numbers that states give."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _only(kinds, pii.KINDS)


class SecretSettings(DetectorSettings):
    """Keys of providers, private keys, tokens, and values behind names like `password`."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _only(kinds, secrets.KINDS)


class InjectionSettings(_Model):
    """Orders in other people's text. Whatever is done about them, they make the conversation untrusted.

    So a router that floors such turns and a gate that raises their calls do so.
    """

    input: Action = Field(default=Action.OFF, strict=False, description="off, tag, keep_local or block.")

    @field_validator("input")
    @classmethod
    def _not_masked(cls, action: Action) -> Action:
        if action is Action.MASK:
            raise ValueError("orders cannot be masked: nobody knows where they end")
        return action


class NameSettings(_Model):
    """Names of people, places and the like, found by Presidio with a spaCy model; an optional library."""

    input: Action = Field(default=Action.OFF, strict=False, description="off, tag, mask, keep_local or block.")
    model: str = Field(
        default="en_core_web_lg", min_length=1, description="An installed spaCy model, or the folder of one. Nothing "
        "is fetched.",
    )  # fmt: skip
    language: str = Field(default="en", pattern=r"^[a-z]{2}$", description="The model's language.")
    entities: tuple[str, ...] = Field(
        default=("PERSON", "LOCATION"),
        strict=False,
        min_length=1,
        description="Presidio's names of what is looked for.",
    )
    min_score: float = Field(default=0.6, ge=0, le=1, description="Findings below it do not count.")


class ProfileSettings(_Model):
    """The guardrails of a tenant."""

    required: bool = Field(
        default=False, description="A detector that fails, runs out of time or is not installed refuses the request. "
        "Off: it is let by, logged and counted.",
    )  # fmt: skip
    budget_ms: Annotated[int, Field(ge=10, le=60_000)] = Field(
        default=2000, description="How long looking at one request may take, whatever its size."
    )
    pii: PiiSettings = PiiSettings()
    secrets: SecretSettings = SecretSettings()
    names: NameSettings = NameSettings()
    injection: InjectionSettings = InjectionSettings()

    @model_validator(mode="after")
    def _required_of_something(self) -> "ProfileSettings":
        actions = (self.pii.input, self.pii.output, self.secrets.input, self.secrets.output,
                   self.names.input, self.injection.input)  # fmt: skip
        if self.required and all(action is Action.OFF for action in actions):
            raise ValueError("`required` needs a detector that is on")
        return self


class GuardrailSettings(_Model):
    """What is looked for in requests and answers, and what is done about it."""

    default: ProfileSettings = Field(default=ProfileSettings(), description="Of tenants that are not named.")
    tenants: dict[str, ProfileSettings] = Field(
        default_factory=dict, description="Per tenant, all of it: nothing is taken over from the default."
    )

    def of(self, tenant: str) -> ProfileSettings:
        """The profile of a tenant."""
        return self.tenants.get(tenant, self.default)


def _only(kinds: tuple[str, ...] | None, known: tuple[str, ...]) -> tuple[str, ...] | None:
    unknown = sorted(set(kinds or ()) - set(known))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; there is {', '.join(known)}")
    return kinds
