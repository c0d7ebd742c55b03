"""`InMemoryResponses`: the port of stored responses without a database, by the same rules."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.clock import Clock, FixedClock
from deployments.errors import PartUnavailable
from deployments.ports import JsonValue, StoredResponse, TenantId
from deployments.responses.keeper import (
    check_cancellable,
    check_chain,
    fell_silent,
    full,
    issued,
    join,
    pack,
    row_of,
    unknown,
    unpack,
)
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import LIVE, ROW_BYTES, Link, Packed, Row, State

_NOTHING = Packed(b"", b"", b"", 0, ROW_BYTES)


class InMemoryResponses:
    """Implements `ports.Responses`. `down` fails every call; `rows` holds tombstones, too, as long as they last."""

    def __init__(self, clock: Clock | None = None, settings: ResponsesSettings | None = None) -> None:
        self._clock = clock or FixedClock()
        self._settings = settings or ResponsesSettings()
        self.rows: dict[tuple[TenantId, str], Row] = {}
        self.down = False

    async def put(self, response: StoredResponse) -> None:
        now_ms = self._now()
        row = row_of(response, pack(response, self._settings), now_ms, self._settings)
        before = self.rows.get((row.tenant, row.response_id))
        if row.expires_ms <= now_ms or (before is not None and before.state not in LIVE):
            return
        others = [each for each in self.rows.values() if each.tenant == row.tenant and each is not before]
        kept = sum(each.state is not State.DELETED for each in others) + 1
        size = sum(each.packed.bytes for each in others) + row.packed.bytes
        grown = row.packed.bytes > (0 if before is None else before.packed.bytes)
        if before is None and kept > self._settings.max_responses_per_tenant:
            raise full(self._settings)
        if grown and size > self._settings.max_bytes_per_tenant:
            raise full(self._settings)
        self.rows[row.tenant, row.response_id] = row

    async def get(self, tenant: TenantId, response_id: str) -> StoredResponse:
        return unpack(self._row(tenant, response_id))

    async def delete(self, tenant: TenantId, response_id: str) -> None:
        row = self._row(tenant, response_id)
        self.rows[tenant, response_id] = replace(row, state=State.DELETED, packed=_NOTHING)

    async def cancel(self, tenant: TenantId, response_id: str) -> StoredResponse:
        row = self._row(tenant, response_id)
        check_cancellable(row)
        if row.state in LIVE:
            row = self.rows[tenant, response_id] = replace(row, state=State.CANCELLED)
        return unpack(row)

    async def beat(self, tenant: TenantId, response_id: str) -> bool:
        now_ms = self._now()
        row = self.rows.get((tenant, response_id))
        if row is None or row.state not in LIVE:
            return False
        self.rows[tenant, response_id] = replace(row, beat_ms=now_ms)
        return True

    async def conversation(self, tenant: TenantId, response_id: str) -> Sequence[JsonValue]:
        now_ms = self._now()
        chain: list[Row] = []
        row = self.rows.get((tenant, response_id))
        while row is not None and row.state is not State.DELETED and len(chain) <= self._settings.max_turns:
            chain.append(row)
            row = self.rows.get((tenant, row.previous_id)) if row.previous_id is not None else None
        check_chain([_link(each) for each in chain], response_id, now_ms, self._settings)
        return join((each.packed.input, each.packed.output) for each in reversed(chain))

    async def ready(self) -> bool:
        return not self.down

    def _now(self) -> int:
        """The time, with everything removed that has expired by now."""
        if self.down:
            raise PartUnavailable("The response store does not answer.")
        now_ms = self._clock.now_ms()
        self.rows = {key: row for key, row in self.rows.items() if row.expires_ms > now_ms}
        return now_ms

    def _row(self, tenant: TenantId, response_id: str) -> Row:
        now_ms = self._now()
        row = self.rows.get((tenant, response_id))
        if not issued(response_id) or row is None or row.state is State.DELETED:
            raise unknown(response_id)
        if fell_silent(row, now_ms, self._settings):
            row = self.rows[tenant, response_id] = replace(row, state=State.SILENT)
        return row


def _link(row: Row) -> Link:
    return Link(row.response_id, row.previous_id, row.state, row.background, row.beat_ms, row.packed.turn_bytes)
