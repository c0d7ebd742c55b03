"""The witness over HTTP: C2SP tlog-witness (`POST /add-checkpoint`), and what an auditor may read of its state.

One small ASGI application of its own: a witness runs on another machine than the log, best under another owner, and
has nothing of Gatehouse but this.
"""

import asyncio
from collections.abc import Callable
from typing import assert_never

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deployments.audit.notes import encode_base64
from deployments.audit.witness import (
    ADD_CHECKPOINT,
    MAX_REQUEST_BYTES,
    SIZE_TYPE,
    Cosigned,
    OtherSize,
    Reason,
    Refused,
    Witness,
    WitnessFailed,
    log_id,
)
from deployments.clock import Clock

_STATUS = {
    Reason.MALFORMED: 400,
    Reason.UNKNOWN_KEY: 403,
    Reason.UNKNOWN_LOG: 404,
    Reason.INCONSISTENT: 422,
}


async def _body(request: Request) -> bytes | None:
    """The body, or None when it is too large; no more of it is read then."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_REQUEST_BYTES:
            return None
    return bytes(data)


def create_witness_app(witness: Witness, clock: Clock, on_failure: Callable[[], None]) -> Starlette:
    """The application. `on_failure` is called once the state cannot be written: a fresh process must read it back."""

    async def add_checkpoint(request: Request) -> Response:
        data = await _body(request)
        if data is None:
            return PlainTextResponse(f"A request has at most {MAX_REQUEST_BYTES} bytes.\n", 413)
        try:
            # In a thread: it waits for the disk. A caller that leaves does not stop it half-way.
            answer = await asyncio.to_thread(witness.add_checkpoint, data)
        except WitnessFailed as error:
            on_failure()
            return PlainTextResponse(f"{error}\n", 503)
        match answer:
            case Cosigned(signatures):
                return PlainTextResponse("".join(signature.line() for signature in signatures))
            case OtherSize(size):
                # The type is spelled as it stands in the specification, without a charset.
                return Response(f"{size}\n", 409, {"content-type": SIZE_TYPE})
            case Refused(reason, detail):
                return PlainTextResponse(f"{detail}\n", _STATUS[reason])
        assert_never(answer)

    async def status(_: Request) -> Response:
        logs = [
            {
                "origin": state.origin,
                "id": log_id(state.origin),
                "size": state.size,
                "root": encode_base64(state.root),
                "cosigned_at_ms": state.cosigned_ms,
                "refused": state.refused,
            }
            for state in await asyncio.to_thread(witness.status)
        ]
        body = {"key": str(witness.verifier), "at_ms": clock.now_ms(), "failure": witness.failure, "logs": logs}
        return JSONResponse(body, 200 if witness.failure is None else 503)

    async def checkpoint(request: Request) -> Response:
        note = await asyncio.to_thread(witness.newest, request.path_params["identity"])
        if note is None:
            return PlainTextResponse("No checkpoint of such a log was cosigned.\n", 404)
        return Response(note, 200, {"content-type": "text/plain; charset=utf-8"})

    return Starlette(
        routes=[
            Route(ADD_CHECKPOINT, add_checkpoint, methods=["POST"]),
            Route("/status", status, methods=["GET"]),
            Route("/logs/{identity}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )
