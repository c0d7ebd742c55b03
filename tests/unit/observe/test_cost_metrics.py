"""What answers cost, and our own part of their time, on `/metrics`."""

from decimal import Decimal

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.ports import Dialect, ModelId, Usage
from deployments.tenancy.prices import MICROS, ModelPriceSettings, PriceSettings, cost_micros
from serve_app.api.metrics import Counters

PRICED = ModelPriceSettings(input=Decimal("0.3"), cached_input=Decimal("0.1"), output=Decimal("1.2"))
TABLE = PriceSettings(currency="EUR", models={"demo-20b": PRICED}).to_table()


def sampled(counters: Counters) -> dict[tuple[str, ...], float]:
    text = generate_latest(counters.registry).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_answer_costs_what_the_ledger_books() -> None:
    counters = Counters(TABLE)
    used = (Usage(1000, 400, 200, 50), Usage(1, 0, 0), Usage(7, 0, 3, estimated=True))
    counters.finished(Dialect.CHAT, ModelId("demo-20b"), "completed", 1.0, 0.1, used[0])
    counters.finished(Dialect.CHAT, ModelId("demo-20b"), "aborted", 1.0, None, used[1])
    counters.abandoned(ModelId("demo-20b"), used[2])
    counters.finished(Dialect.CHAT, ModelId("demo-120b"), "completed", 1.0, 0.1, used[0])  # has no price
    found = {key: value for key, value in sampled(counters).items() if key[0].startswith("gen_ai_cost")}
    booked = sum(cost_micros(each, TABLE.price(ModelId("demo-20b"))) for each in used)
    assert booked == 460 + 1 + 6
    assert {key: value for key, value in found.items() if key[0] == "gen_ai_cost_total"} == {
        ("gen_ai_cost_total", "EUR", "demo-20b"): pytest.approx(booked / MICROS)
    }


def test_without_prices_nothing_is_said_of_cost() -> None:
    counters = Counters(PriceSettings().to_table())
    counters.finished(Dialect.CHAT, ModelId("demo-20b"), "completed", 1.0, 0.1, Usage(1000, 0, 200))
    assert not [key for key in sampled(counters) if "cost" in key[0]]


def test_our_own_part_of_an_answer_is_counted_by_dialect() -> None:
    counters = Counters()
    counters.took(Dialect.MESSAGES, 0.002)
    counters.took(Dialect.MESSAGES, 0.5)
    found = sampled(counters)
    assert found["gatehouse_overhead_seconds_count", "messages"] == 2
    assert found["gatehouse_overhead_seconds_bucket", "messages", "0.002"] == 1
    assert found["gatehouse_overhead_seconds_sum", "messages"] == 0.502
