"""Where budgets stand, for Prometheus: read from the ledger at each scrape.

A budget of a tenant or a team is a series of its own, by its id: `gatehouse budgets list` says whose it is. Budgets of
keys are counted, not listed: there may be as many as there are keys.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.limits import BudgetState

NEAR: Final = 0.8
"""From this share of its amount on, a budget is nearly used up."""

_MADE_UP: Final = re.compile(r"bdg_[0-9a-f]{16}")
_LABELS: Final = ("budget", "scope", "unit", "hard")


def label_of(budget_id: str) -> str:
    """A budget on `/metrics`, which takes no key and must name nobody: an id that we made up, else its SHA-256.

    Of a name that somebody chose the first 16 hex digits are shown: `printf NAME | sha256sum`.
    """
    return budget_id if _MADE_UP.fullmatch(budget_id) else hashlib.sha256(budget_id.encode()).hexdigest()[:16]


class BudgetCollector(Collector):
    """Says nothing before the first `tell`: nobody has asked the ledger yet."""

    def __init__(self) -> None:
        self._asked = False
        self._states: Sequence[BudgetState] | None = None

    def tell(self, states: Sequence[BudgetState] | None) -> None:
        """What the ledger says of every budget; None: it does not answer, and no figure of before is shown again."""
        self._asked = True
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        if not self._asked:
            return
        yield GaugeMetricFamily("gatehouse_ledger_up", "1 when the ledger answers.", float(self._states is not None))
        if self._states is None:
            return
        used = GaugeMetricFamily(
            "gatehouse_budget_used_ratio", "Used in the present window over the amount; 1 and more: spent.",
            labels=_LABELS,
        )  # fmt: skip
        remaining = GaugeMetricFamily(
            "gatehouse_budget_remaining", "What the next request may set aside, in tokens or micros.", labels=_LABELS
        )
        keys = {"ok": 0, "near": 0, "spent": 0}
        for state in self._states:
            budget, ratio = state.budget, state.used / state.budget.amount
            if budget.key_id is not None:
                keys["spent" if ratio >= 1 else "near" if ratio >= NEAR else "ok"] += 1
                continue
            scope = "tenant" if budget.team is None else "team"
            labels = (label_of(budget.budget_id), scope, budget.unit.value, str(budget.hard).lower())
            used.add_metric(labels, ratio)
            remaining.add_metric(labels, state.remaining)
        yield used
        yield remaining
        counted = GaugeMetricFamily(
            "gatehouse_key_budgets", "Budgets of keys: ok, near (80 % and more), spent.", labels=["state"]
        )
        for word, count in keys.items():
            counted.add_metric([word], count)
        yield counted
