"""Every row of the table of errors, in every dialect: status, body and advice (wire contract, sections 5 and 6)."""

import json

import pytest

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
from deployments.ports import Dialect
from serve_app.api.errors import TABLE, Caller, failure, told

TOO_LONG = ContextTooLong(5000, 4096)
CASES: list[tuple[Exception, tuple[int, int, int], str]] = [
    # error, (OpenAI dialects, responses, messages), Anthropic's type
    (Unauthenticated("No."), (401, 401, 401), "authentication_error"),
    (Forbidden("No."), (403, 400, 403), "permission_error"),
    (InvalidRequest("Bad.", "stop"), (400, 400, 400), "invalid_request_error"),
    (UnknownModel("x"), (404, 404, 404), "not_found_error"),
    (TOO_LONG, (400, 400, 400), "invalid_request_error"),
    (BodyTooLarge(1), (413, 400, 413), "request_too_large"),
    (NotFound("No such thing."), (404, 404, 404), "not_found_error"),
    (QuotaExceeded("Too many. Please try again in 3s.", 3), (429, 429, 429), "rate_limit_error"),
    (BudgetExceeded("Spent."), (400, 400, 400), "billing_error"),
    (EngineOverloaded("Busy.", 7), (503, 429, 529), "overloaded_error"),
    (EngineFailed("Died."), (503, 429, 529), "overloaded_error"),
    (EngineTimeout("Late."), (504, 400, 504), "timeout_error"),
    (PartUnavailable("Away."), (503, 429, 529), "overloaded_error"),
    (AuditUnavailable("Away."), (503, 429, 529), "overloaded_error"),
    (GateUnavailable("Away."), (503, 429, 529), "overloaded_error"),
    (ApprovalConflict("Used."), (400, 400, 400), "invalid_request_error"),
    (RuntimeError("secret"), (500, 500, 500), "api_error"),
]
RETRIED = (QuotaExceeded, EngineOverloaded, EngineFailed, PartUnavailable, AuditUnavailable, GateUnavailable)
each_case = pytest.mark.parametrize(("error", "statuses", "kind"), CASES, ids=[type(c[0]).__name__ for c in CASES])


def test_no_error_of_ours_is_missing_here() -> None:
    assert set(TABLE) <= {type(error) for error, _, _ in CASES}


@each_case
@pytest.mark.parametrize(
    ("dialect", "at"),
    [(Dialect.CHAT, 0), (Dialect.COMPLETIONS, 0), (Dialect.EMBEDDINGS, 0), (Dialect.RESPONSES, 1)],
)
def test_openai_dialects(
    error: Exception, statuses: tuple[int, int, int], kind: str, dialect: Dialect, at: int
) -> None:
    del kind
    reply = told(error, Caller(dialect, "req_1"))
    assert reply.status == statuses[at]
    assert reply.status not in (402, 409, 422)
    body = json.loads(reply.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["code"], str)
    assert "secret" not in reply.body.decode()
    advice(error, reply.headers)


@each_case
def test_messages(error: Exception, statuses: tuple[int, int, int], kind: str) -> None:
    reply = told(error, Caller(Dialect.MESSAGES, "req_1"))
    assert reply.status == statuses[2]
    body = json.loads(reply.body)
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["request_id"], body["error"]["type"]) == ("error", "req_1", kind)
    assert "secret" not in reply.body.decode()
    assert reply.headers["request-id"] == "req_1"
    advice(error, reply.headers)


def advice(error: Exception, headers: object) -> None:
    assert isinstance(headers, dict)
    if isinstance(error, RETRIED):
        assert 1 <= int(headers["retry-after"]) <= 60
        assert "x-should-retry" not in headers
    else:
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers


def test_claude_code_reads_how_long_the_prompt_is() -> None:
    body = json.loads(told(TOO_LONG, Caller(Dialect.MESSAGES)).body)
    assert body["error"]["message"] == "prompt is too long: 5000 tokens > 4096 maximum"


def test_openai_clients_read_the_context_length() -> None:
    error = json.loads(told(TOO_LONG, Caller(Dialect.RESPONSES)).body)["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in error["message"]


def test_codex_stops_on_a_spent_budget_and_says_why() -> None:
    reply = told(BudgetExceeded("Budget exceeded for key k1."), Caller(Dialect.RESPONSES, "r", codex=True))
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["type"], error["code"]) == (429, "usage_limit_reached", "insufficient_quota")
    assert reply.headers == {"x-should-retry": "false"}


def test_an_overload_tells_codex_how_long_to_sleep_and_at_least_five_seconds() -> None:
    short, long = (told(EngineOverloaded("Busy.", wait_s), Caller(Dialect.RESPONSES)) for wait_s in (1, 9))
    assert (short.headers["retry-after"], long.headers["retry-after"]) == ("5", "9")
    assert short.message.endswith("Please try again in 5s.")


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("seconds", [-5, 0, 10**9])
def test_retry_after_stays_between_one_and_sixty(dialect: Dialect, seconds: int) -> None:
    reply = told(QuotaExceeded("Wait.", seconds), Caller(dialect))
    assert 1 <= int(reply.headers["retry-after"]) <= 60


def test_a_stream_that_dies_is_not_told_as_a_busy_model() -> None:
    each = failure(EngineFailed("The model's answer ended before it was complete."), Caller(Dialect.RESPONSES))
    assert (each.code, each.message) == ("upstream_error", "The model's answer ended before it was complete.")


def test_every_error_class_has_a_row_of_its_own_or_of_its_parent() -> None:
    def classes(cls: type[GatehouseError]) -> list[type[GatehouseError]]:
        return [cls, *(each for child in cls.__subclasses__() for each in classes(child))]

    missing = [cls for cls in classes(GatehouseError)[1:] if not set(cls.__mro__) & set(TABLE)]
    assert missing == []
