"""The records of a request: how it was routed, and how each of its attempts ended. Pure: times are arguments."""

from collections.abc import Mapping

from deployments.errors import GatehouseError
from deployments.ingress.course import Attempted, words_of
from deployments.ingress.evidence import Spoken
from deployments.ingress.turn import Turn
from deployments.ports import AuditEvent, Body, BodyField, JsonValue, RouteDecision, Usage
from router.verify.values import Verdict

_MOST_REASONS = 16  # choices that a client may ask for
_WORDS = frozenset({"stop", "length", "tool_calls", "content_filter", "abort", "error", "repetition"})


def decided(turn: Turn, prompt: Body, at_ms: int) -> AuditEvent:
    """`route.decided`."""
    decision = turn.decision
    return _event(
        turn,
        "route.decided",
        {
            "route_id": decision.route_id,
            "dialect": turn.ask.dialect.value,
            "model": decision.model,
            "tier": decision.tier.value,
            "effort": decision.effort.value,
            "revision": decision.revision,
            "reason": decision.reason,
            "reasons": list(decision.reasons),
            "difficulty": round(decision.difficulty, 6),
            "stream": turn.asked.stream,
            "requested_model": turn.asked.requested_model[:128],
            **_revisions(decision),
        },
        {BodyField.PROMPT: prompt},
        at_ms,
    )


def end_of(turn: Turn) -> str:
    """How a request ended: `completed`, `failed` or `aborted`."""
    return "completed" if turn.completed else "failed" if isinstance(turn.error, Exception) else "aborted"


def finished(turn: Turn, usage: Usage, now_s: float, at_ms: int) -> AuditEvent:
    """`generation.finished` of the attempt that was sent, or was under way; `now_s` on the clock of `started_s`."""
    error = turn.error
    ttft_s = None if turn.first_byte_s is None else turn.first_byte_s - turn.started_s
    said = turn.output.body()
    return _event(
        turn,
        "generation.finished",
        {
            "route_id": turn.decision.route_id,
            "model": turn.decision.model,
            "outcome": end_of(turn),
            **_tokens(usage),
            "finish_reasons": [_word(each) for each in turn.reply.finish_reasons[:_MOST_REASONS]],
            "duration_ms": round((now_s - turn.started_s) * 1000),
            "ttft_ms": None if ttft_s is None else round(ttft_s * 1000),
            "tool_calls": turn.tool_calls,
            "attempts": turn.attempts,
            "repairs": [*sorted(turn.repairs)],
            "error_code": error.code if isinstance(error, GatehouseError) else None,
            **_checked(turn.course.verdict),
            **_cascaded(turn, turn.decision),
        },
        {} if said is None else {BodyField.OUTPUT: said},
        at_ms,
    )


def abandoned(turn: Turn, other: Attempted, most_kept: int, at_ms: int) -> AuditEvent:
    """`generation.finished` of the attempt of a cascade that nobody was sent; `most_kept` bytes of it are kept."""
    output = Spoken(most_kept)
    if other.said:
        output.add(other.said)
    said = output.body()
    return _event(
        turn,
        "generation.finished",
        {
            "route_id": other.decision.route_id,
            "model": other.decision.model,
            "outcome": "abandoned" if other.error_code is None else "failed",
            **_tokens(other.usage),
            "finish_reasons": [_word(other.finish)] if other.finish else [],
            "attempts": other.attempt,
            "error_code": other.error_code,
            **_checked(other.verdict),
            **_cascaded(turn, other.decision),
        },
        {} if said is None else {BodyField.OUTPUT: said},
        at_ms,
        f"-{other.attempt}",
    )


def _event(
    turn: Turn,
    name: str,
    data: Mapping[str, JsonValue],
    bodies: Mapping[BodyField, Body],
    at_ms: int,
    which: str = "",
) -> AuditEvent:
    return AuditEvent(
        event_id=f"{name}:{turn.decision.route_id}{which}",
        name=name,
        at_ms=at_ms,
        tenant=turn.principal.tenant,
        principal=turn.principal.key_id,
        request_id=turn.ask.request_id,
        session=turn.session,
        data={**data, "policy_digest": turn.decision.policy_digest, "change_id": turn.change_id},
        bodies=bodies,
    )


def _revisions(decision: RouteDecision) -> dict[str, JsonValue]:
    """The revisions beside the model's, of what had another one for other sessions."""
    found = {
        "router_revision": decision.router_revision,
        "prompt_revision": decision.prompt_revision,
        "policy_revision": decision.policy_revision,
    }
    return {name: revision for name, revision in found.items() if revision}


def _tokens(usage: Usage) -> dict[str, JsonValue]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
    }


def _checked(verdict: Verdict | None) -> dict[str, JsonValue]:
    """What the checks of an answer say: kinds, no words of it."""
    if verdict is None:
        return {}
    return {"verdict": verdict.status.value, "findings": [*words_of(verdict)]}


def _cascaded(turn: Turn, decision: RouteDecision) -> dict[str, JsonValue]:
    """What became of the cascade that a client asked for, and which arm an attempt of it was given."""
    if turn.course.word is None:
        return {}
    return {"cascade": turn.course.word.value, "tier": decision.tier.value, "effort": decision.effort.value}


def _word(finish: str) -> str:
    """A finish reason for the log, which takes no text of any length from an engine."""
    return finish if finish in _WORDS else "other"
