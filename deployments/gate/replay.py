"""What a bundle would have decided on calls of the past, and what a shadow bundle said of them at the time.

Pure over what somebody has read from an audit log: the log is another feature's. A call is judged again with the
circumstances that are on record. Two of them are not kept: the schema of the tool as it was offered, and which tools a
request offered; a call that was refused because its tool was not offered keeps that refusal.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.tables import OUTCOME_ORDER, Outcome
from deployments.ports import GateProfile, JsonValue, Risk

MAX_EXAMPLES = 5

Seen: TypeAlias = tuple[Risk, Outcome]
"""Class and outcome of a call."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """One call on record. `index` is that of its `tool_call.classified` record; `arguments` None: not kept.

    `why_not` says why there are no arguments. `shadow` is what the shadow bundle of that time said.
    """

    index: int
    tool: str
    arguments: str | None
    profile: GateProfile
    circumstances: Circumstances
    seen: Seen
    policy_digest: str
    shadow: Seen | None = None
    why_not: str = "not kept"


@dataclass(slots=True)
class Group:
    """Calls with the same change: how many, and the first record indexes of them."""

    count: int = 0
    examples: list[int] = field(default_factory=list[int])

    def add(self, index: int) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(index)


@dataclass(slots=True)
class Replay:
    """The report. `changes` has calls by what was and what would be; `skipped` counts the others by why.

    `looser` are calls that would come to a milder outcome or a lower class, `stricter` the other changed ones.
    """

    policy_digest: str
    total: int = 0
    judged: int = 0
    same: int = 0
    looser: int = 0
    stricter: int = 0
    changes: dict[tuple[Seen, Seen], Group] = field(default_factory=dict[tuple[Seen, Seen], Group])
    skipped: Counter[str] = field(default_factory=Counter[str])

    def add(self, index: int, before: Seen, after: Seen) -> None:
        """One call that could be judged."""
        self.judged += 1
        if before == after:
            self.same += 1
            return
        self.changes.setdefault((before, after), Group()).add(index)
        if is_looser(before, after):
            self.looser += 1
        else:
            self.stricter += 1


def is_looser(before: Seen, after: Seen) -> bool:
    """True when a call comes to a milder outcome or to a lower class."""
    return after[0].rank < before[0].rank or OUTCOME_ORDER.index(after[1]) < OUTCOME_ORDER.index(before[1])


def replay(classifier: Classifier, calls: Iterable[PastCall]) -> Replay:
    """What the classifier's bundle makes of `calls` now, against what is on record."""
    report = Replay(classifier.policy_digest)
    for call in calls:
        report.total += 1
        if call.arguments is None:
            report.skipped[call.why_not] += 1
            continue
        found = classifier.classify(call.tool, call.arguments, call.profile, call.circumstances)
        not_offered = call.seen[1] is Outcome.FORBID and call.seen[0] is not Risk.FORBIDDEN
        report.add(call.index, call.seen, (found.risk, Outcome.FORBID if not_offered else found.outcome))
    return report


def recorded_shadow(calls: Iterable[PastCall]) -> dict[str, Replay]:
    """What shadow bundles said at the time, by their digests; calls without are counted under an empty one."""
    found: dict[str, Replay] = {}
    for call in calls:
        digest = call.policy_digest if call.shadow is not None else ""
        report = found.setdefault(digest, Replay(digest))
        report.total += 1
        if call.shadow is None:
            report.skipped["no shadow bundle"] += 1
        else:
            report.add(call.index, call.seen, call.shadow)
    return found


def as_json(report: Replay) -> dict[str, JsonValue]:
    """The report as plain JSON values, the looser changes first."""
    return {
        "policy_digest": report.policy_digest,
        "total": report.total,
        "judged": report.judged,
        "same": report.same,
        "looser": report.looser,
        "stricter": report.stricter,
        "skipped": dict[str, JsonValue](report.skipped),
        "changes": [
            {
                "direction": "looser" if is_looser(before, after) else "stricter",
                "from": {"risk": before[0].value, "outcome": before[1].value},
                "to": {"risk": after[0].value, "outcome": after[1].value},
                "count": group.count,
                "examples": list[JsonValue](group.examples),
            }
            for (before, after), group in ordered(report)
        ],
    }


def ordered(report: Replay) -> list[tuple[tuple[Seen, Seen], Group]]:
    """The changes, the looser first, then by how many."""
    return sorted(report.changes.items(), key=lambda item: (not is_looser(*item[0]), -item[1].count))


def past_call(
    record: Mapping[str, JsonValue],
    fields: Mapping[str, JsonValue],
    recovered: bool,
    arguments: str | None,
    why_not: str,
) -> PastCall | None:
    """One call from its `tool_call.classified` record; None for a record of a form that is not known here.

    `fields` are the record's, `recovered` and `arguments` come from its `tool_call.proposed`.
    """
    try:
        shadow = None
        if fields.get("shadow_risk") is not None:
            shadow = Risk(str(fields["shadow_risk"])), Outcome(str(fields["shadow_outcome"]))
        index, agent, digest = record["sequence"], fields.get("agent"), fields.get("policy_digest")
        if shadow is not None:
            digest = fields.get("shadow_policy_digest")
        return PastCall(
            index=index if isinstance(index, int) else -1,
            tool=str(fields["tool"]),
            arguments=arguments,
            profile=GateProfile(str(fields.get("profile", GateProfile.OPS.value))),
            circumstances=Circumstances(
                recovered=recovered,
                untrusted=fields.get("untrusted") is True,
                tenant=str(record.get("tenant")),
                agent=agent if isinstance(agent, str) else None,
            ),
            seen=(Risk(str(fields["risk"])), Outcome(str(fields["outcome"]))),
            policy_digest=str(digest),
            shadow=shadow,
            why_not=why_not,
        )
    except (KeyError, ValueError):
        return None
