"""Memory and open files of a process tree over time, from /proc, and whether they stay flat. Linux only.

Judged is anonymous memory: it belongs to one process alone and a leak shows there. RSS counts pages that processes
share in each of them, and PSS of one process rises when another one that shared its pages ends; both are reported.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_MIB = 2**20
_HOUR_S = 3600.0
_REPLICA = re.compile(r"^ray::ServeReplica:[^:]*:([^.\s]+)")
_ACTOR = re.compile(r"^ray::(\w+)")


@dataclass(frozen=True, slots=True)
class Use:
    """What one process holds: bytes, and open file descriptors. `pss` and `anonymous` are 0 where unreadable."""

    kind: str
    rss: int
    pss: int
    anonymous: int
    files: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A process tree at `at_s` seconds after the start of the run, by process id."""

    at_s: float
    processes: Mapping[int, Use]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When growth counts as flat.

    A process is judged over its samples after `warm_up_s` of its own life in the run, and only when they span at least
    `judge_s`: over less, one garbage collection makes any slope. It is flat below `mib_per_hour`, or when its growth
    over the span stays below `share` of its size; its open files are flat when they grow by at most `files`.
    """

    warm_up_s: float = 300.0
    judge_s: float = 600.0
    mib_per_hour: float = 32.0
    share: float = 0.02
    files: int = 16


@dataclass(frozen=True, slots=True)
class Trend:
    """One process over the run. Slopes are MiB/hour (Theil-Sen); None with fewer than two samples after warm-up."""

    kind: str
    pid: int
    samples: int
    span_s: float
    first_mib: float
    last_mib: float
    peak_rss_mib: float
    rss_slope: float | None
    pss_slope: float | None
    anonymous_slope: float | None
    files_first: int
    files_last: int
    files_growth: float | None
    verdict: str


def process_tree(root: int, proc: Path = Path("/proc")) -> list[int]:
    """`root` and all its descendants that are alive, in no particular order; empty when there is no such process."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    alive: set[int] = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in brackets may hold anything, so the parent is counted from the last bracket.
            state, parent = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            alive.add(int(entry.name))
            children[int(parent)].append(int(entry.name))
    found: list[int] = []
    waiting = [root] if root in alive else []
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children[pid]
    return found


def take_sample(root: int, at_s: float, proc: Path = Path("/proc")) -> Sample:
    """What the tree under `root` holds now. Processes that end meanwhile are left out."""
    processes: dict[int, Use] = {}
    for pid in process_tree(root, proc):
        use = _use(proc / str(pid))
        if use is not None:
            processes[pid] = use
    return Sample(at_s, processes)


def kind_of(arguments: Sequence[str]) -> str:
    """A short name for a command line: the deployment of a Serve replica, an actor's class, or the program."""
    line = " ".join(arguments).strip()
    if not line:
        return "unknown"
    replica = _REPLICA.match(line)
    if replica:
        return f"replica {replica.group(1)}"
    actor = _ACTOR.match(line)
    if actor:
        return f"ray {actor.group(1)}"
    words = line.split()
    if words[0].startswith("VLLM::"):
        return words[0]
    program = Path(words[0]).name
    if program.startswith("python") and len(words) > 1:
        rest = [word for word in words[1:] if word not in ("-u", "-m", "-c")]
        script = Path(rest[0]).name if rest else program
        return "gatehouse up" if script in ("serve_app", "gatehouse") else script[:40]
    return program[:40]


def trends(samples: Sequence[Sample], bounds: Bounds) -> list[Trend]:
    """The trend of every process seen, largest first."""
    seen: defaultdict[int, list[tuple[float, Use]]] = defaultdict(list)
    for sample in samples:
        for pid, use in sample.processes.items():
            seen[pid].append((sample.at_s, use))
    made = [_trend(pid, series, bounds) for pid, series in seen.items()]
    return sorted(made, key=lambda trend: -trend.last_mib)


def theil_sen(points: Sequence[tuple[float, float]]) -> float | None:
    """The median of the slopes between all pairs of points (x, y): a few outliers do not move it. None below two."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
        if later[0] > earlier[0]
    ]
    return median(slopes) if slopes else None


def total_rss(sample: Sample) -> int:
    """RSS of the tree in bytes; pages that processes share are counted in each of them."""
    return sum(use.rss for use in sample.processes.values())


def total_pss(sample: Sample) -> int:
    """PSS of the tree in bytes: shared pages are counted once."""
    return sum(use.pss for use in sample.processes.values())


def tree_slope(samples: Sequence[Sample], total: Callable[[Sample], int], bounds: Bounds) -> float | None:
    """MiB/hour (Theil-Sen) of a total over the tree, after warm-up."""
    settled = [(sample.at_s, total(sample) / _MIB) for sample in samples if sample.at_s >= bounds.warm_up_s]
    per_s = theil_sen(settled)
    return None if per_s is None else per_s * _HOUR_S


def thinned(samples: Sequence[Sample], at_most: int = 200) -> list[Sample]:
    """Every n-th sample, so that slopes over all pairs stay cheap in a run of many hours."""
    step = max(1, -(-len(samples) // at_most))
    return list(samples[::step])


def _trend(pid: int, series: Sequence[tuple[float, Use]], bounds: Bounds) -> Trend:
    kinds = [use.kind for _, use in series]
    settled = [(at_s, use) for at_s, use in series if at_s - series[0][0] >= bounds.warm_up_s]
    span_s = settled[-1][0] - settled[0][0] if settled else 0.0

    def slope(values: Iterable[float]) -> float | None:
        per_s = theil_sen([(at_s, value) for (at_s, _), value in zip(settled, values, strict=True)])
        return None if per_s is None else per_s * _HOUR_S

    readable = any(use.anonymous for _, use in series)
    sizes = [(use.anonymous if readable else use.rss) / _MIB for _, use in settled]
    own = slope(sizes)
    files = slope(use.files for _, use in settled)
    growth = None if files is None else files * span_s / _HOUR_S
    first, last = series[0][1], series[-1][1]
    return Trend(
        kind=kinds[-1],
        pid=pid,
        samples=len(series),
        span_s=span_s,
        first_mib=(first.anonymous if readable else first.rss) / _MIB,
        last_mib=(last.anonymous if readable else last.rss) / _MIB,
        peak_rss_mib=max(use.rss for _, use in series) / _MIB,
        rss_slope=slope(use.rss / _MIB for _, use in settled),
        pss_slope=slope(use.pss / _MIB for _, use in settled) if readable else None,
        anonymous_slope=own if readable else None,
        files_first=first.files,
        files_last=last.files,
        files_growth=growth,
        verdict=_verdict(own, growth, span_s, median(sizes) if sizes else 0.0, bounds),
    )


def _verdict(own: float | None, growth: float | None, span_s: float, size_mib: float, bounds: Bounds) -> str:
    if own is None or growth is None or span_s < bounds.judge_s:
        return "too short to judge"
    if own > bounds.mib_per_hour and own * span_s / _HOUR_S > bounds.share * size_mib:
        return "memory grows"
    return "open files grow" if growth > bounds.files else "flat"


def _use(folder: Path) -> Use | None:
    try:
        arguments = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        status = _kib(folder / "status")
        files = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    if "VmRSS" not in status:
        return None
    try:
        rollup = _kib(folder / "smaps_rollup")
    except OSError:
        rollup = {}
    return Use(
        kind=kind_of(arguments),
        rss=status["VmRSS"] * 1024,
        pss=rollup.get("Pss", 0) * 1024,
        anonymous=rollup.get("Anonymous", 0) * 1024,
        files=files,
    )


def _kib(file: Path) -> dict[str, int]:
    values: dict[str, int] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            values[name] = int(words[0])
    return values
