"""Who may begin now: requests that are open at once, and requests and tokens per minute.

A limit belongs to a key, to a team, to a whole tenant, or to one model of a tenant; a request must fit into all that
hold for it. One process counts: nothing is awaited between the checks and the counting, so what is asked at the same
moment is counted one by one. A restart forgets the minutes, not the open requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from deployments.errors import QuotaExceeded
from deployments.ports import KeyId, Limit, LimitKind, ModelId, Principal, RateLimits, TenantId
from deployments.tenancy.rates import Rate
from deployments.tenancy.settings import RateLimitSettings, TenancySettings, TenantSettings

_MOST_RATES = 10_000
_MOST_UNSETTLED = 100_000
_LONGEST_WAIT_S = 60
"""Clients are never asked to wait longer (wire contract, section 7)."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever a limit belongs to. `name` is unique and says what it is: `key key_1`, `tenant acme`."""

    name: str
    limits: RateLimits


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A grant that was not settled when an earlier process ended."""

    grant_id: str
    bearers: tuple[str, ...]
    created_ms: int


def bearer_names(key_id: KeyId, tenant: TenantId, team: str | None, model: ModelId) -> tuple[str, ...]:
    """The key, its team, its tenant, and the model in that tenant."""
    of_team = () if team is None else (f"team {tenant}/{team}",)
    return (f"key {key_id}", *of_team, f"tenant {tenant}", f"model {model} of tenant {tenant}")


def bearers(principal: Principal, model: ModelId, settings: TenancySettings) -> list[Bearer]:
    """The same with their limits."""
    tenant = settings.tenants.get(principal.tenant, TenantSettings())
    own, none = principal.limits, RateLimitSettings()
    if own.concurrent_requests is None:
        own = replace(own, concurrent_requests=settings.max_concurrent_requests)
    of_team = () if principal.team is None else (tenant.teams.get(principal.team, none).to_limits(),)
    limits = (own, *of_team, tenant.limits.to_limits(), tenant.models.get(model, none).to_limits())
    names = bearer_names(principal.key_id, principal.tenant, principal.team, model)
    return [Bearer(name, limit) for name, limit in zip(names, limits, strict=True)]


class Occupancy:
    """Open requests per bearer. What nobody settles stops counting after `ttl_ms`."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._open: dict[str, dict[str, int]] = {}
        self._bearers: dict[str, tuple[str, ...]] = {}

    def load(self, requests: Sequence[OpenRequest]) -> None:
        """Take over what an earlier process left open, oldest first."""
        for each in requests:
            self._count(each.grant_id, each.bearers, each.created_ms)

    def open(self, bearer: str, now_ms: int) -> int:
        """How many requests of a bearer are open."""
        mine = self._open.get(bearer)
        if mine is None:
            return 0
        oldest_ms = now_ms - self._ttl_ms
        for stale, _ in list(takewhile(lambda each: each[1] <= oldest_ms, mine.items())):
            self.remove(stale)
        return len(mine)

    def add(self, grant_id: str, names: Sequence[str], now_ms: int) -> None:
        """Count a request for every one of its bearers."""
        self._count(grant_id, tuple(names), now_ms)

    def remove(self, grant_id: str) -> None:
        """Stop counting a request; unknown ones are none."""
        for name in self._bearers.pop(grant_id, ()):
            mine = self._open.get(name)
            if mine is not None:
                mine.pop(grant_id, None)
                if not mine:
                    del self._open[name]

    def _count(self, grant_id: str, names: tuple[str, ...], at_ms: int) -> None:
        self._bearers[grant_id] = names
        for name in names:
            self._open.setdefault(name, {})[grant_id] = at_ms


class Admission:
    """Checks and counts requests against all limits that hold for them."""

    def __init__(self, settings: TenancySettings) -> None:
        self._settings = settings
        self._occupancy = Occupancy(settings.grant_ttl_s * 1000)
        self._rates: dict[tuple[str, LimitKind], Rate] = {}
        self._most_rates = _MOST_RATES
        self._taken: dict[str, tuple[Rate, ...]] = {}
        """By grant: the limits on tokens that its reservation was counted in."""
        self._asked: dict[str, tuple[Rate, ...]] = {}
        """By grant: the limits on requests that it was counted in."""

    def load(self, requests: Sequence[OpenRequest]) -> None:
        """Take over the open requests of an earlier process, oldest first."""
        self._occupancy.load(requests)

    def admit(
        self, grant_id: str, principal: Principal, model: ModelId, tokens: int, now_ms: int, now_ns: int
    ) -> list[Limit]:
        """Count one request more, with `tokens`; all limits that hold for it, this request included.

        Raises `QuotaExceeded` for the first one that it would go beyond; then it counts nowhere.
        """
        self._forget_idle(now_ns)
        asked = [(bearer, self._rates_of(bearer, tokens)) for bearer in bearers(principal, model, self._settings)]
        for bearer, rates in asked:
            self._check(bearer, rates, now_ms, now_ns)
        self._occupancy.add(grant_id, [bearer.name for bearer, _ in asked], now_ms)
        found, taken, counted = list[Limit](), list[Rate](), list[Rate]()
        for bearer, rates in asked:
            at_once = bearer.limits.concurrent_requests
            if at_once is not None:
                found.append(Limit(LimitKind.REQUESTS, at_once, at_once - self._occupancy.open(bearer.name, now_ms), 0))
            for kind, rate, amount in rates:
                rate.take(amount, now_ns)
                found.append(_standing(kind, rate, now_ns))
                (taken if kind is LimitKind.TOKENS else counted).append(rate)
        for kept, mine in ((self._taken, taken), (self._asked, counted)):
            if mine:
                kept[grant_id] = tuple(mine)
                if len(kept) > _MOST_UNSETTLED:  # what nobody ever settles stays counted as it was set aside
                    del kept[next(iter(kept))]
        return found

    def release(self, grant_id: str) -> None:
        """The request is over: it is open no more."""
        self._occupancy.remove(grant_id)

    def correct(self, grant_id: str, reserved: int, used: int) -> None:
        """Count what was used in the place of what was set aside, once."""
        for rate in self._taken.pop(grant_id, ()):
            rate.give_back(reserved - used)
        self._asked.pop(grant_id, None)

    def undo(self, grant_id: str, reserved: int) -> None:
        """The request was never made: it counts nowhere any more."""
        self.release(grant_id)
        for rate in self._asked.pop(grant_id, ()):
            rate.give_back(1)
        self.correct(grant_id, reserved, 0)

    def _check(self, bearer: Bearer, rates: Sequence[tuple[LimitKind, Rate, int]], now_ms: int, now_ns: int) -> None:
        at_once = bearer.limits.concurrent_requests
        if at_once is not None and self._occupancy.open(bearer.name, now_ms) >= at_once:
            raise QuotaExceeded(
                f"Concurrency limit of {at_once} requests reached for {bearer.name}. Please try again in 1s.",
                1,
                Limit(LimitKind.REQUESTS, at_once, 0, 1),
            )
        for kind, rate, amount in rates:
            wait_ns = rate.wait_ns(amount, now_ns)
            if wait_ns:
                wait_s = min(_LONGEST_WAIT_S, -(-wait_ns // 10**9))
                limit = _standing(kind, rate, now_ns)
                raise QuotaExceeded(
                    f"Rate limit of {rate.per_minute} {kind.value} per minute reached for {bearer.name}: "
                    f"{limit.remaining} left, {amount} asked for. Please try again in {wait_s}s.",
                    wait_s,
                    limit,
                )

    def _rates_of(self, bearer: Bearer, tokens: int) -> list[tuple[LimitKind, Rate, int]]:
        """The limits per minute of a bearer, and how much of each a request takes."""
        found = list[tuple[LimitKind, Rate, int]]()
        for kind, per_minute, amount in (
            (LimitKind.REQUESTS, bearer.limits.requests_per_minute, 1),
            (LimitKind.TOKENS, bearer.limits.tokens_per_minute, tokens),
        ):
            if per_minute is not None:
                rate = self._rates.setdefault((bearer.name, kind), Rate(per_minute))
                rate.per_minute = per_minute
                found.append((kind, rate, amount))
        return found

    def _forget_idle(self, now_ns: int) -> None:
        """What is full again is as good as new; there may be as many bearers as keys were ever made."""
        if len(self._rates) >= self._most_rates:
            for name in [name for name, rate in self._rates.items() if rate.free_ns <= now_ns]:
                del self._rates[name]
            self._most_rates = max(_MOST_RATES, 2 * len(self._rates))  # not looked through again for every request


def _standing(kind: LimitKind, rate: Rate, now_ns: int) -> Limit:
    return Limit(kind, rate.per_minute, rate.remaining(now_ns), rate.reset_s(now_ns))


def tightest(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """Of each kind the limit with the least left, requests first."""
    kinds = (LimitKind.REQUESTS, LimitKind.TOKENS)
    by_kind = [[each for each in limits if each.kind is kind] for kind in kinds]
    return tuple(min(each, key=lambda limit: limit.remaining) for each in by_kind if each)
