"""An evaluation as Markdown for a person and as JSON for a program. Nothing is left out because it looks bad."""

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

import numpy as np

from serve_app.routing.evaluate import Evaluation
from serve_app.routing.gates import Gate
from serve_app.routing.metrics import Interval, Ranking
from serve_app.routing.reliability import Bin, Reliability
from serve_app.routing.study import HEADS, SERVED, FewLabels, SetStudy, Transfer
from serve_app.routing.tables import COSTS_NOTE, Line, Table

_DIGITS: Final = 4
_MOST_SLICES: Final = 60
_WIDTH: Final = 118
_IN_BINS: Final = "table"
"""The reliability table of a line: `bins` of the study hold the same, once."""


def to_json(value: object) -> Any:
    """Plain data: floats with four digits, what is not a number as null; resampled values are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not isinstance(getattr(value, field.name), np.ndarray)
            and not (isinstance(value, Reliability) and field.name == _IN_BINS)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) or not isinstance(value, Iterable | float):
        return value
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return [to_json(each) for each in cast("Iterable[object]", value)]


def markdown(found: Evaluation, pictures: Mapping[str, str]) -> str:
    """The report. `pictures` maps a set's name to the file of its picture, relative to the report."""
    parts = [
        _head(found),
        _gates(found.gates),
        *(_set(study, pictures.get(study.name)) for study in found.studies.values()),
        _few(found.few),
        _transfers(found.transfers),
        _answers(found),
        _drifts(found),
        _stability(found),
        _signals(found),
        _timing(found),
        _limits(found),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _head(found: Evaluation) -> str:
    rows = [
        (each.name, str(each.rows), str(each.repeated), str(each.contradicting), each.licence) for each in found.sources
    ]
    snapshot = "none" if found.snapshot is None else f"`{found.snapshot[:16]}` ({found.snapshot_title})"
    quick = " **Quick run: a part of the rows, few resamples; not to be quoted.**" if found.quick else ""
    return "\n\n".join(
        (
            "# Router evaluation",
            _prose(f"Written by `gatehouse router eval`; the same figures are in `eval.json`.{quick}"),
            _prose(
                f"""APGR is the area under PGR over the strong share on the exact curve (random order has 0.5 in
                expectation; the line `random` is one draw), CPT the percentage of strong calls that recovers that share
                of the gap. Brackets are 95 % intervals from {found.resamples} bootstrap resamples over prompts (over
                tasks where tasks were held out); they cover the draw of prompts, not of training. {COSTS_NOTE} The
                models of these public sets (Mixtral-8x7B, GPT-4-1106) stand in for gpt-oss-20b and gpt-oss-120b: no
                figure here is about gpt-oss."""
            ),
            _prose(f"Snapshot: {snapshot}. Machine: {found.machine}"),
            _table(("set", "rows", "repeated", "contradicting", "licence"), rows),
        )
    )


def _gates(gates: Sequence[Gate]) -> str:
    said = {True: "pass", False: "**FAIL**", None: "-"}
    rows = [
        (
            gate.name,
            gate.bound,
            gate.measured,
            said[gate.passed],
            gate.bar and f"{gate.bar}: {'reached' if gate.reached else 'not reached'}",
        )
        for gate in gates
    ]
    return "## Gates\n\n" + _table(("gate", "bound", "measured", "", "aim"), rows)


def _set(study: SetStudy, picture: str | None) -> str:
    parts = [f"## {study.name}", _described(study.table)]
    if picture is not None:
        parts.append(f"![Quality against the share of strong calls, and reliability: {study.name}]({picture})")
    if study.abstained:
        parts.append(f"The snapshot abstains on {100 * study.abstained:.1f} % of these prompts.")
    parts += study.notes
    if study.unseen_tasks is not None:
        parts += [f"### {study.unseen_tasks.name}", _described(study.unseen_tasks)]
    for title, tables in (("task", study.tasks), ("language", study.languages)):
        if tables:
            parts += [f"### {study.name} by {title}", _sliced(tables)]
    if study.bins:
        parts += [f"### {study.name}: reliability", _reliability(study.bins)]
    return "\n\n".join(parts)


def _described(table: Table) -> str:
    about = table.description
    lines = [
        f"n {about.n}, weak {about.weak:.3f}, strong {about.strong:.3f}, helps {100 * about.helps:.1f} %, "
        f"hurts {100 * about.hurts:.1f} %, strong - weak {_points(about.gap)}."
    ]
    if table.refused is not None:
        lines.append(f"**No APGR: {table.refused.why}.**")
    lines.append(_table(_COLUMNS, [_row(line) for line in table.lines]))
    return "\n\n".join(lines)


_COLUMNS: Final = (
    "router", "APGR", "over length", "CPT20", "CPT50", "CPT80", "AUC weak wrong", "AUC helps", "Brier", "log loss",
    "ECE-15", "AIQ", "S at 20 %", "strong share", "quality", "PGR",
)  # fmt: skip


def _row(line: Line) -> tuple[str, ...]:
    ranking = line.ranking if isinstance(line.ranking, Ranking) else None
    honest, choice = line.reliability, line.choice
    cpt = ["-"] * 3 if ranking is None else [f"{each.value:.1f}" for each in ranking.cpt.values()]
    return (
        line.name + (" (has seen these rows)" if line.seen else ""),
        "-" if ranking is None else _interval(ranking.apgr),
        _signed(line.over_length),
        *cpt,
        _value(None if ranking is None else ranking.weak_wrong),
        _value(None if ranking is None else ranking.helps),
        _value(None if honest is None else honest.brier),
        _value(None if honest is None else honest.log_loss),
        _value(None if honest is None else honest.ece),
        "-" if line.aiq is None else f"{line.aiq:.4f}",
        "-" if line.composite is None else f"{line.composite:.3f}",
        "-" if choice is None else f"{100 * choice.strong_share:.1f} %",
        "-" if choice is None else f"{choice.quality:.3f}",
        "-" if choice is None or choice.pgr is None else f"{choice.pgr:.3f}",
    )


def _sliced(tables: Sequence[Table]) -> str:
    shown = [table for table in tables if table.refused is None]
    refused = [table for table in tables if table.refused is not None]
    names = [line.name for line in tables[0].lines if line.ranking is not None]
    rows = [
        (
            table.name.split(": ", 1)[1],
            str(table.description.n),
            f"{table.description.weak:.3f}",
            f"{table.description.strong:.3f}",
            f"{100 * table.description.helps:.1f}",
            f"{100 * table.description.hurts:.1f}",
            *("-" if (area := table.apgr(name)) is None else f"{area.value:.2f}" for name in names),
        )
        for table in shown[:_MOST_SLICES]
    ]
    parts: list[str] = []
    if rows:
        parts.append("APGR; intervals, on slices of this size about ± 0.1 to ± 0.3, are in `eval.json`.")
        parts.append(_table(("slice", "n", "weak", "strong", "helps %", "hurts %", *names), rows))
    if refused:
        listed = ", ".join(f"{table.name.split(': ', 1)[1]} ({table.description.n})" for table in refused)
        parts.append(f"Refused, strong - weak below 2 points or perhaps 0: {listed}.")
    return "\n\n".join(parts)


def _reliability(bins: Mapping[str, Sequence[Bin]]) -> str:
    rows = [
        (
            name,
            *("-" if each.frequency is None else f"{each.mean_probability:.2f} / {each.frequency:.2f} ({each.count})"
              for each in several),
        )
        for name, several in bins.items()
    ]  # fmt: skip
    first = next(iter(bins.values()))
    return "Said / happened (rows), by bin of P(weak wrong).\n\n" + _table(
        ("router", *(f"{each.low:.2f}" for each in first)), rows
    )


def _few(few: Sequence[FewLabels]) -> str:
    if not few:
        return ""
    names = list(few[0].apgr)
    rows = [
        (name, *(f"{each.apgr[name][0]:.3f} ± {each.apgr[name][1]:.3f}, {each.cpt50[name][0]:.1f} %" for each in few))
        for name in names
    ]
    return (
        f"## How many labels\n\nMMLU, APGR mean ± deviation over {few[0].seeds} draws, CPT50; the rest is the test.\n\n"
        + _table(("router", *(f"{each.labels} labels" for each in few)), rows)
    )


def _transfers(transfers: Sequence[Transfer]) -> str:
    rows = [
        (
            f"{each.learned_on} -> {each.tested_on}",
            each.contender,
            "-" if each.apgr is None else _interval(each.apgr),
            "; ".join(f"{name} {_signed(lead)}" for name, lead in each.over.items()),
            "admitted" if each.admitted else "refused",
        )
        for each in transfers
    ]
    return (
        "## Moved to another benchmark and judged by the promotion gate\n\n"
        f"`{HEADS}` ignore their own doubt, `{SERVED}` propose nothing on text unlike their training.\n\n"
        + _table(("from -> to", "head", "APGR", "lead over", "gate"), rows)
    )


def _answers(found: Evaluation) -> str:
    report = found.answers
    if report is None:
        return ""
    ranking = report.ranking
    area = _interval(ranking.apgr) if isinstance(ranking, Ranking) else "-"
    half = f"{ranking.cpt[50].value:.1f} %" if isinstance(ranking, Ranking) else "-"
    rows = [
        (check.name, str(check.fired), _value(check.precision), _value(check.recall), _value(check.auc))
        for check in (*report.verdicts, *report.checks)
    ]
    ece = report.calibration.ece.value
    auc = "-" if report.auc is None else _interval(report.auc)
    return (
        f"## Checks of the weak model's answers, GSM8K\n\n{report.n} answers, {report.wrong} wrong. Out of fold: AUC "
        f"{auc}, APGR {area}, CPT50 {half}, ECE-15 {ece:.3f}.\n\n"
        + _table(("check", "fired", "precision", "recall", "AUC"), rows)
    )


def _drifts(found: Evaluation) -> str:
    rows: list[tuple[str, ...]] = []
    for drift in found.drifts:
        for part in drift.segments:
            shares = (part.frozen, part.held, part.replicated)
            rows.append((drift.scorer, part.name, str(part.turns), *(f"{100 * share:.1f}" for share in shares)))
        shares = (drift.frozen, drift.held, drift.replicated)
        rows.append((drift.scorer, "**overall**", "", *(f"{100 * share:.1f}" for share in shares)))
    return "## Budget under shift\n\nStrong share in percent, target 20.\n\n" + _table(
        ("scorer", "segment", "turns", "frozen threshold", "controller", "four replicas"), rows
    )


def _stability(found: Evaluation) -> str:
    rows = [
        (
            scorer,
            each.perturbation,
            str(each.prompts),
            f"{each.correlation:.2f}",
            *(f"{100 * kept:.1f}" for kept in each.kept.values()),
            f"{100 * each.strong_share[0.2]:.1f}",
        )
        for scorer, several in found.stability.items()
        for each in several
    ]
    return (
        "## The same question, said otherwise\n\nDecisions kept, in percent, at a budget of 10, 20, 30 and 50 % (a"
        " blind guess keeps 82, 68, 58 and 50), and the strong share that 20 % becomes.\n\n"
        + _table(("scorer", "change", "prompts", "rank corr.", "10 %", "20 %", "30 %", "50 %", "20 % becomes"), rows)
    )


def _signals(found: Evaluation) -> str:
    seen, other = found.detector, found.conformance
    hits = ", ".join(f"{name} {hit} of {of}" for name, (hit, of) in seen.hits_by_category.items()) or "none"
    tasks = ", ".join(f"{task} {100 * share:.0f} %" for task, share in seen.recall_by_task.items())
    opinions = [(each.lang, str(each.prompts), _area(each.difficulty), _area(each.length)) for each in found.opinions]
    domains = [
        (label, ", ".join(f"{task} {count}" for task, count in counts.items())) for label, counts in other.tasks.items()
    ]
    decided = ", ".join(f"{label} {hit} of {of}" for label, (hit, of) in other.decisions.items())
    return "\n\n".join(
        (
            "## Signals",
            _prose(
                f"""Incident detector: recall {100 * seen.recall:.1f} % of {seen.incidents} ({tasks}); false positives
                {100 * seen.false_positive_share:.2f} % of {seen.others} other prompts, {100 * seen.apart_share:.1f} %
                of {seen.apart} in debugging, infrastructure and performance, which are counted apart. Hits: {hits}."""
            ),
            _prose(
                f"""Another router's signal cases. It has signals that we do not (domains, keyword groups), so this
                shows what ours make of them: mathematics recognised {100 * other.mathematics_recall:.0f} %, other
                domains taken for mathematics {100 * other.mathematics_false:.1f} %; rank correlation of difficulty with
                the expected uncertainty {other.uncertainty:.2f}; urgent cases seen as severe, risky or an incident
                {100 * other.urgent:.0f} %, sensitive ones as risky {100 * other.sensitive:.0f} %. Read as risk R2 or
                more, by expected decision: {decided}."""
            ),
            _table(("domain", "our task types"), domains),
            "### Tiers of opinion, by language",
            _prose(
                """AUC for COMPLEX and REASONING above the rest. The labels are their author's opinion; many rows come
                from templates."""
            ),
            _table(("language", "prompts", "difficulty", "length"), opinions),
        )
    )


def _timing(found: Evaluation) -> str:
    rows = [
        (
            each.prompts,
            *(f"{value:.0f}" for value in (each.ours.least_us, each.ours.p50_us, each.ours.p90_us, each.ours.p99_us)),
            f"{each.ours.per_second:.0f}",
            f"{each.peer.p50_us:.0f}",
            f"{each.peer.p99_us:.0f}",
            f"{each.ratio:.3f}",
            f"{each.p99_ratio:.3f}",
        )
        for each in found.timings
    ]
    return (
        "## Decision time\n\nCPU microseconds of one thread for the whole decision; the peer hashes and scores with"
        " scikit-learn, no more. The machine was shared: ratios compare, times do not.\n\n"
        + _table(
            ("prompts", "least", "p50", "p90", "p99", "decisions/s", "peer p50", "peer p99", "ratio", "ratio p99"), rows
        )
    )


def _limits(found: Evaluation) -> str:
    graded = [name for name, study in found.studies.items() if study.table.description.n < 100]
    small = f" {', '.join(graded)} is too small to conclude from." if graded else ""
    return "## Limits\n\n" + _prose(
        f"""Labels are of closed answers, of models that are not ours; one training draw per fold.{small} APGR is never
        averaged over sets. Languages other than English have opinions only, no measured outcomes. Perturbations are
        rules of our own, not people. The interval of ECE leans up: noise can only add to an absolute difference."""
    )


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return "\n".join(head + [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows])


def _interval(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _area(figure: Interval | None) -> str:
    return "-" if figure is None else _interval(figure)


def _signed(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]"


def _value(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:.3f}"


def _points(figure: Interval) -> str:
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}] points"
