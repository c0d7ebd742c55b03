"""What an action asked for in words would be classed as: an estimate that raises the trusted class, never lowers it.

The gate classifies the exact call later; this only decides which model is trusted with thinking about it. English and
command lines only: a request in another language is covered by the trusted class and by the gate.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set
from router.types import Risk, Role, TaskType, Turn

_GLANCE_CHARS: Final = 2_000
_SIMPLE_WORDS: Final = 30

# Each command under the word that it begins with: where that is not there, nothing is searched for.
_DESTROY_COMMANDS: Final = {
    "kubectl": r"kubectl\b[^\n]{0,80}\b(?:delete\b[^\n]{0,40}\b(?:ns|namespaces?|nodes?|pvc?|crds?)\b|drain\b)",
    "terraform": r"terraform\b[^\n]{0,40}\bdestroy\b",
    "helm": r"helm\b[^\n]{0,40}\b(?:uninstall|delete)\b",
    "drop": r"drop\s+(?:table|database|schema)\b",
    "truncate": r"truncate\s+table\b",
    "rm": r"rm\s+-[a-z]{0,6}(?:rf|fr)\b",
    "mkfs": r"mkfs\b",
    "dd": r"dd\s+if=",
    "wipefs": r"wipefs\b",
    "git": r"git\s+push\b[^\n]{0,60}(?:--force\b|\s-f\b)",
    "aws": r"aws\b[^\n]{0,80}\b(?:delete|terminate|destroy)[\w-]{0,30}",
    "gcloud": r"gcloud\b[^\n]{0,80}\b(?:delete|terminate|destroy)[\w-]{0,30}",
    "az": r"az\b[^\n]{0,80}\b(?:delete|terminate|destroy)[\w-]{0,30}",
}
_CHANGE_COMMANDS: Final = {
    "kubectl": r"kubectl\b[^\n]{0,80}\b(?:delete|apply|patch|scale|replace|rollout\s+(?:restart|undo))\b",
    "terraform": r"terraform\b[^\n]{0,40}\bapply\b",
    "helm": r"helm\b[^\n]{0,40}\b(?:upgrade|install|rollback)\b",
    "delete": r"delete\s+from\s+\w",
    "update": r"update\s+\w{1,64}\s+set\b",
    "alter": r"alter\s+table\b",
    "git": r"git\s+reset\s+--hard\b",
    "systemctl": r"systemctl\s+(?:stop|restart|disable|mask)\b",
    "shutdown": r"(?:sudo\s+)?shutdown\b",
    "reboot": r"(?:sudo\s+)?reboot\b",
    "iptables": r"iptables\s+-[fd]\b",
    "chmod": r"chmod\s+777\b",
}
_COMMAND_WORDS: Final = frozenset({*_DESTROY_COMMANDS, *_CHANGE_COMMANDS})
# A command counts where it is to be run: after "run", or on a line of its own unless the turn asks about it. A line is
# looked for in a text with a line feed before it.
_RUN: Final = r"\b(?:run|execute)[ \t:]{1,3}(?:this[: ]{1,2})?[`'\"]{0,3}(?:sudo[ \t]+)?"
_LINE: Final = r"\n[ \t]{0,8}(?:[$#>][ \t]{0,4})?(?:sudo[ \t]+)?"


def _searches(commands: Mapping[str, str], before: str = "") -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((word, re.compile(f"{before}(?:{command})")) for word, command in commands.items())


_DESTROY_CALLS, _CHANGE_CALLS = _searches(_DESTROY_COMMANDS), _searches(_CHANGE_COMMANDS)
_DESTROY_RUNS, _CHANGE_RUNS = _searches(_DESTROY_COMMANDS, _RUN), _searches(_CHANGE_COMMANDS, _RUN)
_DESTROY_LINES, _CHANGE_LINES = _searches(_DESTROY_COMMANDS, _LINE), _searches(_CHANGE_COMMANDS, _LINE)

# An order, not a question about one: at the start of a sentence, or after "please", "and", "go ahead and".
_ORDERED: Final = re.compile(
    r"(?:[.!?;:\n]\s{0,3}|,\s|\b(?:please|now|then|and|just|to|can you|could you|go ahead and|you to|let's|must)\s+)\Z"
)
_BEFORE_ORDER: Final = frozenset(".!?;:")
_ORDERED_CHARS: Final = 24  # more than any of these has
_TARGET: Final = (
    r"(?:namespaces?|databases?|db|tables?|clusters?|nodes?|pods?|deployments?|buckets?|volumes?|pvcs?|disks?|"
    r"servers?|hosts?|instances?|vms?|stacks?|environments?|environment|secrets?|credentials?|keys?|roles?|"
    r"permissions?|firewall|dns|certificates?|topics?|queues?|replicas?|services?|backups?|snapshots?|production|prod|"
    r"staging|main branch|user accounts?|accounts)"
)
_ON_TARGET: Final = re.compile(rf"\s+(?:[\w'`\"./-]+\s+){{0,6}}?[`'\"]?{_TARGET}\b")
_ASKS_HOW: Final = re.compile(
    r"\s{0,8}(?:how|what|why|when|where|which|who|should|is|are|does|do|did|explain|describe|write|create|implement|"
    r"design|build|give me|show me|tell me|compare|summari[sz]e|translate|review|suppose|imagine|if)\b"
)
_PRODUCTION: Final = re.compile(r"\b(?:prod|production|live|all|every|everything|entire|whole|customers?)\b")
# Searching is the dear part: an order needs one of its verbs to be there, each under its first word.
_DESTROY_VERBS: Final = {
    verb.split()[0]: verb
    for verb in (
        "delete", "drop", "destroy", "wipe", "purge", "terminate", "truncate", "decommission", "erase", "remove",
        "uninstall", "tear down", "revoke", "force-push", "force push",
    )
}  # fmt: skip
_CHANGE_VERBS: Final = {
    verb.split()[0]: verb
    for verb in (
        "restart", "reboot", "redeploy", "deploy", "roll back", "rollback", "fail over", "failover", "drain", "cordon",
        "scale", "migrate", "patch", "upgrade", "rotate", "disable", "stop", "shut down", "apply", "evict", "promote",
    )
}  # fmt: skip
_CHANGING_WORDS: Final = frozenset({*_DESTROY_VERBS, *_CHANGE_VERBS})
_NAME_PART: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_NAME_CHARS: Final = 64
_TOOL_DESTROYS: Final = word_set(
    "delete drop destroy wipe purge terminate truncate decommission erase revoke uninstall"
)
_TOOL_CHANGES: Final = word_set(
    "restart reboot redeploy deploy rollback failover drain cordon scale migrate patch upgrade rotate disable stop "
    "apply evict promote update create set put exec"
)
_TOOL_PAYS: Final = word_set("refund payout transfer pay purchase wire")
# In the singular: a final "s" is taken off the parts of a name, so "dn" is DNS, "kubernete" Kubernetes and "aw" AWS.
_TOOL_TARGETS: Final = word_set(
    "namespace database db table cluster node pod deployment bucket volume pvc disk server host instance vm stack "
    "environment secret credential key role permission firewall dn certificate topic queue replica service backup "
    "snapshot production prod user account kubectl k8 kubernete terraform helm aw gcloud azure cloud release"
)
_LABEL: Final = re.compile(r"\brisk(?:[ _-]?(?:class|level))?[\"']?\s{0,2}[:=]?\s{0,2}[\"']?r([123])\b")


def said_risk(lowered: str, vocabulary: AbstractSet[str]) -> Risk:
    """The class that a user's words amount to; R0 when they order nothing.

    `lowered` is the text in lower case, `vocabulary` at least its words. A destructive order is R3 when it hits
    production or everything, else R2; a changing one is R2 in production, else R1; a destructive command line is R3, a
    changing one R2. A risk label in the text counts upwards, as a caller's own label does.
    """
    risk = Risk.R0
    if "risk" in lowered:
        for label in _LABEL.findall(lowered):
            risk = risk.at_least(Risk(f"R{label}"))
    asks_how = _ASKS_HOW.match(lowered) is not None
    if not _COMMAND_WORDS.isdisjoint(vocabulary):
        risk = risk.at_least(_commanded(lowered, asks_how))
    return risk if asks_how else risk.at_least(_ordered(lowered, vocabulary))


def _commanded(lowered: str, asks_how: bool) -> Risk:
    runs = "run" in lowered or "execute" in lowered
    lines = f"\n{lowered}"
    if (runs and _found(_DESTROY_RUNS, lowered)) or (not asks_how and _found(_DESTROY_LINES, lines)):
        return Risk.R3
    changes = (runs and _found(_CHANGE_RUNS, lowered)) or (not asks_how and _found(_CHANGE_LINES, lines))
    return Risk.R2 if changes else Risk.R0


def _found(commands: Iterable[tuple[str, re.Pattern[str]]], text: str) -> bool:
    return any(word in text and pattern.search(text) is not None for word, pattern in commands)


def _ordered(lowered: str, vocabulary: AbstractSet[str]) -> Risk:
    if _orders(lowered, [_DESTROY_VERBS[word] for word in _DESTROY_VERBS.keys() & vocabulary]):
        return Risk.R3 if _PRODUCTION.search(lowered) else Risk.R2
    if _orders(lowered, [_CHANGE_VERBS[word] for word in _CHANGE_VERBS.keys() & vocabulary]):
        return Risk.R2 if _PRODUCTION.search(lowered) else Risk.R1
    return Risk.R0


def _orders(lowered: str, verbs: Iterable[str]) -> bool:
    """True when one of the verbs orders something to be done to a target."""
    for verb in verbs:
        start = lowered.find(verb)
        while start >= 0:
            end = start + len(verb)
            if _begins_order(lowered, start) and _ON_TARGET.match(lowered, end):
                return True
            start = lowered.find(verb, end)
    return False


def _begins_order(lowered: str, start: int) -> bool:
    if start == 0:
        return True
    if lowered[start - 1] not in _BEFORE_ORDER and not lowered[start - 1].isspace():
        return False
    before = lowered[:start].rstrip()
    return _ORDERED.search(lowered[max(len(before) - _ORDERED_CHARS, 0) : start]) is not None


def called_risk(turns: Sequence[Turn]) -> Risk:
    """The class that the model's newest tool calls amount to: what the loop is about to go on with."""
    risk = Risk.R0
    for turn in reversed(turns):
        if turn.role is Role.USER:
            break
        if turn.tool_calls:
            for _, arguments in turn.tool_calls:
                risk = risk.at_least(_call_risk(arguments[:_GLANCE_CHARS].lower()))
            break
    return risk


def _call_risk(arguments: str) -> Risk:
    if _found(_DESTROY_CALLS, arguments):
        return Risk.R3
    return Risk.R2 if _found(_CHANGE_CALLS, arguments) else Risk.R0


def offered_risk(names: Iterable[str], vocabulary: AbstractSet[str], untrusted_content: bool) -> Risk:
    """The class that the tools on offer amount to by their names.

    A tool that changes what runs, or moves money, makes the turn R1 by being there. Where the user's words speak of
    changing something, or third-party text could talk the model into it, one that destroys makes it R2. A general shell
    is neither: it says nothing of what the turn is about, and the gate judges each of its calls.
    """
    changes = destroys = False
    for name in names:
        parts = {part.lower().removesuffix("s") for part in _NAME_PART.findall(name[:_NAME_CHARS])}
        on_target = not _TOOL_TARGETS.isdisjoint(parts)
        destroys = destroys or (on_target and not _TOOL_DESTROYS.isdisjoint(parts)) or not _TOOL_PAYS.isdisjoint(parts)
        changes = changes or (on_target and not _TOOL_CHANGES.isdisjoint(parts))
    if not destroys:
        return Risk.R1 if changes else Risk.R0
    speaks_of_it = not _CHANGING_WORDS.isdisjoint(vocabulary)
    return Risk.R2 if speaks_of_it or untrusted_content else Risk.R1


def needs_reasoning(passage: Passage, task: TaskType, risk: Risk) -> bool:
    """Does the action want thought before anybody approves it? True for R3 and wherever nothing says no.

    False only on evidence: a short single instruction without a reasoning word, that is neither a diagnosis, a review
    nor mathematics.
    """
    if risk.rank >= Risk.R3.rank:
        return True
    features = passage.features
    thoughtful = {TaskType.INCIDENT_DIAGNOSIS, TaskType.CODE_REVIEW, TaskType.MATHEMATICS}
    simple = (
        0 < features.words <= _SIMPLE_WORDS
        and task not in thoughtful
        and features.count(Group.REASONING) + features.count(Group.PROOF) + features.count(Group.ALGORITHM) == 0
        and features.count(Group.DIAGNOSE) + features.count(Group.ROOT_CAUSE) == 0
        and features.steps == 0
        and features.questions == 0
        and " then " not in passage.lowered
    )
    return not simple
