"""Every metric that a dashboard or an alert may ask for, and what exports it.

What the ingress exports is read from its real registry, so it cannot be listed wrongly here. What Ray, vLLM, the GPU
exporter and Kubernetes export is listed by name, as far as it is used; `tests/manifests/test_dashboards.py` looks the
names of the first two up in the installed packages.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from deployments.gate.shadow import ShadowCounts
from deployments.limits import Budget, BudgetState, Unit, Window
from deployments.ports import ModelId, Tier, TierState
from deployments.rollouts import Kind as RolloutKind
from deployments.rollouts import Plan, Rollout, Standing
from deployments.tenancy.prices import Price, PriceTable
from serve_app.api.guard_metrics import make_guard_meter
from serve_app.api.metrics import Counters
from serve_app.api.route_metrics import make_route_meter


class Kind(StrEnum):
    """What a family is; decides the names of its samples."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Origin(StrEnum):
    """Who exports it: each is scraped somewhere else."""

    INGRESS = "ingress"
    ENGINE = "engine"
    SERVE = "serve"
    VLLM = "vllm"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is without the endings of samples; `labels` are those that expressions may use."""

    name: str
    kind: Kind
    labels: Set[str]
    origin: Origin

    @property
    def samples(self) -> Sequence[str]:
        """The names that Prometheus stores."""
        match self.kind:
            case Kind.GAUGE:
                return (self.name,)
            case Kind.COUNTER:
                return (f"{self.name}_total",)
            case Kind.HISTOGRAM:
                return tuple(f"{self.name}_{ending}" for ending in ("bucket", "sum", "count"))


_SCRAPED: Final = frozenset({"job", "instance", "namespace", "pod"})
"""Labels that a scrape adds to whatever it finds."""

_QUEUE: Final = frozenset({"model", "priority"})
_DEPLOYMENT: Final = frozenset({"deployment", "application"})
_MODEL: Final = frozenset({"model_name", "ReplicaId"})
_GPU: Final = frozenset({"gpu", "Hostname", "modelName"})


def _foreign() -> Sequence[Family]:
    """What other processes than the ingress export. Ray's agent puts `ray_` before each name of its side."""

    def families(origin: Origin, kind: Kind, labels: Set[str], *names: str) -> Sequence[Family]:
        return [Family(name, kind, labels, origin) for name in names]

    return (
        *families(Origin.ENGINE, Kind.GAUGE, _QUEUE, "ray_gatehouse_queue_waiting"),
        *families(Origin.ENGINE, Kind.HISTOGRAM, _QUEUE, "ray_gatehouse_queue_seconds"),
        *families(Origin.ENGINE, Kind.COUNTER, _QUEUE, "ray_gatehouse_queue_refused"),
        *families(Origin.ENGINE, Kind.HISTOGRAM, frozenset({"model"}), "ray_gatehouse_abort_seconds"),
        *families(
            Origin.SERVE,
            Kind.GAUGE,
            _DEPLOYMENT,
            "ray_serve_deployment_replica_healthy",
            "ray_serve_deployment_status",
            "ray_serve_deployment_queued_queries",
            "ray_serve_num_ongoing_requests_at_replicas",
        ),
        *families(Origin.SERVE, Kind.COUNTER, _DEPLOYMENT, "ray_serve_health_check_failures"),
        *families(
            Origin.VLLM,
            Kind.GAUGE,
            _MODEL,
            "ray_vllm_kv_cache_usage_perc",
            "ray_vllm_num_requests_running",
            "ray_vllm_num_requests_waiting",
        ),
        *families(
            Origin.VLLM,
            Kind.COUNTER,
            _MODEL,
            "ray_vllm_generation_tokens",
            "ray_vllm_num_preemptions",
            "ray_vllm_prefix_cache_hits",
            "ray_vllm_prefix_cache_queries",
            "ray_vllm_prompt_tokens",
        ),
        *families(
            Origin.VLLM,
            Kind.HISTOGRAM,
            _MODEL,
            "ray_vllm_e2e_request_latency_seconds",
            "ray_vllm_inter_token_latency_seconds",
            "ray_vllm_time_to_first_token_seconds",
        ),
        *families(
            Origin.GPU,
            Kind.GAUGE,
            _GPU,
            "DCGM_FI_DEV_FB_FREE",
            "DCGM_FI_DEV_FB_USED",
            "DCGM_FI_DEV_GPU_TEMP",
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_POWER_USAGE",
            "DCGM_FI_DEV_XID_ERRORS",
        ),
    )


def ingress_registry() -> CollectorRegistry:
    """The registry of an ingress replica that shows every family it can show."""
    counters = Counters(PriceTable("USD", {ModelId("model"): Price(1, 1, 1, 1)}))
    make_guard_meter(counters)
    tier = TierState()
    make_route_meter(counters).watch(lambda: {Tier.BASE: tier})
    counters.watch_shadow(lambda: ShadowCounts(None))
    budget = Budget("bdg", "tenant", None, None, Unit.TOKENS, 1, Window.DAY)
    counters.budgets.tell([BudgetState(budget, 0, None, 0, 0)])
    plan = Plan("ro", RolloutKind.MODEL, "model", "revision", "before", "change")
    counters.rollouts.tell([Rollout(plan, Standing())], 0)
    return counters.registry


def _labels_of(collector: object, metric: Metric) -> Set[str]:
    declared = getattr(collector, "_labelnames", None)
    if declared is not None:
        return frozenset(declared)
    named = getattr(metric, "_labelnames", ())
    return frozenset(named)


def ingress_families() -> Sequence[Family]:
    """What `/metrics` of an ingress replica shows."""
    registry = ingress_registry()
    found: list[Family] = []
    for collector in list(registry._collector_to_names):  # pyright: ignore[reportPrivateUsage]
        for metric in collector.collect():
            labels = _labels_of(collector, metric)
            found.append(Family(metric.name, Kind(metric.type), labels, Origin.INGRESS))
    return found


def inventory() -> Mapping[str, Family]:
    """Every family, by the names of its samples."""
    return {name: family for family in (*ingress_families(), *_foreign()) for name in family.samples}


def labels_of(family: Family) -> Set[str]:
    """The labels that an expression over this family may use."""
    return family.labels | _SCRAPED | (frozenset({"le"}) if family.kind is Kind.HISTOGRAM else frozenset[str]())
