"""The words and phrases that carry evidence, by group. Lower case; data, and the look-ups over it."""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Final


class Group(IntEnum):
    """What a word is evidence for; the value indexes a tuple of counts."""

    REASONING = 0
    PROOF = 1
    MATHEMATICS = 2
    CODE = 3
    ALGORITHM = 4
    NEGATION = 5
    CONSTRAINT = 6
    FAILURE = 7
    INCIDENT = 8
    OPERATIONS = 9
    DIAGNOSE = 10
    PRODUCTION = 11
    GENERATE = 12
    REVIEW = 13
    EXTRACT = 14
    GREETING = 15
    ROOT_CAUSE = 16
    RISKY_AREA = 17
    ACKNOWLEDGE = 18


def word_set(words: str) -> frozenset[str]:
    """The blank-separated `words` as a set."""
    return frozenset(words.split())


_WORDS: Final[Mapping[Group, str]] = {
    Group.REASONING: "why analyze analyse explain compare evaluate justify reason reasoning tradeoff tradeoffs "
    "consider assess infer implications strategy plan decide argue critique optimize optimise design architect",
    Group.PROOF: "prove proof proofs derive derivation theorem lemma corollary induction deduce contradiction "
    "equilibrium nash axiom axioms satisfiable tautology puzzle",
    Group.MATHEMATICS: "integral integrate derivative differentiate equation equations solve theorem probability "
    "polynomial matrix matrices eigenvalue eigenvalues modulo prime primes triangle circle radius perimeter "
    "logarithm calculus algebra geometry arithmetic fraction percent percentage ratio sum product divisible "
    "remainder converge converges vector vectors permutation permutations combinations factorial variance "
    "square root cosine sine limit calculate compute prove",
    Group.CODE: "code function functions class method python javascript typescript java rust golang kotlin swift "
    "ruby php sql bash html css react django flask node script scripts api endpoint regex bug bugs refactor "
    "compile compiler unittest pytest library module import variable variables array json yaml dockerfile "
    "codebase repository repo commit program programming decorator async parser cli sdk frontend backend query",
    Group.ALGORITHM: "algorithm algorithms complexity optimal np-hard recursion memoization memoize concurrency "
    "concurrent lock-free deadlock deadlocks mutex linearizable consensus amortized heuristic asymptotic",
    Group.NEGATION: "not no never none nothing without cannot can't don't doesn't isn't won't except neither nor",
    Group.CONSTRAINT: "must exactly least most only should ensure require requires required constraint constraints "
    "maximum minimum within every each between unless",
    Group.FAILURE: "failure failures fail fails failed failing crash crashes crashed crashing crashloop "
    "crashloopbackoff oomkilled oom down degraded degradation unavailable unresponsive unreachable timeout timeouts "
    "error errors exception exceptions panic fatal spike spikes spiked slow slowdown anomaly anomalies anomalous "
    "fault faults faulty broken malfunction malfunctioned evicted backlog stuck dropping refused imagepullbackoff "
    "throttled saturated saturation issue issues abnormal disrupted disruption 5xx 502 503 504",
    Group.INCIDENT: "incident incidents outage outages downtime sev0 sev1 sev2 p0 p1 pagerduty paged paging oncall "
    "on-call postmortem post-mortem rca alert alerts alerting alertmanager",
    Group.OPERATIONS: "pod pods node nodes kubernetes k8s kubectl cluster deployment namespace container containers "
    "ingress kafka redis postgres postgresql mysql etcd nginx haproxy istio envoy prometheus grafana datadog cpu "
    "memory disk network latency p95 p99 qps rps replica replicas service services microservice microservices host "
    "hosts vm vms server servers database gateway loadbalancer dns queue heap gc jvm telemetry metrics logs traces "
    "trace component components system systems cloud region connection connections throughput api checkout",
    Group.DIAGNOSE: "diagnose diagnosing diagnosis diagnostic investigate investigating investigation troubleshoot "
    "troubleshooting identify determine pinpoint locate debug rca triage correlate",
    Group.PRODUCTION: "production prod customers users outage clients live",
    Group.GENERATE: "write implement create build generate develop code add refactor rewrite design make construct "
    "scaffold port convert fix optimize optimise set setup draft",
    Group.REVIEW: "review reviewing reviewer reviewed lgtm",
    Group.EXTRACT: "extract summarize summarise summary translate classify categorize categorise label list parse "
    "convert format reformat paraphrase rewrite proofread tl;dr tldr keywords transcribe",
    Group.GREETING: "hi hello hey thanks thank thx greetings goodbye bye morning evening welcome howdy hola bonjour "
    "hallo привет спасибо ciao",
    Group.ROOT_CAUSE: "root-cause rootcause rca culprit",
    Group.RISKY_AREA: "auth authentication authorization authorisation oauth crypto cryptography encryption payment "
    "payments billing migration migrations security permission permissions rbac iam secrets credentials",
    Group.ACKNOWLEDGE: "yes yep ok okay continue go ahead proceed please do it thanks thank you sure next now retry "
    "again and y k right good great nice cool perfect done",
}

_PHRASES: Final[Mapping[Group, tuple[str, ...]]] = {
    Group.REASONING: (
        "step by step",
        "trade-off",
        "trade off",
        "think through",
        "pros and cons",
        "how would",
        "what if",
        "为什么",
        "分析",
        "比较",
        "почему",
        "проанализ",
        "сравни",
        "por qué",
        "analiza",
        "warum",
        "pourquoi",
        "なぜ",
        "분석",
        "por que",
        "क्यों",
    ),
    Group.PROOF: ("证明", "推导", "докажи", "выведи", "demuestra", "beweise", "démontre", "証明", "증명", "सिद्ध"),
    Group.MATHEMATICS: (
        "\\frac",
        "\\int",
        "\\sum",
        "\\sqrt",
        "∫",
        "∑",
        "√",
        "x^2",
        "how many",
        "how much",
        "方程",
        "积分",
        "уравнен",
        "интеграл",
        "ecuación",
        "gleichung",
    ),
    Group.CODE: ("```", "def ", "function(", "public class", "#include", "=> {", "代码", "函数", "код", "функци"),
    Group.ALGORITHM: (
        "dynamic programming",
        "race condition",
        "big-o",
        "o(n",
        "o(log",
        "time complexity",
        "shortest path",
        "算法",
        "алгоритм",
    ),
    Group.FAILURE: (
        "not responding",
        "doesn't respond",
        "out of memory",
        "connection reset",
        "high latency",
        "error rate",
        "http 500",
        "500 error",
        "500s",
        "exit code",
        "故障",
        "报错",
        "异常",
        "сбой",
        "ошибк",
        "авари",
        "fallo",
        "fehler",
        "ausfall",
        "panne",
        "障害",
        "장애",
        "falha",
    ),
    Group.INCIDENT: (
        "on call",
        "service disruption",
        "is firing",
        "are firing",
        "事故",
        "инцидент",
        "incidente",
        "störung",
        "インシデント",
    ),
    Group.ROOT_CAUSE: (
        "root cause",
        "what caused",
        "what is causing",
        "what's causing",
        "cause of the",
        "cause of this",
        "caused the",
        "why is our",
        "why are our",
        "根因",
        "根本原因",
        "первопричин",
        "causa raíz",
        "grundursache",
        "cause racine",
        "근본 원인",
        "causa raiz",
    ),
    Group.DIAGNOSE: (
        "find out why",
        "why is",
        "why are",
        "why did",
        "why does",
        "what happened",
        "figure out why",
        "look into",
        "排查",
        "诊断",
        "定位",
        "диагност",
        "расследуй",
        "diagnostica",
        "untersuche",
    ),
    Group.REVIEW: (
        "code review",
        "pull request",
        "merge request",
        "review this",
        "review the",
        "review my",
        "review our",
        "look over my change",
        "this diff",
        "this patch",
        "审查",
        "代码评审",
        "ревью",
        "revisa este código",
        "レビュー",
    ),
    Group.EXTRACT: (
        "into json",
        "as json",
        "as csv",
        "to csv",
        "bullet points",
        "翻译",
        "总结",
        "提取",
        "перевед",
        "резюмируй",
        "traduce",
        "übersetze",
        "traduis",
        "要約",
        "번역",
    ),
    Group.GREETING: (
        "how are you",
        "who are you",
        "what can you do",
        "good morning",
        "你好",
        "谢谢",
        "こんにちは",
        "안녕",
    ),
}


def _by_word() -> Mapping[str, tuple[Group, ...]]:
    found: dict[str, tuple[Group, ...]] = {}
    for group, words in _WORDS.items():
        for word in words.split():
            found[word] = (*found.get(word, ()), group)
    return found


GROUPS_OF: Final = _by_word()

_WORD: Final = re.compile(r"[^\W_][\w'+#-]*")
_LEADING_WORD: Final = re.compile(r"([a-z][a-z'-]*) ")


def split_words(lowered: str) -> tuple[str, ...]:
    """The words of a lower-case text, in order; a word may hold digits, `'`, `+`, `#` and `-`."""
    return tuple(_WORD.findall(lowered))


def _keyed(phrases: Iterable[str]) -> tuple[tuple[str | None, str], ...]:
    """Phrases with the word they begin with: a text without the word need not be searched for the phrase."""
    leading = [(_LEADING_WORD.match(phrase), phrase) for phrase in phrases]
    return tuple((word[1] if word else None, phrase) for word, phrase in leading)


_KEYED: Final = tuple((group, _keyed(phrases)) for group, phrases in _PHRASES.items())


def count_groups(lowered: str, vocabulary: AbstractSet[str]) -> tuple[int, ...]:
    """How many different words and phrases of each group occur, indexed by `Group`."""
    counts = [0] * len(Group)
    for groups in filter(None, map(GROUPS_OF.get, vocabulary)):
        for group in groups:
            counts[group] += 1
    for group, phrases in _KEYED:
        for key, phrase in phrases:
            if (key is None or key in vocabulary) and phrase in lowered:
                counts[group] += 1
    return tuple(counts)


# Said by a user about the answer before (ten languages). Each is specific enough to mean "that failed" on its own.
_DISSATISFIED: Final = (
    "still fail", "still broken", "still not ", "still doesn't", "still does not", "still the same", "still crash",
    "still getting", "still see", "still down", "still slow", "still timing out", "still happening", "still error",
    "still wrong", "still occurs", "still returns", "still have the", "didn't help", "did not help", "doesn't help",
    "does not help", "not helpful", "didn't work", "did not work", "doesn't work", "does not work", "not working",
    "hasn't worked", "that's wrong", "that is wrong", "this is wrong", "that was wrong", "is incorrect",
    "not correct", "that's not right", "that is not right", "you are wrong", "you're wrong", "you were wrong",
    "wrong answer", "wrong diagnosis", "wrong cause", "not the cause", "not the root cause", "isn't the cause",
    "isn't the root cause", "wasn't the cause", "was not the cause", "not the problem", "isn't the problem",
    "not the issue", "didn't fix", "did not fix", "doesn't fix", "does not fix", "hasn't fixed", "not fixed",
    "no effect", "no improvement", "nothing changed", "made it worse", "same error", "same problem", "same issue",
    "that failed", "it failed", "happened again", "it's back", "came back",
    "还是不行", "没有用", "不对", "错了", "仍然失败", "没解决",
    "sigue fallando", "no funciona", "no ayudó", "está mal", "no es correcto",
    "funktioniert nicht", "hat nicht geholfen", "immer noch", "das ist falsch",
    "ne marche pas", "ne fonctionne pas", "toujours pas", "c'est faux", "n'a pas aidé",
    "まだ失敗", "違います", "うまくいきません", "直っていません", "動きません",
    "여전히", "틀렸", "안 됩니다", "도움이 안",
    "não funciona", "não funcionou", "não ajudou", "está errado", "continua falhando",
    "не работает", "не помогло", "неправильно", "неверно", "всё ещё", "все еще", "по-прежнему",
    "काम नहीं", "गलत है", "मदद नहीं",
)  # fmt: skip

_KEYED_DISSATISFIED: Final = _keyed(_DISSATISFIED)


def is_dissatisfied(lowered: str) -> bool:
    """True when a lower-case text says that what it answers to did not help."""
    vocabulary = frozenset(split_words(lowered))
    return any((key is None or key in vocabulary) and phrase in lowered for key, phrase in _KEYED_DISSATISFIED)
