"""What the runs showed: kept as JSON, and as tables in docs/conformance.md.

`python -m tests.conformance.results` writes the tables anew from `.cache/conformance/results.json`.
"""

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from serve_app.config import ROOT
from tests.conformance.cases import CASES, COMMAND_LINES, GROUPS

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
DOCUMENT = ROOT / "docs" / "conformance.md"
KEPT = ROOT / ".cache" / "conformance" / "results.json"
_SEEN_CHARS = 140


@dataclass
class Row:
    """One client in one case. `requests` are those with the client's task, without titles and the like."""

    client: str
    case: str
    version: str = ""
    requests: int = 0
    statuses: list[int] = field(default_factory=list)
    exit_code: int | None = None
    seconds: float = 0.0
    seen: str = ""
    outcome: str = "failed"
    """`passed`, `failed` or `skipped`."""


def read(path: Path) -> dict[tuple[str, str], Row]:
    """The rows of earlier runs, by client and case."""
    if not path.is_file():
        return {}
    rows = (Row(**each) for each in json.loads(path.read_text())["rows"])
    return {(row.client, row.case): row for row in rows}


class Results:
    """The rows of this run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[tuple[str, str], Row] = {}

    @contextmanager
    def case(self, client: str, case: str) -> Iterator[Row]:
        """A row to fill in; it has passed when nothing is raised."""
        row = Row(client, case)
        self._rows[client, case] = row
        try:
            yield row
        except pytest.skip.Exception as skipped:
            row.outcome, row.seen = "skipped", str(skipped)
            raise
        row.outcome = "passed"

    def write(self) -> None:
        """Put these rows in the place of those that earlier runs had for the same cases."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = read(self._path) | self._rows
        document = {"python": platform.python_version(), "rows": [asdict(rows[key]) for key in sorted(rows)]}
        self._path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def rendered(rows: Sequence[Row]) -> str:
    """The tables: per group of clients, one line per case; then the last words of the command lines."""
    found = {(row.client, row.case): row for row in rows}
    versions = {row.client: row.version for row in rows if row.version}
    parts: list[str] = []
    for title, clients in GROUPS.items():
        here = [name for name in clients if name in versions]
        if not here:
            continue
        parts += [f"### {title}", ""]
        parts += ["| case | " + " | ".join(f"{name} {versions[name]}" for name in here) + " |"]
        parts += ["|---" * (len(here) + 1) + "|"]
        for case, meaning in CASES:
            if any((name, case) in found for name in here):
                cells = " | ".join(_cell(found.get((name, case))) for name in here)
                parts.append(f"| {meaning} | {cells} |")
        parts.append("")
    parts += ["### What a person reads", "", "| case | client | last words |", "|---|---|---|"]
    for case, meaning in CASES:
        for name in COMMAND_LINES:
            row = found.get((name, case))
            if row is not None and row.seen and row.outcome == "passed":
                parts.append(f"| {meaning} | {name} | {_quoted(row.seen)} |")
    return "\n".join(parts)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.outcome != "passed":
        return row.outcome
    left = "killed" if row.exit_code is None else f"exit {row.exit_code}"
    return f"{row.requests} · {left}"


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    if len(line) > _SEEN_CHARS:
        line = line[: _SEEN_CHARS - 1] + "…"
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def write_document(rows: Sequence[Row], document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers."""
    text = document.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    document.write_text(f"{before}{BEGIN}\n\n{rendered(rows)}\n{END}{after}")


if __name__ == "__main__":
    write_document(list(read(KEPT).values()))
