"""One look after another: what is read, what is decided, what is recorded and what is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import httpx2
import yaml
from pydantic import BaseModel, ValidationError

from serve_app.canary.cluster import LAST_GOOD, Cluster, RayService, digest, packed, unpacked
from serve_app.canary.figures import Prometheus
from serve_app.canary.steps import INCREMENTAL, Move, back, decide, hold, resume
from serve_app.canary.values import (
    REST,
    Blind,
    CanaryError,
    Changed,
    Generation,
    Memory,
    Phase,
    Record,
    Seen,
    Sight,
    Terms,
    Unreachable,
    printable,
    remembered,
)
from serve_app.cli.manifest_parts import least_replicas
from serve_app.config import ConfigError, parse_config

_PATH: Final = "/v1/rollouts/events"
_TRIES: Final = 5
_MOST_NAMES: Final = 50  # of canaries that are remembered
_RELEASE: Final = "gatehouse/release"


class Book(Protocol):
    """Where steps are recorded."""

    def record(self, memory: Memory, entry: Record) -> None:
        """Put a step into the audit log, once however often it is called. `Unreachable`, `CanaryError`."""
        ...


class AuditBook:
    """The audit log of a running Gatehouse, through its API. Without a key nothing is recorded and nothing goes on."""

    def __init__(self, url: str, key: str | None, transport: httpx2.BaseTransport | None = None) -> None:
        self.url = url
        self._http = httpx2.Client(timeout=30.0, trust_env=False, transport=transport)
        self._unusable: str | None = None  # said when something is to be recorded: the way back needs no log
        if not key:
            self._unusable = "no key: set GATEHOUSE_KEY, for nothing can be recorded without one."
        elif not (key.isascii() and key.isprintable()):
            self._unusable = "what GATEHOUSE_KEY holds is no key: nothing can be recorded with it."
        else:
            self._http.headers["authorization"] = f"Bearer {key}"
        try:
            self._http.base_url = url
        except httpx2.InvalidURL:
            self._unusable = f"{url} is no address of a Gatehouse: nothing can be recorded."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def record(self, memory: Memory, entry: Record) -> None:
        """Put a step into the audit log, once however often it is called. `Unreachable`, `CanaryError`."""
        body = {
            "event": entry.event,
            "rollout_id": memory.id,
            "kind": "cluster",
            "revision": memory.revision,
            "previous_revision": memory.previous,
            "share_percent": entry.share,
            "state": entry.state,
            "reason": entry.reason,
            "change_id": entry.change_id,
        }
        if self._unusable is not None:
            raise Unreachable(self._unusable)
        headers = {"idempotency-key": f"canary:{memory.id}:{entry.number}"}
        try:
            reply = self._http.post(_PATH, json=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            said = f"no Gatehouse answers at {self.url} ({type(error).__name__}): nothing can be recorded."
            raise Unreachable(said) from None
        if reply.status_code >= 400:
            raise Unreachable(f"Gatehouse does not record the step: {_message(reply)}")


class _Error(BaseModel):
    message: str


class _Refusal(BaseModel):
    error: _Error


def _message(reply: httpx2.Response) -> str:
    try:
        return printable(_Refusal.model_validate_json(reply.content).error.message)
    except ValidationError:
        return f"it answers {reply.status_code}."


@dataclass(frozen=True, slots=True)
class Order:
    """A canary that somebody wants: a RayService as it is to be, and what was agreed."""

    id: str
    change_id: str
    by: str
    cluster: Mapping[str, Any]
    serve_config: str
    terms: Terms


class Driver:
    """Drives one RayService. It keeps nothing of its own: another one goes on where it ended."""

    def __init__(self, cluster: Cluster, prometheus: Prometheus, book: Book) -> None:
        self._cluster = cluster
        self._prometheus = prometheus
        self._book = book

    def memory(self) -> Memory | None:
        """What the cluster remembers of its last canary."""
        return remembered(self._cluster.look()[0].memory)

    def now_ms(self) -> int:
        """The API server's clock."""
        return self._cluster.look()[0].at_ms

    def start(self, order: Order) -> Memory:
        """Begin: recorded first, then the second generation's specification and the memory in one write.

        `CanaryError` when something that a way back needs is missing; then nothing was changed.
        """
        seen, service = self._cluster.look()
        before = remembered(seen.memory)
        if before is not None and not before.phase.final:
            if before.id == order.id and before.revision == digest(order.cluster):
                return before  # it began already
            raise CanaryError(f"the canary {before.id} is open ({before.phase.value}). One at a time.")
        earlier = () if before is None else (*before.earlier, before.id)
        if order.id in earlier:
            raise CanaryError(f"there was a canary {order.id} already. Take another name.")
        if before is not None and before.outbox:
            raise CanaryError(
                f"the end of the canary {before.id} is not in the audit log yet: gatehouse canary run --once."
            )
        active = _startable(seen)
        _different(service, order)
        memory = Memory(
            id=order.id,
            change_id=order.change_id,
            by=order.by,
            revision=digest(order.cluster),
            previous=seen.cluster,
            old=active.name,
            terms=order.terms,
            since_ms=seen.at_ms,
            earlier=earlier[-_MOST_NAMES:],
        )
        sight = self._prometheus.look(memory, seen.at_ms, [active], _least(seen.serve_config))
        if isinstance(sight, Blind):
            raise CanaryError(f"no canary without figures: {sight.reason}.")
        if sight.short:
            raise CanaryError(f"the cluster is not whole: replicas are missing: {sight.short[active.name]}.")
        self._book.record(memory, Record(number=1, event="started", share=0, state=memory.phase.value,
                                         reason=f"by {printable(order.by)}", change_id=order.change_id))  # fmt: skip
        if not service.metadata.annotations:
            self._cluster.make_room(seen)
            seen = self._cluster.look()[0]
        last_good = packed(service.spec.rayClusterConfig, service.spec.serveConfigV2)
        self._cluster.write(seen, memory.text(), REST, cluster=order.cluster, last_good=last_good)
        return memory

    def look(self) -> Memory | None:
        """One look and what follows from it; None where there is no canary. `CanaryError`: nothing was changed."""
        seen, service = self._cluster.look()
        read = remembered(seen.memory)
        if read is None:
            return None
        memory = self._recorded(read)
        move = decide(memory, seen, self._sight(memory, seen))
        self._write(seen, service, read, move)
        return move.memory

    def _recorded(self, memory: Memory) -> Memory:
        """The memory without what could be recorded. What could not stays, and nothing goes forward before it is."""
        left = list(memory.outbox)
        while left:
            try:
                self._book.record(memory, left[0])
            except CanaryError:
                break
            left.pop(0)
        return memory if len(left) == len(memory.outbox) else memory.model_copy(update={"outbox": tuple(left)})

    def _sight(self, memory: Memory, seen: Seen) -> Sight | Blind:
        generations = [each for each in (seen.active, seen.pending) if each is not None]
        if memory.phase.final or len(generations) < 2:
            return Blind("there is one generation")
        try:
            least = _least(seen.serve_config)
        except CanaryError as error:
            return Blind(str(error))
        return self._prometheus.look(memory, seen.at_ms, generations, least)

    def _write(self, seen: Seen, service: RayService, read: Memory, move: Move) -> None:
        if move.memory == read and move.options is None and not move.restore:
            return
        if not move.restore:
            self._cluster.write(seen, move.memory.text(), move.options)
            return
        cluster, serve_config = unpacked(service.metadata.annotations.get(LAST_GOOD), move.memory.previous)
        self._cluster.write(seen, move.memory.text(), move.options, cluster=cluster, serve_config=serve_config)

    def hold(self, reason: str, change_id: str) -> Memory:
        """Stay at the present share. It still goes back when the figures say so."""
        return self._by_hand(lambda memory, seen: hold(memory, seen, reason, change_id))

    def resume(self, reason: str, change_id: str) -> Memory:
        """End a hold."""
        return self._by_hand(lambda memory, _: resume(memory, reason, change_id))

    def back(self, reason: str, change_id: str) -> Memory:
        """Give everything back to the generation before: in force at once, recorded with the next look."""
        return self._by_hand(lambda memory, seen: back(memory, seen, reason, change_id))

    def _by_hand(self, change: Callable[[Memory, Seen], Move]) -> Memory:
        for _ in range(_TRIES):
            seen, service = self._cluster.look()
            memory = remembered(seen.memory)
            if memory is None:
                raise CanaryError("there is no canary.")
            if memory.phase.final or memory.phase is Phase.BACK:
                raise CanaryError(f"the canary {memory.id} is {memory.phase.value}: nothing can be changed about it.")
            move = change(memory, seen)
            try:
                self._write(seen, service, memory, move)
            except Changed:
                continue
            return move.memory
        raise CanaryError("somebody else keeps changing the RayService. Try again.")


# --- may it begin ------------------------------------------------------------------------------------------------


def _startable(seen: Seen) -> Generation:
    """The generation that serves; `CanaryError` when a canary could not be held or taken back."""
    if seen.strategy != INCREMENTAL:
        raise CanaryError(f"upgradeStrategy is {seen.strategy}: the overlay has no component canary.")
    if seen.options != REST:
        raise CanaryError(
            f"the options are not at rest: step {seen.options.step}, interval {seen.options.interval_s} s, surge "
            f"{seen.options.surge}; wanted are {REST.step}, {REST.interval_s} s, {REST.surge}."
        )
    if not seen.observed:
        raise CanaryError("the operator has not taken note of the present specification: it does not run, or lags.")
    if seen.active is None or not seen.ready or not seen.active.well:
        raise CanaryError("the RayService is not ready: nothing that one could go back to.")
    if seen.pending is not None:
        raise CanaryError(f"an upgrade is under way: {seen.pending.name} is there as well.")
    if seen.route_problem is not None:
        raise CanaryError(f"{seen.route_problem}. Is the operator's gate RayServiceIncrementalUpgrade on?")
    if (seen.active.traffic, seen.active.capacity) != (100, 100):
        raise CanaryError(f"{seen.active.name} has {seen.active.traffic} % of the requests, "
                          f"{seen.active.capacity} % of the capacity.")  # fmt: skip
    return seen.active


def _different(service: RayService, order: Order) -> None:
    """Refuse what would start nothing, and what a canary cannot take back."""
    if _settings(service.spec.serveConfigV2) != _settings(order.serve_config):
        raise CanaryError(
            "serveConfigV2 differs: the operator may send it to both generations. Apply it apart, before or after."
        )
    _least(order.serve_config)
    if _identity(service.spec.rayClusterConfig) == _identity(order.cluster):
        raise CanaryError(
            f"nothing would start a second generation: neither an image nor the head's annotation {_RELEASE} differs."
        )


def _settings(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise CanaryError("serveConfigV2 is not YAML.") from None


def _identity(cluster: Mapping[str, Any]) -> object:
    """What makes a release: the images of every group, the version of Ray, and the head's annotation."""
    try:
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        templates = [group["template"] for group in groups]
        images = [container["image"] for each in templates for container in each["spec"]["containers"]]
        release = templates[0]["metadata"].get("annotations", {}).get(_RELEASE)
    except (KeyError, TypeError, AttributeError):
        raise CanaryError("rayClusterConfig has no head, no groups or no containers.") from None
    return cluster.get("rayVersion"), images, release


def _least(serve_config: str) -> Mapping[str, int]:
    """The fewest replicas of each deployment; `CanaryError` when it is no configuration of ours."""
    try:
        (application,) = yaml.safe_load(serve_config)["applications"]
        return least_replicas(parse_config(application["args"], "serveConfigV2"))
    except (ConfigError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        said = str(error) if isinstance(error, ConfigError) else "no application of Gatehouse"
        raise CanaryError(f"serveConfigV2: {said}") from None
