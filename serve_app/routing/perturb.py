"""The same question, said otherwise: deterministic, of our own making. A router should not care.

Every perturbation depends on the text alone (crc32 seeds it) and changes no number, option letter or code mark, so that
the right answer stays what it was.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final

_WORD: Final = re.compile(r"[A-Za-z]{5,}")
_KEEPS_CASE: Final = re.compile(r"\s*(?:[A-H][.)]|\S*[{};=])")
_TYPO_EVERY: Final = 12
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"

_PARAPHRASES: Final[Mapping[str, str]] = {
    "What is": "Can you say what is",
    "what is": "what would be",
    "Which of the following": "Of the options below, which",
    "which of the following": "which one of these",
    "How many": "What number of",
    "how many": "what number of",
    "How much": "What amount",
    "Find": "Determine",
    "find": "determine",
    "Calculate": "Work out",
    "calculate": "work out",
    "Explain": "Tell me about",
    "explain": "tell me about",
    "Compare": "Set side by side",
    "Write": "Draft",
    "write": "draft",
    "Why": "For what reason",
    "because": "since",
    "best describes": "is the best description of",
    "is called": "is known as",
    "refers to": "stands for",
    "such as": "like",
    "in order to": "to",
    "begin": "start",
    "begins": "starts",
    "large": "big",
    "small": "little",
    "buy": "purchase",
    "buys": "purchases",
    "needs": "requires",
    "need": "require",
    "shows": "displays",
    "show": "display",
    "uses": "makes use of",
    "about": "around",
    "also": "as well",
    "people": "persons",
    "children": "kids",
    "each": "every",
    "correct": "right",
    "true": "valid",
    "example": "instance",
    "problem": "issue",
    "most likely": "most probable",
}
_PHRASE: Final = re.compile(rf"\b(?:{'|'.join(sorted(_PARAPHRASES, key=len, reverse=True))})\b")

_OPENERS: Final = ("Please help me with this. ", "Hello! I have a question. ", "Could you please answer this? ")
_CLOSERS: Final = ("\n\nThank you!", "\n\nThanks a lot in advance.", "\n\nMany thanks.")


def paraphrased(text: str) -> str:
    """Common turns of phrase replaced by others that mean the same; about one word in ten."""
    return _PHRASE.sub(lambda match: _PARAPHRASES[match.group()], text)


def mistyped(text: str) -> str:
    """About one longer word in twelve, at least one, with two letters swapped, one dropped, doubled or replaced."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    draw = _seeded(text)
    chosen = sorted(draw.sample(range(len(words)), max(1, len(words) // _TYPO_EVERY)), reverse=True)
    for number in chosen:
        match = words[number]
        slipped = match.group()
        while slipped == match.group():  # two equal letters swapped are no mistake
            slipped = _slip(match.group(), draw)
        text = text[: match.start()] + slipped + text[match.end() :]
    return text


def respaced(text: str) -> str:
    """Other blanks: doubled after sentences, a blank at each line's end, an empty line around."""
    lines = text.replace(". ", ".  ").split("\n")
    return "\n" + "\n".join(f"{line} " for line in lines) + "\n\n"


def polite(text: str) -> str:
    """A friendly opening and a word of thanks."""
    draw = _seeded(text)
    return draw.choice(_OPENERS) + text + draw.choice(_CLOSERS)


def lowered(text: str) -> str:
    """Prose in lower case; lines that are options or code keep theirs."""
    return "\n".join(
        line if re.match(r"\s*(?:[A-H][.)]|\S*[{};=])", line) else line.lower() for line in text.split("\n")
    )


PERTURBATIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "paraphrase": paraphrased,
    "typo": mistyped,
    "whitespace": respaced,
    "politeness": polite,
    "case": lowered,
}
"""Name -> how the text changes."""


def _seeded(text: str) -> random.Random:
    return random.Random(zlib.crc32(text.encode()))


def _slip(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 1)
    kind = draw.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + draw.choice(_LETTERS) + word[at + 1 :]
