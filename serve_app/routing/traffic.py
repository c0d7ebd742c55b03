"""Rows from live traffic: each routed turn with its features, its arm and the arm's chance, and how it was judged.

A row holds numbers and names, no word of a prompt, and needs no store of its own: the terms of the explanation that is
kept anyway are weight times scaled feature, so the snapshot that decided (it is known by its digest) turns them back.

What a verdict says is about the arm that answered. Of several, the most trusted ones count; each key has one voice.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.difficulty.store import Told
from deployments.ports import Feedback, FeedbackVerdict, RouteExplanation
from router.snapshot import DIFFICULTY, WEAK, Snapshot
from router.types import Effort, Tier
from serve_app.routing.data import DataRefused

SCHEMA: Final = "gatehouse.traffic/1"
CHECKED_TRUST: Final = 0.5
"""Trust in what the answer checks say by themselves: as in a tool's word, for pass and fail alike."""

_GROUP_CHARS: Final = 12
_LEAST_WEIGHT: Final = 1e-4  # terms are kept to a millionth: below this weight that is no longer one hundredth
_MOST_DEVIATIONS: Final = 4.0
_DIGITS: Final = 6
_MOST_ERRORS: Final = 3
_RIGHT: Final[Mapping[FeedbackVerdict, float]] = {
    FeedbackVerdict.OK: 1.0,
    FeedbackVerdict.OVERKILL: 1.0,  # a smaller model would have done: nothing is said against the answer
    FeedbackVerdict.WRONG: 0.0,
    FeedbackVerdict.UNDERPOWERED: 0.0,
}
_CHECKED: Final = {"pass": 1.0, "fail": 0.0}

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class TrafficRow(BaseModel):
    """One routed turn. Times are milliseconds since the epoch, shares and chances lie in [0, 1].

    `group` is a digest of the session (of the turn, where there is none): what belongs together. `snapshot` decided,
    and `features` are the numbers that it looked at, cut at four deviations. `chances` are those of both tiers, and
    empty where a rule, a wish or the memory decided; `usual` is the tier that would have been given without chance.
    `outcome` is None where nobody judged; `trust` is then 0 and `source` empty.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    form: Annotated[Literal["gatehouse.traffic/1"], Field(alias="schema")] = SCHEMA
    id: Annotated[str, Field(min_length=1, max_length=64)]
    tenant: Annotated[str, Field(min_length=1, max_length=128)]
    group: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    at_ms: Annotated[int, Field(ge=0)]
    task: str
    risk: str
    snapshot: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    features: dict[str, _Number]
    tier: Annotated[Tier, Field(strict=False)]
    effort: Annotated[Effort, Field(strict=False)]
    usual: Annotated[Tier, Field(strict=False)]
    chances: dict[Annotated[Tier, Field(strict=False)], _Share]
    explored: bool
    reason: str
    outcome: _Share | None
    trust: _Share
    source: str


@dataclass(frozen=True, slots=True)
class Finished:
    """What the audit log says of a turn's attempts, by tier: `pass`, `fail` or `unknown`; `sent` is who answered.

    None stands for the tier that the turn was routed to.
    """

    checked: Mapping[Tier | None, str]
    sent: Tier | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """How an answer was judged: `outcome` in [0, 1], None where nobody did."""

    outcome: float | None = None
    trust: float = 0.0
    source: str = ""


@dataclass(slots=True)
class Counts:
    """What became of the decisions that were read. Each is either a row or counted under one reason."""

    decisions: int = 0
    rows: int = 0
    judged: int = 0
    unreadable: int = 0
    held: int = 0
    fell_back: int = 0
    snapshot_unknown: int = 0


def judge(said: Sequence[Feedback], tier: Tier, finished: Finished | None = None) -> Judged:
    """How the answer of `tier` was judged: by people and programs, else by the checks of the answer itself.

    Where a cascade sent another tier's answer, verdicts are about that one and say nothing of this.
    """
    other = finished is not None and finished.sent not in {None, tier}
    if said and not other:
        trust = max(each.weight for each in said)
        by_key: dict[str, list[float]] = {}
        for each in said:
            if each.weight == trust:
                value = _RIGHT[each.verdict] if each.score is None else each.score
                by_key.setdefault(each.key_id, []).append(value)
        voices = [sum(values) / len(values) for values in by_key.values()]
        sources = sorted({each.source.value for each in said if each.weight == trust})
        return Judged(sum(voices) / len(voices), trust, "+".join(sources))
    checked: Mapping[Tier | None, str] = {} if finished is None else finished.checked
    right = _CHECKED.get(checked.get(tier, checked.get(None, "")))
    return Judged() if right is None else Judged(right, CHECKED_TRUST, "checks")


def recovered(contributions: Iterable[tuple[str, float]], snapshot: Snapshot) -> dict[str, float]:
    """The features behind the terms of a difficulty, cut at four deviations, exact to a millionth over the weight.

    Those whose weight is too small to tell are left out; a term that is not there is 0, the feature at its mean.
    """
    head, sign = snapshot.head(DIFFICULTY), 1.0
    if head is None:
        head, sign = snapshot.head(WEAK), -1.0  # the difficulty of two heads is P(weak wrong)
    if head is None:
        return {}
    terms = dict(contributions)
    found: dict[str, float] = {}
    for scale, weight in zip(snapshot.scales, head.weights, strict=True):
        if abs(weight) >= _LEAST_WEIGHT:
            scaled = sign * terms.get(scale.name, 0.0) / weight
            scaled = min(max(scaled, -_MOST_DEVIATIONS), _MOST_DEVIATIONS)
            found[scale.name] = round(scale.mean + scale.deviation * scaled, _DIGITS) + 0.0  # no -0.0
    return found


def row_of(
    told: Told, snapshots: Mapping[str, Snapshot], finished: Mapping[str, Finished], counts: Counts
) -> TrafficRow | None:
    """The row of a decision; None, and why is counted, where it teaches nothing. `snapshots` are by digest."""
    counts.decisions += 1
    if told.explained is None:
        counts.unreadable += 1
        return None
    explanation, session = told.explained.explanation, told.explained.session
    decision = explanation.decision
    if decision.hold is not None:
        counts.held += 1
        return None
    if explanation.detail is None or not decision.snapshot_digest:
        counts.fell_back += 1
        return None
    snapshot = snapshots.get(decision.snapshot_digest)
    if snapshot is None:
        counts.snapshot_unknown += 1
        return None
    chances = _chances(explanation)
    judged = judge(told.said, decision.tier, finished.get(told.route_id))
    counts.rows += 1
    counts.judged += judged.outcome is not None
    return TrafficRow(
        id=told.route_id,
        tenant=told.tenant,
        group=_group(told.tenant, session or told.route_id),
        at_ms=explanation.at_ms,
        task=explanation.task,
        risk=explanation.risk.value,
        snapshot=decision.snapshot_digest,
        features=recovered(explanation.contributions, snapshot),
        tier=decision.tier,
        effort=decision.effort,
        usual=max(chances, key=chances.__getitem__) if chances else decision.tier,
        chances=chances,
        explored=decision.explored,
        reason=decision.reason,
        outcome=judged.outcome,
        trust=judged.trust,
        source=judged.source,
    )


def read_traffic(file: Path) -> tuple[TrafficRow, ...]:
    """The rows of an export, in its order; `DataRefused` names lines that cannot be used."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise DataRefused(f"cannot read {file}: {error.strerror}.") from error
    rows: list[TrafficRow] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(TrafficRow.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            wrong.append(f"line {number}: {where}: {first['msg']}")
            if len(wrong) == _MOST_ERRORS:
                break
    if wrong:
        raise DataRefused(f"{file} cannot be used: {'; '.join(wrong)}.")
    if len({(row.tenant, row.id) for row in rows}) != len(rows):
        raise DataRefused(f"{file} holds a turn twice.")
    return tuple(rows)


def is_traffic(file: Path) -> bool:
    """True when the first line of a file says that it is an export; `DataRefused` when it cannot be read."""
    try:
        with file.open("rb") as source:
            return f'"schema":"{SCHEMA}"'.encode() in source.readline(1_000_000)
    except OSError as error:
        raise DataRefused(f"cannot read {file}: {error.strerror}.") from error


def merged(before: Iterable[TrafficRow], now: Iterable[TrafficRow]) -> tuple[TrafficRow, ...]:
    """Both, by time; of a turn that is in both the newer row, unless only the older one was judged."""
    rows = {(row.tenant, row.id): row for row in before}
    for row in now:
        known = rows.get((row.tenant, row.id))
        if known is None or row.outcome is not None or known.outcome is None:
            rows[row.tenant, row.id] = row
    return tuple(sorted(rows.values(), key=lambda row: (row.at_ms, row.tenant, row.id)))


def write_traffic(rows: Iterable[TrafficRow], file: Path) -> None:
    """Replace `file` as a whole, readable by its owner alone; `OSError`."""
    part = file.with_name(file.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        for row in rows:
            target.write(row.model_dump_json(by_alias=True).encode() + b"\n")
        target.flush()
        os.fsync(target.fileno())
    part.replace(file)


def _chances(explanation: RouteExplanation) -> dict[Tier, float]:
    """The chances of both tiers, where chance decided about this one; else nothing."""
    detail, decision = explanation.detail, explanation.decision
    chances = {} if detail is None else dict(detail.propensities)
    return chances if chances.get(decision.tier) == decision.propensity and len(chances) == len(Tier) else {}


def _group(tenant: str, what: str) -> str:
    return hashlib.sha256(f"{tenant}\0{what}".encode("utf-8", "surrogatepass")).hexdigest()[:_GROUP_CHARS]
