"""What an action asked for in words would be classed as: an estimate that raises the trusted class, never lowers it.

The gate classifies the exact call later; this only decides which model is trusted with thinking about it. English and
command lines only: a request in another language is covered by the trusted class and by the gate.
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from router.features import Passage
from router.lexicon import Group, word_set
from router.types import Risk, Role, TaskType, Turn

_GLANCE_CHARS: Final = 2_000
_SIMPLE_WORDS: Final = 30

_DESTROY_COMMAND: Final = (
    r"kubectl\b[^\n]{0,80}\bdelete\b[^\n]{0,40}\b(?:ns|namespaces?|nodes?|pvc?|crds?)\b|kubectl\b[^\n]{0,80}\bdrain\b|"
    r"terraform\b[^\n]{0,40}\bdestroy\b|helm\b[^\n]{0,40}\b(?:uninstall|delete)\b|drop\s+(?:table|database|schema)\b|"
    r"truncate\s+table\b|rm\s+-[a-z]{0,6}(?:rf|fr)\b|mkfs\b|dd\s+if=|wipefs\b|"
    r"git\s+push\b[^\n]{0,60}(?:--force\b|\s-f\b)|"
    r"(?:aws|gcloud|az)\b[^\n]{0,80}\b(?:delete|terminate|destroy)[\w-]{0,30}"
)
_CHANGE_COMMAND: Final = (
    r"kubectl\b[^\n]{0,80}\b(?:delete|apply|patch|scale|replace|rollout\s+(?:restart|undo))\b|"
    r"terraform\b[^\n]{0,40}\bapply\b|helm\b[^\n]{0,40}\b(?:upgrade|install|rollback)\b|"
    r"delete\s+from\s+\w|update\s+\w{1,64}\s+set\b|alter\s+table\b|git\s+reset\s+--hard\b|"
    r"systemctl\s+(?:stop|restart|disable|mask)\b|(?:sudo\s+)?(?:shutdown|reboot)\b|iptables\s+-[fd]\b|chmod\s+777\b"
)
# A command counts where it is to be run: after "run", or on a line of its own unless the turn asks about it.
_RUN: Final = r"\b(?:run|execute)[ \t:]{1,3}(?:this[: ]{1,2})?[`'\"]{0,3}(?:sudo[ \t]+)?"
_LINE: Final = r"^[ \t]{0,8}(?:[$#>][ \t]{0,4})?(?:sudo[ \t]+)?"
_DESTROY_RUN: Final = re.compile(rf"{_RUN}(?:{_DESTROY_COMMAND})")
_CHANGE_RUN: Final = re.compile(rf"{_RUN}(?:{_CHANGE_COMMAND})")
_DESTROY_LINE: Final = re.compile(rf"{_LINE}(?:{_DESTROY_COMMAND})", re.MULTILINE)
_CHANGE_LINE: Final = re.compile(rf"{_LINE}(?:{_CHANGE_COMMAND})", re.MULTILINE)
_DESTROY_CALL: Final = re.compile(_DESTROY_COMMAND)
_CHANGE_CALL: Final = re.compile(_CHANGE_COMMAND)

# An order, not a question about one: at the start of a sentence, or after "please", "and", "go ahead and".
_ORDER: Final = (
    r"(?:^|[.!?;:\n]\s{0,3}|,\s|\b(?:please|now|then|and|just|to|can you|could you|go ahead and|you to|let's|must)\s+)"
)
_TARGET: Final = (
    r"(?:namespaces?|databases?|db|tables?|clusters?|nodes?|pods?|deployments?|buckets?|volumes?|pvcs?|disks?|"
    r"servers?|hosts?|instances?|vms?|stacks?|environments?|environment|secrets?|credentials?|keys?|roles?|"
    r"permissions?|firewall|dns|certificates?|topics?|queues?|replicas?|services?|backups?|snapshots?|production|prod|"
    r"staging|main branch|user accounts?|accounts)"
)
_DESTROY_ORDER: Final = re.compile(
    rf"{_ORDER}(?:delete|drop|destroy|wipe|purge|terminate|truncate|decommission|erase|remove|uninstall|tear down|"
    rf"revoke|force-push|force push)\s+(?:[\w'`\"./-]+\s+){{0,6}}?[`'\"]?{_TARGET}\b"
)
_CHANGE_ORDER: Final = re.compile(
    rf"{_ORDER}(?:restart|reboot|redeploy|deploy|roll back|rollback|fail over|failover|drain|cordon|scale|migrate|"
    rf"patch|upgrade|rotate|disable|stop|shut down|apply|evict|promote)\s+(?:[\w'`\"./-]+\s+){{0,6}}?[`'\"]?{_TARGET}\b"
)
_ASKS_HOW: Final = re.compile(
    r"\s{0,8}(?:how|what|why|when|where|which|who|should|is|are|does|do|did|explain|describe|write|create|implement|"
    r"design|build|give me|show me|tell me|compare|summari[sz]e|translate|review|suppose|imagine|if)\b"
)
_PRODUCTION: Final = re.compile(r"\b(?:prod|production|live|all|every|everything|entire|whole|customers?)\b")
# Searching is the dear part, so each search needs one of its words to be there at all.
_COMMAND_WORDS: Final = word_set(
    "kubectl terraform helm drop truncate rm mkfs dd wipefs git aws gcloud az delete update alter systemctl shutdown "
    "reboot iptables chmod"
)
_DESTROY_WORDS: Final = word_set(
    "delete drop destroy wipe purge terminate truncate decommission erase remove uninstall tear revoke force-push force"
)
_CHANGE_WORDS: Final = word_set(
    "restart reboot redeploy deploy roll rollback fail failover drain cordon scale migrate patch upgrade rotate "
    "disable stop shut apply evict promote"
)
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
    if _DESTROY_RUN.search(lowered) or (not asks_how and _DESTROY_LINE.search(lowered)):
        return Risk.R3
    changes = _CHANGE_RUN.search(lowered) or (not asks_how and _CHANGE_LINE.search(lowered))
    return Risk.R2 if changes else Risk.R0


def _ordered(lowered: str, vocabulary: AbstractSet[str]) -> Risk:
    if not _DESTROY_WORDS.isdisjoint(vocabulary) and _DESTROY_ORDER.search(lowered):
        return Risk.R3 if _PRODUCTION.search(lowered) else Risk.R2
    if not _CHANGE_WORDS.isdisjoint(vocabulary) and _CHANGE_ORDER.search(lowered):
        return Risk.R2 if _PRODUCTION.search(lowered) else Risk.R1
    return Risk.R0


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
    if not any(word in arguments for word in _COMMAND_WORDS):
        return Risk.R0
    if _DESTROY_CALL.search(arguments):
        return Risk.R3
    return Risk.R2 if _CHANGE_CALL.search(arguments) else Risk.R0


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
    speaks_of_it = not _DESTROY_WORDS.isdisjoint(vocabulary) or not _CHANGE_WORDS.isdisjoint(vocabulary)
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
