"""Settings of the rollout controller."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator


class SmokePrompt(BaseModel):
    """A prompt that a revision must answer. `expects`: a regular expression that must be found in the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9_.-]{0,63}\z")]
    prompt: str = Field(min_length=1, max_length=16_384)
    expects: str = Field(min_length=1, max_length=1_024)
    max_tokens: int = Field(default=512, ge=1, le=8_192)

    @field_validator("expects")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error.msg}") from None
        return value


class RolloutSettings(BaseModel):
    """How rollouts are driven."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tick_s: float = Field(default=5.0, gt=0, le=600, description="Pause between two looks at the open rollouts.")
    artefact_key: str | None = Field(
        default=None, description="Ed25519 public key in PEM; only artefacts that it has signed are rolled out."
    )
    smoke_timeout_s: float = Field(default=120.0, gt=0, le=3_600, description="The longest answer to a smoke prompt.")
    smoke_prompts: Annotated[tuple[SmokePrompt, ...], Field(strict=False, min_length=1, max_length=200)] = Field(
        default=(SmokePrompt(name="arithmetic", prompt="What is 2 + 2? Answer with the number.", expects=r"\b4\b"),),
        description="What a revision of a model must answer before it gets traffic.",
    )
