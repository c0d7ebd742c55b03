"""Settings of the policy gate."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class GateSettings(BaseModel):
    """Which policy judges calls, and how long a request for approval lives. No setting opens anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bundle: str = Field(default="configs/policies/default.yaml", description="The policy bundle, by file.")
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
