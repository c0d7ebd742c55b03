"""What a tenant may do beside its limits: values that ports carry."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.limits import RateLimits, Share


@dataclass(frozen=True, slots=True)
class Egress:
    """Which models that are not on the premises a tenant's words may reach; `models` None: every one."""

    models: frozenset[str] | None = frozenset()

    def allows(self, model: str) -> bool:
        """True when words may leave the premises for `model`. Of a local model it says nothing."""
        return self.models is None or model in self.models


NO_EGRESS = Egress()
ALL_EGRESS = Egress(None)


@dataclass(frozen=True, slots=True)
class TeamView:
    """A team as an administrator sees it. `models` are what its keys may use at most, None: all that are served.

    `keys` counts those that are neither revoked nor expired.
    """

    team: str
    models: frozenset[str] | None
    limits: RateLimits
    keys: int


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant as an administrator sees it: what holds for it, whether it was written down or is the default.

    `configured`: the settings name it. `models` as of a team; `gate_profile` is the least strict one of any of its
    keys. `model_limits` are by the name that clients ask for, `routing` what the settings change of the routing policy.
    `keys` counts those that are neither revoked nor expired, those of no team too.
    """

    tenant: str
    configured: bool
    keys: int
    models: frozenset[str] | None
    gate_profile: str
    egress: Egress
    limits: RateLimits
    share: Share
    teams: tuple[TeamView, ...] = ()
    model_limits: Mapping[str, RateLimits] = field(default_factory=dict[str, RateLimits])
    routing: Mapping[str, object] = field(default_factory=dict[str, object])
