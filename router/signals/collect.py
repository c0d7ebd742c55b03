"""All signals of a request, and the names under which a policy may speak of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from router.features import Passage, read
from router.lexicon import Group
from router.signals.agent import AgentState, read_agent_state, says_it_failed
from router.signals.review import (
    NO_REVIEW,
    Review,
    ReviewLimits,
    ReviewScope,
    has_diff,
    measure,
    measure_said,
    parse_diff,
    prose,
)
from router.signals.risk import called_risk, needs_reasoning, said_risk
from router.signals.task import classify, is_acknowledgement, is_proof_or_algorithm, takes_steps
from router.text import strip_harness
from router.types import Risk, Role, RouteRequest, StateView, TaskType, Turn

_USER_TURNS: Final = 6  # older turns have decayed to nothing, and would cost time
_EARLIER_CHARS: Final = 600
_FOLLOW_UP_WORDS: Final = 12
_REVIEWED_TURNS: Final = 64

SIGNAL_NAMES: Final = frozenset(
    {f"task_{task.value}" for task in TaskType}
    | {
        "always", "multi_step", "failed_on_base", "review_large", "review_high_risk", "risk_r1_or_more",
        "risk_r2_or_more", "risk_r3_or_more", "needs_reasoning", "untrusted_content", "tool_loop", "stalled",
        "tool_error", "dissatisfied", "tools_offered", "proof_or_algorithm",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signals:
    """The evidence a policy decides on. `risk` is the trusted class, raised by what the text orders."""

    task: TaskType = TaskType.GENERAL
    multi_step: bool = False
    failures_on_base: int = 0
    review: Review = NO_REVIEW
    risk: Risk = Risk.R0
    needs_reasoning: bool = False
    untrusted_content: bool = False
    tools_offered: bool = False
    proof_or_algorithm: bool = False
    agent: AgentState = AgentState()

    @property
    def names(self) -> frozenset[str]:
        """The named signals that are true; a subset of `SIGNAL_NAMES`."""
        truths = {
            "multi_step": self.multi_step,
            "failed_on_base": self.failures_on_base > 0,
            "review_large": self.review.scope is ReviewScope.LARGE,
            "review_high_risk": self.review.high_risk,
            "risk_r1_or_more": self.risk.rank >= Risk.R1.rank,
            "risk_r2_or_more": self.risk.rank >= Risk.R2.rank,
            "risk_r3_or_more": self.risk.rank >= Risk.R3.rank,
            "needs_reasoning": self.needs_reasoning,
            "untrusted_content": self.untrusted_content,
            "tool_loop": self.agent.tool_loop,
            "stalled": self.agent.stalled,
            "tool_error": self.agent.tool_errors > 0,
            "dissatisfied": self.agent.dissatisfied,
            "tools_offered": self.tools_offered,
            "proof_or_algorithm": self.proof_or_algorithm,
        }
        return frozenset({"always", f"task_{self.task.value}", *(name for name, true in truths.items() if true)})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the request said: its signals, and the user turns that were read, newest first and never empty.

    The first one is the last substantive turn: "yes, go ahead" stands for the turn before it.
    """

    signals: Signals
    said: tuple[Passage, ...]


def collect(request: RouteRequest, state: StateView, limits: ReviewLimits) -> Evidence:
    """Everything the policy, the effort and the score look at. Only what users said counts; the system prompt never."""
    passages = _user_passages(request.turns)
    said = _substantive(passages)
    agent = read_agent_state(request.turns)
    task = _task(said)
    review = _review(request.turns, said[0], limits) if task is TaskType.CODE_REVIEW else NO_REVIEW
    risk = _risk(request, said[0])
    return Evidence(
        signals=Signals(
            task=task,
            multi_step=_multi_step(task, said, agent),
            failures_on_base=state.failures_on_base + agent.failed,
            review=review,
            risk=risk,
            needs_reasoning=needs_reasoning(said[0], task, risk),
            untrusted_content=request.untrusted_content or agent.tool_results > 0,
            tools_offered=bool(request.offered_tools),
            proof_or_algorithm=is_proof_or_algorithm(said[0]),
            agent=agent,
        ),
        said=said,
    )


def estimated_risk(request: RouteRequest) -> Risk:
    """The trusted class, raised by what the newest user turn and the newest tool calls order."""
    return _risk(request, _substantive(_user_passages(request.turns))[0])


def _user_passages(turns: Sequence[Turn]) -> list[Passage]:
    passages: list[Passage] = []
    for turn in reversed(turns):
        if turn.role is not Role.USER:
            continue
        text = strip_harness(turn.text).strip()
        if not text:
            continue
        passages.append(read(text) if len(passages) < 2 else read(text, _EARLIER_CHARS, _EARLIER_CHARS))
        if len(passages) >= _USER_TURNS:
            break
    return passages


def _substantive(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    for position, passage in enumerate(passages):
        if not is_acknowledgement(passage):
            return tuple(passages[position:])
    return tuple(passages) or (read(""),)


def _task(said: Sequence[Passage]) -> TaskType:
    """The task of the newest turn; a complaint or a short follow-up goes on with the task of the turn before it."""
    newest = classify(said[0], has_diff(said[0].text))
    for passage, before in zip(said, said[1:], strict=False):
        complaint = says_it_failed(passage.text)
        follow_up = passage.features.words <= _FOLLOW_UP_WORDS and newest is TaskType.GENERAL
        if not complaint and not follow_up:
            break
        earlier = classify(before, has_diff(before.text))
        if earlier not in {TaskType.GENERAL, TaskType.CHAT}:
            return earlier
    return newest


def _multi_step(task: TaskType, said: Sequence[Passage], agent: AgentState) -> bool:
    """A diagnosis takes steps when tools were used for it, when it is in its second round, or when it says so."""
    return agent.tool_results > 0 or takes_steps(said[0]) or (task is TaskType.INCIDENT_DIAGNOSIS and len(said) > 1)


def _review(turns: Sequence[Turn], newest: Passage, limits: ReviewLimits) -> Review:
    """What is under review: the diffs of the newest turns, shown by the user or fetched by the agent's tools."""
    shown: list[str] = []
    for turn in reversed(turns[-_REVIEWED_TURNS:]):
        if turn.role in {Role.USER, Role.TOOL}:
            text = strip_harness(turn.text)
            if has_diff(text):
                shown.append(text)
        if turn.role is Role.USER and (shown or turn.text):
            break
    review = measure(parse_diff("\n".join(reversed(shown))), limits) if shown else measure_said(newest.lowered, limits)
    sensitive = newest.features.count(Group.RISKY_AREA) > 0 and _names_risky_area(newest)
    return replace(review, high_risk=True) if sensitive else review


def _names_risky_area(newest: Passage) -> bool:
    """True when the request itself, not the code below it, speaks of a sensitive area."""
    from_request = read(prose(newest.lowered.split("```", 1)[0]), _EARLIER_CHARS, 0)
    return from_request.features.count(Group.RISKY_AREA) > 0


def _risk(request: RouteRequest, newest: Passage) -> Risk:
    words = prose(newest.lowered) if has_diff(newest.text) else newest.lowered
    estimate = said_risk(words, newest.vocabulary).at_least(called_risk(request.turns))
    return estimate if request.trusted_risk is None else estimate.at_least(request.trusted_risk)
