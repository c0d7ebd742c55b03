"""Settings of the policy gate."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.gate.name_settings import TenantGateSettings
from deployments.gate.notice_settings import NoticeSettings
from deployments.rollouts import UNNAMED

Bypass: TypeAlias = Literal[
    "held_call_executed",
    "denied_call_executed",
    "self_approval",
    "digest_mismatch",
    "permit_invalid",
    "permit_unknown",
    "permit_replayed",
    "permit_expired",
    "permit_mismatch",
]

# The runbook's INC-04 is an attempt to execute without approval. In are the kinds in which something was executed, or
# would have been, that nobody had allowed, and that no correct client does by mistake: a call that was never released
# has a result; a permit is forged, used twice, or used for another call.
# Out are those that execute nothing and happen to honest people: a vote on one's own call or on an older rendering,
# a permit id mistyped or come too late. They are refused, recorded and open an incident all the same.
FREEZE_ON: tuple[Bypass, ...] = (
    "held_call_executed",
    "denied_call_executed",
    "permit_invalid",
    "permit_replayed",
    "permit_mismatch",
)


class CandidateSettings(BaseModel):
    """A second bundle that is live: it judges the sessions that a rollout gives it, and nobody's without one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bundle: str = Field(min_length=1, description="The candidate's bundle, by file.")
    revision: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="What `gatehouse rollout register --kind policy` prints for its file, or for the folder of a "
        "bundle of several files. What lies there must be exactly that.",
    )


class GateSettings(BaseModel):
    """Which policy judges calls, and how long a request for approval lives. No setting opens anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bundle: str = Field(default="configs/policies/default.yaml", description="The policy bundle, by file.")
    bundle_key: str | None = Field(
        default=None, description="An Ed25519 public key (PEM file): only a bundle that it has signed loads."
    )
    revision: str = Field(
        default=UNNAMED,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="What rollouts and their records call the bundle.",
    )
    candidate: CandidateSettings | None = Field(
        default=None, description="A second bundle, for the sessions that a rollout of a policy gives it."
    )
    shadow_bundle: str | None = Field(
        default=None, description="A bundle that judges every call beside the live one, and decides nothing."
    )
    approval_ttl_s: int = Field(
        default=3600, ge=60, le=7 * 86_400, description="A request not granted by then expires."
    )
    audit_timeout_s: float = Field(default=2.0, gt=0, le=2.0, description="No record in this time: no transition.")
    report_timeout_s: int = Field(
        default=900, ge=60, le=86_400, description="A released call that is not reported by then opens an incident."
    )
    sweep_s: float = Field(
        default=15.0, ge=1.0, le=300.0, description="How often expired requests and unreported calls are looked for."
    )
    freeze_on: Annotated[tuple[Bypass, ...], Field(strict=False)] = Field(
        default=FREEZE_ON, description="Attempts to bypass the gate after which none of the key's tool calls leave."
    )
    ledger_timeout_s: float = Field(
        default=2.0, gt=0, le=5.0, description="No answer about the voters' keys in this time: nothing is released."
    )
    tenants: dict[str, TenantGateSettings] = Field(
        default_factory=dict[str, TenantGateSettings],
        description="Per tenant: names of its own that are production, sensitive or of a class. They only raise.",
    )
    notices: NoticeSettings = Field(default=NoticeSettings(), description="Who is told of what waits and happens.")

    @model_validator(mode="after")
    def _two_are_told_apart(self) -> "GateSettings":
        if self.candidate is not None and self.candidate.revision == self.revision:
            raise ValueError("candidate: its revision is the one of the bundle that is in force")
        return self


@dataclass(frozen=True, slots=True)
class Running:
    """What a deployment runs, for its records of what has changed. Digests are SHA-256 hex.

    `change_id` is the change that rolled it out, where somebody named one.
    """

    config_digest: str | None = None
    profile: str | None = None
    models: tuple[str, ...] = ()
    version: str | None = None
    change_id: str | None = None
