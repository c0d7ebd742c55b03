"""What tokens cost: a price per served model, and integer arithmetic on it.

Amounts are millionths of the currency ("micros"), prices are micros per 10^6 tokens. A request is rounded up once, so
no request that used something priced is free, and a sum of requests is a sum of integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from deployments.ports import ModelId, Usage

MICROS = 10**6
"""Millionths in one of the currency, and tokens that a price is for."""
GPU_SECONDS = "gpu-seconds"
"""A currency of those who own their machines: prices are then GPU-seconds per 10^6 tokens."""
_DEAREST = 10**6

_Price = Annotated[Decimal, Field(strict=False, ge=0, le=_DEAREST, decimal_places=6)]
_Currency = Annotated[str, StringConstraints(pattern=rf"\A(?:[A-Z]{{3}}|{GPU_SECONDS})\z")]


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in micros per 10^6 tokens of each kind, 0 or more; `cached` is at most `fresh`.

    `fresh` is input that no cache had, `spoken` output that is not `reasoning`.
    """

    fresh: int
    cached: int
    spoken: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices of an installation. `models` maps served models, as engines are called, to what their tokens cost."""

    currency: str
    models: Mapping[ModelId, Price]

    def price(self, model: ModelId | None) -> Price | None:
        """The price of a served model; None for one that has none, and where no model was asked."""
        return None if model is None else self.models.get(model)

    def reserve_micros(self, tokens: int, prompt_tokens: int) -> int:
        """The most that `tokens` can cost when `prompt_tokens` of them are input and the others of any kind.

        Of the dearest model: a policy may send a request to another one than it names.
        """
        prompt = min(max(0, prompt_tokens), max(0, tokens))
        answer = max(0, tokens) - prompt
        each = [
            prompt * price.fresh + answer * max(price.fresh, price.spoken, price.reasoning)
            for price in self.models.values()
        ]
        return _rounded_up(max(each, default=0))


def cost_micros(usage: Usage, price: Price | None) -> int:
    """What one request cost, in micros, rounded up; 0 without a price.

    Cached tokens are part of the input and reasoning is part of the output: of more than the whole only the whole
    counts, and less than nothing is nothing. More tokens of any of the four kinds never cost less.
    """
    if price is None:
        return 0
    input_tokens, output_tokens = max(0, usage.input_tokens), max(0, usage.output_tokens)
    cached = min(max(0, usage.cached_tokens), input_tokens)
    reasoning = min(max(0, usage.reasoning_tokens), output_tokens)
    return _rounded_up(
        (input_tokens - cached) * price.fresh
        + cached * price.cached
        + (output_tokens - reasoning) * price.spoken
        + reasoning * price.reasoning
    )


def _rounded_up(micros_for_a_million: int) -> int:
    return -(-micros_for_a_million // MICROS)


class ModelPriceSettings(BaseModel):
    """What 10^6 tokens of a served model cost: numbers or decimal strings with six decimal places at most."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input: _Price = Field(description="Input that no cache had.")
    cached_input: _Price | None = Field(default=None, description="Input that a cache had; null: as `input`.")
    output: _Price
    reasoning: _Price | None = Field(default=None, description="Output that is reasoning; null: as `output`.")

    @model_validator(mode="after")
    def _caching_saves(self) -> Self:
        if self.cached_input is not None and self.cached_input > self.input:
            raise ValueError("cached_input must not be more than input: a reservation counts all input as not cached")
        return self

    def to_price(self) -> Price:
        """The same in integers."""
        fresh, spoken = _micros(self.input), _micros(self.output)
        return Price(
            fresh=fresh,
            cached=fresh if self.cached_input is None else _micros(self.cached_input),
            spoken=spoken,
            reasoning=spoken if self.reasoning is None else _micros(self.reasoning),
        )


class PriceSettings(BaseModel):
    """What is charged, or what it costs to run. A model without a price costs nothing, and `/v1/usage` names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    currency: _Currency = Field(
        default="USD",
        description="Three capital letters (ISO 4217), or `gpu-seconds`: prices are then GPU-seconds per 10^6 tokens.",
    )
    models: dict[str, ModelPriceSettings] = Field(
        default_factory=dict, description="Per served model, as the engine is called (never `auto`)."
    )

    @model_validator(mode="after")
    def _of_served_models(self) -> Self:
        if "auto" in self.models:
            raise ValueError("a price is that of a served model: 'auto' means the router's choice and has none")
        return self

    def to_table(self) -> PriceTable:
        """The same, as the ledger counts."""
        return PriceTable(self.currency, {ModelId(name): each.to_price() for name, each in self.models.items()})


def _micros(price: Decimal) -> int:
    return int(price * MICROS)  # exact: the settings have six decimal places at most
