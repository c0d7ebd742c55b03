"""A configuration, a card and a load -> a scenario for the simulator; and its outcome in one row. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.engine.options import EngineSettings
from serve_app.bench.stats import percentile
from serve_app.sizing.constants import (
    EFFICIENCIES,
    MODELS,
    PATH_CALLS_S,
    PATH_REQUEST_S,
    PATH_TOKEN_S,
    STEP_TOKENS,
    Case,
    Gpu,
)
from serve_app.sizing.memory import fit
from serve_app.sizing.outcome import Outcome
from serve_app.sizing.path import PathShape
from serve_app.sizing.replica import EngineShape
from serve_app.sizing.simulate import LARGE, SMALL, Scenario, TierSetup
from serve_app.sizing.throughput import step_model
from serve_app.sizing.workload import Workload


class CannotSize(Exception):
    """A question without an answer here; the text is one sentence."""


def tier_setup(engine: EngineSettings, gpu: Gpu, case: Case, cold_start_s: float, hit: float) -> TierSetup:
    """The tier of a configured engine on a card; raises `CannotSize` for a model without published figures."""
    model = MODELS.get(engine.model)
    if model is None:
        raise CannotSize(f"nothing is known about {engine.model}: there are {', '.join(MODELS)}.")
    cards = engine.tensor_parallel_size
    step_tokens = _whole(engine, "max_num_batched_tokens") or STEP_TOKENS[gpu.name]
    held = fit(model, gpu, cards, engine.max_model_len or model.positions, step_tokens, engine.gpu_memory_utilization)
    if held.sequences < 1:
        raise CannotSize(f"{model.name} with {engine.max_model_len} tokens does not fit on {cards} x {gpu.name}.")
    shape = EngineShape(
        engine=step_model(model, gpu, cards, EFFICIENCIES[case]),
        seats=engine.max_num_seqs,
        max_queued=engine.max_queued,
        step_tokens=step_tokens,
        chunk=_whole(engine, "long_prefill_token_threshold") or step_tokens,
        cache_tokens=held.tokens,
    )
    return TierSetup(shape, engine.replicas or 1, engine.scaling, cold_start_s, hit, affinity=engine.affinity)


def _whole(engine: EngineSettings, name: str) -> int | None:
    value = engine.engine_args.get(name)
    return value if isinstance(value, int) and value > 0 else None


def scenario(
    name: str,
    engines: Mapping[str, EngineSettings],
    gpu: Gpu,
    case: Case,
    workload: Workload,
    *,
    cold_start_s: float,
    hit: float,
    duration_s: float,
    warm_up_s: float,
    seed: int,
    ingresses: int = 1,
) -> Scenario:
    """A run of the configured tiers (`20b`, `120b`) under a load, behind so many ingress replicas."""
    known = {tier: engine for tier, engine in engines.items() if tier in (SMALL, LARGE)}
    if not known:
        raise CannotSize("the configuration has no tier of the router.")
    tiers = {tier: tier_setup(engine, gpu, case, cold_start_s, hit) for tier, engine in known.items()}
    path = PathShape(PATH_CALLS_S, PATH_REQUEST_S, PATH_TOKEN_S, ingresses)
    return Scenario(name, tiers, workload, duration_s, warm_up_s, seed, path)


@dataclass(frozen=True, slots=True)
class Row:
    """A tier's run. Shares in [0, 1], times in seconds; None where there was no answer.

    `replicas` is the mean, those that were starting included; `most_replicas` the most that were ready at once.
    """

    tier: str
    offered_per_s: float
    refused: float
    hit: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    itl_mean_s: float
    itl_p99_s: float
    e2e_p50_s: float | None
    tokens_per_s: float
    replicas: float
    most_replicas: int
    escalated: int


def rows(outcome: Outcome, duration_s: float) -> list[Row]:
    """A row for each tier; `duration_s` is the whole run's, its warm-up included."""
    found: list[Row] = []
    for name, tier in outcome.tiers.items():
        ttft, e2e = sorted(tier.ttft_s), sorted(tier.e2e_s)
        found.append(
            Row(
                tier=name,
                offered_per_s=tier.offered / outcome.measured_s,
                refused=tier.refused / tier.offered if tier.offered else 0.0,
                hit=tier.cached_tokens / tier.prompt_tokens if tier.prompt_tokens else 0.0,
                ttft_p50_s=_at(ttft, 0.5),
                ttft_p95_s=_at(ttft, 0.95),
                ttft_p99_s=_at(ttft, 0.99),
                itl_mean_s=tier.gaps.mean_s,
                itl_p99_s=tier.gaps.percentile_s(0.99),
                e2e_p50_s=_at(e2e, 0.5),
                tokens_per_s=tier.output_tokens / outcome.measured_s,
                replicas=tier.replica_s / duration_s,
                most_replicas=max((ready for _, ready, _ in tier.replicas), default=0),
                escalated=tier.escalated,
            )
        )
    return found


def _at(ordered: Sequence[float], share: float) -> float | None:
    return percentile(ordered, share) if ordered else None
