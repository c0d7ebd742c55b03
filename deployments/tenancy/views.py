"""Tenants as an administrator sees them: what was written down, what holds by default, and how many keys there are."""

from collections import Counter
from collections.abc import Sequence

from deployments.ports import KeyRecord, TeamView, TenantView
from deployments.tenancy.policies import allowed
from deployments.tenancy.settings import TeamSettings, TenancySettings, TenantSettings

_NO_TENANT, _NO_TEAM = TenantSettings(), TeamSettings()


def tenant_views(settings: TenancySettings, keys: Sequence[KeyRecord], now_ms: int) -> list[TenantView]:
    """Every tenant that the settings name or that ever had a key, by name; so the teams of each.

    Keys count while they are neither revoked nor expired.
    """
    good = [key for key in keys if key.revoked_ms is None and (key.expires_ms is None or key.expires_ms > now_ms)]
    by_tenant = Counter(str(key.tenant) for key in good)
    by_team = Counter((str(key.tenant), key.team) for key in good)
    teams: dict[str, set[str]] = {}
    for key in keys:
        if key.team is not None:
            teams.setdefault(key.tenant, set()).add(key.team)
    names = sorted({*settings.tenants, *(key.tenant for key in keys)})
    return [_view(name, settings, by_tenant[name], teams.get(name, set()), by_team) for name in names]


def _view(
    name: str, settings: TenancySettings, keys: int, teams: set[str], by_team: Counter[tuple[str, str | None]]
) -> TenantView:
    tenant = settings.tenants.get(name, _NO_TENANT)
    return TenantView(
        tenant=name,
        configured=name in settings.tenants,
        keys=keys,
        models=allowed(tenant),
        gate_profile=tenant.gate_profile.value,
        egress=tenant.to_egress(),
        limits=tenant.limits.to_limits(),
        share=tenant.share.to_share(),
        teams=tuple(_team(name, team, tenant, by_team[name, team]) for team in sorted({*tenant.teams, *teams})),
        model_limits={model: limits.to_limits() for model, limits in sorted(tenant.models.items())},
        routing=tenant.routing.model_dump(mode="json", exclude_defaults=True),
    )


def _team(name: str, team: str, tenant: TenantSettings, keys: int) -> TeamView:
    settings = tenant.teams.get(team, _NO_TEAM)
    return TeamView(team=team, models=allowed(tenant, settings), limits=settings.to_limits(), keys=keys)
