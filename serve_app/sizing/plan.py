"""A load and its targets -> replicas and cards, with a range that says how little is known. Pure arithmetic.

The load is `sessions` agents. Each asks, gets an answer, thinks for `think_s` (tools, people) and asks again, at the
pace that the targets allow: an engine that is faster than them is not asked more. A request has `context` tokens, of
which `hit` are in the prefix cache where the cache is large enough to keep them, and `output` of them are its answer.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.sizing.constants import (
    CASES,
    EFFICIENCIES,
    HOURS_PER_MONTH,
    LEAST_FULL_CONTEXTS,
    PATH_S,
    SEATS,
    STEP_TOKENS,
    TENSOR_PARALLEL,
    TIGHT_CACHE_SHARE,
    Case,
    Gpu,
    Model,
)
from serve_app.sizing.memory import Fit, fit
from serve_app.sizing.throughput import StepModel, prompt_work, step_model

_P95 = -math.log(0.05)  # of an exponential tail, in means


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked. `hit` is a share in [0, 1]; `ttft_s` is a 95th percentile, `itl_s` a mean; tokens and seconds."""

    sessions: int
    context: int
    output: int = 500
    hit: float = 0.8
    think_s: float = 10.0
    ttft_s: float = 2.0
    itl_s: float = 0.05

    def __post_init__(self) -> None:
        if self.sessions < 1 or self.output < 1 or self.context <= self.output:
            raise ValueError("sessions and output are at least 1, and the context is longer than the output")
        if not (0 <= self.hit <= 1 and self.think_s >= 0 and self.ttft_s > 0 and self.itl_s > 0):
            raise ValueError("hit is in [0, 1], the time between turns is not negative, and both targets are positive")

    @property
    def answer_s(self) -> float:
        """A request at its targets."""
        return self.ttft_s + self.output * self.itl_s

    @property
    def rate(self) -> float:
        """Requests per second of all sessions."""
        return self.sessions / (self.answer_s + self.think_s)

    @property
    def open_requests(self) -> int:
        """Requests that are open at once: their mean by Little's law and two deviations, at most one a session."""
        mean = self.rate * self.answer_s
        return min(self.sessions, math.ceil(mean + 2 * math.sqrt(mean)))


@dataclass(frozen=True, slots=True)
class Shape:
    """A replica: its model and cards, and the engine's limits; `chunk` is what one prompt takes of a step."""

    model: Model
    gpu: Gpu
    tensor_parallel: int
    seats: int
    step_tokens: int

    @property
    def chunk(self) -> int:
        """`long_prefill_token_threshold` of our profiles: a quarter of a step."""
        return self.step_tokens // 4


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a number of replicas does with a demand. `hit` is what the cache can keep of the demand's; seconds.

    `feasible` is about room: that all open requests have a seat and fit into the cache at once, and that prompts are
    read as fast as they come.
    """

    per_replica: int
    hit: float
    feasible: bool
    ttft_s: float
    itl_s: float

    def meets(self, demand: Demand) -> bool:
        """Room, and both targets."""
        return self.feasible and self.ttft_s <= demand.ttft_s and self.itl_s <= demand.itl_s


@dataclass(frozen=True, slots=True)
class Option:
    """One size of replica for a demand. `replicas` by case; a case that no number of replicas meets is absent."""

    shape: Shape
    fit: Fit
    replicas: Mapping[Case, int] = field(default_factory=dict[Case, int])
    predicted: Mapping[Case, Predicted] = field(default_factory=dict[Case, Predicted])
    why_not: Mapping[Case, str] = field(default_factory=dict[Case, str])

    @property
    def tight(self) -> bool:
        """Whether so little is left for the cache that the engine may not start."""
        return self.fit.cache_share < TIGHT_CACHE_SHARE

    def cards(self, case: Case) -> int | None:
        """GPUs in all."""
        count = self.replicas.get(case)
        return None if count is None else count * self.shape.tensor_parallel

    def range(self) -> tuple[int, int] | None:
        """GPUs in the best and in the worst case that can be met; None where none can."""
        found = [cards for case in CASES if (cards := self.cards(case)) is not None]
        return (min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money by the hour and by the month, lowest and highest, in whatever currency the price was given."""

    hour: tuple[float, float]
    month: tuple[float, float]


def shape_of(
    model: Model, gpu: Gpu, tensor_parallel: int, seats: int | None = None, step_tokens: int | None = None
) -> Shape:
    """A replica with the seats and steps of our profiles for this card, where none are given."""
    return Shape(model, gpu, tensor_parallel, seats or SEATS[gpu.name], step_tokens or STEP_TOKENS[gpu.name])


def predict(shape: Shape, held: Fit, step: StepModel, demand: Demand, replicas: int) -> Predicted:
    """Times of `replicas` replicas that share the demand evenly. More of them are never slower.

    To the first token: the prompt's own steps beside all answers, and a wait for other prompts as at a server that
    reads one prompt after the other in full steps (Pollaczek and Khinchine, the tail as if exponential), at most for
    all that may be open.
    """
    count, resident = math.ceil(demand.open_requests / replicas), math.ceil(demand.sessions / replicas)
    hit = demand.hit * min(1.0, held.sequences / resident)
    prompt = demand.context - demand.output
    uncached = max(1, math.ceil(prompt * (1 - hit)))
    own_s = _reading_s(step, demand, count, prompt, uncached, shape.chunk)
    full_s = _reading_s(step, demand, count, prompt, uncached, max(1, shape.step_tokens - count))
    busy = demand.rate / replicas * full_s
    everybody_s = (count - 1) * full_s
    wait_s = min(everybody_s, _P95 * busy * full_s / (2 * (1 - busy))) if busy < 1 else everybody_s
    itl_s = _itl_s(shape, step, demand, count, prompt, uncached, demand.rate / replicas)
    return Predicted(
        per_replica=count,
        hit=hit,
        feasible=count <= held.sequences and count <= shape.seats and busy < 1 and math.isfinite(itl_s),
        ttft_s=PATH_S + own_s + wait_s,
        itl_s=itl_s,
    )


def _reading_s(step: StepModel, demand: Demand, count: int, prompt: int, uncached: int, chunk: int) -> float:
    """The steps that read a prompt in chunks, each with a token of all other answers."""
    return math.fsum(
        step.time(work.prefill, work.prefill_context, 1, count - 1, (count - 1) * demand.context)
        for work in prompt_work(uncached, prompt - uncached, chunk)
    )


def _itl_s(shape: Shape, step: StepModel, demand: Demand, count: int, prompt: int, uncached: int, rate: float) -> float:
    """The mean gap: a step with a token of each answer and the prompts that are due while it lasts; may be infinite.

    A longer step has more of them due: the fixed point is approached from below.
    """
    room, context, seconds = shape.step_tokens - count, prompt - uncached / 2, 0.0
    for _ in range(200):
        prefill = rate * uncached * seconds
        if prefill > room:
            return math.inf
        longer = step.time(prefill, prefill * context, prefill / shape.chunk, count, count * demand.context)
        if longer - seconds < 1e-6:
            return longer
        seconds = longer
    return math.inf


def option(shape: Shape, demand: Demand) -> Option | None:
    """How many replicas of this size a demand needs in each case; None where its context does not fit twice."""
    held = fit(shape.model, shape.gpu, shape.tensor_parallel, demand.context, shape.step_tokens)
    if held.sequences < LEAST_FULL_CONTEXTS or demand.context > shape.model.positions:
        return None
    replicas: dict[Case, int] = {}
    predicted: dict[Case, Predicted] = {}
    why_not: dict[Case, str] = {}
    for case in CASES:
        step = step_model(shape.model, shape.gpu, shape.tensor_parallel, EFFICIENCIES[case])
        count, seen = _fewest(shape, held, step, demand)
        predicted[case] = seen
        if count is None:
            why_not[case] = _reason(demand, seen)
        else:
            replicas[case] = count
    return Option(shape, held, replicas, predicted, why_not)


def _fewest(shape: Shape, held: Fit, step: StepModel, demand: Demand) -> tuple[int | None, Predicted]:
    """The smallest number that meets the demand, by bisection: more are never slower. None: not one each will do."""
    most = demand.sessions
    best = predict(shape, held, step, demand, most)
    if not best.meets(demand):
        return None, best
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        seen = predict(shape, held, step, demand, middle)
        if seen.meets(demand):
            high, best = middle, seen
        else:
            low = middle + 1
    return high, predict(shape, held, step, demand, high)


def _reason(demand: Demand, seen: Predicted) -> str:
    if not seen.feasible:
        return "the open requests do not fit, or come faster than they can be read"
    if seen.itl_s > demand.itl_s:
        return f"a token takes {seen.itl_s * 1e3:.0f} ms even with a replica for each session"
    return f"the first token takes {seen.ttft_s:.1f} s even with a replica for each session"


def options(model: Model, gpu: Gpu, demand: Demand, parallel: Iterable[int] = TENSOR_PARALLEL) -> list[Option]:
    """Every size of replica that can hold the demand's context, the one with the fewest cards first."""
    found = [each for size in parallel if (each := option(shape_of(model, gpu, size), demand)) is not None]
    return sorted(found, key=_preference)


def _preference(each: Option) -> tuple[float, float, bool, int]:
    """By cards in the middle case, then in the cautious one; then rather one that is not tight, then small ones."""
    mid, low = each.cards("mid"), each.cards("low")
    return (math.inf if mid is None else mid, math.inf if low is None else low, each.tight, each.shape.tensor_parallel)


def cost(cards: tuple[int, int], card_hour: float) -> Cost:
    """What so many cards cost at a price for one card's hour."""
    low, high = cards[0] * card_hour, cards[1] * card_hour
    return Cost((low, high), (low * HOURS_PER_MONTH, high * HOURS_PER_MONTH))
