"""Settings of the ledger."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.ports import Priority, RateLimits, Share
from deployments.tenancy.oidc_settings import IssuerSettings
from deployments.tenancy.prices import PriceSettings
from deployments.tenancy.tenant_settings import TeamPolicySettings, TenantPolicySettings

MOST_PER_MINUTE = 10**9


class RateLimitSettings(BaseModel):
    """Limits of a team, of a tenant or of a model; null: none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: int | None = Field(default=None, ge=1, le=MOST_PER_MINUTE)
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=MOST_PER_MINUTE,
        description="Input and output; what is asked for counts until it is known.",
    )
    concurrent_requests: int | None = Field(default=None, ge=1, le=MOST_PER_MINUTE)

    def to_limits(self) -> RateLimits:
        """The same, as the ledger counts them."""
        return RateLimits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests)


class ShareSettings(BaseModel):
    """A tenant's part of a model that is saturated; where nobody waits, everybody gets all they ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    weight: int = Field(default=100, ge=1, le=1000, description="Tokens are given in proportion to it.")
    priority: Priority = Field(default=Priority.NORMAL, strict=False, description="How urgent its requests are.")

    def to_share(self) -> Share:
        """The same, as engines count it."""
        return Share(self.weight, self.priority)


class TeamSettings(RateLimitSettings, TeamPolicySettings):
    """What holds for every key of a team: its limits, of all its keys together, and what they may do."""


class TenantSettings(TenantPolicySettings):
    """What holds for every key of a tenant."""

    limits: RateLimitSettings = Field(default=RateLimitSettings(), description="Of all keys of the tenant together.")
    share: ShareSettings = ShareSettings()
    teams: dict[str, TeamSettings] = Field(
        default_factory=dict,
        description="What holds for a team beside that; one that is not named has no limits of its own.",
    )
    models: dict[str, RateLimitSettings] = Field(
        default_factory=dict, description="Of a model as it is asked for (`auto` is one), all keys together."
    )


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
    prices: PriceSettings = Field(
        default=PriceSettings(), description="What tokens cost, for budgets of money and for reports of usage."
    )
    issuers: tuple[IssuerSettings, ...] = Field(
        default=(),
        strict=False,
        description="Issuers of OpenID Connect whose tokens are taken in place of virtual keys.",
    )
    audit_timeout_s: float = Field(default=2.0, gt=0, description="Deadline of an audit acknowledgement.")

    @field_validator("issuers")
    @classmethod
    def _told_apart(cls, issuers: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
        names = [each.issuer for each in issuers]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"issuers are listed twice: {', '.join(sorted(twice))}")
        return issuers
