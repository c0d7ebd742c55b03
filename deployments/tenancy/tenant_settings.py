"""Settings of what a tenant may do: models, gate profile, egress, and its overlay over the routing policy."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator

from deployments.ports import ALL_EGRESS, NO_EGRESS, Effort, Egress, GateProfile, Tier
from router.policy import FAILURES_RANGE
from router.tenants import TenantRouting

MODEL_NAME = r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\z"

_Model = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
# A tuple and not a set: the digest of a configuration must not depend on the order of a set's members.
_Models: TypeAlias = Annotated[tuple[_Model, ...], Field(min_length=1, max_length=64, strict=False)]
_Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


class BoundSettings(BaseModel):
    """A floor or a ceiling; null: none on this axis."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tier: Tier | None = Field(default=None, strict=False)
    effort: Effort | None = Field(default=None, strict=False)


class EscalationSettings(BaseModel):
    """From where on a turn is given more; null: as the routing policy has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    failures: Annotated[float, Field(ge=FAILURES_RANGE[0], le=FAILURES_RANGE[1], strict=False)] | None = Field(
        default=None,
        description="Evidence from which on an attempt on 20b has failed; a failed tool call or test is 1.",
    )
    large_lines: _Count | None = Field(default=None, description="Changed lines of a large review.")
    large_files: _Count | None = Field(default=None, description="Changed files of a large review.")
    risky_lines: _Count | None = Field(default=None, description="Changed lines at a risky path of a risky review.")


class RoutingSettings(BaseModel):
    """What is different for a tenant in the routing policy. No setting lowers a safety floor.

    A turn that a safety floor gives to a tier above the ceiling is refused; any other one gets the ceiling's tier.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    floor: BoundSettings = Field(default=BoundSettings(), description="No turn gets less, whatever its caller names.")
    ceiling: BoundSettings = Field(default=BoundSettings(), description="No turn gets more, whatever its caller names.")
    default_effort: Effort | None = Field(
        default=None, strict=False, description="For turns whose caller names none and whose task has none of its own."
    )
    cascade: bool = Field(default=True, description="Requests may ask for a verified cascade, where the ingress does.")
    escalation: EscalationSettings = EscalationSettings()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        floor, ceiling = self.floor, self.ceiling
        if floor.tier is not None and ceiling.tier is not None and floor.tier.rank > ceiling.tier.rank:
            raise ValueError("floor.tier lies above ceiling.tier")
        efforts = [each for each in (floor.effort, self.default_effort, ceiling.effort) if each is not None]
        if efforts != sorted(efforts, key=lambda effort: effort.rank):
            raise ValueError("floor.effort, default_effort and ceiling.effort must not fall")
        return self

    def to_routing(self) -> TenantRouting:
        """The same, as the router reads it."""
        return TenantRouting(
            floor_tier=self.floor.tier,
            floor_effort=self.floor.effort,
            ceiling_tier=self.ceiling.tier,
            ceiling_effort=self.ceiling.effort,
            default_effort=self.default_effort,
            cascade=self.cascade,
            failures=self.escalation.failures,
            large_lines=self.escalation.large_lines,
            large_files=self.escalation.large_files,
            risky_lines=self.escalation.risky_lines,
        )


class TeamPolicySettings(BaseModel):
    """What every key of a team, or of a tenant, may do at most."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    allowed_models: _Models | None = Field(
        default=None, description="Models that its keys may use at most; a key's own list narrows it. Null: no limit."
    )


class TenantPolicySettings(TeamPolicySettings):
    """The same of a whole tenant, and what holds for nothing smaller."""

    gate_profile: GateProfile = Field(
        default=GateProfile.OBSERVE,
        strict=False,
        description="The least strict gate profile of its keys (observe, coding, ops): what says less has this one.",
    )
    egress: StrictBool | Literal["none", "all"] | _Models = Field(
        default=False,
        description="To which models that are not local prompts may go: none (false), all (true), or a list of them.",
    )
    routing: RoutingSettings = RoutingSettings()

    def to_egress(self) -> Egress:
        """The egress rule."""
        match self.egress:
            case True | "all":
                return ALL_EGRESS
            case False | "none":
                return NO_EGRESS
            case models:
                return Egress(frozenset(models))
