"""Code in an answer: does it parse. Python and JSON by the standard library; others by a port, or not at all."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.verify.values import Answer, Check, Finding, Parsers, Status

_MOST_BLOCKS: Final = 32
_MOST_BLOCK_CHARS: Final = 65_536
_MOST_NESTING: Final = 64
_MOST_FENCE_CHARS: Final = 200
_OPENING: Final = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^`]*\Z")
_SPAN: Final = re.compile(r"`[^`\n]{1,400}`")
_PYTHON: Final = frozenset({"python", "py", "python3"})
_SHELL: Final = frozenset({"bash", "sh", "shell", "zsh"})
_ELLIPSIS: Final = re.compile(r"^\s*(?:\.\.\.|\u2026|#\s*\.\.\.|//\s*\.\.\.|<[\w -]+>)\s*$", re.MULTILINE)
# Newer than the parser at hand, or IPython's own: type parameters, magics.
_NEWER: Final = re.compile(r"^\s*type \w|^\s*(?:async )?(?:def|class) \w+\[|^\s*[%!]\w", re.MULTILINE)
_FORMATTED: Final = re.compile(r"\b[rR]?[fF][rR]?[\"']")  # since Python 3.12 its braces may hold quotes
_PROMPT: Final = re.compile(r"^(?:>>>|In \[\d+\]:|\$ )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language in lower case, or empty, and its text, dedented as its fence was."""

    language: str
    text: str


def blocks(text: str) -> tuple[Block, ...]:
    """The closed fenced blocks of a text, at most 32."""
    return _split(text)[0]


def prose(text: str) -> str:
    """The text without its closed fenced blocks and its `spans`."""
    return _SPAN.sub(" ", _split(text)[1]) if "`" in text or "~~~" in text else text


def _split(text: str) -> tuple[tuple[Block, ...], str]:
    """Blocks and the rest, in one pass over the lines."""
    if "```" not in text and "~~~" not in text:
        return (), text
    found: list[Block] = []
    rest: list[str] = []
    opening: re.Match[str] | None = None
    inside: list[str] = []
    for line in text.split("\n"):
        if opening is None:
            opening = _OPENING.match(line) if len(line) <= _MOST_FENCE_CHARS else None
            if opening is None:
                rest.append(line)
            inside = []
        elif line.strip(" \t\r") == opening["fence"]:
            body = "".join(f"{each.removeprefix(opening['indent'])}\n" for each in inside)
            found.append(Block(opening["language"].lower(), body))
            opening = None
        else:
            inside.append(line)
    return tuple(found[:_MOST_BLOCKS]), "\n".join([*rest, *(inside if opening is not None else [])])


def code(answer: Answer, parsers: Parsers) -> Finding | None:
    """Whether every block whose language can be read parses; None when the answer holds no fenced block.

    One block that does not parse fails the answer; a block in another language, an excerpt or a console session is
    unknown and keeps the answer from passing.
    """
    found = blocks(answer.text)
    said = [_parses(block, parsers) for block in found if block.language not in _SHELL | {"diff", "patch"}]
    return _together(said, Check.CODE)


def commands(answer: Answer, parsers: Parsers) -> Finding | None:
    """Whether the shell commands that the answer proposes in fenced blocks parse; None when there are none."""
    said: list[bool | None] = []
    for block in blocks(answer.text):
        if block.language in _SHELL:
            lines = _PROMPT.sub("", block.text)
            unsure = parsers.command is None or len(lines) > _MOST_BLOCK_CHARS or "<" in _angles(lines)
            said.append(None if unsure or parsers.command is None else parsers.command(lines))
    return _together(said, Check.COMMAND)


def _angles(lines: str) -> str:
    """`<pod-name>` is a place to fill in and no redirection; "<" when there is one."""
    return "<" if re.search(r"<[a-zA-Z][\w -]*>", lines) else ""


def _together(said: Sequence[bool | None], check: Check) -> Finding | None:
    if not said:
        return None
    if False in said:
        return Finding(check, Status.FAIL, "does_not_parse", said.count(False))
    if None in said:
        return Finding(check, Status.UNKNOWN, "not_read", said.count(None))
    return Finding(check, Status.PASS, "parses", len(said))


def _parses(block: Block, parsers: Parsers) -> bool | None:
    text = block.text
    if len(text) > _MOST_BLOCK_CHARS or not text.strip():
        return None
    if block.language in _PYTHON:
        return _python(text)
    if _ELLIPSIS.search(text):
        return None  # an excerpt
    if block.language == "json":
        return _json(text)
    if block.language in ("yaml", "yml"):
        return None if parsers.yaml is None else parsers.yaml(text)
    return None  # brackets that match prove nothing


def _python(text: str) -> bool | None:
    if _PROMPT.search(text) or _NEWER.search(text) or _too_nested(text):
        return None
    try:
        ast.parse(text)
    except SyntaxError as error:
        line = text.split("\n")[max((error.lineno or 1) - 1, 0) :][:1]
        return None if _is_excerpt(text) or any(map(_FORMATTED.search, line)) else False
    except ValueError:
        return False  # a null character
    except (RecursionError, MemoryError):
        return None
    return True


def _is_excerpt(text: str) -> bool:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first[:1].isspace() or _ELLIPSIS.search(text) is not None


def _too_nested(text: str) -> bool:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest > _MOST_NESTING


def _json(text: str) -> bool | None:
    if re.search(r"^\s*//|/\*", text, re.MULTILINE):
        return None  # JSON with comments, which many tools read
    try:
        json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        return None if text.strip().count("\n{") else False  # one object per line
    return True
