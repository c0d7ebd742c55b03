"""Words and pairs of neighbouring words as numbers below 2^bits: the same in every process (CRC-32, not `hash`).

A pair's number goes on from its first word's: no text is put together, and a word costs one encoding and two checksums.
"""

import itertools
import zlib
from collections.abc import Sequence
from typing import Final

MOST_WORDS: Final = 160
"""Words that are hashed, of a longer text its first and its last; bounds what a prompt can cost."""

_TAIL_WORDS: Final = 48
_DIGITS: Final = frozenset("0123456789")


def hashed(words: Sequence[str], bits: int) -> tuple[frozenset[int], frozenset[int]]:
    """Numbers in [0, 2^bits), each once: those of the words alone, and those of the words and the pairs of neighbours.

    Words with a digit count as one word: which number it is says nothing about other material. `bits` is at most 32.
    """
    if not words:
        return frozenset(), frozenset()
    mask = (1 << bits) - 1
    # Only what is not all letters can hold a digit, and that is asked quickly. All are encoded at once.
    kept = ["0" if not word.isalpha() and not _DIGITS.isdisjoint(word) else word for word in _bounded(words)]
    spelled = "\n".join(kept).encode("utf-8", "surrogatepass").split(b"\n")
    sums = list(map(zlib.crc32, spelled))
    singles = frozenset([each & mask for each in sums])
    pairs = [each & mask for each in map(zlib.crc32, spelled[1:], sums)]
    return singles, singles.union(pairs)


def _bounded(words: Sequence[str]) -> Sequence[str]:
    if len(words) <= MOST_WORDS:
        return words
    return tuple(itertools.chain(words[: MOST_WORDS - _TAIL_WORDS], words[-_TAIL_WORDS:]))
