"""What `/v1/route` answers: a decision or an explanation as JSON. Names and numbers, no word of the prompt."""

from typing import Any

from deployments.ports import CascadeReport, Detail, RouteDecision, RouteExplanation
from router.types import Alternative, Proposal, RuleTruth


def route_decision(decision: RouteDecision) -> dict[str, Any]:
    """The reply to a dry run."""
    return {"object": "route.decision", "dry_run": True, **_decided(decision), "detail": _detail(decision.detail)}


def route_explanation(found: RouteExplanation) -> dict[str, Any]:
    """The reply about a turn that was routed."""
    return {
        "object": "route.explanation",
        "dry_run": False,
        **_decided(found.decision),
        "request_id": found.request_id,
        "created_ms": found.at_ms,
        "task": found.task,
        "risk": found.risk.value,
        "signals": list(found.signals),
        "rules": [{"id": rule_id, "fired": fired} for rule_id, fired in found.rules],
        "contributions": _terms(found.contributions),
        "detail": _detail(found.detail),
        "cascade": _cascade(found.cascade),
    }


def _cascade(report: CascadeReport | None) -> dict[str, Any] | None:
    """What was checked and asked again: the decision above is the first one, `second` the other."""
    if report is None:
        return None
    return {
        "outcome": report.word,
        "reason": report.why,
        "verdict": report.verdict,
        "findings": list(report.findings),
        "second": None if report.second is None else _decided(report.second),
        "second_verdict": report.second_verdict,
        "error": report.error_code,
    }


def _decided(decision: RouteDecision) -> dict[str, Any]:
    return {
        "id": decision.route_id,
        "model": decision.model,
        "tier": decision.tier.value,
        "effort": decision.effort.value,
        "revision": decision.revision,
        "reason": decision.reason,
        "reasons": list(decision.reasons),
        "difficulty": decision.difficulty,
        "policy": decision.policy_digest,
        "snapshot": decision.snapshot_digest or None,
        "mode": decision.mode.value,
        "confidence": decision.confidence,
        "propensity": decision.propensity,
        "explored": decision.explored,
        "eligible": decision.eligible,
        "hand_over": decision.hand_over,
        "hold": None if decision.hold is None else decision.hold.value,
        # Of what there is one of for everybody nothing is said, as in the headers of an answer.
        "router_revision": decision.router_revision or None,
        "prompt_revision": decision.prompt_revision or None,
        "policy_revision": decision.policy_revision or None,
    }


def _detail(detail: Detail | None) -> dict[str, Any] | None:
    if detail is None:
        return None
    arm, reason = detail.shadow
    return {
        "task": detail.task,
        "risk": detail.risk.value,
        "signals": list(detail.signals),
        "contributions": _terms(detail.contributions),
        "proposal": _proposal(detail.proposal),
        "shadow": {"arm": str(arm), "reason": reason},
        "alternatives": [_alternative(each) for each in detail.alternatives],
        "counterfactual": list(detail.counterfactual),
        "rules": [_rule(each) for each in detail.rules],
        "overlay": list(detail.provenance),
        "stages": [{"stage": stage, "arm": str(given), "reason": why} for stage, given, why in detail.stages],
        "evidence": [{"kind": kind, "weight": weight} for kind, weight in detail.evidence],
        "failures": {tier.value: weight for tier, weight in detail.failures},
        "propensities": {tier.value: chance for tier, chance in detail.propensities},
        "state": dict(detail.state),
    }


def _terms(terms: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in terms]


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return {
        "kind": proposal.kind,
        "value": proposal.value,
        "logit": proposal.logit,
        "threshold": proposal.threshold,
        "demanded": proposal.demanded,
        "hit": proposal.hit,
        "taken": proposal.taken,
        "abstained": proposal.abstained,
    }


def _alternative(alternative: Alternative) -> dict[str, Any]:
    return {
        "arm": str(alternative.arm),
        "p_ok": alternative.p_ok,
        "relative_cost": alternative.relative_cost,
        "cost_is": "configured",
        "allowed": alternative.allowed,
    }


def _rule(rule: RuleTruth) -> dict[str, Any]:
    return {
        "id": rule.rule_id,
        "fired": rule.fired,
        "effect": rule.effect,
        "safety": rule.safety,
        "source": rule.source,
        "signals": dict(rule.signals),
    }
