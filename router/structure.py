"""What a text is built like, as numbers that mean the same for any subject: the learned heads' hand features.

Topic words tell which subject a question is from and are worth nothing on another one. How many quantities, clauses,
conditions and comparisons it has, and how alike its answer options are, can be counted in any text. All are taken from
the window that `features.read` has already cut, so they cost the same for every prompt.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set

_OPTION: Final = re.compile(r"^\s{0,4}\(?[a-h][.)]\s+(\S.*)$", re.MULTILINE)
_SENTENCE: Final = re.compile(r"[.?!;:](?:\s|$)|[\u3002\uff1f\uff01]")
# For ASCII: every sign that ends a sentence as a full stop, every blank as a space, so that both are counted at once.
_BLANKS: Final = b"\t\n\v\f\r\x1c\x1d\x1e\x1f "
_ENDS: Final = bytes.maketrans(b"?!;:" + _BLANKS, b"...." + b" " * len(_BLANKS))
_MOST_OPTIONS: Final = 6
_MOST_OPTION_CHARS: Final = 400

_QUANTITIES: Final = word_set(
    "one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty hundred "
    "thousand million half third quarter twice double triple thrice dozen pair percent"
)
_RATES: Final = word_set("each every per total altogether remaining left rest times average rate ratio both combined")
_CONDITIONS: Final = word_set(
    "if then unless when whenever suppose assume assuming given provided after before while until since because "
    "although though whereas otherwise however therefore except "
    "wenn falls sofern obwohl während bevor nachdem weil angenommen außer si quand lorsque tant avant après parce "
    "supposons sauf cuando mientras antes después porque aunque suponga salvo quando enquanto depois embora suponha "
    "если когда пока после прежде потому хотя пусть"
)
_COMPARISONS: Final = word_set(
    "more less fewer than most least greater smaller larger higher lower longer shorter older younger better worse "
    "best worst rather equal same different increase decrease "
    "mehr weniger als größer kleiner besser schlechter gleich plus moins mieux pire même más menos mayor menor mejor "
    "peor igual mais maior melhor pior mesmo больше меньше лучше хуже чем"
)
_NEGATIONS: Final = word_set("not except least false incorrect never neither nor without cannot untrue no none")
_EXPLAINING: Final = word_set("why explain describe discuss compare justify analyze analyse evaluate interpret")
_PRONOUNS: Final = word_set("he she his her him they them their it its who whom whose")

NAMES: Final = (
    "length",
    "stem_length",
    "has_options",
    "option_length",
    "option_similarity",
    "numeric_options",
    "sentences",
    "sentence_words",
    "clauses",
    "numbers",
    "quantities",
    "rates",
    "conditions",
    "comparisons",
    "negations",
    "explaining",
    "pronouns",
    "questions",
    "which",
    "how_many",
    "what",
    "mathematical_marks",
    "code_marks",
    "blanks",
    "steps",
    "long_words",
    "word_length",
    "distinct_words",
    "punctuation",
    "non_ascii",
    "reasoning_words",
    "proof_words",
    "mathematics_words",
    "algorithm_words",
    "code_words",
    "constraint_words",
)
"""What each number of `structure` is, in order; an artefact names those it was trained on."""


def structure(passage: Passage) -> tuple[float, ...]:
    """The numbers named in `NAMES`: counts as log(1 + n), lengths as log(1 + characters), shares in [0, 1]."""
    counted, lowered, words = passage.features, passage.lowered, passage.vocabulary
    options = _options(lowered) if counted.answer_options >= 2 else ()
    first = _OPTION.search(lowered) if options else None
    stem = lowered[: first.start()] if first is not None else lowered
    stem_chars = len(stem) if first is not None else counted.characters
    listed = len(passage.words)
    # Ideographs are not listed as words of their own: what one says takes about four Latin letters, and words that
    # never end at a blank can be neither long nor repeated.
    ideographs = (counted.words - listed) * 1.5
    unbroken = ideographs > listed
    sentences = _sentence_ends(stem) + 1
    numbers = counted.numbers
    return (
        math.log1p(counted.characters + 3.0 * ideographs),
        math.log1p(stem_chars + 3.0 * ideographs),
        1.0 if options else 0.0,
        math.log1p(sum(map(len, options)) / len(options)) if options else 0.0,
        _similarity(options),
        sum(1 for option in options if _opens_with_number(option)) / len(options) if options else 0.0,
        math.log(sentences),
        math.log1p(listed / sentences),
        math.log1p(stem.count(",") + stem.count("\uff0c")),
        math.log1p(numbers),
        math.log1p(numbers + len(words & _QUANTITIES)),
        math.log1p(len(words & _RATES)),
        math.log1p(len(words & _CONDITIONS)),
        math.log1p(len(words & _COMPARISONS)),
        math.log1p(len(words & _NEGATIONS)),
        math.log1p(len(words & _EXPLAINING)),
        math.log1p(len(words & _PRONOUNS)),
        math.log1p(counted.questions),
        1.0 if "which" in words else 0.0,
        1.0 if "how many" in lowered or "how much" in lowered else 0.0,
        1.0 if "what" in words else 0.0,
        math.log1p(counted.math_marks),
        math.log1p(counted.code_marks),
        math.log1p(counted.blanks),
        math.log1p(counted.steps),
        _USUAL_LONG_SHARE if unbroken else _steadied(counted.long_word_share, listed),
        min(counted.mean_word_chars, 20.0) / 20.0,
        _USUAL_DISTINCT_SHARE if unbroken else counted.distinct_share,
        counted.punctuation_share,
        counted.non_ascii_share,
        *(math.log1p(counted.count(group)) for group in _GROUPS),
    )


def _sentence_ends(text: str) -> int:
    if not text.isascii():
        return len(_SENTENCE.findall(text))
    signs = text.encode("ascii").translate(_ENDS)
    return signs.count(b". ") + signs.endswith(b".")


def _steadied(share: float, words: int) -> float:
    """A share of long words as if twenty usual words stood beside the text's: one long word of three means nothing."""
    return (share * words + 20.0 * _USUAL_LONG_SHARE) / (words + 20.0)


_USUAL_LONG_SHARE: Final = 0.15
_USUAL_DISTINCT_SHARE: Final = 0.85

_GROUPS: Final = (
    Group.REASONING,
    Group.PROOF,
    Group.MATHEMATICS,
    Group.ALGORITHM,
    Group.CODE,
    Group.CONSTRAINT,
)


def _options(lowered: str) -> tuple[str, ...]:
    """The answer options, at most six and each cut short."""
    found = itertools.islice(_OPTION.finditer(lowered), _MOST_OPTIONS)
    return tuple(match[1][:_MOST_OPTION_CHARS] for match in found)


def _similarity(options: Sequence[str]) -> float:
    """How alike the options are: the mean share of words that two of them have in common, in [0, 1]."""
    if len(options) < 2:
        return 0.0
    bags = [frozenset(option.split()) for option in options]
    pairs = list(itertools.combinations(bags, 2))
    return sum(len(one & other) / max(len(one | other), 1) for one, other in pairs) / len(pairs)


def _opens_with_number(option: str) -> bool:
    return any(char.isdigit() for char in option[:3])
