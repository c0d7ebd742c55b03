"""`InMemoryLedger`: the ledger port without a database, hashing or an audit log."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from deployments.clock import Clock, FixedClock
from deployments.errors import NotFound, QuotaExceeded, Unauthenticated
from deployments.ports import (
    GateProfile,
    Grant,
    KeyId,
    KeyRecord,
    KeySpec,
    ModelId,
    NewKey,
    Principal,
    RequestId,
    Scope,
    TenantId,
    Usage,
)


class InMemoryLedger:
    """Implements `ports.Ledger`. `settled` holds the usage per grant id; set `full` to refuse every admission."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or FixedClock()
        self._numbers = count(1)
        self.keys: dict[str, KeyRecord] = {}
        self.grants: dict[str, Grant] = {}
        self.settled: dict[str, Usage] = {}
        self.actors: list[str] = []
        self.full = False
        self.is_ready = True

    def add_key(
        self,
        presented: str,
        *scopes: Scope,
        tenant: str = "acme",
        person: str | None = None,
        models: frozenset[ModelId] | None = None,
        gate_profile: GateProfile = GateProfile.OPS,
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
        )
        self.keys[presented] = record
        return _principal(record)

    async def authenticate(self, presented: str) -> Principal:
        record = self.keys.get(presented)
        now_ms = self._clock.now_ms()
        if record is None or record.revoked_ms is not None:
            raise Unauthenticated("Incorrect API key provided.")
        if record.expires_ms is not None and record.expires_ms <= now_ms:
            raise Unauthenticated("Incorrect API key provided.")
        return _principal(record)

    async def admit(self, principal: Principal, request_id: RequestId, model: ModelId, tokens: int) -> Grant:
        if self.full:
            raise QuotaExceeded("Too many requests at once for this key. Please try again in 1s.", 1)
        grant = Grant(f"grant_{next(self._numbers)}", principal.tenant, principal.key_id, tokens, request_id, model)
        self.grants[grant.grant_id] = grant
        return grant

    async def settle(self, grant: Grant, usage: Usage) -> None:
        self.settled.setdefault(grant.grant_id, usage)

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        presented = f"gh-fake{next(self._numbers)}"
        self.add_key(presented, *spec.scopes, tenant=spec.tenant, person=spec.person, models=spec.models)
        now_ms = self._clock.now_ms()
        record = replace(
            self.keys[presented],
            name=spec.name,
            gate_profile=spec.gate_profile,
            expires_ms=None if spec.ttl_s is None else now_ms + spec.ttl_s * 1000,
        )
        self.keys[presented] = record
        self.actors.append(actor)
        return NewKey(record, presented)

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        return [record for record in self.keys.values() if tenant is None or record.tenant == tenant]

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        for presented, record in self.keys.items():
            if record.key_id == key_id:
                self.keys[presented] = replace(record, revoked_ms=record.revoked_ms or self._clock.now_ms())
                self.actors.append(actor)
                return self.keys[presented]
        raise NotFound(f"No key '{key_id}'.")

    async def ready(self) -> bool:
        return self.is_ready


def _principal(record: KeyRecord) -> Principal:
    return Principal(
        tenant=record.tenant,
        key_id=record.key_id,
        person=record.person,
        scopes=record.scopes,
        models=record.models,
        gate_profile=record.gate_profile,
    )
