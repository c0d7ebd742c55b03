"""What the audit log keeps of a rollout beside its steps: the rules, and the figures that a step was decided by. Pure.

A draft carries its figures as JSON (`Draft.evidence`), which is what the API shows; records are flat, so each figure is
a field of its own or a line of text. What a step has no figures of, its record does not mention.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from deployments.ports import JsonValue
from deployments.rollout.judge import Judgement
from deployments.rollout.paired import Comparison, Passed
from deployments.rollouts import Artefact, Draft, Move, Plan

_MOST_LINES: Final = 64  # that a record takes
_MOST_CHARS: Final = 200


def rules_of(plan: Plan) -> list[str]:
    """What a rollout is judged by, a line each; 64 lines at most, for there are six metrics."""
    rules = plan.rules
    return [
        f"shares: {' '.join(map(str, plan.shares))}",
        f"shadow: {'yes' if plan.shadow else 'no'}",
        f"eval_cases: {plan.eval_cases or 0}",
        *(
            f"{name}: {getattr(rules, name)}"
            for name in (
                "ttft_ms", "e2e_ms", "min_s", "deadline_s", "warm_s", "window_s", "false_alarm", "design_effect",
                "drift",
            )
        ),
        *(
            f"{each.metric.value}: slack {each.slack}, tolerance {each.tolerance}, at least {each.min_count}"
            f"{'' if each.required else ', if told'}"
            for each in rules.bounds
        ),
    ]  # fmt: skip


def rules_digest(plan: Plan) -> str:
    """SHA-256 in hex of the lines of `rules_of`, a newline after each: anybody can compute it from a record."""
    return hashlib.sha256("".join(f"{line}\n" for line in rules_of(plan)).encode()).hexdigest()


def told(plan: Plan, draft: Draft) -> dict[str, JsonValue]:
    """The fields that the record of a step has beside those of every step."""
    found: dict[str, JsonValue] = {"rules_digest": rules_digest(plan)}
    if draft.move is Move.START:
        found["rules"] = [*rules_of(plan)]
    evidence: dict[str, Any] = json.loads(draft.evidence)
    if "asked" in evidence:
        found["prompts_asked"] = evidence["asked"]
        found["prompts_failed"] = _lines(evidence["failed"])
    if "evaluation" in evidence:
        found["evaluation"] = str(evidence["evaluation"])[:_MOST_CHARS]
    if "metrics" in evidence:
        found["figures"] = _lines([_figure(name, each) for name, each in evidence["metrics"].items()])
    if "eval" in evidence:
        found |= _evaluated(evidence["eval"])
    return found


def judged_evidence(found: Judgement) -> dict[str, JsonValue]:
    """The figures behind a judgement, as evidence of a draft."""
    figures: dict[str, JsonValue] = {}
    for each in found.findings:
        figures[each.metric.value] = {
            "candidate": [each.pair.candidate.bad, each.pair.candidate.trials],
            "baseline": [each.pair.baseline.bad, each.pair.baseline.trials],
            "worse": round(each.worse, 4),
            "near": round(each.near, 4),
            "needed": round(each.needed, 4),
        }
    return {"verdict": found.verdict.value, "metrics": figures}


def eval_evidence(found: Comparison, suite_digest: str, alpha: float) -> dict[str, JsonValue]:
    """The figures of an evaluation, as evidence of a draft. No name of a case, for an answer is behind it."""
    return {
        "eval": {
            "suite": suite_digest,
            "cases": found.all.asked,
            "candidate_passed": found.all.candidate,
            "baseline_passed": found.all.baseline,
            "only_candidate": found.only_candidate,
            "only_baseline": found.only_baseline,
            "p_value": found.p_value,
            "needed": alpha,
            "families": {name: _triple(each) for name, each in found.families.items()},
        }
    }


def registration(artefact: Artefact, revision: str) -> dict[str, JsonValue]:
    """The fields of the record that an artefact was registered. Its path stays out: it names machines and people."""
    return {
        "kind": artefact.kind.value,
        "model": artefact.target,
        "revision": revision,
        "artefact_files": len(artefact.files),
        "artefact_bytes": sum(each.size for each in artefact.files),
        "signed": bool(artefact.signature),
        **({"change_id": artefact.change_id} if artefact.change_id else {}),
    }


def _figure(name: str, each: Mapping[str, Any]) -> str:
    (bad, trials), (base_bad, base_trials) = each["candidate"], each["baseline"]
    return (
        f"{name}: bad {bad:.0f} of {trials:.0f}, before {base_bad:.0f} of {base_trials:.0f}; "
        f"worse {each['worse']:g}, near {each['near']:g}, needed {each['needed']:g}"
    )


def _evaluated(said: Mapping[str, Any]) -> dict[str, JsonValue]:
    families: Mapping[str, list[int]] = said["families"]
    return {
        "suite_digest": said["suite"],
        "cases": said["cases"],
        "candidate_passed": said["candidate_passed"],
        "baseline_passed": said["baseline_passed"],
        "only_candidate": said["only_candidate"],
        "only_baseline": said["only_baseline"],
        "p_value": said["p_value"],
        "p_needed": said["needed"],
        "families": _lines([
            f"{name}: {candidate} of {asked}, before {baseline}"
            for name, (asked, candidate, baseline) in families.items()
        ]),
    }  # fmt: skip


def _triple(each: Passed) -> list[JsonValue]:
    return [each.asked, each.candidate, each.baseline]


def _lines(lines: list[str]) -> list[JsonValue]:
    """As many as a record takes; of more, the last line says how many were left out."""
    short: list[JsonValue] = [line[:_MOST_CHARS] for line in lines]
    if len(short) <= _MOST_LINES:
        return short
    return [*short[: _MOST_LINES - 1], f"and {len(short) - _MOST_LINES + 1} more"]
