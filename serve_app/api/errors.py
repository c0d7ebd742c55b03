"""The one table from error to status and body, per dialect.

Statuses were chosen by how real agents retry (`docs/wire.md`): a refusal that trying again cannot mend must cost a
client one request. 402, 409 and 422 are never sent, because at least one client loops on them; on responses no 5xx is
sent on purpose.
"""

import json
import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

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
    name_of,
)
from deployments.ingress.dialects.values import Failure
from deployments.ports import Dialect
from serve_app.api.limits import limit_headers

_log = logging.getLogger("gatehouse.api")


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error looks to OpenAI clients, and `anthropic` to others. `final`: trying again is useless."""

    status: int
    type: str
    anthropic: str
    final: bool = True


TABLE: Mapping[type[GatehouseError], Row] = {
    Unauthenticated: Row(401, "invalid_request_error", "authentication_error"),
    Forbidden: Row(403, "permission_error", "permission_error"),
    InvalidRequest: Row(400, "invalid_request_error", "invalid_request_error"),
    UnknownModel: Row(404, "invalid_request_error", "not_found_error"),
    ContextTooLong: Row(400, "invalid_request_error", "invalid_request_error"),
    BodyTooLarge: Row(413, "invalid_request_error", "request_too_large"),
    NotFound: Row(404, "invalid_request_error", "not_found_error"),
    QuotaExceeded: Row(429, "rate_limit_error", "rate_limit_error", final=False),
    BudgetExceeded: Row(400, "insufficient_quota", "billing_error"),
    EngineOverloaded: Row(503, "server_error", "overloaded_error", final=False),
    EngineFailed: Row(503, "server_error", "overloaded_error", final=False),
    EngineTimeout: Row(504, "server_error", "timeout_error"),
    PartUnavailable: Row(503, "server_error", "overloaded_error", final=False),
    AuditUnavailable: Row(503, "server_error", "overloaded_error", final=False),
    GateUnavailable: Row(503, "server_error", "overloaded_error", final=False),
    ApprovalConflict: Row(400, "invalid_request_error", "invalid_request_error"),
}
_UNKNOWN = Row(500, "server_error", "api_error")
_RETRY_AFTER_S = 2
_BUSY = "The model is busy."
_MESSAGE_CHARS, _PARAM_CHARS = 1000, 256  # both may hold a field's name, which a client can make as long as its body
_CODEX_WAIT_S = 5  # a 429 costs Codex six requests, each after this wait; any 5xx costs it thirty


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom an error is told: the dialect of the request, its id, and whether Codex is asking."""

    dialect: Dialect = Dialect.CHAT
    request_id: str = ""
    codex: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """An error in a client's words."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    code: str
    message: str


def caller_of(request: Request) -> Caller:
    """The dialect by path, because an error may come before anything of the body is known."""
    path = request.url.path
    dialect = Dialect.CHAT
    for prefix, each in _DIALECTS:
        if path == prefix or path.startswith(f"{prefix}/"):
            dialect = each
    state = cast(Mapping[str, str], request.scope.get("state", {}))
    return Caller(dialect, state.get("request_id", ""), request.headers.get("originator", "").startswith("codex"))


_DIALECTS = (
    ("/v1/completions", Dialect.COMPLETIONS),
    ("/v1/embeddings", Dialect.EMBEDDINGS),
    ("/v1/responses", Dialect.RESPONSES),
    ("/v1/messages", Dialect.MESSAGES),
)


def row_of(error: BaseException) -> Row:
    """The row of the nearest class in the table, or 500 for what is not ours."""
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return _UNKNOWN


def told(error: BaseException, caller: Caller) -> Told:
    """Status, body and headers for an error. The text of an error that is not ours never leaves the process.

    Headers give advice: `retry-after` (1..60 s) where waiting helps, `x-should-retry: false` where it does not.
    """
    row = row_of(error)
    if isinstance(error, GatehouseError) and row is not _UNKNOWN:
        message, code = error.public_message, error.code
    else:
        message, code = "Something went wrong inside Gatehouse; the request id finds it in the log.", "internal_error"
    message = message[:_MESSAGE_CHARS]
    wait_s = max(1, min(60, int(getattr(error, "retry_after_s", _RETRY_AFTER_S))))
    match caller.dialect:
        case Dialect.RESPONSES:
            error = _in_own_words(error)
            status, kind, code, message, wait_s = _for_responses(error, row, code, message, wait_s)
            body = _openai_body(error, kind, code, message)
            if isinstance(error, BudgetExceeded) and caller.codex:
                # The form that Codex stops on after one request, with the best of its texts.
                status, body = 429, _openai_body(error, "usage_limit_reached", "insufficient_quota", message)
        case Dialect.MESSAGES:
            status = {503: 529}.get(row.status, row.status)
            message = _for_messages(error, message)
            body = _anthropic_body(row.anthropic, message, caller.request_id)
        case _:
            status, body = row.status, _openai_body(error, row.type, code, message)
    headers = {"x-should-retry": "false"} if row.final else {"retry-after": str(wait_s)}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, QuotaExceeded) and error.limit is not None:
        headers |= limit_headers([error.limit], caller.dialect)
    if caller.dialect is Dialect.MESSAGES:
        headers["request-id"] = caller.request_id
    return Told(status, body, headers, code, message)


def _for_responses(
    error: BaseException, row: Row, code: str, message: str, wait_s: int
) -> tuple[int, str, str, str, int]:
    """Statuses that cost Codex the fewest requests: it retries 403, 413 and every 5xx whatever the headers say."""
    if row.final and row.status in (403, 413, 504):
        return 400, row.type, code, message, wait_s
    if row.status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait_s = max(_CODEX_WAIT_S, wait_s)
        # Codex sleeps as long as the last sentence says when it reads it in a stream.
        return 429, "rate_limit_error", "rate_limit_exceeded", f"{_BUSY} Please try again in {wait_s}s.", wait_s
    return row.status, row.type, code, message, wait_s


def _for_messages(error: BaseException, message: str) -> str:
    if isinstance(error, ContextTooLong):  # Claude Code reads this sentence and stops
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.max_tokens} maximum"
    return message


def _openai_body(error: BaseException, kind: str, code: str, message: str) -> bytes:
    param = error.param[:_PARAM_CHARS] if isinstance(error, InvalidRequest) and error.param is not None else None
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def _in_own_words(error: BaseException) -> BaseException:
    """An engine names the fields of the chat request that it was given; a client of responses has sent others."""
    if not isinstance(error, InvalidRequest) or error.param is None:
        return error
    names = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens", "response_format": "text"}
    param = "input" if error.param.partition("[")[0] == "messages" else names.get(error.param, error.param)
    if param == error.param:
        return error
    renamed = copy(error)
    renamed.param = param
    return renamed


def _anthropic_body(kind: str, message: str, request_id: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}).encode()


def error_response(error: BaseException, caller: Caller = Caller()) -> Response:
    """The reply for an error before the first byte of an answer."""
    each = told(error, caller)
    return Response(each.body, each.status, dict(each.headers), "application/json")


def failure(error: BaseException, caller: Caller) -> Failure:
    """The same error for a stream that is under way."""
    each = told(error, caller)
    if isinstance(error, EngineFailed):  # not the same as a busy one, once it has begun to answer
        return Failure(error.code, error.public_message, each.body)
    return Failure(each.code, each.message, each.body)


def no_such_url(request: Request) -> Response:
    """404 for everything that is not on the list of routes."""
    where = f"{request.method} {request.url.path[:200]}"
    return _plain(request, 404, f"Unknown request URL: {where}. Please check the URL for typos.", "unknown_url")


def wrong_method(request: Request, allow: str) -> Response:
    """405 with the methods that exist."""
    message = f"Not allowed to {request.method} on {request.url.path[:200]} (allowed: {allow})."
    reply = _plain(request, 405, message, "method_not_allowed")
    reply.headers["allow"] = allow
    return reply


def _plain(request: Request, status: int, message: str, code: str) -> Response:
    caller = caller_of(request)
    if caller.dialect is Dialect.MESSAGES:
        kind = "not_found_error" if status == HTTPStatus.NOT_FOUND else "invalid_request_error"
        body = _anthropic_body(kind, message, caller.request_id)
    else:
        body = _openai_body(InvalidRequest(message), "invalid_request_error", code, message)
    return Response(body, status, {"x-should-retry": "false"}, "application/json")


def log_unexpected(error: BaseException, request: Request | None, request_id: str) -> None:
    """Write a bug to the log: type, place and request id; never the request's content."""
    where = f"{request.method} {request.url.path[:200]}" if request is not None else "stream"
    _log.error("unexpected error, request %s, %r", request_id, where, exc_info=without_text(error))


def without_text(error: BaseException) -> BaseException:
    """Class (of ours the code) and place of an error, for logs: its text and its causes may quote a request."""
    bare: type[Exception] = type(name_of(error), (Exception,), {"__module__": type(error).__module__})
    return bare().with_traceback(error.__traceback__)
