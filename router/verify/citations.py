"""What an answer cites from the conversation: ids, places in files, quoted log lines. Do they occur there at all."""

import re
from collections.abc import Iterator
from typing import Final

from router.verify.values import Answer, Check, Finding, Status, Task

_MOST_CITED: Final = 256
_LEAST_QUOTE_CHARS: Final = 24
_SLACK_LINES: Final = 3
_IDS: Final = (
    re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE),
    re.compile(r"(?<![\w-])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{10,64}(?![\w-])"),
    re.compile(r"(?<![\w-])[A-Z][A-Z0-9]{1,9}-\d{1,7}(?![\w-])"),
    re.compile(r"(?<![\w-])[a-z]\w*(?:-[a-z0-9]+)*-[a-f0-9]{8,10}-[a-z0-9]{5}(?![\w-])"),  # a Kubernetes pod
)
_STANDARDS: Final = re.compile(r"(?:CVE|CWE|RFC|ISO|UTF|SHA|AES|RSA|HTTP|TLS|IPV|IEEE|PEP|ECDSA|GPT|MD|X)-?\d*\Z")
_PLACE: Final = re.compile(r"(?<![\w/:.@+-])((?:[\w.@+-]+/)*[\w@+-]+(?:\.[\w-]+)*\.[A-Za-z]\w{0,9}):(\d{1,7})\b")
_LOG_LINE: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b|\[(?:error|warn|warning|fatal|critical|info|debug)\]"
    r"|^(?:ERROR|WARN|WARNING|FATAL|CRITICAL|INFO|DEBUG)\b"
)
_QUOTE: Final = re.compile(r"`([^`\n]{24,600})`|^[ \t]*> ?([^\n]{24,600})$", re.MULTILINE)
_BLANKS: Final = re.compile(r"\s+")
_LEFT_OUT: Final = re.compile(r"\.\.\.|\u2026")
_HUNK: Final = re.compile(r"^@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@", re.MULTILINE)
_FILE: Final = re.compile(r"^\+\+\+ (?:b/)?([^\t\n]+)", re.MULTILINE)


def citations(answer: Answer, task: Task, material: str) -> Finding | None:
    """Whether what the answer cites occurs in `material`; None when it cites nothing that can be looked up.

    Only citations of a sort that the conversation has at all are looked up: an answer may invent example ids where no
    ids are at hand. Fails when one is missing; passes when all are there.
    """
    plain = _BLANKS.sub(" ", material)
    cited = missing = 0
    kinds: list[str] = []
    for kind, there in _looked_up(answer.text, material, plain):
        cited += 1
        if not there:
            missing += 1
            kinds.append(kind)
        if cited == _MOST_CITED:
            break
    if not cited:
        return None
    if missing:
        return Finding(Check.CITATION, Status.UNKNOWN if task.cut else Status.FAIL, kinds[0], missing)
    return Finding(Check.CITATION, Status.PASS, "all_found", cited)


def _looked_up(text: str, material: str, plain: str) -> Iterator[tuple[str, bool]]:
    lowered = plain.lower()
    for sort in _IDS:
        if sort.search(material) is None:
            continue
        for match in sort.finditer(text):
            if _STANDARDS.match(match[0]) is None:
                yield "unknown_id", match[0].lower() in lowered
    yield from _places(text, material)
    if _LOG_LINE.search(material) is not None:
        for match in _QUOTE.finditer(text):
            quote = match[1] or match[2]
            if _LOG_LINE.search(quote) is not None:
                yield "unknown_log_line", _occurs(quote, plain)


def _occurs(quote: str, plain: str) -> bool:
    """Whether the parts of a quote, between what was left out, occur in the conversation in this order."""
    at = 0
    for part in _LEFT_OUT.split(quote):
        words = _BLANKS.sub(" ", part).strip(" \"'`*")
        at = plain.find(words, at)
        if at < 0:
            return False
    return True


def _places(text: str, material: str) -> Iterator[tuple[str, bool]]:
    """`path:line` where the conversation shows diffs or numbered places: file known, line inside what was shown."""
    spans = _spans(material)
    numbered = spans or _PLACE.search(material) is not None
    if not numbered:
        return
    for match in _PLACE.finditer(text):
        path, line = match[1], int(match[2])
        name = path.rsplit("/", 1)[-1]
        shown = [span for known, span in spans.items() if known == path or known.endswith(f"/{path}")]
        if not shown and "/" not in path:
            shown = [span for known, span in spans.items() if known.rsplit("/", 1)[-1] == name]
        if f"{name}:{line}" in material:
            yield "unknown_line", True
        elif (
            shown and material.count(name) <= 6
        ):  # headers of its diff; more often than that, it is shown otherwise, too
            yield "unknown_line", any(low - _SLACK_LINES <= line <= high + _SLACK_LINES for low, high in shown)
        elif not shown:
            yield "unknown_file", name in material


def _spans(material: str) -> dict[str, tuple[int, int]]:
    """Of every file that a diff changes, the first and the last line number that its hunks show, old or new."""
    files = list(_FILE.finditer(material))
    spans: dict[str, tuple[int, int]] = {}
    for at, file in enumerate(files):
        end = files[at + 1].start() if at + 1 < len(files) else len(material)
        edges: list[int] = []
        for hunk in _HUNK.finditer(material, file.end(), end):
            old, new = int(hunk[1]), int(hunk[3])
            edges += [old, old + int(hunk[2] or "1"), new, new + int(hunk[4] or "1")]
        if edges:
            spans[file[1].strip()] = (min(edges), max(edges))
    return spans
