"""Why a graph did not start, in one sentence."""

import re
from collections.abc import Sequence
from pathlib import Path

_ERROR_LINE = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Log|Locked|Damaged|Unavailable|Failed)\b.*")
_ELSEWHERE = "root cause"
"""In vLLM's words for: a process of the engine, or a worker of that process, has printed the cause."""
_OF_ENGINE = re.compile(
    r"^\((?:EngineCore|Worker)[^)]*\) +(?:ERROR \S+ \S+ \[[^\]]+\] +)?"
    r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .*)$",
    re.MULTILINE,
)
_MOST_CHARACTERS = 600


def sentence(texts: Sequence[str], logs: Path) -> str:
    """The last line of `texts` that names an error; where that only points at an engine's output, what stands there.

    `texts`: what Serve says of its parts, tracebacks included. `logs`: the folder of Ray's logs.
    """
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    found = (named or lines or ["unknown reason"])[-1]
    if _ELSEWHERE in found:
        found = _said_by_engine(logs) or found
    return found[:_MOST_CHARACTERS]


def _said_by_engine(logs: Path) -> str | None:
    """The last error that a process of an engine printed, of the newest log with one."""
    files = sorted(logs.glob("worker-*.err"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        found = [
            each for each in _OF_ENGINE.findall(file.read_text(encoding="utf-8", errors="replace"))
            if _ELSEWHERE not in each
        ]  # fmt: skip
        if found:
            return str(found[-1])
    return None
