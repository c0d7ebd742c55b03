"""The one table from error to status and body, per dialect.

Statuses were chosen by how real agents retry (`docs/wire.md`): a refusal that trying again cannot mend must cost a
client one request. 402, 409 and 422 are never sent, because at least one client loops on them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import (
    ApprovalConflict,
    AuditUnavailable,
    BodyTooLarge,
    BudgetExceeded,
    ContextTooLong,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    Forbidden,
    GatehouseError,
    GateUnavailable,
    InvalidRequest,
    NotFound,
    PartUnavailable,
    QuotaExceeded,
    Unauthenticated,
    UnknownModel,
)

_log = logging.getLogger("gatehouse.api")


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error looks to OpenAI clients. `final`: trying again does not help."""

    status: int
    type: str
    final: bool = True


TABLE: Mapping[type[GatehouseError], Row] = {
    Unauthenticated: Row(401, "invalid_request_error"),
    Forbidden: Row(403, "permission_error"),
    InvalidRequest: Row(400, "invalid_request_error"),
    UnknownModel: Row(404, "invalid_request_error"),
    ContextTooLong: Row(400, "invalid_request_error"),
    BodyTooLarge: Row(413, "invalid_request_error"),
    NotFound: Row(404, "invalid_request_error"),
    QuotaExceeded: Row(429, "rate_limit_error", final=False),
    BudgetExceeded: Row(400, "insufficient_quota"),
    EngineOverloaded: Row(503, "server_error", final=False),
    EngineFailed: Row(503, "server_error", final=False),
    EngineTimeout: Row(504, "server_error"),
    PartUnavailable: Row(503, "server_error", final=False),
    AuditUnavailable: Row(503, "server_error", final=False),
    GateUnavailable: Row(503, "server_error", final=False),
    ApprovalConflict: Row(400, "invalid_request_error"),
}
_UNKNOWN = Row(500, "server_error")
_RETRY_AFTER_S = 2


def row_of(error: BaseException) -> Row:
    """The row of the nearest class in the table, or 500 for what is not ours."""
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return _UNKNOWN


def error_body(error: BaseException) -> bytes:
    """OpenAI's error object. The text of an error that is not ours never leaves the process."""
    row = row_of(error)
    if isinstance(error, GatehouseError) and row is not _UNKNOWN:
        message, code = error.public_message, error.code
    else:
        message, code = "Something went wrong inside Gatehouse; the request id finds it in the log.", "internal_error"
    param = error.param if isinstance(error, InvalidRequest) else None
    return json.dumps({"error": {"message": message, "type": row.type, "param": param, "code": code}}).encode()


def error_headers(error: BaseException) -> dict[str, str]:
    """Retry advice: `retry-after` (1..60 s) where waiting helps, `x-should-retry: false` where it does not."""
    row = row_of(error)
    headers: dict[str, str] = {}
    if row.final:
        headers["x-should-retry"] = "false"
    else:
        wait_s = getattr(error, "retry_after_s", _RETRY_AFTER_S)
        headers["retry-after"] = str(max(1, min(60, int(wait_s))))
    if row.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


def error_response(error: BaseException) -> Response:
    """The reply for an error before the first byte of an answer."""
    return Response(error_body(error), row_of(error).status, error_headers(error), "application/json")


def error_event(error: BaseException) -> bytes:
    """The last event of a chat or completions stream that broke off; no `[DONE]` may follow."""
    return b"data: " + error_body(error) + b"\n\n"


def no_such_url(method: str, path: str) -> Response:
    """404 for everything that is not on the list of routes."""
    return _plain(404, f"Unknown request URL: {method} {path[:200]}. Please check the URL for typos.", "unknown_url")


def wrong_method(method: str, path: str, allow: str) -> Response:
    """405 with the methods that exist."""
    reply = _plain(405, f"Not allowed to {method} on {path[:200]} (allowed: {allow}).", "method_not_allowed")
    reply.headers["allow"] = allow
    return reply


def _plain(status: int, message: str, code: str) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return Response(json.dumps(body), status, {"x-should-retry": "false"}, "application/json")


def log_unexpected(error: BaseException, request: Request | None, request_id: str) -> None:
    """Write a bug to the log: type, place and request id; never the request's content."""
    where = f"{request.method} {request.url.path}" if request is not None else "stream"
    _log.error("unexpected error, request %s, %s", request_id, where, exc_info=error)
