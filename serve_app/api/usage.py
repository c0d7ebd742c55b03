"""`/v1/usage`: what was used and what it cost, as totals and as rows; of a tenant, or of all with scope `admin`."""

import csv
import io
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import Forbidden, InvalidRequest
from deployments.ports import Scope
from deployments.tenancy.budgets import money
from deployments.usage import (
    Bucket,
    Dimension,
    Place,
    Saving,
    UsageBooks,
    UsageLine,
    UsagePage,
    UsageQuery,
    UsageReport,
    UsageRow,
    UsageSum,
)
from serve_app.api.auth import Authorizer

METHOD: Final = (
    "Requests that the base tier answered by the router's choice, at the strong tier's price of today for the same "
    "tokens, less what they cost, less what attempts of cascades cost that were thrown away. A larger model may need "
    "more or fewer tokens, so this is an estimate and no bill."
)
NEXT_HEADER: Final = "x-gatehouse-next"
TIME_PATTERN: Final = (
    r"^([0-9]{1,11}|[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2}))?)$"
)
AFTER_PATTERN: Final = r"^[0-9]{1,15}(:[A-Za-z0-9_-]{1,64})?$"
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_COLUMNS: Final = tuple(each.name for each in fields(UsageRow))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_MS: Final = 253_370_764_800_000  # the year 9999, after which there are no dates
_MOST_DIMENSIONS: Final = 4
_PAGE: Final = 500
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

_Tenant = Annotated[str | None, Query(pattern=TENANT_PATTERN)]
_Time = Annotated[str | None, Query(pattern=TIME_PATTERN)]


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


_MEDIA: Final[Mapping[Format, str]] = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.JSON: "application/json",
    Format.JSONL: "application/jsonl",
}


class SumReply(BaseModel):
    """Sums. `cached_tokens` are part of the input, `reasoning_tokens` of the output; `cost` is `cost_micros` / 10^6."""

    model_config = ConfigDict(frozen=True)

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_micros: int
    cost: str


class LineReply(SumReply):
    """One group. `start`: where its bucket begins. `estimated`: the part that no engine confirmed."""

    group: dict[str, str | None]
    start: str | None
    estimated: SumReply


class TotalReply(SumReply):
    """The sum of all groups."""

    estimated: SumReply


class SavingReply(BaseModel):
    """What routing has probably saved, in micros; see `method`. `left_out`: requests without a price or a count."""

    model_config = ConfigDict(frozen=True)

    compared_with: str
    requests: int
    cost_micros: int
    would_have_cost_micros: int
    thrown_away_micros: int
    saved_micros: int
    saved: str
    left_out: int
    method: str = METHOD


class UsageReply(BaseModel):
    """Totals. `tenant` null: of all. `unpriced_models` were used, or are compared with, and have no price."""

    model_config = ConfigDict(frozen=True)

    object: str = "usage.report"
    tenant: str | None
    since: str | None = Field(serialization_alias="from")
    until: str | None = Field(serialization_alias="to")
    bucket: str | None
    group_by: list[str]
    currency: str
    data: list[LineReply]
    total: TotalReply
    unpriced_models: list[str]
    saved_by_routing: SavingReply | None


class UsageRowReply(BaseModel):
    """One settled request, or attempt of one. Null: of an earlier version, or there is no such thing."""

    model_config = ConfigDict(frozen=True)

    settled_ms: int
    grant_id: str
    tenant: str
    team: str | None
    key_id: str
    request_id: str
    model: str
    served_model: str | None
    tier: str | None
    reason: str | None
    outcome: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    admitted_ms: int | None
    cost_micros: int | None


class UsageRowsReply(BaseModel):
    """Rows in the order in which they were settled. `next` is the `after` of an export of what comes later."""

    model_config = ConfigDict(frozen=True)

    object: str = "list"
    next: str
    data: list[UsageRowReply]


def create_usage_router(authorizer: Authorizer, books: UsageBooks) -> APIRouter:
    """The routes of usage; a key needs the scope `inference` for its own tenant, `admin` for others and for all."""
    router = APIRouter(prefix="/v1/usage", tags=["usage"])

    async def query_of(request: Request, tenant: str | None, since: str | None, until: str | None) -> UsageQuery:
        principal = await authorizer(request, Scope.INFERENCE, Scope.ADMIN)
        if Scope.ADMIN not in principal.scopes:
            if tenant not in (None, principal.tenant):
                raise Forbidden("This key may see the usage of its own tenant only.")
            tenant = principal.tenant
        return UsageQuery(tenant, parse_time(since, "from"), parse_time(until, "to"))

    @router.get("")
    async def report(
        request: Request,
        tenant: _Tenant = None,
        since: Annotated[_Time, Query(alias="from")] = None,
        until: Annotated[_Time, Query(alias="to")] = None,
        group_by: str = "",
        bucket: Bucket | None = None,
    ) -> UsageReply:
        """Totals of requests that were admitted from one time to another, by what is asked for."""
        query = await query_of(request, tenant, since, until)
        by = parse_dimensions(group_by)
        return _reply(query, by, bucket, await books.usage_report(query, by, bucket))

    @router.get("/export")
    async def export(
        request: Request,
        tenant: _Tenant = None,
        since: Annotated[_Time, Query(alias="from")] = None,
        until: Annotated[_Time, Query(alias="to")] = None,
        after: Annotated[str | None, Query(pattern=AFTER_PATTERN)] = None,
        format: Format = Format.CSV,
    ) -> StreamingResponse:
        """One row per settlement, in a stable order. The header says where an export of what comes later begins."""
        query = await query_of(request, tenant, since, until)
        place = None if after is None else parse_place(after)
        first = await books.usage_rows(query, place, None, _PAGE)  # before the reply begins: an error has its status
        following = str(max(first.complete_ms, 0 if place is None else place.settled_ms))
        return StreamingResponse(
            _WRITERS[format](following, _pages(books, query, first)),
            media_type=_MEDIA[format],
            headers={
                NEXT_HEADER: following,
                "cache-control": "no-store",
                "content-disposition": f'attachment; filename="usage.{format.value}"',
            },
        )

    return router


def parse_time(text: str | None, name: str) -> int | None:
    """Milliseconds since the epoch from epoch seconds, a date (its first moment in UTC) or an RFC 3339 time."""
    if text is None:
        return None
    try:
        if re.fullmatch(TIME_PATTERN, text, re.ASCII) is None:
            raise ValueError
        if text.isdigit():
            return int(text) * 1000
        at = datetime.fromisoformat(text.upper())
        at_ms = ((at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
        if not 0 <= at_ms < _MOST_MS:
            raise ValueError
    except ValueError:
        raise InvalidRequest(f"'{name}' is a time such as 2026-01-31T00:00:00Z, or seconds since 1970.", name) from None
    return at_ms


def parse_dimensions(text: str) -> tuple[Dimension, ...]:
    """`model,tier` as dimensions; `InvalidRequest` for unknown ones, one that comes twice, or more than four."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    known = [each.value for each in Dimension]
    if any(name not in known for name in names):
        raise InvalidRequest(f"'group_by' takes {', '.join(known)}, with commas between them.", "group_by")
    if len(set(names)) != len(names) or len(names) > _MOST_DIMENSIONS:
        raise InvalidRequest(f"'group_by' takes {_MOST_DIMENSIONS} different names at most.", "group_by")
    return tuple(map(Dimension, names))


def parse_place(text: str) -> Place:
    """A place from `settled_ms` or `settled_ms:grant_id`, which has been checked for its form."""
    settled_ms, _, grant_id = text.partition(":")
    return Place(int(settled_ms), grant_id)


def cell(value: str | int | bool | None) -> str | int:
    """A value as a spreadsheet may have it: text that would be a formula begins with an apostrophe."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return value
        case _:
            return f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value


async def _pages(books: UsageBooks, query: UsageQuery, page: UsagePage) -> AsyncGenerator[Sequence[UsageRow], None]:
    complete_ms = page.complete_ms
    yield page.rows
    while page.more and page.rows:
        last = page.rows[-1]
        page = await books.usage_rows(query, Place(last.settled_ms, last.grant_id), complete_ms, _PAGE)
        yield page.rows


async def _csv(_following: str, pages: AsyncGenerator[Sequence[UsageRow], None]) -> AsyncGenerator[bytes, None]:
    """RFC 4180, with a header."""
    yield _csv_lines([_COLUMNS])
    async for rows in pages:
        yield _csv_lines([[cell(getattr(row, name)) for name in _COLUMNS] for row in rows])


def _csv_lines(lines: Sequence[Sequence[str | int]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(lines)
    return out.getvalue().encode()


async def _json(following: str, pages: AsyncGenerator[Sequence[UsageRow], None]) -> AsyncGenerator[bytes, None]:
    yield f'{{"object":"list","next":"{following}","data":['.encode()
    between = ""
    async for rows in pages:
        if rows:
            yield (between + ",".join(map(_object, rows))).encode()
            between = ","
    yield b"]}"


async def _jsonl(_following: str, pages: AsyncGenerator[Sequence[UsageRow], None]) -> AsyncGenerator[bytes, None]:
    async for rows in pages:
        yield "".join(f"{_object(row)}\n" for row in rows).encode()


_WRITERS: Final[
    Mapping[Format, Callable[[str, AsyncGenerator[Sequence[UsageRow], None]], AsyncGenerator[bytes, None]]]
] = {Format.CSV: _csv, Format.JSON: _json, Format.JSONL: _jsonl}


def _object(row: UsageRow) -> str:
    return json.dumps({name: getattr(row, name) for name in _COLUMNS}, ensure_ascii=False, separators=(",", ":"))


def _reply(query: UsageQuery, by: tuple[Dimension, ...], bucket: Bucket | None, report: UsageReport) -> UsageReply:
    return UsageReply(
        tenant=query.tenant,
        since=_shown(query.from_ms),
        until=_shown(query.to_ms),
        bucket=None if bucket is None else bucket.value,
        group_by=[each.value for each in by],
        currency=report.currency,
        data=[_line(by, line, report.currency) for line in report.lines],
        total=TotalReply(
            estimated=_sum(report.estimated, report.currency), **_sum(report.total, report.currency).model_dump()
        ),
        unpriced_models=[*report.unpriced_models],
        saved_by_routing=None if report.saving is None else _saving(report.saving, report.currency),
    )


def _line(by: tuple[Dimension, ...], line: UsageLine, currency: str) -> LineReply:
    return LineReply(
        group={each.value: value for each, value in zip(by, line.group, strict=True)},
        start=_shown(line.start_ms),
        estimated=_sum(line.estimated, currency),
        **_sum(line.sum, currency).model_dump(),
    )


def _sum(found: UsageSum, currency: str) -> SumReply:
    return SumReply(
        requests=found.requests,
        input_tokens=found.input_tokens,
        cached_tokens=found.cached_tokens,
        output_tokens=found.output_tokens,
        reasoning_tokens=found.reasoning_tokens,
        cost_micros=found.cost_micros,
        cost=money(found.cost_micros, currency),
    )


def _saving(saving: Saving, currency: str) -> SavingReply:
    return SavingReply(
        compared_with=saving.compared_with,
        requests=saving.requests,
        cost_micros=saving.cost_micros,
        would_have_cost_micros=saving.would_have_cost_micros,
        thrown_away_micros=saving.thrown_away_micros,
        saved_micros=saving.saved_micros,
        saved=money(saving.saved_micros, currency),
        left_out=saving.left_out,
    )


def _shown(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
