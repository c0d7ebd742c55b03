"""What every engine deployment is told, whatever stands behind it. Pure: imports neither Ray nor vLLM."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.engine.scaling import ScalingSettings, autoscaling_config

ENGINE_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/render",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
    }
)
"""What may be asked of an engine, by POST. vLLM's app holds more: LoRA loading, aborts, scaling, developer routes."""

FORWARDED_HEADERS = frozenset({"accept", "content-type", "traceparent", "tracestate"})
"""Headers that reach the engine, beside the request id. Keys of clients end at the gateway."""

_DOOR = 4096  # more than the replicas of an ingress have open at once (`ingress.max_ongoing_requests`)
AFFINITY_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class Settings(BaseModel):
    """Base of all settings here: frozen, strict, no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FlushSettings(Settings):
    """How long chunks of one stream are merged, by the number of requests on the replica.

    A window merges only what arrives inside it, so it widens as the replica fills: with `few` requests or less it is
    `few_ms`, up to `some` it is `some_ms`, above that `many_ms`. The first chunk after a pause never waits.
    """

    few: int = Field(default=4, ge=1)
    some: int = Field(default=64, ge=1)
    few_ms: float = Field(default=8.0, ge=0, le=1000)
    some_ms: float = Field(default=25.0, ge=0, le=1000)
    many_ms: float = Field(default=50.0, ge=0, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> "FlushSettings":
        if self.some < self.few:
            raise ValueError("`some` must not be smaller than `few`")
        return self

    def window_s(self, active: int) -> float:
        """Length of the window in seconds when `active` requests are on the replica."""
        if active <= self.few:
            return self.few_ms / 1000
        return (self.some_ms if active <= self.some else self.many_ms) / 1000


class FairSettings(Settings):
    """How tenants take turns at a replica that is full: `fair.py`. Not `enabled`: first come, first served.

    Work is counted in tokens, each kind with its weight; `first_guess` is the answer, in tokens, of a tenant of whom
    nothing is known yet. `lookahead` requests more than the engine has seats for are handed to it, so that a seat is
    taken again without a trip, while no other tenant was seen for `recent_s`. While others were, up to `reserve` of the
    seats stays free for those of them whose requests fit into their share of the seats; such a tenant goes first when
    its counter is at most `ahead_tokens` above the lowest. `reserve: 0` holds nothing back.
    """

    enabled: bool = True
    input_weight: float = Field(default=1.0, gt=0, le=1000)
    cached_weight: float = Field(default=0.1, ge=0, le=1000)
    output_weight: float = Field(default=4.0, gt=0, le=1000)
    first_guess: int = Field(default=256, ge=1, le=131_072)
    lookahead: int = Field(default=1, ge=0, le=64)
    reserve: float = Field(default=0.125, ge=0, le=0.5)
    recent_s: float = Field(default=300.0, gt=0, le=86_400)
    ahead_tokens: int = Field(default=16_384, ge=0)


class ServedSettings(Settings):
    """One model at one revision, however it is served.

    `max_queued` bounds the unfinished requests of a replica, running ones included; above it whoever has most waiting
    is answered with 503 and `retry-after` (`fair`). `replicas` is a fixed number (1); `scaling` puts a policy in its
    place. `affinity` sends the turns of one session to the same replica, whose prefix cache holds them. `stall_s`
    without a step, with requests to work on, makes a replica unhealthy. `cold_start_s` is how long a request waits for
    the first replica of a tier that was scaled to zero.
    """

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/\-]{0,127}$")]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$")]
    max_model_len: int | None = Field(default=None, ge=64)
    max_queued: int = Field(default=256, ge=1)
    request_deadline_s: float = Field(default=900.0, gt=0)
    abort_grace_s: float = Field(default=5.0, gt=0)
    stall_s: float = Field(default=120.0, gt=0)
    flush: FlushSettings = FlushSettings()
    fair: FairSettings = FairSettings()

    replicas: int | None = Field(default=None, ge=1)
    scaling: ScalingSettings | None = None
    affinity: bool = True
    cold_start_s: float = Field(default=300.0, gt=0)
    num_cpus: float = Field(default=1.0, ge=0)
    drain_s: float = Field(default=300.0, gt=0)

    @property
    def kind_name(self) -> str:
        """What stands behind it, as the configuration spells it; every subclass has a literal `kind`."""
        return str(self.model_dump(include={"kind"})["kind"])

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> "ServedSettings":
        if self.scaling is not None and self.replicas is not None:
            raise ValueError("set either `replicas` or `scaling`, not both")
        return self


def serve_options(settings: ServedSettings) -> dict[str, object]:
    """Serve's options of an engine deployment, except its name and its actor's resources.

    A replica accepts far more than it queues, so that its own queue hears of whoever comes, and chooses who is refused:
    Serve's know no tenants. They fill only while there is no replica, up to `max_queued` at each caller.
    """
    options: dict[str, object] = {
        "max_ongoing_requests": settings.max_queued + _DOOR,
        "max_queued_requests": settings.max_queued,
        "graceful_shutdown_timeout_s": settings.drain_s,
        "health_check_period_s": 2.0,  # three failures in a row replace the replica
        "health_check_timeout_s": 30.0,
    }
    if settings.affinity:
        options["request_router_config"] = {"request_router_class": AFFINITY_ROUTER}
    if settings.scaling is None:
        return options | {"num_replicas": settings.replicas or 1}
    return options | {"num_replicas": "auto", "autoscaling_config": autoscaling_config(settings.scaling)}


def plain_actor(settings: ServedSettings) -> dict[str, object]:
    """The actor of an engine that needs no GPU and no environment of its own."""
    return {"ray_actor_options": {"num_cpus": settings.num_cpus}}
