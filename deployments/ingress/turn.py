"""One request on its way through the journey: what was asked, and what is known by the time it ends."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deployments.errors import EngineFailed, EngineOverloaded, InvalidRequest
from deployments.ingress.course import Course
from deployments.ingress.dialects.values import Asked, ReplyFilter
from deployments.ingress.evidence import Spoken
from deployments.ingress.opening import Opening
from deployments.ingress.revisions import Choice, Choices
from deployments.ingress.screening import Watch
from deployments.ingress.tiers import Call
from deployments.ports import (
    AttemptOutcome,
    Dialect,
    Grant,
    JsonValue,
    ModelId,
    Principal,
    Receipt,
    RequestId,
    Risk,
    RouteDecision,
    RouteRequest,
    SessionId,
    Tier,
    Usage,
)

GENERATING = frozenset(Dialect) - {Dialect.EMBEDDINGS}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the HTTP edge hands it in: parsed JSON, and the headers with lower-case names."""

    dialect: Dialect
    request_id: RequestId
    key: str
    headers: Mapping[str, str]
    body: Mapping[str, JsonValue]
    risk: Risk | None = None
    reply_id: str | None = None
    """32 hex digits for the reply's own id, when the edge must know it beforehand."""


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A model at its revision. `tier` None: reached by name alone. `local`: prompts stay on the operator's premises."""

    tier: Tier | None
    model: ModelId
    revision: str
    local: bool
    dialects: frozenset[Dialect] = GENERATING


@dataclass(slots=True)
class Turn:
    """What is known of one request by the time it ends; only the journey and its cascade write here.

    `decision` is of the attempt that is under way or was sent, `spent` what malformed replies before it have used.
    `opening` is that attempt's reply as the engine sends it.
    `calls` are all calls of engines, each with the number of its attempt; `held_s` is for how long humans were waited
    for while the last one was open, `unbegun_s` the same before the first byte. `watch`: the guardrails, where the
    tenant has any. `choices`: which revision of all that has several the session gets.
    """

    ask: Ask
    principal: Principal
    session: SessionId
    asked: Asked
    decision: RouteDecision
    grant: Grant
    reply: ReplyFilter
    started_s: float
    change_id: str | None
    untrusted: bool
    output: Spoken
    course: Course
    watch: Watch | None = None
    recording: asyncio.Task[Receipt | None] | None = None
    first_byte_s: float | None = None
    unbegun_s: float = 0.0
    headed: bool = False
    tool_calls: int = 0
    engine_reached: bool = False
    completed: bool = False
    attempts: int = 1
    repairs: set[str] = field(default_factory=set[str])
    spent: Usage = Usage()
    error: BaseException | None = None
    opening: Opening | None = None
    calls: list[tuple[int, Call]] = field(default_factory=list[tuple[int, Call]])
    held_s: float = 0.0
    choices: Choices = Choices()


def revised(decision: RouteDecision, choices: Choices) -> RouteDecision:
    """The decision with the revisions that the session gets, of its model and of all else that has several."""
    engine = choices.engines.get(decision.model)
    return replace(
        decision,
        revision=decision.revision if engine is None else engine.revision,
        router_revision=named(choices.router),
        prompt_revision=named(choices.prompts.get(decision.model)),
        policy_revision=named(choices.policy),
    )


def named(choice: Choice | None) -> str:
    """The revision of a choice, "" where there was nothing to choose."""
    return "" if choice is None else choice.revision


def worked_ms(turn: Turn, attempt: int | None = None) -> int:
    """How long an engine was at work for an attempt of a cascade that was not sent; None: for the one that was.

    What a human was waited for is no work of the model.
    """
    if attempt is not None:
        return sum(call.ms for number, call in turn.calls if number == attempt)
    unsent = {each.attempt for each in turn.course.others}
    own = sum(call.ms for number, call in turn.calls if number not in unsent)
    return max(own - round(turn.held_s * 1000), 0)


def with_known(request: RouteRequest, risk: Risk | None, asked: Asked, untrusted: bool) -> RouteRequest:
    """What text said, plus what the edge knows; a caller's word may raise the risk, never lower it."""
    known = request.trusted_risk
    trusted = known if risk is None else risk if known is None else known.at_least(risk)
    return replace(
        request,
        trusted_risk=trusted,
        requested_effort=asked.effort,
        offered_tools=tuple(sorted(asked.offered_tools)),
        untrusted_content=request.untrusted_content or untrusted,
    )


def total(one: Usage, other: Usage) -> Usage:
    """The tokens of both; estimated when one of them is."""
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        estimated=one.estimated or other.estimated,
    )


def charge(
    grant: Grant,
    error: BaseException | None,
    reached: bool = True,
    answering: bool = False,
    opening: Opening | None = None,
) -> Usage:
    """What to charge for an attempt whose reply never said what it used.

    What the engine had counted by the last of the bytes that came of its reply, `opening`. Where it had not: nothing,
    when it was not reached or refused the request before it began `answering`; else what was reserved, marked as an
    estimate.
    """
    if opening is not None and opening.counted is not None:
        return opening.counted
    if not reached or (not answering and isinstance(error, InvalidRequest | EngineOverloaded)):
        return Usage()
    return Usage(output_tokens=grant.reserved_tokens, estimated=True)


def used_by(turn: Turn) -> Usage:
    """What the attempt that is under way or was sent has used, with the malformed replies before it."""
    reported = turn.reply.usage
    if reported is not None:
        own = turn.course.own(reported)
    else:
        grant = turn.course.grant or turn.grant
        own = charge(grant, turn.error, turn.engine_reached, turn.first_byte_s is not None, turn.opening)
    return total(turn.spent, own)


def outcome_of(turn: Turn) -> AttemptOutcome | None:
    """What the session memory learns; None when the attempt says nothing about the model.

    A hang-up, a refused request or an overloaded engine is no failure of the model; its time is told all the same
    (`AttemptOutcome.ABORTED`).
    """
    if not turn.completed:
        return AttemptOutcome.FAILED if isinstance(turn.error, EngineFailed) else None
    if "length" in turn.reply.finish_reasons:
        return AttemptOutcome.TRUNCATED
    if not turn.reply.saw_text and turn.tool_calls == 0:
        return AttemptOutcome.EMPTY
    return turn.course.outcome
