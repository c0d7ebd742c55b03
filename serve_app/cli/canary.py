"""`gatehouse canary`: another image, Ray or vLLM on Kubernetes, in steps, with KubeRay's incremental upgrade."""

import json
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, cast

import typer
import yaml
from pydantic import ValidationError

from deployments.clock import SystemClock
from serve_app.canary import orders as of_pods
from serve_app.canary.cluster import PROXY, Cluster
from serve_app.canary.driver import AuditBook, Driver, Order
from serve_app.canary.figures import PROMETHEUS, Prometheus
from serve_app.canary.values import CanaryError, Changed, Memory, Phase, Terms
from serve_app.cli.client import fail
from serve_app.cli.manifests import render
from serve_app.cli.tables import moment, show_rows
from serve_app.config import ConfigError, client_environment, environment, explain, operating_person

app = typer.Typer(help="Another image, Ray or vLLM on Kubernetes, in steps.", no_args_is_help=True)

_ROLLED_BACK: Final = 3
_HELD: Final = 4

_Api = Annotated[
    str, typer.Option("--api", envvar="GATEHOUSE_KUBE_API", help="A `kubectl proxy`, or `in-cluster` in a pod.")
]
_Prometheus = Annotated[
    str, typer.Option("--prometheus", envvar="GATEHOUSE_PROMETHEUS", help="Where Prometheus answers queries.")
]
_Namespace = Annotated[str, typer.Option(help="Where the RayService is.")]
_Name = Annotated[str, typer.Option(help="The RayService.")]
_Change = Annotated[str, typer.Option("--change-id", help="The change or ticket that it belongs to.")]
_Reason = Annotated[str, typer.Option(help="Why; recorded in clear.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@contextmanager
def _driver(api: str, prometheus: str, namespace: str, name: str) -> Generator[Driver]:
    """A driver; whatever cannot be done ends the process with one sentence."""
    own = client_environment()
    with ExitStack() as stack:
        try:
            yield Driver(
                stack.enter_context(Cluster(api, namespace, name, environment())),
                stack.enter_context(Prometheus(prometheus, environment().get("GATEHOUSE_PROMETHEUS_TOKEN"))),
                stack.enter_context(AuditBook(own.url, own.key)),
            )
        except CanaryError as error:
            fail(str(error))


@app.command()
def start(
    canary_id: Annotated[str, typer.Argument(help="A name of your own.")],
    overlay: Annotated[Path, typer.Argument(help="The overlay with the new image, or a file that it was rendered to.")],
    change_id: _Change,
    terms: Annotated[Path | None, typer.Option(help="A JSON file with stages, rules and unwell_s.")] = None,
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
    as_json: _Json = False,
) -> None:
    """Start a second generation. It gets no request before `gatehouse canary run` looks after it."""
    wanted = _order(canary_id, overlay, change_id, terms)
    with _driver(api, prometheus, namespace, name) as driver:
        _show(driver.start(wanted), as_json)


@app.command()
def order(
    canary_id: Annotated[str, typer.Argument(help="A name of your own.")],
    overlay: Annotated[Path, typer.Argument(help="The overlay with the new image, or a file that it was rendered to.")],
    change_id: _Change,
    terms: Annotated[Path | None, typer.Option(help="A JSON file with stages, rules and unwell_s.")] = None,
    valid_h: Annotated[
        float, typer.Option("--valid-h", min=0.1, max=168.0, help="Hours in which it may begin.")
    ] = 24.0,
    namespace: _Namespace = "gatehouse",
) -> None:
    """Print the ConfigMap that lets the driver in the cluster begin: `... | kubectl apply --server-side -f -`."""
    wanted = _order(canary_id, overlay, change_id, terms)
    try:
        made = of_pods.ordered(wanted, SystemClock().now_ms() + round(valid_h * 3_600_000))
        typer.echo(yaml.safe_dump(of_pods.config_map(made, namespace), sort_keys=False))
    except CanaryError as error:
        fail(str(error), 2)


def _order(canary_id: str, overlay: Path, change_id: str, terms: Path | None) -> Order:
    spec = _rayservice(overlay)["spec"]
    return Order(
        canary_id, change_id, operating_person(), spec["rayClusterConfig"], spec["serveConfigV2"], _terms(terms)
    )


@app.command()
def run(
    every: Annotated[float, typer.Option(min=2.0, max=600.0, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="One look, for a CronJob.")] = False,
    orders: Annotated[
        Path | None, typer.Option(help="Never end: begin what this file orders, drive it, wait for the next.")
    ] = None,
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
) -> None:
    """Drive the open canary until it has finished (status 0) or has gone back (3). It may be ended and begun again.

    With --once: status 4 while it is held. While something does not answer nothing moves, and it is asked again.
    With --orders it goes on after that, until it is told to end (SIGTERM, SIGINT).
    """
    if once and orders is not None:
        fail("--once and --orders are two ways to be run.", 2)
    with _driver(api, prometheus, namespace, name) as driver:
        if orders is None:
            _follow(driver, every, once, time.sleep)
        else:
            with _told_to_end() as told:
                _stand(driver, orders, lambda: told.wait(every))


@contextmanager
def _told_to_end() -> Generator[threading.Event]:
    """Set by the signals that end a pod: the first process of one is not ended by a signal that it does not handle."""
    told = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        told.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stand(driver: Driver, orders: Path, pause: Callable[[], bool]) -> None:
    """Look until `pause` says that it is enough. What cannot be done is said, once, and tried again."""
    said: str | None = None
    while True:
        try:
            _, line = of_pods.look(driver, orders)
        except Changed:
            line = "somebody else has changed the RayService; it is read again"
        except CanaryError as error:
            line = f"nothing is moved: {error}"
        if line != said:
            typer.echo(line)
            said = line
        if pause():
            return


def _follow(driver: Driver, every_s: float, once: bool, pause: Callable[[float], None]) -> None:
    said: str | None = None
    while True:
        try:
            memory = driver.look()
        except Changed:
            memory, line = None, "somebody else has changed the RayService; it is read again"
        except CanaryError as error:
            if once:
                raise
            memory, line = None, f"nothing is moved: {error}"
        else:
            if memory is None:
                fail("there is no canary: gatehouse canary start.")
            line = of_pods.said(memory)
        if line != said:
            typer.echo(line)
            said = line
        if memory is not None and memory.phase.final and not memory.outbox:
            raise typer.Exit(0 if memory.phase is Phase.FINISHED else _ROLLED_BACK)
        if once:
            raise typer.Exit(_HELD if memory is not None and memory.held is not None else 0)
        pause(every_s)


@app.command()
def status(
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
    as_json: _Json = False,
) -> None:
    """Where the last canary stands, and why it does not go on."""
    with _driver(api, prometheus, namespace, name) as driver:
        memory = driver.memory()
        if memory is None:
            fail("there was no canary yet.")
        _show(memory, as_json)


@app.command()
def hold(
    change_id: _Change,
    reason: _Reason = "by hand",
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
) -> None:
    """Stay at the present share until `resume`. It still goes back when the figures say so."""
    with _driver(api, prometheus, namespace, name) as driver:
        _show(driver.hold(reason, change_id), as_json=False)


@app.command()
def resume(
    change_id: _Change,
    reason: _Reason = "by hand",
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
) -> None:
    """End a hold."""
    with _driver(api, prometheus, namespace, name) as driver:
        _show(driver.resume(reason, change_id), as_json=False)


@app.command()
def back(
    change_id: _Change,
    reason: _Reason = "by hand",
    api: _Api = PROXY,
    prometheus: _Prometheus = PROMETHEUS,
    namespace: _Namespace = "gatehouse",
    name: _Name = "gatehouse",
) -> None:
    """Put the last known good specification back, now. `gatehouse canary run` then returns the requests."""
    with _driver(api, prometheus, namespace, name) as driver:
        _show(driver.back(reason, change_id), as_json=False)


# --- what is handed in and shown ---------------------------------------------------------------------------------


def _rayservice(path: Path) -> dict[str, Any]:
    """The RayService of an overlay, or of a rendered file."""
    try:
        text = render(path) if path.is_dir() else path.read_text(encoding="utf-8")
        documents = cast(list[dict[str, Any]], [each for each in yaml.safe_load_all(text) if each])
        (found,) = [each for each in documents if each["kind"] == "RayService"]
        if not isinstance(found["spec"]["rayClusterConfig"], dict) or not isinstance(
            found["spec"]["serveConfigV2"], str
        ):
            raise KeyError
    except ConfigError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.", 2)
    except yaml.YAMLError:
        fail(f"{path} is not YAML.", 2)
    except (KeyError, TypeError, ValueError):
        fail(f"{path} does not hold exactly one RayService with a cluster and serveConfigV2.", 2)
    return found


def _terms(path: Path | None) -> Terms:
    if path is None:
        return Terms()
    try:
        return Terms.model_validate_json(path.read_bytes())
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.", 2)
    except ValidationError as error:
        fail(f"{path}: {explain(error)}", 2)


def _show(memory: Memory, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(memory.model_dump(mode="json")))
        return
    state = f"{memory.phase.value} (held)" if memory.held is not None else memory.phase.value
    row = (memory.id, state, f"{memory.share}%", memory.old, memory.new or "-", moment(memory.since_ms),
           memory.change_id, str(len(memory.outbox)), memory.why or "-")  # fmt: skip
    show_rows(("id", "state", "share", "before", "new", "since", "change", "unrecorded", "why"), [row])
