"""Prometheus metrics of one ingress replica. No key, session or request id is ever a label."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deployments.errors import EngineFailed, EngineTimeout, GatehouseError
from deployments.gate.shadow import ShadowCounts
from deployments.ingress.trail import Recorder
from deployments.ports import (
    AuditStatus,
    Denied,
    Dialect,
    Held,
    ModelId,
    Released,
    Risk,
    RouteDecision,
    Usage,
    Verdict,
    Withheld,
)
from deployments.tenancy.prices import MICROS, PriceTable, cost_micros
from serve_app.api.budget_metrics import BudgetCollector
from serve_app.api.gate_health import GateGauges
from serve_app.api.probes import or_nan
from serve_app.api.rollout_metrics import RolloutCollector
from serve_app.api.shadow_metrics import ShadowCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
_PACE_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


_DIALECTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
}


_AUDIT_GAUGES = {
    "up": "1 when the audit sink acknowledges records.",
    "records": "Records in the audit log.",
    "queued_events": "Events that wait for their fdatasync.",
    "unsealed_records": "Acknowledged records that no checkpoint covers yet.",
    "checkpoint_age_seconds": "For how long the oldest record without a checkpoint has waited for one.",
    "disk_free_bytes": "Room on the log's disk.",
    "witnesses": "Witnesses that are configured.",
    "witness_lag_records": "Records that the quorum of witnesses has not confirmed.",
    "witness_age_seconds": "Since the quorum of witnesses confirmed the log; NaN before the first time.",
    "witness_stale": "1 while R2 and R3 calls are held back because no quorum confirms the log.",
    "export_lag_records": "Records that are not exported yet.",
    "export_age_seconds": "Since the last export, before the first one since the sink's start; NaN without an export.",
}


class Counters:
    """Everything the ingress counts. Implements `deployments.ingress.meter.Meter`."""

    def __init__(self, prices: PriceTable | None = None) -> None:
        """`prices`: what the ledger books by; without any there is no metric of cost."""
        self.registry = registry = CollectorRegistry()
        self._prices = prices or PriceTable("", {})
        self._requests = Counter(
            "gatehouse_requests", "Requests by outcome.", ["dialect", "model", "status", "code"], registry=registry
        )
        self._routes = Counter("gatehouse_route", "Routing decisions.", ["tier", "effort", "reason"], registry=registry)
        self._policy = Counter(
            "gatehouse_policy", "Gate verdicts on tool calls.", ["risk", "decision", "dialect"], registry=registry
        )
        self._withheld = Counter(
            "gatehouse_withheld", "What stayed of replies, whatever the gate said.", ["dialect", "reason"],
            registry=registry,
        )  # fmt: skip
        self._waits = Histogram(
            "gatehouse_hold_seconds", "Streams that waited for an approval.", ["dialect", "outcome"],
            buckets=(1, 5, 15, 30, 60, 120, 300, 600), registry=registry,
        )  # fmt: skip
        self._repairs = Counter("gatehouse_harmony_recover", "Repairs of malformed model output.", registry=registry)
        self._ends = Counter(
            "gatehouse_stream_end", "How generations ended.", ["dialect", "outcome"], registry=registry
        )
        self._tokens = Counter("gen_ai_client_token_usage", "Tokens by kind.", ["model", "kind"], registry=registry)
        self._cost = Counter(
            "gen_ai_cost", "What answers cost by the price table, in its currency.", ["model", "currency"],
            registry=registry if self._prices.models else None,
        )  # fmt: skip
        self._overhead = Histogram(
            "gatehouse_overhead_seconds",
            "Answered requests: the time in which no call of an engine was open, waits for approvals left out.",
            ["dialect"], buckets=_OVERHEAD_SECONDS, registry=registry,
        )  # fmt: skip
        self._abandoned = Counter(
            "gatehouse_cascade_abandoned", "Attempts of a verified cascade that were not sent.", ["model"],
            registry=registry,
        )  # fmt: skip
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Whole generations.", ["model"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "From the request to the first byte of a stream.",
            ["model"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._pace = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Between tokens of streams: from the first byte to the end, over the tokens after the first.",
            ["model"], buckets=_PACE_SECONDS, registry=registry,
        )  # fmt: skip
        self._backlog = Gauge(
            "gatehouse_audit_backlog_events", "Events that wait for the audit sink.", registry=registry
        )
        self._dropped = Gauge(
            "gatehouse_audit_dropped_events", "Text events lost because the backlog was full.", registry=registry
        )
        self.gate = GateGauges(registry)
        self._audit = {
            name: Gauge(f"gatehouse_audit_{name}", text, registry=registry) for name, text in _AUDIT_GAUGES.items()
        }
        for name in _AUDIT_GAUGES.keys() - {"up"}:
            self._audit[name].set(math.nan)  # nobody has told it yet: a disk with no byte left would be news
        self._begin()

        self.budgets = BudgetCollector()
        registry.register(self.budgets)
        self.rollouts = RolloutCollector()
        registry.register(self.rollouts)
        self._shadow = ShadowCollector()
        registry.register(self._shadow)

    def _begin(self) -> None:
        """Failures that alerts count come in bursts, and what begins with its burst never increases: begin at 0."""
        for dialect, outcome in product(Dialect, ("completed", "failed", "aborted")):
            self._ends.labels(dialect.value, outcome)
        for dialect, code in product(Dialect, (EngineFailed.code, EngineTimeout.code, GatehouseError.code)):
            self._requests.labels(dialect.value, "", "stream", code)
        for dialect in Dialect:
            self._policy.labels(Risk.R3.value, "denied", dialect.value)

    def watch_shadow(self, counts: Callable[[], ShadowCounts]) -> None:
        """From now on `/metrics` tells what a shadow bundle makes of calls."""
        self._shadow.counts = counts

    def routed(self, decision: RouteDecision) -> None:
        """A turn was routed."""
        self._routes.labels(decision.tier.value, decision.effort.value, decision.reason).inc()

    def judged(self, dialect: Dialect, verdicts: Sequence[Verdict]) -> None:
        """The gate's verdicts."""
        for verdict in verdicts:
            match verdict:
                case Released():
                    risk, decision = verdict.risk.value, "released"
                case Held():
                    risk, decision = verdict.risk.value, "held"
                case Denied():
                    risk, decision = verdict.risk.value, "denied"
                case Withheld():
                    risk, decision = "unknown", "withheld"
                case _:
                    assert_never(verdict)
            self._policy.labels(risk, decision, dialect.value).inc()

    def waited(self, dialect: Dialect, seconds: float, verdicts: Sequence[Verdict]) -> None:
        """A stream has waited: `granted`, `refused` when the request ended otherwise, `late` when nothing came."""
        granted = any(isinstance(verdict, Released) for verdict in verdicts)
        outcome = "granted" if granted else "refused" if verdicts else "late"
        self._waits.labels(dialect.value, outcome).observe(seconds)

    def withheld(self, dialect: Dialect, reasons: Sequence[str]) -> None:
        """What stayed of one reply."""
        for reason in reasons:
            self._withheld.labels(dialect.value, reason).inc()

    def repaired(self, notes: Sequence[str]) -> None:
        """Repairs of one reply."""
        self._repairs.inc(len(notes))

    def finished(
        self, dialect: Dialect, model: ModelId, outcome: str, duration_s: float, ttft_s: float | None, usage: Usage
    ) -> None:
        """A generation ended."""
        self._ends.labels(dialect.value, outcome).inc()
        self._duration.labels(model).observe(duration_s)
        if ttft_s is not None:
            self._ttft.labels(model).observe(ttft_s)
        self._used(model, usage)

    def paced(self, model: ModelId, seconds: float) -> None:
        """A stream was answered to its end, with so many seconds between two of its tokens."""
        self._pace.labels(model).observe(seconds)

    def took(self, dialect: Dialect, seconds: float) -> None:
        """A request was answered, and for so long no call of an engine was open for it."""
        self._overhead.labels(dialect.value).observe(seconds)

    def abandoned(self, model: ModelId, usage: Usage) -> None:
        """An attempt of a cascade was not sent; its tokens were used all the same."""
        self._abandoned.labels(model).inc()
        self._used(model, usage)

    def _used(self, model: ModelId, usage: Usage) -> None:
        for kind, tokens in (
            ("input", usage.input_tokens),
            ("cached", usage.cached_tokens),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            self._tokens.labels(model, kind).inc(tokens)
        price = self._prices.price(model)
        if price is not None:
            self._cost.labels(model, self._prices.currency).inc(cost_micros(usage, price) / MICROS)

    def answered(self, dialect: Dialect, model: str) -> None:
        """A request got its 200."""
        self._requests.labels(dialect.value, model, "200", "").inc()

    def refused(self, path: str, status: int, error: BaseException) -> None:
        """A request was refused before an answer began."""
        dialect = _DIALECTS.get(path, "other")
        self._requests.labels(dialect, "", str(status), _code(error)).inc()

    def broken(self, dialect: Dialect, error: BaseException) -> None:
        """A stream broke off after its 200."""
        self._requests.labels(dialect.value, "", "stream", _code(error)).inc()

    def _tell(self, status: AuditStatus | None) -> None:
        """What the audit sink says of itself; None: it does not answer."""
        if status is None:
            self._audit["up"].set(0)
            return
        facts = {
            "up": float(status.failure is None),
            "records": status.size,
            "queued_events": status.queued_events,
            "unsealed_records": status.unsealed,
            "checkpoint_age_seconds": status.unsealed_s,
            "disk_free_bytes": status.disk_free_bytes,
            "witnesses": status.witnesses,
            "witness_lag_records": status.size - (status.witnessed_size or 0) if status.witnesses else 0,
            "witness_age_seconds": or_nan(status.witnessed_age_s),
            "witness_stale": float(status.witness_stale),
            "export_lag_records": 0 if status.exported_age_s is None else status.size - (status.exported_size or 0),
            "export_age_seconds": or_nan(status.exported_age_s),
        }
        for name, value in facts.items():
            self._audit[name].set(value)

    def render(self, recorder: Recorder, audit: AuditStatus | None) -> bytes:
        """The text format of Prometheus. `audit` None: the sink does not answer."""
        self._tell(audit)
        self._backlog.set(recorder.backlog)
        self._dropped.set(recorder.dropped)
        return generate_latest(self.registry)


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, GatehouseError) else "internal_error"
