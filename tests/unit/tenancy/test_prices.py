import json
import pickle
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.ports import ModelId, Usage
from deployments.tenancy.prices import MICROS, Price, PriceSettings, PriceTable, cost_micros

MODEL = ModelId("gpt-oss-20b")
KINDS = ("fresh", "cached", "spoken", "reasoning")
amounts = st.integers(0, 10**12)
counts = st.integers(-5, 10**9)
usages = st.builds(
    Usage, input_tokens=counts, cached_tokens=counts, output_tokens=counts, reasoning_tokens=counts
)  # fmt: skip


@st.composite
def prices(draw: st.DrawFn) -> Price:
    fresh = draw(amounts)
    return Price(fresh, draw(st.integers(0, fresh)), draw(amounts), draw(amounts))


def table(**model: object) -> PriceTable:
    return PriceSettings.model_validate({"models": {MODEL: model}}).to_table()


@pytest.mark.parametrize(
    ("given", "micros"),
    [(0.05, 50_000), ("0.05", 50_000), (3, 3_000_000), ("0.000001", 1), ("1e3", 1_000_000_000), (0, 0), (0.1, 100_000)],
    ids=str,
)
def test_a_price_is_exact(given: object, micros: int) -> None:
    price = table(input=given, output=given).price(MODEL)
    assert price == Price(micros, micros, micros, micros)


def test_what_is_not_said_costs_as_what_it_is_part_of() -> None:
    assert table(input="2", output="8").price(MODEL) == Price(2 * MICROS, 2 * MICROS, 8 * MICROS, 8 * MICROS)
    given = table(input="2", cached_input="0.5", output="8", reasoning="4").price(MODEL)
    assert given == Price(2 * MICROS, MICROS // 2, 8 * MICROS, 4 * MICROS)


@pytest.mark.parametrize("given", ["0.0000001", 1e-7, -1, "-0.01", "nan", float("inf"), 10**6 + 1, True, None, "five"])
def test_what_is_no_price_is_refused_by_its_name(given: object) -> None:
    with pytest.raises(ValidationError) as caught:
        table(input=given, output=1)
    assert caught.value.errors()[0]["loc"] == ("models", MODEL, "input")


@pytest.mark.parametrize(
    "settings",
    [
        {"models": {MODEL: {"input": 1, "output": 1, "image": 1}}},
        {"models": {MODEL: {"input": 1}}},
        {"models": {MODEL: {"input": 1, "cached_input": 2, "output": 1}}},
        {"models": {"auto": {"input": 1, "output": 1}}},
        {"currency": "usd"},
        {"currency": "USD\n"},
        {"currency": "tokens"},
    ],
    ids=["kind", "missing", "cache_costs_more", "auto", "lower_case", "newline", "unit"],
)
def test_a_table_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PriceSettings.model_validate(settings)


def test_money_may_be_time_of_a_gpu() -> None:
    settings = PriceSettings.model_validate(
        {"currency": "gpu-seconds", "models": {MODEL: {"input": 20, "output": 500}}}
    )
    assert settings.to_table().currency == "gpu-seconds"


def test_settings_survive_json_and_a_table_survives_pickle() -> None:
    settings = PriceSettings.model_validate({"currency": "EUR", "models": {MODEL: {"input": 0.05, "output": "1e2"}}})
    assert PriceSettings.model_validate(json.loads(settings.model_dump_json())).to_table() == settings.to_table()
    assert pickle.loads(pickle.dumps(settings.to_table())) == settings.to_table()


def test_a_request_is_rounded_up_once() -> None:
    price = Price(1, 1, 1, 1)
    assert cost_micros(Usage(input_tokens=1), price) == 1
    assert cost_micros(Usage(input_tokens=500_000, output_tokens=500_000), price) == 1
    assert cost_micros(Usage(input_tokens=500_000, output_tokens=500_001), price) == 2
    assert cost_micros(Usage(), price) == 0
    assert cost_micros(Usage(input_tokens=10**9), None) == 0


@given(usage=usages, price=prices())
def test_a_cost_is_the_smallest_integer_that_covers_it(usage: Usage, price: Price) -> None:
    input_tokens, output_tokens = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    cached = sorted((0, usage.cached_tokens, input_tokens))[1]
    reasoning = sorted((0, usage.reasoning_tokens, output_tokens))[1]
    exact = sum(
        Fraction(Decimal(amount)) * tokens
        for amount, tokens in (
            (price.fresh, input_tokens - cached),
            (price.cached, cached),
            (price.spoken, output_tokens - reasoning),
            (price.reasoning, reasoning),
        )
    )
    assert cost_micros(usage, price) == ceil(exact / MICROS) >= 0


@given(
    price=prices(), tokens=st.tuples(*[st.integers(0, 10**9)] * 4), kind=st.integers(0, 3), more=st.integers(0, 10**6)
)
def test_more_tokens_of_any_kind_never_cost_less(price: Price, tokens: tuple[int, ...], kind: int, more: int) -> None:
    def cost(fresh: int, cached: int, spoken: int, reasoning: int) -> int:
        return cost_micros(Usage(fresh + cached, cached, spoken + reasoning, reasoning), price)

    grown = [count + more if at == kind else count for at, count in enumerate(tokens)]
    assert cost(*grown) >= cost(*tokens)


@given(usage=usages, one=prices(), two=prices(), prompt=counts)
def test_no_request_costs_more_than_the_most_that_was_said(usage: Usage, one: Price, two: Price, prompt: int) -> None:
    prices = PriceTable("USD", {ModelId("one"): one, ModelId("two"): two})
    input_tokens, output_tokens = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    reserved = input_tokens + output_tokens
    for price in prices.models.values():
        cost = cost_micros(usage, price)
        for prompt_tokens in (0, min(input_tokens, prompt)):
            assert cost <= prices.reserve_micros(reserved, prompt_tokens)


def test_without_prices_nothing_is_set_aside() -> None:
    assert PriceSettings().to_table().reserve_micros(10**9, 0) == 0
    assert PriceSettings().to_table().price(None) is None
