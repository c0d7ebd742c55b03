"""A fault that is told in plain words: something technical, at some time, does what it should not, and why?

The words of an incident report ("outage", "root cause", "error rate") need not be there. There must be something
technical, a deviation, and that it is about one event: whose it is or when it began. A question in general has neither.
"""

import re
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set

_MOST_WORDS: Final = 250  # a fault is told briefly; a longer text has some of these words by chance

_NAMED_CHARS: Final = 2_000

# Technical is what is spelled as a name of technology is: NFS, MongoDB, web-03, 40 ms.
_NAMED: Final = re.compile(r"\b(?:[A-Z]{2,6}s?|[A-Z]?[a-z]+[A-Z]\w*|[a-z]+-\d+)(?!\w)|\d ?(?:%|[GMT]B|ms|[rq]ps)(?!\w)")
_SYSTEMS: Final = word_set(
    "site website portal app apps api apis page pages dashboard webhook webhooks callback callbacks backup backups "
    "proxy firewall scheduler pipeline runner worker workers index replication notifications sensor sensors "
    "firmware gateway upload uploads uploaded login logins bucket disk broker controller terminal terminals printer "
    "printers devices balancer invocations check checks regions export exports import deploy migration update patch "
    "registry resolver resolvers mail mails email emails servidor serveur servicio colas base datenbank verbindung "
    "netzwerk anwendung dienst"
)
_WIDE_SYSTEMS: Final = (
    "服务", "数据库", "接口", "集群", "系统", "图片", "кластер", "баз", "очеред", "сервис", "сервер", "письм",
)  # fmt: skip
# Beginnings of words, so that every form counts.
_DEVIATES: Final = re.compile(
    r"\b(?:fail|hang|hung|drop|block|bounc|broke|slow|delay|miss|lost|los[et]|wrong|blank|empty|kill|crash|expir|pegged|"
    r"collaps|ate\b|eats?\b|stuck|stop|duplicat|twice|reject|refus|den(?:y|ied)|trunc|corrupt|stale|freez|froze|cuts?\b|"
    r"dead\b|dying|dies\b|died|full\b|fill|unassign|unready|pending|red\b|random|flap|throttl|segfault|garbl|stall|"
    r"vanish|disappear|grow|climb|runaway|flood|overload|offline|behind\b|nowhere|silent|leak|reboot|restart|rollback|"
    r"negative|crawl|fell\b|sudden|sometimes|intermitt|nobody|no longer|never (?:arriv|come|came|finish)|"
    r"keeps? getting|not (?:shrink|arriv|answer|respond)|can(?:no|')t (?:reach|keep|connect|see|open)|too many|"
    r"run(?:s|ning)? out|out of|went from|instead of|go(?:es)? wrong|later and later|double[ds]?\b|leere?\b|"
    r"verlier|langsam|bricht|hängt|crecen|vac[ií][oa]|lent[oa]?\b|caíd|caen|erreur|expire|perd|n'affiche|[45]\d\d\b)"
)
_WIDE_DEVIATES: Final = (
    "慢", "涨", "失败", "升到", "卡住", "丢失", "404", "500", "не могут", "не может", "раст", "пада", "медлен",
    "задерж",
)  # fmt: skip
_OURS: Final = word_set(
    "our ours we we're we've us everyone everybody nobody users customers clients partner people ppl office "
    "unser unsere unseren nuestro nuestra usuarios notre utilisateurs nosso nossa"
)
_WHEN: Final = re.compile(
    r"\b(?:since|today|yesterday|overnight|suddenly|tonight|lately|recently|midnight|noon|ago|seit|gestern|depuis|"
    r"desde|ayer|hoje|ontem|(?:mon|tues|wednes|thurs|fri|satur|sun)day|whenever|as of the|began|started|keeps?|daily|"
    r"(?:last|this|every) (?:night|week|morning|evening|few)|every (?:single )?time|every second|after (?:the|we)|"
    r"and now|for (?:\w+ )?(?:minutes|hours|days|weeks)|(?:a|an|each|every) (?:minute|hour|day))\b"
)
_WIDE_WHEN: Final = ("昨", "今天", "今早", "之后", "以来", "突然", "с утра", "после", "вчера", "сегодня")
_ASKS: Final = word_set(
    "why where which find help idea coincidence suspect check cause reason confirm locate investigate track trigger "
    "triggered blame explain warum wieso woran eingrenzen ursache qué motivo encuentra pourquoi trouver comprendre"
)
_WIDE_ASKS: Final = ("分析", "看看", "哪里", "排查", "怎么回事", "понять", "причин", "чём дело", "чем дело", "почему")
# Asked about one event only, so that it needs neither an owner nor a time.
_THIS_ONE: Final = re.compile(
    r"what gives|any idea|how could (?:that|this)|how come|narrow (?:it|this|that) down|dig into|look at these|"
    r"(?:at|in) (?:the|these) logs|logs are|what happened|went wrong|what changed|hold(?:ing|s) (?:it|this) up|"
    r"going on|point to\?|track (?:it|this|that) down|to blame|find the (?:trigger|difference|culprit|reason)|"
    r"what (?:is|are) (?:it|they|we) (?:not )?\w+ing|(?:what|who) is (?:\w+ing|different)\b"
)
# Work to be done, wherever in the turn it is ordered, and questions about how things are in general.
_WORK: Final = re.compile(
    r"(?:\A|[.!?,;:\n]\s{0,3})(?:please |and |then |now |can you |could you |help me )?"
    r"(?:write|draft|implement|create|build|design|develop|generate|refactor|rewrite|summari[sz]e|translate|extract|"
    r"convert|review|plan|propose|suggest|add|simulate|set|show|recommend|estimate|schreibe?|formatiere|escribe|"
    r"redacta|écris|rédige|résume|напиши|составь)\b"
)
_GENERAL: Final = re.compile(
    r"(?:how (?:do|does|can|would|should|to|many|much|long)\b|why (?:do|would|should|was|were)\b|when should\b|"
    r"what (?:do|does|is an?|are|makes|causes|typically|kinds?)\b|compare\b|describe\b|define\b|is it normal|"
    r"give (?:me|an)\b|who (?:invented|was)\b|explain (?:what|how|to|the difference)\b|pros and cons|suppose\b|"
    r"imagine\b|which (?:is|are|of these|metrics|tools?|files)\b|we want to\b)"
)
_GENERAL_MARKS: Final = (
    "in general", "typically", "usually", "generally", "difference between", "how many", "how much", "homework",
    "should we", "which tool", "would you choose",
)  # fmt: skip


def tells_of_fault(passage: Passage) -> bool:
    """True when the turn tells in plain words that something technical does not work as it did."""
    lowered, vocabulary, count = passage.lowered, passage.vocabulary, passage.features.count
    if passage.features.words > _MOST_WORDS:
        return False
    wide = not lowered.isascii()
    runs = count(Group.OPERATIONS) > 0 or not _SYSTEMS.isdisjoint(vocabulary) or (wide and _has(lowered, _WIDE_SYSTEMS))
    if not runs and not _NAMED.search(passage.text, 0, _NAMED_CHARS):
        return False
    if not (count(Group.FAILURE) > 0 or _DEVIATES.search(lowered) or (wide and _has(lowered, _WIDE_DEVIATES))):
        return False
    this_one = _THIS_ONE.search(lowered) is not None
    ours = not _OURS.isdisjoint(vocabulary)
    when = _WHEN.search(lowered) is not None or (wide and _has(lowered, _WIDE_WHEN))
    asks = (
        this_one
        or count(Group.DIAGNOSE) + count(Group.ROOT_CAUSE) > 0
        or not _ASKS.isdisjoint(vocabulary)
        or (wide and _has(lowered, _WIDE_ASKS))
    )
    if not (this_one or (asks and ours) or (when and (runs or asks or ours))):
        return False
    return not (_WORK.search(lowered) or _GENERAL.match(lowered) or _has(lowered, _GENERAL_MARKS))


def _has(lowered: str, marks: tuple[str, ...]) -> bool:
    return any(mark in lowered for mark in marks)
