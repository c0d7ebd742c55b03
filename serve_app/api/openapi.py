"""`GET /openapi.json`: what is served, as an OpenAPI 3.1 document. A test holds it against the routes that exist.

FastAPI would write one from the signatures of the routes, which know neither the bodies (they are parsed by hand, for
the sake of their errors) nor the dialects.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Response

from deployments.ingress.session import SESSION_HEADERS
from deployments.ports import ApprovalState, Dialect
from deployments.usage import Bucket, Dimension
from router.explain import DEBUG_HEADERS, DEBUG_REQUEST_HEADER
from serve_app.api.schemas import Schema, ref, schemas
from serve_app.api.usage import AFTER_PATTERN, NEXT_HEADER, TENANT_PATTERN, TIME_PATTERN, Format

PATH: Final = "/openapi.json"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"


def create_openapi_router() -> APIRouter:
    """The document; it needs no key, because it says nothing about this installation."""
    router = APIRouter()

    @router.get(PATH)
    async def openapi() -> Response:
        return Response(_bytes(), media_type=_JSON)

    return router


@cache
def _bytes() -> bytes:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


def document() -> dict[str, Any]:
    """The document, made anew."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in _operations():
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gatehouse",
            "version": "1",
            "summary": "Self-hosted models for coding and operations agents: routed, gated, audited.",
            "description": "One model service in the words of several vendors. A refusal with `x-should-retry: false` "
            "is final; one with `retry-after` is not.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"x-api-key": []}, {"api-key": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "headers": _headers(),
            "parameters": _parameters(),
            "responses": dict(_error_responses()),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this Gatehouse: `gh-...`."},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def statuses(dialect: Dialect) -> frozenset[int]:
    """The statuses of errors in a dialect; every other one is a bug."""
    match dialect:
        case Dialect.RESPONSES:
            return frozenset({400, 401, 404, 429, 500})
        case Dialect.MESSAGES:
            return frozenset({400, 401, 403, 404, 413, 429, 500, 504, 529})
        case _:
            return frozenset({400, 401, 403, 404, 413, 429, 500, 503, 504})


@dataclass(frozen=True, slots=True)
class _Operation:
    """One method of one path.

    `reply` names the schema of a JSON reply, `event` that of one event where a stream can be asked for; `body` that of
    the request. `errors` are statuses of the dialect. `parameters` are in the path, unless they are references.
    """

    method: str
    path: str
    tag: str
    summary: str
    reply: str | None = None
    event: str | None = None
    body: str | None = None
    dialect: Dialect = Dialect.CHAT
    errors: frozenset[int] = frozenset()
    parameters: tuple[str, ...] = ()
    query: tuple[Schema, ...] = ()
    headers: tuple[str, ...] = ()
    status: int = 200
    public: bool = False
    media: str = _JSON
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


_TAGS: Final = {
    "generate": "The dialects: chat and completions (OpenAI), responses (OpenAI), messages (Anthropic), embeddings.",
    "responses": "Stored responses, each visible to its own tenant alone.",
    "tokens": "Counting without generating.",
    "models": "What the key may use.",
    "route": "Where a turn would go, and why another one went where it went.",
    "gate": "Tool calls that wait for a human.",
    "runners": "Permits: what a runner asks before, and says after, it executes a call.",
    "keys": "Virtual keys; scope `admin`.",
    "budgets": "What tenants, teams and keys may use; setting them takes the scope `admin`.",
    "usage": "What was used and what it cost: of the key's tenant, of any or of all with the scope `admin`.",
    "rollouts": "Shipping a revision step by step; scope `admin`.",
    "tenants": "Tenants and what holds for them; scope `admin`.",
    "audit": "The audit log; scope `audit-read` or `admin`.",
    "reports": "What operators and their tools report into the audit log; scope `admin`, for rollouts also "
    "`rollout-events`.",
    "operations": "Probes and metrics.",
}
_KEYED: Final = frozenset({400, 401, 403, 500, 503})
_BODY: Final = frozenset({413})
_SESSION: Final = tuple(f"header-{name}" for name in SESSION_HEADERS)
_ASKING: Final = (
    "header-x-request-id",
    *(f"header-x-gatehouse-{name}" for name in ("risk", "change-id", "untrusted")),
    *_SESSION,
)
_DECISION: Final = ("model", "tier", "effort", "route-id", "route-reason", "revision")
_LATER: Final = ".later"
_NOT_YET: Final = (*(f"x-gatehouse-{name}" for name in _DECISION), "openai-processing-ms")
_ROUTED: Final = tuple(f"x-gatehouse-route-{name}" for name in ("schema", "effort", "policy", "confidence", "mode"))
_ANSWER: Final = (
    *(f"x-gatehouse-{name}" for name in (*_DECISION, "audit-index", "receipt", "dropped-tools", "held")),
    *(f"x-gatehouse-{name}" for name in ("cascade", "cascade-reason", "cascade-usage", "verdict")),
    *(f"x-gatehouse-{name}" for name in ("router-revision", "prompt-revision", "policy-revision")),
    *_ROUTED,
    "openai-processing-ms",
)
_LIMITS: Final = tuple(
    f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
_ANTHROPIC_LIMITS: Final = tuple(
    f"anthropic-ratelimit-{kind}-{what}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


def _operations() -> Iterator[_Operation]:
    yield from _generating()
    yield from _stored()
    yield from _counting()
    yield from _listing()
    yield from _gate()
    yield from _permits()
    yield from _administration()
    yield from _probes()


def _generating() -> Iterator[_Operation]:
    for dialect, path, body, reply, event in (
        (Dialect.CHAT, "/v1/chat/completions", "ChatRequest", "ChatCompletion", "ChatChunk"),
        (Dialect.COMPLETIONS, "/v1/completions", "CompletionRequest", "Completion", "Completion"),
        (Dialect.RESPONSES, "/v1/responses", "ResponsesRequest", "Response", "ResponsesEvent"),
        (Dialect.MESSAGES, "/v1/messages", "MessagesRequest", "Message", "MessagesEvent"),
        (Dialect.EMBEDDINGS, "/v1/embeddings", "EmbeddingRequest", "Embeddings", None),
    ):
        own = {Dialect.MESSAGES: ("request-id", *_ANTHROPIC_LIMITS)}.get(dialect, _LIMITS)
        originator = ("header-originator",) if dialect is Dialect.RESPONSES else ()
        answer = _ANSWER
        if dialect is Dialect.RESPONSES:
            answer = tuple(f"{name}{_LATER}" if name in _NOT_YET else name for name in _ANSWER)
        yield _Operation(
            "post", path, "generate", f"Generate in the dialect `{dialect.value}`.", reply, event, body, dialect,
            statuses(dialect), (*_ASKING, *originator), headers=(*answer, *own),
        )  # fmt: skip


def _stored() -> Iterator[_Operation]:
    dialect, errors = Dialect.RESPONSES, statuses(Dialect.RESPONSES)
    path = "/v1/responses/{response_id}"
    stream = _query("stream", {"type": "string", "enum": ["false", "0"]}, "A stored response cannot be streamed again.")
    yield _Operation(
        "get", path, "responses", "Read a stored response.", "Response", dialect=dialect, errors=errors, query=(stream,)
    )
    yield _Operation(
        "delete", path, "responses", "Delete a stored response.", "DeletedResponse", dialect=dialect, errors=errors
    )
    yield _Operation(
        "post", f"{path}/cancel", "responses", "Stop a background response.", "Response", dialect=dialect, errors=errors
    )
    yield _Operation(
        "get", f"{path}/input_items", "responses", "List what a response was asked.", "InputItems", dialect=dialect,
        errors=errors,
        query=(
            _query("order", {"type": "string", "enum": ["asc", "desc"]}, "Newest first unless `asc`."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 100}, "Items of a page; 20 unless given."),
            _query("after", {"type": "string"}, "The id of the last item of the page before."),
        ),
    )  # fmt: skip


def _counting() -> Iterator[_Operation]:
    errors = statuses(Dialect.MESSAGES)
    yield _Operation(
        "post", "/v1/messages/count_tokens", "tokens", "Count the tokens of a messages request.", "TokenCount",
        body="CountRequest", dialect=Dialect.MESSAGES, errors=errors,
    )  # fmt: skip
    errors = statuses(Dialect.CHAT)
    yield _Operation(
        "post", "/tokenize", "tokens", "The tokens of a text or a chat.", "Tokens", body="TokenizeRequest",
        errors=errors,
    )  # fmt: skip
    yield _Operation(
        "post", "/detokenize", "tokens", "The text of tokens.", "Text", body="DetokenizeRequest", errors=errors
    )


def _listing() -> Iterator[_Operation]:
    yield _Operation("get", "/v1/models", "models", "The models that the key may use.", "ModelList", errors=_KEYED)
    yield _Operation("get", "/v1/models/{model}", "models", "One model.", "Model", errors=_KEYED | {404})
    yield _Operation(
        "get", "/v1/codex/models.json", "models", "The same as Codex's model catalogue.", "CodexModels", errors=_KEYED
    )
    yield _Operation(
        "post", "/v1/route", "route", "Decide as for a chat request, and change nothing.", "RouteAnswer",
        body="RouteQuestion", errors=_KEYED | _BODY | {404}, headers=DEBUG_HEADERS,
        parameters=("header-x-request-id", f"header-{DEBUG_REQUEST_HEADER}", *_SESSION),
    )  # fmt: skip
    yield _Operation(
        "get", "/v1/route/{route_id}", "route", "Why a recent turn was routed as it was.", "RouteExplanation",
        errors=_KEYED | {404},
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/feedback", "route", "Say what became of an earlier answer.", "VerdictTaken", body="Verdict",
        errors=_KEYED | _BODY | {404, 429},
    )  # fmt: skip


def _gate() -> Iterator[_Operation]:
    named = _KEYED | {404}
    state = _query("state", {"type": "string", "enum": [each.value for each in ApprovalState]}, "Only those.")
    yield _Operation(
        "get", "/v1/approvals", "gate", "The queue, newest first.", "ApprovalList", errors=_KEYED, query=(state,)
    )
    yield _Operation(
        "get", "/v1/approvals/{approval_id}", "gate", "One request, with all that a vote signs.", "Approval",
        errors=named,
    )  # fmt: skip
    for path in ("/v1/approvals/{approval_id}", "/v1/gate/calls/{approval_id}"):
        yield _Operation(
            "post", f"{path}/plan", "gate", "Record change id and rollback plan.", "Approval", body="Plan",
            errors=named | _BODY,
        )  # fmt: skip
    yield _Operation(
        "post", "/v1/approvals/{approval_id}/votes", "gate", "Vote; scope `approve`.", "Approval", body="Vote",
        errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/approvals/{approval_id}/cancel", "gate", "Withdraw a request.", "Approval", body="Reason",
        errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/approvals/{approval_id}/expire", "gate", "End a request now; scope `approve` or `admin`.",
        "Approval", body="Reason", errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/approvals/{approval_id}/report", "gate", "Say what became of a released call.", "Conclusion",
        body="Report", errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/approvals/{approval_id}/rollback", "gate", "Say how taking a released call back ended.",
        "Conclusion", body="Rollback", errors=named | _BODY,
    )  # fmt: skip
    for method, says in (("post", "Have the call reviewed by the largest model."), ("get", "The newest review.")):
        yield _Operation(method, "/v1/approvals/{approval_id}/review", "gate", says, "Review", errors=named)
    yield _Operation(
        "get", "/v1/gate/calls/{gate_call_id}", "gate", "Where a held call stands.", "HeldCall", errors=named
    )
    yield _Operation(
        "get", "/v1/gate/frozen", "gate", "Keys whose tool calls do not leave.", "FrozenList", errors=_KEYED
    )
    yield _Operation(
        "post", "/v1/gate/frozen/{key_id}", "gate", "Let none of a key's tool calls leave.", "Frozen", body="Reason",
        errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/gate/frozen/{key_id}/release", "gate", "Release a frozen key; scope `admin`.", "Released",
        body="Release", errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/gate/classify", "gate", "What the gate would do with a call; nothing is recorded.",
        "Classification", body="Classify", errors=_KEYED | _BODY,
    )  # fmt: skip


def _permits() -> Iterator[_Operation]:
    named = _KEYED | {404}
    yield _Operation(
        "post", "/v1/gate/calls", "runners", "Propose a call; released, it comes with its permit.", "Proposed",
        body="Call", errors=_KEYED | _BODY | {404},
    )  # fmt: skip
    yield _Operation(
        "post", "/v1/permits/claim", "runners", "The permit of an approved call that left in a stream of the key.",
        "Permit", body="Claim", errors=named | _BODY,
    )  # fmt: skip
    yield _Operation(
        "get", "/v1/permits/{permit_id}", "runners", "A permit, without its token and its call.", "Permit",
        errors=named,
    )  # fmt: skip
    for suffix, text, reply, body in (
        ("redeem", "Take the one execution; on record when this answers.", "Permit", "Redemption"),
        ("report", "Say how the execution ended.", "Permit", "RunReport"),
        ("rollback", "Propose a step of the plan of an executed call.", "Proposed", "Step"),
    ):
        yield _Operation(
            "post", f"/v1/permits/{{permit_id}}/{suffix}", "runners", text, reply, body=body, errors=named | _BODY
        )
    yield _Operation(
        "get", "/v1/gate/jwks", "runners", "The keys that permits are verified with (RFC 7517).", "Jwks", public=True,
        errors=frozenset({500, 503}),
    )  # fmt: skip


def _budgets() -> Iterator[_Operation]:
    path, named = "/v1/admin/budgets", "/v1/admin/budgets/{budget_id}"
    tenant = _query("tenant", {"type": "string"}, "Only budgets of this tenant.")
    yield _Operation(
        "post", path, "budgets", "Set a new budget; what was used in its window counts at once.", "Budget",
        body="NewBudget", errors=_KEYED | _BODY | {404}, status=201,
    )  # fmt: skip
    yield _Operation("get", path, "budgets", "Where budgets stand.", "BudgetList", errors=_KEYED, query=(tenant,))
    yield _Operation(
        "put", named, "budgets", "Set a budget under a name of your own, in place of the one that has it.", "Budget",
        body="NewBudget", errors=_KEYED | _BODY | {404},
    )  # fmt: skip
    yield _Operation(
        "delete", named, "budgets", "End a budget; what was used stays in the books.", "BudgetRemoved",
        errors=_KEYED | {404},
    )  # fmt: skip
    yield _Operation(
        "get", "/v1/budgets", "budgets", "Where the budgets stand that hold for the key that asks.", "BudgetList",
        errors=_KEYED,
    )  # fmt: skip


def _usage() -> Iterator[_Operation]:
    time: Schema = {"type": "string", "pattern": TIME_PATTERN}
    chosen = (
        _query("tenant", {"type": "string", "pattern": TENANT_PATTERN}, "Only of this tenant."),
        _query("from", time, "Admitted then or later: a date, an RFC 3339 time or epoch seconds."),
        _query("to", time, "Admitted before."),
    )
    names = "|".join(each.value for each in Dimension)
    yield _Operation(
        "get", "/v1/usage", "usage", "Totals, and an estimate of what routing has saved.", "UsageReport", errors=_KEYED,
        query=(
            *chosen,
            _query("group_by", {"type": "string", "pattern": f"^(({names})(,({names})){{0,3}})?$"}, "With commas."),
            _query("bucket", {"type": "string", "enum": [each.value for each in Bucket]}, "Split by time, in UTC."),
        ),
    )  # fmt: skip
    text: Schema = {"schema": {"type": "string"}}
    content = {_JSON: {"schema": ref("UsageRows")}, "text/csv": text}
    content["application/jsonl"] = {"schema": {"type": "string", "contentSchema": ref("UsageRow")}}
    yield _Operation(
        "get", "/v1/usage/export", "usage", "One row per settlement, in a stable order, streamed.", errors=_KEYED,
        query=(
            *chosen,
            _query("after", {"type": "string", "pattern": AFTER_PATTERN}, f"What {NEXT_HEADER} said, or a row's place: "
                   "`settled_ms:grant_id`."),
            _query("format", {"type": "string", "enum": [each.value for each in Format]}, "CSV unless given."),
        ),
        more={"200": _reply("Done.", content, (NEXT_HEADER,))},
    )  # fmt: skip


def _administration() -> Iterator[_Operation]:
    tenant = _query("tenant", {"type": "string"}, "Only keys of this tenant.")
    path = "/v1/admin/keys"
    yield _Operation(
        "post", path, "keys", "Create a key. Its text is in this reply and nowhere else.", "CreatedKey", body="NewKey",
        errors=_KEYED | _BODY, status=201,
    )  # fmt: skip
    yield _Operation("get", path, "keys", "List keys, oldest first.", "KeyList", errors=_KEYED, query=(tenant,))
    yield _Operation(
        "delete", f"{path}/{{key_id}}", "keys", "Revoke a key; it works nowhere after 5 s.", "Key",
        errors=_KEYED | {404},
    )  # fmt: skip
    yield _Operation(
        "post", f"{path}/{{key_id}}/rotate", "keys", "Give a key a new text, which is in this reply and nowhere else.",
        "CreatedKey", body="KeyRotation", errors=_KEYED | _BODY | {404},
    )  # fmt: skip
    yield _Operation(
        "post", f"{path}/{{key_id}}/expire", "keys", "Set when a key ends; effective everywhere within 5 s.", "Key",
        body="KeyExpiry", errors=_KEYED | _BODY | {404},
    )  # fmt: skip
    yield from _budgets()
    yield from _usage()
    path = "/v1/admin/tenants"
    yield _Operation(
        "get", path, "tenants", "List tenants by name, with what holds for each.", "TenantList", errors=_KEYED
    )
    yield _Operation(
        "get", f"{path}/{{tenant_id}}", "tenants", "What holds for a tenant and its teams.", "Tenant",
        errors=_KEYED | {404},
    )  # fmt: skip
    yield _Operation(
        "get", "/v1/admin/engines", "operations", "What the engines say of themselves; scope `admin`.", "EngineList",
        errors=_KEYED,
    )  # fmt: skip
    yield from _rollouts()
    yield from _audit()
    for path, text, body in (
        ("/v1/changes/{change_id}/close", "Nothing more is done under a change.", "ChangeClose"),
        ("/v1/incidents", "Open an incident.", "IncidentOpen"),
        ("/v1/incidents/{incident_id}/update", "What is new about an incident.", "IncidentUpdate"),
        ("/v1/incidents/{incident_id}/close", "Close an incident.", "IncidentClose"),
        ("/v1/rollouts/events", "A step of a rollout that another tool drives.", "RolloutEvent"),
    ):
        yield _Operation(
            "post", path, "reports", text, "Reported", body=body, errors=_KEYED | _BODY | {404}, status=201,
            parameters=("header-x-request-id", "header-idempotency-key"),
        )  # fmt: skip


def _rollouts() -> Iterator[_Operation]:
    path, named = "/v1/admin/rollouts", "/v1/admin/rollouts/{rollout_id}"
    yield _Operation(
        "post", "/v1/admin/artefacts", "rollouts", "Register an artefact: every file with its checksum.", "Artefact",
        body="NewArtefact", errors=_KEYED | _BODY, status=201,
    )  # fmt: skip
    yield _Operation(
        "post", path, "rollouts", "Begin a rollout of a registered revision.", "Rollout", body="NewRollout",
        errors=_KEYED | _BODY, status=201,
    )  # fmt: skip
    yield _Operation("get", path, "rollouts", "The newest rollouts.", "RolloutList", errors=_KEYED)
    yield _Operation("get", named, "rollouts", "One of them.", "Rollout", errors=_KEYED | {404})
    yield _Operation(
        "get", f"{named}/history", "rollouts", "Its steps, with the figures behind each.", "RolloutSteps",
        errors=_KEYED | {404},
    )  # fmt: skip
    for suffix, text, body in (
        ("promote", "Go on to the next share now, whatever the figures say.", "RolloutPromotion"),
        ("hold", "Go no further until somebody says so; a worse revision still goes back.", "RolloutMove"),
        ("resume", "End a hold.", "RolloutMove"),
        ("rollback", "Give all of the traffic back; in force at once, also where this answers 503.", "RolloutMove"),
    ):
        yield _Operation(
            "post", f"{named}/{suffix}", "rollouts", text, "Rollout", body=body, errors=_KEYED | _BODY | {404}
        )


def _audit() -> Iterator[_Operation]:
    number: Schema = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    named = _KEYED | {404}
    path = "/v1/audit"
    yield _Operation("get", f"{path}/head", "audit", "Size and hash of the log.", "AuditHead", errors=_KEYED)
    yield _Operation("get", f"{path}/status", "audit", "What the sink says of itself.", "AuditStatus", errors=_KEYED)
    yield _Operation("get", f"{path}/keys", "audit", "The keys that sign checkpoints.", "AuditKeys", errors=_KEYED)
    yield _Operation(
        "get", f"{path}/checkpoint", "audit", "The newest checkpoint, a signed note.", errors=named, media="text/plain"
    )
    yield _Operation(
        "get", f"{path}/tile/{{tile}}", "audit", "A tile or a bundle of entries, by its C2SP tlog-tiles path.",
        errors=named, media="application/octet-stream",
    )  # fmt: skip
    yield _Operation(
        "get", f"{path}/consistency", "audit", "That the newest tree begins with an older one.", "AuditConsistency",
        errors=named, query=({**_query("old_size", number, "Records of the older tree."), "required": True},),
    )  # fmt: skip
    yield _Operation(
        "get", f"{path}/receipts/{{index}}", "audit",
        "The inclusion proof of a receipt. With its leaf hash any key may ask.", "AuditReceipt", errors=named,
        query=(
            _query("leaf", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "What x-gatehouse-receipt said."),
            _query("format", {"type": "string", "enum": ["json", "tlog-proof"]}, "JSON, or the text of C2SP."),
        ),
    )  # fmt: skip
    yield _Operation(
        "get", f"{path}/records", "audit", "Records of the key's tenant; of all with scope `admin`.", "AuditRecords",
        errors=_KEYED,
        query=(
            _query("begin", number, "The first index; 0 unless given."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Most records; 100 unless given."),
            _query("tenant", {"type": "string", "minLength": 1, "maxLength": 64}, "Only of this tenant."),
        ),
    )  # fmt: skip
    yield _Operation(
        "post", f"{path}/shred", "audit", "Make a tenant's stored bodies unreadable for ever; scope `admin`.",
        "AuditAppended", body="Shredding", errors=_KEYED | _BODY, status=201,
    )  # fmt: skip


def _probes() -> Iterator[_Operation]:
    bug = frozenset({500})
    tag = "operations"
    yield _Operation("get", "/", tag, "A probe; answers nothing.", errors=bug, public=True)
    yield _Operation("head", "/", tag, "The same.", errors=bug, public=True)
    yield _Operation("get", PATH, tag, "This document.", "Document", errors=bug, public=True)
    yield _Operation("get", "/healthz", tag, "The process runs.", "Health", errors=bug, public=True)
    yield _Operation(
        "get", "/readyz", tag, "Every part answers.", "Readiness", errors=bug, public=True,
        more={"503": _reply("A part does not answer.", {_JSON: {"schema": ref("Readiness")}}, ())},
    )  # fmt: skip
    yield _Operation(
        "get", "/healthz/audit", tag, "Evidence is made: a record is appended, read back and proven.", "AuditHealth",
        errors=bug, public=True,
        more={"503": _reply("It is not.", {_JSON: {"schema": ref("AuditHealth")}}, ())},
    )  # fmt: skip
    yield _Operation(
        "get", "/healthz/approvals", tag, "The gate is there: a synthetic R2 call was held.", "GateHealth",
        errors=bug, public=True,
        more={"503": _reply("It was not.", {_JSON: {"schema": ref("GateHealth")}}, ())},
    )  # fmt: skip
    yield _Operation(
        "get", "/metrics", tag, "Metrics in Prometheus' text format.", errors=bug, public=True, media="text/plain"
    )


def _described(operation: _Operation) -> dict[str, Any]:
    name = operation.path.strip("/").replace("/", "-").replace("{", "").replace("}", "") or "root"
    described: dict[str, Any] = {
        "operationId": f"{operation.method}-{name}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.public:
        described["security"] = []
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _in_path(operation.path)
    ]
    parameters += operation.query
    named = operation.parameters or (() if operation.public else ("header-x-request-id",))
    parameters += [{"$ref": f"#/components/parameters/{each}"} for each in named]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": ref(operation.body)}}}
    return described


def _in_path(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _responses(operation: _Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.reply is not None:
        content[_JSON] = {"schema": ref(operation.reply)}
    elif operation.media != _JSON:
        content[operation.media] = {"schema": {"type": "string"}}
    if operation.event is not None:
        data: Schema = {"type": "string", "contentMediaType": _JSON, "contentSchema": ref(operation.event)}
        if operation.dialect in (Dialect.CHAT, Dialect.COMPLETIONS):
            data = {"anyOf": [{"type": "string", "const": "[DONE]"}, data]}
        event = {"type": "object", "required": ["data"], "properties": {"event": {"type": "string"}, "data": data}}
        content[_EVENTS] = {"schema": {**event, "description": "One event; comments between events are none."}}
    family = _FAMILY.get(operation.dialect, "Error")
    return {
        str(operation.status): _reply("Done.", content, operation.headers),
        **{str(status): {"$ref": f"#/components/responses/{family}{status}"} for status in sorted(operation.errors)},
        **operation.more,
    }


_FAMILY: Final = {Dialect.RESPONSES: "ResponsesError", Dialect.MESSAGES: "MessagesError"}


def _error_responses() -> Iterator[tuple[str, dict[str, Any]]]:
    for dialect, family, schema in (
        (Dialect.CHAT, "Error", "Error"),
        (Dialect.RESPONSES, "ResponsesError", "Error"),
        (Dialect.MESSAGES, "MessagesError", "MessagesError"),
    ):
        for status in sorted(statuses(dialect)):
            text = "Overloaded" if status == 529 else HTTPStatus(status).phrase
            extra = ("request-id",) if dialect is Dialect.MESSAGES else ()
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                extra = (*extra, *(_ANTHROPIC_LIMITS if dialect is Dialect.MESSAGES else _LIMITS))
            advice = ("x-should-retry", "retry-after", *(("www-authenticate",) if status == 401 else ()))
            yield f"{family}{status}", _reply(f"{text}.", {_JSON: {"schema": ref(schema)}}, (*advice, *extra))


def _reply(text: str, content: Mapping[str, Any], headers: Sequence[str]) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "description": text,
        "headers": {
            name.removesuffix(_LATER): {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *headers)
        },
    }
    return reply | {"content": dict(content)} if content else reply


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _parameters() -> dict[str, Schema]:
    texts = {
        "x-request-id": "Taken over when it looks like an id, so that both sides' logs meet.",
        "x-gatehouse-risk": "Raises the risk that the router assumes; never lowers it.",
        DEBUG_REQUEST_HEADER: "`true`, with the scope admin: the decision's signals and rules come in headers, too.",
        "x-gatehouse-change-id": "The change that the caller says it works under; recorded, and believed by nobody.",
        "x-gatehouse-untrusted": "`true`: text from outside is in the conversation; can raise the class of calls.",
        "idempotency-key": "A repetition under the same key is recorded once and answered with the first receipt.",
        "originator": "Codex names itself here, and gets errors in the form that it stops on.",
        **dict.fromkeys(SESSION_HEADERS, "The conversation that this request belongs to; the first one given counts."),
    }
    schema: dict[str, Schema] = {
        "x-gatehouse-risk": {"type": "string", "pattern": r"^\s*([Rr][0-3])?\s*$"},
        "x-gatehouse-untrusted": {
            "type": "string",
            "pattern": r"^\s*(true|false)?\s*$",
        },
        "x-gatehouse-change-id": {"type": "string", "pattern": r"^\s*([A-Za-z0-9][A-Za-z0-9._:/-]{0,127})?\s*$"},
        "idempotency-key": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    }
    return {
        f"header-{name}": {
            "name": name, "in": "header", "required": False, "schema": schema.get(name, {"type": "string"}),
            "description": text,
        }
        for name, text in texts.items()
    }  # fmt: skip


def _headers() -> dict[str, Schema]:
    number: Schema = {"type": "string", "pattern": "^[0-9]+$"}
    texts: dict[str, tuple[str, Schema]] = {
        "x-request-id": ("Finds this request in the log.", {}),
        "request-id": ("The same, under the name that Anthropic's clients read.", {}),
        "x-should-retry": ("Trying again is useless.", {"const": "false"}),
        "retry-after": ("Seconds after which trying again makes sense, 1 to 60.", number),
        "www-authenticate": ("How to present a key.", {}),
        "openai-processing-ms": ("Milliseconds until this reply began.", number),
        "x-gatehouse-model": ("The model that answers.", {}),
        "x-gatehouse-tier": ("Its tier.", {}),
        "x-gatehouse-effort": ("The effort that was used.", {}),
        "x-gatehouse-route-id": ("The decision, for `GET /v1/route/{route_id}`.", {}),
        "x-gatehouse-route-reason": ("The rule that decided.", {}),
        "x-gatehouse-revision": ("The revision of the model.", {}),
        "x-gatehouse-router-revision": ("That of the router's snapshot, where others get another one.", {}),
        "x-gatehouse-prompt-revision": ("That of the operator's instructions, where others get others.", {}),
        "x-gatehouse-policy-revision": ("That of the gate's policy, where another one judges others.", {}),
        "x-gatehouse-audit-index": ("Where the decision is in the audit log.", number),
        "x-gatehouse-receipt": ("The hash of that record's leaf.", {"pattern": "^[0-9a-f]{64}$"}),
        "x-gatehouse-dropped-tools": ("Types of the tools that were left out, because nothing here can run them.", {}),
        "x-gatehouse-route-schema": ("Version of these headers.", number),
        "x-gatehouse-route-effort": ("The effort that was decided.", {}),
        "x-gatehouse-route-policy": ("SHA-256 of the policy that decided.", {"pattern": "^[0-9a-f]{64}$"}),
        "x-gatehouse-route-confidence": ("How far the decision is from another one, 0.5 to 1.", {}),
        "x-gatehouse-route-mode": ("Whether the learned proposal acts.", {"enum": ["apply", "shadow", "bypass"]}),
        "x-gatehouse-cascade": (
            "What became of a verified cascade.",
            {"enum": ["kept", "escalated", "unverified", "refused", "pending"]},
        ),
        "x-gatehouse-cascade-reason": ("Why it was not verified, or not asked for again.", {}),
        "x-gatehouse-cascade-usage": ("Model and tokens of the attempt that was not sent.", {}),
        "x-gatehouse-verdict": ("What the checks of the answer say.", {"enum": ["pass", "fail", "unknown"]}),
        NEXT_HEADER: ("The `after` of an export of what comes later.", number),
        "x-gatehouse-held": ("How many calls of a whole reply were not released.", number),
        **{name: ("Why the turn was routed so; names and numbers.", {}) for name in DEBUG_HEADERS},
        **{name: ("A limit of the key.", {}) for name in (*_LIMITS, *_ANTHROPIC_LIMITS)},
    }
    certain = {"x-request-id", "www-authenticate", "openai-processing-ms", "request-id", NEXT_HEADER} | {
        f"x-gatehouse-{name}" for name in _DECISION
    }
    headers: dict[str, Schema] = {
        name: {"description": text, "required": name in certain, "schema": {"type": "string", **schema}}
        for name, (text, schema) in texts.items()
    }
    # A response in the background is answered before anything of this is known.
    return headers | {f"{name}{_LATER}": {**headers[name], "required": False} for name in _NOT_YET}
