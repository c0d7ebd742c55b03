"""Figures -> tables for a person: rich for the terminal, Markdown for a document."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from serve_app.bench.compare import BASE, Comparison
from serve_app.bench.stats import METRICS, Figures, Spread, metric, ratios

_CLIENT_LIMIT = 0.6
_RUN_ROWS: tuple[tuple[str, str], ...] = (
    ("TTFT ms", "ttft_ms"),
    ("ITL ms", "itl_ms"),
    ("chunk gap ms", "chunk_gap_ms"),
    ("time per token ms", "per_token_ms"),
    ("E2E ms", "e2e_ms"),
)


def run_table(label: str, measured: Figures) -> Table:
    """All latencies of one level on one server."""
    table = Table("", "mean", "p50", "p90", "p99", "max", title=label, title_justify="left")
    for name, attribute in _RUN_ROWS:
        values: Spread | None = getattr(measured, attribute)
        cells = ["-"] * 5 if values is None else [
            number(value) for value in (values.mean, values.p50, values.p90, values.p99, values.max)
        ]  # fmt: skip
        table.add_row(name, *cells)
    return table


def run_lines(measured: Figures) -> list[str]:
    """What does not fit into the table of latencies, one sentence a line."""
    lines = [
        f"{measured.complete} of {measured.requests} requests complete in {measured.wall_s:.1f} s; "
        f"{measured.output_tokens_per_s:.1f} output tokens/s, {measured.requests_per_s:.2f} requests/s, "
        f"{measured.tokens_per_reply:.1f} tokens a reply"
    ]
    if measured.errors:
        lines.append("failed: " + ", ".join(f"{count} x {kind}" for kind, count in measured.errors.items()))
    if measured.cpu_us_per_event is not None and measured.cpu_ms_per_token is not None:
        lines.append(
            f"server CPU: {measured.cpu_ms_per_token:.3f} ms per output token, "
            f"{measured.cpu_us_per_event:.0f} us per streamed event"
        )
        lines += [f"  {kind}: {seconds:.2f} s" for kind, seconds in list(measured.cpu_s.items())[:6]]
    lines.append(f"client CPU: {measured.client_cpu_share:.0%} of a core")
    if measured.client_cpu_share > _CLIENT_LIMIT:
        lines.append("WARNING: the client is close to its own limit: latencies are partly its own")
    if measured.late_ms > 0:
        lines.append(f"the open loop sent at most {measured.late_ms:.1f} ms after its schedule")
    return lines


def compare_tables(comparison: Comparison) -> list[Table]:
    """One table per level: a row per figure, a column per server with the ratio to the bare one."""
    tables: list[Table] = []
    for label, by_name in comparison.figures().items():
        table = Table("", *by_name, title=label, title_justify="left")
        for row in rows(by_name, comparison.ranges(label)):
            table.add_row(*row)
        tables.append(table)
    return tables


Ranges = Mapping[str, Mapping[str, tuple[float, float] | None]]


def rows(by_name: Mapping[str, Figures], ranges: Ranges) -> list[list[str]]:
    """`METRICS` as text: the figure and, where there is a bare server, its ratio.

    A `~` before a ratio says that single rounds, by `ranges` (server -> metric), lie on both sides of 1.
    """
    base = by_name.get(BASE)
    found: list[list[str]] = []
    for name in METRICS:
        cells = [_label(name)]
        for target, each in by_name.items():
            text = number(metric(each, name))
            ratio = None if base is None or target == BASE else ratios(each, base)[name]
            unsure = _on_both_sides(ranges.get(target, {}).get(name))
            cells.append(text if ratio is None else f"{text} ({'~' if unsure else ''}{ratio:.2f}x)")
        found.append(cells)
    complete = ["complete / requests"] + [f"{each.complete} / {each.requests}" for each in by_name.values()]
    client = ["client CPU of a core"] + [f"{each.client_cpu_share:.0%}" for each in by_name.values()]
    return [*found, complete, client]


def markdown(comparison: Comparison) -> str:
    """The comparison as a section of a document: machine, method, a table per level, and what was left out."""
    plan = comparison.plan
    lines = [
        f"Machine: {comparison.machine.sentence}.",
        "",
        f"Load: {plan.shape.api}, about {plan.shape.prompt_tokens} prompt tokens, at most {plan.shape.max_tokens} "
        f"output tokens, {plan.rounds} rounds per level, seed {plan.shape.seed}. In brackets: ratio to {BASE}; "
        "`~`: single rounds lie on both sides of 1, so this run does not tell the two apart.",
    ]
    for label, by_name in comparison.figures().items():
        lines += ["", f"**{label}**", "", *_grid(["", *by_name], rows(by_name, comparison.ranges(label)))]
    sections: Sequence[tuple[str, Sequence[str]]] = (
        ("What differs", [f"{name}: {text}" for name, text in comparison.differs.items()]),
        ("CPU of a core without a request", [f"{name}: {share:.1%}" for name, share in comparison.idle.items()]),
        ("Not run", [f"{name}: {reason}" for name, reason in comparison.not_run.items()]),
        ("Notes", comparison.notes),
    )
    for title, items in sections:
        if items:
            lines += ["", f"{title}:", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash for no value."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _on_both_sides(span: tuple[float, float] | None) -> bool:
    return span is not None and span[0] < 1 < span[1]


def _label(name: str) -> str:
    return name if name.startswith("CPU") or name.endswith("/s") else f"{name}, ms"


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = "|".join(["---"] + ["--:"] * (len(head) - 1))
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in body)]
