"""`/v1/admin/budgets`: what tenants, teams and keys may use; scope `admin`. `/v1/budgets`: what holds for a key."""

import secrets
from decimal import Decimal
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from deployments.clock import Clock
from deployments.ports import Budget, BudgetState, Ledger, Principal, Scope, TenantId, Unit, Window
from deployments.tenancy.prices import MICROS
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import TenantName, parse_model, read_object

_MAX_BODY_BYTES = 64 * 1024
_MOST = 2**53 - 1  # what JSON and the audit log can hold exactly
_MOST_MONEY = Decimal(_MOST // MICROS)
_MOST_PERIOD_S = 10 * 366 * 86_400

_KeyName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9_-]{1,64}\z")]
_Money = Annotated[Decimal, Field(strict=False, gt=0, le=_MOST_MONEY, decimal_places=6)]
_Percent = Annotated[int, Field(ge=1, le=1000)]


class BudgetBody(BaseModel):
    """What may be used in a window, by a whole tenant, by one of its `team`s, or by the key `key_id`.

    Either `tokens` (input and output together) or `money`, in the currency of the price table, as a decimal string or a
    number with six decimal places at most. Windows are those of the calendar in UTC; `fixed` ones are `every_s` long,
    one after the other from `anchor_ms` (now, when absent). `alerts`: percentages that are recorded when they are
    reached, once a window. Not `hard`: requests go on, and the alerts tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenant: TenantName
    team: TenantName | None = None
    key_id: _KeyName | None = None
    tokens: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    money: _Money | None = None
    window: Window = Window.MONTH
    every_s: Annotated[int, Field(ge=60, le=_MOST_PERIOD_S)] | None = None
    anchor_ms: Annotated[int, Field(ge=0, le=_MOST)] | None = None
    alerts: Annotated[tuple[_Percent, ...], Field(strict=False, max_length=10)] = (50, 80, 100)
    hard: bool = True

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.tokens is None) == (self.money is None):
            raise ValueError("set either tokens or money")
        if self.team is not None and self.key_id is not None:
            raise ValueError("a budget belongs to a team or to a key, not to both")
        if (self.window is Window.FIXED) != (self.every_s is not None):
            raise ValueError("a window is fixed when it has every_s, and only then")
        if self.anchor_ms is not None and self.window is not Window.FIXED:
            raise ValueError("only fixed windows have an anchor_ms")
        return self

    def to_budget(self, budget_id: str, now_ms: int) -> Budget:
        """The same, as the ledger counts."""
        return Budget(
            budget_id=budget_id,
            tenant=self.tenant,
            team=self.team,
            key_id=self.key_id,
            unit=Unit.TOKENS if self.money is None else Unit.MICROS,
            amount=int(self.money * MICROS) if self.money is not None else self.tokens or 0,
            window=self.window,
            anchor_ms=(now_ms if self.anchor_ms is None else self.anchor_ms) if self.window is Window.FIXED else 0,
            every_s=self.every_s,
            alerts=tuple(sorted(set(self.alerts))),
            hard=self.hard,
            created_ms=now_ms,
        )


class BudgetReply(BaseModel):
    """A budget, and where it stands in its present window.

    `amount`, `used`, `reserved` (for open requests) and `remaining` are tokens, or millionths of `currency` where
    `unit` is `micros`. `window_ends_ms` null: it never does. `told`: the percentages of `alerts` that were reached. A
    budget whose id begins with `of_` is what its key was created with.
    """

    model_config = ConfigDict(frozen=True)

    object: str = "budget"
    id: str
    tenant: str
    team: str | None
    key_id: str | None
    unit: str
    currency: str | None
    amount: int
    used: int
    reserved: int
    remaining: int
    window: str
    every_s: int | None
    window_starts_ms: int
    window_ends_ms: int | None
    alerts: list[int]
    told: list[int]
    hard: bool


class BudgetListReply(BaseModel):
    """Budgets, those of tenants before those of teams and keys."""

    model_config = ConfigDict(frozen=True)

    object: str = "list"
    data: list[BudgetReply]


class BudgetGone(BaseModel):
    """A budget that holds no more."""

    model_config = ConfigDict(frozen=True)

    object: str = "budget.removed"
    id: str


def create_budgets_router(authorizer: Authorizer, ledger: Ledger, clock: Clock) -> APIRouter:
    """The routes that set and show budgets."""
    router = APIRouter(tags=["budgets"])

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    async def asker(request: Request) -> Principal:
        return await authorizer(request, Scope.INFERENCE)

    @router.post("/v1/admin/budgets", status_code=201)
    async def create(request: Request, principal: Annotated[Principal, Depends(administrator)]) -> BudgetReply:
        """Set a new budget; what was used in its window counts at once."""
        body = parse_model(BudgetBody, await read_object(request, _MAX_BODY_BYTES))
        budget = body.to_budget(f"bdg_{secrets.token_hex(8)}", clock.now_ms())
        return _reply(await ledger.put_budget(budget, actor=principal.key_id))

    @router.get("/v1/admin/budgets", dependencies=[Depends(administrator)])
    async def list_budgets(tenant: str | None = None) -> BudgetListReply:
        """Where the budgets of one tenant, or of all, stand."""
        found = await ledger.budgets(None if tenant is None else TenantId(tenant))
        return BudgetListReply(data=[_reply(each) for each in found])

    @router.put("/v1/admin/budgets/{budget_id}")
    async def replace(
        budget_id: _KeyName, request: Request, principal: Annotated[Principal, Depends(administrator)]
    ) -> BudgetReply:
        """Set a budget under a name of your own, in place of the one that has it."""
        body = parse_model(BudgetBody, await read_object(request, _MAX_BODY_BYTES))
        budget = body.to_budget(budget_id, clock.now_ms())
        return _reply(await ledger.put_budget(budget, actor=principal.key_id))

    @router.delete("/v1/admin/budgets/{budget_id}")
    async def remove(budget_id: str, principal: Annotated[Principal, Depends(administrator)]) -> BudgetGone:
        """End a budget; what was used stays in the books."""
        await ledger.remove_budget(budget_id, actor=principal.key_id)
        return BudgetGone(id=budget_id)

    @router.get("/v1/budgets")
    async def mine(principal: Annotated[Principal, Depends(asker)]) -> BudgetListReply:
        """Where the budgets stand that hold for the key that asks: its own, its team's, its tenant's."""
        found = await ledger.budgets(principal.tenant)
        return BudgetListReply(data=[_reply(each) for each in found if _holds_for(each.budget, principal)])

    return router


def _holds_for(budget: Budget, principal: Principal) -> bool:
    own = budget.key_id is None or budget.key_id == principal.key_id
    return own and (budget.team is None or budget.team == principal.team)


def _reply(state: BudgetState) -> BudgetReply:
    budget = state.budget
    return BudgetReply(
        id=budget.budget_id,
        tenant=budget.tenant,
        team=budget.team,
        key_id=budget.key_id,
        unit=budget.unit.value,
        currency=state.currency if budget.unit is Unit.MICROS else None,
        amount=budget.amount,
        used=state.used,
        reserved=state.reserved,
        remaining=state.remaining,
        window=budget.window.value,
        every_s=budget.every_s,
        window_starts_ms=state.start_ms,
        window_ends_ms=state.end_ms,
        alerts=[*budget.alerts],
        told=[*state.told],
        hard=budget.hard,
    )
