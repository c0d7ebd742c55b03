"""The GPU suite: gpt-oss-20b and -120b at full size with dummy weights, bare vLLM against Gatehouse, as ratios.

Checkpoints are folders without weights: the real architecture, the real tokenizer, `load_format: dummy`. Both servers
get the same engine arguments, because both are derived from one `EngineSettings`. The output is noise, so requests are
text completions with token ids as prompts and `ignore_eos`. Dummy loading leaves integer tensors, the MXFP4 blocks and
scales, uninitialised: before anything is measured, every server must show finite logits, and the result says whether
it did. How evenly such weights use the experts cannot be seen from outside; ratios stand, absolute speeds do not.
"""

import asyncio
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import yaml
from pydantic import JsonValue

from deployments.clock import Clock, SystemClock
from deployments.engine.options import EngineSettings, engine_kwargs, frontend_kwargs, replica_env
from serve_app.bench.affinity import Server, free_port
from serve_app.bench.load import BenchRefused, Endpoint, Window, client_session
from serve_app.bench.machine import machine
from serve_app.bench.stats import METRICS, Figures, figures, metric, ratio_ranges, ratios
from serve_app.bench.stream import Sample, stream_once
from serve_app.config import ROOT, find
from serve_app.demo.tokenizer import write_tokenizer, write_tokenizer_config
from serve_app.demo.vocabulary import VOCABULARY_FILE, VocabularyUnavailable, ensure_vocabulary

Tell = Callable[[str], None]
_START_S = 1800.0
_STOP_S = 120.0
_REQUEST_S = 600.0
_MASKED_LOGPROB = -9999.0  # what vLLM reports in place of minus infinity
_VOCABULARY_SIZE = 201_088
_LAST_TEXT_ID = 199_000  # below the special tokens
_SPEED = ("TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "E2E p50", "output tokens/s")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of the two gpt-oss models. `share` is the part of a 141 GB card its server asks for; its KV cache in bytes.

    The shares leave room for both on one card; with a KV cache of a given size vLLM profiles nothing, so two engines
    may start at the same time.
    """

    model: str
    layers: int
    experts: int
    share: float
    kv_cache_bytes: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "20b": Architecture("gpt-oss-20b", layers=24, experts=32, share=0.22, kv_cache_bytes=8 << 30),
    "120b": Architecture("gpt-oss-120b", layers=36, experts=128, share=0.65, kv_cache_bytes=12 << 30),
}


@dataclass(frozen=True, slots=True)
class GpuSuite:
    """What is measured: `requests` per stream at every number of streams, `rounds` times in turn."""

    tiers: tuple[str, ...]
    streams: tuple[int, ...] = (1, 8, 32)
    requests: int = 8
    rounds: int = 2
    prompt_tokens: int = 1024
    max_tokens: int = 256
    max_model_len: int = 32_768
    max_num_seqs: int = 128
    seed: int = 1

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Which models are up together: each alone, then both."""
        alone = tuple((tier,) for tier in self.tiers)
        return alone if len(self.tiers) == 1 else (*alone, self.tiers)


@dataclass(frozen=True, slots=True)
class Step:
    """One start of one kind of server with one group of models; steps of a group take turns over the rounds."""

    tiers: tuple[str, ...]
    target: str
    round: int


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What a group of models showed: windows by target and number of streams, and whether logits were finite."""

    tiers: tuple[str, ...]
    windows: Mapping[str, Mapping[int, tuple[Window, ...]]]
    finite: Mapping[str, bool]

    @property
    def name(self) -> str:
        """For tables."""
        return " + ".join(ARCHITECTURES[tier].model for tier in self.tiers)


@dataclass(frozen=True, slots=True)
class GpuResult:
    """The whole suite."""

    device: str
    machine: Mapping[str, Any]
    suite: GpuSuite
    groups: Sequence[GroupResult] = field(default_factory=list[GroupResult])

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file: figures of every target, and Gatehouse's ratios to bare vLLM."""
        return {
            "device": self.device,
            "machine": dict(self.machine),
            "suite": {name: getattr(self.suite, name) for name in GpuSuite.__slots__},
            "groups": [
                {
                    "models": group.name,
                    "finite_logits": dict(group.finite),
                    "levels": [_level_json(group, streams) for streams in self.suite.streams],
                }
                for group in self.groups
            ],
        }

    def table(self) -> Iterator[str]:
        """Markdown: per group and level one row of figures per target and one of ratios."""
        yield f"Device: {self.device}. Dummy weights: read ratios, not speeds."
        for group in self.groups:
            odd = [target for target, finite in group.finite.items() if not finite]
            yield ""
            yield f"### {group.name}"
            yield f"Logits finite: {'yes' if not odd else 'NO for ' + ', '.join(odd) + ': these figures say nothing'}."
            yield ""
            yield "| streams | server | " + " | ".join(_SPEED) + " | failed |"
            yield "|---" * (len(_SPEED) + 3) + "|"
            for streams in self.suite.streams:
                bare, ours = (figures(group.windows[target][streams]) for target in TARGETS)
                for name, seen in zip(TARGETS, (bare, ours), strict=True):
                    failed = seen.requests - seen.complete
                    yield f"| {streams} | {name} | {' | '.join(_cells(seen))} | {failed} |"
                ratio = ratios(ours, bare)
                cells = ("-" if ratio[label] is None else f"x{ratio[label]:.3f}" for label in _SPEED)
                yield f"| {streams} | ratio | {' | '.join(cells)} | |"


TARGETS = ("vllm", "gatehouse")


def suite_of(
    models: str, streams: str, requests: int, rounds: int, prompt_tokens: int, max_tokens: int, seed: int = 1
) -> GpuSuite:
    """A suite from a command line's words; raises `BenchRefused` for words that mean nothing."""
    tiers = tuple(dict.fromkeys(word.strip() for word in models.split(",") if word.strip()))
    unknown = [tier for tier in tiers if tier not in ARCHITECTURES]
    if unknown or not tiers:
        raise BenchRefused(f"--models takes {' and '.join(ARCHITECTURES)}, separated by commas.")
    try:
        counts = tuple(int(word) for word in streams.split(","))
    except ValueError:
        raise BenchRefused("--streams takes numbers, separated by commas.") from None
    if not counts or min(counts) < 1 or max(counts) > 1024:
        raise BenchRefused("a number of streams is 1 to 1024.")
    return GpuSuite(tiers, counts, requests, rounds, prompt_tokens, max_tokens, seed=seed)


def steps_of(suite: GpuSuite) -> list[Step]:
    """The order of starts: per group the servers take turns, and every other round begins with the other one."""
    return [
        Step(group, target, number)
        for group in suite.groups
        for number in range(suite.rounds)
        for target in (TARGETS if number % 2 == 0 else TARGETS[::-1])
    ]


def model_config(architecture: Architecture) -> dict[str, object]:
    """`config.json` of gpt-oss at full size, with its experts in MXFP4."""
    kinds = ("sliding_attention", "full_attention")
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": _VOCABULARY_SIZE,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": architecture.layers,
        "num_local_experts": architecture.experts,
        "num_experts_per_tok": 4,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "layer_types": [kinds[layer % 2] for layer in range(architecture.layers)],
        "sliding_window": 128,
        "max_position_embeddings": 131_072,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150_000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "dtype": "bfloat16",
        "eos_token_id": 200_002,
        "pad_token_id": 199_999,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    }


def write_checkpoint(architecture: Architecture, folder: Path) -> None:
    """The small files of a checkpoint, without weights and without `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without <|call|> among the stop tokens vLLM runs past a tool call; no stop token is used here, but a replica
    # refuses a checkpoint that lacks it.
    stops = {"do_sample": True, "eos_token_id": [200_002, 199_999, 200_012], "pad_token_id": 199_999}
    for name, content in (("config.json", model_config(architecture)), ("generation_config.json", stops)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer_config(folder)


def settings_of(suite: GpuSuite, tier: str, out: Path) -> EngineSettings:
    """The one source of both servers' engine arguments."""
    architecture = ARCHITECTURES[tier]
    return EngineSettings(
        model=architecture.model,
        revision="dummy",
        source=str(checkpoint_dir(out, tier)),
        dtype="bfloat16",
        max_model_len=suite.max_model_len,
        max_num_seqs=suite.max_num_seqs,
        gpu_memory_utilization=architecture.share,
        kv_cache_memory_bytes=architecture.kv_cache_bytes,
        engine_args={"load_format": "dummy"},
        num_gpus=architecture.share,
        num_cpus=1.0,
        max_queued=1024,
    )


def checkpoint_dir(out: Path, tier: str) -> Path:
    """Where the checkpoint of a tier lies."""
    return out.resolve() / "models" / ARCHITECTURES[tier].model


def vllm_command(settings: EngineSettings, port: int) -> list[str]:
    """The bare server with the engine arguments and the frontend arguments of a replica."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    for name, value in (engine_kwargs(settings) | frontend_kwargs(settings)).items():
        command += _flag(name, value)
    return command


def serve_document(base: Mapping[str, Any], suite: GpuSuite, tiers: Sequence[str], out: Path, port: int) -> Any:
    """A Serve config file for Gatehouse with the models of one group; a lone 120b serves the base tier."""
    document = json.loads(json.dumps(base))
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    args |= {
        "device": "cuda",
        "min_memory_gib": 0,
        "state_dir": str(out.resolve() / "gatehouse" / "-".join(tiers) / "state"),
        "vocabulary_dir": str(out.resolve() / "vocabulary"),
        "tenancy": {"max_concurrent_requests": 4096},
        "models": [
            {
                "tier": tier if len(tiers) > 1 else "20b",
                "engine": settings_of(suite, tier, out).model_dump(mode="json", exclude_defaults=True),
            }
            for tier in tiers
        ],
    }
    return document


def request_body(suite: GpuSuite, model: str, number: int) -> dict[str, Any]:
    """Request `number`: a prompt of token ids that no other request shares, and exactly `max_tokens` of answer."""
    rng = random.Random(f"{suite.seed}:{number}")
    return {
        "model": model,
        "prompt": [rng.randrange(_LAST_TEXT_ID) for _ in range(suite.prompt_tokens)],
        "max_tokens": suite.max_tokens,
        "ignore_eos": True,
        "temperature": 0.7,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def finite_logits(reply: Mapping[str, Any]) -> bool:
    """Whether the log-probabilities of a completion are numbers, and not all the same.

    A NaN reaches the client as null, as NaN, or as vLLM's stand-in for minus infinity.
    """
    try:
        logprobs = cast(Mapping[str, Any], reply["choices"][0]["logprobs"])
        chosen = cast(list[Any], logprobs["token_logprobs"])
        tops = cast(list[Mapping[str, Any]], logprobs["top_logprobs"])
        values = [*chosen, *(value for top in tops for value in top.values())]
    except (KeyError, IndexError, TypeError, AttributeError):
        return False
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return (
        len(numbers) == len(values) and len(set(numbers)) > 1 and min(numbers) > _MASKED_LOGPROB and max(numbers) <= 0.0
    )


def cuda_device(environment: Mapping[str, str]) -> str:
    """Name and memory of the CUDA devices; raises `BenchRefused` when there is none."""
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is not None:
        query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        seen = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False, env=dict(environment))  # noqa: S603
        if seen.returncode == 0 and seen.stdout.strip():
            return "; ".join(seen.stdout.strip().splitlines())
    raise BenchRefused("there is no CUDA device here: the GPU suite needs one (80 GB for 120b alone, 141 GB for both).")


def write_inputs(suite: GpuSuite, out: Path, environment: Mapping[str, str], tell: Tell) -> None:
    """The vocabulary and the checkpoint folders; about ten seconds once. Raises `BenchRefused`."""
    try:
        ensure_vocabulary(out / "vocabulary", tell, environment)
    except VocabularyUnavailable as error:
        raise BenchRefused(str(error)) from None
    built: Path | None = None
    for tier in suite.tiers:
        folder = checkpoint_dir(out, tier)
        write_checkpoint(ARCHITECTURES[tier], folder)
        if not (folder / "tokenizer.json").is_file():
            if built is None:
                tell("building the tokenizer")
                write_tokenizer(out / "vocabulary" / VOCABULARY_FILE, folder)
            else:
                shutil.copyfile(built, folder / "tokenizer.json")
        built = folder / "tokenizer.json"
        tell(f"{ARCHITECTURES[tier].model}: {folder}")


def plan_lines(suite: GpuSuite, out: Path) -> Iterator[str]:
    """What would run, for a person to check before the machine is rented."""
    for step in steps_of(suite):
        names = " + ".join(ARCHITECTURES[tier].model for tier in step.tiers)
        yield f"round {step.round + 1}: {step.target} with {names}, streams {', '.join(map(str, suite.streams))}"
    for tier in suite.tiers:
        yield "vllm: " + " ".join(vllm_command(settings_of(suite, tier, out), 8000))


def gpu_suite(suite: GpuSuite, out: Path, environment: Mapping[str, str], tell: Tell) -> GpuResult:
    """Run everything on this machine and write `gpu.json` and `gpu.md` to `out`. Raises `BenchRefused`."""
    device = cuda_device(environment)
    tell(f"device: {device}")
    write_inputs(suite, out, environment, tell)
    facts = machine().to_json()
    collected: dict[tuple[str, ...], dict[str, dict[int, list[Window]]]] = {}
    finite: dict[tuple[str, ...], dict[str, bool]] = {}
    for step in steps_of(suite):
        by_target = collected.setdefault(step.tiers, {target: {} for target in TARGETS})
        names = " + ".join(ARCHITECTURES[tier].model for tier in step.tiers)
        tell(f"round {step.round + 1}: starting {step.target} with {names}")
        start = _bare if step.target == "vllm" else _gatehouse
        with start(suite, step, out, environment) as endpoints:
            seen = all(_shows_finite_logits(endpoint, suite) for endpoint in endpoints)
            states = finite.setdefault(step.tiers, {})
            states[step.target] = states.get(step.target, True) and seen
            tell(f"  logits finite: {'yes' if seen else 'NO: what follows says nothing about speed'}")
            for streams in suite.streams:
                window = asyncio.run(_load(endpoints, suite, streams, step.round))
                by_target[step.target].setdefault(streams, []).append(window)
                figure = figures([window])
                tell(f"  {streams} streams: {figure.output_tokens_per_s:.0f} tokens/s, {dict(figure.errors) or 'ok'}")
    result = GpuResult(
        device,
        facts,
        suite,
        [
            GroupResult(
                tiers,
                {target: {n: tuple(w) for n, w in levels.items()} for target, levels in by_target.items()},
                finite[tiers],
            )
            for tiers, by_target in collected.items()
        ],
    )
    (out / "gpu.json").write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text("\n".join(result.table()) + "\n", encoding="utf-8")
    return result


async def _load(endpoints: Sequence[Endpoint], suite: GpuSuite, streams: int, round_number: int) -> Window:
    """A closed loop over all models at once: streams are dealt out to them in turn. A warm-up request comes first."""
    clock = asyncio.get_running_loop().time
    total = streams * suite.requests
    numbers = iter(
        range(round_number * 1_000_000 + streams * 10_000, round_number * 1_000_000 + streams * 10_000 + total)
    )
    samples: list[Sample] = []

    async with client_session() as session:

        async def ask(endpoint: Endpoint, number: int) -> Sample:
            url, body = f"{endpoint.url}/v1/completions", request_body(suite, endpoint.model, number)
            return await stream_once(session, url, endpoint.key, body, timeout_s=_REQUEST_S)

        async def stream(index: int) -> None:
            endpoint = endpoints[index % len(endpoints)]
            for number in numbers:
                samples.append(await ask(endpoint, number))

        await asyncio.gather(*(ask(endpoint, -1 - index) for index, endpoint in enumerate(endpoints)))
        before = os.times()
        started_s = clock()
        async with asyncio.TaskGroup() as group:
            for index in range(streams):
                group.create_task(stream(index))
        wall_s = clock() - started_s
        after = os.times()
    client_s = after.user + after.system - before.user - before.system
    return Window(tuple(samples), wall_s, client_s)


def _shows_finite_logits(endpoint: Endpoint, suite: GpuSuite) -> bool:
    body = request_body(suite, endpoint.model, 0) | {"stream": False, "max_tokens": 4, "logprobs": 5}
    del body["stream_options"]
    headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        reply = httpx2.post(f"{endpoint.url}/v1/completions", json=body, headers=headers, timeout=_REQUEST_S)
        return reply.status_code == 200 and finite_logits(reply.json())
    except (httpx2.HTTPError, ValueError):
        return False


@contextmanager
def _bare(
    suite: GpuSuite, step: Step, out: Path, environment: Mapping[str, str], clock: Clock | None = None
) -> Generator[list[Endpoint]]:
    """One bare vLLM server per model, each on a port of its own, started one after the other."""
    timer = clock or SystemClock()
    with ExitStack() as stack:
        endpoints: list[Endpoint] = []
        for tier in step.tiers:
            settings, port = settings_of(suite, tier, out), free_port()
            log = out / f"vllm-{tier}-round{step.round + 1}.log"
            sink = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(  # noqa: S603 - our own command line, no input of others
                vllm_command(settings, port),
                cwd=ROOT,
                env={**environment, **replica_env(settings, str(out.resolve() / "vocabulary"), "cuda")},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_stop, process)
            url = f"http://127.0.0.1:{port}"
            _wait_healthy(process, url, timer, log)
            endpoints.append(Endpoint("vllm", url, settings.model, None, (process.pid,)))
        yield endpoints


@contextmanager
def _gatehouse(suite: GpuSuite, step: Step, out: Path, environment: Mapping[str, str]) -> Generator[list[Endpoint]]:
    """One Gatehouse with all models of the group behind one address."""
    folder = out.resolve() / "gatehouse" / "-".join(step.tiers)
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    port = free_port()
    base = cast(dict[str, Any], yaml.safe_load(find("configs/serve.local.yaml").read_text(encoding="utf-8")))
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(serve_document(base, suite, step.tiers, out, port)), encoding="utf-8")
    with Server(config, port, state, environment, start_s=_START_S) as server:
        key = server.key()
        yield [Endpoint("gatehouse", server.url, ARCHITECTURES[tier].model, key, (server.pid,)) for tier in step.tiers]


def _wait_healthy(process: "subprocess.Popen[bytes]", url: str, clock: Clock, log: Path) -> None:
    deadline_s = clock.monotonic_s() + _START_S
    while True:
        if process.poll() is not None:
            raise BenchRefused(f"bare vLLM ended while it started; its log is {log}.")
        if clock.monotonic_s() > deadline_s:
            raise BenchRefused(f"bare vLLM was not ready after {_START_S:.0f} s; its log is {log}.")
        try:
            if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _flag(name: str, value: JsonValue) -> list[str]:
    """One argument as vLLM's command line spells it; None is left out."""
    flag = "--" + name.replace("_", "-")
    match value:
        case None:
            return []
        case bool():
            return [flag] if value else ["--no-" + name.replace("_", "-")]
        case list():
            return [flag, *(str(each) for each in value)]
        case dict():
            return [flag, json.dumps(value)]
        case _:
            return [flag, str(value)]


def _cells(seen: Figures) -> list[str]:
    values = [metric(seen, label) for label in _SPEED]
    return ["-" if value is None else f"{value:.1f}" for value in values]


def _level_json(group: GroupResult, streams: int) -> dict[str, Any]:
    bare, ours = (group.windows[target][streams] for target in TARGETS)
    return {
        "streams": streams,
        "figures": {target: figures(group.windows[target][streams]).to_json() for target in TARGETS},
        "ratios": ratios(figures(ours), figures(bare)),
        "ratio_ranges": ratio_ranges(ours, bare),
        "metrics": list(METRICS),
    }
