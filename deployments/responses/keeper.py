"""`ResponseKeeper`: what may be stored, for how long, and what a next turn builds on.

The rules are functions without a database, shared with the fake of the tests; the statements are in `store.py`.
"""

import asyncio
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import cast

from deployments.clock import Clock
from deployments.errors import InvalidRequest, NotFound, PartUnavailable, QuotaExceeded
from deployments.ports import JsonValue, ResponseStatus, StoredResponse, TenantId
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import LIVE, ROW_BYTES, Link, Packed, Quota, ResponseRows, Row, State, Written

SWEEP_ROWS = 100
"""Rows that one transaction removes: nobody waits longer than that takes."""
SWEEP_BATCHES = 50
"""Transactions of one sweep; what is left then waits for the next one."""

_ATTEMPTS = 8
_MAX_ID_CHARS = 128
_FULL_RETRY_S = 60
_SILENT: JsonValue = {
    "code": "server_error",
    "message": "Whoever generated this response gave no sign of life any more. Please create it again.",
}


class ResponseKeeper:
    """Implements `ports.Responses` over the tables. Holds no state of its own: any number may share a database."""

    def __init__(self, rows: ResponseRows, clock: Clock, settings: ResponsesSettings) -> None:
        self._rows = rows
        self._clock = clock
        self._settings = settings
        self._quota = Quota(settings.max_responses_per_tenant, settings.max_bytes_per_tenant)

    async def put(self, response: StoredResponse) -> None:
        """Create or replace, unless the response is final or deleted; one whose time is over is stored no more.

        `InvalidRequest` when it is too large, `QuotaExceeded` when the tenant keeps as much as it may.
        """
        now_ms = self._clock.now_ms()
        packed = await asyncio.to_thread(pack, response, self._settings)
        row = row_of(response, packed, now_ms, self._settings)
        if row.expires_ms <= now_ms:
            return
        for _ in range(_ATTEMPTS):
            before = await self._rows.standing(row.tenant, row.response_id)
            if before is not None and before.expires_ms > now_ms and before.state not in LIVE:
                return
            written = await self._rows.put(row, before, self._quota, now_ms)
            if written is Written.DONE:
                return
            if written is Written.FULL and not await self.sweep(row.tenant):
                raise full(self._settings)
        raise PartUnavailable("The response store is too busy.")

    async def get(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """One response, or `NotFound`. One that fell silent is failed first, for everybody."""
        return await asyncio.to_thread(unpack, await self._settled(tenant, response_id))

    async def delete(self, tenant: TenantId, response_id: str) -> None:
        """Leave a tombstone, or `NotFound`."""
        if not issued(response_id):
            raise unknown(response_id)
        now_ms = self._clock.now_ms()
        for _ in range(_ATTEMPTS):
            before = await self._rows.standing(tenant, response_id)
            if before is None or before.expires_ms <= now_ms or before.state is State.DELETED:
                raise unknown(response_id)
            if await self._rows.bury(tenant, response_id, before) is Written.DONE:
                return
        raise PartUnavailable("The response store is too busy.")

    async def cancel(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """Stop a background response; a final one is answered as it is. `InvalidRequest` for any other."""
        row = await self._settled(tenant, response_id)
        check_cancellable(row)
        if row.state in LIVE:
            await self._rows.move(tenant, response_id, State.CANCELLED)
            row = await self._settled(tenant, response_id)
        return await asyncio.to_thread(unpack, row)

    async def beat(self, tenant: TenantId, response_id: str) -> bool:
        """Note a sign of life; False for a response that is final, deleted or unknown."""
        return issued(response_id) and await self._rows.beat(tenant, response_id, self._clock.now_ms())

    async def conversation(self, tenant: TenantId, response_id: str) -> Sequence[JsonValue]:
        """Items of the response and all before it, oldest first. Nothing is read before its size is known."""
        if not issued(response_id):
            raise unknown(response_id)
        now_ms = self._clock.now_ms()
        chain = await self._rows.chain(tenant, response_id, now_ms, self._settings.max_turns + 1)
        check_chain(chain, response_id, now_ms, self._settings)
        ids = [link.response_id for link in reversed(chain)]
        turns = await self._rows.turns(tenant, ids, now_ms)
        if len(turns) != len(ids):  # deleted or swept since
            raise unknown(response_id)
        return await asyncio.to_thread(join, [turns[each] for each in ids])

    async def ready(self) -> bool:
        """True when the database answers."""
        return await self._rows.ready()

    async def sweep(self, only: TenantId | None = None) -> int:
        """Remove expired rows, of one tenant or of all, at most `SWEEP_ROWS * SWEEP_BATCHES`; the number removed."""
        removed = 0
        for _ in range(SWEEP_BATCHES):
            now_ms = self._clock.now_ms()
            tenant = only or await self._rows.tenant_to_sweep(now_ms)
            gone = 0 if tenant is None else await self._rows.sweep(tenant, now_ms, SWEEP_ROWS)
            if gone == 0:
                break
            removed += gone
        return removed

    async def _settled(self, tenant: TenantId, response_id: str) -> Row:
        """The row; one that fell silent is failed on the way, unless a sign of life comes first."""
        if not issued(response_id):
            raise unknown(response_id)
        silent_ms = self._settings.silent_s * 1000
        for _ in range(_ATTEMPTS):
            now_ms = self._clock.now_ms()
            row = await self._rows.row(tenant, response_id, now_ms)
            if row is None:
                raise unknown(response_id)
            if not fell_silent(row, now_ms, self._settings):
                return row
            await self._rows.move(tenant, response_id, State.SILENT, now_ms - silent_ms)
        raise PartUnavailable("The response store is too busy.")


def issued(response_id: str) -> bool:
    """True when the store may hold this id. Others must not reach a database: it refuses some characters."""
    return len(response_id) <= _MAX_ID_CHARS and response_id.isascii() and response_id.isprintable()


def unknown(response_id: str) -> NotFound:
    """The error for an id that is unknown, deleted, expired or another tenant's: nobody can tell which."""
    shown = response_id[:_MAX_ID_CHARS].encode("utf-8", "replace").decode("utf-8")
    return NotFound(f"Response with id '{shown}' not found.")


def full(settings: ResponsesSettings) -> QuotaExceeded:
    """The error for a tenant that keeps as much as it may."""
    return QuotaExceeded(
        f"This tenant keeps as many responses as it may ({settings.max_responses_per_tenant} responses, "
        f"{settings.max_bytes_per_tenant} bytes). Delete some, or send store=false.",
        _FULL_RETRY_S,
    )


def check_cancellable(row: Row) -> None:
    """`InvalidRequest` for a response that does not run in the background, final or not."""
    if not row.background:
        raise InvalidRequest("Only a response that was created with background=true can be cancelled.", "response_id")


def fell_silent(row: Row | Link, now_ms: int, settings: ResponsesSettings) -> bool:
    """True when a background response is not final and nobody seems to generate it any more."""
    return row.background and row.state in LIVE and now_ms - row.beat_ms > settings.silent_s * 1000


def check_chain(chain: Sequence[Link], response_id: str, now_ms: int, settings: ResponsesSettings) -> None:
    """Whether a next turn may build on `chain` (newest first, at most one longer than `max_turns`).

    Raises `NotFound` for `response_id`, the one that the client named, when a turn is missing, else `InvalidRequest`.
    """
    size = 0
    for turn, link in enumerate(chain):
        if turn == settings.max_turns:
            raise _unusable(f"The conversation has more than {settings.max_turns} turns.", "request_too_large")
        if fell_silent(link, now_ms, settings) or link.state in (State.FAILED, State.SILENT):
            raise _unusable("A response that failed cannot be continued.")
        if link.state is State.CANCELLED:
            raise _unusable("A response that was cancelled cannot be continued.")
        if link.state in LIVE:
            raise _unusable("A response that is still generated cannot be continued yet.")
        size += link.turn_bytes
        if size > settings.max_conversation_bytes:
            raise _unusable(
                f"The conversation is larger than {settings.max_conversation_bytes} bytes.", "request_too_large"
            )
    if not chain or chain[-1].previous_id is not None:
        raise unknown(response_id)


def row_of(response: StoredResponse, packed: Packed, now_ms: int, settings: ResponsesSettings) -> Row:
    """The row of a response. Its time counts from its creation, so that no late writer can make it longer."""
    return Row(
        tenant=response.tenant,
        response_id=response.response_id,
        key_id=response.key_id,
        state=State(response.status.value),
        background=response.background,
        previous_id=response.previous_id,
        created_ms=response.created_ms,
        expires_ms=response.expires_ms or response.created_ms + settings.ttl_s * 1000,
        beat_ms=now_ms,
        packed=packed,
    )


def pack(response: StoredResponse, settings: ResponsesSettings) -> Packed:
    """The compressed JSON of a response; `InvalidRequest` when body and input together are too large."""
    body = dict(response.body)
    try:
        output = _dump(body["output"]) if "output" in body else b""
        if output:
            body["output"] = None  # keeps its place among the fields
        frame, given = _dump(body), _dump(list(response.input))
    except RecursionError:
        raise InvalidRequest("The request is nested too deeply to be stored. Send store=false.") from None
    size = len(frame) + len(output) + len(given)
    if size > settings.max_response_bytes:
        raise InvalidRequest(
            f"The response and its input are larger than {settings.max_response_bytes} bytes of JSON, "
            "which is more than can be stored. Send store=false.",
            None,
            "request_too_large",
        )
    return Packed(
        frame=zlib.compress(frame),
        output=zlib.compress(output),
        input=zlib.compress(given),
        turn_bytes=len(output) + len(given),
        bytes=size + ROW_BYTES,
    )


def unpack(row: Row) -> StoredResponse:
    """The response of a row. What the store decided by itself, it writes into the body now."""
    body = cast("dict[str, JsonValue]", _load(row.packed.frame))
    if "output" in body:
        body["output"] = _load(row.packed.output)
    status = ResponseStatus.FAILED if row.state is State.SILENT else ResponseStatus(row.state.value)
    if row.state in (State.SILENT, State.CANCELLED):
        body["status"] = status.value
    if row.state is State.SILENT:
        body["error"] = _SILENT
    return StoredResponse(
        response_id=row.response_id,
        tenant=row.tenant,
        key_id=row.key_id,
        status=status,
        body=body,
        input=tuple(cast("list[JsonValue]", _load(row.packed.input))),
        previous_id=row.previous_id,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        background=row.background,
    )


def join(turns: Iterable[tuple[bytes, bytes]]) -> Sequence[JsonValue]:
    """The items of compressed inputs and outputs, in order."""
    items: list[JsonValue] = []
    for given, output in turns:
        items += cast("list[JsonValue]", _load(given))
        items += cast("list[JsonValue]", _load(output) or [])
    return items


def _unusable(message: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(message, "previous_response_id", code)


def _dump(value: JsonValue) -> bytes:
    # A client may send half of a surrogate pair; it comes back as it went in.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _load(packed: bytes) -> JsonValue:
    """JSON of compressed bytes; nothing is null. `PartUnavailable` for bytes that were damaged."""
    try:
        text = zlib.decompress(packed)
        return cast(JsonValue, json.loads(text)) if text else None
    except (zlib.error, ValueError):
        raise PartUnavailable("The response store holds a row that cannot be read.") from None
