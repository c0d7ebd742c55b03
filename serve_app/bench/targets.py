"""The servers of a comparison: how each is started, when it is ready, and how nothing of it stays behind.

All engines get the same settings and the same environment, both from one `EngineSettings`; what a server does not let
us set is listed under `differs` and printed with the figures.
"""

import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from deployments.clock import SystemClock
from deployments.engine.options import EngineSettings, replica_env
from serve_app.bench import ray_llm_app
from serve_app.bench.load import Endpoint
from serve_app.bench.soak_memory import process_tree
from serve_app.config import ROOT

TARGETS = ("vllm", "gatehouse", "ray-llm", "litellm")
HOST = "127.0.0.1"
NEEDS_GIB: Mapping[str, float] = {"vllm": 2.5, "gatehouse": 5.0, "ray-llm": 5.5, "litellm": 1.0}
"""Memory a server was seen to use with the demonstration model (2026-11-21), rounded up."""
_STOP_S = 90.0
_KILL_S = 15.0
_POLL_S = 0.5
_TAIL_LINES = 15
_KEY = re.compile(r"\bgh-[A-Za-z0-9_\-]+")
_DROPPED = ("GATEHOUSE_", "RAY_", "VLLM_", "LITELLM_", "OPENAI_", "OMP_")
_RAY_ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


class TargetFailed(Exception):
    """A server that did not start; the text ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One server: the command, its whole environment, and how to see that it answers.

    Ready is when `ready_path` answers 200, or when the output holds `ready_text`; one of them is set. `differs` says in
    words what is not as with the bare server. `key` is what it accepts; with `prints_key` its output holds it.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    url: str
    model: str
    ready_path: str | None = None
    ready_text: str | None = None
    differs: str = ""
    prints_key: bool = False
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Interpreters:
    """The Pythons that servers run under; None where a person named none."""

    own: str
    ray_llm: str | None = None
    litellm: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Where a comparison runs. Logs and files go to `out`; `state` holds keys and is removed after the run."""

    out: Path
    state: Path
    models: Path
    vocabulary: Path
    interpreters: Interpreters
    environment: Mapping[str, str] = field(repr=False)

    @property
    def inherited(self) -> dict[str, str]:
        """What servers inherit from us: nothing that would set one of them up differently, and no key."""
        return {name: value for name, value in self.environment.items() if not name.startswith(_DROPPED)}


def demo_engine(source: str, max_num_seqs: int = 64) -> EngineSettings:
    """The engine that every server of a comparison runs: the small demonstration model on one thread."""
    return EngineSettings(
        model="demo-20b",
        revision="demo-1",
        source=source,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=16_384,
        max_num_seqs=max_num_seqs,
        kv_cache_memory_bytes=134_217_728,
        num_cpus=0.5,
        drain_s=20.0,
    )


def gatehouse_engine(engine: EngineSettings) -> dict[str, Any]:
    """The `engine` block of a configuration for the same engine."""
    names = {
        "model", "revision", "source", "dtype", "enforce_eager", "max_model_len", "max_num_seqs",
        "kv_cache_memory_bytes", "num_cpus", "drain_s",
    }  # fmt: skip
    return engine.model_dump(include=names)


def synthetic_engine(first_token_ms: float, token_ms: float) -> dict[str, Any]:
    """The `engine` block of a token clock: what remains is the cost of the serving path."""
    return {
        "kind": "synthetic", "model": "syn-20b", "revision": "r1", "first_token_ms": first_token_ms,
        "token_ms": token_ms, "max_num_seqs": 256, "num_cpus": 0.5,
    }  # fmt: skip


def launch(
    name: str, engine: EngineSettings, block: Mapping[str, Any], site: Site, upstream_url: str | None = None
) -> Launch:
    """Write the files that server `name` needs and say how to start it; raises `TargetFailed` where it cannot be.

    `block` is Gatehouse's engine; `upstream_url` is the bare server that LiteLLM stands in front of.
    """
    port = free_port()
    if name == "vllm":
        return vllm_launch(engine, port, site)
    if name == "gatehouse":
        return _gatehouse(block, port, site)
    if name == "ray-llm":
        return _ray_llm(engine, port, site)
    if name == "litellm":
        return _litellm(engine.model, port, site, upstream_url)
    raise TargetFailed(f"there is no target '{name}'; there are {', '.join(TARGETS)}.")


def vllm_launch(engine: EngineSettings, port: int, site: Site) -> Launch:
    """The server that vLLM brings along.

    Started as a module: the `vllm` script of the CPU wheel asks for the metadata of a distribution of another name.
    """
    valued: dict[str, object] = {
        "--model": engine.source,
        "--served-model-name": engine.model,
        "--dtype": engine.dtype,
        "--max-model-len": engine.max_model_len,
        "--max-num-seqs": engine.max_num_seqs,
        "--kv-cache-memory-bytes": engine.kv_cache_memory_bytes,
        "--tool-call-parser": engine.tool_call_parser,
        "--reasoning-parser": engine.reasoning_parser,
        "--host": HOST,
        "--port": port,
    }
    argv = [site.interpreters.own, "-m", "vllm.entrypoints.openai.api_server"]
    for option, value in valued.items():
        argv += [] if value is None else [option, str(value)]
    argv += ["--enable-auto-tool-choice", "--enable-prompt-tokens-details"]
    argv += ["--enforce-eager"] if engine.enforce_eager else []
    return Launch(
        name="vllm",
        argv=tuple(argv),
        env=site.inherited | replica_env(engine, str(site.vocabulary), "cpu"),
        url=_url(port),
        model=engine.model,
        ready_path="/health",
    )


def gatehouse_document(base: Mapping[str, Any], block: Mapping[str, Any], port: int, state_dir: str) -> dict[str, Any]:
    """The local profile with the one model `block`, a state directory of its own and room for every stream."""
    document: dict[str, Any] = json.loads(json.dumps(base))
    document["http_options"] = {"host": HOST, "port": port}
    args = document["applications"][0]["args"]
    args["state_dir"] = state_dir
    args["models"] = [{"tier": "20b", "engine": dict(block)}]
    args["tenancy"] = {**args.get("tenancy", {}), "max_concurrent_requests": 4096}
    args["min_memory_gib"] = 0  # checked for all servers together
    return document


def _gatehouse(block: Mapping[str, Any], port: int, site: Site) -> Launch:
    for name, folder in (("models", site.models), ("vocabulary", site.vocabulary)):
        (site.state / name).symlink_to(folder)
    base: Any = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text(encoding="utf-8"))
    config = site.out / "serve.bench.yaml"
    document = gatehouse_document(base, block, port, str(site.state))
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    synthetic = ", on a token clock instead of an engine" if block.get("kind") == "synthetic" else ""
    return Launch(
        name="gatehouse",
        argv=(site.interpreters.own, "-m", "serve_app", "up", "--config", str(config)),
        env=site.inherited | {"COLUMNS": "400"},
        url=_url(port),
        model=str(block["model"]),
        ready_text="is ready",
        differs=f"authenticates, admits, routes, gates and audits every request{synthetic}",
        prints_key=True,
    )


def ray_llm_settings(engine: EngineSettings, port: int, vocabulary: str) -> dict[str, Any]:
    """What `ray_llm_app.py` reads: the same engine arguments, everything else as Ray has it."""
    return {
        "host": HOST,
        "port": port,
        "model": engine.model,
        "source": engine.source,
        "num_cpus": 8,  # bookkeeping: the stock app asks for more CPUs than a small machine has
        "env": replica_env(engine, vocabulary, "cpu"),
        "engine_kwargs": {
            "dtype": engine.dtype,
            "enforce_eager": engine.enforce_eager,
            "max_model_len": engine.max_model_len,
            "max_num_seqs": engine.max_num_seqs,
            "kv_cache_memory_bytes": engine.kv_cache_memory_bytes,
            "tool_call_parser": engine.tool_call_parser,
            "reasoning_parser": engine.reasoning_parser,
            "enable_auto_tool_choice": engine.tool_call_parser is not None,
            "enable_prompt_tokens_details": True,
        },
    }


def _ray_llm(engine: EngineSettings, port: int, site: Site) -> Launch:
    python = site.interpreters.ray_llm
    if python is None:
        raise TargetFailed("ray-llm needs --ray-llm-python: an interpreter that can import ray.serve.llm.")
    check_import(python, "ray.serve.llm", site.inherited | _RAY_ENV)
    settings = site.out / "ray-llm.json"
    settings.write_text(json.dumps(ray_llm_settings(engine, port, str(site.vocabulary)), indent=1), encoding="utf-8")
    return Launch(
        name="ray-llm",
        argv=(python, str(Path(ray_llm_app.__file__).resolve()), str(settings)),
        env=site.inherited | _RAY_ENV,
        url=_url(port),
        model=engine.model,
        ready_text=ray_llm_app.READY,
        differs="Ray Serve LLM sets vLLM's executor to mp: the model runs in a process of its own",
    )


def litellm_document(model: str, upstream_url: str) -> dict[str, Any]:
    """LiteLLM's configuration: one model, the bare vLLM server behind it, no database."""
    upstream = {"model": f"hosted_vllm/{model}", "api_base": f"{upstream_url}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": model, "litellm_params": upstream}],
        "litellm_settings": {"telemetry": False},
    }


def _litellm(model: str, port: int, site: Site, upstream_url: str | None) -> Launch:
    python = site.interpreters.litellm
    if python is None:
        raise TargetFailed("litellm needs --litellm-python: the interpreter of an environment that holds it.")
    if upstream_url is None:
        raise TargetFailed("litellm needs the bare vLLM server behind it, which is not up.")
    config = site.out / "litellm.yaml"
    config.write_text(yaml.safe_dump(litellm_document(model, upstream_url)), encoding="utf-8")
    key = f"sk-{secrets.token_urlsafe(24)}"  # it refuses to start without one
    own = {
        "LITELLM_MASTER_KEY": key,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches one at start
    }
    options = ("--config", str(config), "--host", HOST, "--port", str(port), "--num_workers", "1")
    return Launch(
        name="litellm",
        argv=(str(Path(python).parent / "litellm"), *options),
        env=site.inherited | own,
        url=_url(port),
        model=model,
        ready_path="/health/liveliness",
        differs="in front of the bare vLLM server, without a database; its CPU includes that server's",
        key=key,
    )


class Server:
    """A started server in a process group of its own."""

    def __init__(self, plan: Launch, out: Path) -> None:
        self.plan = plan
        self.log = out / f"{plan.name}.log"
        self.ready_after_s = 0.0
        self._clock = SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._key = plan.key
        self._seen: dict[int, str] = {}

    @property
    def pid(self) -> int | None:
        """The root of its processes; None when it does not run."""
        return None if self._process is None else self._process.pid

    def endpoint(self, *behind: int | None) -> Endpoint:
        """Where to send requests; `behind` are processes whose CPU counts as its own."""
        pids = tuple(pid for pid in (self.pid, *behind) if pid is not None)
        return Endpoint(self.plan.name, self.plan.url, self.plan.model, self._key, pids)

    def start(self, timeout_s: float = 600.0) -> None:
        """Start it and wait until it answers; raises `TargetFailed`, and then nothing of it is left."""
        began_s = self._clock.monotonic_s()
        # Readable for us only: a server may print a key at its start.
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as sink:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - commands are built above
                    self.plan.argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT,
                    env=dict(self.plan.env), start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise TargetFailed(f"{self.plan.name} cannot be started: {error.strerror}.") from None
        ready = False
        try:
            while not self._ready():
                ended = _born(self._process.pid) is None
                self._remember(self._process.pid)
                if ended:
                    raise TargetFailed(self._sentence(f"ended with status {self._process.wait()}"))
                if self._clock.monotonic_s() - began_s > timeout_s:
                    raise TargetFailed(self._sentence(f"was not ready after {timeout_s:.0f} s"))
                time.sleep(_POLL_S)
            if self.plan.prints_key:
                self._key = self._printed_key()
            ready = True
        finally:
            if not ready:
                self.stop()
        self.ready_after_s = self._clock.monotonic_s() - began_s

    def stop(self) -> None:
        """SIGINT, as Ctrl-C; what is left of its processes after a while is killed by id."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            self._remember(process.pid)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        for pid, began in self._seen.items():
            if _born(pid) == began:  # else it is gone, and the number may be another process's by now
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
        # A killed process holds its memory and its ports until the kernel has taken it down; the next one needs them.
        ends_s = self._clock.monotonic_s() + _KILL_S
        while any(_born(pid) == began for pid, began in self._seen.items()) and self._clock.monotonic_s() < ends_s:
            time.sleep(0.02)
        self._seen.clear()

    def _remember(self, root: int) -> None:
        """Note what is to be gone in the end; `root` must not have been waited for, so that the number is still its.

        Its session is looked at too: when it ends by itself its children have another parent, but the same session.
        """
        for pid in {*process_tree(root), *_session(root)}:
            began = _born(pid)
            if began is not None:
                self._seen[pid] = began

    def _ready(self) -> bool:
        if self.plan.ready_text is not None:
            return self.plan.ready_text in self._output()
        try:
            return httpx2.get(f"{self.plan.url}{self.plan.ready_path}", timeout=5.0).status_code == 200
        except httpx2.TransportError:
            return False

    def _printed_key(self) -> str:
        """The key that `gatehouse up` prints after it says that it is ready."""
        ends_s = self._clock.monotonic_s() + 10.0
        while self._clock.monotonic_s() < ends_s:
            found = _KEY.search(self._output())
            if found is not None:
                return found.group(0)
            time.sleep(_POLL_S)
        raise TargetFailed(self._sentence("printed no key"))

    def _output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _sentence(self, what: str) -> str:
        tail = _KEY.sub("gh-...", "\n".join(self._output().splitlines()[-_TAIL_LINES:]))
        return f"{self.plan.name} {what} (log: {self.log}).\n{tail}"


def check_import(python: str, module: str, environment: Mapping[str, str]) -> None:
    """Raise `TargetFailed` with the import's own last line when `python` cannot import `module`."""
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter is the operator's
            [python, "-c", f"import {module}"], env=dict(environment), capture_output=True, text=True, timeout=180,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetFailed(f"{python} cannot be run ({type(error).__name__}).") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise TargetFailed(f"{python} cannot import {module}: {last}")


def free_port() -> int:
    """A free port that no program gets by accident: below the ephemeral range, above Ray's workers."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise TargetFailed("no free port between 20000 and 32000.")


def private_folder() -> "tempfile.TemporaryDirectory[str]":
    """For state that holds keys; gone after the run."""
    return tempfile.TemporaryDirectory(prefix="gatehouse-bench-", ignore_cleanup_errors=True)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _born(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; with its id this names a process. None when it has ended."""
    fields = _stat(pid)
    return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def _session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _stat(pid)[3:4] == [str(leader)] and _born(pid) is not None]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, group, session, ...; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
