"""`KeyLedger`: who is asking, whether they may go on, and what they used."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from deployments.clock import Clock
from deployments.errors import (
    BudgetExceeded,
    InvalidRequest,
    NotFound,
    PartUnavailable,
    QuotaExceeded,
    Unauthenticated,
)
from deployments.ports import (
    LEASE_S,
    SYSTEM_TENANT,
    Audit,
    AuditEvent,
    Budget,
    BudgetState,
    Grant,
    JsonValue,
    KeyId,
    KeyRecord,
    KeySpec,
    Limit,
    LimitKind,
    ModelId,
    NewKey,
    Principal,
    RequestId,
    Served,
    TenantId,
    TenantView,
    Usage,
)
from deployments.tenancy.admission import Admission, tightest
from deployments.tenancy.budgets import ROOM, Booking, budget_of_key
from deployments.tenancy.grants import GrantWriter
from deployments.tenancy.jwks import KeySets
from deployments.tenancy.keys import PREFIX_CHARS, SECRET_CHARS, digest, generate, matches, parse, pepper_check
from deployments.tenancy.oidc import PREFIX, UNKNOWN_IDENTITY, Identities, is_token, prefix_of, record_of
from deployments.tenancy.pepper import BadPepper
from deployments.tenancy.policies import NO_TEAM, refuse_beyond, rights_of
from deployments.tenancy.prices import cost_micros
from deployments.tenancy.reports import UsageReports
from deployments.tenancy.settings import TenancySettings, TenantSettings
from deployments.tenancy.store import Became, Entry, Settled, TenancyStore, UsageTotal
from deployments.tenancy.tenant_settings import TeamPolicySettings
from deployments.tenancy.treasury import Treasury
from deployments.tenancy.views import tenant_views
from deployments.usage import Bucket, Dimension, Place, UsagePage, UsageQuery, UsageReport

INCORRECT_KEY = "Incorrect API key provided. Ask whoever runs this Gatehouse for a key."
_MOST_LEASED = 16
_MOST_UNWANTED = 10_000
_MAX_TOKENS = 10**9
"""Of one request: beyond the window of any model. What clients and upstreams say is not bounded, a column is."""
_NO_TENANT = TenantSettings()


def _stored(text: str, chars: int) -> str:
    """A client's text as any database takes it: no lone surrogate, no NUL, and no longer than its column."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:chars])


class KeyLedger:
    """Implements `ports.Ledger` over the tenancy store. Key changes are in the audit log before they take effect."""

    def __init__(
        self,
        store: TenancyStore,
        pepper: bytes,
        clock: Clock,
        audit: Audit,
        settings: TenancySettings,
        key_sets: KeySets | None = None,
        strong: ModelId | None = None,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._audit = audit
        self._settings = settings
        self._admission = Admission(settings)
        self._identities = Identities(settings.issuers, key_sets or KeySets(clock))
        self._prices = settings.prices.to_table()
        self._writer = GrantWriter(store, self._book)
        self._leases: dict[str, tuple[Grant, float]] = {}
        """Grants that nobody has opened yet, and until when, by the monotonic clock; the oldest first."""
        self._unwanted: dict[str, None] = {}
        """Names of grants that were given back before they were asked for, as far as this process knows."""
        self._reports = UsageReports(store.engine, self._prices, strong)
        self._treasury = Treasury(store, self._writer, clock, audit, settings.grant_ttl_s, self._prices.currency)

    async def open(self) -> None:
        """Create missing tables; `BadPepper` when the stored keys were made under another pepper."""
        await self._store.create_tables()
        self._admission.load(await self._store.open_grants(self._clock.now_ms() - self._settings.grant_ttl_s * 1000))
        await self._treasury.open()
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        for grant, until_ms in await self._store.leased():
            self._leases[grant.grant_id] = (grant, now_s + min(LEASE_S, (until_ms - now_ms) / 1000))
        check = pepper_check(self._pepper)
        if await self._store.remember("pepper_check", check) != check:
            raise BadPepper("file", "the stored keys were made with another one; restore it from your backup")

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a key.

        A key that is malformed, unknown, expired or revoked raises the same `Unauthenticated`: a stranger learns
        nothing about which keys exist. A token of an issuer in the settings is a key, too; `Forbidden` when none of its
        groups has rights here.
        """
        if self._identities.any and is_token(presented):
            return self._principal(await self._federated(presented))
        record = await self._lookup(presented)
        if record is None or not self._good(record):
            raise Unauthenticated(INCORRECT_KEY)
        return self._principal(record)

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        """The principals of those of the keys that are good at this moment, read from the store and no cache."""
        found = await self._store.some_keys(frozenset(key_ids)) if key_ids else []
        return [self._principal(record) for record in found if self._good(record)]

    async def tenants(self) -> Sequence[TenantView]:
        """Every tenant that the settings name or that ever had a key, by name."""
        return tenant_views(self._settings, await self._store.keys(None), self._clock.now_ms())

    async def knows(self, presented: str) -> bool:
        """True when this key was issued here, whatever became of it."""
        return await self._lookup(presented) is not None

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        """Set `tokens` aside for one generation, of which `prompt_tokens` are the prompt's.

        `BudgetExceeded` when a budget of the key, its team or its tenant does not hold them, `QuotaExceeded` when one
        of these or the model asks for too much at once or per minute; `PartUnavailable` for a `grant_id` that was
        returned before. Nothing is awaited between check and reservation: what is asked at once is counted one by one.
        """
        await self._treasury.steady()
        if grant_id in self._unwanted:
            raise PartUnavailable("Nobody waits for this grant any more.")
        self._take_back_leases()
        grant, limits = self._grant(principal, request_id, model, tokens, prompt_tokens, grant_id)
        self._writer.enter(Entry(grant))
        return replace(grant, limits=tightest(limits))

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        """At most `count` grants for requests that are still to come, while there is plenty of all that limits them.

        Near a limit every request asks for itself, so that none is refused for what others only might use.
        """
        await self._treasury.steady()
        self._take_back_leases()
        found = list[Grant]()
        for _ in range(min(count, _MOST_LEASED)):
            try:
                grant, limits = self._grant(principal, RequestId(""), model, tokens, prompt_tokens)
            except (QuotaExceeded, BudgetExceeded):
                break
            if not (self._treasury.plenty(grant) and all(_plenty(limit, grant) for limit in limits)):
                self._give_back(grant)
                break
            self._leases[grant.grant_id] = (grant, self._clock.monotonic_s() + LEASE_S)
            self._writer.enter(Entry(grant, leased_until_ms=grant.admitted_ms + int(LEASE_S * 1000)))
            found.append(replace(grant, limits=tightest(limits)))
        return found

    async def opened(self, grants: Sequence[Grant]) -> None:
        """Grants of leases are in use now, with the ids of their requests."""
        for grant in grants:
            # One that came too late is counted when it is settled; what it holds was given back.
            if self._leases.pop(grant.grant_id, None) is not None:
                opened = replace(grant, request_id=RequestId(_stored(grant.request_id, 128)))
                self._writer.enter(Entry(opened, Became.OPENED))

    async def returned(self, grants: Sequence[Grant]) -> None:
        """Grants that nobody will use. One that nobody was given here may be asked for yet, or be another process's."""
        for grant in grants:
            if self._leases.pop(grant.grant_id, None) is None:
                self._unwanted[grant.grant_id] = None
                if len(self._unwanted) > _MOST_UNWANTED:
                    del self._unwanted[next(iter(self._unwanted))]
            self._give_back(grant)
            self._writer.enter(Entry(grant, Became.RETURNED))

    def _take_back_leases(self) -> None:
        """Free what nobody opened in time; the oldest come first."""
        now_s = self._clock.monotonic_s()
        while self._leases:
            grant, until_s = next(iter(self._leases.values()))
            if until_s > now_s:
                return
            del self._leases[grant.grant_id]
            self._give_back(grant)
            self._writer.enter(Entry(grant, Became.RETURNED))

    def _give_back(self, grant: Grant) -> None:
        """Nothing of a grant was used."""
        self._admission.undo(grant.grant_id, grant.reserved_tokens)
        self._treasury.give_back(grant)

    def _grant(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int,
        grant_id: str | None = None,
    ) -> tuple[Grant, list[Limit]]:
        """A grant that is counted everywhere, and the limits that hold for it; raises as `admit`."""
        now_ms, now_ns = self._clock.now_ms(), int(self._clock.monotonic_s() * 10**9)
        tokens = min(tokens, _MAX_TOKENS)
        grant = Grant(
            grant_id=grant_id or f"grant_{secrets.token_hex(16)}",
            tenant=principal.tenant,
            key_id=principal.key_id,
            reserved_tokens=tokens,
            request_id=RequestId(_stored(request_id, 128)),  # both come from the client; the columns end there
            model=ModelId(_stored(model, 256)),
            team=principal.team,
            reserved_micros=self._prices.reserve_micros(tokens, prompt_tokens),
            admitted_ms=now_ms,
        )
        self._treasury.check(grant)  # first: this refusal is final, the other one is not
        limits = self._admission.admit(grant.grant_id, principal, grant.model, tokens, now_ms, now_ns)
        return grant, [*limits, *self._treasury.reserve(grant)]

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        """Replace the reservation by what was used; on disk when it returns, and the first settlement counts.

        The place among the unfinished requests is free at once, the tokens when the usage is on disk: after a crash the
        books then never hold more than was admitted. What was never settled is estimated at its reservation after
        `grant_ttl_s`; a settlement that comes after all takes the place of that.
        """
        self._admission.release(grant.grant_id)
        self._leases.pop(grant.grant_id, None)
        grant, usage = replace(grant, request_id=RequestId(_stored(grant.request_id, 128))), _within(usage)
        micros = cost_micros(usage, self._prices.price(served.model if served is not None else None))
        if usage.estimated and usage.output_tokens == grant.reserved_tokens and not usage.input_tokens:
            micros = min(micros, grant.reserved_micros)  # tokens that nobody has told apart
        await self._writer.settle(Settled(grant, usage, served, micros, self._clock.now_ms()))

    async def put_budget(self, budget: Budget, actor: str = "system") -> BudgetState:
        """Set a budget, in place of the one with its id; what was used in its window, and is open, counts at once.

        `NotFound` for a key that does not exist, `InvalidRequest` for one of another tenant.
        """
        if budget.key_id is not None and (await self._known(KeyId(budget.key_id))).tenant != budget.tenant:
            raise InvalidRequest(f"Key '{budget.key_id}' is not of tenant '{budget.tenant}'.", "key_id")
        return await self._treasury.put(budget, actor)

    async def remove_budget(self, budget_id: str, actor: str = "system") -> None:
        """End a budget; `NotFound` for an unknown id, `InvalidRequest` for what a key was created with."""
        await self._treasury.remove(budget_id, actor)

    async def budgets(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        """Where the budgets of a tenant, or of everybody, stand."""
        return self._treasury.states(tenant)

    async def drain(self) -> None:
        """Return when everything that was handed in is on disk."""
        await self._writer.drain()
        await self._treasury.drain()

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        """Create a key. Its text is in the answer and nowhere else; the record precedes the key."""
        if spec.tenant == SYSTEM_TENANT:
            raise InvalidRequest("The tenant 'system' is Gatehouse itself and has no keys.", "tenant")
        refuse_beyond(spec, *self._of(spec.tenant, spec.team))
        now_ms = self._clock.now_ms()
        key = generate(secrets.token_bytes(PREFIX_CHARS + SECRET_CHARS))
        record = KeyRecord(
            key_id=KeyId(f"key_{secrets.token_hex(8)}"),
            tenant=spec.tenant,
            name=spec.name,
            person=spec.person,
            scopes=spec.scopes,
            models=spec.models,
            gate_profile=spec.gate_profile,
            created_ms=now_ms,
            expires_ms=None if spec.ttl_s is None else now_ms + spec.ttl_s * 1000,
            revoked_ms=None,
            hold_s=spec.hold_s,
            budget_tokens=spec.budget_tokens,
            roles=spec.roles,
            team=spec.team,
            limits=spec.limits,
        )
        await self._record("key.created", record, actor, now_ms)
        if record.budget_tokens is not None:  # before the key is good
            self._treasury.begin(budget_of_key(record.key_id, record.tenant, record.budget_tokens))
        await self._store.add_key(record, key.prefix, digest(self._pepper, key.text))
        return NewKey(record=record, presented=key.text)

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        """All keys of a tenant, or of everybody, oldest first; revoked ones too."""
        return await self._store.keys(tenant)

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        """Revoke; a revoked key stays as it is. `NotFound` for an unknown id."""
        record = await self._known(key_id)
        if record.revoked_ms is None:
            now_ms = self._clock.now_ms()
            await self._record("key.revoked", record, actor, now_ms)
            await self._store.revoke(key_id, now_ms)
            record = await self._known(key_id)
        return record

    async def rotate_key(self, key_id: KeyId, grace_s: int, actor: str = "system") -> NewKey:
        """Give a key a new text; the old one is good for `grace_s` seconds more, and one before that no more.

        `NotFound` for an unknown id, `InvalidRequest` for a key that was revoked or has expired.
        """
        record = await self._own(key_id)
        if not self._good(record):
            raise InvalidRequest(f"Key '{key_id}' was revoked or has expired: create another one.")
        now_ms = self._clock.now_ms()
        key, until_ms = generate(secrets.token_bytes(PREFIX_CHARS + SECRET_CHARS)), now_ms + grace_s * 1000
        after = replace(record, rotated_ms=now_ms, previous_until_ms=until_ms)
        await self._record("key.rotated", after, actor, now_ms)
        if not await self._store.rotate(key_id, key.prefix, digest(self._pepper, key.text), now_ms, until_ms):
            raise InvalidRequest(f"Key '{key_id}' was revoked or has expired meanwhile.")
        return NewKey(record=after, presented=key.text)

    async def expire_key(self, key_id: KeyId, in_s: int | None, actor: str = "system") -> KeyRecord:
        """Let a key end `in_s` seconds from now, or never; `NotFound`, or `InvalidRequest` for a revoked one."""
        record = await self._own(key_id)
        if record.revoked_ms is not None:
            raise InvalidRequest(f"Key '{key_id}' was revoked, and stays so.")
        now_ms = self._clock.now_ms()
        after = replace(record, expires_ms=None if in_s is None else now_ms + in_s * 1000)
        await self._record("key.expiry_changed", after, actor, now_ms)
        await self._store.expire(key_id, after.expires_ms)
        return await self._known(key_id)

    async def usage(self, tenant: TenantId | None) -> Sequence[UsageTotal]:
        """Totals per key and model."""
        return await self._store.usage(tenant)

    async def usage_report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        """Totals, and what routing saved; `InvalidRequest` when there would be too many lines."""
        return await self._reports.report(query, by, bucket)

    async def usage_rows(
        self, query: UsageQuery, after: Place | None = None, complete_ms: int | None = None, limit: int = 500
    ) -> UsagePage:
        """Rows after a place, as far as no earlier one can still come, and not beyond `complete_ms`."""
        complete = self._writer.complete_ms(self._clock.now_ms())
        return await self._reports.rows(
            query, after, complete if complete_ms is None else min(complete, complete_ms), limit
        )

    async def ready(self) -> bool:
        """True when the store answers."""
        try:
            await self._store.ping()
        except SQLAlchemyError:
            return False
        return True

    def _book(self, booking: Booking) -> None:
        """Follow the books: what was used takes the place of what was set aside."""
        self._treasury.book(booking)
        self._admission.correct(booking.grant.grant_id, booking.grant.reserved_tokens, booking.cost.tokens)

    async def _federated(self, presented: str) -> KeyRecord:
        """What the ledger has of the identity behind a token, which it meets for the first time or brings up to date.

        The record in the audit log precedes the rights here, too. Revoking the identity ends all its tokens, those that
        are still to come as well.
        """
        identity, issuer = await self._identities.verify(presented)
        now_ms = self._clock.now_ms()
        said = record_of(identity, issuer, now_ms)
        known = await self._store.key(said.key_id)
        if known is None:
            await self._record("key.created", said, said.key_id, now_ms)
            try:
                await self._store.add_key(said, prefix_of(said.key_id), b"")
            except IntegrityError:  # another request with the same token was first
                known = await self._known(said.key_id)
            else:
                return said
        if known.revoked_ms is not None:
            raise Unauthenticated(UNKNOWN_IDENTITY)
        now = replace(said, created_ms=known.created_ms, limits=known.limits, budget_tokens=known.budget_tokens)
        if replace(known, expires_ms=now.expires_ms) != now:
            await self._record("key.changed", now, now.key_id, now_ms)
            await self._store.change_key(now)
        elif (known.expires_ms or 0) < (now.expires_ms or 0):
            await self._store.expire(now.key_id, now.expires_ms)
        return now

    async def _own(self, key_id: KeyId) -> KeyRecord:
        """A key that was made here, and not an identity whose issuer says what it looks like and how long it lives."""
        record = await self._known(key_id)
        if key_id.startswith(PREFIX):
            raise InvalidRequest(
                f"'{key_id}' is an identity of {record.name}: it can be revoked here, and nothing else."
            )
        return record

    async def _known(self, key_id: KeyId) -> KeyRecord:
        record = await self._store.key(key_id)
        if record is None:
            raise NotFound(f"No key '{key_id}'.")
        return record

    def _good(self, record: KeyRecord) -> bool:
        """True for a key that is neither revoked nor expired."""
        expired = record.expires_ms is not None and record.expires_ms <= self._clock.now_ms()
        return record.revoked_ms is None and not expired

    def _of(self, tenant: TenantId, team: str | None) -> tuple[TenantSettings, TeamPolicySettings]:
        """What is written down of a tenant and of a team of it; the defaults for what is not named."""
        found = self._settings.tenants.get(tenant, _NO_TENANT)
        return found, NO_TEAM if team is None else found.teams.get(team, NO_TEAM)

    def _principal(self, record: KeyRecord) -> Principal:
        tenant, team = self._of(record.tenant, record.team)
        rights = rights_of(record.models, record.gate_profile, tenant, team)
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
            share=tenant.share.to_share(),
        )

    async def _lookup(self, presented: str) -> KeyRecord | None:
        """The record of a key whose secret is right.

        The digest is computed and compared in every case, so the answer takes as long for an unknown prefix.
        """
        key = parse(presented)
        found = None if key is None else await self._store.key_by_prefix(key.prefix, self._clock.now_ms())
        record, stored = found or (None, bytes(32))
        return record if matches(self._pepper, presented, stored) else None

    async def _record(self, name: str, record: KeyRecord, actor: str, now_ms: int) -> None:
        data: dict[str, JsonValue] = {
            "key_id": record.key_id,
            "key_name": record.name,
            "person": record.person,
            "scopes": [*sorted(record.scopes)],
            "models": None if record.models is None else [*sorted(record.models)],
            "gate_profile": record.gate_profile.value,
            "expires_ms": record.expires_ms,
            "hold_s": record.hold_s,
            "budget_tokens": record.budget_tokens,
            "roles": [*sorted(record.roles)],
            "team": record.team,
            "requests_per_minute": record.limits.requests_per_minute,
            "tokens_per_minute": record.limits.tokens_per_minute,
            "concurrent_requests": record.limits.concurrent_requests,
            "previous_until_ms": record.previous_until_ms,
        }
        # A fresh id per attempt: when the store fails after the record, the second attempt is a second event.
        event_id = f"{name}:{record.key_id}:{secrets.token_hex(8)}"
        await self._audit.append([AuditEvent(event_id, name, now_ms, record.tenant, actor, data=data)])


def _plenty(limit: Limit, grant: Grant) -> bool:
    """True when a limit has room for many more requests of this size."""
    return limit.remaining >= ROOM * (max(1, grant.reserved_tokens) if limit.kind is LimitKind.TOKENS else 1)


def _within(usage: Usage) -> Usage:
    """The usage in numbers that the columns and their sums can hold; less than nothing is nothing."""
    return Usage(
        input_tokens=min(max(0, usage.input_tokens), _MAX_TOKENS),
        cached_tokens=min(max(0, usage.cached_tokens), _MAX_TOKENS),
        output_tokens=min(max(0, usage.output_tokens), _MAX_TOKENS),
        reasoning_tokens=min(max(0, usage.reasoning_tokens), _MAX_TOKENS),
        estimated=usage.estimated,
    )
