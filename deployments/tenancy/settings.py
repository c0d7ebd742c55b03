"""Settings of the ledger."""

from pydantic import BaseModel, ConfigDict, Field


class TenantSettings(BaseModel):
    """What holds for every key of a tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    egress: bool = Field(default=False, description="Prompts may leave the premises, to an upstream that is not local.")


class TenancySettings(BaseModel):
    """Limits of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_concurrent_requests: int = Field(default=64, ge=1, description="Unfinished requests a key may have at once.")
    grant_ttl_s: int = Field(
        default=3_600,
        ge=1,
        description="A request that was never settled stops counting as unfinished after this. Tokens that were set "
        "aside for it stay out of its key's budget.",
    )
    tenants: dict[str, TenantSettings] = Field(
        default_factory=dict, description="Per tenant; one that is not named has the defaults."
    )
    audit_timeout_s: float = Field(default=2.0, gt=0, description="Deadline of an audit acknowledgement.")
