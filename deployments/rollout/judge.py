"""Whether a candidate is worse than the baseline: a sequential test that may be read after every request. Pure.

Each metric is a share of bad trials, p of the candidate and q of the baseline. For trials that are independent,

    M(p) = B(a + bad, a + good) / B(a, a) / (p^bad (1 - p)^good),    a = 1/2

is a martingale at the true p that begins at 1, whatever is done with the figures meanwhile; so is the product of both
revisions'. By Ville's inequality it ever reaches 1/alpha with probability alpha at most. A hypothesis "p <= q + d" is
rejected when the smallest product over all (p, q) that obey it reaches 1/alpha: a mixture sequential probability ratio
test of two binomials, which gives no more false alarms at the thousandth look than at the first.

Requests of one session are not independent. Counts are divided by the design effect first, so that as many of them as
it says are one trial.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from deployments.rollouts import Bound, Metric, Plan, Rules, Standing, State

_PRIOR: Final = 0.5
_STEPS: Final = 60  # of a golden section: more than a float can tell apart
_RATIO: Final = (math.sqrt(5.0) - 1.0) / 2.0
_TINY: Final = 1e-12


class Verdict(StrEnum):
    """What is to be done."""

    WAIT = "wait"
    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials, and how many of them were bad."""

    trials: float = 0
    bad: float = 0

    def of(self, design_effect: float) -> "Tally":
        """What as many independent trials would be."""
        return Tally(self.trials / design_effect, self.bad / design_effect)

    @property
    def share(self) -> float:
        """Of the bad ones; 0 without any trial."""
        return self.bad / self.trials if self.trials else 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    """What was counted of both revisions in one stage."""

    candidate: Tally = Tally()
    baseline: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric. Both are natural logarithms of evidence, which alarms and clears at `needed`.

    `worse`: for more than the slack; `near`: for less than the tolerance. `enough`: of both revisions as much as the
    bound asks for was counted; `seen`: of the candidate.
    """

    metric: Metric
    pair: Pair
    worse: float
    near: float
    needed: float
    enough: bool
    seen: bool
    required: bool

    @property
    def alarms(self) -> bool:
        """The candidate is worse."""
        return self.worse >= self.needed

    @property
    def clears(self) -> bool:
        """The candidate is not much worse; or nobody knows, and nobody has to."""
        if self.enough:
            return self.near >= self.needed
        return not self.required


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and why. Empty `findings`: the figures were not asked."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()


def evidence(one: Tally, other: Tally, margin: float) -> float:
    """Natural logarithm of the evidence against "the share of `one` is at most that of `other` plus `margin`".

    `margin` in (-1, 1). It ever reaches log(1 / alpha) with probability alpha at most if that is true.
    """
    if one.share <= other.share + margin:
        return 0.0  # the likeliest shares obey it: no evidence against it

    def at(share: float) -> float:
        """Convex in the share, as both logarithms are concave."""
        return -_log_likelihood(one, share + margin) - _log_likelihood(other, share)

    least = _smallest(at, max(0.0, -margin), min(1.0, 1.0 - margin))
    return max(0.0, _log_mixed(one) + _log_mixed(other) + least)


def _log_mixed(tally: Tally) -> float:
    """Logarithm of the likelihood, averaged over all shares."""
    good = tally.trials - tally.bad
    return _log_beta(_PRIOR + tally.bad, _PRIOR + good) - _log_beta(_PRIOR, _PRIOR)


def _log_likelihood(tally: Tally, share: float) -> float:
    share = min(max(share, _TINY), 1.0 - _TINY)
    return tally.bad * math.log(share) + (tally.trials - tally.bad) * math.log1p(-share)


def _log_beta(one: float, other: float) -> float:
    return math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)


def _smallest(of: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function between two points, by golden section."""
    left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _RATIO * (high - low)
            at_left = of(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _RATIO * (high - low)
            at_right = of(right)
    return min(at_left, at_right, of(low), of(high))


def eval_alarm_share(plan: Plan) -> float:
    """How probable a false alarm of the evaluation may be: half of what the rules allow a rollout.

    It is read once, of few cases, where every case counts. What is read of traffic waits for some more requests
    instead: for ln 2 more of evidence where it needs seven or eight.
    """
    return plan.rules.false_alarm / 2 if plan.eval_cases else 0.0


def needed(plan: Plan) -> float:
    """What evidence a finding needs, as a natural logarithm, so that all of a rollout err as seldom as its rules say.

    Each metric is tested once in each stage that sees traffic, and in the shadow; the evaluation has its share apart.
    """
    tests = len(plan.rules.bounds) * (len(plan.shares) + plan.shadow)
    return -math.log((plan.rules.false_alarm - eval_alarm_share(plan)) / tests)


def find(plan: Plan, bound: Bound, pair: Pair, drift: float = 0.0) -> Finding:
    """What the figures of one metric say."""
    effect = plan.rules.design_effect
    candidate, baseline = pair.candidate.of(effect), pair.baseline.of(effect)
    return Finding(
        metric=bound.metric,
        pair=pair,
        worse=evidence(candidate, baseline, min(bound.slack + drift, 0.99)),
        near=evidence(baseline, candidate, -bound.tolerance),
        needed=needed(plan),
        enough=min(pair.candidate.trials, pair.baseline.trials) >= bound.min_count,
        seen=pair.candidate.trials >= bound.min_count,
        required=bound.required,
    )


def judge(plan: Plan, now: Standing, figures: Mapping[Metric, Pair], at_ms: int, lasting: bool = False) -> Judgement:
    """What to do with a rollout in a stage that sees traffic. In a window, promoting is to give up the way back.

    In a window nothing is left of the baseline, whose figures are those of before: `drift` is allowed for. It ends with
    time, but not unseen: where nothing is counted of the candidate, nobody knows that it is well. `lasting`: there is
    no way back that could be given up, and nothing is counted any more.
    """
    rules, stayed_s = plan.rules, (at_ms - now.since_ms) / 1000
    watching = now.state is State.WATCH
    drift = rules.drift if watching else 0.0
    found = tuple(find(plan, bound, figures.get(bound.metric, Pair()), drift) for bound in rules.bounds)
    alarms = [each for each in found if each.alarms]
    if alarms:
        return Judgement(Verdict.ROLL_BACK, "worse: " + _said(alarms), found)
    if watching:
        return _at_the_window(found, stayed_s, rules, lasting)
    if now.state is State.SHADOW and stayed_s >= rules.min_s:
        return Judgement(Verdict.PROMOTE, "the shadow saw nothing that is worse", found)
    open_ones = [each for each in found if not each.clears]
    if not open_ones and stayed_s >= rules.min_s:
        return Judgement(Verdict.PROMOTE, "not worse: " + _said(found), found)
    if stayed_s >= rules.deadline_s:
        return Judgement(Verdict.HOLD, "not enough evidence by the deadline: " + _said(open_ones), found)
    return Judgement(Verdict.WAIT, "more evidence is needed" if open_ones else "the stage is young", found)


def _at_the_window(found: tuple[Finding, ...], stayed_s: float, rules: Rules, lasting: bool) -> Judgement:
    unseen = [each for each in found if each.required and not each.seen]
    if stayed_s < rules.window_s:
        return Judgement(Verdict.WAIT, "the window is open", found)
    if not unseen:
        return Judgement(Verdict.PROMOTE, "the window is over, and nothing got worse", found)
    if lasting:
        return Judgement(Verdict.PROMOTE, "the window is over, and the configuration names no other revision", found)
    if stayed_s >= rules.deadline_s:
        return Judgement(Verdict.HOLD, "too little was seen of it by the deadline: " + _said(unseen), found)
    return Judgement(Verdict.WAIT, "the window is over, and too little was seen of it", found)


def _said(findings: Sequence[Finding]) -> str:
    return "; ".join(
        f"{each.metric.value} {each.pair.candidate.bad:.0f}/{each.pair.candidate.trials:.0f} against "
        f"{each.pair.baseline.bad:.0f}/{each.pair.baseline.trials:.0f}"
        for each in findings
        if each.enough or each.alarms or each.required
    )
