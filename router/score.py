"""How difficult is a turn, in [0, 1]: length and structure, added up so that every term can be shown.

Cold start: no term is learned from labels. Length carries most of the weight because on public label sets it ranks as
well as anything that needs no labels of its own; the other terms separate kinds of work of equal length. It explains
and orders; no rule of the policy depends on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.features import Features, Passage
from router.lexicon import Group

_BIAS: Final = -1.3
_TYPICAL_LOG_CHARS: Final = 5.0  # about 150 characters
_DECAY: Final = 0.6
_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Score:
    """A difficulty and the terms that make it up: they sum to its logit."""

    difficulty: float
    contributions: tuple[tuple[str, float], ...]


def score(said: Sequence[Passage]) -> Score:
    """The score of a conversation from its user turns, newest first: the newest, or an earlier harder one, decayed."""
    terms = _terms(said[0].features)
    newest = _squash(sum(value for _, value in terms))
    earlier = [
        _squash(sum(value for _, value in _terms(passage.features))) * _DECAY**age
        for age, passage in enumerate(said[1:], start=1)
    ]
    difficulty = max([newest, *earlier])
    if difficulty > newest:
        terms = (*terms, ("earlier_turns", _logit(difficulty) - _logit(newest)))
    return Score(difficulty=round(difficulty, 6), contributions=tuple((name, round(value, 6)) for name, value in terms))


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


def _squash(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


def _logit(probability: float) -> float:
    bounded = _clip(probability, _FLOOR, 1.0 - _FLOOR)
    return math.log(bounded / (1.0 - bounded))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
