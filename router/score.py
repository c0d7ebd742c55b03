"""How difficult is a turn, in [0, 1], and what the strong tier would gain: sums whose every term can be shown.

Without a snapshot (cold start) no term is learned from labels: length and structure are added up by hand. With one, its
heads speak: a difficulty head orders turns; two heads, P(weak ok) and P(strong ok), also say what the strong tier
gains. The learned part abstains where the text is unlike its training, or where the gain may as well be nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.calibrate import Curve, logit_of, squash
from router.features import Features, Passage
from router.heads import UNSEEN_LIMIT, Head, Sighting, logit_terms, sight
from router.lexicon import Group
from router.snapshot import Snapshot
from router.types import Arm, Effort, Tier

EARLIER: Final = "earlier_turns"
NO_SURE_GAIN: Final = "the lower bound of the gain is not above 0"
_BIAS: Final = -1.3
_TYPICAL_LOG_CHARS: Final = 5.0  # about 150 characters
_DECAY: Final = 0.6
_LEARNED_EARLIER_TURNS: Final = 2  # older ones have decayed below any newest turn, and would cost time
_DIGITS: Final = 6
_WEAK_ARM: Final = Arm(Tier.BASE, Effort.MEDIUM)
_STRONG_ARM: Final = Arm(Tier.STRONG, Effort.MEDIUM)


@dataclass(frozen=True, slots=True)
class Score:
    """A difficulty, the terms that make it up, and what the learned part says.

    `difficulty` is the logistic function of the sum of `contributions`, nothing left over. `gain` is P(strong ok) -
    P(weak ok) in [-1, 1] and `gain_low` its lower bound where the snapshot has two heads; `arms` are the arms with a
    known P(ok). `abstained` says why the learned part must propose nothing, whatever its figures are; None when it may,
    or when there is no snapshot.
    """

    difficulty: float
    contributions: tuple[tuple[str, float], ...]
    gain: float | None = None
    gain_low: float | None = None
    abstained: str | None = None
    arms: tuple[tuple[Arm, float], ...] = ()


def score(said: Sequence[Passage], snapshot: Snapshot | None = None) -> Score:
    """The score of a conversation from its user turns, newest first: the newest, or an earlier harder one, decayed."""
    if snapshot is None:
        return _cold(said)
    if snapshot.gain_low is not None:
        weak, strong = snapshot.heads
        return _by_gain(said, snapshot, weak, strong, snapshot.gain_low)
    (difficulty,) = snapshot.heads
    return _by_difficulty(said, snapshot, difficulty)


def _cold(said: Sequence[Passage]) -> Score:
    earlier = [squash(math.fsum(value for _, value in _terms(passage.features))) for passage in said[1:]]
    return _summed(_terms(said[0].features), earlier)


def _by_difficulty(said: Sequence[Passage], snapshot: Snapshot, head: Head) -> Score:
    """What training never met is left out of the words' term; length and structure mean the same everywhere."""
    newest = _sight(said[0], snapshot)
    terms = logit_terms(head, newest, snapshot.names, words=not newest.foreign)
    reached = squash(math.fsum(round(value, _DIGITS) for _, value in terms))
    earlier: list[float] = []
    for age, passage in enumerate(said[1 : 1 + _LEARNED_EARLIER_TURNS], start=1):
        if reached >= _DECAY**age:
            break  # the hardest turn of all has decayed below the newest one
        seen = _sight(passage, snapshot)
        earlier.append(squash(math.fsum(v for _, v in logit_terms(head, seen, snapshot.names, words=not seen.foreign))))
    return _summed(terms, earlier, _doubt(newest))


def _by_gain(said: Sequence[Passage], snapshot: Snapshot, weak: Head, strong: Head, gain_low: Curve) -> Score:
    """Both heads on the newest turn; difficulty is P(weak wrong). Figures are given in doubt too: `abstained` warns."""
    newest = _sight(said[0], snapshot)
    words = not newest.foreign
    summed = _summed([(name, -value) for name, value in logit_terms(weak, newest, snapshot.names, words=words)])
    weak_ok = 1.0 - summed.difficulty
    strong_ok = squash(math.fsum(value for _, value in logit_terms(strong, newest, snapshot.names, words=words)))
    gain = strong_ok - weak_ok
    low = min(gain_low.at(gain), gain)
    return Score(
        difficulty=summed.difficulty,
        contributions=summed.contributions,
        gain=round(gain, _DIGITS),
        gain_low=round(low, _DIGITS),
        abstained=_doubt(newest) or (NO_SURE_GAIN if low <= 0 else None),
        arms=((_WEAK_ARM, round(weak_ok, _DIGITS)), (_STRONG_ARM, round(strong_ok, _DIGITS))),
    )


def _sight(passage: Passage, snapshot: Snapshot) -> Sighting:
    return sight(passage, snapshot.scales, snapshot.seen, snapshot.bits)


def _doubt(seen: Sighting) -> str | None:
    if seen.foreign:
        return f"more than {UNSEEN_LIMIT:.0%} of the wording was never met in training"
    if seen.outside:
        return f"outside what training saw: {', '.join(seen.outside)}"
    return None


def _summed(terms: Sequence[tuple[str, float]], earlier: Sequence[float] = (), abstained: str | None = None) -> Score:
    """The score of these terms, raised to the hardest of the `earlier` difficulties (newest first) after their decay.

    Terms are rounded before they are summed, so that what is shown adds up to what was decided.
    """
    shown = [(name, round(value, _DIGITS)) for name, value in terms if value]
    newest = squash(math.fsum(value for _, value in shown))
    hardest = max((value * _DECAY**age for age, value in enumerate(earlier, start=1)), default=0.0)
    if hardest > newest:
        shown.append((EARLIER, round(logit_of(hardest) - logit_of(newest), _DIGITS)))
    difficulty = squash(math.fsum(value for _, value in shown))
    return Score(difficulty=round(difficulty, _DIGITS), contributions=tuple(shown), abstained=abstained)


def _terms(features: Features) -> tuple[tuple[str, float], ...]:
    count = features.count
    length = 0.9 * _clip(features.log_characters - _TYPICAL_LOG_CHARS, -2.5, 4.0)
    return (
        ("bias", _BIAS),
        ("length", length),
        ("reasoning", 0.2 * min(count(Group.REASONING), 4)),
        ("proof", 0.5 * min(count(Group.PROOF), 2)),
        ("mathematics", 0.08 * min(count(Group.MATHEMATICS), 4)),
        ("algorithm", 0.4 * min(count(Group.ALGORITHM), 2)),
        ("code", 0.06 * min(count(Group.CODE), 5)),
        ("diagnosis", 0.15 * min(count(Group.ROOT_CAUSE) + count(Group.DIAGNOSE), 3)),
        ("constraints", 0.08 * min(count(Group.CONSTRAINT), 6)),
        ("steps", 0.08 * min(features.steps, 6)),
        ("long_words", 0.8 * min(features.long_word_share, 0.5)),
        ("greeting", -1.0 if count(Group.GREETING) > 0 and features.words <= 8 else 0.0),
    )


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
