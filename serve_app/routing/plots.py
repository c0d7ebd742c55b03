"""Pictures of an evaluation, SVG: quality against the share of strong calls, and reliability. Needs matplotlib."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from serve_app.routing.baselines import LENGTH, ORACLE, RANDOM
from serve_app.routing.study import ANSWERS, ELSEWHERE, FORMULA, GIVEN, HEADS, PEER_HEADS, SNAPSHOT, WEAK_HEAD, SetStudy

_COLOURS: Final[Mapping[str, str]] = {
    RANDOM: "#999999",
    LENGTH: "#000000",
    ORACLE: "#bbbbbb",
    SNAPSHOT: "#009e73",
    FORMULA: "#56b4e9",
    ELSEWHERE: "#cc79a7",
    GIVEN: "#7f3c8d",
    HEADS: "#d55e00",
    PEER_HEADS: "#e69f00",
    ANSWERS: "#0072b2",
    WEAK_HEAD: "#8c564b",
}
_DASHED: Final = frozenset({RANDOM, ORACLE, LENGTH})
_RELIABLE: Final = (WEAK_HEAD, ANSWERS, SNAPSHOT, ELSEWHERE)
_LEAST_BIN: Final = 5


def draw(study: SetStudy, file: Path) -> None:
    """Write the picture of one set. The same study gives the same bytes."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    with matplotlib.rc_context({"svg.hashsalt": "gatehouse", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        figure.suptitle(f"{study.name}, n = {study.table.description.n}", x=0.01, ha="left")
        _quality(axes[0], study)
        _reliability(axes[1], study)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _quality(axis: Any, study: SetStudy) -> None:
    about = study.table.description
    for curve in study.curves:
        if curve.name in _COLOURS:
            share = [100 * value for value in curve.share]
            style = "--" if curve.name in _DASHED else ":" if curve.seen else "-"
            label = f"{curve.name} (has seen these rows)" if curve.seen else curve.name
            axis.plot(share, curve.quality, style, color=_COLOURS[curve.name], label=label, linewidth=1.4)
    axis.plot([0, 100], [about.weak, about.strong], ":", color="#999999", linewidth=0.8)
    top = max((max(curve.quality) for curve in study.curves if curve.name != ORACLE), default=about.strong)
    margin = max(about.gap.value, 0.02) * 0.25
    axis.set_ylim(about.weak - margin, max(top, about.strong) + margin)
    axis.set_xlabel("calls of the strong model, %")
    axis.set_ylabel("quality")
    axis.legend(fontsize=7, loc="lower right")
    _bare(axis)


def _reliability(axis: Any, study: SetStudy) -> None:
    axis.plot([0, 1], [0, 1], ":", color="#999999", linewidth=0.8)
    shown: Sequence[str] = [name for name in _RELIABLE if name in study.bins]
    for name in shown:
        points = [
            (each.mean_probability, each.frequency, each.count)
            for each in study.bins[name]
            if each.mean_probability is not None and each.frequency is not None and each.count >= _LEAST_BIN
        ]
        if points:
            said, happened, counts = zip(*points, strict=True)
            largest = max(counts)
            sizes = [10 + 60 * count / largest for count in counts]
            axis.plot(said, happened, "-", color=_COLOURS[name], linewidth=0.8)
            axis.scatter(said, happened, s=sizes, color=_COLOURS[name], label=name)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("said: P(weak model is wrong)")
    axis.set_ylabel("happened")
    if shown:
        axis.legend(fontsize=7, loc="upper left")
    else:
        axis.text(0.5, 0.5, "graded outcomes: no probability to check", ha="center", fontsize=8)
    _bare(axis)


def _bare(axis: Any) -> None:
    axis.spines["top"].set_visible(False)
    axis.spines["right"].set_visible(False)
    axis.grid(visible=True, color="#eeeeee", linewidth=0.6)
