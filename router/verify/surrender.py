"""Whether an answer gives up: it says that it does not know, and gives nothing that could be right.

A short answer is cut into sentences, these into segments. Each segment disowns ("I never learned to multiply"), is mere
manners ("Sorry", "A larger model may know it") or says something. Who disowns and says nothing else has given up; who
says something has hedged. What is quoted or code says nothing about the answerer. Not counted as giving up:
- what no larger model could do either: no access, no tool, a policy, a question back;
- what was asked for in these words: "if you do not know, say so", an answer to choose, a sentence to translate.
Where it cannot tell, nothing is concluded.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from router.lexicon import word_set
from router.types import Role, Turn
from router.verify.disclaimers import MANNERS, OPEN, OTHER_UNABLE, OTHER_UNSURE, PROPOSED, UNABLE, UNSURE

_MOST_CHARS: Final = 600
_MOST_QUESTION_CHARS: Final = 4_000  # the end of it
_MOST_ASKED_CHARS: Final = 32_768  # of what the caller said in all


class Stance(StrEnum):
    """What a short answer says of itself. The first two give up."""

    UNABLE = "does_not_know"
    OPEN = "cannot_determine"
    TOLD_TO = "told_to_say_so"
    OUT_OF_REACH = "out_of_reach"
    STANDS = "stands"

    @property
    def gives_up(self) -> bool:
        """True when the answer is none."""
        return self in (Stance.UNABLE, Stance.OPEN)


class _Sort(StrEnum):
    UNABLE = "unable"
    OPEN = "open"
    UNSURE = "unsure"
    MANNERS = "manners"
    SAYS = "says"


@dataclass(frozen=True, slots=True)
class _Segment:
    sort: _Sort
    text: str


_QUOTED: Final = re.compile(
    r"\"[^\"\n]{1,300}\"|\u201c[^\u201d\n]{1,300}\u201d|\u201e[^\u201c\u201d\n]{1,300}[\u201c\u201d]|"
    r"\u00ab[^\u00bb\n]{1,300}\u00bb"
    r"|[\u300c\u300e][^\u300d\u300f\n]{1,300}[\u300d\u300f]|(?<!\w)'(?:[^'\n]|(?<=\w)'(?=\w)){3,300}'(?!\w)"
)
_CITED: Final = "_"  # stands for what was cited: a word that says something
_SPAN: Final = re.compile(r"`[^`\n]*`?")
_CITED_LINE: Final = re.compile(r"^\s*(?:>|//|/\*|--).*$", re.MULTILINE)
_SENTENCE: Final = re.compile(r"(?<=[.!?\u2026])\s+|[;\uff1b]\s*|(?<=[\u3002\uff01\uff1f\u0964])|\n+")
_JOINT: Final = re.compile(
    r"[,:()\uff0c\uff1a\u3001]\s*|\s+[-\u2013\u2014]+\s+|\s*\u2014\s*"
    r"|\s+(?=(?:but|however|though|although|because|whereas)\b)|\s+(?=(?:and|so|since|as) (?:i|we|it|the|there|you|"
    r"my|this)\b)"
)
_TURNS: Final = re.compile(
    r"(?:but|however|though|although|still|so|yet|maybe|perhaps|probably|possibly|likely|presumably|"
    r"my (?:best )?guess|if i|i(?:'d| would| do| can| will)? (?:think|believe|guess|say|know|suspect|suggest)|"
    r"it(?:'s| is| was| may| might| could| should)|that(?:'s| is)|this is|the (?:\w+ )?(?:answer|result|solution)|"
    r"here|use|try|you (?:can|could|should)|aber|jedoch|vielleicht|wahrscheinlich|pero|quizás?|tal vez|creo|"
    r"probablemente|mais|peut-être|je (?:pense|crois)|mas|talvez|acho|ma|forse|credo|maar|misschien|но|возможно|"
    r"наверное|думаю|ale|może|ama|belki)\b"
    r"|[但可也应應]|不过|不過|答案|でも|しかし|ただ|おそらく|たぶん|多分|하지만|아마|답은"
)
_LEADS: Final = re.compile(  # begins what belongs to a disclaimer that follows
    r"(?:based|from|with|without|given|as|since|because|while|although|though|even|after|before|in|for|to|if|when|at|"
    r"on|due|therefore|thus|hence|so|then|and|but|however|yet|also|again|by|looking|despite|considering|regarding|"
    r"concerning|about|currently|right now|aus|ohne|mit|basado|sin|con|sans|avec|根据|因为)\b"
)
_SUPPOSES: Final = re.compile(
    r"\b(?:likely|probably|maybe|perhaps|possibly|guess|think|believe|suspect|assume)\b|可能|也许|应该|たぶん|"
    r"おそらく|아마"
)
_CONDITION: Final = re.compile(r"(?:if|when|whenever|unless|until|suppose|in case|assuming|even if|where) (?:i|we)\b")
_ME: Final = re.compile(r"(?:i|we|please|let|a|an|perhaps|maybe|feel|some|and|or)\b")
_CONCLUDES: Final = re.compile(r"\b(?:therefore|thus|hence|so|consequently|overall|in conclusion)\b")
_ASKS_BACK: Final = re.compile(
    r"(?:what|which|who|where|when|why|how|could|can|would|do|does|did|is|are|should|shall|may) (?:\w+\W+){2,}.*\?$"
)
_NUMBER: Final = re.compile(
    r"(?<![\w.,-])-?\d[\d,]*(?:\.\d+)?(?![\w-]*[a-z])|\b(?:zero|two|three|four|five|six|seven|eight|nine|ten|eleven|"
    r"twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|"
    r"thousand)\b"
)
_WORD: Final = re.compile(r"\w+")
_SMALL_WORDS: Final = word_set(
    "a an the of to in on at by for from with without and or not no is are was were be been it its it's this that "
    "these those i we you me my your our there here can cannot could would should will may might do does did have has "
    "had if whether as so but about any some based given possible impossible determine determined tell say answer "
    "answered know known correct right true sure exactly information provided data calculate solve find"
)
_VAGUE: Final = frozenset({"cause", "reason", "result", "question", "problem", "value", "number", "amount", "solution"})

_ABOUT_IT: Final = re.compile(
    r"\b(?:what|which)\b[^.?!]{0,40}\byou\b[^.?!]{0,20}\b(?:can't|cannot|not|unable|never)\b|\bcan(?:no|')t you\b"
    r"|\byour (?:limits?|limitations?|weakness\w*|abilit\w+|capabilit\w+|skills?)\b"
)
_ASKS_IT: Final = re.compile(
    r"\b(?:do|did|can|could|are|were|have) you\b(?! (?:please|tell|explain|give|show|help|calculate|compute|find|"
    r"solve)\b)"
)
_ASKS_WHETHER: Final = re.compile(
    r"\b(?:enough|sufficient|possible|impossible|determinable|known)\b|\b(?:can|could) (?:i|we|one|it|this|that|the|"
    r"be)\b"
)

_NO: Final = r"\b(?:no|not|never|cannot|can't|don't|doesn't|isn't|without|lack\w*|unable)\b"
_BEYOND_ANY: Final = re.compile(
    rf"{_NO}[^.\n]{{0,60}}\b(?:access|real[- ]?time|live (?:data|information)|up[- ]to[- ]date|brows\w+|internet|"
    rf"shell|tools?|"
    r"permissions?|attach\w+|(?:previous|earlier|past|prior) (?:conversation|session|chat)s?|"
    r"your (?:files?|screen|account|name|computer|device|location|identity)|personal (?:data|information)|"
    r"the future)\b"
    r"|\bcut-?off\b|\bmy knowledge (?:ends|ended|stops|only goes)\b"
    # declined, not failed: another model must not be asked until one gives in
    r"|\bpolic(?:y|ies)\b|\bguidelines?\b|\bunsafe\b|\billegal\b|\b(?:un)?ethical\w*|\bharm(?:ful)?\b|"
    r"\binappropriate\b|\bagainst my\b|\bviolat\w+|\bconfidential\b|\bprivacy\b|"
    r"\b(?:i|we) (?:will not|won't|refuse|decline|must (?:not|decline))\b|"
    r"\bnot (?:allowed|permitted|comfortable|authori[sz]ed|willing|appropriate)\b"
)
_NOT_KNOWING: Final = (
    r"(?:n't (?:know|sure|find|contain|have|enough|mention|provide|answer|include)|"
    r"not (?:know|sure|certain|found|contained|present|mentioned|given|stated|provided|available|enough|possible|"
    r"in)\b|unsure|uncertain|unknown|(?:cannot|can't|can not|unable to|could not) (?:be )?(?:determin|answer|tell|"
    r"say|know|find|found|solve|calculat)|no (?:answer|idea|information)|insufficient|impossible|idk\b|n/a\b)"
)
_SAYING: Final = (
    r"\b(?:say|saying|reply|answer|respond|write|return|output|print|state|admit|tell (?:me|us|them|the user)|put|"
    r"use|indicate|choose|select|pick|be honest|leave|stop)\b"
)
_LICENCE: Final = re.compile(
    rf"{_SAYING}[^.\n]{{0,60}}?{_NOT_KNOWING}|\b(?:if|when|whenever|unless|where|in case|"
    rf"should)\b[^.\n]{{0,60}}?{_NOT_KNOWING}[^.\n]{{0,60}}?{_SAYING}"
    r"|\b(?:don't|do not|never|not to|rather than|instead of|without) (?:guess(?:ing)?\b|"
    r"mak(?:e|ing) (?:things|it|one|up|an answer)|invent(?:ing)? (?:an|things|one|facts)|fabricat\w*|hallucinat\w*|"
    r"speculat\w*)"
    r"|\bsay so\b|\b(?:ok|okay|fine|acceptable)\b[^.\n]{0,20}\bnot (?:to )?know|"
    r"\b(?:wenn|falls) du\b[^.\n]{0,40}nicht\b|\bsi no (?:lo )?sabes\b|\bsi (?:tu ne|vous ne) sa\w+ pas\b|"
    r"\bse não souber\w*|\bse non (?:lo )?sai\b|\bесли (?:ты |вы )?не знае\w+|如果(?:你)?不(?:知道|清楚|确定)|"
    r"[わ分]からない(?:場合|とき|時|なら)|모르면",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(r"(?:^|[\s(])[A-Ja-j1-9][).:]\s*(?P<text>[^()\n]{3,80}?)(?=\s+\(?[A-Ja-j1-9][).:]\s|\n|$)")
_PUT_INTO_WORDS: Final = re.compile(
    r"\b(?P<verb>translat|rewrit|rephras|paraphras|proofread|transcrib|summari|compos|repeat|complet|continu)\w*"
    r"|\b(?P<write>writ|draft|creat|generat|tell|invent|make up|give)\w*\b[^.?!\n]{0,60}\b(?:letter|e-?mail|message|"
    r"reply|poem|haiku|story|song|lyrics|dialog(?:ue)?|speech|essay|script|post|tweet|scene|joke|sentences?|apology|"
    r"monologue|caption|paragraph|example of)\b|\bhow (?:do|would|can|should) (?:i|you|we|one) say\b|"
    r"\b(?:role-?play|pretend|act as|in the voice of)\b"
    r"|\b(?:übersetz|tradu[izc])\w*|перевед|翻[译譯訳]|번역|अनुवाद",
    re.IGNORECASE,
)


def stance(text: str, turns: Sequence[Turn]) -> Stance:
    """What an answer of at most 600 characters says of itself; a longer one `STANDS`. `turns` led up to it."""
    if len(text) > _MOST_CHARS or "```" in text or "~~~" in text:
        return Stance.STANDS  # code is a result, whatever is said beside it
    own = _own_words(text)
    question = next((turn.text[-_MOST_QUESTION_CHARS:] for turn in reversed(turns) if turn.role is Role.USER), "")
    known = frozenset(_WORD.findall(question.lower()))
    found = [segment for sentence in _SENTENCE.split(own) for segment in _sentence(sentence.strip(), known)]
    verdict = _together(found, known)
    if not verdict.gives_up or _is_asked_for(own, found, question.lower()):
        return Stance.STANDS
    if _BEYOND_ANY.search(own):
        return Stance.OUT_OF_REACH
    if _told_to(own, found, turns) or _in_its_words(own, question):
        return Stance.TOLD_TO
    return verdict


def _own_words(text: str) -> str:
    """What the answerer says itself, lower case: no code, no quotation, no emphasis."""
    plain = text.replace("\u2019", "'").replace("\u02bc", "'")
    for cited in (_CITED_LINE, _SPAN, _QUOTED):
        plain = cited.sub(f" {_CITED} ", plain)
    return re.sub(r"[ \t]+", " ", re.sub(r"\*\*|__|[*#]", "", plain)).lower().strip()


def _sentence(sentence: str, known: frozenset[str]) -> Iterator[_Segment]:
    body = sentence.rstrip(".!\u2026\u3002\uff01\uff1f\u0964 ")
    if not _WORD.search(body):
        return
    parts = [part.strip() for part in _JOINT.split(body.rstrip("?")) if part and _WORD.search(part)]
    sorts = [_disowns(part, known) for part in parts]
    if not any(sorts):
        empty = MANNERS.match(body.rstrip("?")) or _ASKS_BACK.match(body)
        offers = body.startswith("if ") and any(not _ME.match(part) for part in parts[1:])  # "if you can, reboot"
        if empty and not offers and not _new_number(body, known):
            yield _Segment(_Sort.MANNERS, body)
        else:
            for part in parts:
                yield _Segment(_Sort.MANNERS if _fills(part, known) else _Sort.SAYS, part)
        return
    first = next(at for at, sort in enumerate(sorts) if sort)
    firm = any(sort in (_Sort.UNABLE, _Sort.OPEN) for sort in sorts)
    for at, (part, sort) in enumerate(zip(parts, sorts, strict=True)):
        if sort is not None:
            yield _Segment(sort, part)
        elif _fills(part, known):
            yield _Segment(_Sort.MANNERS, part)
        elif _new_number(part, known):
            yield _Segment(_Sort.SAYS, part)
        elif at < first:
            yield _Segment(_Sort.MANNERS if _LEADS.match(part) else _Sort.SAYS, part)
        else:
            # "I do not know the names, dates or places": the rest of what is not known.
            says = not firm or _TURNS.match(part) or _SUPPOSES.search(part)
            yield _Segment(_Sort.SAYS if says else _Sort.MANNERS, part)


def _disowns(part: str, known: frozenset[str]) -> _Sort | None:
    if _CONDITION.match(part):
        return None
    if UNABLE.search(part) or OTHER_UNABLE.search(part):
        sort = _Sort.UNABLE
    elif OPEN.search(part):
        sort = _Sort.OPEN
    elif UNSURE.search(part) or OTHER_UNSURE.search(part):
        sort = _Sort.UNSURE
    else:
        return None
    proposed = PROPOSED.search(part)
    if proposed is not None and _news(proposed["what"], known):
        return _Sort.SAYS  # "I do not know whether it is Paris" names it
    return sort


def _fills(part: str, known: frozenset[str]) -> bool:
    return MANNERS.match(part) is not None and not _new_number(part, known)


def _new_number(part: str, known: frozenset[str]) -> bool:
    """True when it has a number that the question has not."""
    return any(not known.issuperset(_WORD.findall(match[0])) for match in _NUMBER.finditer(part))


def _news(words: str, known: frozenset[str]) -> bool:
    return not known.union(_SMALL_WORDS).issuperset(_WORD.findall(words))


def _together(found: Sequence[_Segment], known: frozenset[str]) -> Stance:
    sorts = {each.sort for each in found}
    if not sorts & {_Sort.UNABLE, _Sort.OPEN, _Sort.UNSURE}:
        return Stance.STANDS
    if _Sort.SAYS not in sorts:
        return Stance.UNABLE if sorts & {_Sort.UNABLE, _Sort.UNSURE} else Stance.OPEN
    # A calculation or a list of facts that ends in "it cannot be determined" has no result either.
    *_, last = (each for each in found if each.sort is not _Sort.MANNERS)
    if last.sort is not _Sort.OPEN:
        return Stance.STANDS
    after = found.index(last)
    concludes = any(_CONCLUDES.search(each.text) for each in found[max(after - 1, 0) : after + 1])
    about = set(_WORD.findall(last.text)) - _SMALL_WORDS
    return Stance.OPEN if concludes or not about or about & (known | _VAGUE) else Stance.STANDS


def _is_asked_for(own: str, found: Sequence[_Segment], question: str) -> bool:
    """True when the question is what the answerer knows, or whether a thing can be known: then this is the result."""
    if _ABOUT_IT.search(question) or (_ASKS_IT.search(question) and re.match(r"(?:yes|no|nope)\b", own)):
        return True
    disowned = [each.text for each in found if each.sort in (_Sort.UNABLE, _Sort.OPEN, _Sort.UNSURE)]
    itself = any(re.search(r"\b(?:i|we|me|us|my)\b", each) for each in disowned)
    open_only = not any(each.sort in (_Sort.UNABLE, _Sort.UNSURE) for each in found)
    return open_only and not itself and _ASKS_WHETHER.search(question) is not None


def _told_to(own: str, found: Sequence[_Segment], turns: Sequence[Turn]) -> bool:
    """True when the caller allowed for not knowing, or gave the very words to choose from."""
    said = [each.text for each in found if each.sort in (_Sort.UNABLE, _Sort.OPEN, _Sort.UNSURE)]
    rules = [turn.text for turn in turns if turn.role in (Role.SYSTEM, Role.DEVELOPER)]
    room = _MOST_ASKED_CHARS
    for text in (*rules, *(turn.text for turn in reversed(turns) if turn.role is Role.USER)):
        asked, room = text[:room].replace("\u2019", "'"), max(room - len(text), 0)
        if _LICENCE.search(asked):
            return True
        given = [match[0][1:-1] for match in _QUOTED.finditer(asked)]
        given += [match["text"] for match in _OPTION.finditer(asked)]
        for each in given:
            words = each.lower().strip(" .")
            if len(words) > 3 and words in own and any(part in words or words in part for part in said):
                return True
    return False


def _in_its_words(own: str, question: str) -> bool:
    """True when the answer is a text that was asked for, and does not say that it cannot be made."""
    asked = _PUT_INTO_WORDS.search(question)
    if asked is None:
        return False
    verb = asked["verb"] or asked["write"]
    return verb is None or re.search(rf"\b{verb.lower()}", own) is None
