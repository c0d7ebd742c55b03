r"""Text for `sh`, which need not be bash: what another shell of the family reads as something else is `Unprovable`.

dash and the shell of busybox know less than bash, and say so of most of it: an array is a syntax error, and nothing
runs. Here is what they take for another thing without a word: `[[ a || b ]]` runs `b`, `((a > b))` writes to `b`, the
body of `function f {` is the next commands, `$'\''` ends elsewhere, `x+=y` sets nothing, `$RANDOM` is no word at all.
"""

import re

from deployments.gate.shell.atoms import Unprovable
from deployments.gate.shell.names import NUMBERS
from deployments.gate.shell.tree import Node, literal
from deployments.ports import JsonValue

_OTHERWISE = frozenset({"TestClause", "ArithmCmd", "LetClause", "CoprocClause", "ProcSubst", "ExtGlob", "CStyleLoop"})
_REDIRECTS = frozenset({"&>", "&>>", "<<<", "|&"})
_MARKS = ("RsrvWord", "Dollar", "Append")
# Only these numbers are everywhere what they are in bash.
_NUMBERS = frozenset({"?", "#", "$", "!", "PPID"})
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")


def check_portable(value: JsonValue) -> None:
    """Raise `Unprovable` if anything below `value`, a syntax tree of bash, means something else to another shell."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            if (why := _odd(each)) is not None:
                raise Unprovable(f"{why} means something else to a shell that is not bash")
            left += each.values()


def _odd(node: Node) -> str | None:
    kind, operator, number = node.get("Type"), node.get("Op"), node.get("N")
    if kind in _OTHERWISE:
        return str(kind)
    if operator in _REDIRECTS:
        return f"'{operator}'"
    if any(node.get(mark) is True for mark in _MARKS) or "Array" in node or "Index" in node:
        return "a function, a value, or a string as only bash writes it,"
    if isinstance(number, dict) and len(str(number.get("Value"))) > 1:
        return "a descriptor of two digits"
    name = node.get("Param")
    if isinstance(name, dict) and name.get("Value") in NUMBERS - _NUMBERS:
        return f"${name['Value']}"
    if any(_unquoted(item) for item in _items(node, "Args")):
        return "a declaration that may be split"
    if kind == "CallExpr":
        words = [literal(word) for word in _items(node, "Args")]
        if "read" in words and any(word is not None and word[:1] == "-" and word != "-r" for word in words):
            return "a flag of read"
    pieces = _items(node, "Parts") if kind != "DblQuoted" else []
    texts = [str(part.get("Value")) for part in pieces if isinstance(part, dict) and part.get("Type") == "Lit"]
    if any(_BRACES.search(text) or "~+" in text or "~-" in text for text in texts):
        return "a brace expansion or a remembered directory"
    return None


def _items(node: Node, key: str) -> list[JsonValue]:
    found = node.get(key)
    return found if isinstance(found, list) else []


def _unquoted(assign: JsonValue) -> bool:
    """True for a value in which an expansion stands outside of quotes."""
    value = assign.get("Value") if isinstance(assign, dict) else None
    pieces = _items(value, "Parts") if isinstance(value, dict) else []
    return any(isinstance(part, dict) and part.get("Type") in {"ParamExp", "CmdSubst", "ArithmExp"} for part in pieces)
