"""The exact text an approver sees, and its digest: what was seen is what is signed.

Nothing is cut, and nothing in it can hide: control, bidirectional and invisible characters are printed as escapes, and
any other character beyond ASCII is named in a warning line, because look-alikes are how a dangerous word passes for a
harmless one. The text grows with the request: the call, what the request asks for, then its change id and plan.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.gate.binding import plan_digest
from deployments.ports import Risk, RollbackPlan

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Display:
    """A rendering and the SHA-256 hex of its UTF-8 bytes."""

    text: str
    digest: str


def escaped(text: str) -> str:
    """`text` with every character that does not print as itself written as an escape. Spaces and newlines stay."""
    return "".join(char if _prints(char) else _escape(char) for char in text)


def render(
    *,
    tool: str,
    arguments: str,
    commands: tuple[str, ...],
    risk: Risk,
    reasons: tuple[str, ...],
    tenant: str,
    requester: str,
    session: str,
    policy_digest: str,
    action_digest: str,
    model: str | None = None,
    agent: str | None = None,
    untrusted: bool = False,
    preview: str | None = None,
) -> Display:
    """What is known of a call when it is proposed, one field a line.

    `commands` are the decoded commands of a shell call, `preview` is what an edit would change, `agent` the client
    software as it names itself, and `untrusted`: text from outside was in the conversation.
    """
    lines = [
        "Gatehouse approval request v2",
        f"risk:       {risk.value}",
        *(f"reason:     {_line(reason)}" for reason in reasons),
        f"tool:       {_line(tool)}",
        *(f"would run:  {_line(command)}" for command in commands),
        # Every line of an edit has the same beginning, so that none of them can pass for a field.
        *(f"would edit: | {escaped(line)}" for line in ([] if preview is None else preview.split("\n"))),
        f"arguments:  {_line(arguments)}",
        f"tenant:     {_line(tenant)}",
        f"requester:  {_line(requester)}",
        f"session:    {_line(session)}",
        *([] if agent is None else [f"agent:      {_line(agent)} (as it names itself)"]),
        *([] if model is None else [f"model:      {_line(model)}"]),
        *(["untrusted:  text from outside was in the conversation"] if untrusted else []),
        f"policy:     {policy_digest}",
        f"action:     {action_digest}",
        *_warnings(tool, arguments, *commands, preview or ""),
    ]
    return _display(lines)


def requested(shown: str, approval_id: str, votes: int, roles: tuple[str, ...], expires_ms: int) -> Display:
    """The same with what the request asks for: how many persons of which roles, and until when."""
    who = f"{votes} of the roles {', '.join(map(_line, roles))}" if roles and votes else str(votes)
    until = datetime.fromtimestamp(expires_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return _display(
        [shown.removesuffix("\n"), f"request:    {approval_id}", f"approvers:  {who}", f"expires:    {until}"]
    )


def planned(shown: str, change_id: str, plan: RollbackPlan) -> Display:
    """The same with its change id and its way back, which are signed with it."""
    return _display([shown.removesuffix("\n"), *_of_plan(change_id, plan)])


def unplanned(shown: str, change_id: str, plan: RollbackPlan) -> Display:
    """What was shown before the plan was recorded; the reverse of `planned`."""
    section = "\n".join(_of_plan(change_id, plan)) + "\n"
    return _display([shown.removesuffix(section).removesuffix("\n")])


def _of_plan(change_id: str, plan: RollbackPlan) -> list[str]:
    return [
        f"change id:  {_line(change_id)}",
        *(f"rollback {place}: {_line(step)}" for place, step in enumerate(plan.steps, start=1)),
        f"verify:     {_line(plan.verify)}",
        f"plan:       {plan_digest(plan.steps, plan.verify)}",
        *_warnings(change_id, *plan.steps, plan.verify),
    ]


def _display(lines: Sequence[str]) -> Display:
    text = "\n".join(lines) + "\n"
    return Display(text, hashlib.sha256(text.encode("utf-8")).hexdigest())


def _warnings(*texts: str) -> list[str]:
    foreign = sorted({char for char in "".join(texts) if ord(char) > 127})
    return [f"warning:    holds {_escape(char)} {unicodedata.name(char, 'without a name')}" for char in foreign]


def _line(text: str) -> str:
    """One line: a newline inside a value must not be able to forge another field."""
    return escaped(text).replace("\n", "\\n")


def _prints(char: str) -> bool:
    if char == "\n" or " " <= char <= "~":
        return True
    return ord(char) > 127 and unicodedata.category(char) not in _HIDDEN and unicodedata.category(char) != "Zs"


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
