"""How a rule looks: regular expressions whose length is bounded, and a check of what they match.

Three laws let a text be read in pieces (`stream.py`). A match holds no character from U+2E80 on, no line end (but that
of a private key) and no gap that `segments.py` calls a cut. It is no longer than `LONGEST`. And what decides about it
is itself, one character before and one after it, of which only ASCII counts.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from deployments.guardrails.values import Detector

LONGEST: Final = 8192
"""Characters of the longest match: a private key, or a token with many claims."""

BEFORE: Final = r"(?:(?<![0-9A-Za-z_])|(?<=\\[nrt]))"
"""Not within a word; the n of a line end that JSON escapes is none. Slow at the begin of an expression: see `word`."""

AFTER: Final = r"(?![0-9A-Za-z_])"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression; the match is its group `it`, or all of it. Implements `values.Rule`.

    `needs`: strings of which each match holds one; where there is none, nobody looks. `holds` has the last word.
    """

    detector: Detector
    kind: str
    pattern: re.Pattern[str]
    needs: tuple[str, ...] = ()
    holds: Callable[[str], bool] | None = None

    def find(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where it stands in `text[begin:end]`."""
        if self.needs and all(text.find(each, begin, end) < 0 for each in self.needs):
            return
        group = "it" if "it" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text, begin, end):
            if self.holds is None or self.holds(match[group]):
                yield match.span(group)


def word(first: str, rest: str) -> str:
    """`first`, a class of characters, at the begin of a word, and what follows it.

    The engine skips what cannot be `first`, which it does not behind a condition on what stands before.
    """
    return rf"{first}(?:(?<![0-9A-Za-z_]{first})|(?<=\\[nrt]{first})){rest}"


def digits_of(text: str) -> str:
    """The digits and letters of a number, without what separates them."""
    return "".join(each for each in text if each.isalnum())
