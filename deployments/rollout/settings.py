"""Settings of the rollout controller."""

from typing import Annotated, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from deployments.rollouts import MOST_CASES


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
            regex.compile(value)
        except regex.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value


class EvalSettings(BaseModel):
    """The evaluation of a revision before it gets traffic: the same cases are asked of it and of the one before."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    suite: str | None = Field(
        default=None,
        description="A file with one case a line (docs/rollout.md), also relative to the installation. Not set: no "
        "revision is evaluated.",
    )
    cases: Annotated[int, Field(ge=1, le=MOST_CASES)] | Literal["all"] = Field(
        default=40, description="How many cases are asked of both revisions where a rollout says nothing of it."
    )
    parallel: int = Field(default=2, ge=1, le=64, description="How many cases are asked at one time.")
    timeout_s: float = Field(default=120.0, gt=0, le=3_600, description="The longest answer to a case.")
    min_pass: float = Field(
        default=0.0, ge=0, le=1, description="The share of the cases that a revision must pass, whatever the one "
        "before does. 0: it only must not be worse.",
    )  # fmt: skip


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
    eval: EvalSettings = Field(
        default=EvalSettings(), description="The cases that a revision and the one before are compared by."
    )
