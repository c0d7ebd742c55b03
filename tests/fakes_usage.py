"""`InMemoryUsage`: what the ledger's books say of usage, without a database."""

from collections.abc import Iterator
from dataclasses import replace

from deployments.clock import Clock, FixedClock
from deployments.ports import Grant, ModelId, Served, Tier, Usage
from deployments.tenancy.prices import MICROS, Price, PriceTable, cost_micros
from deployments.tenancy.reports import ABANDONED, EXPLICIT, Cell, summed
from deployments.usage import Bucket, Dimension, Place, UsagePage, UsageQuery, UsageReport, UsageRow, UsageSum

BASE, STRONG = ModelId("demo-20b"), ModelId("demo-120b")
PRICES = PriceTable(
    "USD",
    {BASE: Price(MICROS, MICROS, MICROS, MICROS), STRONG: Price(3 * MICROS, 3 * MICROS, 3 * MICROS, 3 * MICROS)},
)
"""A token of the base tier costs a millionth, one of the strong tier three."""


class InMemoryUsage:
    """Implements `deployments.usage.UsageBooks` over a list of rows, in the order in which they were settled."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or FixedClock()
        self.rows: list[UsageRow] = []
        self.asked: list[UsageQuery] = []

    def write(self, grant: Grant, usage: Usage, served: Served | None) -> None:
        """Add the row of a settlement; of two of one grant the first counts."""
        if any(row.grant_id == grant.grant_id for row in self.rows):
            return
        self.add(
            UsageRow(
                settled_ms=self._clock.now_ms(),
                grant_id=grant.grant_id,
                tenant=grant.tenant,
                team=grant.team,
                key_id=grant.key_id,
                request_id=grant.request_id,
                model=grant.model,
                served_model=None if served is None else served.model,
                tier=None if served is None or served.tier is None else served.tier.value,
                reason=None if served is None else served.reason,
                outcome=None if served is None else served.outcome,
                input_tokens=usage.input_tokens,
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                estimated=usage.estimated,
                admitted_ms=grant.admitted_ms,
                cost_micros=cost_micros(usage, None if served is None else PRICES.price(served.model)),
            )
        )

    def add(self, row: UsageRow) -> None:
        """Add a row; a later one has no earlier time."""
        self.rows.append(row)

    async def usage_report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        self.asked.append(query)
        return summed((_cell(row, by, bucket) for row in self._chosen(query)), PRICES, STRONG)

    async def usage_rows(
        self, query: UsageQuery, after: Place | None = None, complete_ms: int | None = None, limit: int = 500
    ) -> UsagePage:
        self.asked.append(query)
        # The clock of a test may stand still: what was settled at this moment can be read, too.
        complete_ms = self._clock.now_ms() + 1 if complete_ms is None else complete_ms
        found = sorted(
            (row for row in self._chosen(query) if row.settled_ms < complete_ms),
            key=lambda row: (row.settled_ms, row.grant_id),
        )
        found = [row for row in found if after is None or (row.settled_ms, row.grant_id) > _key(after)]
        return UsagePage(tuple(found[:limit]), complete_ms, len(found) > limit)

    def _chosen(self, query: UsageQuery) -> Iterator[UsageRow]:
        for row in self.rows:
            late = query.from_ms is None or _at(row) >= query.from_ms
            if query.tenant in (None, row.tenant) and late and (query.to_ms is None or _at(row) < query.to_ms):
                yield row


def _key(place: Place) -> tuple[int, str]:
    return place.settled_ms, place.grant_id


def _at(row: UsageRow) -> int:
    return row.settled_ms if row.admitted_ms is None else row.admitted_ms


def _cell(row: UsageRow, by: tuple[Dimension, ...], bucket: Bucket | None) -> Cell:
    cost = row.cost_micros or 0
    return Cell(
        group=tuple(getattr(row, "key_id" if each is Dimension.KEY else each.value) for each in by),
        start_ms=None if bucket is None else _at(row) // bucket.ms * bucket.ms,
        served_model=row.served_model,
        estimated=row.estimated,
        costless=cost == 0 and row.input_tokens + row.output_tokens > 0,
        thrown_away=row.outcome == ABANDONED,
        routed_to_base=row.tier == Tier.BASE.value and row.reason not in (None, EXPLICIT),
        sum=UsageSum(1, row.input_tokens, row.cached_tokens, row.output_tokens, row.reasoning_tokens, cost),
        cached=min(row.cached_tokens, row.input_tokens),
        reasoning=min(row.reasoning_tokens, row.output_tokens),
    )


def numbered(row: UsageRow, number: int) -> UsageRow:
    """The row under another grant."""
    return replace(row, grant_id=f"grant_{number:032x}")
