"""The timeline of a run as table and picture of `docs/resilience.md`: `python -m tests.resilience.report LOG SVG`.

Needs matplotlib for the picture.
"""

import importlib
import json
import re
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
    "not in their dialect": "not in its dialect",
    "acknowledged": "records acknowledged",
    "acknowledged and lost": "of these lost",
    "answered without a record": "answers without their record",
    "charged twice": "charged twice",
    "settlements lost": "settlements lost",
    "of an unknown end, charged an estimate": "charged an estimate",
    "longest without an answer, s": "longest without an answer, s",
    "seconds until healthy": "until all is well, s",
}

_BIN_S = 3
"""Seconds that one step of the picture stands for."""
_SPARE = re.compile(r"(?<=\d\.\d)\d+|^ +", re.MULTILINE)
"""What nobody sees: less than a tenth of a point, and what lines are indented by."""


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each scenario."""
    rows = [["scenario", *_COLUMNS.values()], ["---"] * (len(_COLUMNS) + 1)]
    for line in lines:
        if line["event"] == "scenario":
            figures = line["figures"]
            counted = (f"{figures[name]:,}" if name in figures else "not counted" for name in _COLUMNS)
            rows.append([f"`{line['scenario']}`", *counted])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """SVG: what was answered and what was not in a second, before and after each fault."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    seen = {line["scenario"]: line["seconds"] for line in lines if line["event"] == "series"}
    well = {line["scenario"]: line["seconds"] for line in lines if line["event"] == "healthy"}
    # One font: each text of the file names all that there are.
    look = {"svg.hashsalt": "gatehouse", "svg.fonttype": "none", "font.size": 9, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(look):
        figure, axes = pyplot.subplots(len(seen), 1, figsize=(9, 1.5 * len(seen)), layout="constrained", squeeze=False)
        for axis, (name, seconds) in zip(axes[:, 0], seen.items(), strict=True):
            edges, levels = steps([(at, answered) for at, answered, _ in seconds])
            axis.stairs(levels, edges, fill=True, color="#0072b2", label="answered")
            edges, levels = steps([(at, failed) for at, _, failed in seconds])
            axis.stairs([-each for each in levels], edges, fill=True, color="#d55e00", label="failed")
            axis.axvline(0, color="black", linewidth=1)
            axis.axvline(well[name], color="#009e73", linewidth=1)
            axis.axhline(0, color="#888888", linewidth=0.5)
            axis.set_title(f"{name}: all is well after {well[name]:.0f} s", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", fontsize=8, frameon=False, ncols=2)
        axes[-1, 0].set_xlabel(
            f"seconds after the fault (black); requests that ended per second, the mean of {_BIN_S} seconds"
        )
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    file.write_text(_SPARE.sub("", file.read_text()))


def steps(seconds: Sequence[tuple[int, int]]) -> tuple[list[int], list[float]]:
    """Edges, seconds after the fault, and what came per second between them; neighbours that are alike are one step.

    `seconds` are consecutive, each with what came in it; the fault, second 0, is where a bin begins.
    """
    edges, levels = list[int](), list[float]()
    last = seconds[-1][0] // _BIN_S
    counts = [0] * (last + 1 - seconds[0][0] // _BIN_S)
    for at, count in seconds:
        counts[at // _BIN_S - last - 1] += count
    for number, count in enumerate(counts):
        if not levels or levels[-1] != count / _BIN_S:
            edges.append(_BIN_S * (last + 1 - len(counts) + number))
            levels.append(count / _BIN_S)
    return [*edges, _BIN_S * (last + 1)], levels


def main() -> None:
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(table(lines))
    draw(lines, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
