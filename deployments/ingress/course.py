"""How a verified cascade went for one request: the wish, the verdict, and the attempt that was not sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from deployments.errors import InvalidRequest
from deployments.ports import AttemptOutcome, CascadeReport, Grant, JsonValue, ModelId, RouteDecision, Usage
from router.verify.values import Check, Status, Verdict

HEADER: Final = "x-gatehouse-cascade"
FIELD: Final = "route"
_WISHES: Final = {"true": (True, False), "1": (True, False), "buffer": (True, True), "false": (False, False)}
_PARSING: Final = frozenset({Check.SCHEMA, Check.CODE, Check.PATCH, Check.COMMAND})


class Word(StrEnum):
    """What the client is told: see the header `x-gatehouse-cascade`."""

    KEPT = "kept"
    ESCALATED = "escalated"
    UNVERIFIED = "unverified"
    REFUSED = "refused"
    PENDING = "pending"


class Why(StrEnum):
    """Why an answer was not verified, or not asked for again: `x-gatehouse-cascade-reason`."""

    NOT_ALLOWED = "not_allowed"
    STREAM = "stream"
    DIALECT = "dialect"
    CHOICES = "choices"
    TOO_LONG = "too_long"
    UNREADABLE = "unreadable"
    TOOL_CALLS = "tool_calls"
    LARGEST = "largest"
    PINNED = "pinned"
    TOOL_LOOP = "tool_loop"
    ABSENT = "absent"
    COLD = "cold"
    FORBIDDEN = "forbidden"
    POLICY = "policy"
    BUDGET = "budget"
    WINDOW = "window"
    DEADLINE = "deadline"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asks for: a cascade, and whether a stream may be held back for it."""

    cascade: bool = False
    buffer: bool = False


def wish_of(headers: Mapping[str, str], body: Mapping[str, JsonValue]) -> tuple[Wish, Mapping[str, JsonValue]]:
    """The wish in `x-gatehouse-cascade` (true, buffer, false) or the body's `route`, and the body without that field.

    The body's word counts where both speak. Raises `InvalidRequest` for anything else in either.
    """
    wish = Wish()
    said = headers.get(HEADER, "").strip().lower()
    if said:
        if said not in _WISHES:
            raise InvalidRequest(f"'{HEADER}' must be 'true', 'buffer' or 'false'.", HEADER)
        wish = Wish(*_WISHES[said])
    if FIELD not in body:
        return wish, body
    route = body[FIELD]
    if route is None:
        route = {}
    if not isinstance(route, dict):
        raise InvalidRequest(f"'{FIELD}' must be an object.", FIELD, "invalid_value")
    for name, value in route.items():
        if name not in ("cascade", "buffer"):
            raise InvalidRequest(f"Unknown parameter: '{FIELD}.{name[:64]}'.", FIELD, "unsupported_parameter")
        if not isinstance(value, bool):
            raise InvalidRequest(f"'{FIELD}.{name}' must be true or false.", f"{FIELD}.{name}", "invalid_value")
    cascade, buffer = route.get("cascade"), route.get("buffer")
    wish = Wish(
        wish.cascade if cascade is None else bool(cascade),
        wish.buffer if buffer is None else bool(buffer),
    )
    return wish, {name: value for name, value in body.items() if name != FIELD}


@dataclass(frozen=True, slots=True)
class Attempted:
    """The attempt of a cascade that the client did not get: the failed answer, or the larger model's own failure.

    `grant` is what it was admitted under, `said` the bytes of its reply, `attempt` its number from 1.
    """

    decision: RouteDecision
    grant: Grant
    attempt: int
    usage: Usage
    verdict: Verdict | None
    outcome: AttemptOutcome | None
    error_code: str | None = None
    finish: str = ""
    said: bytes = b""


def _never(model: ModelId) -> bool:
    del model
    return False


@dataclass(slots=True)
class Course:
    """The cascade of one request. `word` None: none was asked for.

    `pending`: the head of the answer left before the checks were done. `late`: would a model probably still be at work
    on another attempt when the caller gives up?
    `holds`: the reply is held back for its checks; `listens`: it is kept while it streams, to be checked at its end.
    `grant` is what the attempt that is sent was admitted under, when that is not the request's first grant. `added` is
    what of the other attempt's tokens is in the reply's own count.
    """

    wish: Wish = Wish()
    holds: bool = False
    listens: bool = False
    word: Word | None = None
    why: Why | None = None
    verdict: Verdict | None = None
    others: list[Attempted] = field(default_factory=list[Attempted])
    grant: Grant | None = None
    added: Usage = Usage()
    heard: bytearray = field(default_factory=bytearray)
    pending: bool = False
    late: Callable[[ModelId], bool] = _never

    def hear(self, data: bytes, most_bytes: int) -> None:
        """Keep what streams by; a reply that is too long is not kept at all."""
        if self.listens:
            self.heard += data
            if len(self.heard) > most_bytes:
                self.listens = False
                self.heard.clear()

    def own(self, reported: Usage) -> Usage:
        """What the attempt that is sent has used, of what its reply reports."""
        return Usage(
            input_tokens=reported.input_tokens - self.added.input_tokens,
            cached_tokens=max(reported.cached_tokens - self.added.cached_tokens, 0),
            output_tokens=reported.output_tokens - self.added.output_tokens,
            reasoning_tokens=max(reported.reasoning_tokens - self.added.reasoning_tokens, 0),
            estimated=reported.estimated,
        )

    @property
    def outcome(self) -> AttemptOutcome:
        """What the memory learns of a complete answer."""
        return evidence_of(self.verdict)

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told; nothing, unless it asked."""
        if self.word is None:
            return {}
        if self.pending:
            return {HEADER: Word.PENDING.value}
        found = {HEADER: self.word.value}
        if self.why is not None:
            found[f"{HEADER}-reason"] = self.why.value
        if self.verdict is not None:
            found["x-gatehouse-verdict"] = self.verdict.status.value
        if self.others:
            found[f"{HEADER}-usage"] = ", ".join(
                f"{each.decision.model};in={each.usage.input_tokens};out={each.usage.output_tokens}"
                for each in self.others
            )
        return found


def evidence_of(verdict: Verdict | None) -> AttemptOutcome:
    """What a verdict is evidence of. Not failed is OK: most answers cannot be proven right."""
    if verdict is None or verdict.status is not Status.FAIL:
        return AttemptOutcome.OK
    failed = {finding.check for finding in verdict.failed}
    if Check.PRESENCE in failed:
        return AttemptOutcome.EMPTY
    if Check.REPETITION in failed:
        return AttemptOutcome.LOOPING
    if Check.COMPLETION in failed:
        return AttemptOutcome.TRUNCATED
    if failed & _PARSING:
        return AttemptOutcome.PARSE_FAILED
    return AttemptOutcome.VERIFIER_FAILED


def report_of(course: Course, sent: RouteDecision) -> CascadeReport | None:
    """What is told to whoever asks why: when a second model was asked, or the headers left too early to say."""
    if course.word is None or not (course.others or course.pending):
        return None
    other = course.others[0] if course.others else None
    rose = course.word is Word.ESCALATED
    first = other.verdict if rose and other is not None else course.verdict
    second = sent if rose else None if other is None else other.decision
    return CascadeReport(
        route_id=sent.route_id,
        word=course.word.value,
        why=None if course.why is None else course.why.value,
        verdict=None if first is None else first.status.value,
        findings=() if first is None else tuple(words_of(first)),
        second=None if second is None else replace(second, detail=None, facts=None),
        second_verdict=course.verdict.status.value if rose and course.verdict is not None else None,
        error_code=None if other is None else other.error_code,
    )


def words_of(verdict: Verdict) -> list[str]:
    """The failed checks for a record: `arithmetic:false_equation`."""
    return [f"{finding.check.value}:{finding.kind}" for finding in verdict.failed]
