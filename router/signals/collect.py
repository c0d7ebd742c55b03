"""All signals of a request, and the names under which a policy may speak of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from router.features import Passage, read
from router.lexicon import GROUPS_OF, Group, split_words
from router.signals.agent import AgentState, Severity, read_agent_state, says_it_failed
from router.signals.evidence import FAILED, is_failure
from router.signals.language import language_of
from router.signals.review import (
    NO_REVIEW,
    Review,
    ReviewLimits,
    ReviewScope,
    has_diff,
    measure_said,
    measure_text,
    prose,
)
from router.signals.risk import called_risk, needs_reasoning, offered_risk, said_risk
from router.signals.task import classify, is_acknowledgement, is_proof_or_algorithm, takes_steps
from router.text import strip_harness, window
from router.types import Risk, Role, RouteRequest, StateView, TaskType, Tier, Turn

_USER: Final = Role.USER  # a member is looked up through a function, and this is asked for once per turn
_USER_TURNS: Final = 4  # older turns have decayed to nothing, and would cost time
_EARLIER_CHARS: Final = 300
_FOLLOW_UP_WORDS: Final = 12
_REVIEWED_TURNS: Final = 64
_CLASSIFIED: Final = 4
_MANY_CONSTRAINTS: Final = 3
_SPINNING: Final = 0.5
_CHARS_PER_TOKEN: Final = 4.0
_WIDE_CHARS_PER_TOKEN: Final = 1.5

SIGNAL_NAMES: Final = frozenset(
    {f"task_{task.value}" for task in TaskType}
    | {
        "always", "multi_step", "failed_on_base", "failed_on_strong", "memory_unknown", "review_large",
        "review_high_risk", "review_untested", "review_mostly_removed", "risk_r1_or_more", "risk_r2_or_more",
        "risk_r3_or_more", "needs_reasoning", "untrusted_content", "tool_loop", "stalled", "spinning", "exploring",
        "producing", "tool_error", "tool_error_critical", "dissatisfied", "tools_offered", "proof_or_algorithm",
        "severe", "not_english", "many_constraints",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signals:
    """The evidence a policy decides on. `risk` is the trusted class, raised by what the text orders.

    `failures_on_base` and `failures_on_strong` are the sums of the evidence in the memory and in the conversation.
    `context_tokens` estimates the whole conversation, `severe` says that the words call something an outage or worse.
    """

    task: TaskType = TaskType.GENERAL
    multi_step: bool = False
    failures_on_base: float = 0.0
    failures_on_strong: float = 0.0
    memory_known: bool = True
    review: Review = NO_REVIEW
    risk: Risk = Risk.R0
    needs_reasoning: bool = False
    untrusted_content: bool = False
    tools_offered: bool = False
    proof_or_algorithm: bool = False
    severe: bool = False
    language: str = "en"
    constraints: int = 0
    context_tokens: int = 0
    agent: AgentState = AgentState()
    failed: float = FAILED

    @property
    def names(self) -> frozenset[str]:
        """The named signals that are true; a subset of `SIGNAL_NAMES`."""
        risk, agent = self.risk.rank, self.agent
        truths = (
            ("multi_step", self.multi_step),
            ("failed_on_base", is_failure(self.failures_on_base, self.failed)),
            ("failed_on_strong", is_failure(self.failures_on_strong)),
            ("memory_unknown", not self.memory_known),
            ("review_large", self.review.scope is ReviewScope.LARGE),
            ("review_high_risk", self.review.high_risk),
            ("review_untested", self.review.untested),
            ("review_mostly_removed", self.review.mostly_removed),
            ("risk_r1_or_more", risk >= 1),
            ("risk_r2_or_more", risk >= 2),
            ("risk_r3_or_more", risk >= 3),
            ("needs_reasoning", self.needs_reasoning),
            ("untrusted_content", self.untrusted_content),
            ("tool_loop", agent.tool_loop),
            ("stalled", agent.stalled),
            ("spinning", agent.repeat_share >= _SPINNING),
            ("exploring", agent.exploring),
            ("producing", agent.producing),
            ("tool_error", agent.tool_errors > 0),
            ("tool_error_critical", agent.severity is Severity.CRITICAL),
            ("dissatisfied", agent.dissatisfied),
            ("tools_offered", self.tools_offered),
            ("proof_or_algorithm", self.proof_or_algorithm),
            ("severe", self.severe),
            ("not_english", self.language not in {"en", "other"}),
            ("many_constraints", self.constraints >= _MANY_CONSTRAINTS),
        )
        return frozenset({"always", f"task_{self.task.value}", *(name for name, true in truths if true)})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the request said: its signals, and the user turns that were read, newest first and never empty.

    The first one is the last substantive turn: "yes, go ahead" stands for the turn before it.
    """

    signals: Signals
    said: tuple[Passage, ...]


def collect(request: RouteRequest, state: StateView, limits: ReviewLimits, failed: float = FAILED) -> Evidence:
    """Everything the policy, the effort and the score look at. Only what users said counts; the system prompt never.

    `failed` is the sum of evidence from which on an attempt on the base tier has failed.
    """
    passages = _user_passages(request.turns)
    said = _substantive(passages)
    agent = read_agent_state(request.turns, passages)
    shows = [has_diff(passage.text) for passage in said[:_CLASSIFIED]]
    task = _task(said, shows)
    review = _review(request.turns, said[0], limits) if task is TaskType.CODE_REVIEW else NO_REVIEW
    untrusted = request.untrusted_content or agent.tool_results > 0
    risk = _risk(request, said[0], shows[0], untrusted)
    # What the conversation shows against its newest attempt speaks of the tier that made it.
    on_strong = agent.newest_weight if state.last_tier is Tier.STRONG else 0.0
    count = said[0].features.count
    return Evidence(
        signals=Signals(
            task=task,
            multi_step=_multi_step(task, said, agent),
            failures_on_base=state.failures_on_base + agent.newest_weight - on_strong + agent.earlier_weight,
            failures_on_strong=state.failures_on_strong + on_strong,
            memory_known=state.known,
            review=review,
            risk=risk,
            needs_reasoning=needs_reasoning(said[0], task, risk),
            untrusted_content=untrusted,
            tools_offered=bool(request.offered_tools),
            proof_or_algorithm=is_proof_or_algorithm(said[0]),
            severe=count(Group.INCIDENT) > 0 and (count(Group.PRODUCTION) > 0 or count(Group.FAILURE) > 0),
            language=language_of(said[0].lowered, said[0].words),
            constraints=count(Group.CONSTRAINT),
            context_tokens=_context_tokens(request.turns),
            agent=agent,
            failed=failed,
        ),
        said=said,
    )


def estimated_risk(request: RouteRequest) -> Risk:
    """The trusted class, raised by what the newest user turn and the newest tool calls order."""
    untrusted = request.untrusted_content or any(turn.role is Role.TOOL for turn in request.turns)
    newest = _substantive(_user_passages(request.turns))[0]
    return _risk(request, newest, has_diff(newest.text), untrusted)


def _user_passages(turns: Sequence[Turn]) -> list[Passage]:
    passages: list[Passage] = []
    for turn in reversed(turns):
        if turn.role is not _USER:
            continue
        text = strip_harness(turn.text).strip()
        if not text:
            continue
        # The last one that says something is read in full, older ones at their ends.
        newest = all(is_acknowledgement(passage) for passage in passages)
        passages.append(read(text) if newest else read(text, _EARLIER_CHARS, _EARLIER_CHARS))
        if len(passages) >= _USER_TURNS:
            break
    return passages


def _substantive(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    for position, passage in enumerate(passages):
        if not is_acknowledgement(passage):
            return tuple(passages[position:])
    return tuple(passages) or (read(""),)


def _task(said: Sequence[Passage], shows_diff: Sequence[bool]) -> TaskType:
    """The task of the newest turn; a complaint or a short follow-up goes on with the task of the turn before it."""
    newest = classify(said[0], shows_diff[0])
    for passage, before, shown in zip(said, said[1:], shows_diff[1:], strict=False):
        follow_up = passage.features.words <= _FOLLOW_UP_WORDS and newest is TaskType.GENERAL
        if not follow_up and not says_it_failed(passage.text):
            break
        earlier = classify(before, shown)
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
    review = measure_text("\n".join(reversed(shown)), limits) if shown else measure_said(newest.lowered, limits)
    sensitive = newest.features.count(Group.RISKY_AREA) > 0 and _names_risky_area(newest)
    return replace(review, high_risk=True) if sensitive else review


def _names_risky_area(newest: Passage) -> bool:
    """True when the request itself, not the code below it, speaks of a sensitive area."""
    from_request = prose(newest.lowered.split("```", 1)[0])
    return any(Group.RISKY_AREA in GROUPS_OF.get(word, ()) for word in split_words(from_request))


def _risk(request: RouteRequest, newest: Passage, shows_diff: bool, untrusted_content: bool) -> Risk:
    words = prose(newest.lowered) if shows_diff else newest.lowered
    estimate = said_risk(words, newest.vocabulary).at_least(called_risk(request.turns))
    if request.offered_tools:
        estimate = estimate.at_least(offered_risk(request.offered_tools, newest.vocabulary, untrusted_content))
    return estimate if request.trusted_risk is None else estimate.at_least(request.trusted_risk)


def _context_tokens(turns: Sequence[Turn]) -> int:
    """About how many tokens the conversation has: four characters each, or one and a half ideographs."""
    texts = [turn.text for turn in turns]
    texts += [arguments for turn in turns if turn.tool_calls for _, arguments in turn.tool_calls]
    plain, wide = float(sum(map(len, filter(str.isascii, texts)))), 0.0
    for text in itertools.filterfalse(str.isascii, texts):
        # An ideograph is three bytes long: two more than an ASCII sign. Cyrillic counts as half of one.
        seen = window(text)
        beyond = (len(seen.encode("utf-8", "surrogatepass")) - len(seen)) / 2 * len(text) / len(seen)
        wide += beyond
        plain += max(len(text) - beyond, 0.0)
    return int(plain / _CHARS_PER_TOKEN + wide / _WIDE_CHARS_PER_TOKEN)
