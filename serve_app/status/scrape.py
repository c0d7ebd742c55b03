"""What `/metrics` of an ingress replica says of itself. Needs no key."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from serve_app.observe.dashboards import FAILED
from serve_app.status.facts import AuditFacts, Budgets, CanaryFacts, QueueFacts, Served, TierFacts, Unseen

SLOW_S: Final = 5.0
"""The objective of a first token, as in `configs/alerts/slo.rules.yaml`."""

NEAR: Final = 0.8
_FAILED: Final = re.compile(FAILED.split('"')[1])
_TTFT: Final = "gen_ai_server_time_to_first_token_seconds"
_QUIET: Final = Unseen("/metrics does not say")


class Scrape:
    """One scrape. `ValueError` for text that is none."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(sample)

    def value(self, name: str) -> float | None:
        """A gauge without labels; None when it is absent or NaN."""
        found = self._samples.get(name, [])
        return None if not found or math.isnan(found[0].value) else found[0].value

    def sum(self, name: str, chosen: Callable[[Mapping[str, str]], bool] = lambda labels: True) -> float:
        """The sum over the samples whose labels are chosen; 0 when there are none."""
        return sum(each.value for each in self._samples.get(name, []) if chosen(each.labels))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values by one label."""
        return {each.labels[label]: each.value for each in self._samples.get(name, [])}

    def tiers(self) -> Mapping[str, TierFacts] | Unseen:
        """Every tier."""
        up = self.by("gatehouse_tier_up", "tier")
        columns = {
            name: self.by(f"gatehouse_tier_{name}", "tier") for name in ("cold", "full", "pressure", "in_flight")
        }
        if not up:
            return _QUIET
        return {
            tier: TierFacts(
                up=value == 1,
                cold=columns["cold"].get(tier) == 1,
                full=columns["full"].get(tier) == 1,
                pressure=columns["pressure"].get(tier, 0.0),
                in_flight=int(columns["in_flight"].get(tier, 0)),
            )
            for tier, value in sorted(up.items(), key=lambda each: len(each[0]))
        }

    def served(self) -> Served:
        """What was asked and how it went, since the replica started."""

        def model(labels: Mapping[str, str]) -> bool:
            return labels.get("dialect") != "other"

        begun = self.sum(f"{_TTFT}_count")
        quick = self.sum(f"{_TTFT}_bucket", lambda labels: float(labels["le"]) == SLOW_S)
        return Served(
            asked=self.sum("gatehouse_requests_total", lambda labels: model(labels) and labels["status"] != "stream"),
            failed=self.sum(
                "gatehouse_requests_total",
                lambda labels: model(labels) and _FAILED.fullmatch(labels["code"]) is not None,
            ),
            begun=begun,
            slow=begun - quick,
            p95_s=quantile(0.95, self._buckets(f"{_TTFT}_bucket")),
        )

    def queue(self) -> QueueFacts | Unseen:
        """The approval queue."""
        up = self.value("gatehouse_approvals_up")
        if up is None:
            return _QUIET
        return QueueFacts(
            up=up == 1,
            waiting=self._count("gatehouse_approvals_waiting"),
            oldest_s=self.value("gatehouse_approvals_oldest_seconds"),
            unreported=self._count("gatehouse_approvals_unreported"),
            frozen=self._count("gatehouse_approvals_frozen"),
            notices_oldest_s=self.value("gatehouse_approvals_notices_oldest_seconds"),
        )

    def canary(self) -> CanaryFacts | Unseen:
        """The gate's canary."""
        at_s = self.value("gatehouse_gate_canary_timestamp_seconds")
        if at_s is None:
            return _QUIET
        return CanaryFacts(
            held=self.value("gatehouse_gate_canary_held") == 1,
            escaped=self.value("gatehouse_gate_canary_escaped") == 1,
            at_s=at_s,
        )

    def audit(self) -> AuditFacts | Unseen:
        """The audit log."""
        up = self.value("gatehouse_audit_up")
        if up is None:
            return _QUIET
        records = self._count("gatehouse_audit_records")
        return AuditFacts(
            up=up == 1,
            records=records,
            backlog=self._count("gatehouse_audit_backlog_events"),
            dropped=self._count("gatehouse_audit_dropped_events"),
            unsealed=self._count("gatehouse_audit_unsealed_records"),
            checkpoint_late_s=self.value("gatehouse_audit_checkpoint_age_seconds") or 0.0,
            disk_free_bytes=self._count("gatehouse_audit_disk_free_bytes"),
            witnesses=self._count("gatehouse_audit_witnesses"),
            witness_age_s=self.value("gatehouse_audit_witness_age_seconds"),
            witness_stale=self.value("gatehouse_audit_witness_stale") == 1,
            export_age_s=self.value("gatehouse_audit_export_age_seconds"),
            exported=records == 0 or self._count("gatehouse_audit_export_lag_records") < records,
        )

    def budgets(self) -> Budgets | Unseen:
        """Budgets of tenants and teams."""
        if self.value("gatehouse_ledger_up") != 1:
            return Unseen("the ledger does not answer")
        found = self._samples.get("gatehouse_budget_used_ratio", [])
        spent = [each for each in found if each.value >= 1]
        return Budgets(
            near=sum(NEAR <= each.value < 1 for each in found),
            spent=len(spent),
            spent_hard=sum(each.labels["hard"] == "true" for each in spent),
        )

    def _count(self, name: str) -> int:
        return int(self.value(name) or 0)

    def _buckets(self, name: str) -> Sequence[tuple[float, float]]:
        found: dict[float, float] = {}
        for each in self._samples.get(name, []):
            bound = float(each.labels["le"])
            found[bound] = found.get(bound, 0.0) + each.value
        return sorted(found.items())


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """A quantile of cumulative counts by upper bound, as Prometheus estimates it; None without observations."""
    if not buckets or buckets[-1][1] == 0:
        return None
    wanted = share * buckets[-1][1]
    below, lower = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below) if count > below else bound
        below, lower = count, bound
    return lower
