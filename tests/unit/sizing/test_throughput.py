"""The roofline of a step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.sizing.constants import CASES, EFFICIENCIES, GPUS, LAB, MODELS, LabResult
from serve_app.sizing.throughput import StepModel, Work, against, prompt_work, step_model


def _step(model: str = "gpt-oss-20b", gpu: str = "h100", cards: int = 1, case: str = "mid") -> StepModel:
    return step_model(MODELS[model], GPUS[gpu], cards, {str(each): EFFICIENCIES[each] for each in CASES}[case])


@pytest.mark.parametrize("result", LAB, ids=lambda each: f"{each.model}-{each.gpu}-{each.prompt_tokens}")
def test_published_throughputs_lie_between_the_low_and_the_high_case(result: LabResult) -> None:
    low, mid, high = (against(result, _step(result.model, result.gpu, result.tensor_parallel, case)) for case in CASES)
    assert low < 1 < high
    assert 0.55 < mid < 1.35


def test_one_answer_alone_is_bound_by_what_is_read() -> None:
    step, model = _step(), MODELS["gpt-oss-20b"]
    # Four of 32 experts, everything dense, no context: all of it once over the memory's wire.
    moved = step.dense_bytes + step.expert_bytes / 8 + step.token_bytes
    expected = moved / (GPUS["h100"].bandwidth * 0.6) + 3e-3 + 10e-6
    assert step.seconds(Work(decodes=1)) == pytest.approx(expected)
    assert step.hops_s == 0
    assert model.experts_per_token / model.experts == 1 / 8


def test_a_full_step_of_prompts_is_bound_by_arithmetic() -> None:
    step = _step()
    work = Work(prefill=8192, prefill_context=8192 * 4096, prefills=1)
    flops = 8192 * step.token_flops + 8192 * 4096 * step.context_flops + step.answer_flops
    assert step.seconds(work) == pytest.approx(flops / (989e12 * 0.24) + 3e-3 + 10e-6)


def test_cards_pay_for_talking_to_each_other() -> None:
    alone, pair = _step(cards=1), _step(cards=2)
    assert pair.hops_s == pytest.approx(48 * 15e-6)  # two all-reduces in each of 24 layers
    assert pair.expert_bytes == alone.expert_bytes / 2
    assert pair.token_link_bytes == 48 * 2880 * 2


@given(st.integers(1, 131_072), st.integers(0, 131_072), st.integers(64, 8192))
def test_chunks_read_a_prompt_once(uncached: int, cached: int, chunk: int) -> None:
    works = prompt_work(uncached, cached, chunk)
    assert sum(each.prefill for each in works) == uncached
    assert len(works) == math.ceil(uncached / chunk)
    # Each token sees what is before it, on average the middle of the prompt.
    seen = sum(each.prefill_context for each in works)
    assert seen == pytest.approx(uncached * (cached + uncached / 2))


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 4096),
    st.integers(0, 256),
    st.integers(0, 131_072),
    st.integers(1, 512),
)
def test_more_work_never_takes_less_time(
    model: str, gpu: str, cards: int, prefill: int, decodes: int, context: int, more: int
) -> None:
    step = _step(model, gpu, cards)
    base = step.seconds(Work(prefill, prefill * context, 1, decodes, decodes * context))
    assert step.seconds(Work(prefill, prefill * context, 1, decodes + more, (decodes + more) * context)) >= base
    assert step.seconds(Work(prefill + more, (prefill + more) * context, 1, decodes, decodes * context)) >= base
    assert step.seconds(Work(prefill, prefill * (context + more), 1, decodes, decodes * (context + more))) >= base


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 256), st.integers(0, 131_072))
def test_the_cautious_case_is_never_the_faster_one(model: str, decodes: int, context: int) -> None:
    low, mid, high = (_step(model, case=case).seconds(Work(2048, 2048 * context, 1, decodes, decodes * context))
                      for case in CASES)  # fmt: skip
    assert low > mid > high
