"""What a decision costs: CPU time of this thread for reading a body and `trace`, beside a peer's way to score its text.

Times are of this machine as loaded as it was; the ratio to the peer, taken call by call next to it, is what compares.
"""

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deployments.difficulty.reading import read_chat
from deployments.ports import JsonValue
from router.policy import Policy
from router.route import trace
from router.snapshot import Snapshot
from router.types import StateView
from serve_app.routing.metrics import Outcomes
from serve_app.routing.peer import estimator, vectorizer

_LOG_LINES: Final = (
    "2026-03-04T14:3{n}:07.412Z ERROR checkout-7f9c payment timed out after 3000 ms trace=4be1c{n}",
    "2026-03-04T14:3{n}:08.001Z WARN gateway upstream 503 from 10.2.{n}.18:8443, retry 2 of 3",
    "2026-03-04T14:3{n}:08.377Z INFO scheduler evicted pod api-{n} on node worker-4, memory pressure",
)
_LOG_SIZES: Final = {"1 kB log": 1_000, "4 kB log": 4_000, "64 kB log": 64_000}
_LARGE: Final = 64_000
_PROSE: Final = (
    "The handler takes a message from the queue, looks the order up and writes what it found into the cache. "
)
_CHINESE: Final = "订单服务从队列取出消息,查询数据库并把结果写入缓存,今天上午开始变慢。"
_RESULT: Final = (
    '{{"name": "checkout-{n}", "namespace": "shop", "phase": "Running", "restarts": {n}, "node": "worker-4"}},\n'
)
_PEER_ROWS: Final = 1500

Body = Mapping[str, JsonValue]
"""A chat completions body."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds per call: smallest, median, 90 % and 99 % of `calls`; `per_second` is 1 over the mean."""

    calls: int
    least_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One kind of prompt. `ratio` is our median over the peer's; `p99_ratio` likewise."""

    prompts: str
    ours: Cost
    peer: Cost

    @property
    def ratio(self) -> float:
        """Our median over the peer's."""
        return self.ours.p50_us / self.peer.p50_us

    @property
    def p99_ratio(self) -> float:
        """Our 99th percentile over the peer's."""
        return self.ours.p99_us / self.peer.p99_us


def log_of(size: int) -> str:
    """A log of `size` characters with a question at its end, the same each time."""
    question = "\n\nCheckout fails since 14:30. What is the root cause?"
    lines: list[str] = []
    length = 0
    while length < size:
        line = _LOG_LINES[len(lines) % len(_LOG_LINES)].format(n=len(lines) % 10)
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines)[: max(size - len(question), 0)] + question


def large_bodies(size: int = _LARGE) -> dict[str, Body]:
    """Bodies of about `size` characters, tools included, one of each dear kind; the same each time."""
    review = "Please review this diff before we deploy it.\n"
    call: JsonValue = [{"id": "c", "type": "function", "function": {"name": "shell", "arguments": '{"command": "ls"}'}}]
    loop: list[JsonValue] = [_said("user", "Why do the pods of checkout fail since 14:30?")]
    for _ in range(8):
        loop.append({"role": "assistant", "content": None, "tool_calls": call})
        loop.append(_said("tool", _repeated(_RESULT, size // 8)))
    talk = [
        _said(("user", "assistant")[n % 2], f"Message {n}: go on with step {n}, please.") for n in range(size // 40)
    ]
    return {
        "diff": _body(_said("user", review + diff_of(size))),
        "JSON from tools": _body(*loop),
        "Chinese": _body(_said("user", _repeated(_CHINESE, size))),
        "small messages": _body(*talk),
        "tools": {
            "messages": [_said("user", "Delete the staging namespace, then tell me why it failed.")],
            "tools": [_tool(n) for n in range(size // 450)],
        },
        "system, tools, talk and diff": {
            "messages": [
                _said("system", _repeated(_PROSE, size // 4)),
                _said("user", "Please look at the change when I show it. " + _repeated(_PROSE, size // 16)),
                _said("assistant", _repeated(_PROSE, size // 16)),
                _said("user", "That did not help, tests still fail.\n" + log_of(size // 8)),
                _said("user", review + diff_of(size // 2 - size // 8)),
            ],
            "tools": [_tool(n) for n in range(16)],  # the eighth
        },
    }


def diff_of(size: int) -> str:
    """A unified diff of about `size` characters: files of three hunks of nine lines, the same each time."""
    parts: list[str] = []
    length = 0
    while length < size:
        name = f"src/orders/part_{len(parts)}.py"
        hunks = [
            f"@@ -{start},6 +{start},7 @@ def handle(self):\n"
            "     found = self.orders.get(key)\n     if found is None:\n-        return self.none(key)\n"
            "+        self.log.warning('no order')\n+        return None\n     value = found.value()\n"
            "     if value:\n         self.cache.put(key, value)\n"
            for start in (10, 60, 110)
        ]
        parts.append(
            f"diff --git a/{name} b/{name}\nindex 1a2b3c4..5d6e7f8 100644\n--- a/{name}\n+++ b/{name}\n{''.join(hunks)}"
        )
        length += len(parts[-1])
    return "".join(parts)


def _body(*messages: JsonValue) -> Body:
    return {"messages": list(messages)}


def _said(role: str, content: str) -> JsonValue:
    return {"role": role, "content": content}


def _tool(number: int) -> JsonValue:
    name = ("read_file", "apply_patch", "run_shell", "delete_pod")[number % 4]
    return {"type": "function", "function": {"name": f"{name}_{number}", "description": _PROSE * 4, "parameters": {}}}


def _repeated(piece: str, size: int) -> str:
    return "".join(piece.format(n=n) for n in range(size // len(piece) + 1))[:size]


def timings(
    prompts: Mapping[str, Sequence[str]],
    policy: Policy,
    snapshot: Snapshot | None,
    learned: Sequence[str],
    outcomes: Outcomes,
    logs: int = 200,
) -> tuple[Timing, ...]:
    """One entry per kind of prompt in `prompts`, per log size and per kind of large body, these called `logs` times.

    The peer learns from `learned`, whose outcomes are `outcomes`, before the clock runs.
    """
    peer = _peer(learned[:_PEER_ROWS], outcomes)
    kinds: dict[str, Sequence[Body]] = {
        name: [_body(_said("user", text)) for text in texts] for name, texts in prompts.items()
    }
    kinds |= {name: [_body(_said("user", log_of(size)))] * logs for name, size in _LOG_SIZES.items()}
    kinds |= {f"64 kB: {name}": [body] * logs for name, body in large_bodies().items()}

    def ours(body: Body) -> object:
        return trace(read_chat(body), StateView(), policy, snapshot)

    return tuple(Timing(name, *_measure(bodies, ours, peer)) for name, bodies in kinds.items())


def cost(nanoseconds: Sequence[int]) -> Cost:
    """The figures of some calls, at least one."""
    taken = np.asarray(nanoseconds, dtype=np.float64) / 1000.0
    p50, p90, p99 = np.percentile(taken, (50, 90, 99))
    return Cost(taken.size, float(taken.min()), float(p50), float(p90), float(p99), float(1e6 / taken.mean()))


def _peer(prompts: Sequence[str], outcomes: Outcomes) -> Callable[[Body], object]:
    hashing: Any = vectorizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops before it has converged, as the peer's does
        head: Any = estimator(1.0).fit(hashing.transform(prompts), outcomes.weak[: len(prompts)] < 0.5)

    def score(body: Body) -> object:
        text = "\n".join(turn.text for turn in read_chat(body).turns)
        return head.predict_proba(hashing.transform([text]))[0, 1]

    return score


def _measure(
    bodies: Sequence[Body], ours: Callable[[Body], object], peer: Callable[[Body], object]
) -> tuple[Cost, Cost]:
    """Both on each body in turn, so that a busy moment meets both."""
    for body in bodies[:20]:
        ours(body)
        peer(body)
    took: tuple[list[int], list[int]] = ([], [])
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for body in bodies:
            for call, times in zip((ours, peer), took, strict=True):
                began = time.thread_time_ns()
                call(body)
                times.append(time.thread_time_ns() - began)
    finally:
        if collecting:
            gc.enable()
    return cost(took[0]), cost(took[1])
