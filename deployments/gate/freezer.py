"""Frozen keys: none of their tool calls leave, none of their votes or permits count, until an operator releases them.

A key is frozen by policy after an attempt to bypass the gate (`aftermath.py`), in the transaction that records the
attempt, or by a human here. Freezing and releasing are told with the change, so neither is ever without its record.
"""

import secrets
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Protocol, cast

from sqlalchemy import Executable, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import Clock
from deployments.errors import ApprovalConflict, Forbidden, NotFound
from deployments.gate.aftermath_store import Consequence
from deployments.gate.bodies import body_of
from deployments.gate.database import fetch, insert_once
from deployments.gate.display import escaped
from deployments.gate.holders import Holders
from deployments.gate.schema import frozen_keys
from deployments.gate.states import MAX_CHANGE_ID
from deployments.ports import (
    AuditEvent,
    Body,
    BodyField,
    Frozen,
    JsonValue,
    Keeps,
    KeyId,
    Principal,
    Scope,
    TenantId,
)

MANUAL = "manual"
FROZEN = (
    "principal_frozen: this key was frozen after an attempt to bypass the gate, so none of its tool calls is released. "
    "An administrator can release it."
)
MAX_REASON = 256
MAX_LISTED = 10_000


class Says(Protocol):
    """Makes changes with their record: `Aftermath.say`."""

    def __call__(self, event: AuditEvent, *changes: Executable) -> Awaitable[bool]:
        """False, and nothing of it, when somebody was faster."""
        ...


def freezing(
    engine: AsyncEngine,
    frozen: Frozen,
    reporter: str | None = None,
    bodies: Mapping[BodyField, Body] | None = None,
) -> Consequence:
    """The key is frozen, if it is not, with the record that says so.

    `reporter` is the key of the human who froze it, and `bodies` hold that human's words.
    """
    row = insert_once(
        engine,
        frozen_keys,
        key_id=frozen.key_id,
        tenant=frozen.tenant,
        kind=frozen.kind,
        reason=frozen.reason,
        since_ms=frozen.since_ms,
    )
    event = AuditEvent(
        event_id=f"{frozen.key_id}.frozen.{secrets.token_hex(8)}",
        name="principal.frozen",
        at_ms=frozen.since_ms,
        tenant=frozen.tenant,
        principal=frozen.key_id if reporter is None else reporter,
        data={"key_id": frozen.key_id, "kind": frozen.kind, **({"reason": frozen.reason} if reporter is None else {})},
        bodies=bodies or {},
    )
    return Consequence(event, (row,))


class Freezer:
    """Who is frozen, and the two moves that humans make. `GateUnavailable` when the store does not answer."""

    def __init__(self, engine: AsyncEngine, say: Says, holders: Holders, clock: Clock, keeps: Keeps) -> None:
        self._engine = engine
        self._say = say
        self._holders = holders
        self._clock = clock
        self._keeps = keeps

    async def is_frozen(self, key_id: KeyId) -> bool:
        """True when nothing of this key may leave."""
        return bool(await self.which([key_id]))

    async def check(self, key_id: KeyId) -> None:
        """Raise `Forbidden` for a frozen key."""
        if await self.is_frozen(key_id):
            raise Forbidden(FROZEN)

    async def which(self, key_ids: Collection[KeyId]) -> frozenset[KeyId]:
        """Those of the keys that are frozen."""
        if not key_ids:
            return frozenset()
        query = select(frozen_keys.c.key_id).where(frozen_keys.c.key_id.in_(key_ids))
        return frozenset(KeyId(str(row.key_id)) for row in await fetch(self._engine, query))

    async def frozen(self) -> Sequence[Frozen]:
        """The frozen keys, the newest first; at most 10,000."""
        query = select(frozen_keys).order_by(frozen_keys.c.since_ms.desc(), frozen_keys.c.key_id)
        return await self._rows(query.limit(MAX_LISTED))

    async def count(self) -> int:
        """How many keys are frozen."""
        query = select(func.count().label("many")).select_from(frozen_keys)
        return int((await fetch(self._engine, cast("Select[tuple[object, ...]]", query)))[0].many)

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        """Freeze a good key; one that is frozen stays as it is.

        `Forbidden` unless the key administers, or approves in the other's tenant; `NotFound` for a key that is not good
        or that it does not see.
        """
        if not principal.scopes & {Scope.APPROVE, Scope.ADMIN}:
            raise Forbidden("This key may not freeze keys: it neither approves calls nor administers.")
        holder = (await self._holders.of([key_id])).get(key_id)
        if holder is None or (Scope.ADMIN not in principal.scopes and principal.tenant != holder.tenant):
            raise NotFound("There is no such key, or it is good no more.")
        text = escaped(reason).replace("\n", "\\n")[:MAX_REASON]
        made = Frozen(key_id, holder.tenant, MANUAL, text, self._clock.now_ms())
        consequence = freezing(self._engine, made, principal.key_id, self._words(reason, holder.tenant))
        if await self._say(consequence.event, *consequence.changes):
            return made
        return await self._one(key_id) or made

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        """Release a frozen key under a change id. `Forbidden` for all but administrators, and for one's own key."""
        if Scope.ADMIN not in principal.scopes:
            raise Forbidden(f"This key does not have the scope '{Scope.ADMIN.value}'.")
        if principal.key_id == key_id:
            raise Forbidden("A key cannot release itself: another administrator must.")
        if not change_id.strip() or len(change_id) > MAX_CHANGE_ID:
            raise ApprovalConflict("A change id is needed, of at most 128 characters.")
        known = await self._one(key_id)
        if known is None:
            raise NotFound("This key is not frozen.")
        fields: dict[str, JsonValue] = {"key_id": key_id, "change_id": change_id, "reporter": principal.person}
        event = AuditEvent(
            event_id=f"{key_id}.unfrozen.{secrets.token_hex(8)}",
            name="principal.unfrozen",
            at_ms=self._clock.now_ms(),
            tenant=known.tenant,
            principal=principal.key_id,
            data=fields,
            bodies=self._words(reason, known.tenant),
        )
        gone = delete(frozen_keys).where(frozen_keys.c.key_id == key_id, frozen_keys.c.since_ms == known.since_ms)
        if not await self._say(event, gone):
            raise ApprovalConflict("The key has just been released or frozen by somebody else: look at it again.")

    async def _one(self, key_id: KeyId) -> Frozen | None:
        found = await self._rows(select(frozen_keys).where(frozen_keys.c.key_id == key_id))
        return found[0] if found else None

    async def _rows(self, query: "Select[tuple[object, ...]]") -> list[Frozen]:
        return [
            Frozen(
                key_id=KeyId(str(row.key_id)),
                tenant=TenantId(str(row.tenant)),
                kind=str(row.kind),
                reason=str(row.reason),
                since_ms=int(row.since_ms),
            )
            for row in await fetch(self._engine, query)
        ]

    def _words(self, reason: str, tenant: TenantId) -> dict[BodyField, Body]:
        return {BodyField.REASON: body_of(reason, tenant, self._keeps)} if reason else {}
