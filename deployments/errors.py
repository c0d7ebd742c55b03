"""Everything a part of Gatehouse can fail with; statuses and bodies are in `serve_app/api/errors.py`.

```
GatehouseError                   code, public_message: safe for a client
|- Unauthenticated               no, unknown or revoked key
|- Forbidden                     the key lacks a scope
|- InvalidRequest                malformed or unsupported; `param` names the field
|   |- UnknownModel              not served, or not granted to the key (the same answer, on purpose)
|   |- ContextTooLong            prompt and answer do not fit the model's window
|   `- BodyTooLarge
|- NotFound                      an object that does not exist, or belongs to another tenant (the same answer)
|- QuotaExceeded                 rate or concurrency; `retry_after_s`
|- BudgetExceeded                terminal until the window resets
|- EngineOverloaded              queue full; `retry_after_s`
|- EngineFailed                  the engine died or answered nonsense
|- EngineTimeout                 our deadline passed
|- PartUnavailable               a part of the graph does not answer
|- AuditUnavailable              no durable record, hence no tool call
|   |- AuditOverloaded           too many events wait: nothing was appended, try again
|   |- AuditDiskFull             too little room on the log's disk: nothing was appended
|   |- WitnessStale              no witness confirms the log: no R2 or R3 call leaves
|   |- AuditInDoubt              no answer: the record may be on disk
|   `- AuditRefused              the log will never take this event: do not offer it again
|- GateUnavailable               no approval store, hence no call above R0
`- ApprovalConflict              expired, used, changed, or voted on by the wrong person
```

These cross Ray actors by pickle. Pickle calls `cls(*self.args)`, so every class passes all its fields, positionally,
to `super().__init__`; otherwise the caller receives an error that is no longer ours and a 429 quietly becomes a 500.
"""

from deployments.limits import Limit


class GatehouseError(Exception):
    """Root of the tree. Knows nothing of HTTP."""

    code = "internal_error"

    def __init__(self, public_message: str, *fields: object) -> None:
        super().__init__(public_message, *fields)
        self.public_message = public_message

    def __str__(self) -> str:
        return self.public_message


def name_of(error: BaseException) -> str:
    """The code of an error of ours, the class of another one: what may be said of it where its text may not."""
    return error.code if isinstance(error, GatehouseError) else type(error).__name__


class Unauthenticated(GatehouseError):
    """No key, an unknown one, an expired or a revoked one."""

    code = "invalid_api_key"


class Forbidden(GatehouseError):
    """The key is good but lacks the scope."""

    code = "permission_denied"


class InvalidRequest(GatehouseError):
    """The request cannot be served as it stands. `param` names the offending field, or is None."""

    code = "invalid_value"

    def __init__(self, public_message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(public_message, param, code)
        self.param = param
        self.code = code


class UnknownModel(InvalidRequest):
    """Not served here, or not granted to this key: a stranger cannot tell which."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model}' does not exist or you do not have access to it.", "model", "model_not_found"
        )
        self.args = (model,)


class ContextTooLong(InvalidRequest):
    """Prompt plus requested output exceed the window. Clients parse "maximum context length": keep the words."""

    def __init__(self, prompt_tokens: int, max_tokens: int, param: str = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {max_tokens} tokens. However, your request needs "
            f"{prompt_tokens} tokens. Please reduce the length of the messages or of the completion.",
            param,
            "context_length_exceeded",
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.args = (prompt_tokens, max_tokens, param)


class BodyTooLarge(InvalidRequest):
    """The request body exceeds `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes} bytes.", None, "request_too_large")
        self.limit_bytes = limit_bytes
        self.args = (limit_bytes,)


class NotFound(GatehouseError):
    """No such object for this tenant."""

    code = "not_found"


class QuotaExceeded(GatehouseError):
    """A rate or concurrency limit; trying again after `retry_after_s` (1..60) makes sense.

    `limit` is the one that was reached, where it is one that headers tell of.
    """

    code = "rate_limit_exceeded"

    def __init__(self, public_message: str, retry_after_s: int = 1, limit: Limit | None = None) -> None:
        super().__init__(public_message, retry_after_s, limit)
        self.retry_after_s = retry_after_s
        self.limit = limit


class BudgetExceeded(GatehouseError):
    """The budget of the window is spent; retrying does not help."""

    code = "budget_exceeded"


class EngineOverloaded(GatehouseError):
    """The model's queue is full; trying again after `retry_after_s` (1..60) makes sense."""

    code = "server_is_overloaded"

    def __init__(self, public_message: str, retry_after_s: int = 1) -> None:
        super().__init__(public_message, retry_after_s)
        self.retry_after_s = retry_after_s


class EngineFailed(GatehouseError):
    """The engine died or broke its contract. Details go to the log, never to the client."""

    code = "upstream_error"


class EngineTimeout(GatehouseError):
    """The engine did not finish before our deadline."""

    code = "timeout"


class PartUnavailable(GatehouseError):
    """A part of the graph does not answer; none of the more telling errors fits."""

    code = "server_is_overloaded"


class AuditUnavailable(GatehouseError):
    """The audit sink did not acknowledge in time, or is full. Nothing that needs a record may go on."""

    code = "audit_unavailable"


class AuditRefused(AuditUnavailable):
    """The log will not take this event: it breaks the record schema, or its id was used for other content.

    A kind of `AuditUnavailable`, so that whoever fails closed on a missing record also fails closed on a refused one.
    """

    code = "audit_refused"


class AuditOverloaded(AuditUnavailable):
    """More events wait than the sink takes: back-pressure. Nothing of the call was appended; try again later."""

    code = "audit_overloaded"


class AuditDiskFull(AuditUnavailable):
    """The log's disk has less room than is kept free. Nothing of the call was appended."""

    code = "audit_disk_full"


class WitnessStale(AuditUnavailable):
    """No witness has confirmed the log for too long: no R2 or R3 call leaves until one does. Nothing was appended."""

    code = "witness_stale"


class AuditInDoubt(AuditUnavailable):
    """No answer came: the record may or may not be on disk. Nobody may act as if it were, or as if it were not."""


class GateUnavailable(GatehouseError):
    """The approval store does not answer: only R0 may pass."""

    code = "gate_unavailable"


class ApprovalConflict(GatehouseError):
    """The approval is expired, used, cancelled, already voted on, or the voter may not vote on it."""

    code = "approval_conflict"
