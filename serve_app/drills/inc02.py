"""INC-02, runtime crash: the replica of an engine is killed in the middle of its streams, as for lack of memory.

Every stream must end with an error event, and the replica must come back by itself.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx2

from serve_app.drills.acting import DrillRefused, DrillReport, until
from serve_app.drills.asking import Crowd, Stream
from serve_app.drills.conduct import Plan, Stage, Wishes, conduct
from serve_app.drills.engines import EngineProcess, engine_of, kill, replaced

PLAN = Plan(
    "INC-02",
    "GatehouseStreamsBreak",
    "INC-02: out of memory, or the runtime crashes",
    ("gatehouse status", "the replica's log", "back to the configuration before"),
)
_STREAMS = 6
_TOKENS = 4000
_BEGIN_S = 120.0
_BACK_S = 600.0
_LOOK_S = 2.0
_SETTLE_S = 240.0


def run(http: httpx2.Client, operator_key: str, tell: Callable[[str], object], wishes: Wishes) -> DrillReport:
    """Carry the drill out; see `conduct`."""
    return conduct(PLAN, http, operator_key, tell, wishes, _crash)


def _crash(stage: Stage) -> None:
    engine = engine_of(stage.operator, stage.wishes.model)
    ends = time.perf_counter() + stage.wishes.wait_s
    seen: list[Stream] = []
    back_s: list[float] = []
    fires, lost = False, False
    while not fires and not lost and time.perf_counter() < ends:
        seen += _killed(stage, engine)
        began = time.perf_counter()
        after = _back(stage, engine)
        if after is None:
            lost = True
        else:
            back_s.append(time.perf_counter() - began)
            engine = after
        fires = stage.fires() or until(stage.fires, _settling(stage.wishes), _LOOK_S)
    figures: dict[str, Any] = {
        "model": engine.model,
        "crashes": len(back_s) + lost,
        "streams": len(seen),
        "with_error_event": sum(each.ending == "error" for each in seen),
        "truncated": sum(each.ending == "truncated" for each in seen),
        "back_after_s": [round(each, 1) for each in back_s],
    }
    stage.facts["failure"] = figures
    told = f"{figures['with_error_event']} of {len(seen)} streams, {figures['truncated']} cut off without a word"
    stage.findings.add("every stream ends with an error event", figures["with_error_event"] == len(seen) > 0, told)
    seconds = ", ".join(f"{each:.0f}" for each in back_s)
    stage.findings.add("the replica comes back by itself", not lost, f"after {seconds} s" if seconds else "it did not")
    if not lost:
        (last,) = Crowd(stage.agent, engine.model, 4, 1).start().results()
        stage.findings.add("the model answers again", last.ending == "completed", last.code or last.ending)


def _killed(stage: Stage, engine: EngineProcess) -> list[Stream]:
    """Streams in the middle of which the replica dies."""
    crowd = Crowd(stage.agent, engine.model, _TOKENS, _STREAMS).start()
    if not until(lambda: crowd.answered == _STREAMS, _BEGIN_S):
        raise DrillRefused(f"{engine.model} does not begin its answers, so nothing can be seen to break")
    kill(engine)
    return [*crowd.results()]


def _back(stage: Stage, before: EngineProcess) -> EngineProcess | None:
    """The replica that came in its place. The alert may come and go meanwhile, so it is looked for, too."""
    found: list[EngineProcess] = []

    def there() -> bool:
        stage.fires()
        after = replaced(stage.operator, before)
        if after is not None:
            found.append(after)
        return after is not None

    return found[0] if until(there, _BACK_S, _LOOK_S) else None


def _settling(wishes: Wishes) -> float:
    """How long to wait for the alert before the next crash, in seconds: it wants to see it last for two minutes."""
    return _SETTLE_S if wishes.prometheus is not None else _SETTLE_S / wishes.lapse_s + _LOOK_S * 5
