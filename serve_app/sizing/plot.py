"""Simulated sweeps -> a PNG. matplotlib comes with the extra `bench` and is imported only here."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.bench.plot import require_matplotlib
from serve_app.sizing.constants import CASES, Case
from serve_app.sizing.scenarios import Row

_PANELS: tuple[tuple[str, str, float], ...] = (
    ("first token, p95, s", "ttft_p95_s", 1.0),
    ("gap between tokens, mean, ms", "itl_mean_s", 1000.0),
    ("output tokens/s", "tokens_per_s", 1.0),
    ("refused, %", "refused", 100.0),
    ("replicas, mean", "replicas", 1.0),
    ("answers, requests/s", "offered_per_s", 1.0),
)
_COLOURS = ("#0072b2", "#d55e00")

Sweep = Mapping[str, Mapping[Case, Sequence[Row]]]
"""Level -> case -> a row for each tier."""


def draw_sweep(sweep: Sweep, file: Path, title: str) -> None:
    """A panel per figure: levels along the bottom, a line per tier for the middle case in the band of all three.

    The middle is not always between the others: a slower engine scales up sooner, and is asked less by those who wait.
    """
    require_matplotlib()
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for axis, (name, part, scale) in zip(axes.flat, _PANELS, strict=True):
        _panel(axis, name, series(sweep, part, scale), list(sweep))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def series(sweep: Sweep, part: str, scale: float) -> dict[str, dict[Case, list[float | None]]]:
    """Tier -> case -> a value per level."""
    tiers = dict.fromkeys(row.tier for by_case in sweep.values() for rows in by_case.values() for row in rows)
    found: dict[str, dict[Case, list[float | None]]] = {tier: {case: [] for case in CASES} for tier in tiers}
    for by_case in sweep.values():
        for case in CASES:
            values: dict[str, float | None] = {row.tier: getattr(row, part) for row in by_case.get(case, ())}
            for tier in tiers:
                value = values.get(tier)
                found[tier][case].append(None if value is None else value * scale)
    return found


def _panel(axis: Any, name: str, tiers: Mapping[str, Mapping[Case, Sequence[float | None]]], labels: list[str]) -> None:
    for colour, (tier, by_case) in zip(_COLOURS, tiers.items(), strict=False):
        points = [(at, value) for at, value in enumerate(by_case["mid"]) if value is not None]
        band = [
            (at, min(known), max(known))
            for at, values in enumerate(zip(*by_case.values(), strict=True))
            if (known := [value for value in values if value is not None])
        ]
        if band:
            axis.fill_between(*zip(*band, strict=True), color=colour, alpha=0.18, linewidth=0)
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", color=colour, linewidth=1.8, label=tier)
    axis.set_title(name, fontsize=10, loc="left")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(0, max(1.0, axis.get_ylim()[1]))
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len(tiers) > 1:
        axis.legend(fontsize=8, frameon=False)
