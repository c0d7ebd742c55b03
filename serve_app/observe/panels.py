"""What a dashboard is made of, and how Grafana wants it written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deployments.ports import JsonValue

_WIDTH, _HEIGHT, _STAT_HEIGHT = 8, 8, 4  # of Grafana's 24 columns; rows of 30 pixels
_SOURCE: Final = "${source}"


@dataclass(frozen=True, slots=True)
class Query:
    """A line or several: `legend` names them with Grafana's `{{label}}`."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, or with `stat` the newest value in large figures.

    `unit` is one of Grafana's (`s`, `percentunit`, `bytes`, `short`). In large figures what reaches `bad` is red.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    stat: bool = False
    bad: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `name` is its file, and its identity in Grafana."""

    name: str
    title: str
    panels: Sequence[Panel]


def lines(title: str, *queries: Query, unit: str = "short", text: str = "") -> Panel:
    """Lines over time."""
    return Panel(title, queries, unit, text=text)


def stat(title: str, expression: str, unit: str = "short", bad: float | None = None, text: str = "") -> Panel:
    """One large figure."""
    return Panel(title, (Query(expression),), unit, stat=True, bad=bad, text=text)


def rendered(board: Board) -> str:
    """The dashboard as JSON that Grafana imports. The same board is the same text."""
    return json.dumps(_board(board), indent=1, ensure_ascii=False) + "\n"


def _board(board: Board) -> dict[str, JsonValue]:
    panels: list[JsonValue] = []
    x = y = row_height = 0
    for number, panel in enumerate(board.panels, 1):
        height = _STAT_HEIGHT if panel.stat else _HEIGHT
        width = _WIDTH // 2 if panel.stat else _WIDTH
        if x + width > 24 or (row_height and height != row_height):  # large figures stand in rows of their own
            x, y = 0, y + row_height
        row_height = height
        panels.append(_panel(panel, number, {"x": x, "y": y, "w": width, "h": height}))
        x += width
    return {
        "uid": f"gatehouse-{board.name}",
        "title": board.title,
        "tags": ["gatehouse"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_source()]},
        "panels": panels,
    }


def _source() -> dict[str, JsonValue]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _panel(panel: Panel, number: int, place: dict[str, JsonValue]) -> dict[str, JsonValue]:
    source: dict[str, JsonValue] = {"type": "prometheus", "uid": _SOURCE}
    defaults: dict[str, JsonValue] = {"unit": panel.unit}
    if panel.bad is not None:
        steps: list[JsonValue] = [{"color": "green", "value": None}, {"color": "red", "value": panel.bad}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    targets: list[JsonValue] = [
        {
            "refId": chr(ord("A") + at),
            "expr": query.expression,
            "legendFormat": query.legend,
            "datasource": source,
            "instant": panel.stat,
        }
        for at, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": "stat" if panel.stat else "timeseries",
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
