"""What is said of a turn: to the client in headers, to the gate as a context. And the turns that are not answered."""

from collections.abc import Sequence
from typing import Final

from deployments.errors import EngineOverloaded, Forbidden
from deployments.ingress.dialects.values import Judge
from deployments.ingress.provenance import agent_of, schemas_of
from deployments.ingress.turn import Ask, Turn
from deployments.ports import GateContext, Hold, Principal, Receipt, RouteDecision, Scope, ToolCall
from router import explain

_MOST_DROPPED: Final = 32  # tools that are named in a header


def may_see_more(principal: Principal, ask: Ask) -> bool:
    """Whether the answer's headers tell what decided about it: asked for, by a key that may know."""
    wanted = ask.headers.get(explain.DEBUG_REQUEST_HEADER, "").strip().lower() == "true"
    return wanted and Scope.ADMIN in principal.scopes


def refuse_held(decision: RouteDecision) -> None:
    """Raise for a turn that only a smaller model than its floor demands could answer now: it never does."""
    match decision.hold:
        case None:
            return
        case Hold.REFUSE:
            raise Forbidden("The routing policy gives this request to a model that is not available here.")
        case Hold.QUEUE:
            raise EngineOverloaded("The model that this request needs is not available. Please try again in 30s.", 30)


def headers_of(turn: Turn, receipt: Receipt | None) -> dict[str, str]:
    """The headers of an answer."""
    decision = turn.decision
    headers = {
        "x-gatehouse-model": decision.model,
        "x-gatehouse-tier": decision.tier.value,
        "x-gatehouse-effort": decision.effort.value,
        "x-gatehouse-route-id": decision.route_id,
        "x-gatehouse-revision": decision.revision,
        **dict(
            explain.headers(
                effort=decision.effort,
                reason=decision.reason,
                policy_digest=decision.policy_digest,
                mode=decision.mode,
                confidence=decision.confidence,
            )
        ),
    }
    others = {
        "x-gatehouse-router-revision": decision.router_revision,
        "x-gatehouse-prompt-revision": decision.prompt_revision,
        "x-gatehouse-policy-revision": decision.policy_revision,
    }
    headers |= {name: revision for name, revision in others.items() if revision}
    if decision.detail is not None:
        headers |= dict(explain.debug_headers(decision.detail))
    headers |= turn.course.headers
    if turn.watch is not None:
        headers |= turn.watch.headers()
    if receipt is not None:
        headers["x-gatehouse-audit-index"] = str(receipt.index)
        headers["x-gatehouse-receipt"] = receipt.leaf_hash.hex()
    if turn.asked.dropped_tools:
        dropped = list(dict.fromkeys(turn.asked.dropped_tools))
        headers["x-gatehouse-dropped-tools"] = ",".join(dropped[:_MOST_DROPPED])
    return headers


def context_of(turn: Turn, calls: Sequence[ToolCall] = ()) -> GateContext:
    """What the gate is told of a turn; of all schemas those of the tools that `calls` are of."""
    return GateContext(
        request_id=turn.ask.request_id,
        principal=turn.principal,
        session=turn.session,
        model=turn.decision.model,
        route_id=turn.decision.route_id,
        offered_tools=turn.asked.offered_tools,
        agent=agent_of(turn.ask.headers),
        untrusted=turn.untrusted,
        schemas=schemas_of(turn.asked, {call.name for call in calls}),
        policy=turn.decision.policy_revision,
    )


def worth_another_attempt(turn: Turn, step: Judge) -> bool:
    """A repaired call may be a wrong guess: once, before any byte has left, ask the model again instead.

    At temperature 0 it would say the same. What is repaired again goes to the gate, which trusts it with nothing.
    """
    return (
        any(call.recovered for call in step.calls)
        and turn.attempts == 1
        and turn.first_byte_s is None
        and turn.asked.body.get("temperature") != 0
    )
