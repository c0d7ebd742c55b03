"""Whether the answers to the same cases show one revision to be worse than the other. Pure.

Cases differ far more than revisions do, so each case is asked of both, and those that both pass or both fail say
nothing. Of equal revisions a case that only one passes is as likely the one's as the other's: how many of them only the
baseline passed is binomial at 1/2 (the exact test of McNemar, one-sided). It is read once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_Z: Final = 1.959963984540054  # 95 %


@dataclass(frozen=True, slots=True)
class Passed:
    """Of so many cases asked of both, how many the candidate passed and how many the baseline did."""

    asked: int
    candidate: int
    baseline: int

    def __str__(self) -> str:
        return f"{self.candidate}/{self.asked} against {self.baseline}/{self.asked}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both revisions on the same cases. `only_*`: passed by this one and not by the other; `families` by name."""

    all: Passed
    only_candidate: int
    only_baseline: int
    families: Mapping[str, Passed]

    @property
    def p_value(self) -> float:
        """How probable as many or more cases that only the baseline passed would be, were the revisions equal."""
        return tail(self.only_baseline, self.only_baseline + self.only_candidate)

    @property
    def behind(self) -> list[str]:
        """The families of which the candidate passed fewer, the worst first."""
        found = [(each.candidate - each.baseline, name) for name, each in self.families.items()]
        return [name for lead, name in sorted(found) if lead < 0]


def compare(candidate: Mapping[str, bool], baseline: Mapping[str, bool], families: Mapping[str, str]) -> Comparison:
    """Both revisions on the cases that both have, by name; `families` says which family each of them is of."""
    names = sorted(candidate.keys() & baseline.keys())
    of: dict[str, list[str]] = {}
    for name in names:
        of.setdefault(families[name], []).append(name)

    def passed(some: list[str]) -> Passed:
        return Passed(len(some), sum(candidate[each] for each in some), sum(baseline[each] for each in some))

    return Comparison(
        passed(names),
        sum(candidate[each] and not baseline[each] for each in names),
        sum(baseline[each] and not candidate[each] for each in names),
        {family: passed(some) for family, some in sorted(of.items())},
    )


def worse(found: Comparison, alpha: float, min_pass: float = 0.0) -> str | None:
    """Why the candidate goes back, None: it does not. No word of a prompt or an answer, so that it can be recorded.

    `alpha` is how probable it may be that this says so of a revision that is as good; `min_pass` in [0, 1] is a share
    that must be passed whatever the baseline does.
    """
    share = found.all.candidate / found.all.asked if found.all.asked else 0.0
    if found.p_value <= alpha:
        where = ", ".join(found.behind)
        only = f"{found.only_baseline} only by the one before, {found.only_candidate} only by the new one"
        return f"worse: eval {found.all}; {only}; p {found.p_value:.2g}; in {where}"
    if share < min_pass:
        return f"the eval cases: {found.all}, and at least {min_pass:.0%} must be passed"
    return None


def fine(found: Comparison) -> str:
    """The same of a candidate that goes on."""
    return f"not shown to be worse: eval {found.all}, p {found.p_value:.2g}"


def tail(at_least: int, of: int) -> float:
    """P(X >= `at_least`) for X binomial of `of` trials at 1/2, exactly but for the last rounding."""
    return sum(math.comb(of, each) for each in range(at_least, of + 1)) / 2**of


def wilson(passed: int, asked: int) -> tuple[float, float]:
    """The share of the passed with 95 % confidence, by Wilson's score; (0, 1) of none."""
    if not asked:
        return 0.0, 1.0
    share, square = passed / asked, _Z * _Z
    middle = (share + square / (2 * asked)) / (1 + square / asked)
    half = _Z / (1 + square / asked) * math.sqrt(share * (1 - share) / asked + square / (4 * asked * asked))
    return max(0.0, middle - half), min(1.0, middle + half)
