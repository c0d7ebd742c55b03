"""The post-change report: what was done under a change id, who asked and approved, how it ended. Pure.

A report is a list of blocks, written as Markdown and as one HTML page without scripts or anything from elsewhere. What
comes from records is `Data` and is shown as code; it is escaped, and characters that do not print are spelled out, so
that no text can pose as a part of the report.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TypeAlias

from deployments.audit.change import Action, Change, Record
from deployments.audit.record import fields_of
from deployments.ports import JsonValue

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|&~])")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1.05rem; }
h2 { border-bottom: 1px solid #d0d0d0; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { border: 1px solid #d0d0d0; padding: .35rem .55rem; text-align: left; vertical-align: top; }
thead th, .facts th { background: #f3f4f6; } .facts th { width: 14rem; font-weight: 600; }
code { font: .85em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.open li { margin: .25rem 0; } .open { background: #fff6dd; border-left: 4px solid #b7791f; padding: .6rem 2rem; }
@media print { body { margin: 0; max-width: none; } .table { overflow: visible; } }
"""


@dataclass(frozen=True, slots=True)
class Data:
    """A text from a record, or another value that is to be read exactly."""

    text: str


Words: TypeAlias = Sequence["str | Data"]
"""A line: our own words, and data."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    words: Words


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    words: Words


@dataclass(frozen=True, slots=True)
class Items:
    """A list; `open` marks what a reader must look at."""

    items: Sequence[Words]
    open: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Without a header the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[Words]]


Block: TypeAlias = Heading | Text | Items | Table


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the records are proven under. `key` is the log's verifier key, `witnesses` are names and times in seconds.

    `size` counts the records that the checkpoint covers, `made_ms` is when the package was made.
    """

    origin: str
    size: int
    root: str
    key: str
    witnesses: Sequence[tuple[str, int]]
    made_ms: int
    tenant: str | None


# --- the report --------------------------------------------------------------------------------------------------


def report(change: Change, records: Sequence[tuple[Record, str]], evidence: Evidence) -> list[Block]:
    """The report of a change; `records` are all of its records in order, each with what ties it to the change."""
    return [
        Heading(1, ["Change ", Data(change.change_id)]),
        *_overview(change, records, evidence),
        *_open_points(change),
        Heading(2, ["Actions"]),
        *([block for place, action in enumerate(change.actions, start=1) for block in _action(place, action)]),
        *([] if change.actions else [Text(["No tool call belongs to this change."])]),
        *_operations(change),
        *_timeline(records),
        *_verification(len(records), evidence),
    ]


def _overview(change: Change, records: Sequence[tuple[Record, str]], evidence: Evidence) -> list[Block]:
    closed: Words = ["not closed"]
    if change.closed_ms is not None:
        closed = [Data(change.outcome or "-"), " at ", time(change.closed_ms), " by ", Data(change.closed_by or "-")]
    rows: list[tuple[str, Words]] = [
        ("Title", _maybe(change.title)),
        ("Outcome", closed),
        ("Rollback status", _rollback_status(change)),
        ("Highest risk class", _maybe(change.risk())),
        ("Requested by", _list(_requesters(change))),
        ("Approved by", _list(sorted({person for action in change.actions for person in action.approvers()}))),
        ("First and last record", [_time(change.first_ms), " to ", _time(change.last_ms)]),
        ("Tenants", _list(change.tenants)),
        ("Policies in force", _list(change.policies)),
        ("Gatehouse versions", _list(change.code_versions)),
        ("Records", [str(len(records)), ", proven; see Verification"]),
    ]
    if evidence.tenant is not None:
        rows.append(("Restricted to tenant", [Data(evidence.tenant)]))
    return [Table((), [([name], words) for name, words in rows])]


def _requesters(change: Change) -> list[str]:
    found = (action.requester or action.requester_key for action in change.actions)
    return list(dict.fromkeys(name for name in found if name is not None))


def _rollback_status(change: Change) -> Words:
    reports: list[Words] = []
    if change.rollback_status is not None:
        reports.append([Data(change.rollback_status), " when the change was closed"])
    if change.rollback is not None:
        reports.append([Data(change.rollback), " by ", Data(change.rollback_by or "-"), " ", _time(change.rollback_ms)])
    reports += [
        [Data(action.rollback), " for ", Data(action.approval_id or ", ".join(action.gate_call_ids))]
        for action in change.actions
        if action.rollback is not None
    ]
    return _joined(reports) if reports else ["none reported"]


def _open_points(change: Change) -> list[Block]:
    points: list[Words] = [
        [Data(point.text), *([] if point.index is None else [f" (record {point.index})"])] for point in change.points
    ]
    found: Block = Items(points, open=True) if points else Text(["None."])
    return [Heading(2, ["Open points"]), found]


def _action(place: int, action: Action) -> list[Block]:
    votes: list[Words] = [
        [Data(vote.person), " approved " if vote.approve else " rejected ", time(vote.at_ms), f" (record {vote.index})"]
        for vote in action.votes
    ]
    rows: list[tuple[str, Words]] = [
        ("Status", [action.status()]),
        ("What", [Data(action.tool or "-"), " in call ", *_list(action.gate_call_ids)]),
        ("Written by model", _maybe(action.model)),
        ("Asked by", [Data(action.requester or "-"), " with key ", Data(action.requester_key or "-")]),
        ("Asked at", [_time(action.asked_ms)]),
        ("Risk class", _maybe(action.risk)),
        ("Digest of the action", _maybe(action.action_digest)),
        ("Digest of what approvers saw", _maybe(action.display_digest)),
        ("Rollback plan", _plan(action)),
        ("Votes", _joined(votes) if votes else ["none"]),
        ("Votes required", [str(action.votes_required)]),
        ("Decision", _decision(action)),
        ("Executed", _executed(action)),
        ("Reported outcome", _outcome(action)),
        ("Rollback", _rollback(action)),
    ]
    heading = ["not part of an approval"] if action.approval_id is None else [Data(action.approval_id)]
    return [Heading(3, [f"Action {place}: ", *heading]), Table((), [([name], words) for name, words in rows])]


def _plan(action: Action) -> Words:
    if action.plan_digest is None:
        return ["none recorded"]
    standing = [] if action.standing_plan is None else [", standing plan ", Data(action.standing_plan)]
    at = [] if action.planned_ms is None else [" recorded ", time(action.planned_ms)]
    return [Data(action.plan_digest), *at, *standing]


def _decision(action: Action) -> Words:
    if action.ended is not None:
        return [f"{action.ended} ", _time(action.ended_ms)]
    if action.granted_ms is not None:
        return ["approved ", time(action.granted_ms)]
    if action.denied_ms is not None:
        return ["denied ", time(action.denied_ms)]
    return ["no approval was needed"] if action.approval_id is None else ["none yet"]


def _executed(action: Action) -> Words:
    if not action.left:
        return ["no"]
    steps = (("permit consumed", action.consumed_ms), ("released", action.released_ms))
    return [", ".join(f"{step} {time(at_ms)}" for step, at_ms in steps if at_ms is not None)]


def _outcome(action: Action) -> Words:
    if action.outcome is None:
        return ["not reported"] if action.left else ["-"]
    code = "" if action.exit_code is None else f", exit code {action.exit_code}"
    source = [] if action.report_source is None else [", source ", Data(action.report_source)]
    return [
        Data(action.outcome),
        code,
        " by ",
        Data(action.reported_by or "-"),
        *source,
        " ",
        _time(action.reported_ms),
    ]


def _rollback(action: Action) -> Words:
    if action.rollback is None:
        return ["none reported"]
    return [Data(action.rollback), " by ", Data(action.rollback_by or "-"), " ", _time(action.rollback_ms)]


def _operations(change: Change) -> list[Block]:
    blocks: list[Block] = []
    if change.incidents:
        rows: list[Sequence[Words]] = [
            [
                [Data(incident.incident_id)],
                _maybe(incident.kind),
                _maybe(incident.severity),
                _maybe(incident.title),
                [_time(incident.opened_ms)],
                [_time(incident.closed_ms)],
                _maybe(incident.outcome),
            ]
            for incident in change.incidents
        ]
        header = ("Incident", "Kind", "Severity", "Title", "Opened", "Closed", "Outcome")
        blocks += [Heading(2, ["Incidents"]), Table(header, rows)]
    blocks += _registrations(change)
    if change.rollouts:
        rows = [
            [
                [Data(rollout.rollout_id)],
                _maybe(rollout.kind),
                _maybe(rollout.model),
                _maybe(rollout.previous_revision),
                _maybe(rollout.revision),
                [f"{rollout.state} ", _time(rollout.state_ms)],
            ]
            for rollout in change.rollouts
        ]
        header = ("Rollout", "Kind", "Model", "From", "To", "State")
        blocks += [Heading(2, ["Rollouts"]), Table(header, rows)]
        rows = [
            [
                [Data(rollout.rollout_id)],
                _maybe(rollout.reason),
                _maybe(rollout.evaluation),
                _joined([[Data(each)] for each in rollout.figures]) if rollout.figures else ["-"],
                _joined([[Data(each)] for each in rollout.rules]) if rollout.rules else ["-"],
            ]
            for rollout in change.rollouts
        ]
        blocks += [Table(("Rollout", "Why it is there", "Evaluation", "Figures of the last step", "Rules"), rows)]
    return blocks


def _registrations(change: Change) -> list[Block]:
    if not change.registrations:
        return []
    rows: list[Sequence[Words]] = [
        [
            _maybe(each.revision),
            _maybe(each.kind),
            _maybe(each.model),
            ["-" if each.files is None else str(each.files)],
            ["-" if each.size is None else f"{each.size:,}"],
            ["yes" if each.signed else "no"],
            [Data(each.by), " ", _time(each.at_ms)],
        ]
        for each in change.registrations
    ]
    header = ("Artefact", "Kind", "Model", "Files", "Bytes", "Signed", "Registered by")
    return [Heading(2, ["Artefacts"]), Table(header, rows)]


def _timeline(records: Sequence[tuple[Record, str]]) -> list[Block]:
    rows: list[Sequence[Words]] = [
        [
            [str(record["sequence"])],
            [_time(_ms(record["at_ms"]))],
            [Data(str(record["name"]))],
            [Data(str(record["principal"]))],
            _details(fields_of(record)),
            [Data(why)],
        ]
        for record, why in records
    ]
    return [
        Heading(2, ["Timeline"]),
        Text(["In the order of the log. Times are those of the parts that recorded; digests show their beginning."]),
        Table(("Record", "Time", "Event", "Principal", "Fields", "Belongs by"), rows),
    ]


def _details(fields: Mapping[str, JsonValue]) -> Words:
    shown = sorted((name, value) for name, value in fields.items() if value is not None)
    return _joined([[f"{visible(name)} ", Data(_short(value))] for name, value in shown]) if shown else ["-"]


def _short(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}:{_short(item)}" for name, item in sorted(value.items()))
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _verification(count: int, evidence: Evidence) -> list[Block]:
    witnesses: list[Words] = [[Data(name), " ", time(at_s * 1000)] for name, at_s in evidence.witnesses]
    rows: list[tuple[str, Words]] = [
        ("Log", [Data(evidence.origin)]),
        ("Checkpoint", [f"{evidence.size} records"]),
        ("Root", [Data(evidence.root)]),
        ("Signed by", [Data(evidence.key)]),
        ("Witnesses", _joined(witnesses) if witnesses else ["none signed this checkpoint"]),
        ("Package made", [time(evidence.made_ms)]),
    ]
    limits: list[Words] = [
        [
            "The key in this package is only as good as whoever handed it over. Get the log's key from somewhere else "
            "and pass it with --key. The same is true of verify.py and of this report: gatehouse audit evidence "
            "--check writes the report again from the records and compares."
        ],
        [
            f"The maker read all {evidence.size} records of the log, found that they lead to the root, and took those "
            "that belong to the change. That none was left out can be checked only with the log or an export of it: "
            "gatehouse audit evidence LOG --check PACKAGE."
        ],
        ["Records that were written after the checkpoint are not here."],
        ["Outcomes and rollbacks are what was reported. The log proves who reported what and when, not that it is so."],
        ["Prompts, arguments, outputs and reasons are here as digests or salted commitments only."],
    ]
    if not witnesses:
        limits.append(["No witness confirms that everybody is shown this same log."])
    return [
        Heading(2, ["Verification"]),
        Text([f"Each of the {count} records is proven to be in the log under one signed checkpoint."]),
        Table((), [([name], words) for name, words in rows]),
        Text(
            [
                "To check it: ",
                Data("python3 verify.py --key VKEY"),
                ", which needs nothing but Python, or ",
                Data("gatehouse audit evidence --check DIRECTORY --key VKEY"),
                ".",
            ]
        ),
        Text(["What it does not show:"]),
        Items(limits),
    ]


# --- words -------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """`text` with every character that does not print as itself spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def time(at_ms: int) -> str:
    """A time in UTC, to the second."""
    try:
        return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"  # a record may claim any time


def _time(at_ms: int | None) -> str:
    return "-" if at_ms is None else time(at_ms)


def _ms(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


def _maybe(text: str | None) -> Words:
    return ["-"] if text is None else [Data(text)]


def _list(texts: Sequence[str]) -> Words:
    return _joined([[Data(text)] for text in texts]) if texts else ["-"]


def _joined(parts: Sequence[Words]) -> Words:
    return [word for place, words in enumerate(parts) for word in ([", "] if place else []) + list(words)]


# --- Markdown ----------------------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub-flavoured Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_md(block.words)}"
        case Text():
            return _md(block.words)
        case Items():
            return "\n".join(f"- {_md(words)}" for words in block.items)
        case Table():
            width = max((len(row) for row in block.rows), default=len(block.header))
            lines = [list(block.header) or [""] * width, ["---"] * width]
            lines += [[_md(words) for words in row] for row in block.rows]
            return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _md(words: Words) -> str:
    return "".join(_md_code(word.text) if isinstance(word, Data) else _md_text(word) for word in words)


def _md_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", visible(text))


def _md_code(text: str) -> str:
    # Within code neither a backtick nor, in a table, a pipe can be escaped: both are spelled out.
    shown = visible(text).replace("`", "\\x60").replace("|", "\\x7c")
    return f"`{shown}`" if shown.strip() else "(empty)"


# --- HTML --------------------------------------------------------------------------------------------------------


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The blocks as one HTML page that loads nothing and runs nothing; well-formed XML, too."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        '<meta name="viewport" content="width=device-width"/>\n'
        f"<title>{_html_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_html_words(block.words)}</h{block.level}>"
        case Text():
            return f"<p>{_html_words(block.words)}</p>"
        case Items():
            items = "".join(f"<li>{_html_words(words)}</li>" for words in block.items)
            return f'<ul class="open">{items}</ul>' if block.open else f"<ul>{items}</ul>"
        case Table():
            return f'<div class="table">{_html_table(block)}</div>'


def _html_table(table: Table) -> str:
    if not table.header:
        rows = "".join(
            f'<tr><th scope="row">{_html_words(row[0])}</th>'
            + "".join(f"<td>{_html_words(words)}</td>" for words in row[1:])
            + "</tr>\n"
            for row in table.rows
        )
        return f'<table class="facts"><tbody>\n{rows}</tbody></table>'
    head = "".join(f'<th scope="col">{_html_text(name)}</th>' for name in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_html_words(words)}</td>" for words in row) + "</tr>\n" for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"


def _html_words(words: Words) -> str:
    return "".join(
        f"<code>{_html_text(word.text)}</code>" if isinstance(word, Data) else _html_text(word) for word in words
    )


def _html_text(text: str) -> str:
    return escape(visible(text))
