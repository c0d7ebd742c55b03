"""What can be counted in a text, in one linear pass over a bounded window.

Cost is bounded by the window (3,000 characters), not by the prompt: the bar is 1 ms of CPU on 64 kB.
"""

import math
import re
import string
from dataclasses import dataclass
from typing import Final

from router.lexicon import Group, count_groups, split_words
from router.text import HEAD_CHARS, TAIL_CHARS, window

_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_ASCII_NUMBER: Final = re.compile(rb"[0-9]+(?:[.,][0-9]+)*")
# For ASCII: all but the signs of numbers as blanks, so that a search has little left to look at.
_NUMERIC: Final = bytes(sign if sign in b"0123456789.," else 32 for sign in range(256))
_IDEOGRAPHS: Final = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+")
# Of a text with a line feed before it: a search for one sign runs ten times as fast as one for the start of a line.
_OPTION: Final = re.compile(r"\n\s{0,4}\(?[A-Ha-h][.)](?=\s)")
_STEP: Final = re.compile(r"\n\s{0,8}(?:\d{1,2}[.)]|[-*])(?=\s)")
_UPPER: Final = string.ascii_uppercase.encode()
_PUNCTUATION: Final = string.punctuation.encode()
_LONG_WORD_CHARS: Final = 9
_CODE_MARKS: Final = ("{", "}", ";", "()", "==", "->", "=>", "::", "</")
_CODE_SIGNS: Final = tuple((mark[0], mark[-1], mark) for mark in _CODE_MARKS)  # one sign is found faster than two
_MATH_MARKS: Final = ("=", "^", "\\", "+", "*", "≤", "≥", "∈", "→")
_PASSAGE_WORDS: Final = ("passage", "excerpt", "the following text", "the text below", "article below")


@dataclass(frozen=True, slots=True)
class Features:
    """The hand features of one text; counts and shares are of the window, `characters` is of the whole text."""

    characters: int
    words: int
    mean_word_chars: float
    distinct_share: float
    numbers: int
    number_share: float
    longest_number: int
    questions: int
    lines: int
    code_marks: int
    math_marks: int
    answer_options: int
    steps: int
    upper_share: float
    non_ascii_share: float
    punctuation_share: float
    long_word_share: float
    blanks: int
    passage: bool
    groups: tuple[int, ...]

    def count(self, group: Group) -> int:
        """How many different words and phrases of `group` occur."""
        return self.groups[group]

    @property
    def log_characters(self) -> float:
        """Natural logarithm of 1 + characters."""
        return math.log1p(self.characters)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text, read once: the whole of it, its lower-case window, the window's words, and what was counted."""

    text: str
    lowered: str
    words: tuple[str, ...]
    vocabulary: frozenset[str]
    features: Features


def read(text: str, head_chars: int = HEAD_CHARS, tail_chars: int = TAIL_CHARS) -> Passage:
    """The passage of a text that is already free of harness blocks."""
    seen = window(text, head_chars, tail_chars)
    lowered = seen.lower().replace("\u2019", "'")
    words = split_words(lowered)
    vocabulary = frozenset(words)
    return Passage(text, lowered, words, vocabulary, _count(text, seen, lowered, words, vocabulary))


def _count(text: str, seen: str, lowered: str, words: tuple[str, ...], vocabulary: frozenset[str]) -> Features:
    size = max(len(seen), 1)
    ascii_bytes = seen.encode("ascii", "ignore")
    non_ascii = len(seen) - len(ascii_bytes)
    numbers: list[str] | list[bytes] = (
        _NUMBER.findall(seen)
        if non_ascii
        else _ASCII_NUMBER.findall(b" ".join(ascii_bytes.translate(_NUMERIC).split()))
    )
    # Scripts without blanks: about 1.5 ideographs carry what one word does.
    ideographs = sum(map(len, _IDEOGRAPHS.findall(seen))) if non_ascii else 0
    word_count = len(words) + int(ideographs / 1.5)
    listed = max(len(words), 1)
    word_chars = list(map(len, words))
    lines = f"\n{seen}"
    return Features(
        characters=len(text),
        words=word_count,
        mean_word_chars=sum(word_chars) / listed,
        distinct_share=len(vocabulary) / listed,
        numbers=len(numbers),
        number_share=len(numbers) / listed,
        longest_number=max(map(len, numbers), default=0),
        questions=seen.count("?") + seen.count("\uff1f"),
        lines=seen.count("\n") + 1,
        code_marks=sum(seen.count(mark) for first, last, mark in _CODE_SIGNS if first in seen and last in seen),
        math_marks=sum(map(seen.count, _MATH_MARKS)),
        answer_options=len(_OPTION.findall(lines)),
        steps=len(_STEP.findall(lines)),
        upper_share=(len(ascii_bytes) - len(ascii_bytes.translate(None, _UPPER))) / size,
        non_ascii_share=non_ascii / size,
        punctuation_share=(len(ascii_bytes) - len(ascii_bytes.translate(None, _PUNCTUATION))) / size,
        long_word_share=len([chars for chars in word_chars if chars >= _LONG_WORD_CHARS]) / listed,
        blanks=seen.count("___"),
        passage=any(word in lowered for word in _PASSAGE_WORDS),
        groups=count_groups(lowered, vocabulary),
    )
