"""The shell parser: shfmt as a child process, from text to its syntax tree as JSON."""

import json
import shutil
import subprocess
import sys
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
