"""Settings of the policy gate."""

from pydantic import BaseModel, ConfigDict, Field


class GateSettings(BaseModel):
    """Which policy judges calls, and how long a request for approval lives. No setting opens anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bundle: str = Field(default="configs/policies/default.yaml", description="The policy bundle, by file.")
    approval_ttl_s: int = Field(
        default=3600, ge=60, le=7 * 86_400, description="A request not granted by then expires."
    )
    audit_timeout_s: float = Field(default=2.0, gt=0, le=2.0, description="No record in this time: no transition.")
