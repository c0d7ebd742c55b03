"""Budgets of keys: what each may use in all, what it used, and what is set aside for requests that are open.

    used + reserved <= budget, whatever is asked for at the same moment

A reservation is an upper estimate, so a request is refused as soon as its own would not fit. It stays until the books
have what was used in its place: one that nobody ever settles stays for good, because what it used is not known. Only
usage beyond its reservation, counted in full, can lift the sum above the budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.errors import BudgetExceeded
from deployments.ports import Grant, KeyId, Limit, LimitKind


@dataclass(frozen=True, slots=True)
class Booking:
    """What the books say of a grant that was settled. `new` is False when an earlier settlement counts.

    `tokens`: input and output together.
    """

    grant: Grant
    tokens: int
    new: bool


@dataclass(slots=True)
class Account:
    """One key with a budget, in tokens. `reserved` maps the ids of open grants to what was set aside for each."""

    budget: int
    used: int = 0
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    reserved_total: int = field(init=False)

    def __post_init__(self) -> None:
        self.reserved_total = sum(self.reserved.values())

    @property
    def remaining(self) -> int:
        """What the next request may reserve; 0 when nothing is left."""
        return max(0, self.budget - self.used - self.reserved_total)

    def fits(self, tokens: int) -> bool:
        """True when a reservation of `tokens` keeps the budget."""
        return self.used + self.reserved_total + tokens <= self.budget

    def reserve(self, grant_id: str, tokens: int) -> None:
        """Set `tokens` aside for a new grant."""
        self.reserved[grant_id] = tokens
        self.reserved_total += tokens

    def book(self, booking: Booking) -> None:
        """Put usage in the place of its reservation, once."""
        held = self.reserved.pop(booking.grant.grant_id, None)
        if held is None and not booking.new:
            return
        self.reserved_total -= held or 0  # a crash may have forgotten the reservation: the usage counts all the same
        self.used += booking.tokens


class Budgets:
    """The accounts of the keys that have a budget; of other keys it knows nothing. One process counts them."""

    def __init__(self) -> None:
        self._accounts: dict[KeyId, Account] = {}

    def load(self, accounts: Mapping[KeyId, Account]) -> None:
        """Take over what the books say."""
        self._accounts.update(accounts)

    def open(self, key_id: KeyId, budget: int) -> None:
        """Count for a new key."""
        self._accounts[key_id] = Account(budget)

    def check(self, key_id: KeyId, tokens: int) -> None:
        """Raise `BudgetExceeded` when the key may not set `tokens` aside."""
        account = self._accounts.get(key_id)
        if account is None or account.fits(tokens):
            return
        waiting = f"{account.reserved_total} set aside for open requests, " if account.reserved_total else ""
        raise BudgetExceeded(
            f"Budget exceeded for key {key_id}: used {account.used} of {account.budget} tokens, {waiting}"
            f"this request may need {tokens}; the budget does not reset."
        )

    def reserve(self, key_id: KeyId, grant_id: str, tokens: int) -> tuple[Limit, ...]:
        """Set `tokens` aside, which were checked in the same step; where the key stands now, if it has a budget."""
        account = self._accounts.get(key_id)
        if account is None:
            return ()
        account.reserve(grant_id, tokens)
        return (Limit(LimitKind.TOKENS, account.budget, account.remaining, 0),)

    def book(self, booking: Booking) -> None:
        """Follow the books."""
        account = self._accounts.get(booking.grant.key_id)
        if account is not None:
            account.book(booking)
