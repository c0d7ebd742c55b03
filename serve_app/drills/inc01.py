"""INC-01, latency spike: an engine that stands still for a while, again and again, as one that is overloaded does.

Its processes are stopped (SIGSTOP) and go on after some seconds. Streams that were sent meanwhile begin late; none may
be lost. Health checks are waited for longer than a pause lasts, so the replica stays.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx2

from serve_app.drills.acting import DrillRefused, DrillReport
from serve_app.drills.asking import Crowd, Stream
from serve_app.drills.conduct import Plan, Stage, Wishes, conduct
from serve_app.drills.engines import engine_of
from serve_app.drills.pausing import NotPaused, paused

PLAN = Plan(
    "INC-01",
    "GatehouseFirstTokenSlow",
    "INC-01: latency spike",
    ("gatehouse status", "gatehouse tenants list", "lower the share of whoever floods, or add replicas"),
)
PAUSE_S = 14.0
"""Longer than the alert's ten seconds, shorter than Serve waits for a health check (30 s)."""
_STREAMS = 12
"""At a time: the alert does not look at models that are asked less than once in 50 seconds."""
_TOKENS = 4


def run(http: httpx2.Client, operator_key: str, tell: Callable[[str], object], wishes: Wishes) -> DrillReport:
    """Carry the drill out; see `conduct`."""
    return conduct(PLAN, http, operator_key, tell, wishes, _slow)


def _slow(stage: Stage) -> None:
    engine = engine_of(stage.operator, stage.wishes.model)
    usual = [each.first_s for each in Crowd(stage.agent, engine.model, _TOKENS, 1).start().results()]
    if usual[0] is None:
        raise DrillRefused(f"{engine.model} does not answer, so it cannot become slower")
    seen: list[Stream] = []
    ends = time.perf_counter() + stage.wishes.wait_s
    fires = False
    while not fires and time.perf_counter() < ends:
        streams, fires = _pause(stage, engine.model, engine.computing)
        seen += streams
    firsts = sorted(each.first_s for each in seen if each.first_s is not None)
    lost = [each for each in seen if each.ending != "completed"]
    median_s = statistics.median(firsts) if firsts else 0.0
    figures: dict[str, Any] = {
        "model": engine.model,
        "streams": len(seen),
        "first_token_before_s": round(usual[0], 3),
        "first_token_median_s": round(median_s, 3),
    }
    stage.facts["failure"] = figures
    stage.findings.add(
        "the first token comes late", median_s > usual[0] * 2, f"{usual[0]:.2f} s before, then {median_s:.1f} s"
    )
    stage.findings.add("no stream is lost", not lost, f"{len(seen) - len(lost)} of {len(seen)} completed")
    (after,) = Crowd(stage.agent, engine.model, _TOKENS, 1).start().results()
    figures["first_token_after_s"] = after.first_s
    told = "no answer" if after.first_s is None else f"first token after {after.first_s:.2f} s"
    stage.findings.add("the model answers again", after.ending == "completed", told)


def _pause(stage: Stage, model: str, pids: tuple[int, ...]) -> tuple[list[Stream], bool]:
    """Streams that wait for processes that stand still; and whether those before them made the alert fire."""
    try:
        with paused(pids, PAUSE_S):
            ends = time.perf_counter() + PAUSE_S
            crowd = Crowd(stage.agent, model, _TOKENS, _STREAMS).start()
            fires = stage.fires()
            time.sleep(max(0.0, ends - time.perf_counter()))
    except NotPaused as error:
        raise DrillRefused(f"{error}: {model}") from None
    return [*crowd.results()], fires
