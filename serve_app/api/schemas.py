"""The JSON schemas of `openapi.py`: bodies as the parsers read them, replies as the dialects define them.

Request schemas come from the very models that parse the requests, so that they cannot drift apart. Replies are open
(`additionalProperties` is not forbidden): engines add fields of their own, and clients must not mind.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from deployments.ingress.dialects.embeddings import EmbeddingRequest
from deployments.ingress.dialects.messages_requests import MessagesRequest
from deployments.ingress.dialects.requests import ChatRequest, CompletionRequest
from deployments.ingress.dialects.responses_requests import ResponsesRequest
from deployments.ports import Effort, Hold, Mode, ResponseStatus, Risk, Tier
from serve_app.api.approvals import (
    ApprovalListReply,
    ApprovalReply,
    CallReply,
    ClassifyBody,
    ClassifyReply,
    ConclusionReply,
    FrozenListReply,
    FrozenReply,
    PlanBody,
    ReasonBody,
    ReleaseBody,
    ReleasedReply,
    ReportBody,
    RollbackBody,
    VoteBody,
)
from serve_app.api.audit import (
    AppendedReply,
    ConsistencyReply,
    HeadReply,
    KeysReply,
    ReceiptReply,
    RecordsReply,
    ShredBody,
)
from serve_app.api.budgets import BudgetBody, BudgetGone, BudgetListReply, BudgetReply
from serve_app.api.errors import TABLE
from serve_app.api.feedback import FeedbackBody, FeedbackReply
from serve_app.api.gate_health import GateHealthReply
from serve_app.api.keys import ExpireBody, KeyListReply, KeyReply, NewKeyBody, NewKeyReply, RotateBody
from serve_app.api.operations import (
    ChangeCloseBody,
    IncidentCloseBody,
    IncidentOpenBody,
    IncidentUpdateBody,
    ReportedReply,
    RolloutEventBody,
)
from serve_app.api.permits import (
    CallBody,
    ClaimBody,
    JwksReply,
    PermitReply,
    ProposedReply,
    RedeemBody,
    RunReportBody,
    StepBody,
)
from serve_app.api.reviews import ReviewReply
from serve_app.api.rollouts import (
    ArtefactBody,
    ArtefactReply,
    MoveBody,
    PromoteBody,
    RolloutBody,
    RolloutListReply,
    RolloutReply,
    StepListReply,
)
from serve_app.api.route import MOST_QUESTIONS
from serve_app.api.tenants import TenantListReply, TenantReply
from serve_app.api.tokens import DetokenizeRequest, TokenizeRequest
from serve_app.api.usage import UsageReply, UsageRowReply, UsageRowsReply

Schema: TypeAlias = dict[str, Any]

_WHERE: Final = "#/components/schemas/"
_REQUESTS: Final[Mapping[str, type[BaseModel]]] = {
    "ChatRequest": ChatRequest,
    "CompletionRequest": CompletionRequest,
    "ResponsesRequest": ResponsesRequest,
    "MessagesRequest": MessagesRequest,
    "EmbeddingRequest": EmbeddingRequest,
    "TokenizeRequest": TokenizeRequest,
    "DetokenizeRequest": DetokenizeRequest,
    "NewKey": NewKeyBody,
    "NewBudget": BudgetBody,
    "KeyExpiry": ExpireBody,
    "KeyRotation": RotateBody,
    "Verdict": FeedbackBody,
    "Plan": PlanBody,
    "Vote": VoteBody,
    "Reason": ReasonBody,
    "Release": ReleaseBody,
    "Report": ReportBody,
    "Rollback": RollbackBody,
    "Classify": ClassifyBody,
    "Call": CallBody,
    "Claim": ClaimBody,
    "Redemption": RedeemBody,
    "RunReport": RunReportBody,
    "Step": StepBody,
    "NewArtefact": ArtefactBody,
    "NewRollout": RolloutBody,
    "RolloutMove": MoveBody,
    "RolloutPromotion": PromoteBody,
}
_REPLIES: Final[Mapping[str, type[BaseModel]]] = {
    "Key": KeyReply,
    "VerdictTaken": FeedbackReply,
    "CreatedKey": NewKeyReply,
    "KeyList": KeyListReply,
    "Budget": BudgetReply,
    "BudgetList": BudgetListReply,
    "BudgetRemoved": BudgetGone,
    "UsageReport": UsageReply,
    "UsageRow": UsageRowReply,
    "UsageRows": UsageRowsReply,
    "Tenant": TenantReply,
    "TenantList": TenantListReply,
    "AuditHead": HeadReply,
    "AuditReceipt": ReceiptReply,
    "AuditConsistency": ConsistencyReply,
    "AuditKeys": KeysReply,
    "AuditRecords": RecordsReply,
    "AuditAppended": AppendedReply,
    "Shredding": ShredBody,
    "ChangeClose": ChangeCloseBody,
    "IncidentOpen": IncidentOpenBody,
    "IncidentUpdate": IncidentUpdateBody,
    "IncidentClose": IncidentCloseBody,
    "RolloutEvent": RolloutEventBody,
    "Artefact": ArtefactReply,
    "Rollout": RolloutReply,
    "RolloutList": RolloutListReply,
    "RolloutSteps": StepListReply,
    "Reported": ReportedReply,
    "Approval": ApprovalReply,
    "ApprovalList": ApprovalListReply,
    "HeldCall": CallReply,
    "Conclusion": ConclusionReply,
    "Classification": ClassifyReply,
    "Frozen": FrozenReply,
    "FrozenList": FrozenListReply,
    "Released": ReleasedReply,
    "Permit": PermitReply,
    "Proposed": ProposedReply,
    "Jwks": JwksReply,
    "Review": ReviewReply,
    "GateHealth": GateHealthReply,
}
# What a count of tokens has no use for: it may be there, and is not looked at.
_NOT_COUNTED: Final = ("max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k")
_CASCADING: Final = ("ChatRequest", "CompletionRequest", "ResponsesRequest", "MessagesRequest")
_ROUTE: Final[Schema] = {
    "description": "A verified cascade: a failed answer is asked for again from the larger model, a stream only if it "
    "may be held back (`buffer`).",
    "anyOf": [
        {
            "type": "object",
            "properties": {"cascade": {"type": "boolean"}, "buffer": {"type": "boolean"}},
            "additionalProperties": False,
        },
        {"type": "null"},
    ],
}
# Words about the code, and what JSON Schema does not need to know.
_LEFT_OUT: Final = frozenset({"title", "description", "discriminator", "uniqueItems"})


def ref(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"{_WHERE}{name}"}


def schemas() -> dict[str, Schema]:
    """Every schema of the document, by name."""
    found: dict[str, Schema] = {}
    for name, model in _REQUESTS.items():
        _add(found, name, model.model_json_schema(ref_template=f"{_WHERE}{name}_{{model}}"))
    for name, model in _REPLIES.items():
        _add(found, name, model.model_json_schema(ref_template=f"{_WHERE}{name}_{{model}}", mode="serialization"))
    counted = found["MessagesRequest"]["properties"]
    counted["max_tokens"] = {"type": "integer", "minimum": 1}
    found["MessagesRequest"]["required"] = ["messages", "max_tokens"]
    found["CountRequest"] = {
        **found["MessagesRequest"],
        "required": ["messages"],
        "properties": {**counted, **{name: {} for name in _NOT_COUNTED}},
    }
    for name in _CASCADING:
        found[name]["properties"]["route"] = _ROUTE  # read before the dialect reads the rest
    for name in ("conversation", "prompt"):
        found["ResponsesRequest"]["properties"][name] = {"type": "null", "description": "Not supported."}
    return found | _written()


def _add(found: dict[str, Schema], name: str, schema: Schema) -> None:
    inner = cast(dict[str, Schema], schema.pop("$defs", {}))
    found[name] = _plain(schema)
    for each, definition in inner.items():
        found[f"{name}_{each}"] = _plain(definition)


def _plain(schema: Schema) -> Schema:
    """The schema as every validator reads it.

    pydantic's tagged unions become `anyOf`: a block of an unknown type fits the open member beside its own. Its
    patterns are of another dialect of regular expressions.
    """
    plain: Schema = {}
    for key, value in schema.items():
        if key in _LEFT_OUT or (key == "default" and value is None):
            continue
        if key == "properties":
            plain[key] = {name: _plain(each) for name, each in value.items()}
        elif key in ("anyOf", "oneOf"):
            plain["anyOf"] = [_plain(each) for each in value]
        elif key in ("items", "additionalProperties", "propertyNames") and isinstance(value, dict):
            plain[key] = _plain(cast(Schema, value))
        elif key == "pattern":
            plain[key] = value.replace(r"\A", "^").replace(r"\z", "$")
        else:
            plain[key] = value
    return plain


def _object(required: str = "", **properties: Schema) -> Schema:
    """An open object; `required` lists names, parted by blanks."""
    schema: Schema = {"type": "object", "properties": properties}
    return schema | {"required": required.split()} if required else schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one(value: str) -> Schema:
    return {"type": "string", "const": value}


def _among(values: Sequence[str]) -> Schema:
    return {"type": "string", "enum": [*values]}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_TIME: Final[Schema] = {"type": "integer", "description": "Seconds since the epoch."}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {"type": "object"}
_RISK: Final[Schema] = _among([risk.value for risk in (Risk.R0, Risk.R1, Risk.R2, Risk.R3)])


def _written() -> dict[str, Schema]:
    """What is written by hand: replies of the dialects, and everything about errors."""
    return {**_errors(), **_chat(), **_completions(), **_responses(), **_messages(), **_others()}


def _errors() -> dict[str, Schema]:
    kinds = sorted({row.type for row in TABLE.values()} | {"server_error", "rate_limit_error", "usage_limit_reached"})
    anthropic = sorted({row.anthropic for row in TABLE.values()} | {"api_error"})
    error = _object("message type param code", message=_TEXT, type=_among(kinds), param=_maybe(_TEXT), code=_TEXT) | {
        "description": "`param` names the field that is meant; its value is never repeated."
    }
    return {
        "Error": _object("error", error=error),
        "MessagesError": _object(
            "type error request_id",
            type=_one("error"),
            error=_object("type message", type=_among(anthropic), message=_TEXT),
            request_id=_TEXT,
        ),
        "Extension": _object(
            audit=_object("index leaf", index=_COUNT, leaf={"type": "string", "pattern": "^[0-9a-f]{64}$"}),
            held=_list(
                _object(
                    "call_id approval_id state risk reasons plan_required",
                    call_id=_TEXT,
                    approval_id=_maybe(_TEXT),
                    state=_among(["held", "denied", "unavailable"]),
                    risk=_maybe(_RISK),
                    reasons=_list(_TEXT),
                    plan_required=_FLAG,
                    audit=_object("index leaf", index=_COUNT, leaf={"type": "string", "pattern": "^[0-9a-f]{64}$"}),
                )
            ),
            fim=_one("emulated"),
        )
        | {"description": "The audit record of the decision, and the calls that were not released."},
    }


def _chat() -> dict[str, Schema]:
    call = _object(
        "id type function", id=_TEXT, type=_one("function"),
        function=_object("name arguments", name=_TEXT, arguments=_TEXT),
    )  # fmt: skip
    message = _object(
        "role", role=_one("assistant"), content=_maybe(_TEXT), reasoning_content=_maybe(_TEXT), tool_calls=_list(call)
    )
    delta = _object(
        role=_TEXT, content=_maybe(_TEXT), reasoning_content=_maybe(_TEXT),
        tool_calls=_list(_object("index", index=_COUNT, id=_TEXT, type=_one("function"), function=_ANY)),
    )  # fmt: skip
    finish = _among(["stop", "length", "tool_calls", "content_filter"])
    return {
        "Usage": _object(
            "prompt_tokens completion_tokens",
            prompt_tokens=_COUNT,
            completion_tokens=_COUNT,
            total_tokens=_COUNT,
            prompt_tokens_details=_maybe(_ANY),
            completion_tokens_details=_maybe(_ANY),
        ),
        "ChatCompletion": _object(
            "id object created model choices",
            id=_TEXT,
            object=_one("chat.completion"),
            created=_TIME,
            model=_TEXT,
            choices=_list(_object("index message finish_reason", index=_COUNT, message=message, finish_reason=finish)),
            usage=_maybe(ref("Usage")),
            x_gatehouse=ref("Extension"),
        ),
        "ChatChunk": _object(
            "id object created model choices",
            id=_TEXT,
            object=_one("chat.completion.chunk"),
            created=_TIME,
            model=_TEXT,
            choices=_list(
                _object("index delta finish_reason", index=_COUNT, delta=delta, finish_reason=_maybe(finish))
            ),
            usage=_maybe(ref("Usage")),
            x_gatehouse=ref("Extension"),
        ),
    }


def _completions() -> dict[str, Schema]:
    choice = _object("index text finish_reason", index=_COUNT, text=_TEXT, finish_reason=_maybe(_TEXT))
    completion = _object(
        "id object created model choices",
        id=_TEXT,
        object=_one("text_completion"),
        created=_TIME,
        model=_TEXT,
        choices=_list(choice),
        usage=_maybe(ref("Usage")),
        x_gatehouse=ref("Extension"),
    )
    vector: Schema = {"anyOf": [_list({"type": "number"}), _TEXT]}
    return {
        "Completion": completion | {"description": "The whole reply, or one event of a stream."},
        "Embeddings": _object(
            "object data model usage",
            object=_one("list"),
            data=_list(_object("object index embedding", object=_one("embedding"), index=_COUNT, embedding=vector)),
            model=_TEXT,
            usage=_object("prompt_tokens", prompt_tokens=_COUNT, total_tokens=_COUNT),
            x_gatehouse=ref("Extension"),
        ),
    }


def _responses() -> dict[str, Schema]:
    item = _object("type", type=_TEXT, id=_TEXT)
    response = _object(
        "id object created_at status model output error incomplete_details usage tools tool_choice "
        "parallel_tool_calls metadata",
        id={"type": "string", "pattern": "^resp_"},
        object=_one("response"),
        created_at=_TIME,
        status=_among([status.value for status in ResponseStatus]),
        model=_TEXT,
        output=_list(item),
        error=_maybe(_object("code message", code=_TEXT, message=_TEXT)),
        incomplete_details=_maybe(_object("reason", reason=_maybe(_TEXT))),
        usage=_maybe(
            _object(
                "input_tokens output_tokens total_tokens input_tokens_details output_tokens_details",
                input_tokens=_COUNT,
                output_tokens=_COUNT,
                total_tokens=_COUNT,
                input_tokens_details=_ANY,
                output_tokens_details=_ANY,
            )
        ),
        tools=_list(_ANY),
        tool_choice={"anyOf": [_TEXT, _ANY]},
        parallel_tool_calls=_FLAG,
        metadata=_ANY,
        x_gatehouse=ref("Extension"),
    )
    return {
        "Response": response,
        "ResponsesEvent": _object("type sequence_number", type=_TEXT, sequence_number=_COUNT),
        "DeletedResponse": _object(
            "id object deleted", id=_TEXT, object=_one("response"), deleted={"type": "boolean", "const": True}
        ),
        "InputItems": _object(
            "object data first_id last_id has_more",
            object=_one("list"),
            data=_list(_object("type", type=_TEXT)),
            first_id={},
            last_id={},
            has_more=_FLAG,
        ),
    }


def _messages() -> dict[str, Schema]:
    usage = _object("input_tokens output_tokens", input_tokens=_COUNT, output_tokens=_COUNT)
    reasons = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
    return {
        "Message": _object(
            "id type role model content stop_reason stop_sequence usage",
            id={"type": "string", "pattern": "^msg_"},
            type=_one("message"),
            role=_one("assistant"),
            model=_TEXT,
            content=_list(_object("type", type=_among(["text", "thinking", "tool_use"]))),
            stop_reason=_maybe(_among(reasons)),
            stop_sequence=_maybe(_TEXT),
            usage=usage,
            x_gatehouse=ref("Extension"),
        ),
        "MessagesEvent": _object("type", type=_TEXT),
        "TokenCount": _object("input_tokens", input_tokens=_COUNT),
    }


def _routes() -> dict[str, Schema]:
    number: Schema = {"type": "number"}
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    terms = _list(_object("name value", name=_TEXT, value=number))
    arm = _among([f"{tier.value}/{effort.value}" for tier in Tier for effort in Effort])
    detail = _object(
        "task risk signals contributions proposal shadow alternatives counterfactual rules overlay stages evidence "
        "failures propensities state",
        task=_TEXT,
        risk=_TEXT,
        signals=_list(_TEXT),
        contributions=terms,
        proposal=_object(
            "kind value logit threshold demanded hit taken abstained",
            kind=_among(["gain", "difficulty"]),
            value=number,
            logit=number,
            threshold=_maybe(number),
            demanded=_maybe(number),
            hit=_FLAG,
            taken=_FLAG,
            abstained=_maybe(_TEXT),
        ),
        shadow=_object("arm reason", arm=arm, reason=_TEXT),
        alternatives=_list(
            _object(
                "arm p_ok relative_cost cost_is allowed",
                arm=arm,
                p_ok=_maybe(share),
                relative_cost=number,
                cost_is=_one("configured"),
                allowed=_FLAG,
            )
        ),
        counterfactual=_list(_TEXT),
        rules=_list(
            _object(
                "id fired effect safety source signals",
                id=_TEXT,
                fired=_FLAG,
                effect=_TEXT,
                safety=_FLAG,
                source=_among(["policy", "tenant"]),
                signals={"type": "object", "additionalProperties": _FLAG},
            )
        ),
        overlay=_list(_TEXT),
        stages=_list(_object("stage arm reason", stage=_TEXT, arm=arm, reason=_TEXT)),
        evidence=_list(_object("kind weight", kind=_TEXT, weight=number)),
        failures={"type": "object", "additionalProperties": number},
        propensities={"type": "object", "additionalProperties": share},
        state={"type": "object", "additionalProperties": _TEXT},
    ) | {"description": "Names and numbers that explain the decision; no word of the prompt."}
    named = (
        "id model tier effort revision reason reasons difficulty policy snapshot mode confidence propensity explored "
        "eligible hand_over hold router_revision prompt_revision policy_revision detail"
    )
    decided: dict[str, Schema] = {
        "id": _TEXT, "model": _TEXT, "tier": _TEXT, "effort": _TEXT, "revision": _TEXT, "reason": _TEXT,
        "reasons": _list(_TEXT), "difficulty": share, "policy": _TEXT, "snapshot": _maybe(_TEXT), "dry_run": _FLAG,
        "mode": _among([mode.value for mode in Mode]), "confidence": share, "propensity": share, "explored": _FLAG,
        "eligible": _FLAG, "hand_over": _FLAG, "hold": _maybe(_among([hold.value for hold in Hold])),
        "router_revision": _maybe(_TEXT), "prompt_revision": _maybe(_TEXT), "policy_revision": _maybe(_TEXT),
        "detail": _maybe(ref("RouteDetail")),
    }  # fmt: skip
    question = _object("messages", messages=_list({}), model=_maybe(_TEXT), risk=_maybe(_RISK))
    batch = _object("requests", requests=_list(question) | {"minItems": 1, "maxItems": MOST_QUESTIONS})
    return {
        "RouteQuestion": {
            "anyOf": [question | {"not": {"required": ["requests"]}}, batch],
            "description": "A chat request, or a list of them; nothing of it is generated. `risk` raises what the "
            "router would assume.",
        },
        "RouteDetail": detail,
        "RouteDecision": _object(f"object dry_run {named}", object=_one("route.decision"), **decided),
        "RouteAnswer": {
            "anyOf": [
                ref("RouteDecision"),
                _object("object data", object=_one("list"), data=_list(ref("RouteDecision"))),
            ]
        },
        "RouteExplanation": _object(
            f"object dry_run request_id created_ms task risk signals rules contributions cascade {named}",
            object=_one("route.explanation"),
            request_id=_TEXT,
            created_ms=_COUNT,
            task=_TEXT,
            risk=_TEXT,
            signals=_list(_TEXT),
            rules=_list(_object("id fired", id=_TEXT, fired=_FLAG)),
            contributions=terms,
            cascade=_maybe(
                _object(
                    "outcome reason verdict findings second second_verdict error",
                    outcome=_TEXT,
                    reason=_maybe(_TEXT),
                    verdict=_maybe(_TEXT),
                    findings=_list(_TEXT),
                    second=_maybe(
                        _object(named, **{name: each for name, each in decided.items() if name != "dry_run"})
                    ),
                    second_verdict=_maybe(_TEXT),
                    error=_maybe(_TEXT),
                )
            ),
            **decided,
        ),
    }


def _others() -> dict[str, Schema]:
    model = _object(
        "id object created owned_by context_window max_model_len max_output_tokens tier dialects kind revision",
        id=_TEXT,
        object=_one("model"),
        created=_TIME,
        owned_by=_TEXT,
        context_window=_COUNT,
        max_model_len=_COUNT,
        max_output_tokens=_COUNT,
        tier=_maybe(_TEXT),
        dialects=_list(_TEXT),
        kind=_TEXT,
        revision=_TEXT,
        demonstration=_FLAG,
    )
    return {
        **_routes(),
        "Model": model,
        "ModelList": _object("object data", object=_one("list"), data=_list(ref("Model"))),
        "CodexModels": _object("models", models=_list(_object("slug context_window", slug=_TEXT))),
        "Tokens": _object("count tokens", count=_COUNT, tokens=_list({"type": "integer"})),
        "Text": _object("prompt", prompt=_TEXT),
        "Health": _object("status", status=_TEXT),
        "AuditStatus": _object(
            "object size epoch origin queued_events unsealed checkpoint_size disk_free_bytes witness_stale failure",
            object=_one("audit.status"),
            size=_COUNT,
            epoch=_COUNT,
            origin=_TEXT,
            queued_events=_COUNT,
            unsealed=_COUNT,
            checkpoint_size=_COUNT,
            disk_free_bytes=_COUNT,
            witness_stale=_FLAG,
            failure=_maybe(_TEXT),
        ),
        "AuditHealth": _object(
            "status problem", status=_among(["ok", "failing", "down"]), problem=_maybe(_TEXT), index=_maybe(_COUNT)
        ),
        "Readiness": _object(
            "status parts",
            status=_among(["ready", "not ready"]),
            parts={"type": "object", "additionalProperties": _among(["ready", "down"])},
        ),
        "EngineList": _object(
            "object data",
            object=_one("list"),
            data=_list(_object("model state", model=_TEXT, state=_among(["ready", "down"]))),
        ),
        "Document": _object("openapi info paths", openapi=_TEXT, info=_ANY, paths=_ANY),
    }
