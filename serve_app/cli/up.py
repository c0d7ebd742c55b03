"""`gatehouse up`: the whole graph on this machine, in the foreground, with a line for everything it does."""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import httpx2
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from serve_app.cli.client import fail
from serve_app.cli.diagnosis import PortState
from serve_app.cli.doctor import available_memory_bytes, free_port, is_ephemeral, port_state
from serve_app.cli.leftovers import LastResort, Process, end_all, family
from serve_app.cli.start_failure import sentence
from serve_app.config import ConfigError, ServeFile, find, load_serve_file, serve_directly, set_process_defaults
from serve_app.prepare import prepare

app = typer.Typer()
_console = Console(highlight=False)
_POLL_S = 0.5
_GRACE_S = 15.0
"""What a call into Ray that should end gets to do so, before this process ends without it."""
_STOP_S = 120.0
"""What stopping in order may take: streams are drained and the audit log is flushed."""
_AGENTS = 4
_AGENT_PORTS = range(10_000, 30_000)  # below what the system gives to any program that asks
_GIB = 2**30


@app.command()
def up(
    config: Annotated[str, typer.Option(help="A Serve config file.")] = "configs/serve.local.yaml",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Instead of the file's port.")] = None,
    startup_timeout: Annotated[float, typer.Option(help="Seconds until the engines must be ready.")] = 600.0,
) -> None:
    """Start everything, print how to use it, run until Ctrl-C."""
    ends_s = time.monotonic() + startup_timeout  # noqa: TID251 - elapsed time on a console
    set_process_defaults()
    stop = threading.Event()
    stderr = os.dup(2)  # while Ray is stopped, nothing of what it says is shown
    resort = LastResort(lambda reason: _end_at_once(reason, stderr))

    def late() -> str | None:
        if stop.is_set():
            return "interrupted"
        return f"not ready after {startup_timeout:g} s" if time.monotonic() > ends_s else None  # noqa: TID251

    _listen(stop)
    resort.watch(late, _GRACE_S)
    try:
        _up(config, port, late, stop, resort)
    finally:
        resort.watch(None)
        os.close(stderr)


def _listen(stop: threading.Event) -> None:
    """Ctrl-C and SIGTERM set `stop`, and end nothing by themselves."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def _up(
    config: str, port: int | None, late: Callable[[], str | None], stop: threading.Event, resort: LastResort
) -> None:
    try:
        file = load_serve_file(find(config))
    except ConfigError as error:
        fail(str(error), 2)
    port = port or file.port
    _step("configuration", f"profile {file.app.profile}, {file.path.name}")
    _check_memory(file)
    _check_port(file.host, port)
    _prepare(file)
    if not stop.is_set():
        # The replica binds its port long after the check above: only where no program gets it by accident meanwhile.
        direct = file.app.ingress_replicas.replicas == 1 and not is_ephemeral(port)
        if direct:
            serve_directly(port)
        _serve(file, port, free_port(file.host) if direct else port, late, stop, resort)


def _step(what: str, detail: str) -> None:
    _console.print(f"[green]✓[/green] {what:<14} {detail}", soft_wrap=True)


def _check_memory(file: ServeFile) -> None:
    available = available_memory_bytes(Path("/proc/meminfo"), Path("/sys/fs/cgroup")) / _GIB
    if available < file.app.min_memory_gib:
        fail(
            f"only {available:.1f} GiB of memory are free and this profile needs {file.app.min_memory_gib:g} GiB: "
            "stop other programs, or lower min_memory_gib in the configuration at your own risk."
        )
    _step("memory", f"{available:.1f} GiB free")


def _check_port(host: str, port: int) -> None:
    match port_state(host, port):
        case PortState.FREE:
            _step("port", f"{host}:{port} is free")
        case PortState.GATEHOUSE:
            fail(f"a Gatehouse already runs on {host}:{port}: use it, stop it, or pass --port.")
        case PortState.TAKEN:
            fail(f"port {port} on {host} is taken by another program: stop it, or pass --port.")


def _prepare(file: ServeFile) -> None:
    """Vocabulary and checkpoints, with a progress bar per stage."""
    columns = (TextColumn("  {task.description:<44}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=_console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=fraction)

        try:
            sources = prepare(file.app, report)
        except ConfigError as error:
            fail(str(error))
    _step("weights", ", ".join(sources))


def _serve(
    file: ServeFile,
    port: int,
    proxy_port: int,
    late: Callable[[], str | None],
    stop: threading.Event,
    resort: LastResort,
) -> None:
    """Start Ray and the graph, say how to use it, and stop both: when told to, or when they do not become ready.

    `late` says what speaks against going on with the start: Ctrl-C, or the time.
    """
    # Ray is imported only now: everything above answers in a second, and its environment is set.
    from deployments import _local as local
    from serve_app.app import build

    started_s = time.monotonic()  # noqa: TID251 - elapsed time on a console
    failure: list[BaseException] = []
    worker: threading.Thread | None = None

    def deploy() -> None:
        try:
            local.deploy(build(file.app), file.application, file.route_prefix)
        except BaseException as error:
            failure.append(error)  # the main thread says what it means and ends the process

    def against() -> str | None:
        return late() or local.ended()

    try:
        resort.watch(against, _GRACE_S)
        _start_ray(file.host, proxy_port, late, stop)
        _listen(stop)  # `ray.init` has SIGTERM end the driver, with the stack of every thread on the console
        if not stop.is_set():
            _step("ray", f"local, logs in {local.logs()}")
            worker = threading.Thread(target=deploy, daemon=True)
            worker.start()
            _watch(file, worker, failure, against, stop, started_s)
        if not stop.is_set():
            url = f"http://{file.host}:{port}"
            key = _development_key(file, url)
            resort.watch(None)
            _console.print(_welcome(file, url, key, time.monotonic() - started_s), soft_wrap=True)  # noqa: TID251
            stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        _console.print("stopping ...")
        resort.watch(lambda: f"not stopped after {_STOP_S:g} s: its processes were killed", _STOP_S)
        while worker is not None and worker.is_alive() and local.ended() is None:
            worker.join(_POLL_S)  # it speaks to Ray, which is not to be stopped meanwhile
        ended = local.ended()
        _stop_ray()
        resort.watch(None)
        _console.print("stopped.")
        if ended is not None:  # at the end of Python, Ray would wait for its node
            if not isinstance(sys.exc_info()[1], typer.Exit):  # or it has been said
                typer.echo(f"gatehouse: {ended}; the logs are in {local.logs()}.", err=True)
            os._exit(1)


def _start_ray(host: str, port: int, late: Callable[[], str | None], stop: threading.Event) -> None:
    """Start Ray's node and Serve's proxy; once more when the node ends while it comes up. Returns early on Ctrl-C."""
    from deployments import _local as local

    def go_on() -> None:
        reason = late()
        if reason is not None:
            raise local.GivenUp(reason)

    for another in (True, False):
        try:
            local.start(host, port, os.cpu_count() or 1, go_on, _agent_ports())
            return
        except local.NodeEnded as error:
            if not another or late():
                _not_started(error)
            _console.print(f"  Ray did not survive its start and is started once more: {error}.", soft_wrap=True)
            _stop_ray()
        except local.GivenUp as error:
            if stop.is_set():
                return
            _not_started(error)
        except RuntimeError as error:
            _not_started(error)


def _not_started(error: Exception) -> NoReturn:
    from deployments import _local as local

    fail(f"Ray did not start: {str(error).rstrip('.')}; its logs are in {local.logs()}.")


def _agent_ports() -> list[int]:
    """Free ports that no program is given by accident before Ray's agents take them; none where there are none."""
    if is_ephemeral(_AGENT_PORTS.start) or is_ephemeral(_AGENT_PORTS.stop - 1):
        return []
    found: list[int] = []
    for port in secrets.SystemRandom().sample(_AGENT_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == _AGENTS:
            return found
    return []


def _stop_ray() -> None:
    """Stop Ray in order, then kill by their numbers those of its processes that are left.

    Of a Ray whose node has ended nothing can be stopped in order: the calls would wait for what does not come.
    """
    from deployments import _local as local

    def begun() -> list[Process]:
        return family(os.getpid(), local.session())

    known = begun()
    whole = local.ended() is None and local.stop()
    end_all(known, begun, _GRACE_S if whole else 0.0)


def _end_at_once(reason: str, stderr: int) -> None:
    """The last resort: no call into Ray returns. Its processes are killed, and this one ends."""
    local = sys.modules.get("deployments._local")  # not imported yet: then there is no Ray
    mark = local.session() if local is not None else ""
    end_all((), lambda: family(os.getpid(), mark), 0.0)
    logs = f"; the logs are in {local.logs()}" if local is not None else ""
    os.write(stderr, f"gatehouse: {reason}{logs}.\n".encode())
    os._exit(1)


def _watch(
    file: ServeFile,
    worker: threading.Thread,
    failure: list[BaseException],
    against: Callable[[], str | None],
    stop: threading.Event,
    started_s: float,
) -> None:
    """A line per part as it becomes ready; one sentence when one cannot."""
    from deployments import _local as local

    ready: set[str] = set()
    while not stop.is_set():
        elapsed_s = time.monotonic() - started_s  # noqa: TID251
        state = local.state(file.application)
        for name in sorted(state.healthy - ready):
            ready.add(name)
            _step("ready", f"{name}  ({elapsed_s:.0f} s)")
        if failure or state.failed:
            said = sentence([*state.messages, *(str(error) for error in failure)], local.logs())
            fail(f"could not start: {said} (logs: {local.logs()})")
        if state.running and not worker.is_alive():
            return
        reason = None if stop.is_set() else against()
        if reason is not None:
            fail(f"{reason}; the logs are in {local.logs()}.")
        stop.wait(_POLL_S)


def _development_key(file: ServeFile, url: str) -> str | None:
    """A key for the first calls, made once and never shown again; None when one exists."""
    operator = (file.app.state_path / "operator.key").read_text(encoding="utf-8").strip()
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {operator}"}, timeout=30) as http:
        keys: list[Mapping[str, Any]] = http.get("/v1/admin/keys").raise_for_status().json()["data"]
        if any("inference" in key["scopes"] and key["revoked_ms"] is None for key in keys):
            return None
        body = {"tenant": file.app.tenant, "name": "development", "person": None, "scopes": ["inference"]}
        return str(http.post("/v1/admin/keys", json=body).raise_for_status().json()["key"])


_TOOLS = (
    '"tools":[{"type":"function","function":{"name":"shell","description":"Run a shell command","parameters":'
    '{"type":"object","properties":{"command":{"type":"string"}},"required":["command"]}}}]'
)
_CALLS = (
    (
        "a question, answered by demo-20b (-i shows the headers that say who answered and why)",
        '"messages":[{"role":"user","content":"Who are you?"}]',
    ),
    (
        "a diagnosis that failed once on demo-20b: escalated to demo-120b",
        '"messages":[{"role":"user","content":"Why is the checkout service returning 503? Look at the pods, then at '
        'the logs."},{"role":"assistant","content":"A first guess: the pods are not ready. Restart the deployment."},'
        '{"role":"user","content":"That did not help, the checkout service still returns 503 errors. Diagnose the '
        'incident."}]',
    ),
    (
        "a dangerous tool call: withheld, approved by you, then released once",
        f'{_TOOLS},"messages":[{{"role":"user","content":"Delete the staging namespace"}}]',
    ),
)


def _welcome(file: ServeFile, url: str, key: str | None, elapsed_s: float) -> str:
    """What a person needs next: URL, key, and calls to paste."""
    demonstration = any(model.embedded for model in file.app.models)
    # As this process was called: `make run` starts a script that need not be on anybody's PATH.
    command = sys.argv[0] if Path(sys.argv[0]).name == "gatehouse" else "gatehouse"
    lines = [
        "",
        f"[bold]Gatehouse is ready[/bold] after {elapsed_s:.0f} s at {url}/v1"
        + (" with tiny models for demonstration" if demonstration else ""),
        "",
    ]
    if key is not None:
        lines += [
            "Your development key. It is shown once and stored as a hash only:",
            f"  export GATEHOUSE_DEV_KEY={key}",
        ]
    else:
        lines += [
            "A development key exists already. For another one:",
            f"  export GATEHOUSE_DEV_KEY=$({command} keys create --tenant {file.app.tenant} --name me)",
        ]
    if demonstration:
        for number, (what, body) in enumerate(_CALLS, 1):
            lines += [
                "",
                f"{number}. {what}:",
                f'  curl -si {url}/v1/chat/completions -H "authorization: Bearer $GATEHOUSE_DEV_KEY" '
                f'-d \'{{"model":"auto","temperature":0,{body}}}\'',
            ]
        lines += [
            f"  {command} approvals list",
            f"  {command} approvals approve ID --change-id CHG-1 --rollback 'kubectl apply -f staging.yaml' "
            "--verify 'kubectl get namespace staging'",
            "  and send the call again: it is released, once.",
        ]
    return "\n".join([*lines, "", "Ctrl-C stops everything.", ""])
