import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.errors import EngineFailed, EngineOverloaded
from deployments.rollout.cases import Case, Reply
from deployments.rollout.evaluating import Evaluation, Evaluator
from deployments.rollout.settings import EvalSettings
from deployments.rollout.suite import Suite

CASES = tuple(
    Case.model_validate({
        "name": f"case-{number}", "family": ("code", "json")[number % 2], "prompt": str(number),
        "checks": {"expects": "yes"}, "example": "yes",
    })
    for number in range(10)
)  # fmt: skip
SUITE = Suite(CASES, "7" * 64)


@dataclass
class Engine:
    """Answers yes, but to some cases as it is told: an answer, or errors one after the other and then yes."""

    says: Mapping[str, str | list[Any]] = field(default_factory=dict[str, str | list[Any]])
    asked: list[str] = field(default_factory=list[str])
    now: int = 0
    most: int = 0

    async def __call__(self, case: Case) -> Reply:
        self.asked.append(case.name)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        said = self.says.get(case.name, "yes")
        if isinstance(said, list):
            if said:
                raise said.pop(0)
            return Reply("yes")
        return Reply(said)


def evaluator(parallel: int = 2, **settings: object) -> Evaluator:
    return Evaluator(SUITE, EvalSettings.model_validate({"parallel": parallel, **settings}))


async def ask(of: Evaluator, candidate: Engine, baseline: Engine, count: int = 10) -> Evaluation | None:
    return await of.round("ro-1", count, candidate, baseline)


async def test_every_case_is_asked_of_both_and_a_few_at_a_time() -> None:
    candidate, baseline = Engine({"case-3": "no", "case-4": "no"}), Engine({"case-4": "no"})
    found = await ask(evaluator(3, min_pass=0.5), candidate, baseline)
    assert found is not None
    assert sorted(candidate.asked) == sorted(baseline.asked) == sorted(each.name for each in CASES)
    assert candidate.most + baseline.most <= 4  # three workers
    comparison = found.comparison
    assert (comparison.all.candidate, comparison.all.baseline, comparison.only_baseline) == (8, 9, 1)
    assert comparison.behind == ["json"]
    assert (found.suite_digest, found.min_pass) == ("7" * 64, 0.5)


async def test_a_part_is_drawn_by_the_rollout() -> None:
    some = evaluator()
    first, second = Engine(), Engine()
    await some.round("ro-1", 4, first, Engine())
    await some.round("ro-2", 4, second, Engine())
    assert len(first.asked) == len(second.asked) == 4
    assert {*first.asked} == {each.name for each in SUITE.draw("ro-1", 4)} != {*second.asked}


@pytest.mark.parametrize(
    ("cases", "asked", "size"), [(4, None, 4), ("all", None, 10), (40, None, 10), (4, 7, 7), (4, 10_000, 10)]
)
def test_how_many_are_asked(cases: object, asked: int | None, size: int) -> None:
    assert evaluator(cases=cases).size(asked) == size


async def test_a_busy_engine_ends_the_round_and_what_is_known_stays_known() -> None:
    some, baseline = evaluator(1), Engine()
    candidate = Engine({"case-2": [EngineOverloaded("full") for _ in range(5)]})
    for _ in range(5):
        assert await ask(some, candidate, baseline) is None
    found = await ask(some, candidate, baseline)
    assert found is not None
    assert found.comparison.all.candidate == 10  # being busy is no fault, however often
    assert sorted({*candidate.asked}) == sorted(each.name for each in CASES)
    assert candidate.asked.count("case-0") == baseline.asked.count("case-0") == 1


@pytest.mark.parametrize("side", ["candidate", "baseline"])
async def test_three_times_no_answer_is_a_failed_case_whosever_it_is(side: str) -> None:
    some = evaluator()
    mute, twice = Engine({"case-2": [EngineFailed("dead")] * 3}), Engine({"case-2": [EngineFailed("dead")] * 2})
    pair = (mute, twice) if side == "candidate" else (twice, mute)
    for _ in range(2):
        assert await ask(some, *pair) is None
    found = await ask(some, *pair)
    assert found is not None
    assert (found.comparison.all.candidate, found.comparison.all.baseline) == (
        (9, 10) if side == "candidate" else (10, 9)
    )


async def test_an_answer_that_takes_too_long_is_none() -> None:
    async def never(case: Case) -> Reply:
        del case
        await asyncio.Event().wait()
        raise AssertionError

    some = evaluator(10, timeout_s=0.1)
    for _ in range(2):
        assert await some.round("ro-1", 10, never, Engine()) is None
    found = await some.round("ro-1", 10, never, Engine())
    assert found is not None
    assert (found.comparison.all.candidate, found.comparison.only_baseline) == (0, 10)


async def test_a_new_process_asks_again_and_comes_to_the_same() -> None:
    candidate, baseline = Engine({"case-1": "no"}), Engine()
    first = await ask(evaluator(), candidate, baseline)
    assert first == await ask(evaluator(), candidate, baseline)
    assert len(candidate.asked) == 20


async def test_old_rollouts_are_forgotten() -> None:
    some = evaluator()
    for number in range(100):
        await some.round(f"ro-{number}", 2, Engine(), Engine())
    assert len(some._known) <= 32
