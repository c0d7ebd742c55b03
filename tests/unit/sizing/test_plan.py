"""Replicas for a demand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.sizing.constants import CASES, EFFICIENCIES, GPUS, MODELS
from serve_app.sizing.memory import fit
from serve_app.sizing.plan import Cost, Demand, Option, cost, option, options, predict, shape_of
from serve_app.sizing.throughput import step_model

_DEMAND = Demand(sessions=50, context=32_768)


def _best(model: str, gpu: str, demand: Demand = _DEMAND) -> Option:
    return options(MODELS[model], GPUS[gpu], demand)[0]


def test_the_pace_is_that_of_the_targets() -> None:
    demand = Demand(sessions=30, context=4096, output=100, think_s=3, ttft_s=2, itl_s=0.1)
    assert demand.answer_s == 12
    assert demand.rate == 2  # one turn each in 15 s
    assert demand.open_requests == 30  # 24 and two deviations are more than there are agents
    assert replace(demand, sessions=300).open_requests == math.ceil(240 + 2 * math.sqrt(240))


@pytest.mark.parametrize(
    "wrong",
    [{"sessions": 0}, {"output": 0}, {"context": 500}, {"hit": 1.1}, {"think_s": -1}, {"ttft_s": 0}, {"itl_s": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_demands_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|in \[0, 1\]"):
        replace(_DEMAND, **wrong)


def test_the_larger_model_wants_two_h100() -> None:
    best = _best("gpt-oss-120b", "h100")
    assert best.shape.tensor_parallel == 2
    assert not best.tight
    single = option(shape_of(MODELS["gpt-oss-120b"], GPUS["h100"], 1), _DEMAND)
    assert single is not None
    assert single.tight


def test_a_context_that_does_not_fit_twice_has_no_option() -> None:
    assert option(shape_of(MODELS["gpt-oss-120b"], GPUS["l4"], 1), _DEMAND) is None
    assert options(MODELS["gpt-oss-20b"], GPUS["l4"], replace(_DEMAND, context=200_000)) == []


def test_a_target_that_no_number_of_replicas_meets_has_its_reason() -> None:
    found = option(shape_of(MODELS["gpt-oss-20b"], GPUS["l4"], 1), replace(_DEMAND, itl_s=0.001))
    assert found is not None
    assert not found.replicas
    assert found.range() is None
    assert all("a token takes" in found.why_not[case] for case in CASES)


def test_a_demand_is_not_too_large_because_it_is_large() -> None:
    small = _best("gpt-oss-120b", "h100", replace(_DEMAND, sessions=20_000))
    large = _best("gpt-oss-120b", "h100", replace(_DEMAND, sessions=1_000_000))
    assert set(large.replicas) == set(small.replicas) == set(CASES)
    assert all(large.replicas[case] > 4096 for case in CASES)
    single = option(shape_of(MODELS["gpt-oss-20b"], GPUS["l4"], 1), replace(_DEMAND, sessions=20_000))
    fewer = option(shape_of(MODELS["gpt-oss-20b"], GPUS["l4"], 1), replace(_DEMAND, sessions=5000))
    assert single is not None
    assert fewer is not None
    assert set(single.replicas) == set(fewer.replicas)


def test_the_smallest_number_is_found() -> None:
    """Against the plain search: the number meets the demand, and one less does not."""
    shape = shape_of(MODELS["gpt-oss-20b"], GPUS["h100"], 1)
    demand = replace(_DEMAND, sessions=400)
    held = fit(shape.model, shape.gpu, 1, demand.context, shape.step_tokens)
    found = option(shape, demand)
    assert found is not None
    for case in CASES:
        step = step_model(shape.model, shape.gpu, 1, EFFICIENCIES[case])
        plain = next(count for count in range(1, 401) if predict(shape, held, step, demand, count).meets(demand))
        assert found.replicas[case] == plain > 1


def test_no_cache_for_the_sessions_is_no_hit() -> None:
    shape = shape_of(MODELS["gpt-oss-20b"], GPUS["l40s"], 1)
    held = fit(shape.model, shape.gpu, 1, 32_768, shape.step_tokens)
    step = step_model(shape.model, shape.gpu, 1, EFFICIENCIES["mid"])
    seen = predict(shape, held, step, replace(_DEMAND, sessions=2 * held.sequences), 1)
    assert seen.hit == pytest.approx(0.4)


_SHAPES = st.tuples(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(CASES),
)
_DEMANDS = st.builds(
    Demand,
    sessions=st.integers(1, 2000),
    context=st.integers(1024, 131_072),
    output=st.integers(1, 1000),
    hit=st.floats(0, 1),
    think_s=st.floats(0, 100),
    ttft_s=st.floats(0.1, 20),
    itl_s=st.floats(0.005, 0.5),
)


@settings(deadline=None, max_examples=40)
@given(_SHAPES, _DEMANDS, st.integers(1, 64))
def test_more_replicas_are_never_worse(shape: tuple[str, str, int, str], demand: Demand, replicas: int) -> None:
    name, gpu, cards, case = shape
    sized = shape_of(MODELS[name], GPUS[gpu], cards)
    held = fit(sized.model, sized.gpu, cards, demand.context, sized.step_tokens)
    step = step_model(sized.model, sized.gpu, cards, {str(each): EFFICIENCIES[each] for each in CASES}[case])
    fewer = predict(sized, held, step, demand, replicas)
    more = predict(sized, held, step, demand, replicas + 1)
    assert more.hit >= fewer.hit
    assert more.ttft_s <= fewer.ttft_s * (1 + 1e-9)
    assert more.itl_s <= fewer.itl_s * (1 + 1e-4)  # the fixed point is found to a microsecond
    assert more.feasible >= fewer.feasible


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(MODELS)), st.sampled_from(sorted(GPUS)), _DEMANDS)
def test_the_cautious_case_never_needs_fewer(name: str, gpu: str, demand: Demand) -> None:
    for found in options(MODELS[name], GPUS[gpu], demand):
        counts = [found.replicas.get(case, math.inf) for case in CASES]
        assert counts == sorted(counts, reverse=True)


def test_money_is_cards_by_hours() -> None:
    assert cost((2, 4), 2.5) == Cost(hour=(5.0, 10.0), month=(3650.0, 7300.0))
