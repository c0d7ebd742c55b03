"""Totals and rows of what was settled, and what routing has saved.

One statement gathers a report, so that all of it is of one moment; what it finds is summed here, in integers.

The estimate of what routing saved is a comparison with a house without a router, which sends every request that names
no model to the strong tier. Of a request that the base tier answered it knows the tokens, and assumes that the strong
model would have needed as many: a larger model may think longer or shorter, and nobody knows without asking it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Executable, Row, and_, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.errors import InvalidRequest
from deployments.ports import ModelId, Tier, Usage
from deployments.tenancy.prices import Price, PriceTable, cost_micros
from deployments.tenancy.tables import usage as _usage
from deployments.tenancy.tables import used_micros, used_tokens
from deployments.usage import (
    Bucket,
    Dimension,
    Place,
    Saving,
    UsageLine,
    UsagePage,
    UsageQuery,
    UsageReport,
    UsageRow,
    UsageSum,
)

ABANDONED: Final = "abandoned"
"""Outcome of an attempt that no client got."""
EXPLICIT: Final = "explicit_model"
"""Reason of a route that the client chose itself."""
MOST_LINES: Final = 5_000
_MOST_CELLS: Final = 50_000
_MOST_ROWS: Final = 1_000

_COLUMN: Final = {
    Dimension.TENANT: _usage.c.tenant,
    Dimension.TEAM: _usage.c.team,
    Dimension.KEY: _usage.c.key_id,
    Dimension.MODEL: _usage.c.model,
    Dimension.SERVED_MODEL: _usage.c.served_model,
    Dimension.TIER: _usage.c.tier,
    Dimension.REASON: _usage.c.reason,
    Dimension.OUTCOME: _usage.c.outcome,
}
_at: Final = func.coalesce(_usage.c.admitted_ms, _usage.c.settled_ms)


@dataclass(frozen=True, slots=True)
class Cell:
    """Sums over rows that are alike in all that a report tells apart.

    `cached` and `reasoning` are bounded, row by row, by the whole that they are part of. `costless`: each of the rows
    has tokens, and none of them cost anything.
    """

    group: tuple[str | None, ...]
    start_ms: int | None
    served_model: str | None
    estimated: bool
    costless: bool
    thrown_away: bool
    routed_to_base: bool
    sum: UsageSum
    cached: int
    reasoning: int


class UsageReports:
    """Reads the table `usage` on one engine. `strong` is the model of the strong tier, None where there is none."""

    def __init__(self, engine: AsyncEngine, prices: PriceTable, strong: ModelId | None) -> None:
        self._engine = engine
        self._prices = prices
        self._strong = strong

    async def report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        """Totals by the dimensions and buckets; `InvalidRequest` when there would be too many lines."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_cells(query, by, bucket))).all()
        if len(rows) > _MOST_CELLS:
            raise _too_much()
        return summed((_cell(row, len(by)) for row in rows), self._prices, self._strong)

    async def rows(self, query: UsageQuery, after: Place | None, complete_ms: int, limit: int = 500) -> UsagePage:
        """At most `limit` (1,000) rows after a place that were settled before `complete_ms`, in order of their places.

        Whoever asks makes sure that no row with an earlier time is written any more.
        """
        limit = min(limit, _MOST_ROWS)
        found = (
            select(*(_usage.c[each.name] for each in fields(UsageRow)))
            .where(*_within(query), _usage.c.settled_ms < complete_ms)
            .order_by(_usage.c.settled_ms, _usage.c.grant_id)
            .limit(limit + 1)
        )
        if after is not None:
            later = and_(_usage.c.settled_ms == after.settled_ms, _usage.c.grant_id > after.grant_id)
            found = found.where(_usage.c.settled_ms >= after.settled_ms)  # for the index; the next one says it all
            found = found.where(or_(_usage.c.settled_ms > after.settled_ms, later))
        async with self._engine.connect() as connection:
            rows = [UsageRow(*row) for row in await connection.execute(found)]
        return UsagePage(tuple(rows[:limit]), complete_ms, len(rows) > limit)


def summed(cells: Iterable[Cell], prices: PriceTable, strong: ModelId | None) -> UsageReport:
    """The report that cells add up to. `InvalidRequest` when it has too many lines."""
    lines = dict[tuple[int | None, tuple[str | None, ...]], list[UsageSum]]()
    unpriced, found = set[str](), list[Cell]()
    for cell in cells:
        found.append(cell)
        line = lines.setdefault((cell.start_ms, cell.group), [UsageSum(), UsageSum()])
        line[0] += cell.sum
        if cell.estimated:
            line[1] += cell.sum
        if _lacks_price(cell, prices):
            unpriced.add(cell.served_model or "")
    if len(lines) > MOST_LINES:
        raise _too_much()
    if strong is not None and prices.price(strong) is None and any(cell.routed_to_base for cell in found):
        unpriced.add(strong)
    ordered = sorted(lines, key=lambda key: (key[0] or 0, [(name is not None, name or "") for name in key[1]]))
    return UsageReport(
        currency=prices.currency,
        lines=tuple(UsageLine(group, start, *lines[start, group]) for start, group in ordered),
        total=sum((lines[each][0] for each in ordered), UsageSum()),
        estimated=sum((lines[each][1] for each in ordered), UsageSum()),
        unpriced_models=tuple(sorted(unpriced - {""})),
        saving=saving(found, prices, strong),
    )


def saving(cells: Iterable[Cell], prices: PriceTable, strong: ModelId | None) -> Saving | None:
    """What routing has probably saved; None without a price of the strong tier."""
    price = prices.price(strong)
    if strong is None or price is None:
        return None
    requests = cost = thrown_away = left_out = 0
    input_tokens = cached = output_tokens = reasoning = 0
    for cell in cells:
        if cell.thrown_away:
            thrown_away += cell.sum.cost_micros
        elif cell.routed_to_base and (cell.estimated or _lacks_price(cell, prices)):
            left_out += cell.sum.requests
        elif cell.routed_to_base:
            requests += cell.sum.requests
            cost += cell.sum.cost_micros
            input_tokens, cached = input_tokens + cell.sum.input_tokens, cached + cell.cached
            output_tokens, reasoning = output_tokens + cell.sum.output_tokens, reasoning + cell.reasoning
    would = cost_micros(Usage(input_tokens, cached, output_tokens, reasoning), price)
    return Saving(strong, requests, cost, would, thrown_away, left_out)


def _lacks_price(cell: Cell, prices: PriceTable) -> bool:
    """True for tokens that cost nothing, unless the price says that there are such."""
    if not cell.costless or cell.served_model is None:
        return False
    price = prices.price(ModelId(cell.served_model))
    return price is None or not _may_be_free(price)


def _may_be_free(price: Price) -> bool:
    return 0 in (price.fresh, price.cached, price.spoken, price.reasoning)


def _cells(query: UsageQuery, by: tuple[Dimension, ...], bucket: Bucket | None) -> Executable:
    """Cells as rows: the group, then the other fields of `Cell` in their order, its sum as one column each."""
    alike = (
        *(_COLUMN[each] for each in by),
        literal(None, BigInteger) if bucket is None else _at - _at % bucket.ms,
        _usage.c.served_model,
        _usage.c.estimated,
        and_(used_micros == 0, used_tokens > 0),
        func.coalesce(_usage.c.outcome == ABANDONED, False),
        func.coalesce(and_(_usage.c.tier == Tier.BASE.value, _usage.c.reason != EXPLICIT), False),
    )
    added = (
        literal(1),
        _usage.c.input_tokens,
        _usage.c.cached_tokens,
        _usage.c.output_tokens,
        _usage.c.reasoning_tokens,
        used_micros,
        _at_most(_usage.c.cached_tokens, _usage.c.input_tokens),
        _at_most(_usage.c.reasoning_tokens, _usage.c.output_tokens),
    )
    # Within another statement, so that what is grouped by has a name: databases take no expression with a parameter.
    inner = select(
        *(each.label(f"alike_{at}") for at, each in enumerate(alike)),
        *(each.label(f"added_{at}") for at, each in enumerate(added)),
    ).where(*_within(query))
    found = inner.subquery()
    group = [found.c[f"alike_{at}"] for at in range(len(alike))]
    sums = [func.sum(found.c[f"added_{at}"]) for at in range(len(added))]
    return select(*group, *sums).group_by(*group).limit(_MOST_CELLS + 1)


def _cell(row: "Row[Any]", dimensions: int) -> Cell:
    start_ms, served_model, estimated, costless, thrown_away, base, *sums = row[dimensions:]
    *whole, cached, reasoning = map(int, sums)  # a database may sum in decimal numbers
    return Cell(
        group=tuple(row[:dimensions]),
        start_ms=start_ms,
        served_model=served_model,
        estimated=bool(estimated),
        costless=bool(costless),
        thrown_away=bool(thrown_away),
        routed_to_base=bool(base),
        sum=UsageSum(*whole),
        cached=cached,
        reasoning=reasoning,
    )


def _within(query: UsageQuery) -> Iterator[ColumnElement[bool]]:
    if query.tenant is not None:
        yield _usage.c.tenant == query.tenant
    admitted, settled = _usage.c.admitted_ms, _usage.c.settled_ms  # apart, so that an index of either can be of use
    if query.from_ms is not None:
        yield or_(admitted >= query.from_ms, and_(admitted.is_(None), settled >= query.from_ms))
    if query.to_ms is not None:
        yield or_(admitted < query.to_ms, and_(admitted.is_(None), settled < query.to_ms))


def _at_most(part: ColumnElement[int], whole: ColumnElement[int]) -> ColumnElement[int]:
    return case((part > whole, whole), else_=part)


def _too_much() -> InvalidRequest:
    return InvalidRequest(f"More than {MOST_LINES} lines: ask for a shorter time, or for fewer groups.", "group_by")
