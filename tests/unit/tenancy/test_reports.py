"""Reports against rows that are summed here one by one, on both databases; export against a ledger that goes on."""

import asyncio
import pickle
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.errors import InvalidRequest
from deployments.ports import ModelId, Tier, Usage
from deployments.store import open_store, sqlite_url
from deployments.tenancy import reports as module
from deployments.tenancy.prices import MICROS, Price, PriceTable, cost_micros
from deployments.tenancy.reports import ABANDONED, EXPLICIT, UsageReports
from deployments.tenancy.tables import metadata
from deployments.tenancy.tables import usage as table
from deployments.usage import Bucket, Dimension, Place, UsageLine, UsageQuery, UsageReport, UsageRow, UsageSum
from tests.unit.gate.databases import fresh_database

BASE, STRONG, SMALL = ModelId("gpt-oss-20b"), ModelId("gpt-oss-120b"), ModelId("embedder")
PRICES = PriceTable(
    "USD",
    {
        BASE: Price(50_000, 10_000, 200_000, 200_000),
        STRONG: Price(150_000, 30_000, 600_000, 500_000),
    },
)
DAY, HOUR = Bucket.DAY.ms, Bucket.HOUR.ms
EVERYBODY = UsageQuery(None)
FIELD = {Dimension.KEY: "key_id"}


class Books:
    """The table on one engine, and the loop that it lives in; hypothesis calls functions, not coroutines."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.engine: AsyncEngine = open_store(url)
        self.runner.run(self._create())

    async def _create(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)

    async def _put(self, rows: list[UsageRow], fresh: bool) -> None:
        async with self.engine.begin() as connection:
            if fresh:
                await connection.execute(delete(table))
            if rows:
                await connection.execute(insert(table), [asdict(row) for row in rows])

    def put(self, *rows: UsageRow, fresh: bool = False) -> None:
        """Add rows; `fresh`: there are no others."""
        self.runner.run(self._put([*rows], fresh))

    def report(
        self, query: UsageQuery = EVERYBODY, *by: Dimension, bucket: Bucket | None = None, strong: ModelId = STRONG,
        prices: PriceTable = PRICES,
    ) -> UsageReport:  # fmt: skip
        return self.runner.run(UsageReports(self.engine, prices, strong).report(query, by, bucket))

    def page(
        self, after: Place | None, complete_ms: int, limit: int, query: UsageQuery = EVERYBODY
    ) -> module.UsagePage:
        return self.runner.run(UsageReports(self.engine, PRICES, STRONG).rows(query, after, complete_ms, limit))

    def close(self) -> None:
        self.runner.run(self.engine.dispose())
        self.runner.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Books]:
    url = sqlite_url(tmp_path / "usage.db")
    if request.param == "postgresql":
        url = fresh_database(request.getfixturevalue("postgres"))
    opened = Books(url)
    yield opened
    opened.close()


_numbers = count(1)
ROW = UsageRow(
    settled_ms=1_000,
    grant_id="",
    tenant="acme",
    team="web",
    key_id="key_1",
    request_id="req_1",
    model="auto",
    served_model=BASE,
    tier=Tier.BASE.value,
    reason="easy",
    outcome="completed",
    input_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    reasoning_tokens=0,
    estimated=False,
    admitted_ms=900,
    cost_micros=0,
)


def row(tokens: tuple[int, int, int, int] = (0, 0, 0, 0), **changes: Any) -> UsageRow:
    """A row with an id of its own that cost what it costs."""
    input_tokens, cached, output_tokens, reasoning = tokens
    made = replace(
        ROW,
        grant_id=f"grant_{next(_numbers):032x}",
        input_tokens=input_tokens,
        cached_tokens=cached,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning,
        **changes,
    )
    if "cost_micros" in changes:
        return made
    return replace(made, cost_micros=cost_micros(Usage(*tokens), PRICES.price(ModelId(made.served_model or ""))))


tokens = st.integers(0, 5_000)
times = st.integers(0, 3 * DAY) | st.sampled_from([0, HOUR - 1, HOUR, DAY - 1, DAY, DAY + 1, 2 * DAY])


@st.composite
def rows(draw: st.DrawFn) -> UsageRow:
    """Any row that the ledger has written, now or in an earlier version."""
    admitted = draw(times)
    served = draw(st.sampled_from([BASE, STRONG, SMALL]))
    made = row(
        draw(st.tuples(tokens, tokens, tokens, tokens)),
        tenant=draw(st.sampled_from(["acme", "rival"])),
        team=draw(st.sampled_from([None, "web", "Ärger"])),
        key_id=draw(st.sampled_from(["key_1", "key_2"])),
        model=draw(st.sampled_from(["auto", STRONG])),
        served_model=served,
        tier={BASE: Tier.BASE.value, STRONG: Tier.STRONG.value, SMALL: None}[served],
        reason=draw(st.sampled_from(["easy", "hard", EXPLICIT])),
        outcome=draw(st.sampled_from(["completed", "aborted", ABANDONED])),
        estimated=draw(st.booleans()),
        admitted_ms=admitted,
        settled_ms=admitted + draw(st.integers(0, 2 * HOUR)),
    )
    if draw(st.integers(0, 9)) == 0:  # an earlier version's
        nothing = dict.fromkeys(("team", "served_model", "tier", "reason", "outcome", "admitted_ms", "cost_micros"))
        return replace(made, **nothing)
    return made if draw(st.integers(0, 9)) else replace(made, cost_micros=0)  # before there was a price


def at(row: UsageRow) -> int:
    return row.settled_ms if row.admitted_ms is None else row.admitted_ms


def chosen(all_rows: list[UsageRow], query: UsageQuery) -> list[UsageRow]:
    return [
        row
        for row in all_rows
        if query.tenant in (None, row.tenant)
        and (query.from_ms is None or at(row) >= query.from_ms)
        and (query.to_ms is None or at(row) < query.to_ms)
    ]


def added(found: list[UsageRow]) -> UsageSum:
    return UsageSum(
        len(found),
        sum(row.input_tokens for row in found),
        sum(row.cached_tokens for row in found),
        sum(row.output_tokens for row in found),
        sum(row.reasoning_tokens for row in found),
        sum(row.cost_micros or 0 for row in found),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(rows(), max_size=25),
    by=st.lists(st.sampled_from(list(Dimension)), unique=True, max_size=4),
    bucket=st.sampled_from([None, *Bucket]),
    query=st.builds(UsageQuery, st.sampled_from([None, "acme", "nobody"]), st.none() | times, st.none() | times),
)
def test_totals_are_the_sums_of_the_rows(
    books: Books, made: list[UsageRow], by: list[Dimension], bucket: Bucket | None, query: UsageQuery
) -> None:
    books.put(*made, fresh=True)
    found = chosen(made, query)
    groups = dict[tuple[tuple[str | None, ...], int | None], list[UsageRow]]()
    for each in found:
        group = tuple(getattr(each, FIELD.get(dimension, dimension.value)) for dimension in by)
        start = None if bucket is None else at(each) // bucket.ms * bucket.ms
        groups.setdefault((group, start), []).append(each)
    report = books.report(query, *by, bucket=bucket)
    assert {(line.group, line.start_ms): line for line in report.lines} == {
        (group, start): UsageLine(group, start, added(of), added([each for each in of if each.estimated]))
        for (group, start), of in groups.items()
    }
    assert len(report.lines) == len(groups)
    assert [line.start_ms or 0 for line in report.lines] == sorted(line.start_ms or 0 for line in report.lines)
    assert report.total == added(found)
    assert report.estimated == added([each for each in found if each.estimated])
    _check_saving(report, found)


def _check_saving(report: UsageReport, found: list[UsageRow]) -> None:
    """The estimate is what the rows say, but for one rounding in place of one per row."""
    routed = [row for row in found if row.tier == Tier.BASE.value and row.reason != EXPLICIT]
    kept = [row for row in routed if row.outcome != ABANDONED]
    known = [
        row for row in kept if not row.estimated and (row.cost_micros or row.input_tokens + row.output_tokens == 0)
    ]
    would = sum(cost_micros(_usage_of(row), PRICES.price(STRONG)) for row in known)
    assert report.saving is not None
    saving = report.saving
    assert (saving.compared_with, saving.requests) == (STRONG, len(known))
    assert saving.requests + saving.left_out == len(kept)
    assert saving.cost_micros == sum(row.cost_micros or 0 for row in known)
    assert saving.thrown_away_micros == sum(row.cost_micros or 0 for row in found if row.outcome == ABANDONED)
    assert would - len(known) <= saving.would_have_cost_micros <= would


def _usage_of(row: UsageRow) -> Usage:
    return Usage(row.input_tokens, row.cached_tokens, row.output_tokens, row.reasoning_tokens)


def test_an_integer_type_is_what_comes_back(books: Books) -> None:
    """PostgreSQL adds large integers up to decimal numbers, which JSON has as text or as floats."""
    books.put(row((10**9, 3, 10**9, 5), cost_micros=2**53 + 1), row((10**9, 0, 1, 0), cost_micros=2**53 + 1))
    report = books.report(EVERYBODY, Dimension.MODEL, bucket=Bucket.DAY)
    assert report.total.cost_micros == 2**54 + 2
    for value in (*asdict(report.total).values(), *asdict(report.lines[0].sum).values(), report.lines[0].start_ms):
        assert type(value) is int
    assert pickle.loads(pickle.dumps(report)) == report


def test_buckets_begin_with_the_hour_and_the_day_of_utc(books: Books) -> None:
    for ms in (DAY - 1, DAY, DAY + HOUR - 1, DAY + HOUR, 2 * DAY - 1):
        books.put(row(admitted_ms=ms, settled_ms=3 * DAY))
    days = {line.start_ms: line.sum.requests for line in books.report(bucket=Bucket.DAY).lines}
    assert days == {0: 1, DAY: 4}
    hours = {line.start_ms: line.sum.requests for line in books.report(bucket=Bucket.HOUR).lines}
    assert hours == {DAY - HOUR: 1, DAY: 2, DAY + HOUR: 1, 2 * DAY - HOUR: 1}


def test_a_time_belongs_to_what_it_begins(books: Books) -> None:
    books.put(*(row(admitted_ms=ms, settled_ms=ms + 5) for ms in (99, 100, 199, 200)))
    books.put(replace(row(), admitted_ms=None, settled_ms=150))
    assert books.report(UsageQuery(None, 100, 200)).total.requests == 3
    assert books.report(UsageQuery(None, 100, 100)).lines == ()
    assert books.report(UsageQuery("rival")).total == UsageSum()


def test_what_routing_saved_is_what_larger_answers_would_have_cost_less_what_was_thrown_away(books: Books) -> None:
    million = (MICROS, 0, MICROS, 0)  # 0.25 at the base tier, 0.75 at the strong one
    books.put(row(million), row(million, reason=EXPLICIT), row(million, tier=None))
    books.put(row(million, served_model=STRONG, tier=Tier.STRONG.value))
    saving = books.report().saving
    assert saving is not None
    assert (saving.requests, saving.cost_micros, saving.would_have_cost_micros) == (1, 250_000, 750_000)
    assert saving.saved_micros == 500_000
    books.put(row(million, outcome=ABANDONED), row(million, outcome=ABANDONED), row(million, outcome=ABANDONED))
    after = books.report().saving
    assert after is not None
    assert (after.requests, after.thrown_away_micros, after.saved_micros) == (1, 750_000, -250_000)


def test_what_is_not_known_is_left_out_of_the_estimate_and_counted(books: Books) -> None:
    books.put(row((10, 0, 10, 0), estimated=True), row((10, 0, 10, 0), cost_micros=0), row((10, 0, 10, 0)))
    saving = books.report().saving
    assert saving is not None
    assert (saving.requests, saving.left_out) == (1, 2)


def test_models_without_a_price_are_named(books: Books) -> None:
    books.put(row((10, 0, 0, 0), served_model=SMALL, tier=None), row((10, 0, 0, 0)), row(served_model="unused"))
    assert books.report().unpriced_models == (SMALL,)
    report = books.report(prices=PriceTable("EUR", {BASE: PRICES.models[BASE]}))
    assert (report.currency, report.unpriced_models, report.saving) == ("EUR", (SMALL, STRONG), None)
    free = PriceTable("USD", {**PRICES.models, SMALL: Price(0, 0, 5, 5)})
    assert books.report(prices=free).unpriced_models == ()


def test_more_lines_than_anybody_reads_are_refused(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.put(*(row(key_id=f"key_{number}") for number in range(5)))
    monkeypatch.setattr(module, "MOST_LINES", 5)
    assert len(books.report(EVERYBODY, Dimension.KEY).lines) == 5
    books.put(row(key_id="key_5"))
    with pytest.raises(InvalidRequest):
        books.report(EVERYBODY, Dimension.KEY)
    monkeypatch.setattr(module, "_MOST_CELLS", 5)
    with pytest.raises(InvalidRequest):
        books.report(EVERYBODY, Dimension.KEY)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_is_what_was_written(books: Books) -> None:
    assert set(UsageRow.__dataclass_fields__) == {column.name for column in table.columns}
    old = replace(row((1, 2, 3, 4), settled_ms=1), **dict.fromkeys(NULLABLE))
    new = row((5, 6, 7, 8), settled_ms=2, estimated=True)
    books.put(new, old)
    assert books.page(None, 10, 10).rows == (old, new)


NULLABLE = [name for name, each in UsageRow.__annotations__.items() if type(None) in get_args(each)]


def test_pages_follow_each_other_and_know_where_they_end(books: Books) -> None:
    made = [row(settled_ms=ms) for ms in (5, 5, 5, 6, 7)]
    books.put(*reversed(made))
    first = books.page(None, 7, 2)
    assert (first.rows, first.complete_ms, first.more) == (tuple(made[:2]), 7, True)
    second = books.page(Place(5, made[1].grant_id), 7, 2)
    assert (second.rows, second.more) == (tuple(made[2:4]), False)
    assert books.page(Place(7), 8, 2).rows == (made[4],)
    assert books.page(Place(5), 8, 9).rows == tuple(made)
    assert books.page(None, 8, 9, UsageQuery("rival")).rows == ()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["hand", "hand", "tick", "write", "write", "page", "page"]), max_size=60), st.data())
def test_an_export_is_complete_and_has_nothing_twice_while_others_are_settled(
    books: Books, steps: list[str], data: st.DataObject
) -> None:
    """A ledger that hands settlements to its store and writes them later; ids of one moment are in any order."""
    books.put(fresh=True)
    now, waiting, written, read = 1_000, list[UsageRow](), list[UsageRow](), list[UsageRow]()
    place: Place | None = None
    end: int | None = None

    def page(limit: int) -> None:
        nonlocal place, end
        complete = min([now, *(each.settled_ms for each in waiting)])
        end = complete if end is None else end
        found = books.page(place, end, limit)
        read.extend(found.rows)
        if found.more:
            place = Place(found.rows[-1].settled_ms, found.rows[-1].grant_id)
        else:
            place, end = Place(found.complete_ms), None

    for step in steps:
        match step:
            case "hand":
                made = row((1, 0, 1, 0), settled_ms=now)
                waiting.append(replace(made, grant_id=f"{data.draw(st.integers(0, 9))}{made.grant_id}"))
            case "tick":
                now += 1
            case "write":
                batch = waiting[: data.draw(st.integers(1, 3))]
                books.put(*batch)
                del waiting[: len(batch)]
                written += batch
            case _:
                page(data.draw(st.integers(1, 3)))
    books.put(*waiting)
    written, waiting, now = written + waiting, [], now + 1
    while end is not None or len(read) < len(written):
        before = place, end
        page(3)
        assert (place, end) != before, "an export that never ends"
    assert read == sorted(written, key=lambda each: (each.settled_ms, each.grant_id))
