"""The words and phrases that carry evidence, by group. Lower case; data, and the look-ups over it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
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
    "throttled saturated saturation issue issues abnormal disrupted disruption 5xx 500s 502 502s 503 503s 504 504s "
    "hang hangs hanging hung died dies dying lag lagging lags flapping exhausted starved restarting unhealthy rejected "
    "ausgefallen avería caído indisponível",
    Group.INCIDENT: "incident incidents outage outages downtime sev0 sev1 sev2 p0 p1 pagerduty paged paging oncall "
    "on-call postmortem post-mortem rca alert alerts alerting alertmanager",
    Group.OPERATIONS: "pod pods node nodes kubernetes k8s kubectl cluster deployment namespace container containers "
    "ingress kafka redis postgres postgresql mysql etcd nginx haproxy istio envoy prometheus grafana datadog cpu "
    "memory disk network latency p95 p99 qps rps replica replicas service services microservice microservices host "
    "hosts vm vms server servers database gateway loadbalancer dns queue heap gc jvm telemetry metrics logs traces "
    "trace queue queues job jobs cron request requests upstream rollout restart thread cache rack device devices "
    "switch router nginx messages consumers consumer kubernetes-cluster eviction login session sessions broker brokers "
    "dependency dependencies backend farm failover release ingest edge handshake handshakes "
    "certificate cert component components system systems cloud region connection connections throughput api checkout",
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
        "time out",
        "times out",
        "timed out",
        "timing out",
        "pile up",
        "piling up",
        "went up",
        "shot up",
        "went down",
        "fell over",
        "disk full",
        "is full",
        "keeps restarting",
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
        "超时",
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
        "what led to",
        "find the cause",
        "and the reason",
        "the reason why",
        "which component",
        "which service",
        "which process",
        "faulty component",
        "what broke",
        "what went wrong",
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
        "find out what",
        "what's going on",
        "what is going on",
        "what is wrong",
        "what's wrong",
        "work out",
        "why is",
        "why are",
        "why did",
        "why does",
        "what happened",
        "figure out why",
        "look into",
        "原因",
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
_ASCII_WORD: Final = re.compile(r"[a-z0-9][a-z0-9_'+#-]*")  # the same for lower-case ASCII, in half the time
_LEADING_WORD: Final = re.compile(r"([a-z][a-z'-]*) ")
_RARE_SIGN: Final = re.compile(r"[\\^`#(=]|500")


def split_words(lowered: str) -> tuple[str, ...]:
    """The words of a lower-case text, in order; a word may hold digits, `'`, `+`, `#` and `-`."""
    return tuple((_ASCII_WORD if lowered.isascii() else _WORD).findall(lowered))


@dataclass(frozen=True, slots=True)
class _Phrases:
    """Phrases, arranged so that most need not be searched for, each with the groups it belongs to.

    `by_word`: those that begin with an English word, under that word: without the word in the text, no search.
    `by_sign`: those with a sign that prose seldom has, under that sign. `foreign` ones are under their first sign that
    is not ASCII. `plain` are the rest.
    """

    by_word: Mapping[str, tuple[tuple[str, Group | None], ...]]
    by_sign: Mapping[str, tuple[tuple[str, Group | None], ...]]
    plain: tuple[tuple[str, Group | None], ...]
    foreign: Mapping[str, tuple[tuple[str, Group | None], ...]]

    @classmethod
    def of(cls, phrases: Iterable[tuple[str, Group | None]]) -> "_Phrases":
        by_word: dict[str, tuple[tuple[str, Group | None], ...]] = {}
        by_sign: dict[str, tuple[tuple[str, Group | None], ...]] = {}
        plain: list[tuple[str, Group | None]] = []
        foreign: dict[str, tuple[tuple[str, Group | None], ...]] = {}
        for phrase, group in phrases:
            leading = _LEADING_WORD.match(phrase)
            if leading:
                by_word[leading[1]] = (*by_word.get(leading[1], ()), (phrase, group))
            elif rare := _RARE_SIGN.search(phrase):
                by_sign[rare[0]] = (*by_sign.get(rare[0], ()), (phrase, group))
            elif phrase.isascii():
                plain.append((phrase, group))
            else:
                sign = next(sign for sign in phrase if not sign.isascii())
                foreign[sign] = (*foreign.get(sign, ()), (phrase, group))
        return cls(by_word, by_sign, tuple(plain), foreign)

    def found(self, lowered: str, vocabulary: AbstractSet[str]) -> Iterator[Group | None]:
        """The group of every phrase that occurs; `vocabulary` is at least the words of `lowered`."""
        for word in self.by_word.keys() & vocabulary:
            for phrase, group in self.by_word[word]:
                if phrase in lowered:
                    yield group
        for sign, phrases in self.by_sign.items():
            if sign in lowered:
                for phrase, group in phrases:
                    if phrase in lowered:
                        yield group
        for phrase, group in self.plain:
            if phrase in lowered:
                yield group
        if not lowered.isascii():
            for sign, phrases in self.foreign.items():
                if sign in lowered:  # ten times as fast as a set of the text's signs
                    for phrase, group in phrases:
                        if phrase in lowered:
                            yield group


_GROUPED: Final = _Phrases.of((phrase, group) for group, phrases in _PHRASES.items() for phrase in phrases)


def count_groups(lowered: str, vocabulary: AbstractSet[str]) -> tuple[int, ...]:
    """How many different words and phrases of each group occur, indexed by `Group`."""
    counts = [0] * len(Group)
    for word in GROUPS_OF.keys() & vocabulary:
        for group in GROUPS_OF[word]:
            counts[group] += 1
    for group in _GROUPED.found(lowered, vocabulary):
        if group is not None:
            counts[group] += 1
    return tuple(counts)


# Said by a user about the answer before, in ten languages. Each is specific enough to mean it on its own. The first
# list reports that it was tried and failed, or refutes a diagnosis by name; the second is an opinion.
_SAW_IT_FAIL: Final = (
    "still fail", "still broken", "still not ", "still doesn't", "still does not", "still the same", "still crash",
    "still getting", "still see", "still down", "still slow", "still timing out", "still happening", "still error",
    "still wrong", "still occurs", "still returns", "still have the", "didn't help", "did not help", "doesn't help",
    "does not help", "not helpful", "didn't work", "did not work", "doesn't work", "does not work", "not working",
    "hasn't worked", "wrong diagnosis", "wrong cause", "not the cause", "not the root cause", "isn't the cause",
    "isn't the root cause", "wasn't the cause", "was not the cause", "not the problem", "isn't the problem",
    "not the issue", "didn't fix", "did not fix", "doesn't fix", "does not fix", "hasn't fixed", "not fixed",
    "no effect", "no improvement", "nothing changed", "made it worse", "same error", "same problem", "same issue",
    "that failed", "it failed", "happened again", "it's back", "came back", "keeps failing", "keeps crashing",
    "didn't solve", "did not solve", "doesn't solve", "does not solve", "not solved", "problem persists",
    "issue persists", "error persists", "tests fail", "test fails",
    "还是不行", "没有用", "仍然失败", "没解决", "没有解决", "依然", "还是失败", "还是报错", "不起作用", "无效",
    "没有效果",
    "sigue fallando", "no funciona", "no ayudó", "no funcionó", "sigue sin", "mismo error", "no se resolvió",
    "no lo resuelve", "no sirvió",
    "funktioniert nicht", "hat nicht geholfen", "immer noch", "geht nicht", "gleiche fehler", "gleichen fehler",
    "hilft nicht", "nicht gelöst", "nicht behoben",
    "ne marche pas", "ne fonctionne pas", "toujours pas", "n'a pas aidé", "même erreur", "n'a pas marché",
    "n'a pas fonctionné", "toujours en panne", "ça échoue", "n'a rien changé",
    "まだ失敗", "うまくいきません", "直っていません", "動きません", "解決していません", "まだエラー",
    "変わりません", "効果がありません",
    "여전히", "안 됩니다", "도움이 안", "같은 오류", "작동하지 않", "해결되지 않", "효과가 없",
    "não funciona", "não funcionou", "não ajudou", "continua falhando", "mesmo erro", "não resolveu", "ainda falha",
    "continua com erro",
    "не работает", "не помогло", "всё ещё", "все еще", "по-прежнему", "та же ошибка", "не помогает", "не сработало",
    "не решило", "снова упал", "ничего не изменилось",
    "काम नहीं", "मदद नहीं", "अभी भी", "वही त्रुटि", "ठीक नहीं हुआ", "हल नहीं",
)  # fmt: skip
_SAYS_WRONG: Final = (
    "that's wrong", "that is wrong", "this is wrong", "that was wrong", "is incorrect", "not correct",
    "that's not right", "that is not right", "you are wrong", "you're wrong", "you were wrong", "wrong answer",
    "not what i asked", "not what i meant", "not what i wanted", "you misunderstood", "makes no sense",
    "不对", "错了", "不正确", "答非所问",
    "está mal", "no es correcto", "es incorrecto", "no es lo que",
    "das ist falsch", "stimmt nicht", "ist nicht richtig", "ist nicht korrekt",
    "c'est faux", "n'est pas correct", "ce n'est pas ce que", "c'est incorrect",
    "違います", "間違って", "正しくありません", "間違いです",
    "틀렸", "잘못", "맞지 않",
    "está errado", "não está correto", "está incorreto", "não é isso",
    "неправильно", "неверно", "это не то", "ты ошиб", "вы ошиб",
    "गलत है", "सही नहीं", "ग़लत",
)  # fmt: skip
_HEDGES: Final = (
    "i'm not sure", "i am not sure", "i cannot determine", "i can't determine", "cannot be determined", "i'm unable to",
    "i am unable to", "i don't have enough", "i do not have enough", "not enough information", "it is unclear",
    "it's unclear", "i'm guessing", "just a guess", "hard to say", "might be wrong", "not certain", "i don't know",
    "i do not know",
    "无法确定", "我不确定", "no estoy seguro", "no puedo determinar", "ich bin nicht sicher", "nicht sicher, ob",
    "je ne suis pas sûr", "je ne peux pas déterminer", "わかりません", "確定できません", "확실하지 않",
    "não tenho certeza",
    "não consigo determinar", "не могу определить", "не уверен", "मुझे नहीं पता", "निश्चित नहीं",
)  # fmt: skip

_SAW_IT_FAIL_FOUND: Final = _Phrases.of((phrase, None) for phrase in _SAW_IT_FAIL)
_SAYS_WRONG_FOUND: Final = _Phrases.of((phrase, None) for phrase in _SAYS_WRONG)
_HEDGES_FOUND: Final = _Phrases.of((phrase, None) for phrase in _HEDGES)


def saw_it_fail(lowered: str, vocabulary: AbstractSet[str]) -> bool:
    """True when a user's lower-case words report that what they answer to was tried and failed."""
    return any(True for _ in _SAW_IT_FAIL_FOUND.found(lowered, vocabulary))


def says_wrong(lowered: str, vocabulary: AbstractSet[str]) -> bool:
    """True when a user's lower-case words call what they answer to wrong."""
    return any(True for _ in _SAYS_WRONG_FOUND.found(lowered, vocabulary))


def hedges(lowered: str) -> bool:
    """True when an answer, in lower case, says of itself that it is a guess or none."""
    return any(True for _ in _HEDGES_FOUND.found(lowered, frozenset(split_words(lowered))))
