"""A local Ray with Serve on it, for `gatehouse up`: started, watched and stopped from one process."""

import contextlib
import inspect
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import ray
from ray import _raylet, serve
from ray._private import services
from ray.core.generated import gcs_pb2
from ray.serve import Application
from ray.serve._private import http_util

_MIN_CPUS = 8  # Serve's CPU shares are bookkeeping: a machine with two cores runs the whole graph too
_LOOK_S, _ASK_S = 0.2, 2.0
_NEEDED = frozenset({"gcs_server", "raylet"})
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""What Ray's agents listen on, as `services.start_raylet` calls it and as the files in the session's folder begin."""
_SEVERE = re.compile(r"^\[[^\]]* [CEF] \d+ \d+\] \(\w+\) \S+:\d+: +(.+)$", re.MULTILINE)
_LATE = "Timed out waiting for file"
_APOLOGY = re.compile(r"An unexpected system state has occurred\..*?(?=Check failed)")


class NodeEnded(Exception):
    """A process that Ray cannot be without ended; the text says which, and what it said last."""


class GivenUp(Exception):
    """`start` was told not to go on."""


def _go_on() -> None:
    """Raises nothing."""


@dataclass(slots=True)
class _Begun:
    """What `start` has begun. `logs` is the folder of Ray's logs, once there is one."""

    processes: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    session: str = ""
    logs: Path = Path("/tmp/ray/session_latest/logs")  # noqa: S108 - where Ray puts them unless it is told otherwise


_begun = _Begun()


@dataclass(frozen=True, slots=True)
class State:
    """How far an application is. `messages` holds what Serve says of the parts that are not healthy."""

    running: bool
    failed: bool
    healthy: frozenset[str]
    messages: tuple[str, ...]


def start(host: str, port: int, cpus: int, go_on: Callable[[], None] = _go_on, agent_ports: Sequence[int] = ()) -> None:
    """Start Ray and Serve's proxy on this machine; their processes end with `stop` or with this process.

    `go_on` is called while the node is waited for and raises `GivenUp` to end that. `agent_ports` are four free ports
    for Ray's agents; without them it waits for its agents, and not long enough on a busy machine: see `_with_ports`.
    Raises `NodeEnded` when Ray's node does not survive its start, and `RuntimeError` with one sentence when Ray does
    not come up for another reason.
    """
    global _begun  # one Ray per process is Ray's own law
    _begun = _Begun()
    try:
        with _watched(_begun, go_on, agent_ports):
            _start(host, port, cpus)
    except (NodeEnded, GivenUp):
        raise
    except Exception as error:  # Ray raises its plain class when a node takes longer than it is given
        said = ended() or str(error).strip() or type(error).__name__
        raise RuntimeError(said.splitlines()[0]) from error


def logs() -> Path:
    """The folder of Ray's logs."""
    return _begun.logs


def session() -> str:
    """The name of this Ray, which its processes carry in their command lines; empty before there is one."""
    return _begun.session


def ended() -> str | None:
    """Which process that Ray cannot be without has ended, and what it said last; None while none has."""
    for kind, process in _begun.processes:
        if kind in _NEEDED and process.poll() is not None:
            return f"Ray's {kind} ended with status {process.returncode}: {_last_words(kind)}"
    return None


def _alive() -> None:
    found = ended()
    if found is not None:
        raise NodeEnded(found)


def _last_words(kind: str) -> str:
    """What the process said before it ended, in one line: the first severe message of its log."""
    for suffix in ("err", "out"):
        with contextlib.suppress(OSError):
            text = (_begun.logs / f"{kind}.{suffix}").read_text(encoding="utf-8", errors="replace")
            for found in _SEVERE.finditer(text):
                said = _APOLOGY.sub("", found[1]).strip()
                hint = " (an agent of Ray was not up in time: the machine may be too busy)" if _LATE in said else ""
                return f"{said[:300].rstrip('.')}{hint}"
    return "it said nothing"


@contextlib.contextmanager
def _watched(begun: _Begun, go_on: Callable[[], None], agent_ports: Sequence[int]) -> Generator[None, None, None]:
    """Within it Ray's own start says what it begins, and waits for its node as long as that lives and `go_on` lets it.

    Ray 2.60 waits half a minute, whatever has become of the node and however busy the machine is.
    """
    patched = cast(Any, services)
    start_process, start_raylet, get_node = patched.start_ray_process, patched.start_raylet, patched.get_node

    def starting(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        info = start_process(command, process_type, *arguments, **options)
        begun.processes.append((process_type, info.process))
        return info

    def raylet(*arguments: Any, **options: Any) -> Any:
        bound = inspect.signature(start_raylet).bind(*arguments, **options)
        begun.logs = Path(bound.arguments["log_dir"])
        begun.session = str(bound.arguments["session_name"])
        _with_ports(bound, agent_ports)
        return start_raylet(*bound.args, **bound.kwargs)

    def node(gcs_address: str, node_id: str) -> Any:
        while not _registered(gcs_address, node_id):
            _alive()
            go_on()
            time.sleep(_LOOK_S)
        found = get_node(gcs_address, node_id)
        _alive()
        return found

    patched.start_ray_process, patched.start_raylet, patched.get_node = starting, raylet, node
    try:
        yield
    finally:
        patched.start_ray_process, patched.start_raylet, patched.get_node = start_process, start_raylet, get_node


def _with_ports(bound: inspect.BoundArguments, ports: Sequence[int]) -> None:
    """Give Ray's agents their ports, and say so where the raylet looks.

    Ray 2.60's raylet ends itself when an agent that chooses its own port has not written it to a file within 15 s, and
    no setting changes that; a busy machine needs longer to import one. With the ports in their files it waits for
    nobody.
    """
    if not ports:
        return
    folder, node_id = bound.arguments["session_dir"], bound.arguments["node_id"]
    for name, port in zip(_AGENT_PORTS, ports, strict=True):
        bound.arguments[name] = port
        cast(Any, _raylet).persist_port(folder, node_id, name, port)


def _registered(gcs_address: str, node_id: str) -> bool:
    """Whether the node is there, and alive."""
    try:
        alive = cast(Any, gcs_pb2).GcsNodeInfo.GcsNodeState.ALIVE
        nodes = cast(Any, _raylet).GcsClient(address=gcs_address).get_all_node_info(timeout=_ASK_S, state_filter=alive)
    except Exception:  # whatever it is: the caller looks whether there still is somebody to ask
        return False
    return any(each.hex() == node_id for each in nodes)


def _start(host: str, port: int, cpus: int) -> None:
    _without_reporter()
    init = cast(Any, ray.init)  # pyright: ignore[reportUnknownMemberType]
    init(
        num_cpus=max(_MIN_CPUS, cpus),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="serve",
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    start_proxy = cast(Any, serve.start)  # pyright: ignore[reportUnknownMemberType]
    start_proxy(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": port},
        logging_config={"encoding": "JSON", "enable_access_log": False},
    )


def _without_reporter() -> None:
    """Start no process of Ray's dashboard: without its pages all that it does is to report usage.

    Switched off, Ray 2.60's reporter still asks the cloud's metadata service (169.254.169.254, and a name of Google's)
    where it runs. `tests/airgap` fails when a Ray to come starts it in another way.
    """

    def start_api_server(*arguments: object, **options: object) -> tuple[None, None]:
        del arguments, options
        return None, None  # no address, no process: as where the dashboard could not be started

    cast(Any, services).start_api_server = start_api_server


class _ReusableSockets:
    """The module `socket`, with sockets that may bind an address on which closed connections linger."""

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *arguments: Any) -> socket.socket:
        """A socket with `SO_REUSEADDR`."""
        made = socket.socket(*arguments)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made


def take_over_port() -> None:
    """Let this replica's own HTTP server have the port of a predecessor that was killed.

    Ray 2.60 binds it without `SO_REUSEADDR`, so connections that the dead replica left behind make that fail for a
    minute, and Serve then gives the port up for good. Both replicas must have set it. `tests/serve/test_graph.py`
    kills the ingress and fails when a Ray to come binds in another way.
    """
    http_util.socket = _ReusableSockets()  # pyright: ignore[reportPrivateImportUsage]


def deploy(application: Application, name: str, route_prefix: str) -> None:
    """Tell Serve what to run; `state` says how far it is.

    It does not wait for the parts: a thread that asks Ray 2.60 for anything while another one ends its connection is
    the end of the process, with status 1 and nothing said.
    """
    target = serve.RunTarget(application, name=name, route_prefix=route_prefix)
    run = cast(Any, serve.run_many)  # pyright: ignore[reportUnknownMemberType]
    run([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def state(name: str) -> State:
    """How far the application is."""
    applications = cast(Mapping[str, Any], serve.status().applications)
    found = applications.get(name)
    if found is None:
        return State(running=False, failed=False, healthy=frozenset(), messages=())
    parts = cast(Mapping[str, Any], found.deployments)
    messages = [str(part.message) for part in parts.values() if part.message and _value(part.status) != "HEALTHY"]
    return State(
        running=_value(found.status) == "RUNNING",
        failed=_value(found.status) == "DEPLOY_FAILED",
        healthy=frozenset(part for part, each in parts.items() if _value(each.status) == "HEALTHY"),
        messages=tuple(messages or ([str(found.message)] if found.message else [])),
    )


def _value(status: object) -> str:
    return str(getattr(status, "value", status))


def stop() -> bool:
    """Stop replicas in order, then every Ray process that `start` began; False where Ray was not whole and leaves some.

    They end with this process at the latest.
    """
    with _quiet():
        whole = bool(ray.is_initialized())
        if whole:  # or Serve would start another Ray to look for its controller
            with contextlib.suppress(Exception):  # a cluster that is half up must still be taken down
                serve.shutdown()
        cast(Any, ray.shutdown)()  # pyright: ignore[reportUnknownMemberType]
    return whole


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Ray's threads report the controller's intended end as a failed task, straight to the descriptors."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in kept:
        os.dup2(null, descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in kept.items():
            os.dup2(saved, descriptor)
            os.close(saved)
        os.close(null)
