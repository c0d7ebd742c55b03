"""What Prometheus knows of two generations: how many requests were answered, how many badly, and who is there.

What is old is as good as nothing, so each look asks first how old the newest sample of each generation is, by
Prometheus' own clock. `ray_io_cluster` is the label that the PodMonitors take from the pods.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self

import httpx2
from pydantic import BaseModel, ValidationError

from deployments.rollouts import Metric
from serve_app.canary.values import Blind, Generation, Memory, Sight
from serve_app.observe.dashboards import FAILED, MODEL_API
from serve_app.prometheus import PrometheusApi, PrometheusSilent

PROMETHEUS: Final = "http://127.0.0.1:9090"
INGRESS: Final = "Ingress"
_OLDEST_S: Final = 60.0  # four scrapes of the ingress
_LEAST_WINDOW_S: Final = 60


def increased(selector: str, window_s: int) -> str:
    """By how much counters of each generation grew, in PromQL, those that were born within the window included.

    `increase` alone takes the first sample of a series as its beginning, and so misses the first failure of each kind.
    """
    within, before = f"{selector}[{window_s}s]", f"{selector} offset {window_s}s"
    grown = f"increase({within})"
    return f"sum by (ray_io_cluster) ({grown} + (min_over_time({within}) unless {before}) or {grown})"


def queries(names: Sequence[str], window_s: int, ttft_ms: int, e2e_ms: int) -> Mapping[str, str]:
    """Every query of one look, by what it is for. `names` are RayClusters."""
    chosen = f'ray_io_cluster=~"{"|".join(names)}"'
    requests, first = "gatehouse_requests_total", "gen_ai_server_time_to_first_token_seconds"
    whole = "gen_ai_server_request_duration_seconds"
    return {
        "age": f"time() - min by (ray_io_cluster) (timestamp(gatehouse_audit_up{{{chosen}}}))",
        "ingress": f"count by (ray_io_cluster) (gatehouse_audit_up{{{chosen}}})",
        "replicas": f"sum by (ray_io_cluster, deployment) (ray_serve_deployment_replica_healthy{{{chosen}}})",
        "failed": increased(f"{requests}{{{chosen},{MODEL_API},{FAILED}}}", window_s),
        "requests": increased(f'{requests}{{{chosen},{MODEL_API},status!="stream"}}', window_s),
        "first": increased(f"{first}_count{{{chosen}}}", window_s),
        "first in time": increased(f'{first}_bucket{{{chosen},le="{ttft_ms / 1000:.1f}"}}', window_s),
        "whole": increased(f"{whole}_count{{{chosen}}}", window_s),
        "whole in time": increased(f'{whole}_bucket{{{chosen},le="{e2e_ms / 1000:.1f}"}}', window_s),
    }


class _Series(BaseModel):
    metric: dict[str, str]
    value: tuple[float, float]


class _Data(BaseModel):
    resultType: Literal["vector"]
    result: list[_Series]


class Prometheus:
    """Instant queries to one server."""

    def __init__(self, url: str, token: str | None = None, transport: httpx2.BaseTransport | None = None) -> None:
        """`token`: of a proxy before it, sent as a bearer's."""
        self._api = PrometheusApi(url, token, transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.__exit__()

    def look(
        self, memory: Memory, at_ms: int, generations: Sequence[Generation], least: Mapping[str, int]
    ) -> Sight | Blind:
        """The figures since the goal was set. `least`: the fewest replicas of a deployment at all of the capacity."""
        window_s = max(_LEAST_WINDOW_S, (at_ms - memory.since_ms) // 1000)
        asked = queries([each.name for each in generations], window_s, memory.terms.rules.ttft_ms,
                        memory.terms.rules.e2e_ms)  # fmt: skip
        found: dict[str, dict[tuple[str, str], float]] = {}
        try:
            for purpose, query in asked.items():
                found[purpose] = self._ask(query)
        except PrometheusSilent as error:
            return Blind(str(error))
        for each in generations:
            age_s = found["age"].get((each.name, ""))
            if age_s is None or not age_s <= _OLDEST_S:
                old = "no samples" if age_s is None else f"samples of {age_s:.0f} s ago"
                return Blind(f"Prometheus has {old} of {each.name}")
        return Sight(_figures(found), _short(found, generations, least))

    def _ask(self, query: str) -> dict[tuple[str, str], float]:
        """(generation, deployment or "") -> value; `PrometheusSilent` when there is no answer."""
        try:
            data = _Data.model_validate(self._api.query(query))
        except ValidationError:
            raise PrometheusSilent(f"Prometheus answers at {self._api.url} with something else than samples") from None
        return {
            (each.metric.get("ray_io_cluster", ""), each.metric.get("deployment", "")): each.value[1]
            for each in data.result
        }


def _figures(found: Mapping[str, Mapping[tuple[str, str], float]]) -> dict[Metric, dict[str, tuple[float, float]]]:
    """(trials, bad) of each generation. A counter that cannot be has more bad trials than trials; not here."""

    def of(trials: str, bad: str, inverse: bool) -> dict[str, tuple[float, float]]:
        counted: dict[str, tuple[float, float]] = {}
        for (name, _), all_ in found[trials].items():
            some = found[bad].get((name, ""), 0.0)
            wrong = all_ - some if inverse else some
            counted[name] = (max(0.0, all_), min(max(0.0, wrong), max(0.0, all_)))
        return counted

    return {
        Metric.ERROR: of("requests", "failed", inverse=False),
        Metric.TTFT: of("first", "first in time", inverse=True),
        Metric.E2E: of("whole", "whole in time", inverse=True),
    }


def _short(
    found: Mapping[str, Mapping[tuple[str, str], float]], generations: Sequence[Generation], least: Mapping[str, int]
) -> dict[str, str]:
    """What each generation lacks, in words. Serve rounds half up, and keeps one replica while there is any capacity."""
    lacking: dict[str, str] = {}
    for each in generations:
        for deployment, count in sorted(least.items()):
            wanted = max(1, int(count * each.capacity / 100 + 0.5)) if each.capacity and count else 0
            there = found["replicas"].get((each.name, deployment), 0.0)
            scraped = found["ingress"].get((each.name, ""), 0.0) if deployment == INGRESS else there
            if min(there, scraped) < wanted:
                lacking[each.name] = f"{min(there, scraped):g} of {wanted} of {deployment}"
                break
    return lacking
