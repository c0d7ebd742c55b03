"""Budgets of tenants, teams and keys: what each may use in its window, what it used, and what is set aside.

    used + reserved <= amount, whatever is asked for at the same moment

A reservation is an upper estimate, so a request is refused as soon as its own would not fit into one of the budgets
that hold for it; then it counts in none. It stays until the books have what was used in its place. Only usage beyond
its reservation, counted in full, can lift the sum above the amount: by no more than the requests that were open then
used beyond theirs. A request is charged to the window in which it was admitted, whenever it ends.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from deployments.errors import BudgetExceeded
from deployments.limits import Budget, BudgetState, Unit, Window
from deployments.ports import Grant, KeyId, Limit, LimitKind
from deployments.tenancy.prices import GPU_SECONDS, MICROS
from deployments.tenancy.windows import rfc3339, window_of

OF_KEY = "of_"
"""What the ids of budgets begin with that belong to a key from its creation."""
ROOM = 16
"""Requests of the same size that must fit beside one that is granted before anybody asks for it."""
_FULL = 100
_ALMOST = 90


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes or may take of budgets, in both of their units."""

    tokens: int
    micros: int

    def of(self, unit: Unit) -> int:
        """The amount in one of them."""
        return self.tokens if unit is Unit.TOKENS else self.micros


@dataclass(frozen=True, slots=True)
class Booking:
    """What the books say of a grant that was settled. `new` is False when an earlier settlement counts.

    `cost` is what the books have more since then: for a settlement that takes the place of an estimate, which was made
    when its request was thought lost, the difference.
    """

    grant: Grant
    cost: Cost
    new: bool


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget has reached `percent` of its amount in the window from `start_ms`."""

    state: BudgetState
    percent: int


@dataclass(slots=True)
class Account:
    """One budget in its present window. `reserved` maps the ids of open grants to what was set aside for each."""

    budget: Budget
    start_ms: int
    end_ms: int | None
    used: int = 0
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    told: set[int] = field(default_factory=set[int])
    reserved_total: int = field(init=False)

    def __post_init__(self) -> None:
        self.reserved_total = sum(self.reserved.values())

    @classmethod
    def opened(cls, budget: Budget, now_ms: int) -> "Account":
        """A budget of which nothing was used."""
        return cls(budget, *window_of(budget, now_ms))

    def state(self, currency: str) -> BudgetState:
        """Where it stands; micros are millionths of `currency`."""
        told = tuple(sorted(self.told))
        return BudgetState(self.budget, self.start_ms, self.end_ms, self.used, self.reserved_total, told, currency)

    @property
    def remaining(self) -> int:
        """What the next request may reserve; 0 when nothing is left."""
        return max(0, self.budget.amount - self.used - self.reserved_total)

    def roll(self, now_ms: int) -> None:
        """Begin the window that `now_ms` is in. A clock that goes back does not bring an old one back."""
        if self.end_ms is not None and now_ms >= self.end_ms:
            self.start_ms, self.end_ms = window_of(self.budget, now_ms)
            self.used, self.reserved_total = 0, 0
            self.reserved.clear()
            self.told.clear()

    def fits(self, amount: int) -> bool:
        """True when a reservation of `amount` keeps the budget, or the budget only tells."""
        return not self.budget.hard or self.used + self.reserved_total + amount <= self.budget.amount

    def reserve(self, grant_id: str, amount: int) -> None:
        """Set `amount` aside for a new grant."""
        self.reserved[grant_id] = amount
        self.reserved_total += amount

    def give_back(self, grant_id: str) -> int | None:
        """End a reservation; what it held, None when there is none."""
        held = self.reserved.pop(grant_id, None)
        self.reserved_total -= held or 0
        return held

    def book(self, booking: Booking) -> None:
        """Put usage in the place of its reservation, once."""
        held = self.give_back(booking.grant.grant_id)
        if held is None and not booking.new:
            return
        # A crash may have forgotten the reservation: the usage counts all the same, in the window of its admission.
        if held is not None or booking.grant.admitted_ms >= self.start_ms:
            self.used += booking.cost.of(self.budget.unit)

    def reached(self) -> list[int]:
        """Percentages that were reached and that nobody was told of yet."""
        return [
            percent
            for percent in self.budget.alerts
            if percent not in self.told and self.used * 100 >= self.budget.amount * percent
        ]

    def refusal(self, amount: int, currency: str) -> str:
        """Why a request that may take `amount` is refused, for its client."""
        shown, unit = _shown(self.budget.unit, currency)
        waiting = f"{shown(self.reserved_total)} set aside for open requests, " if self.reserved_total else ""
        again = "the budget does not reset" if self.end_ms is None else f"it resets at {rfc3339(self.end_ms)}"
        window = "" if self.budget.window is Window.TOTAL else f" of this {_NAMES[self.budget.window]}"
        return (
            f"Budget{window} exceeded for {self.budget.bearer}: used {shown(self.used)} of {shown(self.budget.amount)} "
            f"{unit}, {waiting}this request may need {shown(amount)}; {again}."
        )


_NAMES = {
    Window.HOUR: "hour",
    Window.DAY: "day",
    Window.WEEK: "week",
    Window.MONTH: "month",
    Window.FIXED: "period",
}


class Budgets:
    """The accounts of whoever has a budget; of others it knows nothing. One process counts them."""

    def __init__(self, currency: str = "USD") -> None:
        self._currency = currency
        self._accounts: dict[str, Account] = {}
        self._of: dict[str, list[Account]] = {}

    def put(self, accounts: Sequence[Account]) -> list[BudgetState]:
        """Count these, in place of accounts of the same budgets; where they stand."""
        for account in accounts:
            self.remove(account.budget.budget_id)
            self._accounts[account.budget.budget_id] = account
            self._of.setdefault(account.budget.bearer, []).append(account)
        return [account.state(self._currency) for account in accounts]

    def remove(self, budget_id: str) -> None:
        """Count a budget no more; unknown ones are none."""
        account = self._accounts.pop(budget_id, None)
        if account is not None:
            mine = self._of[account.budget.bearer]
            mine.remove(account)
            if not mine:
                del self._of[account.budget.bearer]

    def states(self, now_ms: int) -> list[BudgetState]:
        """Where all of them stand, those of tenants first."""
        for account in self._accounts.values():
            account.roll(now_ms)
        found = [account.state(self._currency) for account in self._accounts.values()]
        return sorted(found, key=lambda each: (each.budget.tenant, each.budget.team or "", each.budget.key_id or ""))

    def state(self, budget_id: str, now_ms: int) -> BudgetState | None:
        """Where one of them stands."""
        account = self._accounts.get(budget_id)
        if account is None:
            return None
        account.roll(now_ms)
        return account.state(self._currency)

    def check(self, names: Iterable[str], cost: Cost, now_ms: int) -> None:
        """Raise `BudgetExceeded` when one of the bearers may not set so much aside."""
        for account in self._accounts_of(names, now_ms):
            amount = cost.of(account.budget.unit)
            if not account.fits(amount):
                raise BudgetExceeded(account.refusal(amount, self._currency))

    def refusing(self, names: Iterable[str], cost: Cost, now_ms: int) -> list[Alert]:
        """Whom to tell that requests are refused now, though less than all was used."""
        found = list[Alert]()
        for account in self._accounts_of(names, now_ms):
            spent = account.used * 100 >= account.budget.amount * _ALMOST  # not: one request too large for all of it
            if spent and not account.fits(cost.of(account.budget.unit)) and _FULL in account.budget.alerts:
                found += self._tell(account, [_FULL])
        return found

    def plenty(self, names: Iterable[str], cost: Cost, now_ms: int) -> bool:
        """True when all hard budgets have room for many more requests of this size."""
        return all(
            not account.budget.hard or account.remaining >= ROOM * cost.of(account.budget.unit)
            for account in self._accounts_of(names, now_ms)
        )

    def give_back(self, names: Iterable[str], grant_id: str, now_ms: int) -> None:
        """Nothing of a reservation was used."""
        for account in self._accounts_of(names, now_ms):
            account.give_back(grant_id)

    def reserve(self, names: Iterable[str], grant_id: str, cost: Cost, now_ms: int) -> tuple[Limit, ...]:
        """Set aside what was checked in the same step; where budgets of tokens stand now."""
        found = list[Limit]()
        for account in self._accounts_of(names, now_ms):
            account.reserve(grant_id, cost.of(account.budget.unit))
            if account.budget.unit is Unit.TOKENS and account.budget.hard:
                reset_s = 0 if account.end_ms is None else max(0, -(-(account.end_ms - now_ms) // 1000))
                found.append(Limit(LimitKind.TOKENS, account.budget.amount, account.remaining, reset_s))
        return tuple(found)

    def book(self, names: Iterable[str], booking: Booking, now_ms: int) -> list[Alert]:
        """Follow the books; whom to tell of what was reached."""
        found = list[Alert]()
        for account in self._accounts_of(names, now_ms):
            account.book(booking)
            found += self._tell(account, account.reached())
        return found

    def untold(self, alert: Alert) -> None:
        """Telling failed: the next settlement tries again."""
        account = self._accounts.get(alert.state.budget.budget_id)
        if account is not None and account.start_ms == alert.state.start_ms:
            account.told.discard(alert.percent)

    def _tell(self, account: Account, percents: Sequence[int]) -> list[Alert]:
        fresh = [percent for percent in percents if percent not in account.told]
        account.told.update(fresh)
        return [Alert(account.state(self._currency), percent) for percent in fresh]

    def _accounts_of(self, names: Iterable[str], now_ms: int) -> list[Account]:
        found = [account for name in names for account in self._of.get(name, ())]
        for account in found:
            account.roll(now_ms)
        return found


def budget_of_key(key_id: KeyId, tenant: str, tokens: int) -> Budget:
    """What a key may use in all, as it was given at its creation."""
    return Budget(f"{OF_KEY}{key_id}", tenant, None, key_id, Unit.TOKENS, tokens, Window.TOTAL)


def money(micros: int, currency: str) -> str:
    """An amount in its currency, exactly, with two decimal places at least: `1.20`, `0.000125`."""
    sign, whole = ("-", -micros) if micros < 0 else ("", micros)
    decimals = f"{whole % MICROS:06d}".rstrip("0").ljust(0 if currency == GPU_SECONDS else 2, "0")
    return f"{sign}{whole // MICROS}" + (f".{decimals}" if decimals else "")


def _shown(unit: Unit, currency: str) -> tuple[Callable[[int], str], str]:
    if unit is Unit.TOKENS:
        return str, "tokens"
    return (lambda micros: money(micros, currency)), currency
