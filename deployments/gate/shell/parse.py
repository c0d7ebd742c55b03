"""The shell parser: shfmt as a child process, from text to its syntax tree as JSON."""

import json
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from deployments.gate.shell.atoms import Unprovable
from deployments.ports import JsonValue


def shfmt_binary() -> Path | None:
    """Where shfmt is: beside this interpreter, where its wheel puts it, else on the path; None if absent."""
    beside = Path(sys.executable).parent / "shfmt"
    if beside.is_file():
        return beside
    found = shutil.which("shfmt")
    return Path(found) if found else None


def syntax_tree(text: str, binary: Path | None, timeout_s: float) -> dict[str, JsonValue]:
    """Shfmt's tree of `text` as bash. A syntax error, a missing or a slow parser is `Unprovable`: it holds."""
    if binary is None:
        raise Unprovable("the shell parser is not installed")
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments; the command line is only its input
            [str(binary), "--to-json", "-ln", "bash"],
            input=text.encode("utf-8"),
            capture_output=True,
            timeout=timeout_s,
            cwd="/",
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unprovable("the shell parser did not answer in time") from None
    except (OSError, UnicodeEncodeError):
        raise Unprovable("the shell parser could not be run") from None
    if done.returncode != 0 or not done.stdout:
        raise Unprovable("the command is not valid bash")
    try:
        tree = cast(JsonValue, json.loads(done.stdout))
    except (ValueError, RecursionError):
        raise Unprovable("the shell parser gave no readable tree") from None
    if not isinstance(tree, dict) or tree.get("Type") != "File":
        raise Unprovable("the shell parser gave no readable tree")
    return tree


def statements_of_each(
    lines: Sequence[str], binary: Path | None, timeout_s: float
) -> tuple[str, list[list[dict[str, JsonValue]]]]:
    """All lines as one text, parsed by one process: that text, and the statements of each line in it.

    A complete line means the same wherever it stands, so a statement that lies within one line is what that line alone
    would give. An empty list says that the line must be parsed alone: it may reach beyond its end (a here-document, a
    last backslash), or a statement of the whole text does not keep to the lines. `Unprovable` when the text is not
    valid as a whole, that is when any of the lines is not.
    """
    encoded = [line.encode("utf-8") for line in lines]
    whole = b"\n".join(encoded) + b"\n"
    tree = syntax_tree(whole.decode("utf-8"), binary, timeout_s)
    starts: list[int] = []
    at = 0
    for line in encoded:
        starts.append(at)
        at += len(line) + 1
    found: list[list[dict[str, JsonValue]]] = [[] for _ in lines]
    alone = {place for place, line in enumerate(lines) if "<<" in line or line.endswith("\\")}
    statements = tree.get("Stmts", [])
    for statement in statements if isinstance(statements, list) else []:
        if not isinstance(statement, dict):
            raise Unprovable("the shell parser gave no readable tree")
        first, last = _offset(statement, "Pos"), _offset(statement, "End")
        here, there = bisect_right(starts, first) - 1, bisect_right(starts, max(first, last - 1)) - 1
        if here == there:
            found[here].append(statement)
        else:
            alone |= set(range(here, there + 1))
    return whole.decode("utf-8"), [[] if place in alone else each for place, each in enumerate(found)]


def _offset(node: dict[str, JsonValue], name: str) -> int:
    place = node.get(name)
    offset = place.get("Offset") if isinstance(place, dict) else None
    if not isinstance(offset, int):
        raise Unprovable("the shell parser gave no readable tree")
    return offset
