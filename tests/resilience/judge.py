"""What clients were told, held against what the ledger charged and what the audit log holds."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from deployments.audit.chain import leaf_hash
from deployments.audit.read import read_entries
from serve_app.config import ROOT
from tests.resilience.load import CLEAN, Ending, Load, Reply
from tests.tenants.books import Row


@dataclass
class Found:
    """One scenario's figures, and what must not have happened: names of requests, empty where all is well."""

    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    faults: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def endings(load: Load, lost: Iterable[str]) -> Found:
    """How requests ended. Connections may break only where their machine, one of `lost`, is gone."""
    gone = set(lost)
    replies = load.replies
    broken = [each for each in replies if each.ending in (Ending.BROKEN, Ending.GONE)]
    figures: dict[str, Any] = {
        "sent": len(replies),
        "answered": load.count(Ending.WHOLE),
        "failed cleanly": load.count(*CLEAN),
        "of these error events": load.count(Ending.ERROR_EVENT),
        "connections to a dead machine": sum(each.machine in gone for each in broken),
        "truncated": 0,
        "not in their dialect": load.count(Ending.FOREIGN),
        "endings": dict(load.counts()),
        "codes": dict(Counter(each.code for each in replies if each.code)),
        "rerouted": sum(each.rerouted for each in replies),
        "longest without an answer, s": pause_s(replies),
    }
    truncated = [each for each in replies if each.ending is Ending.SILENT]
    truncated += [each for each in broken if each.machine not in gone]
    figures["truncated"] = len(truncated)
    foreign = [each for each in replies if each.ending is Ending.FOREIGN]
    return Found(
        figures,
        {
            "truncated": [_told(each) for each in truncated],
            "not in their dialect": [_told(each) for each in foreign],
            "other counts than the engine's": [
                each.request_id for each in replies if each.whole and each.expected not in (None, each.tokens)
            ],
        },
    )


def pause_s(replies: Sequence[Reply]) -> float:
    """The longest time in which no answer became whole, seconds."""
    ends = sorted(each.ended_s for each in replies if each.whole)
    return round(max((after - before for before, after in zip(ends, ends[1:], strict=False)), default=0.0), 1)


def charges(load: Load, rows: Sequence[Row]) -> Found:
    """What the ledger charged for these requests."""
    charged = defaultdict[str, list[Row]](list)
    for row in rows:
        charged[row.request_id].append(row)
    whole = [each for each in load.replies if each.whole]
    exact = estimated = 0
    wrong = list[str]()
    for each in whole:
        (row, *_) = charged[each.request_id] or (None,)
        if row is None:
            continue
        if row.is_lost:
            estimated += 1
        elif (row.input_tokens, row.output_tokens, row.estimated) == (*(each.tokens or ()), False):
            exact += 1
        else:
            wrong.append(f"{each.request_id}: told {each.tokens}, charged {row.input_tokens}, {row.output_tokens}")
    twice = [name for name, each in charged.items() if len(each) > 1]
    lost = [each.request_id for each in whole if not charged[each.request_id]]
    return Found(
        {
            "charged": len(rows),
            "exact": exact,
            "answered, charged an estimate": estimated,
            "of an unknown end, charged an estimate": sum(row.is_lost for row in rows) - estimated,
            "charged twice": len(twice),
            "settlements lost": len(lost),
        },
        {
            "charged twice": twice,
            "settlements lost": lost,
            "charged other than told": wrong,
            "of nobody": sorted(charged.keys() - {each.request_id for each in load.replies}),
        },
    )


def of_tenant(log: Path, tenant: str) -> list[tuple[int, str, dict[str, Any]]]:
    """The records of a tenant: index, leaf hash, record."""
    found = list[tuple[int, str, dict[str, Any]]]()
    for index, entry in read_entries(log):
        record = cast(dict[str, Any], json.loads(entry))
        if record.get("tenant") == tenant:
            found.append((index, leaf_hash(entry).hex(), record))
    return found


def records(replies: Sequence[Reply], log: Path, tenant: str) -> Found:
    """What the log holds of what was acknowledged, and of what was answered."""
    there = of_tenant(log, tenant)
    leaves = {index: leaf for index, leaf, _ in there}
    events = Counter(str(record["event_id"]) for _, _, record in there)
    finished = {
        record["request_id"]
        for _, _, record in there
        if record["name"] == "generation.finished" and record["data"]["outcome"] == "completed"
    }
    decided = Counter(record["request_id"] for _, _, record in there if record["name"] == "route.decided")
    unrecorded = [each.request_id for each in replies if each.whole and decided[each.request_id] != 1]
    acknowledged = [(each.request_id, *each.receipt) for each in replies if each.receipt is not None]
    lost = [name for name, index, leaf in acknowledged if leaves.get(index) != leaf]
    return Found(
        {
            "records": len(there),
            "acknowledged": len(acknowledged),
            "acknowledged and lost": len(lost),
            "answered without a record": len(unrecorded),
            "answered without a record of the end": sum(
                each.whole and each.request_id not in finished for each in replies
            ),
        },
        {
            "acknowledged and lost": lost,
            "answered without one record of it": unrecorded,
            "recorded twice": [name for name, count in events.items() if count > 1],
        },
    )


def verify(log: Path) -> tuple[int, str]:
    """`gatehouse audit verify`: its status and its last words."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "audit", "verify", str(log)], cwd=ROOT, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr)[-1500:]


def merged(parts: Iterable[Found]) -> Found:
    """Several findings as one."""
    found = Found()
    for part in parts:
        found.figures |= part.figures
        found.faults |= part.faults
    return found


def _told(reply: Reply) -> str:
    how = f"{reply.ending.value}, status {reply.status}, {reply.detail}"
    return f"{reply.request_id} ({reply.kind}, through {reply.machine}): {how}"
