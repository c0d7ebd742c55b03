"""A local Ray with Serve on it, for `gatehouse up`: started, watched and stopped from one process."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray import serve
from ray._private import services
from ray.serve import Application
from ray.serve._private import http_util

_MIN_CPUS = 8  # Serve's CPU shares are bookkeeping: a machine with two cores runs the whole graph too


@dataclass(frozen=True, slots=True)
class State:
    """How far an application is. `messages` holds what Serve says of the parts that are not healthy."""

    running: bool
    failed: bool
    healthy: frozenset[str]
    messages: tuple[str, ...]


def start(host: str, port: int, cpus: int) -> None:
    """Start Ray and Serve's proxy on this machine; their processes end with `stop` or with this process.

    Raises `RuntimeError` with one sentence when Ray does not come up, as on a machine that is too busy.
    """
    try:
        _start(host, port, cpus)
    except Exception as error:  # Ray raises its plain class when a node takes longer than it is given
        said = str(error).strip() or type(error).__name__
        raise RuntimeError(said.splitlines()[0]) from error


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
    """Deploy and wait until every part is ready; raises `RuntimeError` when one cannot start."""
    run = cast(Any, serve.run)  # pyright: ignore[reportUnknownMemberType]
    run(application, name=name, route_prefix=route_prefix)


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


def stop() -> None:
    """Stop replicas in order, then every Ray process that `start` began."""
    with _quiet():
        if ray.is_initialized():  # or Serve would start another Ray to look for its controller
            with contextlib.suppress(Exception):  # a cluster that is half up must still be taken down
                serve.shutdown()
        cast(Any, ray.shutdown)()  # pyright: ignore[reportUnknownMemberType]


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
