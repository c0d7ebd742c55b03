"""The exact text an approver sees, and its digest: what was seen is what is signed.

Nothing is cut, and nothing in it can hide: control, bidirectional and invisible characters are printed as escapes, and
any other character beyond ASCII is named in a warning line, because look-alikes are how a dangerous word passes for a
harmless one.
"""

import hashlib
import unicodedata
from dataclasses import dataclass

from deployments.ports import Risk

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
) -> Display:
    """The whole of what a vote signs, one field a line; `commands` are the decoded commands of a shell call."""
    lines = [
        "Gatehouse approval request v1",
        f"risk:       {risk.value}",
        *(f"reason:     {_line(reason)}" for reason in reasons),
        f"tool:       {_line(tool)}",
        *(f"would run:  {_line(command)}" for command in commands),
        f"arguments:  {_line(arguments)}",
        f"tenant:     {_line(tenant)}",
        f"requester:  {_line(requester)}",
        f"session:    {_line(session)}",
        f"policy:     {policy_digest}",
        f"action:     {action_digest}",
    ]
    foreign = sorted({char for char in tool + arguments + "".join(commands) if ord(char) > 127})
    lines += [f"warning:    holds {_escape(char)} {unicodedata.name(char, 'without a name')}" for char in foreign]
    text = "\n".join(lines) + "\n"
    return Display(text, hashlib.sha256(text.encode("utf-8")).hexdigest())


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
