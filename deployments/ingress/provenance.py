"""Where a conversation comes from: which client software, whether text from outside is in it, which tools it was given.

All of it can raise the class of a call, and nothing of it lowers one: what a client says of itself is not proven. So a
name of software is a word for policies to raise by, and the header `x-gatehouse-untrusted` can only say yes.

Text from outside is the result of a tool that brings it: the web, a mail box, a tracker, an MCP server of somebody
else. Tools are told apart by their names (`ingress.outside_tools` and `inside_tools`), because a client sends nothing
else of them. Results of shells and files are not outside in this sense: they are of the machine the work is about, and
counting them would make every coding session untrusted.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Final

from rfc8785 import CanonicalizationError, dumps

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.values import Asked
from deployments.ports import JsonValue

UNTRUSTED_HEADER: Final = "x-gatehouse-untrusted"
_ANSWERS: Final = {"true": True, "false": False, "": False}
_PRODUCT: Final = re.compile(r"([A-Za-z][A-Za-z0-9._\-]{0,47})(?:/([A-Za-z0-9._+\-]{1,32}))?(?: (\d[\w.]{0,31}))?")
_VERSION: Final = re.compile(r"\d{1,9}(?!\d)(?:\.\d{1,9}(?!\d))?")
_ORIGINATOR: Final = re.compile(r"[A-Za-z][A-Za-z0-9._\-]{0,47}")


class Outside:
    """Knows by its name whether a tool brings text from outside."""

    def __init__(self, outside: Iterable[str], inside: Iterable[str]) -> None:
        """Both are shell patterns, read without regard to case; `inside` are exceptions."""
        self._outside = _any(outside)
        self._inside = _any(inside)

    def tool(self, name: str) -> bool:
        """True for a tool that brings text from outside."""
        folded = name.casefold()
        return self._outside.fullmatch(folded) is not None and self._inside.fullmatch(folded) is None

    def untrusted(self, asked: Asked, headers: Mapping[str, str]) -> bool:
        """True when text from outside is in the conversation, or the caller says so.

        A result of a call that is not in the conversation could be of any tool. `InvalidRequest` when the header says
        neither yes nor no.
        """
        return said(headers) or asked.outside or self._in_messages(asked.body.get("messages"))

    def _in_messages(self, messages: JsonValue) -> bool:
        names: dict[str, str] = {}
        for message in messages if isinstance(messages, list) else []:
            if not isinstance(message, dict):
                continue
            if message.get("role") == "assistant":
                names.update(_called(message.get("tool_calls")))
            elif message.get("role") in ("tool", "function"):
                call_id, own = message.get("tool_call_id"), message.get("name")
                name = names.get(call_id) if isinstance(call_id, str) else None
                if name is None and isinstance(own, str):
                    name = own
                if name is None or self.tool(name):
                    return True
        return False


def said(headers: Mapping[str, str]) -> bool:
    """Whether the caller says that there is text from outside; its silence says nothing."""
    answer = _ANSWERS.get(headers.get(UNTRUSTED_HEADER, "").strip())
    if answer is None:
        raise InvalidRequest(f"'{UNTRUSTED_HEADER}' must be true or false.", UNTRUSTED_HEADER)
    return answer


def agent_of(headers: Mapping[str, str]) -> str | None:
    """The client software as it names itself: `codex_cli_rs/0.169`, `claude-cli/2.1`; None when it does not.

    A name and at most two numbers: what a rule can be written for, and nothing that a header could smuggle into a log.
    """
    product = _PRODUCT.match(headers.get("user-agent", "").strip())
    originator = headers.get("originator", "").strip()
    name, versions = "", ("", "")
    if product is not None:
        name, versions = product[1], (product[2] or "", product[3] or "")
        if versions[0][:1].isalpha():
            name = f"{name}-{versions[0]}"  # "OpenAI/Python 2.54.0"
    if _ORIGINATOR.fullmatch(originator):
        name = originator
    found = next((match for version in versions if (match := _VERSION.match(version)) is not None), None)
    if not name:
        return None
    return f"{name}/{found.group()}" if found is not None else name


def schemas_of(asked: Asked, names: Iterable[str]) -> Mapping[str, str]:
    """SHA-256 (hex) of the RFC 8785 form of the JSON schemas with which tools of these names were offered.

    A tool without a schema is left out, and so is one whose schema has no such form: a policy that knows the tool by
    its schema then does not know it.
    """
    wanted = frozenset(names)
    tools = asked.body.get("tools")
    found: dict[str, str] = {}
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            continue
        name, schema = function.get("name"), function.get("parameters")
        if isinstance(name, str) and name in wanted and isinstance(schema, dict):
            try:
                found[name] = hashlib.sha256(dumps(schema)).hexdigest()
            except (CanonicalizationError, RecursionError):
                found.pop(name, None)
    return found


def _called(calls: JsonValue) -> Iterable[tuple[str, str]]:
    """Ids and tools of an assistant's calls."""
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(call, dict) and isinstance(function, dict):
            call_id, name = call.get("id"), function.get("name")
            if isinstance(call_id, str) and isinstance(name, str):
                yield call_id, name


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for all patterns; it matches nothing when there are none."""
    texts: Sequence[str] = [translate(pattern.casefold()) for pattern in patterns]
    return re.compile("|".join(texts) if texts else r"(?!)")
