"""Figures -> a PNG of small multiples. matplotlib comes with the extra `bench` and is imported only here."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.bench.load import BenchRefused
from serve_app.bench.stats import METRICS, Figures, metric

_PANELS = (
    ("TTFT p50", "TTFT p99"),
    ("ITL p50", "ITL p99"),
    ("E2E p50", "E2E p99"),
    ("output tokens/s", "CPU us/event"),
)
_COLOURS: Mapping[str, str] = {"vllm": "#555555", "gatehouse": "#0072b2", "ray-llm": "#d55e00", "litellm": "#009e73"}
_MORE = ("#cc79a7", "#e69f00", "#56b4e9")


def require_matplotlib() -> None:
    """Raise `BenchRefused` with what to install; called before a long run, not after it."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise BenchRefused("a plot needs matplotlib: install the extra `bench`, or leave the plot out.") from None


def draw(measured: Mapping[str, Mapping[str, Figures]], file: Path, title: str) -> None:
    """Write one panel per figure: levels along the bottom, a line per server with its name at its right end.

    `measured` is level -> server -> figures; every panel starts at zero.
    """
    require_matplotlib()
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    labels = list(measured)
    names = list(dict.fromkeys(name for by_name in measured.values() for name in by_name))
    figure, axes = pyplot.subplots(len(_PANELS), 2, figsize=(11, 13), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for row, panels in zip(axes, _PANELS, strict=True):
        for axis, name in zip(row, panels, strict=True):
            _panel(axis, name, labels, names, measured)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _panel(
    axis: Any, name: str, labels: Sequence[str], names: Sequence[str], measured: Mapping[str, Mapping[str, Figures]]
) -> None:
    ends: list[tuple[float, float, str, str]] = []
    top = 0.0
    for index, target in enumerate(names):
        colour = _COLOURS.get(target, _MORE[index % len(_MORE)])
        points = [
            (at, value)
            for at, label in enumerate(labels)
            if target in measured[label] and (value := metric(measured[label][target], name)) is not None
        ]
        if points:
            axis.plot([at for at, _ in points], [value for _, value in points], marker="o", color=colour, linewidth=1.8)
            top = max(top, *(value for _, value in points))
            ends.append((points[-1][1], points[-1][0], target, colour))
    for (value, at, target, colour), height in zip(sorted(ends), apart(sorted(ends), top * 0.075), strict=True):
        axis.annotate(
            f"{target} {value:,.0f}" if value >= 100 else f"{target} {value:.3g}",
            (at, value), xytext=(at + 0.08, height), color=colour, fontsize=8, va="center", textcoords="data",
        )  # fmt: skip
    axis.set_title(name + _unit(name), fontsize=10, loc="left")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_xlim(-0.2, len(labels) - 1 + 0.75)
    axis.set_ylim(0, top * 1.15 or 1)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def apart(ends: Sequence[tuple[float, float, str, str]], gap: float) -> list[float]:
    """Heights for the labels at the ends of lines, at least `gap` apart; `ends` ascend by their first value."""
    heights: list[float] = []
    for value, *_ in ends:
        heights.append(max(value, heights[-1] + gap) if heights else value)
    return heights


def _unit(name: str) -> str:
    part = METRICS[name][1]
    return "" if part is None else ", ms"
