"""A decision in numbers, names and short sentences. Nothing here holds a word of the prompt.

Everything is made from a trace, so an explanation cannot disagree with what was decided.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from router.calibrate import squash
from router.conditions import AllOf, Condition, Is, Not, holds, signals_in
from router.policy import Effect, Policy, Rule
from router.route import Trace
from router.types import ARMS, Alternative, Arm, Detail, Effort, Mode, RuleTruth, StateView, Tier

DEBUG_REQUEST_HEADER: Final = "x-gatehouse-route-debug"
DEBUG_HEADERS: Final = tuple(
    f"x-gatehouse-route-{name}" for name in ("signals", "rules", "gain", "threshold", "state", "shadow")
)
"""The headers of `debug_headers`, in their order."""

SCHEMA: Final = "1"
"""Version of the header names and of their meaning."""

_TOP: Final = 10
_DIGITS: Final = 6
_MOST_HEADER_CHARS: Final = 512
_SENTENCES: Final = 6

_WORDS: Final = {
    "failed_on_base": "one more hard failure",
    "failed_on_strong": "one hard failure on the strong tier",
    "multi_step": "several steps",
    "review_large": "a large change",
    "review_high_risk": "a risky path in the change",
    "risk_r1_or_more": "risk R1",
    "risk_r2_or_more": "risk R2",
    "risk_r3_or_more": "risk R3",
    "needs_reasoning": "a need for reasoning",
    "untrusted_content": "third-party content",
}
_DECIDED: Final = frozenset({"default", "learned_gain", "learned_difficulty", "exploration"})


def explain(trace: Trace, policy: Policy, state: StateView) -> Detail:
    """All that explains a decision; `policy` and `state` are those that it was made with."""
    agent, decision = trace.signals.agent, trace.decision
    return Detail(
        task=trace.signals.task.value,
        risk=trace.signals.risk,
        signals=tuple(sorted(trace.signals.names)),
        contributions=top(trace.score.contributions),
        mode=decision.mode,
        confidence=confidence(trace),
        proposal=trace.proposal,
        shadow=(Arm(trace.shadow.tier, trace.shadow.effort), trace.shadow.reason),
        alternatives=alternatives(trace, policy),
        counterfactual=tuple(counterfactuals(trace, policy)),
        rules=tuple(_truth(rule, trace) for rule in policy.rules),
        provenance=policy.provenance,
        stages=trace.stages,
        evidence=tuple((kind.value, weight) for kind, weight in (*agent.newest, *agent.earlier)),
        failures=(
            (Tier.BASE, round(trace.signals.failures_on_base, _DIGITS)),
            (Tier.STRONG, round(trace.signals.failures_on_strong, _DIGITS)),
        ),
        propensities=trace.propensities,
        state=tuple(_standing(state)),
    )


def confidence(trace: Trace) -> float:
    """How far the tier is from changing, in [0.5, 1]: 1 where a rule, a wish or the memory decided.

    Else it grows with the distance between the score and the budget's threshold; without a threshold, and where the
    learned part abstains, it is 0.5. It is not the probability of a good answer.
    """
    if trace.decision.reason not in _DECIDED:
        return 1.0
    proposal = trace.proposal
    if proposal.threshold is None or proposal.abstained is not None or trace.decision.explored:
        return 0.5
    return round(squash(abs(proposal.logit - proposal.threshold)), 4)


def alternatives(trace: Trace, policy: Policy) -> tuple[Alternative, ...]:
    """Every arm of the router with what is known of it, by rising cost; one that was chosen outside of them first."""
    known = dict(trace.score.arms)
    costs = dict(policy.costs)
    chosen = Arm(trace.decision.tier, trace.decision.effort)
    others = () if chosen in ARMS else (chosen,)
    listed = (
        Alternative(arm, known.get(arm), costs.get(arm, 1.0), trace.bounds.allows(arm, policy))
        for arm in (*others, *ARMS)
    )
    return tuple(sorted(listed, key=lambda each: each.relative_cost))


def counterfactuals(trace: Trace, policy: Policy) -> Iterator[str]:
    """What would have led to another arm, the nearest first; a few short sentences."""
    yield from list(_counterfactuals(trace, policy))[:_SENTENCES]


def _counterfactuals(trace: Trace, policy: Policy) -> Iterator[str]:
    decision, names = trace.decision, trace.signals.names
    if decision.hold is not None:
        yield f"{decision.tier.value} again, once it is back and allowed"
    yield from _by_score(trace)
    fired = [rule for rule in policy.rules if holds(rule.when, names)]
    floors = [rule for rule in fired if rule.effect is Effect.FLOOR and rule.tier is Tier.STRONG]
    if floors:
        yield f"{policy.default_tier.value} without {' and '.join(rule.rule_id for rule in floors)}"
    for rule in policy.rules:
        if rule in fired or rule.effect not in {Effect.FLOOR, Effect.FORCE, Effect.PREFER}:
            continue
        higher = _rank(rule.tier) > decision.tier.rank or (
            _rank(rule.tier) == decision.tier.rank and _rank(rule.effort) > decision.effort.rank
        )
        missing = _missing(rule.when, names)
        if higher and len(missing) == 1 and not missing[0].startswith(("task_", "not task_")):
            yield f"{_arm(rule)} with {_said(missing[0])} ({rule.rule_id})"
    if decision.tier is Tier.BASE and decision.hold is None and trace.signals.failures_on_base < 1:
        yield "a step up with one more hard failure"


def _by_score(trace: Trace) -> Iterator[str]:
    proposal, decision = trace.proposal, trace.decision
    if decision.reason not in _DECIDED or proposal.demanded is None or proposal.abstained is not None:
        return
    if decision.mode is Mode.BYPASS:
        return
    taken = proposal.taken
    tier, sign = (Tier.BASE, "<") if taken else (Tier.STRONG, ">=")
    acts = "" if decision.mode is Mode.APPLY else ", if the learned part were to act"
    yield f"{tier.value} if {proposal.kind} {sign} {proposal.demanded:.2f}, was {proposal.value:.2f}{acts}"


def _missing(condition: Condition, names: frozenset[str]) -> Sequence[str]:
    """What a conjunction lacks to be true; empty where it is none."""
    parts = condition.parts if isinstance(condition, AllOf) else (condition,)
    lacking: list[str] = []
    for part in parts:
        if holds(part, names):
            continue
        match part:
            case Is(name):
                lacking.append(name)
            case Not(Is(name)):
                lacking.append(f"not {name}")
            case _:
                return ()
    return lacking


def _said(signal: str) -> str:
    return _WORDS.get(signal, signal)


def _arm(rule: Rule) -> str:
    parts = [part.value for part in (rule.tier, rule.effort) if part is not None]
    return "/".join(parts)


def _rank(value: Tier | Effort | None) -> int:
    return -1 if value is None else value.rank


def _truth(rule: Rule, trace: Trace) -> RuleTruth:
    names = trace.signals.names
    effects = [rule.effect.value]
    if rule.bypass_learning and rule.effect is not Effect.BYPASS_LEARNING:
        effects.append(Effect.BYPASS_LEARNING.value)
    return RuleTruth(
        rule_id=rule.rule_id,
        fired=holds(rule.when, names),
        effect="+".join(effects),
        safety=rule.safety,
        source=rule.source,
        signals=tuple((name, name in names) for name in signals_in(rule.when)),
    )


def _standing(state: StateView) -> Iterator[tuple[str, str]]:
    yield "known", str(state.known).lower()
    yield "failures_on_base", f"{state.failures_on_base:g}"
    yield "failures_on_strong", f"{state.failures_on_strong:g}"
    yield "latched", state.latched_tier.value if state.latched_tier else "none"
    last = (state.last_tier, state.last_effort)
    yield "last", "/".join(part.value for part in last if part is not None) or "none"
    yield "size_steps", str(state.size_steps)
    yield "effort_steps", str(state.effort_steps)


def headers(
    *, effort: Effort, reason: str, policy_digest: str, mode: Mode, confidence: float
) -> tuple[tuple[str, str], ...]:
    """The headers that every answer carries, beside the id and the model."""
    return (
        ("x-gatehouse-route-schema", SCHEMA),
        ("x-gatehouse-route-effort", effort.value),
        ("x-gatehouse-route-reason", reason),
        ("x-gatehouse-route-policy", policy_digest),
        ("x-gatehouse-route-confidence", f"{confidence:.2f}"),
        ("x-gatehouse-route-mode", mode.value),
    )


def debug_headers(detail: Detail) -> tuple[tuple[str, str], ...]:
    """The headers for whoever may see more: ASCII names and numbers, each value at most 512 characters."""
    proposal = detail.proposal
    arm, reason = detail.shadow
    abstained = f" ({proposal.abstained})" if proposal.abstained else ""
    values = (
        " ".join(detail.signals),
        " ".join(f"{rule.rule_id}={'true' if rule.fired else 'false'}" for rule in detail.rules),
        f"{proposal.kind} {proposal.value:.4f}{abstained}",
        "none" if proposal.demanded is None else f"{proposal.demanded:.4f}",
        " ".join(f"{name}={value}" for name, value in detail.state),
        f"{arm} {reason}",
    )
    return tuple(zip(DEBUG_HEADERS, map(_header, values), strict=True))


def _header(value: str) -> str:
    """The value as a header can carry it, cut with a mark where it is too long."""
    plain = "".join(sign if " " <= sign <= "~" else "?" for sign in value)
    return plain if len(plain) <= _MOST_HEADER_CHARS else f"{plain[: _MOST_HEADER_CHARS - 3]}..."


def top(contributions: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The ten terms that weigh most, and the sum of the others as `rest`: together they are still the whole logit."""
    ordered = sorted(contributions, key=lambda term: (-abs(term[1]), term[0]))
    shown, others = ordered[:_TOP], ordered[_TOP:]
    if not others:
        return tuple(shown)
    return (*shown, ("rest", round(math.fsum(value for _, value in others), _DIGITS)))
