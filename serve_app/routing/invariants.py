"""What must hold for every prompt and state, whatever the labels say."""

import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router.conditions import holds
from router.policy import Effect, Policy
from router.route import Trace, fallback, trace
from router.snapshot import Snapshot
from router.types import (
    BudgetView,
    Effort,
    Load,
    Mode,
    Risk,
    Role,
    RouteRequest,
    StateView,
    Surroundings,
    TaskType,
    Tier,
    Turn,
)

_SUM_TOLERANCE: Final = 1e-4
_EDGE: Final = 1e-6
_PROCESS_SECONDS: Final = 600
_SCORE: Final = (sys.executable, "-m", "serve_app", "route", "score")


@dataclass(frozen=True, slots=True)
class SumCheck:
    """Explanations of `explained` prompts: `worst` is the largest gap between the terms and the logit of the score."""

    explained: int
    worst: float

    @property
    def passed(self) -> bool:
        """Nothing is left over, within 1e-4."""
        return self.worst <= _SUM_TOLERANCE


def explain_sums(traces: Sequence[Trace]) -> SumCheck:
    """Compare the contributions of each trace with its difficulty."""
    worst = 0.0
    for each in traces:
        shown = min(max(each.score.difficulty, _EDGE), 1.0 - _EDGE)
        terms = math.fsum(value for _, value in each.score.contributions)
        # The difficulty is printed with six digits, which near 0 and 1 is a wide step of logit: compare both ways.
        by_logit = abs(math.log(shown / (1.0 - shown)) - terms)
        by_share = abs(1.0 / (1.0 + math.exp(-terms)) - each.score.difficulty)
        worst = max(worst, min(by_logit, by_share))
    return SumCheck(len(traces), worst)


@dataclass(frozen=True, slots=True)
class SameBytes:
    """Output of `gatehouse route score` over processes with different string hashing."""

    prompts: int
    processes: int
    passed: bool


def same_bytes(
    prompts: Sequence[str],
    environment: Mapping[str, str],
    seeds: Sequence[int] = (0, 1, 4711),
    command: Sequence[str] = _SCORE,
) -> SameBytes:
    """Score the prompts in a process per seed of PYTHONHASHSEED: one row per prompt, and the same bytes each time.

    `command` gets the file with the prompts, JSON lines, as its last argument.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        rows = (json.dumps({"id": str(number), "prompt": prompt}) for number, prompt in enumerate(prompts))
        file.write_text("\n".join(rows) + "\n", "utf-8")
        printed: set[bytes] = set()
        fine = True
        for seed in seeds:
            ended = subprocess.run(  # noqa: S603 - our own interpreter and module, unless a test says otherwise
                [*command, str(file)],
                env={**environment, "PYTHONHASHSEED": str(seed)},
                capture_output=True,
                timeout=_PROCESS_SECONDS,
                check=False,
            )
            fine = fine and ended.returncode == 0 and ended.stdout.count(b"\n") == len(prompts)
            printed.add(ended.stdout)
    return SameBytes(len(prompts), len(seeds), fine and len(printed) == 1)


@dataclass(frozen=True, slots=True)
class Floors:
    """Random states with a trusted risk of R2 or more; `downgrades` describes those that went too low, at most ten."""

    states: int
    faults: int
    refused: int
    downgrades: tuple[str, ...]


def risk_floors(policy: Policy, snapshot: Snapshot | None, states: int = 10_000, seed: int = 0) -> Floors:
    """No turn of risk R2 and above that needs reasoning may get less than 120b/high, and none after a fault 20b.

    A decision that says that the turn must wait or be refused is not a downgrade: nothing is generated then.
    """
    draw = random.Random(seed)
    found: list[str] = []
    faults = refused = 0
    for number in range(states):
        request, state, around = _state(draw)
        if number % 10 == 0:
            faults += 1
            decision, floor = fallback(request, state if draw.random() < 0.5 else None), Tier.STRONG
            low = decision.tier is not floor
        else:
            traced = trace(request, state, policy, snapshot, around)
            decision = traced.decision
            low = traced.signals.needs_reasoning and (decision.tier, decision.effort) != (Tier.STRONG, Effort.HIGH)
            if decision.hold is not None:
                refused += 1
                low = False
        if low and len(found) < 10:
            found.append(f"state {number}: {decision.tier.value}/{decision.effort.value}, {decision.reason}")
    return Floors(states, faults, refused, tuple(found))


_TEXTS: Final = (
    "Restart the database on prod.",
    "Why did the checkout fail at 14:30? Find the root cause.",
    "hi",
    "Delete the old backups and explain step by step what you did.",
    "Review this: looks fine?",
    "What is 17 + 4?",
    "Prove that there are infinitely many primes.",
    "Translate to French: good morning",
    "",
)


def _state(draw: random.Random) -> tuple[RouteRequest, StateView, Surroundings]:
    """A random request of risk R2 or more, session and surroundings; wishes and latches point down as often as up."""
    tiers: tuple[Tier | None, ...] = (None, Tier.BASE, Tier.STRONG)
    efforts: tuple[Effort | None, ...] = (None, Effort.LOW, Effort.MEDIUM, Effort.HIGH)
    turns = [Turn(Role.USER, draw.choice(_TEXTS))]
    if draw.random() < 0.5:
        call = ("shell", '{"cmd": "kubectl delete pod api-1"}')
        turns += [Turn(Role.ASSISTANT, "", (call,)), Turn(Role.TOOL, draw.choice(("ok", "error: timeout", "")))]
        if draw.random() < 0.5:
            turns.append(Turn(Role.USER, draw.choice(_TEXTS)))
    request = RouteRequest(
        turns=tuple(turns),
        offered_tools=draw.choice(((), ("shell",), ("search", "read_file"))),
        requested_tier=draw.choice(tiers),
        requested_effort=draw.choice(efforts),
        trusted_risk=draw.choice((Risk.R2, Risk.R3, Risk.FORBIDDEN)),
        untrusted_content=draw.random() < 0.5,
    )
    state = StateView(
        failures_on_base=draw.choice((0.0, 0.4, 1.0, 3.0)),
        failures_on_strong=draw.choice((0.0, 0.0, 1.0)),
        latched_tier=draw.choice(tiers),
        last_tier=draw.choice(tiers),
        last_effort=draw.choice(efforts),
        size_steps=draw.randrange(3),
        effort_steps=draw.randrange(3),
        known=draw.random() < 0.8,
    )
    budget = BudgetView(draw.random(), draw.uniform(-8, 8), draw.random() < 0.5) if draw.random() < 0.7 else None
    around = Surroundings(
        mode=draw.choice(tuple(Mode)),
        budget=budget,
        load=Load(
            strong_up=draw.random() < 0.7,
            strong_pressure=draw.choice((0.0, 0.9, 5.0)),
            base_window=draw.choice((None, 8192)),
            strong_window=draw.choice((None, 16, 131_072)),
        ),
        exploration=draw.choice((0.0, 0.02, 1.0)),
        draw=draw.random(),
    )
    return request, state, around


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """Policy v1 over all combinations of its inputs; `wrong` describes those with another floor, at most ten."""

    combinations: int
    wrong: tuple[str, ...]


def policy_table(policy: Policy) -> PolicyTable:
    """Compare the floors of the policy's rules with policy v1 as it is written down, stated here once more in code."""
    found: list[str] = []
    combinations = 0
    flags = ("multi_step", "failed_on_base", "review_large", "review_high_risk", "needs_reasoning", "untrusted_content")
    for task in TaskType:
        for risk in range(4):
            for values in itertools.product((False, True), repeat=len(flags)):
                said: dict[str, bool] = dict(zip(flags, values, strict=True))
                names = {"always", f"task_{task.value}", *(name for name, true in said.items() if true)}
                names |= {f"risk_r{level}_or_more" for level in range(1, risk + 1)}
                fired = [rule for rule in policy.rules if rule.effect is Effect.FLOOR and holds(rule.when, names)]
                floor = (
                    max((rule.tier.rank for rule in fired if rule.tier), default=0),
                    max((rule.effort.rank for rule in fired if rule.effort), default=0),
                )
                combinations += 1
                if floor != _floor_v1(task, risk, said) and len(found) < 10:
                    found.append(f"{', '.join(sorted(names))}: floor {floor}")
    return PolicyTable(combinations, tuple(found))


def _floor_v1(task: TaskType, risk: int, said: Mapping[str, bool]) -> tuple[int, int]:
    """Ranks of tier and effort that rules a to d demand; 0 and 0 where none fires."""
    if risk >= 2 and said["needs_reasoning"]:
        return 1, 2
    incident = task is TaskType.INCIDENT_DIAGNOSIS and said["multi_step"] and said["failed_on_base"]
    review = task is TaskType.CODE_REVIEW and (said["review_large"] or said["review_high_risk"])
    return (1, 1) if incident or review or (risk >= 2 and said["untrusted_content"]) else (0, 0)
