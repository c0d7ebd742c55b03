"""What a key may do within its tenant and its team, and whether what was written down of them fits together. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deployments.errors import InvalidRequest
from deployments.ports import Egress, GateProfile, KeySpec, ModelId, Tier
from deployments.tenancy.settings import TenantSettings
from deployments.tenancy.tenant_settings import TeamPolicySettings, TenantPolicySettings
from router.tenants import TenantRouting

STRICTNESS: Final = (GateProfile.OBSERVE, GateProfile.CODING, GateProfile.OPS)
"""The gate profiles, the least strict one first: `observe` holds nothing, `ops` judges everything by the table."""

NO_TEAM: Final = TeamPolicySettings()


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key may do. `models` None: all that are served."""

    models: frozenset[ModelId] | None
    gate_profile: GateProfile
    egress: Egress


@dataclass(frozen=True, slots=True)
class TierModel:
    """A model of the configuration: its name, its tier if the router chooses it, whether it is on the premises."""

    model: str
    tier: Tier | None
    local: bool


def stricter(one: GateProfile, other: GateProfile) -> GateProfile:
    """The stricter of two profiles."""
    return max(one, other, key=STRICTNESS.index)


def allowed(tenant: TenantPolicySettings, team: TeamPolicySettings = NO_TEAM) -> frozenset[ModelId] | None:
    """What any key of the tenant, or of a team of it, may use at most; None: all."""
    own, teams = (
        None if each.allowed_models is None else frozenset(map(ModelId, each.allowed_models)) for each in (tenant, team)
    )
    return _narrowed(own, teams)


def rights_of(
    models: frozenset[ModelId] | None,
    gate_profile: GateProfile,
    tenant: TenantPolicySettings,
    team: TeamPolicySettings = NO_TEAM,
) -> Rights:
    """What is left of what a key says of itself: never more than its tenant and its team allow.

    Looked at whenever the key is: a key that was made before a limit was set does not escape it.
    """
    most = allowed(tenant, team)
    return Rights(
        models=_narrowed(most, models),
        gate_profile=stricter(gate_profile, tenant.gate_profile),
        egress=tenant.to_egress(),
    )


def refuse_beyond(spec: KeySpec, tenant: TenantPolicySettings, team: TeamPolicySettings = NO_TEAM) -> None:
    """Raise `InvalidRequest` for a new key that asks for more than it could ever have."""
    most = allowed(tenant, team)
    beyond = sorted((spec.models or frozenset()) - most) if most is not None else []
    whose = f"tenant '{spec.tenant}'" if spec.team is None else f"team '{spec.team}' of tenant '{spec.tenant}'"
    if beyond:
        raise InvalidRequest(f"Keys of {whose} may not use the model '{beyond[0]}'.", "models")
    if stricter(spec.gate_profile, tenant.gate_profile) is not spec.gate_profile:
        raise InvalidRequest(
            f"Keys of tenant '{spec.tenant}' have at least the gate profile '{tenant.gate_profile.value}'.",
            "gate_profile",
        )


def routings(tenants: Mapping[str, TenantPolicySettings], served: Sequence[TierModel]) -> dict[str, TenantRouting]:
    """By tenant, what is different in the routing policy; tenants for whom nothing is are left out.

    Where the larger tier is not served at all, nobody has a ceiling: the policy itself says what becomes of turns that
    need it (`without_strong`).
    """
    found: dict[str, TenantRouting] = {}
    has_strong = any(each.tier is Tier.STRONG for each in served)
    for name, tenant in tenants.items():
        routing = tenant.routing.to_routing()
        if not has_strong:
            routing = replace(routing, ceiling_tier=None)
        if routing != TenantRouting():
            found[name] = routing
    return found


def faults(tenants: Mapping[str, TenantSettings], served: Sequence[TierModel]) -> Iterator[str]:
    """Everything that does not fit together, one sentence each.

    A name that nothing has is refused rather than ignored: it would take away what it was meant to give.
    """
    names = {each.model for each in served}
    for name, tenant in tenants.items():
        where = f"tenancy.tenants.{name}"
        most = allowed(tenant)
        yield from _unknown(f"{where}.allowed_models", tenant.allowed_models or (), names)
        if not isinstance(tenant.egress, bool | str):
            yield from _unknown(f"{where}.egress", tenant.egress, names)
        for team, settings in tenant.teams.items():
            at = f"{where}.teams.{team}.allowed_models"
            yield from _unknown(at, settings.allowed_models or (), names)
            for model in settings.allowed_models or ():
                if most is not None and model not in most:
                    yield f"{at}: the tenant itself may not use {model!r}"
        yield from _out_of_reach(where, tenant, served, most)


def _narrowed(one: frozenset[ModelId] | None, other: frozenset[ModelId] | None) -> frozenset[ModelId] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _out_of_reach(
    where: str, tenant: TenantPolicySettings, served: Sequence[TierModel], most: frozenset[ModelId] | None
) -> Iterator[str]:
    """Bounds of the routing that leave nothing that the tenant may use."""
    floor, ceiling = tenant.routing.floor.tier, tenant.routing.ceiling.tier
    if floor is Tier.STRONG and not any(each.tier is Tier.STRONG for each in served):
        yield f"{where}.routing.floor.tier: no model serves {floor.value}"
    usable = [each.tier for each in served if each.tier is not None and (most is None or each.model in most)]
    if most is None or not usable:
        return
    if floor is Tier.STRONG and Tier.STRONG not in usable:
        yield f"{where}.routing.floor.tier: allowed_models has no model of {floor.value}"
    if ceiling is Tier.BASE and Tier.BASE not in usable:
        yield f"{where}.routing.ceiling.tier: allowed_models has no model of {ceiling.value}"


def _unknown(where: str, models: Iterable[str], names: set[str]) -> Iterator[str]:
    for model in models:
        if model not in names:
            yield f"{where}: no model is called {model!r}"
