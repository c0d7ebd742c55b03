"""What the router itself says about single prompts: the served code, with nothing around it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from router.policy import Policy, default_policy
from router.route import Trace, trace
from router.snapshot import Snapshot
from router.types import Role, RouteRequest, StateView, TaskType, Tier, Turn
from serve_app.routing.metrics import Vector


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers for N prompts, in order. `gain` is None unless every prompt has one; `strong` is where the rules lead."""

    difficulty: Vector
    gain: Vector | None
    strong: Vector
    tasks: tuple[TaskType, ...]
    abstained: int


def ask(prompt: str, policy: Policy, snapshot: Snapshot | None) -> Trace:
    """The trace of a conversation that is one user turn, in a session without history."""
    return trace(RouteRequest(turns=(Turn(Role.USER, prompt),)), StateView(), policy, snapshot)


def ask_all(prompts: Iterable[str], snapshot: Snapshot | None, policy: Policy | None = None) -> Asked:
    """Ask about each prompt; `policy` is the built-in one when None."""
    ruled = default_policy() if policy is None else policy
    return summary([ask(prompt, ruled, snapshot) for prompt in prompts])


def summary(traces: Sequence[Trace]) -> Asked:
    """The columns of traces."""
    gains = [each.score.gain for each in traces]
    known = [gain for gain in gains if gain is not None]
    return Asked(
        difficulty=np.asarray([each.score.difficulty for each in traces]),
        gain=np.asarray(known) if known and len(known) == len(gains) else None,
        strong=np.asarray([float(each.decision.tier is Tier.STRONG) for each in traces]),
        tasks=tuple(each.signals.task for each in traces),
        abstained=sum(each.score.abstained is not None for each in traces),
    )
