"""How much of a conversation the prefix cache holds, with turns of one session on one replica and without.

Every session opens with a long text of its own and sends all of it again, grown by a turn, each time. Counted are
`usage.prompt_tokens_details.cached_tokens` of the turns after the first. `compare` starts one server with session
affinity and one without, on this machine, one after the other.
"""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import aiohttp
import yaml

from deployments.clock import Clock, SystemClock
from serve_app.bench.load import BenchRefused, require_loopback
from serve_app.bench.stats import percentile
from serve_app.bench.stream import NO_TEXT, stream_once
from serve_app.config import ROOT, ConfigError, find, load_serve_file
from serve_app.prepare import models_dir, prepare, vocabulary_dir

_TEXT = (
    "pod node service deploy log error retry queue cache token build test branch commit merge review port host route "
    "policy audit gate engine model prompt answer stream batch memory disk network latency limit budget key team owner"
)
_WORDS = _TEXT.split()
_TURN_WORDS = 40
_ANSWER = "Understood."  # whatever the model said: both servers get the same conversation
_START_S = 600.0
_STOP_S = 90.0
_REQUEST_S = 300.0
_READY = "is ready"
_KEY = re.compile(r"\bgh-\S+")


@dataclass(frozen=True, slots=True)
class AffinityPlan:
    """`sessions` conversations of `turns` turns; at most `concurrency` of them ask at the same time."""

    model: str = "demo-20b"
    sessions: int = 24
    turns: int = 6
    prefix_tokens: int = 1500
    concurrency: int = 4
    answer_tokens: int = 16
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered turn; `number` counts from 1. `ttft_s` is None when nothing was answered."""

    session: int
    number: int
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float | None


@dataclass(frozen=True, slots=True)
class AffinityRun:
    """What one server showed on the turns after the first of each session.

    `missed` turns found less than half of their prompt: they went to a replica that had not seen the turn before.
    """

    label: str
    turns: int
    missed: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    ttft_p50_ms: float
    ttft_p90_ms: float
    first_ttft_p50_ms: float
    hit_rate_by_turn: Mapping[int, float]

    @property
    def hit_rate(self) -> float:
        """Cached prompt tokens per prompt token, in [0, 1]."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self) | {"hit_rate": self.hit_rate}


def opening(rng: random.Random, session: int, tokens: int) -> str:
    """The first message of a session: about `tokens` tokens, different from the first word on."""
    return f"{session} {rng.getrandbits(64):x} " + " ".join(rng.choices(_WORDS, k=tokens))


def next_message(rng: random.Random) -> str:
    """The user's message of a later turn."""
    return " ".join(rng.choices(_WORDS, k=_TURN_WORDS))


def request_body(model: str, messages: Sequence[Mapping[str, str]], answer_tokens: int) -> dict[str, Any]:
    """One streamed turn with its usage; temperature 0."""
    return {
        "model": model,
        "messages": list(messages),
        "max_tokens": answer_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def summarise(label: str, turns: Iterable[Turn]) -> AffinityRun:
    """The figures of a run. A turn without an answer counts as failed and nowhere else."""
    seen = list(turns)
    later = [turn for turn in seen if turn.number > 1 and turn.ttft_s is not None]
    times_ms = sorted(cast(float, turn.ttft_s) * 1000 for turn in later)
    first_ms = [turn.ttft_s * 1000 for turn in seen if turn.number == 1 and turn.ttft_s is not None]
    by_turn: dict[int, float] = {}
    for number in sorted({turn.number for turn in later}):
        same = [turn for turn in later if turn.number == number]
        asked = sum(turn.prompt_tokens for turn in same)
        by_turn[number] = sum(turn.cached_tokens for turn in same) / asked if asked else 0.0
    return AffinityRun(
        label=label,
        turns=len(later),
        missed=sum(turn.cached_tokens < turn.prompt_tokens / 2 for turn in later),
        failed=sum(turn.ttft_s is None for turn in seen),
        prompt_tokens=sum(turn.prompt_tokens for turn in later),
        cached_tokens=sum(turn.cached_tokens for turn in later),
        ttft_p50_ms=percentile(times_ms, 0.5) if times_ms else 0.0,
        ttft_p90_ms=percentile(times_ms, 0.9) if times_ms else 0.0,
        first_ttft_p50_ms=median(first_ms) if first_ms else 0.0,
        hit_rate_by_turn=by_turn,
    )


def serve_document(base: Mapping[str, Any], *, port: int, state_dir: str, replicas: int, affinity: bool) -> Any:
    """The local profile with one model on `replicas` replicas; everything else as in `base`."""
    document = json.loads(json.dumps(base))
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    args["state_dir"] = state_dir
    (model,) = [each for each in args["models"] if each["tier"] == "20b"]
    model["engine"] |= {"replicas": replicas, "affinity": affinity, "kv_cache_memory_bytes": 134_217_728}
    args["models"] = [model]
    return document


async def measure(url: str, key: str, plan: AffinityPlan, label: str, allow_remote: bool = False) -> AffinityRun:
    """Hold all conversations against one server.

    Raises `BenchRefused` for a server on another machine unless `allow_remote`, and when nothing was answered.
    """
    require_loopback(url, allow_remote)
    seats = asyncio.Semaphore(plan.concurrency)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        conversations = [_converse(http, url, key, plan, number, seats) for number in range(plan.sessions)]
        turns = [turn for conversation in await asyncio.gather(*conversations) for turn in conversation]
    run = summarise(label, turns)
    if run.prompt_tokens == 0:
        raise BenchRefused(f"{url} answered no turn with its usage.")
    return run


async def _converse(
    http: aiohttp.ClientSession, url: str, key: str, plan: AffinityPlan, session: int, seats: asyncio.Semaphore
) -> list[Turn]:
    rng = random.Random(f"{plan.seed}:{session}")  # its own, so that the order of sessions changes no text
    messages = [{"role": "user", "content": opening(rng, session, plan.prefix_tokens)}]
    headers = {"x-session-id": f"affinity-{plan.seed}-{session}"}
    turns: list[Turn] = []
    for number in range(1, plan.turns + 1):
        async with seats:  # released between turns: the turns of different sessions mix
            body = request_body(plan.model, messages, plan.answer_tokens)
            sample = await stream_once(
                http, f"{url}/v1/chat/completions", key, body, timeout_s=_REQUEST_S, headers=headers
            )
        # An answer without text is an answer, too: its first token came with its end at the latest.
        answered = sample.ok or sample.ending == NO_TEXT
        turns.append(
            Turn(
                session=session,
                number=number,
                prompt_tokens=sample.prompt_tokens or 0,
                cached_tokens=sample.cached_tokens or 0,
                ttft_s=(sample.ttft_s or sample.e2e_s) if answered else None,
            )
        )
        messages.append({"role": "assistant", "content": _ANSWER})
        messages.append({"role": "user", "content": next_message(rng)})
    return turns


def compare(
    plan: AffinityPlan, replicas: int, out: Path, environment: Mapping[str, str], tell: Callable[[str], None]
) -> list[AffinityRun]:
    """Start a server with affinity, measure, stop it; then the same without. Files go to `out`.

    Raises `BenchRefused` when a server does not start.
    """
    config = find("configs/serve.local.yaml")
    try:
        app = load_serve_file(config).app
        prepare(app)
    except ConfigError as error:
        raise BenchRefused(str(error)) from None
    base = cast(dict[str, Any], yaml.safe_load(config.read_text(encoding="utf-8")))
    runs: list[AffinityRun] = []
    for label, affinity in (("affinity", True), ("power of two choices", False)):
        folder = (out / ("on" if affinity else "off")).resolve()
        state = folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        for name, target in (("models", models_dir(app)), ("vocabulary", vocabulary_dir(app))):
            if not (state / name).exists():
                (state / name).symlink_to(target)
        port = free_port()
        document = serve_document(base, port=port, state_dir=str(state), replicas=replicas, affinity=affinity)
        (folder / "serve.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        tell(f"{label}: starting {replicas} replicas, log in {folder / 'server.log'}")
        with Server(folder / "serve.yaml", port, state, environment) as server:
            tell(f"{label}: {plan.sessions} sessions of {plan.turns} turns")
            runs.append(asyncio.run(measure(server.url, server.key(), plan, label)))
        tell(f"{label}: hit rate {runs[-1].hit_rate:.1%}")
    return runs


def free_port() -> int:
    """A port of the loopback interface that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`gatehouse up` as a process of ours, in a process group of its own, stopped by SIGINT to its own id."""

    def __init__(
        self,
        config: Path,
        port: int,
        state_dir: Path,
        environment: Mapping[str, str],
        clock: Clock | None = None,
        start_s: float = _START_S,
    ) -> None:
        """The log is `server.log` beside `config`; `start_s` is how long a start may take."""
        self._start_s = start_s
        self.url = f"http://127.0.0.1:{port}"
        self.log = config.with_name("server.log")
        self._config = config
        self._clock = clock or SystemClock()
        own = {"GATEHOUSE_URL": self.url, "GATEHOUSE_STATE_DIR": str(state_dir), "COLUMNS": "400"}
        self._environment = {**environment, **own}
        self._environment.pop("GATEHOUSE_KEY", None)  # the operator's key file counts here
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise BenchRefused("the server was not started.")
        return self._process.pid

    def __enter__(self) -> "Server":
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line, no input of others
                self._command(),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def key(self) -> str:
        """A new key for inference, made with the operator's key on this machine."""
        made = subprocess.run(
            [sys.executable, "-m", "serve_app", "keys", "create", "--tenant", "default", "--name", "bench"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        found = _KEY.search(made.stdout)
        if made.returncode != 0 or found is None:
            raise BenchRefused("the server made no key.")
        return found.group(0)

    def _command(self) -> list[str]:
        up = [sys.executable, "-m", "serve_app", "up", "--config", str(self._config)]
        return [*up, "--startup-timeout", str(self._start_s)]

    def _wait_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline_s = self._clock.monotonic_s() + self._start_s
        while _READY not in (text := self.log.read_text(encoding="utf-8", errors="replace")):
            if process.poll() is not None:
                last = (_KEY.sub("gh-...", text).strip().splitlines() or ["it said nothing"])[-1]
                raise BenchRefused(f"the server did not start: {last}")
            if self._clock.monotonic_s() > deadline_s:
                raise BenchRefused(f"the server was not ready after {self._start_s:.0f} s.")
            try:
                process.wait(0.3)
            except subprocess.TimeoutExpired:
                continue
