"""What routing is worth on a running server: the same prompts four ways, over HTTP.

Always the weak model, always the strong one, the router's choice, and the router's choice with a verified cascade.
For each: how many answers are right, which share of the prompts the strong model worked on, tokens and time. The
prompts carry their own checks; nothing is executed, and no answer is kept.
"""

import asyncio
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

import httpx2

from router.types import Tier
from serve_app.routing.checkers import Numeric, Pattern, is_right
from serve_app.routing.labels import Prompt

_RESAMPLES: Final = 1_000
_LEAST_GAP: Final = 0.02


class Way(StrEnum):
    """How a prompt is answered."""

    WEAK = "always weak"
    STRONG = "always strong"
    ROUTER = "router"
    CASCADE = "router and cascade"


@dataclass(frozen=True, slots=True)
class Call:
    """One answer. `strong`: the strong model worked on it, whether or not its answer was the one that was sent."""

    prompt: str
    right: bool
    strong: bool
    reason: str
    cascade: str
    tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the report: shares in [0, 1], the accuracy with its 95 % interval over prompts.

    `recovered` is the share of the gap between always weak and always strong that this way recovers (PGR); None where
    the gap is below two points. `tokens` are those generated per prompt, with those of an answer that a cascade did
    not send. `p50_ms` and `p95_ms` are until the whole answer was there, both attempts included: what a cascade costs
    in time shows in the second where it escalates less than half of the prompts.
    """

    way: Way
    prompts: int
    accuracy: float
    low: float
    high: float
    strong_share: float
    recovered: float | None
    tokens: float
    p50_ms: float
    p95_ms: float
    reasons: Mapping[str, int]
    cascades: Mapping[str, int]


class LiveFailed(Exception):
    """The server did not answer as it should; the message says how."""


async def measure(
    http: httpx2.AsyncClient,
    prompts: Sequence[Prompt],
    models: Mapping[Tier, str],
    monotonic_s: Callable[[], float],
    concurrency: int = 4,
    max_tokens: int = 256,
) -> dict[Way, list[Call]]:
    """Ask every prompt in every way; a session of its own for each, so that no answer sways another.

    `http` has the server's `/v1` as its base and the key. Raises `LiveFailed` when an answer is refused.
    """
    seats = asyncio.Semaphore(concurrency)

    async def ask(way: Way, number: int, prompt: Prompt) -> Call:
        model = {Way.WEAK: models[Tier.BASE], Way.STRONG: models[Tier.STRONG]}.get(way, "auto")
        headers = {"x-session-id": f"live-{way.name.lower()}-{number}"}
        if way is Way.CASCADE:
            headers["x-gatehouse-cascade"] = "true"
        system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
        body = {
            "model": model,
            "messages": [*system, {"role": "user", "content": prompt.prompt}],
            "max_tokens": prompt.max_tokens or max_tokens,
            "temperature": 0,
        }
        async with seats:
            started_s = monotonic_s()
            try:
                reply = await http.post("chat/completions", json=body, headers=headers)
            except httpx2.HTTPError as error:
                raise LiveFailed(f"the server does not answer ({type(error).__name__})") from None
            ms = (monotonic_s() - started_s) * 1_000
        if not reply.is_success:
            raise LiveFailed(f"{way.value}, prompt {prompt.id}: HTTP {reply.status_code}: {reply.text[:300]}")
        answer = cast(dict[str, Any], reply.json())
        cascade = reply.headers.get("x-gatehouse-cascade", "")
        return Call(
            prompt=prompt.id,
            right=is_right(prompt.check, answer["choices"][0]["message"]["content"] or ""),
            strong=reply.headers.get("x-gatehouse-tier") == Tier.STRONG.value or cascade == "escalated",
            reason=reply.headers.get("x-gatehouse-route-reason", ""),
            cascade=cascade,
            tokens=_tokens(answer),
            ms=ms,
        )

    found: dict[Way, list[Call]] = {}
    try:
        for way in Way:  # one way after the other: each has the machine for itself
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(ask(way, number, prompt)) for number, prompt in enumerate(prompts)]
            found[way] = [task.result() for task in asked]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return found


def report(calls: Mapping[Way, Sequence[Call]], seed: int = 0) -> list[Line]:
    """The table of a run."""
    accuracy = {way: statistics.fmean(call.right for call in made) for way, made in calls.items()}
    gap = accuracy[Way.STRONG] - accuracy[Way.WEAK]
    lines: list[Line] = []
    for way, made in calls.items():
        low, high = _interval([call.right for call in made], seed)
        lines.append(
            Line(
                way=way,
                prompts=len(made),
                accuracy=accuracy[way],
                low=low,
                high=high,
                strong_share=statistics.fmean(call.strong for call in made),
                recovered=(accuracy[way] - accuracy[Way.WEAK]) / gap if gap >= _LEAST_GAP else None,
                tokens=statistics.fmean(call.tokens for call in made),
                p50_ms=statistics.median(call.ms for call in made),
                p95_ms=sorted(call.ms for call in made)[math.ceil(0.95 * len(made)) - 1],
                reasons=_counted([call.reason for call in made]),
                cascades=_counted([call.cascade for call in made if call.cascade]),
            )
        )
    return lines


def markdown(lines: Sequence[Line]) -> str:
    """The report as a table."""
    rows = [
        "| way | right | 95 % | strong share | gap recovered | tokens | ms, p50 | ms, p95 |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        recovered = "-" if line.recovered is None else f"{line.recovered:.0%}"
        rows.append(
            f"| {line.way.value} | {line.accuracy:.1%} | {line.low:.1%} to {line.high:.1%} | {line.strong_share:.1%} "
            f"| {recovered} | {line.tokens:.0f} | {line.p50_ms:.0f} | {line.p95_ms:.0f} |"
        )
    return "\n".join(rows) + "\n"


def demonstration_prompts(count: int = 120, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts for the two demonstration models: sums and small talk, which both know, and products, which one knows.

    A third each. Deterministic for a seed.
    """
    from serve_app.demo import phrasebook

    draw = random.Random(seed)
    made: list[Prompt] = []
    for number in range(count):
        match number % 3:
            case 0:
                a, b = draw.randint(0, 9), draw.randint(0, 9)
                text, check = draw.choice(phrasebook.SUM_REQUESTS), Numeric(kind="numeric", expected=float(a + b))
            case 1:
                a, b = draw.randint(2, 9), draw.randint(2, 9)
                text, check = draw.choice(phrasebook.PRODUCT_REQUESTS), Numeric(kind="numeric", expected=float(a * b))
            case _:
                a = b = 0
                text, check = draw.choice(("What is the capital of France?", "capital of France")), _PARIS
        made.append(Prompt(id=f"demo-{number}", prompt=text.format(a=a, b=b), check=check))
    return tuple(made)


_PARIS: Final = Pattern(kind="regex", pattern="Paris")


def _tokens(answer: Mapping[str, Any]) -> int:
    usage = cast(dict[str, Any], answer.get("usage") or {})
    return int(usage.get("completion_tokens") or 0)


def _interval(right: Sequence[bool], seed: int) -> tuple[float, float]:
    draw = random.Random(seed)
    means = sorted(statistics.fmean(draw.choices(right, k=len(right))) for _ in range(_RESAMPLES))
    return means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]


def _counted(words: Sequence[str]) -> dict[str, int]:
    return {word: words.count(word) for word in sorted(set(words))}
