"""The engine that a drill fails: what the server says of it, and its processes on this machine.

Nothing in Gatehouse can be told to fail. The drill asks with an operator's key which processes an engine has, and stops
or kills them as any process of the same account can, after it has made sure that they are what they are said to be.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from serve_app.drills.acting import Actor, DrillRefused

_IN_REPLICAS = frozenset({"vllm", "vllm-ray", "synthetic"})


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A replica of an engine: the process that serves the model, and those that compute for it."""

    model: str
    revision: str
    kind: str
    pid: int
    core_pids: tuple[int, ...]

    @property
    def computing(self) -> tuple[int, ...]:
        """The processes that make tokens."""
        return self.core_pids or (self.pid,)


def engine_of(operator: Actor, model: str | None) -> EngineProcess:
    """The engine of `model`, or the first one, when its processes are here; else `DrillRefused`."""
    rows = cast(Sequence[Mapping[str, Any]], operator.must("GET", "/v1/admin/engines")["data"])
    for row in rows:
        if model in (None, row["model"]):
            found = _engine(row)
            _check(found)
            return found
    raise DrillRefused(f"no engine serves {model}: there are {', '.join(str(row['model']) for row in rows)}")


def replaced(operator: Actor, before: EngineProcess) -> EngineProcess | None:
    """The replica that took the place of one that was killed; None while there is none."""
    rows = cast(Sequence[Mapping[str, Any]], operator.must("GET", "/v1/admin/engines")["data"])
    for row in rows:
        if row["model"] == before.model and row["state"] == "ready" and row["pid"] != before.pid:
            return _engine(row)
    return None


def kill(engine: EngineProcess) -> None:
    """End the replica at once, as the kernel does when memory runs out; `DrillRefused` when that is not allowed."""
    _check(engine)
    try:
        os.kill(engine.pid, signal.SIGKILL)
    except OSError as error:
        raise DrillRefused(f"the engine's process {engine.pid} cannot be killed: {error.strerror}") from None


def _engine(row: Mapping[str, Any]) -> EngineProcess:
    if row["state"] != "ready":
        raise DrillRefused(f"the engine of {row['model']} is down already: this is no drill any more")
    if row["kind"] not in _IN_REPLICAS:
        raise DrillRefused(f"{row['model']} is served by another server (kind {row['kind']}): fail that one by hand")
    pids = tuple(int(each) for each in row["core_pids"])
    return EngineProcess(str(row["model"]), str(row["revision"]), str(row["kind"]), int(row["pid"]), pids)


def _check(engine: EngineProcess) -> None:
    """`DrillRefused` unless the processes run here, under this account, and are this engine's."""
    name = _title(engine.pid)
    if f"Engine:{engine.model}:{engine.revision}" not in name:
        raise DrillRefused(
            f"the engine of {engine.model} does not run on this machine (process {engine.pid} is "
            f"{name.split(' ')[0] or 'not here'}): run the drill where it runs"
        )
    for pid in (engine.pid, *engine.core_pids):
        try:
            owner = Path(f"/proc/{pid}").stat().st_uid
        except OSError:
            raise DrillRefused(f"process {pid} of {engine.model} does not run on this machine") from None
        if owner != os.geteuid():
            raise DrillRefused(f"process {pid} of {engine.model} belongs to another account")


def _title(pid: int) -> str:
    """The command line of a process, as `ps` shows it; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
