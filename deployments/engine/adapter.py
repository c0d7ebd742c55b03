"""vLLM, behind the only module that imports it.

vLLM's entrypoints move between releases, so the version is pinned and everything of theirs that we rely on is here:
how to build the engine and its FastAPI app, where its fatal errors go, what its engine counts of a request and of all,
and the one name that puts our harmony parser in place. `tests/engines/test_engine.py` is the first thing to run when
the pin moves.

vLLM is imported inside functions: the pure half of this package must work where it is not installed.
"""

import argparse
import gc
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, cast

from deployments.clock import Clock
from deployments.engine.bridge import AsgiApp, AsgiBridge
from deployments.engine.counting import TALLY
from deployments.engine.guardian import Guardian
from deployments.engine.harmony import REPAIRS, Finished, RecoveringParser
from deployments.engine.options import EngineSettings, engine_kwargs, frontend_kwargs
from deployments.engine.replica import CoreLoad
from deployments.engine.settings import ENGINE_PATHS
from deployments.ports import Counted, EngineStart, Usage

HARMONY_STOPS = frozenset({200002, 200012})  # <|return|>, <|call|>
_WARM_UP_DEADLINE_S = 600.0  # the first sampled request compiles kernels: 6 s on two quiet cores, minutes on busy ones
_SHUTDOWN_S = 10.0
_OK = 200
_EMBEDDING = frozenset({"/v1/embeddings"})
_GENERATING = ENGINE_PATHS - _EMBEDDING - {"/tokenize", "/detokenize"}


class EngineStartFailed(Exception):
    """The engine cannot start; the message is one sentence for the operator."""


@dataclass(slots=True)
class _Pulse:
    """Fed by vLLM at every engine step."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


class VLLM:
    """A running `AsyncLLM` with vLLM's own API. Built by `start`, which returns only when it can serve."""

    def __init__(self, engine: Any, bridge: AsgiBridge, server: SimpleNamespace, pulse: _Pulse) -> None:
        self._engine = engine
        self._guardian = Guardian(self.pids())
        self._bridge = bridge
        self._server = server
        self._pulse = pulse
        self._stopped = False

    @classmethod
    async def start(cls, settings: EngineSettings, clock: Clock, ray_metrics: bool) -> tuple["VLLM", float]:
        """The engine and the seconds it took, warm-up included. `EngineStartFailed` names what the operator can fix.

        `ray_metrics` sends vLLM's metrics to Ray's metrics agent; it needs a process of Ray's.
        """
        began_s = clock.monotonic_s()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        engine_args = _checked(AsyncEngineArgs, engine_kwargs(settings))
        config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        harmony = _prepare_harmony(config.model_config, settings.source)
        pulse = _Pulse()
        engine = AsyncLLM.from_vllm_config(
            config, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=_stat_loggers(pulse, ray_metrics)
        )
        try:
            self = await cls._over(engine, await _app(engine, engine_args, settings), settings, pulse, harmony)
        except BaseException:  # whatever it was, the child process must not outlive it
            engine.shutdown(timeout=_SHUTDOWN_S)
            raise
        return self, clock.monotonic_s() - began_s

    @classmethod
    async def attach(cls, engine: Any, app: Any, args: argparse.Namespace, settings: EngineSettings) -> "VLLM":
        """A core around an `AsyncLLM` that Ray Serve LLM has started, vLLM's app on it, and the arguments of both.

        From here on it owns the engine: when this raises (`EngineStartFailed` names what the operator can fix), the
        engine has been shut down.
        """
        try:
            _refuse_unsafe(args)
            harmony = _prepare_harmony(engine.model_config, settings.source)
            if engine.logger_manager is None:
                raise EngineStartFailed("vLLM keeps no statistics here; its health could not be told.")
            pulse = _Pulse()
            engine.logger_manager.stat_loggers.append(_pulse_logger(pulse)(engine.vllm_config))
            return await cls._over(engine, app, settings, pulse, harmony)
        except BaseException:
            engine.shutdown(timeout=_SHUTDOWN_S)
            raise

    @classmethod
    async def _over(cls, engine: Any, app: Any, settings: EngineSettings, pulse: _Pulse, harmony: bool) -> "VLLM":
        """The core over a running engine and its app, warmed up."""
        server = _mind(app, settings)
        _install_counting(engine)
        self = cls(engine, AsgiBridge(cast(AsgiApp, app), settings.flush, settings.abort_grace_s), server, pulse)
        if settings.warm_up:
            embeds = any(path == "/v1/embeddings" for path, _ in _routes(app.routes))
            await self._warm_up(settings.model, chat=harmony, embeds=embeds)
        gc.collect()
        gc.freeze()  # vLLM's lifespan does this, but it does not run here: the start-up heap is never garbage
        return self

    @property
    def bridge(self) -> AsgiBridge:
        """The HTTP API of vLLM."""
        return self._bridge

    @property
    def max_model_len(self) -> int:
        """Tokens that fit into one request."""
        return int(self._engine.model_config.max_model_len)

    @property
    def seats(self) -> int:
        """Requests that the scheduler runs at once."""
        return int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    def failure(self) -> str | None:
        """Why the engine cannot go on, or None."""
        if self._stopped:
            return "it was shut down"
        if self._engine.errored:
            return "its core process died"
        if self._server.should_exit:
            return "vLLM reported a fatal error"
        return None

    def load(self) -> CoreLoad:
        """What the engine has to do now; `running`, `waiting` and `kv_usage` are of its last step."""
        unfinished = int(self._engine.get_num_unfinished_requests())
        return CoreLoad(
            unfinished=unfinished,
            running=min(self._pulse.running, unfinished),
            waiting=min(self._pulse.waiting, unfinished),
            queued_tokens=int(self._engine.get_num_queued_tokens()),
            kv_usage=self._pulse.kv_usage if unfinished else 0.0,
        )

    def steps(self) -> int:
        """Engine steps so far."""
        return self._pulse.steps

    def pids(self) -> tuple[int, ...]:
        """The engine core's processes; their workers are children of theirs."""
        manager = self._engine.engine_core.resources.engine_manager
        return tuple(int(process.pid) for process in manager.processes) if manager is not None else ()

    def shutdown(self) -> None:
        """Stop the core process, and with it the workers that hold the GPUs. May be called again."""
        if not self._stopped:
            self._stopped = True
            self._engine.shutdown(timeout=_SHUTDOWN_S)
            self._guardian.release()

    async def _warm_up(self, model: str, chat: bool, embeds: bool) -> None:
        """Pay for what the first *sampled* request compiles, and for the first chat template, before being ready."""
        if embeds:
            await self._expect_ok("/v1/embeddings", {"model": model, "input": "hi"})
            return
        sampled = {"model": model, "max_tokens": 2, "temperature": 1.0}
        await self._expect_ok("/v1/completions", sampled | {"prompt": [1, 2, 3]})
        if chat:
            await self._expect_ok("/v1/chat/completions", sampled | {"messages": [{"role": "user", "content": "hi"}]})

    async def _expect_ok(self, path: str, body: dict[str, Any]) -> None:
        status, answer, cost = 0, b"", Usage()
        headers, asked = {"content-type": "application/json"}, json.dumps(body).encode()
        async for item in self._bridge.call("POST", path, headers, asked, _WARM_UP_DEADLINE_S, counted=True):
            if isinstance(item, EngineStart):
                status = item.status
            elif isinstance(item, Counted):
                answer, cost = answer + item.data, item.usage
            elif isinstance(item, bytes):
                answer += item
        if status != _OK:
            text = answer[:300].decode(errors="replace")
            raise EngineStartFailed(f"The warm-up request to {path} was answered with {status}: {text}")
        if "max_tokens" in body and not (cost.input_tokens and cost.output_tokens):
            raise EngineStartFailed("This vLLM counts tokens in another way; the adapter must follow.")


def lora_module(name: str, path: str, base_model_name: str) -> object:
    """An adapter as vLLM's `lora_modules` wants it."""
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    return LoRAModulePath(name=name, path=path, base_model_name=base_model_name)


async def _app(engine: Any, engine_args: Any, settings: EngineSettings) -> Any:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    frontend = _checked(FrontendArgs, frontend_kwargs(settings))
    args = argparse.Namespace(**(vars(frontend) | vars(engine_args)))
    _refuse_unsafe(args)
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, model_config=engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    return app


def _mind(app: Any, settings: EngineSettings) -> SimpleNamespace:
    """Where vLLM reports fatal errors of this app; `EngineStartFailed` when it does not serve all that we allow."""
    # vLLM's handler for fatal errors sets `should_exit` here; outside uvicorn the attribute would be missing
    server = app.state.server = SimpleNamespace(should_exit=False)
    served = {path for path, methods in _routes(app.routes) if "POST" in methods}
    # A model that embeds generates nothing, and the other way round: vLLM serves the routes of one kind.
    missing = ENGINE_PATHS - served - (_GENERATING if served >= _EMBEDDING else _EMBEDDING)
    if missing:
        raise EngineStartFailed(f"This vLLM does not serve {', '.join(sorted(missing))} for {settings.model}.")
    return server


def _prepare_harmony(model_config: Any, source: str) -> bool:
    """True for a model that speaks harmony; then its parser is in place and its stop tokens are right."""
    if model_config.hf_config.model_type != "gpt_oss":
        return False
    require_harmony_stops(model_config.try_get_generation_config(), source)
    _install_harmony()
    return True


def require_harmony_stops(generation: Mapping[str, Any], source: str) -> None:
    """`EngineStartFailed` unless generation ends at `<|return|>` and `<|call|>`.

    vLLM 0.29 adds no stop tokens of harmony by itself: without 200012 a tool call runs on into the next message.
    """
    given = generation.get("eos_token_id")
    stops = set(cast(list[int], given) if isinstance(given, list) else [given])
    missing = HARMONY_STOPS - stops
    if missing:
        raise EngineStartFailed(
            f"generation_config.json in {source} must name the harmony stop tokens 200002 and 200012 in eos_token_id "
            f"({', '.join(map(str, sorted(missing)))} missing): without them tool calls do not end."
        )


def _refuse_unsafe(args: argparse.Namespace) -> None:
    """What no configuration may reach, checked on the arguments that vLLM is really given."""
    if args.tool_server is not None:  # tools would run inside vLLM, past gate and audit
        raise EngineStartFailed("vLLM's tool_server must stay unset.")
    if args.enable_log_requests or args.enable_log_outputs or args.log_error_stack:
        raise EngineStartFailed("vLLM must not log requests, outputs or error stacks: they hold prompts.")
    if args.trust_remote_code or args.middleware or args.api_key:
        raise EngineStartFailed("vLLM must not load code from a checkpoint, middleware or keys of its own.")


def _checked(cls: type[Any], kwargs: dict[str, Any]) -> Any:
    """`cls(**kwargs)`, with one sentence for an argument that this vLLM does not have."""
    unknown = kwargs.keys() - {field.name for field in fields(cls)}
    if unknown:
        raise EngineStartFailed(f"The installed vLLM has no argument named {', '.join(sorted(unknown))}.")
    return cls(**kwargs)


def _routes(routes: Iterable[Any]) -> Iterable[tuple[str, frozenset[str]]]:
    """Path and methods of every route, nested routers included."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from _routes(router.routes)
        elif getattr(route, "path", None) is not None:
            yield route.path, frozenset(getattr(route, "methods", None) or ())


def _pulse_logger(pulse: _Pulse) -> type[Any]:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class PulseLogger(StatLoggerBase):
        """Keeps the last numbers of the scheduler; vLLM calls it after every engine step."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            del vllm_config, engine_index

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            del iteration_stats, mm_cache_stats, engine_idx
            pulse.steps += 1
            if scheduler_stats is not None:
                pulse.running = scheduler_stats.num_running_reqs
                pulse.waiting = scheduler_stats.num_waiting_reqs
                pulse.kv_usage = scheduler_stats.kv_cache_usage

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    return PulseLogger


def _stat_loggers(pulse: _Pulse, ray_metrics: bool) -> list[Any]:
    loggers: list[Any] = [_pulse_logger(pulse)]
    if ray_metrics:
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        loggers.append(RayPrometheusStatLogger)
    return loggers


class _Generation:
    """`counting.Counting` over the state that vLLM keeps of a generation in this process, as of the engine's last step.

    It outlives the generation's end, when vLLM lets go of it.
    """

    __slots__ = ("_state", "prompt")

    def __init__(self, state: Any) -> None:
        parent = state.parent_req  # one for all choices of a prompt
        self.prompt = str(state.request_id if parent is None else parent.request_id)
        self._state = state

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""
        return int(self._state.prompt_len)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were in the cache."""
        return int(self._state.num_cached_tokens)

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far; none for a model that embeds."""
        detokenizer = self._state.detokenizer
        return 0 if detokenizer is None else int(detokenizer.num_output_tokens())


def _install_counting(engine: Any) -> None:
    """Let every request that is counted find its generations, from when vLLM takes them on."""
    processor = engine.output_processor
    add = processor.add_request

    def counted(request: Any, *args: Any, **kwargs: Any) -> None:
        add(request, *args, **kwargs)
        tally = TALLY.get()
        if tally is not None:
            tally.add(_Generation(processor.request_states[request.request_id]))

    processor.add_request = counted


def _install_harmony() -> None:
    """Load the vocabulary now, not at the first chat request, and put our parser where vLLM's looks its own up."""
    import vllm.parser.harmony as target
    from openai_harmony import Message, Role, TextContent  # pyright: ignore[reportMissingTypeStubs]
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    try:
        encoding = get_encoding()
    except RuntimeError as error:  # HarmonyError is one
        raise EngineStartFailed(
            "The o200k vocabulary of gpt-oss could not be loaded: set TIKTOKEN_ENCODINGS_BASE to a folder that holds "
            f"an intact o200k_base.tiktoken ({error})."
        ) from error
    name = "get_streamable_parser_for_assistant"  # as vLLM's parser imported it: it looks the name up per reply
    if not hasattr(target, name):
        raise EngineStartFailed("This vLLM builds its harmony parser in another way; the adapter must follow.")
    roles = {role.value for role in Role}

    def message(done: Finished) -> Message:
        role = Role(done.role) if done.role in roles else Role.TOOL
        made = Message.from_role_and_content(role, TextContent(text=done.text))
        if done.channel is not None:
            made = made.with_channel(done.channel)
        if done.recipient is not None:
            made = made.with_recipient(done.recipient)
        return made if done.content_type is None else made.with_content_type(done.content_type)

    def parser() -> RecoveringParser[Message]:
        return RecoveringParser(encoding, message, REPAIRS.get([]))

    setattr(target, name, parser)
