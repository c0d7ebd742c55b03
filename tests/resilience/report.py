"""The timeline of a run as table and picture of `docs/resilience.md`: `python -m tests.resilience.report LOG SVG`.

Needs matplotlib for the picture.
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = {
    "sent": "sent",
    "answered": "answered",
    "failed cleanly": "failed cleanly",
    "of these error events": "of these in a stream",
    "connections to a dead machine": "connections that died with their machine",
    "truncated": "truncated",
    "acknowledged": "records acknowledged",
    "acknowledged and lost": "of these lost",
    "charged twice": "charged twice",
    "settlements lost": "settlements lost",
    "of an unknown end, charged an estimate": "charged an estimate",
    "longest without an answer, s": "longest without an answer, s",
    "seconds until healthy": "until all is well, s",
}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each scenario."""
    rows = [["scenario", *_COLUMNS.values()], ["---"] * (len(_COLUMNS) + 1)]
    for line in lines:
        if line["event"] == "scenario":
            rows.append([line["scenario"], *(f"{line['figures'].get(name, 0):,}" for name in _COLUMNS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """SVG: what was answered and what was not, second by second, before and after each fault."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    seen = {line["scenario"]: line["seconds"] for line in lines if line["event"] == "series"}
    well = {line["scenario"]: line["seconds"] for line in lines if line["event"] == "healthy"}
    with matplotlib.rc_context({"svg.hashsalt": "gatehouse", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(len(seen), 1, figsize=(9, 1.5 * len(seen)), layout="constrained", squeeze=False)
        for axis, (name, seconds) in zip(axes[:, 0], seen.items(), strict=True):
            at = [each[0] for each in seconds]
            axis.bar(at, [each[1] for each in seconds], width=1.0, align="edge", color="#0072b2", label="answered")
            axis.bar(at, [-each[2] for each in seconds], width=1.0, align="edge", color="#d55e00", label="failed")
            axis.axvline(0, color="black", linewidth=1)
            axis.axvline(well[name], color="#009e73", linewidth=1)
            axis.axhline(0, color="#888888", linewidth=0.5)
            axis.set_title(f"{name}: all is well after {well[name]:.0f} s", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, 0].legend(loc="upper right", fontsize=8, frameon=False, ncols=2)
        axes[-1, 0].set_xlabel("seconds after the fault (black); requests that ended in each second")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def main() -> None:
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(table(lines))
    draw(lines, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
