"""`InMemoryLedger`: the ledger port without a database, hashing or an audit log."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from deployments.clock import Clock
from deployments.errors import BudgetExceeded, InvalidRequest, NotFound, QuotaExceeded, Unauthenticated
from deployments.ports import (
    Budget,
    BudgetState,
    GateProfile,
    Grant,
    KeyId,
    KeyRecord,
    KeySpec,
    Limit,
    LimitKind,
    ModelId,
    NewKey,
    Principal,
    RequestId,
    Scope,
    Served,
    TenantId,
    TenantView,
    Usage,
)
from deployments.tenancy.policies import NO_TEAM, refuse_beyond, rights_of
from deployments.tenancy.settings import TenancySettings, TenantSettings
from deployments.tenancy.tenant_settings import TeamPolicySettings
from deployments.tenancy.views import tenant_views
from deployments.tenancy.windows import window_of
from tests.fakes_usage import InMemoryUsage


class InMemoryLedger(InMemoryUsage):
    """Implements `ports.Ledger`. `settled` holds the usage per grant id; set `full` to refuse every admission.

    A key may have `max_requests` open grants, and a budget if it was made with one. `settings` say what tenants may do.
    """

    def __init__(self, clock: Clock | None = None, max_requests: int = 64) -> None:
        self.max_requests = max_requests
        super().__init__(clock)
        self._numbers = count(1)
        self.keys: dict[str, KeyRecord] = {}
        self.grants: dict[str, Grant] = {}
        self.settled: dict[str, Usage] = {}
        self.served: dict[str, Served] = {}
        self.prompt_tokens: list[int] = []
        self.kept_budgets: dict[str, Budget] = {}
        self.actors: list[str] = []
        self.full = False
        self.settings = TenancySettings()
        self.is_ready = True

    def add_key(
        self,
        presented: str,
        *scopes: Scope,
        tenant: str = "acme",
        person: str | None = None,
        models: frozenset[ModelId] | None = None,
        gate_profile: GateProfile = GateProfile.OPS,
        hold_s: int = 0,
        budget_tokens: int | None = None,
        roles: frozenset[str] = frozenset(),
        team: str | None = None,
    ) -> Principal:
        """Make `presented` a valid key; no scope given means inference."""
        record = KeyRecord(
            key_id=KeyId(f"key_{next(self._numbers)}"),
            tenant=TenantId(tenant),
            name=presented,
            person=person,
            scopes=frozenset(scopes or (Scope.INFERENCE,)),
            models=models,
            gate_profile=gate_profile,
            created_ms=self._clock.now_ms(),
            expires_ms=None,
            revoked_ms=None,
            hold_s=hold_s,
            budget_tokens=budget_tokens,
            roles=roles,
            team=team,
        )
        self.keys[presented] = record
        return self._principal(record)

    async def authenticate(self, presented: str) -> Principal:
        record = self.keys.get(presented)
        if record is None or not self._good(record):
            raise Unauthenticated("Incorrect API key provided.")
        return self._principal(record)

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        mine = [grant for grant in self.grants.values() if grant.key_id == principal.key_id]
        waiting = [grant for grant in mine if grant.grant_id not in self.settled]
        limits = list[Limit]()
        budget = self._budget(principal.key_id)
        if budget is not None:
            spent = [self.settled[grant.grant_id] for grant in mine if grant.grant_id in self.settled]
            used = sum(usage.input_tokens + usage.output_tokens for usage in spent)
            remaining = budget - used - sum(grant.reserved_tokens for grant in waiting) - tokens
            if remaining < 0:
                raise BudgetExceeded(
                    f"Budget exceeded for key {principal.key_id}: used {used} of {budget} tokens, "
                    f"this request may need {tokens}; the budget does not reset."
                )
            limits.append(Limit(LimitKind.TOKENS, budget, remaining, 0))
        if self.full or len(waiting) >= self.max_requests:
            reached = Limit(LimitKind.REQUESTS, self.max_requests, 0, 1)
            raise QuotaExceeded("Too many requests at once for this key. Please try again in 1s.", 1, reached)
        limits.insert(0, Limit(LimitKind.REQUESTS, self.max_requests, self.max_requests - len(waiting) - 1, 0))
        grant = Grant(
            grant_id=grant_id or f"grant_{next(self._numbers)}",
            tenant=principal.tenant,
            key_id=principal.key_id,
            reserved_tokens=tokens,
            request_id=request_id,
            model=model,
            limits=tuple(limits),
            team=principal.team,
            admitted_ms=self._clock.now_ms(),
        )
        self.prompt_tokens.append(prompt_tokens)
        self.grants[grant.grant_id] = grant
        return grant

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        """None: what leases are is tested with the real ledger."""
        return []

    async def opened(self, grants: Sequence[Grant]) -> None:
        raise AssertionError("there are no leases")

    async def returned(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self.grants.pop(grant.grant_id, None)

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        self.settled.setdefault(grant.grant_id, usage)
        self.write(grant, usage, served)
        if served is not None:
            self.served.setdefault(grant.grant_id, served)

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        refuse_beyond(spec, *self._of(spec.tenant, spec.team))
        presented = f"gh-fake{next(self._numbers)}"
        self.add_key(presented, *spec.scopes, tenant=spec.tenant, person=spec.person, models=spec.models)
        now_ms = self._clock.now_ms()
        record = replace(
            self.keys[presented],
            name=spec.name,
            gate_profile=spec.gate_profile,
            hold_s=spec.hold_s,
            budget_tokens=spec.budget_tokens,
            roles=spec.roles,
            team=spec.team,
            limits=spec.limits,
            expires_ms=None if spec.ttl_s is None else now_ms + spec.ttl_s * 1000,
        )
        self.keys[presented] = record
        self.actors.append(actor)
        return NewKey(record, presented)

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        return [record for record in self.keys.values() if tenant is None or record.tenant == tenant]

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        return [
            self._principal(record) for record in self.keys.values() if record.key_id in key_ids and self._good(record)
        ]

    async def tenants(self) -> Sequence[TenantView]:
        return tenant_views(self.settings, [*self.keys.values()], self._clock.now_ms())

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        presented, record = self._find(key_id)
        self.keys[presented] = replace(record, revoked_ms=record.revoked_ms or self._clock.now_ms())
        self.actors.append(actor)
        return self.keys[presented]

    async def rotate_key(self, key_id: KeyId, grace_s: int, actor: str = "system") -> NewKey:
        """The old text stops working at once, whatever the grace: what that means is tested with the real ledger."""
        old, record = self._find(key_id)
        if not self._good(record):
            raise InvalidRequest(f"Key '{key_id}' is not good any more.")
        del self.keys[old]
        now_ms, presented = self._clock.now_ms(), f"gh-fake{next(self._numbers)}"
        self.keys[presented] = replace(record, rotated_ms=now_ms, previous_until_ms=now_ms + grace_s * 1000)
        self.actors.append(actor)
        return NewKey(self.keys[presented], presented)

    async def expire_key(self, key_id: KeyId, in_s: int | None, actor: str = "system") -> KeyRecord:
        presented, record = self._find(key_id)
        if record.revoked_ms is not None:
            raise InvalidRequest(f"Key '{key_id}' was revoked.")
        self.keys[presented] = replace(record, expires_ms=None if in_s is None else self._clock.now_ms() + in_s * 1000)
        self.actors.append(actor)
        return self.keys[presented]

    async def put_budget(self, budget: Budget, actor: str = "system") -> BudgetState:
        """Kept and shown; what it means is tested with the real ledger."""
        if budget.key_id is not None:
            self._find(KeyId(budget.key_id))
        self.kept_budgets[budget.budget_id] = budget
        self.actors.append(actor)
        return self._standing(budget)

    async def remove_budget(self, budget_id: str, actor: str = "system") -> None:
        if self.kept_budgets.pop(budget_id, None) is None:
            raise NotFound(f"No budget '{budget_id}'.")
        self.actors.append(actor)

    async def budgets(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        found = [each for each in self.kept_budgets.values() if tenant is None or each.tenant == tenant]
        return [self._standing(each) for each in found]

    async def ready(self) -> bool:
        return self.is_ready

    def _standing(self, budget: Budget) -> BudgetState:
        return BudgetState(budget, *window_of(budget, self._clock.now_ms()), 0, 0)

    def _find(self, key_id: KeyId) -> tuple[str, KeyRecord]:
        for presented, record in self.keys.items():
            if record.key_id == key_id:
                return presented, record
        raise NotFound(f"No key '{key_id}'.")

    def _good(self, record: KeyRecord) -> bool:
        expired = record.expires_ms is not None and record.expires_ms <= self._clock.now_ms()
        return record.revoked_ms is None and not expired

    def _budget(self, key_id: KeyId) -> int | None:
        return next((record.budget_tokens for record in self.keys.values() if record.key_id == key_id), None)

    def _of(self, tenant: TenantId, team: str | None) -> tuple[TenantSettings, TeamPolicySettings]:
        found = self.settings.tenants.get(tenant, TenantSettings())
        return found, NO_TEAM if team is None else found.teams.get(team, NO_TEAM)

    def _principal(self, record: KeyRecord) -> Principal:
        rights = rights_of(record.models, record.gate_profile, *self._of(record.tenant, record.team))
        return Principal(
            tenant=record.tenant,
            key_id=record.key_id,
            person=record.person,
            scopes=record.scopes,
            models=rights.models,
            gate_profile=rights.gate_profile,
            egress=rights.egress,
            hold_s=record.hold_s,
            roles=record.roles,
            team=record.team,
            limits=record.limits,
        )
