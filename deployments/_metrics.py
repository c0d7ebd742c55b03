"""Metrics of replicas on Ray's port, where vLLM's own figures are, too."""

from typing import Any, TypeVar

import ray
from ray.serve import metrics

from deployments.limits import Priority

_Otherwise = TypeVar("_Otherwise")
_TAGS: Any = ("model", "priority")  # Ray's annotation says one name; it takes any number
_MODEL: Any = ("model",)
_ABORTS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
_WAITS_S = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]


class RayQueueMeter:
    """What an engine's replica counts: the queue before it, and requests that were given up."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._counts = dict.fromkeys(Priority, 0)
        self._waiting = metrics.Gauge("gatehouse_queue_waiting", "Requests that wait for a seat.", _TAGS)
        self._seconds = metrics.Histogram("gatehouse_queue_seconds", "From coming to a seat.", _WAITS_S, _TAGS)
        self._refused = metrics.Counter("gatehouse_queue_refused", "Requests that a full queue refused.", _TAGS)
        self._aborts = metrics.Histogram(
            "gatehouse_abort_seconds",
            "From a hang-up to the end of the engine's work on the request.",
            _ABORTS_S,
            _MODEL,
        )

    def waiting(self, priority: Priority, change: int) -> None:
        """The number of waiting requests changed."""
        self._counts[priority] += change
        self._waiting.set(self._counts[priority], self._tags(priority))

    def remind(self) -> None:
        """How many wait, once more: Ray forgets a gauge within 30 s, and a queue that stands still sets none."""
        for priority, count in self._counts.items():
            self._waiting.set(count, self._tags(priority))

    def waited(self, priority: Priority, seconds: float) -> None:
        """A request has its seat."""
        self._seconds.observe(seconds, self._tags(priority))

    def refused(self, priority: Priority) -> None:
        """A request was refused."""
        self._refused.inc(tags=self._tags(priority))

    def aborted(self, seconds: float) -> None:
        """The engine has ended the work on a request that nobody waits for, so long after it learnt of that."""
        self._aborts.observe(seconds, {"model": self._model})

    def _tags(self, priority: Priority) -> dict[str, str]:
        return {"model": self._model, "priority": priority.value}


def queue_meter(model: str, otherwise: _Otherwise) -> RayQueueMeter | _Otherwise:
    """What counts the queue of a replica: Ray where it runs, else `otherwise`."""
    return RayQueueMeter(model) if ray.is_initialized() else otherwise
