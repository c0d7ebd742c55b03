"""INC-03, quality regression: a prompt version that cuts answers off after one token, and a verifier that notices.

Questions with a known answer are asked as they should be, for a baseline, and then through the bad version. A verifier
compares what comes with what is right, and says so by `/v1/feedback`, as a team's own checks do.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import httpx2

from serve_app.drills.acting import Answer, DrillRefused, DrillReport, until
from serve_app.drills.asking import ask
from serve_app.drills.conduct import Plan, Stage, Wishes, conduct

PLAN = Plan(
    "INC-03",
    "GatehouseAnswersWrong",
    "INC-03: quality regression",
    ("gatehouse rollout status", "gatehouse router eval", "critical work to the larger model"),
)
QUESTIONS: Sequence[tuple[str, str]] = tuple(
    (f"What is {a} times {b}?", str(a * b)) for a in range(3, 10) for b in range(4, 9)
)
_BASELINE = 8
_TOKENS, _CUT_TOKENS = 256, 1
_LEAST = 30
"""Verdicts in the bad phase: the alert wants more than 20, and the first of a kind does not show in an increase."""
_LOOK_S = 2.0
_KNOWN_S = 30.0


def run(http: httpx2.Client, operator_key: str, tell: Callable[[str], object], wishes: Wishes) -> DrillReport:
    """Carry the drill out; see `conduct`."""
    return conduct(PLAN, http, operator_key, tell, wishes, _regress)


def _regress(stage: Stage) -> None:
    model = stage.wishes.model or _largest(stage)
    ends = time.perf_counter() + stage.wishes.wait_s
    right = [_judged(stage, model, number, "baseline", _TOKENS) for number in range(_BASELINE)]
    wrong = [not _judged(stage, model, number, "cut", _CUT_TOKENS) for number in range(_LEAST)]
    stage.facts["failure"] = {
        "model": model,
        "baseline": {"asked": len(right), "right": sum(right)},
        "regression": {"asked": len(wrong), "wrong": sum(wrong)},
    }
    told = f"{sum(right)} of {len(right)} right before, {len(wrong) - sum(wrong)} of {len(wrong)} after"
    stage.findings.add("the answers are wrong", sum(wrong) / len(wrong) > 0.9, told)
    until(stage.fires, max(0.0, ends - time.perf_counter()), _LOOK_S)
    again = _judged(stage, model, 0, "after", _TOKENS)
    stage.findings.add("without the bad version it is as before", again == right[0], "right" if again else "wrong")


def _judged(stage: Stage, model: str, number: int, phase: str, tokens: int) -> bool:
    """Ask, compare, and tell the verdict; True for a right answer."""
    question, wanted = QUESTIONS[number % len(QUESTIONS)]
    reply = ask(stage.agent, model, question, tokens)
    if reply.status != 200 or not reply.route_id:
        raise DrillRefused(f"{model} does not answer ({reply.text or reply.status}): that is another incident")
    good = wanted in re.findall(r"\d+", reply.text)
    verdict = {
        "route_id": reply.route_id,
        "verdict": "ok" if good else "wrong",
        "source": "verifier",
        "event_id": f"{reply.route_id}:{phase}",
    }
    told: list[Answer] = []

    def taken() -> bool:
        told.append(stage.verifier.ask("POST", "/v1/feedback", verdict))
        return told[-1].status != 404  # the router writes its decisions down a moment after it has made them

    until(taken, _KNOWN_S)
    if told[-1].status >= 400:
        raise DrillRefused(f"a verdict was refused: {told[-1].said}")
    return good


def _largest(stage: Stage) -> str:
    """The model of the larger tier, else the one there is."""
    cards = cast(Sequence[Mapping[str, Any]], stage.agent.must("GET", "/v1/models")["data"])
    by_tier = {str(card["tier"]): str(card["id"]) for card in cards if card["tier"] is not None}
    found = by_tier.get("120b") or by_tier.get("20b")
    if found is None:
        raise DrillRefused("no model has a tier, so there is nothing that the router decides about")
    return found
