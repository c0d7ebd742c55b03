"""Which language a text is in, by its script and its small words. Good enough to tell English from the rest."""

import re
from collections.abc import Mapping
from typing import Final

from router.lexicon import word_set

_GLANCE_CHARS: Final = 600
_WORDS_READ: Final = 100
_SCRIPTS: Final = (
    ("ja", re.compile("[\u3040-\u30ff]+")),
    ("ko", re.compile("[\uac00-\ud7af]+")),
    ("hi", re.compile("[\u0900-\u097f]+")),
    ("ru", re.compile("[\u0400-\u04ff]+")),
    ("zh", re.compile("[\u4e00-\u9fff]+")),
)
_FOREIGN: Final = re.compile("[\u0400-\u04ff\u0900-\u097f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+")
_SHARE: Final = 0.15  # of the signs: Japanese and Chinese share their ideographs, so kana are looked for first
_SMALL_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "en": word_set("the and is of to in that it for what how which with are this be on a an as from why does do i"),
    "de": word_set(
        "der die das und ist nicht ein eine mit für auf wie was warum ich den dem zu im von sind wird bitte"
    ),
    "fr": word_set("le la les et est une des pour dans que qui avec sur pas pourquoi comment du au ce cette je nous"),
    "es": word_set("el los las y es una para con que por qué cómo del en un se no lo está como más cuál son"),
    "pt": word_set("o os as e é uma para com que por não do da dos das em um se como qual são está você mais ao"),
}


def language_of(lowered: str, words: tuple[str, ...]) -> str:
    """`en`, `de`, `fr`, `es`, `pt`, `ru`, `zh`, `ja`, `ko`, `hi`, or `other` where nothing speaks for one of them."""
    glance = lowered[:_GLANCE_CHARS]
    if not glance.isascii():
        foreign = sum(map(len, _FOREIGN.findall(glance)))
        for language, script in _SCRIPTS if foreign else ():
            if sum(map(len, script.findall(glance))) >= _SHARE * max(foreign, len(glance) // 2):
                return language
    vocabulary = frozenset(words[:_WORDS_READ])
    counts = {language: len(known & vocabulary) for language, known in _SMALL_WORDS.items()}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > 0 else "other"
